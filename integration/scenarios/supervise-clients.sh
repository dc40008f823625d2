#!/usr/bin/env bash
# --supervise: real clients through wildcards, with no entry in /etc/hosts, on a network of the user's
# and on the default bridge; and every way out through DNS, with a capture of what leaves the container.
source "$(dirname "$0")/../lib.sh"
source integration/real_clients.sh
real_clients '*.wild.example.org' '*.wild.example.org:22,9418'

public=1
net=$id
make_network "$net"
api4=$prefix4.10 api6=$prefix6:10 other4=$prefix4.20 other6=$prefix6:20 dns4=$prefix4.53 dns6=$prefix6:53
far4=$prefix4.66 far6=$prefix6:66
web api --network "$net" --ip "$api4" --ip6 "$api6"
web other --network "$net" --ip "$other4" --ip6 "$other6"
server dns --network "$net" --ip "$dns4" --ip6 "$dns6" -- \
    dns one.wild.example.org="$api4,$api6" two.wild.example.org="$api4" other.example.org="$other4,$other6"
# The default bridge has private addresses alone, which no name below a wildcard has. So its servers are
# published at addresses of this machine: the gateways of two networks.
published() { # published NAME ADDRESS
    web "$1" --network bridge --publish "$2:22:22" --publish "$2:80:80" --publish "$2:443:443" --publish "$2:9418:9418"
}
near4=$prefix4.1
published near "$near4"
public= make_network "$id-second"
published distant "$prefix4.1"
server bridge-dns --network bridge -- dns one.wild.example.org="$near4" other.example.org="$prefix4.1"
bridge_dns=$(address_of bridge-dns IPAddress)
hosts=(one.wild.example.org other.example.org)
# shellcheck disable=SC2016 # for the inner shell
with_hosts=(/bin/bash -c 'sed "s/^/hosts: /" /etc/hosts /etc/resolv.conf; exec /clients/attempt "$@"' -)

scenario_on() { # scenario_on NETWORK NAMESERVER OTHER WHERE
    scenario "--supervise, $4: real clients through a wildcard"
    run_on "$1" --dns "$2" "${mounts[@]}" --user nobody:nogroup --entrypoint /clients/attempt -- "${hosts[@]}"
    local client before
    for client in "${clients[@]}"; do
        row "control: $client reaches both names" eval 'says "^$client one.wild.example.org ok" && says "^$client other.example.org ok"'
    done
    before=$(arrived_at "$3")
    row 'control: the other server has seen them' test "$before" -ge 7
    run_on "$1" --dns "$2" "${mounts[@]}" --cap-add NET_ADMIN -- --supervise --user nobody -- "${with_hosts[@]}" "${hosts[@]}"
    row 'the clients run' exits 0
    row 'it says that it is in mode proxy' says '^egress-init: firewall ready: .*dns proxy'
    row 'no name of theirs is in /etc/hosts' eval 'says "^hosts: .*localhost" && not says "^hosts: .*example"'
    for client in "${clients[@]}"; do
        row "$client reaches a name below the wildcard" says "^$client one.wild.example.org ok"
        row "$client fails at another name at once" \
            says "^$client other.example.org failed $(at_once "$client") ms: .*(resolv|resolution|EAI_AGAIN|No matching distribution)"
    done
    row 'the other server has seen nobody' test "$before" -eq "$(arrived_at "$3")"
}
scenario_on "$net" "$dns4" other 'a network of the user'
row 'the nameserver was the embedded one' says '^hosts: nameserver 127.0.0.11'
scenario_on bridge "$bridge_dns" distant 'the default bridge'
row 'the nameserver was the one of --dns' says "^hosts: nameserver $(escaped "$bridge_dns")"

# --- what leaves ----------------------------------------------------------------------------------

server far --network "$net" --ip "$far4" --ip6 "$far6" -- serve 80 853 5353
# captured NAME: $capture is what the container $id-NAME sends from now on.
captured() {
    local index interface
    index=$(docker exec "$id-$1" cat /sys/class/net/eth0/iflink)
    interface=$(grep --files-with-matches --line-regexp "$index" /sys/class/net/*/ifindex | cut -d / -f 5)
    capture=$work/capture-$1
    as_root python3 integration/capture.py "$interface" >"$capture" &
    until_true grep --quiet '^capturing' "$capture"
}
# How many lines that has, the first one of which is not a packet. They are there when the container's side is done, but for the reading.
packets() {
    sleep 0.5
    wc --lines <"$capture"
}
ways=(udp txt tcp long zone other-port other-port-tcp tls)
tunnels=("$dns4" "$dns6" "$far4" "$far6" 127.0.0.11)

scenario 'DNS as a way out, without egress-init'
start open "${mounts[@]}" --entrypoint /bin/sleep -- 600
captured open
exec_in open --user nobody -- /clients/tunnel "${tunnels[@]}"
row 'control: a server of DNS is reached' eval 'says "^udp $(escaped "$dns4") answered" && says "^udp $dns6 answered"'
row 'control: and so is the embedded one' says '^udp 127.0.0.11 answered'
row 'control: other ports of another machine are' says "^tls $(escaped "$far4") answered"
row 'control: the questions arrive at the servers' test "$(arrivals dns 'tunnel\.example\.org')" -ge 6
row 'control: the capture sees packets of every kind' \
    eval 'test "$(packets)" -gt 20 && grep --quiet "^udp .* > $(escaped "$dns4") 53" "$capture" &&
        grep --quiet "^tcp .* > $far6 853" "$capture" && grep --quiet "^udp .* > $(escaped "$far4") 5353" "$capture"'
docker rm --force "$id-open" >/dev/null

scenario 'DNS as a way out, with --supervise'
asked=$(arrivals dns) far=$(arrivals far)
start fenced "${mounts[@]}" --cap-add NET_ADMIN -- --supervise --user nobody -- /bin/sleep 600
row 'it starts' until_true logged fenced '^egress-init: firewall ready'
captured fenced
exec_in fenced --user nobody -- /clients/tunnel "${tunnels[@]}"
for way in "${ways[@]}"; do
    row "$way: nothing comes back from anywhere" eval 'not says "^$way [^ ]+ answered" && test 5 -eq "$(grep --count "^$way [^ ]* nothing" <<<"$output")"'
done
for way in udp txt tcp long; do
    row "$way: refused at once, with the extended error Blocked, whatever server it names" \
        test 5 -eq "$(grep --count "^$way [^ ]* nothing: blocked" <<<"$output")"
done
row 'a long name below the wildcard is refused too' says '^below-wildcard .* nothing: refused'
row 'no packet has left the container' test 1 -eq "$(packets)"
row 'no question has arrived at the nameserver' test "$asked" -eq "$(arrivals dns)"
row 'nothing has arrived at the other machine' test "$far" -eq "$(arrivals far)"
exec_in fenced --user nobody -- /bin/bash -c 'getent hosts two.wild.example.org && curl --silent --fail http://two.wild.example.org/hello'
row 'control: a name below the wildcard is answered, and reached' exits 0
row 'control: by packets, which the capture sees' \
    eval 'test "$(packets)" -gt 1 && grep --quiet "^tcp .* > $(escaped "$api4") 80" "$capture"'
row 'control: and by a question that arrives at the nameserver' test 0 -lt "$(arrivals dns 'two\.wild')"
exec_in fenced -- /egress-init status
row 'status has counted the refused ones' says '^queries .* [1-9][0-9]* refused'
