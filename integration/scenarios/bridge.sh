#!/usr/bin/env bash
# Networks: Docker's default bridge, a network of the user's, one that is connected later.
source "$(dirname "$0")/../lib.sh"
world
mapfile -t attempts < <(everything)

scenario 'a network of the user with IPv4 and IPv6'
positive_control
before=$(arrivals other)
run --cap-add NET_ADMIN -- --user node -- /probe "${attempts[@]}" \
    name api.example.org get api.example.org:443 get other.example.org:443
row 'the command runs' exits 0
row 'egress-init says in one line that it is ready' says '^egress-init: firewall ready: 1 name, 1 IPv4 \+ 1 IPv6 '
fenced
row 'the name is in /etc/hosts with both addresses' says "^name api.example.org ok .*$(escaped "$api6")"
row 'the C library finds the listed name' says '^get api.example.org:443 ok'
row 'and no other' says '^get other.example.org:443 failed'
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"

scenario 'the default bridge, with --dns'
server near --network bridge -- serve 80 443 444
server far --network bridge -- serve 80 443 444
near4=$(address_of near IPAddress) far4=$(address_of far IPAddress)
server resolver --network bridge -- dns api.example.org="$near4" other.example.org="$far4"
resolver4=$(address_of resolver IPAddress)
attempts=(tcp "$near4:443" tcp "$near4:444" udp "$near4:443" tcp "$far4:443" udp "$far4:443"
    dns-query "$resolver4" other.example.org tcp "$resolver4:53")
run_on bridge --dns "$resolver4" --entrypoint /probe -- "${attempts[@]}"
row 'control: without egress-init everything is reached' not says ' failed '
far=$(arrivals far) resolver=$(arrivals resolver)
run_on bridge --dns "$resolver4" --cap-add NET_ADMIN -- --user node -- /probe "${attempts[@]}" \
    cat /etc/resolv.conf
row 'the command runs' exits 0
row 'the nameserver is the one of --dns' says "nameserver $(escaped "$resolver4")"
row 'the listed server is reached' was tcp "$near4:443" ok
row 'another port of it is not, nor UDP' eval 'was tcp "$near4:444" failed && was udp "$near4:443" failed'
row 'another server is not' eval 'was tcp "$far4:443" failed && was udp "$far4:443" failed'
row 'nor the nameserver, over UDP or TCP' \
    eval 'was dns-query "$resolver4 other.example.org" failed && was tcp "$resolver4:53" failed'
row 'nothing arrived at the other server' test "$far" -eq "$(arrivals far)"
row 'the nameserver was asked for the listed name and nothing else' \
    test $((resolver + 2)) -eq "$(arrivals resolver)"
row 'it was asked for A and AAAA' logged resolver '^asked udp api.example.org AAAA'

scenario 'the default bridge, with the resolv.conf of the host'
# Nothing is asked: the list has an address, so that no packet goes to the host's nameservers.
start_on plain bridge --cap-add NET_ADMIN -- --allow "$near4" --dns system --user node -- \
    /probe cat /etc/resolv.conf cat /etc/beacon-code/firewall.ready wait
row 'it starts' until_true logged plain '^cat /etc/beacon-code/firewall.ready ok'
rules=$(ruleset plain)
heard plain
open_to_nameservers() {
    local server found=0
    while read -r server; do
        found=1
        grep --quiet --fixed-strings "$server . udp . 53" <<<"$rules" || return 1
    done < <(sed -n 's/.*nameserver //p' <<<"$output")
    ((found))
}
row 'with --dns system port 53 is open to those nameservers' open_to_nameservers
row 'and to no others' test "$(grep --count 'udp . 53' <<<"$rules")" -eq "$(grep --count "nameserver [0-9a-f]" <<<"$output")"

scenario 'a network that is connected after the start'
start_on lonely bridge --cap-add NET_ADMIN -- --allow "$near4" --user node -- /probe wait
row 'the agent starts' until_true logged lonely '^egress-init: firewall ready'
docker network connect "$net" "$id-lonely"
mapfile -t attempts < <(everything)
before=$(arrivals api) before_other=$(arrivals other)
exec_in lonely --user 1000 -- /probe "${attempts[@]}" tcp "$near4:443"
row 'the listed server is still reached' was tcp "$near4:443" ok
row 'the servers of the new network are not, IPv4 and IPv6' \
    eval 'blocked tcp api 443 && blocked tcp other 443 && blocked udp api 443 && blocked udp other 443'
row 'nothing arrived there' \
    test "$before $before_other" = "$(arrivals api) $(arrivals other)"
