#!/usr/bin/env bash
# Lists: what is refused before anything of it is applied, and a long one.
source "$(dirname "$0")/../lib.sh"
world
mapfile -t attempts < <(everything)

scenario 'lists that are refused'
positive_control
before=$(arrivals api) before_other=$(arrivals other)
run --cap-add NET_ADMIN -- --allow '*.example.org' --user node -- /probe "${attempts[@]}"
row 'a wildcard: 125, the entry and its place are named' refused '--allow:1:1: `\*\.example\.org`'
run --cap-add NET_ADMIN -- --allow 0.0.0.0/0 --user node -- /probe "${attempts[@]}"
row 'everything: refused' refused '0\.0\.0\.0/0'
run --cap-add NET_ADMIN --env EGRESS_INIT_ALLOW=' ' -- --user node -- /probe "${attempts[@]}"
row 'an empty source: refused, not taken as everything' refused 'EGRESS_INIT_ALLOW'
printf 'api.example.org\n  exa mple.org\nother.example.org:99999\n' >"$work/bad.txt"
run --cap-add NET_ADMIN --volume "$work/bad.txt:/lists/bad.txt:ro" -- --allowlist /lists/bad.txt --user node -- /probe "${attempts[@]}"
row 'a bad list: every error with file, line and column' \
    eval 'refused "/lists/bad.txt" && says "/lists/bad.txt:2:[0-9]+: " && says "/lists/bad.txt:3:[0-9]+: "'
run --cap-add NET_ADMIN -- --allowlist /lists/absent.txt --user node -- /probe "${attempts[@]}"
row 'a list that is not there: 125, and it is named' refused '/lists/absent\.txt'
row 'nothing arrived at any server' test "$before $before_other" = "$(arrivals api) $(arrivals other)"

scenario 'where the entries come from'
mapfile -t one < <(printf '%s\n' tcp "$api4:443" tcp "$other4:443" tcp "$other4:444")
run --cap-add NET_ADMIN --env "OPENAI_ALLOWED_DOMAINS=other.example.org" -- --user node -- /probe "${one[@]}"
row "the predecessor's variable in the place of the file" \
    eval 'was tcp "$other4:443" ok && was tcp "$api4:443" failed'
run --cap-add NET_ADMIN --env EGRESS_INIT_ALLOW=other.example.org:444 --env OPENAI_ALLOWED_DOMAINS=api.example.org -- \
    --user node -- /probe "${one[@]}"
row 'EGRESS_INIT_ALLOW before it, with a port' \
    eval 'was tcp "$other4:444" ok && was tcp "$other4:443" failed && was tcp "$api4:443" failed'
run --cap-add NET_ADMIN --env EGRESS_INIT_ALLOW=other.example.org -- --allow api.example.org --user node -- /probe "${one[@]}"
row '--allow before both' eval 'was tcp "$api4:443" ok && was tcp "$other4:443" failed'
run --cap-add NET_ADMIN -- --allow "$net4.0/24" --allow '!other.example.org' --user node -- /probe "${one[@]}"
row 'a refused name is refused in an allowed network' eval 'was tcp "$api4:443" ok && was tcp "$other4:443" failed'

scenario 'ten thousand entries'
{
    printf 'api.example.org\n'
    for third in $(seq 0 39); do
        for fourth in $(seq 1 125); do
            printf '198.18.%s.%s\n[2001:db8:%s::%s]:443\n' "$third" "$((2 * fourth))" "$third" "$fourth"
        done
    done
} >"$work/long.txt"
row 'the list has them' test "$(wc -l <"$work/long.txt")" -gt 10000
run --cap-add NET_ADMIN --memory 128m --volume "$work/long.txt:/lists/long.txt:ro" -- \
    --allowlist /lists/long.txt --user node -- /probe "${attempts[@]}"
row 'it starts in a container of 128 MiB' says '^egress-init: firewall ready: 1 name, 5001 IPv4 \+ 5001 IPv6 addresses'
fenced
