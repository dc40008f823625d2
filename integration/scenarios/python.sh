#!/usr/bin/env bash
# docker/python.Dockerfile on a Debian made on the spot, with a small service of Python in it.
source "$(dirname "$0")/../lib.sh"
source integration/debian.sh

world
service=$id-service
debian_base services "$id-base"
context=$work/context
mkdir -p "$context/service"
build_programs "$context"
printf 'FROM scratch\nCOPY egress-init /\n' >"$work/egress-init.Dockerfile"
build_image "$id-egress-init" "$context" --file "$work/egress-init.Dockerfile"
printf 'api.example.org\n' >"$context/allowed_domains.txt"
: >"$context/requirements.txt"
cat >"$context/service/__main__.py" <<'PYTHON'
import os
import pathlib
import socket
import sys
import threading


def attempt(to):
    host, port = to.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        return "ok"
    except OSError as error:
        return f"failed {error}"


def echo(port):
    listener = socket.create_server(("", port))
    while True:
        connection, _ = listener.accept()
        connection.sendall(connection.recv(1))


for port in (8001, 8002):
    threading.Thread(target=echo, args=[port], daemon=True).start()
print(f"service as {os.getuid()}:{os.getgid()} with {sys.prefix}")
print("\n".join(line for line in pathlib.Path("/proc/self/status").read_text().split("\n") if line.startswith("Cap")))
for to in sys.argv[1:]:
    print(f"get {to} {attempt(to)}")
print("serving", flush=True)
if os.environ.get("ONCE") is None:
    threading.Event().wait()
PYTHON
build_image "$service" "$context" --file docker/python.Dockerfile --network none \
    --build-arg BASE="$id-base" --build-arg EGRESS_INIT="$id-egress-init"

run_image=$service
everywhere=(api.example.org:443 "$api4:444" "$other4:443" other.example.org:443)
four() { # the four connections of $everywhere: ok or failed each
    says "^get api.example.org:443 $1" && says "^get $(escaped "$api4"):444 $2" &&
        says "^get $(escaped "$other4"):443 $3" && says "^get other.example.org:443 $4"
}

scenario 'docker/python.Dockerfile'
run --env ONCE=1 --entrypoint python3 -- -m service "${everywhere[@]}"
row 'control: without egress-init everything is reached' four ok ok ok ok
before=$(arrivals other)
start service --cap-add NET_ADMIN -- python3 -m service "${everywhere[@]}"
row 'the service starts' until_true logged service '^serving'
heard service
row 'it reaches the listed server alone' four ok failed failed failed
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
row 'it is uid 1000, in its virtual environment, without capabilities' \
    eval 'says "^service as 1000:1000 with /opt/venv" && test 5 -eq "$(grep --count "^Cap.*:	0000000000000000" <<<"$output")"'
server open --network "$net" --entrypoint /probe -- serve 8001 8002
open=$(address_of open IPAddress) address=$(address_of service IPAddress)
connects() { grep --quiet ' ok' <<<"$(docker exec "$id-other" /probe tcp "$1" 2>&1)"; }
row 'control: both ports of a container without egress-init are reached' eval 'connects "$open:8001" && connects "$open:8002"'
row 'port 8001 of the service is' connects "$address:8001"
row 'the other port is not' not connects "$address:8002"
healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$id-service") == healthy ]]; }
row 'it becomes healthy' eval 'until_true healthy || until_true healthy'
run --env ONCE=1 --env EGRESS_INIT_SUPERVISE=1 --env 'EGRESS_INIT_ALLOW=api.example.org *.example.com' \
    --cap-add NET_ADMIN -- python3 -m service "${everywhere[@]}"
row 'with EGRESS_INIT_SUPERVISE=1 and a wildcard in the list the same' four ok failed failed failed
run --env ONCE=1 -- python3 -m service "${everywhere[@]}"
row 'without NET_ADMIN: 125, what to add, and no service' eval 'exits 125 && says "cap-add=NET_ADMIN" && not says "^service"'
