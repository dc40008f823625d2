#!/usr/bin/env bash
# Real clients of a Debian root file system, which is made once: curl, git, pip, Python, Node and ssh reach
# the listed name as ever and fail at once at another:
# sooner than any timeout of theirs, starting them on a loaded machine included.
source "$(dirname "$0")/../lib.sh"
source integration/real_clients.sh
real_clients api.example.org api.example.org:22,9418

net=$id
make_network "$net"
api4=$prefix4.10 api6=$prefix6:10 other4=$prefix4.20 other6=$prefix6:20 dns4=$prefix4.53
server dns --network "$net" --ip "$dns4" -- dns api.example.org="$api4,$api6" other.example.org="$other4,$other6"
web api --network "$net" --ip "$api4" --ip6 "$api6"
web other --network "$net" --ip "$other4" --ip6 "$other6"
hosts=(api.example.org other.example.org)

scenario 'real clients, by name'
run "${mounts[@]}" --user nobody:nogroup --entrypoint /clients/attempt -- "${hosts[@]}"
for client in "${clients[@]}"; do
    row "control: $client reaches both names" eval 'says "^$client api.example.org ok" && says "^$client other.example.org ok"'
done
before=$(arrived_at other)
row 'control: the other server has seen them' test "$before" -ge 7
run "${mounts[@]}" --cap-add NET_ADMIN -- --user nobody -- /clients/attempt "${hosts[@]}"
row 'the clients run' exits 0
for client in "${clients[@]}"; do
    row "$client reaches the listed name" says "^$client api.example.org ok"
    row "$client fails at another at once" \
        says "^$client other.example.org failed $(at_once "$client") ms: .*(resolv|resolution|EAI_AGAIN|No matching distribution)"
done

scenario 'real clients, by address'
run "${mounts[@]}" --cap-add NET_ADMIN --add-host "other.example.org:$other4" -- --user nobody -- /clients/attempt other.example.org
for client in "${clients[@]}"; do
    row "$client fails at another address at once" \
        says "^$client other.example.org failed $(at_once "$client") ms: .*([Rr]efused|[Cc]ould(n't| not) connect|ECONNREFUSED|No matching distribution)"
done
row 'the other server has seen nobody' test "$before" -eq "$(arrived_at other)"
