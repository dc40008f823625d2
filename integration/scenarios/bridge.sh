#!/usr/bin/env bash
# A network of the user's, with IPv4, IPv6 and Docker's embedded DNS at 127.0.0.11.
source "$(dirname "$0")/../lib.sh"
world
mapfile -t attempts < <(everything)

scenario 'docker run --cap-add=NET_ADMIN on a network with IPv4 and IPv6'
positive_control
before=$(arrivals other)
run --cap-add NET_ADMIN -- --user node -- /probe "${attempts[@]}"
row 'the command runs' exits 0
fenced
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
