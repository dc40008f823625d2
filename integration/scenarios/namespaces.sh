#!/usr/bin/env bash
# Whose network is it: none, another container's, the host's; and sentinels of somewhere else.
source "$(dirname "$0")/../lib.sh"
world
mapfile -t attempts < <(everything)
sentinel=/etc/beacon-code/firewall.ready

scenario '--network none'
run_on none --cap-add NET_ADMIN -- --allow "$api4" --user node -- /probe tcp "$api4:443" listen 8080 \
    tcp 127.0.0.1:8080 cat "$sentinel" status CapBnd
row 'a list of addresses: it starts, with a sentinel and nothing kept' \
    eval 'exits 0 && says "^cat $sentinel ok" && says "^status CapBnd ok 0000000000000000"'
row 'loopback works' was tcp 127.0.0.1:8080 ok
row 'the address is not there' was tcp "$api4:443" failed
run_on none --cap-add NET_ADMIN -- --user node -- /probe "${attempts[@]}"
row 'a list of names: 125, and it says that there is no route' refused 'no route to another host'
start_on isolated none --cap-add NET_ADMIN -- --allow "$api4" --user node -- /probe wait
row 'another one starts' until_true logged isolated '^egress-init: firewall ready'
exec_in isolated --user 1000 -- /egress-init check
row 'check in it verifies' exits 0

scenario '--network container:X'
start pod --entrypoint /probe -- wait
shared=container:$id-pod
run_on "$shared" --entrypoint /probe -- "${attempts[@]}"
row 'control: before the first start everything is reached' all_open
before=$(arrivals other)
start_on first "$shared" --cap-add NET_ADMIN -- --allow "$api4" --allow "[$api6]" --user node -- /probe "${attempts[@]}" wait
until_true logged first "^udp $(escaped "[$other6]:443")" || true
heard first
fenced 'first'
exec_in pod -- /probe "${attempts[@]}"
row 'the container whose network it is is fenced too' eval 'reached tcp api 443 && fenced_other'
run_on "$shared" -- check -- /probe "${attempts[@]}"
row 'a third without a sentinel of its own: check refuses' eval 'exits 1 && ! says "^tcp"'
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
run_on "$shared" --cap-add NET_ADMIN -- --allow "$other4" --allow "[$other6]" --user node -- /probe "${attempts[@]}"
row 'a second start replaces the policy' eval 'reached tcp other 443 && blocked tcp api 443 && blocked udp other 443'
exec_in first --user 1000 -- /probe "${attempts[@]}"
row 'for the first container as well' eval 'reached tcp other 443 && blocked tcp api 443'
exec_in first --user 1000 -- /egress-init check
row 'where check still verifies' exits 0
before_api=$(arrivals api) before=$(arrivals other)
run_on "$shared" --cap-add NET_ADMIN -- --allow nowhere.example.org --dns-upstream "$dns4" --user node -- /probe "${attempts[@]}"
row 'a start that fails' refused 'nowhere\.example\.org'
exec_in first --user 1000 -- /probe "${attempts[@]}" dns-query "$dns4" tunnel.example.org
row 'leaves the network locked, DNS included' \
    eval 'blocked tcp api 443 && blocked tcp other 443 && was dns-query "$dns4 tunnel.example.org" failed'
row 'nothing arrived at either server' test "$before_api $before" = "$(arrivals api) $(arrivals other)"

scenario 'two starts at once in one network'
server silent --network "$net" --ip "$net4.54" -- dns silent
start_on slow "$shared" --cap-add NET_ADMIN -- --dns-upstream "$net4.54" --resolve-timeout 4s \
    --on-unresolved skip --allow nowhere.example.org --allow "$api4" --allow "[$api6]" --user node -- /probe exit 0
row 'the first waits for DNS' until_true logged silent '^asked'
run_on "$shared" --cap-add NET_ADMIN -- --allow "$other4" --allow "[$other6]" --user node -- /probe "${attempts[@]}"
first_runs=$(docker inspect --format '{{.State.Running}}' "$id-slow")
row 'the second waits for the first to end' test "$first_runs" = false
row 'then its policy is the one that holds' eval 'exits 0 && reached tcp other 443 && blocked tcp api 443'
ended slow
row 'the first was not disturbed' exits 0

scenario 'two containers at once on one network'
before=$(arrivals api 443) before_other=$(arrivals other 443)
start one --cap-add NET_ADMIN -- --user node -- /probe "${attempts[@]}" exit 0
start two --cap-add NET_ADMIN -- --allow other.example.org --user node -- /probe "${attempts[@]}" exit 0
ended one
fenced 'one'
ended two
row 'two: its own server is reached, the other is not' \
    eval 'reached tcp other 443 && blocked tcp other 444 && blocked tcp api 443'
row 'each server saw its own container alone' \
    test "$((before + 2)) $((before_other + 2))" = "$(arrivals api 443) $(arrivals other 443)"

scenario 'a sentinel of somewhere else'
run --cap-add NET_ADMIN -- --user node -- /probe exit 0
start source --cap-add NET_ADMIN -- --user node -- /probe cat "$sentinel" wait
row 'a container is fenced' until_true logged source "^cat $sentinel ok"
docker cp "$id-source:$sentinel" "$work/firewall.ready" 2>/dev/null || touch "$work/firewall.ready"
start target --entrypoint /probe -- wait
docker cp "$work/firewall.ready" "$id-target:$sentinel"
exec_in target -- /egress-init check -- /probe "${attempts[@]}"
row 'copied into another container it does not verify' eval 'exits 1 && says "another network namespace" && ! says "^tcp"'
mkdir "$work/baked"
cp "$work/firewall.ready" "$work/baked/"
printf 'FROM %s\nCOPY --chown=0:0 firewall.ready %s\n' "$image" "$sentinel" >"$work/baked/Dockerfile"
build_image "$id-baked" "$work/baked"
run_image=$id-baked
run --entrypoint /egress-init -- check -- /probe "${attempts[@]}"
row 'baked into an image it does not verify' eval 'exits 1 && says "another network namespace" && ! says "^tcp"'
run -- --user node -- /probe "${attempts[@]}" cat "$sentinel"
row 'a start that fails takes it away, and does not run the command' refused 'NET_ADMIN'
start_on baked "$net" -- --user node -- /probe exit 0
ended baked
docker cp "$id-baked:$sentinel" "$work/still-there" 2>/dev/null || true
row 'after that it is gone' test ! -e "$work/still-there"
run --cap-add NET_ADMIN -- --user node -- /probe "${attempts[@]}"
row 'a start that succeeds replaces it' exits 0
fenced
run_image=

# Without NET_ADMIN, so that this machine keeps its network even where the refusal is broken: what
# it says then is that the capability is missing.
host_network_is_refused() {
    scenario '--network host'
    run_on host -- --allow "$api4" --user node -- /probe tcp "$api4:443"
    row 'refused, and --allow-host-network is named' refused '--allow-host-network'
    run_on host --entrypoint /egress-init -- apply --allow "$api4"
    row 'so is apply' refused '--allow-host-network'
    row 'the host has no table of ours' \
        not grep --quiet egress_init <<<"$(as_root nft list tables 2>/dev/null)"
}
run --entrypoint /egress-init -- --help
if says '--allow-host-network'; then
    host_network_is_refused
fi
