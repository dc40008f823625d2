#!/usr/bin/env bash
# DNS: Docker's embedded server at 127.0.0.11, which this Engine may ask from inside the container's
# own network namespace, in front of a server of ours; the modes; names without an answer.
source "$(dirname "$0")/../lib.sh"
world
probes=(dns-query 127.0.0.11 other.example.org dns-query 127.0.0.11 tunnel.example.org
    dns-query "$dns4" tunnel.example.org dns-query "$dns6" tunnel.example.org tcp "$dns4:53" tcp 127.0.0.11:53)
silenced() { # each way to a DNS server fails, and at once
    local server
    for server in 127.0.0.11 "$dns4" "$dns6"; do
        was dns-query "$server tunnel.example.org" 'failed 1?[0-9]{1,3} ms' || return 1
    done
    was dns-query '127.0.0.11 other.example.org' failed && was tcp "$dns4:53" 'failed 1?[0-9]{1,3} ms'
}

scenario 'pinned, the embedded DNS at 127.0.0.11 in front of another server'
run --entrypoint /probe -- "${probes[@]}"
row 'control: without egress-init the embedded DNS answers' was dns-query '127.0.0.11 other.example.org' 'ok 1 records'
row 'control: a question to it arrives at the server behind it' test "$(arrivals dns tunnel)" -ge 3
row 'control: the server itself is reached over UDP and TCP' \
    eval 'was dns-query "$dns6 tunnel.example.org" ok && was tcp "$dns4:53" ok'
before=$(arrivals dns 'tunnel|other|tcp')
for user in node root; do
    run --cap-add NET_ADMIN -- --user "$user" -- /probe "${probes[@]}" get api.example.org:443 cat /etc/resolv.conf
    row "as $user: the listed name was resolved through it" says '^egress-init: firewall ready: 1 name, 1 IPv4 \+ 1 IPv6 '
    row "as $user: the nameserver is 127.0.0.11" says 'nameserver 127.0.0.11'
    row "as $user: the command connects by name" says '^get api.example.org:443 ok'
    row "as $user: port 53 is dead, 127.0.0.11 included" silenced
done
row 'no question of the command arrived at the server' test "$before" -eq "$(arrivals dns 'tunnel|other|tcp')"

scenario '--dns system, forwarders not known'
run --cap-add NET_ADMIN -- --dns system -- /probe "${probes[@]}"
row 'as root: an error that names --user and --dns-upstream' refused '--user.*--dns-upstream'
run --cap-add NET_ADMIN -- --dns system --user node -- /probe dns-query 127.0.0.11 other.example.org \
    dns-query "$dns4" tunnel.example.org get api.example.org:443 get other.example.org:443
row 'as another user: the command runs, with a warning of the tunnel' says 'warning: dns system: .*tunnel'
row 'as another user: the embedded DNS answers the command' was dns-query '127.0.0.11 other.example.org' 'ok 1 records'
row 'as another user: the server behind it is not reached directly' was dns-query "$dns4 tunnel.example.org" failed
row 'as another user: the listed name is reached, another is not' \
    eval 'says "^get api.example.org:443 ok" && says "^get other.example.org:443 failed"'

scenario '--dns-upstream'
before=$(arrivals dns tunnel)
run --cap-add NET_ADMIN -- --dns system --dns-upstream "$dns4" -- /probe get api.example.org:443 \
    dns-query "$dns4" other.example.org dns-query "$dns6" tunnel.example.org
row 'system, as root: the named server may be asked' was dns-query "$dns4 other.example.org" 'ok 1 records'
row 'system, as root: no other may' was dns-query "$dns6 tunnel.example.org" failed
run --cap-add NET_ADMIN -- --dns-upstream "$dns6" --user node -- /probe get api.example.org:443 \
    dns-query "$dns6" tunnel.example.org
row 'pinned: the names come from it' says '^get api.example.org:443 ok'
row 'pinned: then it is closed' was dns-query "$dns6 tunnel.example.org" failed
row 'nothing of the command arrived at it' test "$before" -eq "$(arrivals dns tunnel)"

scenario 'names without an answer'
server silent --network "$net" --ip "$net4.54" -- dns silent
attempts=(tcp "$other4:443")
before=$(arrivals other)
run_on "$net" --cap-add NET_ADMIN -- --dns-upstream "$net4.54" --resolve-timeout 1s --user node -- /probe "${attempts[@]}"
row 'a server that does not answer: 125, the name and the timeout are named' \
    refused 'no address for api\.example\.org: timeout after 1s: no answer from .*--dns-upstream'
row 'after the timeout, and not the default one' eval '((took > 900 && took < 9000))'
row 'the server was asked' test "$(arrivals silent api.example.org)" -gt 0
run --cap-add NET_ADMIN -- --allow nowhere.example.org --user node -- /probe "${attempts[@]}"
row 'a name that does not exist: 125, and it is named' refused 'nowhere\.example\.org'
run --cap-add NET_ADMIN -- --allow nowhere.example.org --allow api.example.org --on-unresolved skip \
    --user node -- /probe get api.example.org:443 "${attempts[@]}"
row '--on-unresolved skip: a warning names it' says 'warning: .*nowhere\.example\.org'
row '--on-unresolved skip: the rest works' says '^get api.example.org:443 ok'
row '--on-unresolved skip: and nothing else does' was tcp "$other4:443" failed
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
