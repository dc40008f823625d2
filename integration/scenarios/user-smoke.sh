#!/usr/bin/env bash
# docker/smoke, which users call in their CI: it passes on a good image, and on no other.
source "$(dirname "$0")/../lib.sh"
world

smoke() {
    code=0
    output=$(timeout 120 docker/smoke "$@" --network "$net" --dns "$dns4" 2>&1) || code=$?
}
# variant NAME: an image made from the usual one, by the Dockerfile lines on standard input.
variant() {
    { printf 'FROM %s\n' "$image" && cat; } >"$work/$1.Dockerfile"
    build_image "$id-$1" "$work" --file "$work/$1.Dockerfile"
}

scenario 'docker/smoke on an image of the user'
variant good <<<'ENTRYPOINT ["/egress-init", "--user", "node", "--"]'
smoke "$id-good"
row 'a good image passes' exits 0
row 'with ten rows, all of them ok' test 10 -eq "$(grep --count ' ok$' <<<"$output")"
code=0
output=$(timeout 120 docker/smoke "$id-good" --env EGRESS_INIT_ALLOW=192.0.2.9 2>&1) || code=$?
row 'and so it does in a network that it makes itself' exits 0
variant system <<<'ENTRYPOINT ["/egress-init", "--user", "node", "--dns", "system", "--"]'
smoke "$id-system"
row 'with --dns system it passes with a warning' eval 'exits 0 && says "a way out +warning"'
variant supervised <<<'ENTRYPOINT ["/egress-init", "--supervise", "--user", "node", "--"]'
smoke "$id-supervised" --env 'EGRESS_INIT_ALLOW=*.example.org api.example.org'
row 'with --supervise it passes' eval 'exits 0 && test 10 -eq "$(grep --count " ok$" <<<"$output")"'
smoke "$id-good" --env EGRESS_INIT_ALLOW=nowhere.example.org
row 'a list with a name that does not exist is found' eval 'exits 1 && says "firewall verifies +WRONG"'
variant bypassed <<'DOCKERFILE'
ENTRYPOINT ["/egress-init", "--user", "node", "--"]
ENV BEACON_ALLOW_UNSAFE_NO_FIREWALL=1
DOCKERFILE
smoke "$id-bypassed"
row 'the emergency bypass in the image is found' eval 'exits 1 && says "check fails +WRONG"'
variant elsewhere <<<'ENTRYPOINT ["/egress-init", "check", "--"]'
smoke "$id-elsewhere"
row 'an entrypoint that makes no firewall is found' eval 'exits 1 && says "firewall verifies +WRONG"'
row 'no container is left of it' test -z "$(docker ps --all --format "{{.Image}}" | grep "^$id-" || true)"
