#!/usr/bin/env bash
# docker/stack.yaml itself, on a Swarm of this one node: deployed, its secret rotated without a gap, a
# bad update rolled back. The Swarm is made for it and dissolved where there was none.
source "$(dirname "$0")/../lib.sh"

swarm_is() { [[ $(docker info --format '{{.Swarm.LocalNodeState}}') == "$1" ]]; }
leave=
stack_gone() { [[ -z $(docker ps --all --quiet --filter "label=com.docker.stack.namespace=$id") ]]; }
dissolve() {
    docker stack rm "$id"
    until_true stack_gone || until_true stack_gone
    remove_labelled "$id"
    docker secret rm "$id-token-1" "$id-token-2"
    docker network rm "$id"
    [[ -z $leave ]] || docker swarm leave --force
    # Made for a Swarm's services, and not taken away with it.
    [[ $leave != bridge ]] || docker network rm docker_gwbridge
} >/dev/null 2>&1
trap 'left=$?; set +e; dissolve; (exit "$left"); finish' EXIT
# One run at a time on this machine, or the one that made the Swarm takes it from the other.
exec {lock}</tmp
flock "$lock"
if ! swarm_is active; then
    leave=swarm
    docker network inspect docker_gwbridge >/dev/null 2>&1 || leave=bridge
    docker swarm init --advertise-addr 127.0.0.1 >/dev/null
fi

[[ ${INTEGRATION_IMAGE:-} ]] || make_image
net=$id
for third in $(shuf --input-range 1-254); do
    subnet=10.214.$third
    ! docker network create --driver overlay --attachable --subnet "$subnet.0/24" "$net" >/dev/null 2>&1 || break
done
server main-app --network "$net" -- serve 50051 443 80
server other --network "$net" -- serve 50051 80
main=$(address_of main-app IPAddress) other=$(address_of other IPAddress)
for version in 1 2; do
    printf 'secret %s\n' "$version" | docker secret create "$id-token-$version" - >/dev/null
done

attempts=(get main-app:50051 tcp "$main:443" udp "$main:50051" tcp "$other:50051" udp "$other:50051")
inside=(
    write /x x write /etc/x x write /tmp/x x write /run/egress-init/ready/firewall.ready x
    status Uid status NoNewPrivs status CapInh status CapPrm status CapEff status CapBnd status CapAmb
    cat /proc/self/mounts cat /run/secrets/executor-token
)
export EXECUTOR_IMAGE=$image MAIN_APP_ADDRESS=$main EXECUTOR_SUBNET=$subnet.0/24
export EXECUTOR_NETWORK=$net TOKEN_NAME=$id-token TOKEN_VERSION=1
export EXECUTOR_COMMAND="/probe listen 8001 listen 8002 ${attempts[*]} ${inside[*]} wait"
deploy() {
    docker stack deploy --resolve-image never --compose-file docker/stack.yaml "$id" >"$work/deploy.log" 2>&1 ||
        die "$(cat "$work/deploy.log")"
}
executors() { docker ps --quiet --filter "label=com.docker.swarm.service.name=${id}_executor" --filter health=healthy; }
two_healthy() { [[ $(executors | wc --lines) -eq 2 ]]; }
service() { docker service inspect --format "$1" "${id}_executor"; }
# patiently COMMAND...: as until_true, for a minute and a half.
patiently() {
    local _
    for _ in $(seq 9); do
        until_true "$@" && return
    done
    return 1
}

scenario 'docker/stack.yaml: deployed'
run_on "$net" --add-host "main-app:$main" --entrypoint /probe -- "${attempts[@]}"
row 'control: without egress-init everything is reached' test 5 -eq "$(grep --count ' ok' <<<"$output")"
# This machine is not in an overlay network: what arrived is what the log of the server says.
arrived() { logs other | grep --count '^arrived' || true; }
before=$(arrived)
deploy
row 'two executors become healthy' patiently two_healthy
executor=$(executors | head -n 1)
output=$(docker logs "$executor" 2>&1)
row 'the main application is reached by its name' says "^get main-app:50051 ok $(escaped "$main:50051")"
row 'another port of it is not, nor UDP' \
    eval 'was tcp "$main:443" "failed [0-9]{1,3} ms" && was udp "$main:50051" "failed [0-9]{1,3} ms"'
row 'nobody else is, over TCP or UDP' eval 'was tcp "$other:50051" failed && was udp "$other:50051" failed'
row 'nothing arrived there' test "$before" -eq "$(arrived)"
address=$(docker inspect --format "{{(index .NetworkSettings.Networks \"$net\").IPAddress}}" "$executor")
connects() { grep --quiet ' ok' <<<"$(docker exec "$id-main-app" /probe tcp "$1" 2>&1)"; }
row 'the main application reaches port 8001' connects "$address:8001"
row 'and no other port' not connects "$address:8002"
row 'the command is uid 1000, with no capability in any set' \
    eval 'says "^status Uid ok 1000 1000 1000 1000" && says "^status NoNewPrivs ok 1" &&
        test 5 -eq "$(grep --count --extended-regexp "^status Cap.{3} ok 0+$" <<<"$output")"'
row 'it writes to /tmp, not to the root file system or to the sentinel' \
    eval 'says "^write /tmp/x ok" && says "^write /x failed.*Read-only" && says "^write /run/egress-init/ready/firewall.ready failed"'
row 'both tmpfs are noexec' \
    eval 'says "^tmpfs /tmp tmpfs rw,nosuid,nodev,noexec" && says "^tmpfs /run/egress-init tmpfs rw,nosuid,nodev,noexec"'
row 'its secret is a file' says '^cat /run/secrets/executor-token ok secret 1'
row 'memory 512 MiB, one processor, 128 processes' test '536870912 1000000000 128' = \
    "$(docker inspect --format '{{with .HostConfig}}{{.Memory}} {{.NanoCpus}} {{.PidsLimit}}{{end}}' "$executor")"

# The fewest that were healthy at any time while COMMAND became true, in $fewest.
watching() {
    local now
    fewest=2
    for _ in $(seq 600); do
        now=$(executors | wc --lines)
        ((now >= fewest)) || fewest=$now
        if "$@"; then return; fi
        sleep 0.1
    done
    return 1
}
update_is() { [[ $(service '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}') == "$1" ]]; }
secrets() {
    local each
    for each in $(executors); do docker logs "$each" 2>&1; done | sed -n 's,^cat /run/secrets/executor-token ok ,,p' | sort | tr '\n' ' '
}

scenario 'docker/stack.yaml: the secret is rotated'
TOKEN_VERSION=2 deploy
row 'the update completes' watching update_is completed
row 'there were never fewer than two healthy executors' test 2 -eq "$fewest"
patiently two_healthy || true
row 'both have the new secret' test 'secret 2 secret 2 ' = "$(secrets)"
output=$(for each in $(executors); do docker logs "$each" 2>&1; done)
row 'behind their firewalls' test 2 -eq "$(grep --count --extended-regexp "^tcp $(escaped "$other"):50051 failed" <<<"$output")"

scenario 'docker/stack.yaml with EXECUTOR_SUPERVISE=1'
before=$(arrived)
EXECUTOR_SUPERVISE=1 TOKEN_VERSION=2 deploy
row 'the update completes' watching update_is completed
row 'there were never fewer than two healthy executors' test 2 -eq "$fewest"
patiently two_healthy || true
output=$(docker logs "$(executors | head -n 1)" 2>&1)
row 'egress-init is above the command' says '^egress-init: firewall ready: .*dns proxy'
row 'the main application is reached by its name, nobody else is' \
    eval 'says "^get main-app:50051 ok" && was tcp "$main:443" failed && was tcp "$other:50051" failed && was udp "$other:50051" failed'
row 'nothing arrived there' test "$before" -eq "$(arrived)"

scenario 'docker/stack.yaml: an update that does not start'
good=$(executors | sort)
EXECUTOR_SUPERVISE=1 TOKEN_VERSION=2 EXECUTOR_SUBNET=nowhere deploy # --inbound is wrong: 125
row 'it is rolled back' watching update_is rollback_completed
row 'there were never fewer than two healthy executors' test 2 -eq "$fewest"
row 'they are the ones from before' test "$good" = "$(executors | sort)"
