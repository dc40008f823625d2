#!/usr/bin/env bash
# docker/kubernetes: the manifests against the schemas of Kubernetes, and their pods rehearsed. The
# options of each container are read from the manifest itself; the rest is as the kubelet has it: a
# container that holds the network, an emptyDir that everybody may write to, one /etc/hosts that is
# writable and written anew for each container.
source "$(dirname "$0")/../lib.sh"

python=$CARGO_TARGET_DIR/kubernetes/bin/python
tools=(kubernetes-validate==1.37.0 PyYAML==6.0.3)
if ! "$python" -m pip show --quiet "${tools[@]%%=*}" >/dev/null 2>&1; then
    python3 -m venv "$CARGO_TARGET_DIR/kubernetes" || die 'type: sudo apt-get install python3-venv'
    "$python" -m pip install --quiet "${tools[@]}"
fi

valid() { # FILE
    "$python" -m kubernetes_validate --strict --quiet --kubernetes-version "$version" "$1" >"$work/schema.log" 2>&1
}
kinds() { sed -n 's/^kind: //p' "$1" | sort | tr '\n' ' '; }

world
main4=$api4 # the server api is the main application here; it listens on its three ports
mapfile -t attempts < <(printf '%s\n' get main-app:443 tcp "$main4:444" udp "$main4:443" \
    tcp "$other4:443" udp "$other4:443" tcp "[$api6]:443" tcp "[$other6]:443" \
    dns-query "$dns4" other.example.org)
inside=(write /x x write /etc/x x write /tmp/x x cat /run/secrets/token
    status Uid status Gid status NoNewPrivs status CapInh status CapPrm status CapEff status CapBnd status CapAmb)

kubelet=()   # further options of the container that holds the network
everywhere=() # and of each container of the pod
# prepare FILE: the manifest with the addresses of this world; the volumes as a kubelet makes them.
prepare() {
    manifest=$work/${1##*/} volumes=$work/volumes-${1##*/}
    sed -e "s/10\.96\.50\.51/$main4/; s/:50051/:443/; s|@10\.244\.0\.0/16|@$main4|" "$1" >"$manifest"
    as_root mkdir --mode 0777 --parents "$volumes"/{egress-init,tmp}
    as_root chmod 0777 "$volumes"/{egress-init,tmp}
    mkdir "$volumes/token"
    printf 'a secret\n' >"$volumes/token/token"
    chmod 0444 "$volumes/token/token"
    chmod a+x "$work"
    pod=$id-${1##*/}
    pod=${pod%.yaml}
    local alias aliases=() hosts
    while read -r alias; do aliases+=(--add-host "$alias"); done < <("$python" integration/pod.py "$manifest" aliases)
    docker run --detach "${labels[@]}" --name "$pod" --network "$net" --dns "$dns4" --ipc shareable \
        "${aliases[@]}" "${kubelet[@]}" --entrypoint /probe "$image" wait >/dev/null
    hosts=$work/hosts-${1##*/}
    docker exec "$pod" /probe cat /etc/hosts | sed 's,^cat /etc/hosts ok ,,' >"$hosts.kubelet"
    cp "$hosts.kubelet" "$hosts"
}
# contained CONTAINER NAME [OPTIONS] -- ARGS...: a container of the pod, as its manifest says, with
# these arguments; in the background, as $pod-NAME.
contained() {
    local name=$1 as=$2 line options=() arguments=() more=() into=options
    shift 2
    while [[ $1 != -- ]]; do
        more+=("$1")
        shift
    done
    shift
    local hosts=$work/hosts-${manifest##*/}
    cat "$hosts.kubelet" >"$hosts"
    "$python" integration/pod.py "$manifest" "$name" "$volumes" >"$work/arguments" || die "$(cat "$work/arguments")"
    while read -r line; do
        if [[ $line == -- && $into == options ]]; then
            into=arguments
        elif [[ $into == options ]]; then
            options+=("$line")
        else
            arguments+=("$line")
        fi
    done <"$work/arguments"
    docker run --detach "${labels[@]}" --name "$pod-$as" --network "container:$pod" --ipc "container:$pod" \
        --mount "type=bind,source=$hosts,target=/etc/hosts" "${everywhere[@]}" "${options[@]}" "${more[@]}" "$image" "${arguments[@]}" "$@" >/dev/null
}
# finished NAME: its end, into $code and $output; said NAME PATTERN.
finished() {
    code=$(timeout 60 docker wait "$pod-$1")
    output=$(docker logs "$pod-$1" 2>&1)
}
said() {
    output=$(docker logs "$pod-$1" 2>&1)
    says "$2"
}
all_caps_gone() { test 5 -eq "$(grep --count --extended-regexp '^status Cap.{3} ok 0+$' <<<"$output")"; }
probe_of() { docker exec "$pod-$1" /egress-init check; } >/dev/null 2>&1
# What is blocked later was not blocked before: in the pod's network, without its firewall.
control() {
    docker run --detach "${labels[@]}" --name "$pod-control" --network "container:$pod" \
        --mount "type=bind,source=$1,target=/etc/hosts" "${everywhere[@]}" --entrypoint /probe "$image" "${attempts[@]}" >/dev/null
    finished control
    row 'control: before it everything is reached' test 8 -eq "$(grep --count ' ok' <<<"$output")"
}
as_stated() {
    row 'the main application is reached, by its name' says '^get main-app:443 ok'
    row 'another port of it is not, nor UDP' \
        eval 'was tcp "$main4:444" "failed [0-9]{1,3} ms" && was udp "$main4:443" "failed [0-9]{1,3} ms"'
    row 'nor is another server, IPv4 or IPv6' \
        eval 'was tcp "$other4:443" failed && was udp "$other4:443" failed && was tcp "[$other6]:443" failed'
    row 'nor a nameserver' was dns-query "$dns4 other.example.org" "${1:-failed}"
    row 'the command is uid 1000, with no capability in any set' \
        eval 'says "^status Uid ok 1000 1000 1000 1000" && says "^status NoNewPrivs ok 1" && all_caps_gone'
    row 'it writes to /tmp and not to the root file system' \
        eval 'says "^write /tmp/x ok" && says "^write /x failed.*Read-only" && says "^write /etc/x failed.*Read-only"'
    row 'its secret is a file' says '^cat /run/secrets/token ok a secret'
}
inbound() {
    server open-"$1" --network "$net" -- serve 8001
    local open address
    open=$(address_of "open-$1" IPAddress)
    address=$(docker inspect --format "{{(index .NetworkSettings.Networks \"$net\").IPAddress}}" "$pod")
    connects() { grep --quiet ' ok' <<<"$(docker exec "$id-$1" /probe tcp "$2:8001" 2>&1)"; }
    row 'control: port 8001 of a container without egress-init is reached' connects other "$open"
    row 'that of the executor is reached from where it lets in' connects api "$address"
    row 'and from nowhere else' not connects other "$address"
}

scenario 'docker/kubernetes/init-container.yaml'
for version in 1.30.0 1.37.0; do
    row "valid for Kubernetes $version" valid docker/kubernetes/init-container.yaml
done
sed 's/runAsNonRoot/runAsNoRoot/' docker/kubernetes/init-container.yaml >"$work/invalid.yaml"
row 'the schemas know a misspelt field' not valid "$work/invalid.yaml"
row 'it has all that belongs to it' test 'Deployment NetworkPolicy PodDisruptionBudget Service ' = "$(kinds docker/kubernetes/init-container.yaml)"
prepare docker/kubernetes/init-container.yaml
control "$work/hosts-init-container.yaml"
# The kubelet makes what a subPath names.
as_root mkdir --mode 0777 "$volumes/egress-init/ready"
contained executor early -- /probe "${attempts[@]}"
finished early
row 'before the init container has run, the executor does not start' eval 'exits 1 && not says "^get "'
as_root rmdir "$volumes/egress-init/ready"
before=$(arrivals other)
contained egress-init init --
finished init
row 'the init container ends well' exits 0
contained executor app -- /probe listen 8001 "${attempts[@]}" "${inside[@]}" \
    write /etc/beacon-code/firewall.ready x write /etc/beacon-code/x x cat /proc/self/mounts status Pid wait
until_true said app '^status Pid'
as_stated
row 'it cannot touch the sentinel' \
    eval 'says "^write /etc/beacon-code/firewall.ready failed" && says "^write /etc/beacon-code/x failed"'
row 'whose folder is mounted read-only' says ' /etc/beacon-code [^ ]+ ro,'
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
row "the probes' command verifies" probe_of app
inbound init
docker restart --time 0 "$pod-app" >/dev/null
twice() { said app '^status Pid' && test 2 -eq "$(grep --count '^status Pid' <<<"$output")"; }
row 'the executor alone starts again: the pod still has its firewall' \
    eval 'until_true twice && test 2 -eq "$(grep --count "^tcp $(escaped "$other4"):443 failed" <<<"$output")"'
docker exec "$pod-app" /egress-init check --sentinel /run/egress-init/ready/firewall.ready >/dev/null 2>&1 &&
    die 'the rehearsal is wrong: the executor sees the whole volume'
as_root nsenter --target "$(docker inspect --format '{{.State.Pid}}' "$pod")" --net nft flush ruleset
row "and does not verify when the pod's rules are gone" not probe_of app

scenario 'docker/kubernetes/entrypoint.yaml'
for version in 1.30.0 1.37.0; do
    row "valid for Kubernetes $version" valid docker/kubernetes/entrypoint.yaml
done
row 'it has all that belongs to it' test 'Deployment NetworkPolicy PodDisruptionBudget Service ' = "$(kinds docker/kubernetes/entrypoint.yaml)"
docker rm --force "$id-dns" >/dev/null
server dns --network "$net" --ip "$dns4" --ip6 "$dns6" -- dns main-app="$main4" other.example.org="$other4"
prepare docker/kubernetes/entrypoint.yaml
{ cat "$work/hosts-entrypoint.yaml"; printf '%s main-app\n' "$main4"; } >"$work/hosts-control"
control "$work/hosts-control"
before=$(arrivals other)
contained executor app -- /probe listen 8001 "${attempts[@]}" "${inside[@]}" \
    write /dev/shm/egress-init/firewall.ready x write /dev/shm/egress-init/x x status Pid wait
until_true said app '^status Pid'
as_stated
row 'it cannot touch the sentinel' \
    eval 'says "^write /dev/shm/egress-init/firewall.ready failed" && says "^write /dev/shm/egress-init/x failed"'
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
row "the probes' command verifies" probe_of app
inbound entrypoint
docker restart --time 0 "$pod-app" >/dev/null
row 'it starts again behind its firewall' \
    eval 'until_true twice && test 2 -eq "$(grep --count "^tcp $(escaped "$other4"):443 failed" <<<"$output")"'
row 'and verifies again' probe_of app
# Why the sentinel is not in an emptyDir here.
contained executor emptydir --env EGRESS_INIT_SENTINEL=/tmp/ready/firewall.ready -- /probe wait
finished emptydir
row 'an emptyDir, which everybody may write to, is refused for the sentinel' eval 'exits 125 && says "/tmp/ready"'

scenario 'docker/kubernetes/sidecar.yaml'
for version in 1.30.0 1.37.0; do
    row "valid for Kubernetes $version" valid docker/kubernetes/sidecar.yaml
done
row 'it has all that belongs to it' test 'ConfigMap Deployment NetworkPolicy PodDisruptionBudget Service ' = "$(kinds docker/kubernetes/sidecar.yaml)"
docker rm --force "$id-dns" >/dev/null
domain=executors.svc.cluster.local
server dns --network "$net" --ip "$dns4" --ip6 "$dns6" -- dns "main-app.$domain=$main4" "other.$domain=$other4" \
    "other.example.org=$other4" "new.example.org=$other4"
# A pod's resolv.conf; and as no kubelet opens low ports to everybody, unlike this engine.
printf 'nameserver %s\nsearch %s svc.cluster.local cluster.local\noptions ndots:5\n' "$dns4" "$domain" >"$work/resolv.conf"
kubelet=(--sysctl net.ipv4.ip_unprivileged_port_start=1024)
everywhere=(--mount "type=bind,source=$work/resolv.conf,target=/etc/resolv.conf,readonly")
prepare docker/kubernetes/sidecar.yaml
# config_map VERSION ENTRIES...: as the kubelet brings it into its volume, all at one instant.
config_map() {
    local version=$1
    shift
    mkdir --parents "$volumes/allowlist/..$version"
    printf '%s\n' "$@" >"$volumes/allowlist/..$version/allowed_domains.txt"
    ln --symbolic "..$version" "$volumes/allowlist/..data_tmp"
    mv --no-target-directory "$volumes/allowlist/..data_tmp" "$volumes/allowlist/..data"
}
config_map 1 "$("$python" integration/pod.py "$manifest" data allowed_domains.txt)"
ln --symbolic ..data/allowed_domains.txt "$volumes/allowlist/allowed_domains.txt"
chmod -R a+rX "$volumes/allowlist"
control "$work/hosts-sidecar.yaml"
as_root mkdir --mode 0777 "$volumes/egress-init/ready"
contained executor early -- /probe "${attempts[@]}"
finished early
row 'before the sidecar has started, the executor does not start' eval 'exits 1 && not says "^get "'
as_root rmdir "$volumes/egress-init/ready"
before=$(arrivals other) asked=$(arrivals dns 'asked .* other')
contained egress-init keeper --
row "its startupProbe's command verifies" until_true probe_of keeper
contained executor app -- /probe hold "$main4:443" listen 8001 "${attempts[@]}" "${inside[@]}" \
    write /etc/beacon-code/firewall.ready x write /etc/beacon-code/x x status Pid wait
until_true said app '^status Pid'
as_stated 'ok response code 5'
row 'whose answer is the sidecar'"'"'s: no question has arrived' test "$asked" -eq "$(arrivals dns 'asked .* other')"
row 'it cannot touch the sentinel' \
    eval 'says "^write /etc/beacon-code/firewall.ready failed" && says "^write /etc/beacon-code/x failed"'
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
row "the probes' command verifies" probe_of app
inbound sidecar
in_pod() { # in_pod NAME WORDS...: into $output and $code
    code=0
    output=$(timeout 60 docker exec "$pod-$1" "${@:2}" 2>&1) || code=$?
}
in_pod keeper /egress-init status
row "the livenessProbe's command answers, with the name below its search domain" \
    eval 'exits 0 && says "^  main-app.$domain +$(escaped "$main4") for "'
in_pod app /egress-init status
row 'which is not for the executor' eval 'exits 125 && says "ask as root"'
reloaded() { said keeper "the lists are in force as they are now: .*generation $1"; }
config_map 2 main-app:443 new.example.org:443 '*.wild.example.org:443'
row 'a change of the ConfigMap is put in force' until_true reloaded 2
in_pod app /probe get new.example.org:443
row 'what is new is reached' says '^get new.example.org:443 ok'
before=$(arrivals other)

docker kill "$pod-keeper" >/dev/null
in_pod app /probe tcp "$main4:443" get new.example.org:443 dns-query "$dns4" other.example.org udp "$other4:443" tcp "[$other6]:443"
row 'the sidecar is dead: addresses that were open stay so' was tcp "$main4:443" ok
row 'no name resolves, by no way' eval 'says "^get new.example.org:443 failed" && was dns-query "$dns4 other.example.org" failed'
row 'nothing else is open' eval 'was udp "$other4:443" failed && was tcp "[$other6]:443" failed'
row "the executor's probes still verify" probe_of app
docker start "$pod-keeper" >/dev/null
answers() { in_pod keeper /egress-init status && exits 0; }
row 'it is started again, and takes over' until_true answers
in_pod app /probe get main-app:443 get new.example.org:443 dns-query "$dns4" other.example.org udp "$other4:443"
row 'names resolve again, of the list alone' \
    eval 'says "^get main-app:443 ok" && says "^get new.example.org:443 ok" && was dns-query "$dns4 other.example.org" "ok response code 5" && was udp "$other4:443" failed'
row 'the connection of the executor went on through all of it' \
    eval 'said app "^hold $(escaped "$main4"):443 up" && not said app "^hold .* cut"'
row 'nothing but the new name reached the other server' test $((before + 1)) -eq "$(arrivals other)"
config_map 3 '*.wild.example.org:443'
row 'a name that is revoked loses its connection' until_true said app "^hold $(escaped "$main4"):443 cut"
docker stop --time 5 "$pod-keeper" >/dev/null
finished keeper
row 'SIGTERM ends the sidecar with 0, and it says what stays' eval 'exits 0 && says "the rules stay"'
