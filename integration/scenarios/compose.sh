#!/usr/bin/env bash
# docker/compose.yaml itself, brought up: the executor reaches the main application and nothing
# else, is reached by it and by nobody else, and has the limits that the file states.
source "$(dirname "$0")/../lib.sh"

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    die 'neither docker compose nor docker-compose is here; type: sudo apt-get install docker-compose'
fi
compose() { "${compose[@]}" --project-name "$id" --file docker/compose.yaml --file "$work/test.yaml" "$@" 2>"$work/compose.log"; }

[[ ${INTEGRATION_IMAGE:-} ]] || make_image
# An address range that is free: Docker says so by making a network in it, and Compose takes it over.
make_network "$id-free" && docker network rm "$id-free" >/dev/null
net=${id}_executors main=$prefix4.10 other=$prefix4.20 executor=

# What Compose made has a label of its own, and goes last: our servers are in its network.
trap 'left=$?; set +e; remove_labelled "$id"; remove_labelled "com.docker.compose.project=$id"; (exit "$left"); finish' EXIT
cat >"$work/test.yaml" <<YAML
services:
  main-app:
    entrypoint: [/probe, serve, "50051", "443"]
YAML
printf 'a secret\n' >"$work/token"
chmod 0400 "$work/token" && as_root chown 1000:1000 "$work/token" && chmod a+x "$work"
attempts=(
    get main-app:50051 tcp "$main:443" udp "$main:50051"
    tcp "$other:50051" udp "$other:50051" tcp "$prefix4.1:22" name other
)
inside=(
    write /x x write /etc/x x write /etc/beacon-code/x x write /tmp/x x
    status Uid status Gid status Groups status NoNewPrivs
    status CapInh status CapPrm status CapEff status CapBnd status CapAmb
    cat /run/secrets/executor-token cat /proc/self/mounts
)
export MAIN_APP_IMAGE=$image EXECUTOR_IMAGE=$image EXECUTOR_TOKEN_FILE=$work/token
export MAIN_APP_ADDRESS=$main EXECUTOR_SUBNET=$prefix4.0/24
export EXECUTOR_COMMAND="/probe listen 8001 ${attempts[*]} ${inside[*]} wait"

compose up --detach || die "$(cat "$work/compose.log")"
executor=$(compose ps --quiet executor) main_app=$(compose ps --quiet main-app)
server other --network "$net" --ip "$other" --network-alias other -- serve 50051 80
heard_all() { output=$(docker logs "$executor" 2>&1) && [[ $(grep --count '^cat /proc/self/mounts' <<<"$output") -eq $1 ]]; }
inspect() { docker inspect --format "$1" "$executor"; }

scenario 'docker/compose.yaml: what the executor reaches'
control=$(timeout 60 docker run --rm "${labels[@]}" --network "$net" --entrypoint /probe "$image" \
    get main-app:50051 tcp "$main:443" udp "$main:50051" tcp "$other:50051" udp "$other:50051" get other:50051 2>&1)
row 'control: without egress-init everything is reached' test 6 -eq "$(grep --count ' ok' <<<"$control")"
row 'the executor starts' until_true heard_all 1
row 'the main application is reached by its name' says "^get main-app:50051 ok $(escaped "$main:50051")"
row 'another port of it is not' was tcp "$main:443" 'failed [0-9]{1,3} ms'
row 'nor UDP' was udp "$main:50051" 'failed [0-9]{1,3} ms'
row 'nobody else is, over TCP or UDP' eval 'was tcp "$other:50051" failed && was udp "$other:50051" failed'
row 'nothing arrived there but the control' test 3 -eq "$(arrivals other)"

scenario 'docker/compose.yaml: who reaches the executor'
server open --network "$net" --network-alias open -- serve 8001
from() { docker exec "$1" /probe get "$2" 2>&1; }
connects() { grep --quiet " ok " <<<"$(from "$@")"; }
address=$(inspect "{{(index .NetworkSettings.Networks \"$net\").IPAddress}}")
row 'control: another container reaches port 8001 where no egress-init is' connects "$id-other" open:8001
row 'the main application reaches port 8001' connects "$main_app" executor:8001
row 'another container does not' not connects "$id-other" "$address:8001"

scenario 'docker/compose.yaml: what the command has, and its limits'
value() { says "^status $1 ok $2\$"; }
row 'it is uid and gid 1000, without other groups' \
    eval 'value Uid "1000 1000 1000 1000" && value Gid "1000 1000 1000 1000" && value Groups "(1000)?"'
row 'it has no capability in any of the five sets' test 5 -eq "$(grep --count --extended-regexp '^status Cap.{3} ok 0+$' <<<"$output")"
row 'and gains none' value NoNewPrivs 1
row 'it writes to /tmp' says '^write /tmp/x ok'
row 'not to the root file system, nor beside the sentinel' \
    eval 'says "^write /x failed.*Read-only" && says "^write /etc/x failed.*Read-only" && says "^write /etc/beacon-code/x failed.*denied"'
row '/tmp is a noexec tmpfs' says '^tmpfs /tmp tmpfs rw,nosuid,nodev,noexec'
row 'its secret is a file' says '^cat /run/secrets/executor-token ok a secret'
row 'memory 512 MiB without swap, one processor, 128 processes' test '536870912 536870912 1000000000 128' = \
    "$(inspect '{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.NanoCpus}} {{.PidsLimit}}{{end}}')"
row 'the log is rotated' test '20m 5' = \
    "$(inspect '{{with .HostConfig.LogConfig.Config}}{{index . "max-size"}} {{index . "max-file"}}{{end}}')"
row 'no new privileges, from the first process on' test '[no-new-privileges:true]' = "$(inspect '{{.HostConfig.SecurityOpt}}')"
row 'started with five capabilities' test '[KILL NET_ADMIN SETGID SETPCAP SETUID] [ALL]' = \
    "$(inspect '{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}' | sed 's/CAP_//g')"
healthy() { [[ $(inspect '{{.State.Health.Status}}') == healthy ]]; }
row 'it becomes healthy' eval 'until_true healthy || until_true healthy'
verifies() { docker exec "$executor" /egress-init check; } >/dev/null 2>&1
row 'check verifies' verifies

scenario 'docker/compose.yaml: the command dies, the container is stopped'
first=$(inspect '{{.State.Pid}}')
as_root kill -KILL "$first"
row 'it starts again by itself' until_true heard_all 2
row 'behind its firewall' test 2 -eq "$(grep --count --extended-regexp "^tcp $(escaped "$other"):50051 failed" <<<"$output")"
row 'and reaches the main application' test 2 -eq "$(grep --count '^get main-app:50051 ok' <<<"$output")"
row 'check verifies' verifies
as_root nsenter --target "$(inspect '{{.State.Pid}}')" --net nft flush ruleset
row 'and does not when the rules are gone' not verifies
docker stop --time 8 "$executor" >/dev/null
row 'docker stop reaches the command: 143' test 143 = "$(inspect '{{.State.ExitCode}}')"

scenario 'docker/compose.yaml with EXECUTOR_SUPERVISE=1'
before=$(arrivals other)
EXECUTOR_SUPERVISE=1 compose up --detach executor || die "$(cat "$work/compose.log")"
executor=$(compose ps --quiet executor)
row 'the executor starts' until_true heard_all 1
row 'with egress-init above it' says '^egress-init: firewall ready: .*dns proxy'
row 'the main application is reached by its name' says "^get main-app:50051 ok $(escaped "$main:50051")"
row 'another port of it is not, nor UDP' eval 'was tcp "$main:443" failed && was udp "$main:50051" failed'
row 'nobody else is, over TCP or UDP' eval 'was tcp "$other:50051" failed && was udp "$other:50051" failed'
row 'nothing arrived there' test "$before" -eq "$(arrivals other)"
row 'it has no capability in any of the five sets' test 5 -eq "$(grep --count --extended-regexp '^status Cap.{3} ok 0+$' <<<"$output")"
row 'it becomes healthy' eval 'until_true healthy || until_true healthy'
answers() { docker exec "$executor" /egress-init status; } >/dev/null 2>&1
row 'status answers' answers
docker stop --time 8 "$executor" >/dev/null
row 'docker stop reaches the command: 143' test 143 = "$(inspect '{{.State.ExitCode}}')"

docker rm --force "$id-other" "$id-open" >/dev/null
compose down --volumes --timeout 2 || die "$(cat "$work/compose.log")"
row 'nothing is left of it' test -z "$(docker ps --all --quiet --filter "label=com.docker.compose.project=$id")"
