#!/usr/bin/env bash
# Connections from outside: a published port, from the host and from a neighbour.
source "$(dirname "$0")/../lib.sh"
world
# service NAME OPTIONS...: the command serves 8000 and 8001, of which Docker publishes both.
service() {
    local name=$1
    shift
    start "$name" --cap-add NET_ADMIN --publish 127.0.0.1::8000 --publish 127.0.0.1::8001 "$@" \
        -- "${inbound[@]}" --user node -- /probe listen 8000 listen 8001 tcp "$other4:443" wait
    until_true logged "$name" "^tcp $(escaped "$other4:443")"
}
published() { docker port "$id-$1" "$2" | sed -n 's/^127/127/p'; }
# from_host NAME PORT: an octet there and back through the published port.
from_host() {
    local at answer=
    at=$(published "$1" "$2")
    exec 7<>"/dev/tcp/${at%:*}/${at#*:}" || return 1
    printf x >&7
    IFS= read -r -n 1 -t 2 answer <&7 || true
    exec 7>&-
    [[ $answer == x ]]
} 2>/dev/null
neighbours() { # neighbours NAME: what a container beside it gets from 8000 and 8001
    local four six
    four=$(address_of "$1" IPAddress) six=$(address_of "$1" GlobalIPv6Address)
    service4=$four service6=$six
    run --entrypoint /probe -- tcp "$four:8000" tcp "[$six]:8000" tcp "$four:8001" tcp "[$six]:8001" \
        udp "$four:8000" udp "$four:8001"
}
closed() { was "$1" "$service4:$2" failed && { [[ $1 == udp ]] || was "$1" "[$service6]:$2" failed; }; }

scenario 'without --inbound'
inbound=()
start open --publish 127.0.0.1::8000 --publish 127.0.0.1::8001 --entrypoint /probe -- listen 8000 listen 8001 cat /etc/hosts wait
row 'the service is up' until_true logged open '^cat'
row 'control: the host connects through both published ports' eval 'from_host open 8000 && from_host open 8001'
neighbours open
row 'control: so does a neighbour, on all of them' not says ' failed '
row 'the service is up' service none
row 'the host does not get in through a published port' eval '! from_host none 8000 && ! from_host none 8001'
neighbours none
row 'nor does a neighbour, IPv4, IPv6 or UDP' eval 'closed tcp 8000 && closed tcp 8001 && closed udp 8000'
row 'nothing arrived at the command' not logged none '^arrived'

scenario '--inbound 8000'
inbound=(--inbound 8000)
row 'the service is up' service port
row 'the host gets in through the published port' from_host port 8000
row 'and through no other' not from_host port 8001
neighbours port
row 'so does a neighbour, IPv4 and IPv6' reached tcp service 8000
row 'on that port and over TCP alone' eval 'closed tcp 8001 && closed udp 8000 && closed udp 8001'
row 'nothing else arrived at the command' not logged port '^arrived (udp|tcp 8001)'
row 'nothing more gets out' logged port "^tcp $(escaped "$other4:443") failed"

scenario '--inbound 8000 for one neighbour'
inbound=(--inbound "8000@$net4.77/32")
row 'the service is up' service narrow
neighbours narrow
row 'another neighbour does not get in' eval 'closed tcp 8000 && closed tcp 8001'
run --ip "$net4.77" --entrypoint /probe -- tcp "$service4:8000" tcp "$service4:8001"
row 'that one does, on that port' eval 'was tcp "$service4:8000" ok && was tcp "$service4:8001" failed'
row 'the host does not, through the published port' not from_host narrow 8000
