# Sourced by integration/run, integration/smoke and integration/scenarios/*: a small internet on a
# Docker Engine, and words to say what must be so in it.
#
#   world                      a network with IPv4 and IPv6 and three servers in it: api and other
#                              (echo on 80, 443, 444) and dns (knows api.example.org, other.example.org)
#   run OPTIONS -- ARGUMENTS   a container of $image on it, to its end: $output and $code
#   start NAME OPTIONS -- ...  the same in the background, as $id-NAME; logs NAME is what it printed
#   scenario TITLE             what the rows that follow are about
#   row WHAT COMMAND...        the command succeeds, or the row is wrong
#
# Nothing is pulled: images are FROM scratch, with the static binary and the probe. Every object has
# the label $id and goes when the script ends, however it ends. The judge of what got out is the
# log of the other side, and a block counts only after the same attempts got through.
#
# Environment: INTEGRATION_PREFIX, with which the names of all Docker objects begin;
# INTEGRATION_WITHOUT=PROTECTION builds the image with a stand-in for egress-init that lacks it (see
# probe/stand_in.rs), to see the scenarios fail; INTEGRATION_TARGET, where things are built.

source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
source scripts/debian.sh

INTEGRATION_PREFIX=${INTEGRATION_PREFIX:-egress-init-test}
INTEGRATION_WITHOUT=${INTEGRATION_WITHOUT:-}
without_each=(firewall restart check dns privileges fail-closed)

suite=$(basename "$0" .sh)
id=$INTEGRATION_PREFIX-$suite-$$
work=$(mktemp -d)
# The images are made once for all scripts of a run, by whoever comes first: integration/run.
image=${INTEGRATION_IMAGE:-$id}
INTEGRATION_RUN=${INTEGRATION_RUN:-$id}
labels=(--label "$id" --label "$INTEGRATION_RUN")

# remove_labelled LABEL: no container, network, volume or image with it stays.
remove_labelled() {
    local containers networks volumes images
    containers=$(docker ps --all --quiet --filter "label=$1")
    # shellcheck disable=SC2086 # ids, here and below
    [[ -z $containers ]] || docker rm --force --volumes $containers
    networks=$(docker network ls --quiet --filter "label=$1")
    [[ -z $networks ]] || docker network rm $networks
    volumes=$(docker volume ls --quiet --filter "label=$1")
    [[ -z $volumes ]] || docker volume rm $volumes
    # A base goes only after what was built on it.
    local _
    for _ in 1 2 3 4; do
        images=$(docker images --all --quiet --filter "label=$1" | sort -u)
        [[ $images ]] || break
        docker rmi --force $images
    done
} >/dev/null 2>&1

# As ever, and the last line of it is in the list of what was wrong.
die() {
    printf '%s\n' "$*" | tee "$work/died" >&2
    exit 1
}

rows=0 wrong=0
finish() {
    local status=$?
    trap - EXIT
    if ((status != 0 && wrong == 0)); then
        result "runs to its end: $(tail --lines 1 "$work/died" 2>/dev/null)" WRONG
        wrong=1
    fi
    remove_labelled "$id" || true
    rm -rf "$work" 2>/dev/null || as_root rm -rf "$work" # containers wrote to it as root
    exit $((wrong > 0 ? 1 : status))
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title=
# scenario TITLE: a heading; the results file names it with each row.
scenario() {
    title=$1
    printf '\n  %s\n' "$title"
}

result() {
    printf '  %-76s %s\n' "$1" "$2"
    [[ -z ${INTEGRATION_RESULTS:-} ]] ||
        printf '%s\t%s\t%s\t%s\n' "$2" "$suite" "$title" "$1" >>"$INTEGRATION_RESULTS"
}

# row WHAT COMMAND...: one thing that has to be so. With DEBUG set, what the last container said
# is shown where it is not.
row() {
    local what=$1
    shift
    rows=$((rows + 1))
    if "$@"; then
        result "$what" ok
    else
        result "$what" WRONG
        wrong=$((wrong + 1))
        [[ -z ${DEBUG:-} ]] || printf '%s\n' "exit ${code:-?}: ${output:-}" | sed 's/^/      | /'
    fi
}

not() { ! "$@"; }
# says PATTERN: the output of the last container has a line like this.
says() { grep --quiet --extended-regexp -- "$1" <<<"$output"; }
exits() { [[ $code == "$1" ]]; }
escaped() { sed 's/[].[*+?(){}|^$\\]/\\&/g' <<<"$1"; }

# until_true COMMAND...: within ten seconds.
until_true() {
    local _
    for _ in $(seq 200); do
        "$@" && return
        sleep 0.05
    done
    return 1
}

# --- images -------------------------------------------------------------------------------------

# The probe for this machine, and with INTEGRATION_WITHOUT the stand-in; $egress_init is the binary
# that images get.
build_programs() {
    local to=$1 triple
    triple=$(static_triple)
    local static=(rustc --edition 2024 -C opt-level=s -C strip=symbols
        -C target-feature=+crt-static --target "$triple")
    "${static[@]}" -o "$to/probe" integration/probe/main.rs
    if [[ -z $INTEGRATION_WITHOUT ]]; then
        cp "$(static_binary)" "$to/egress-init"
    else
        [[ " ${without_each[*]} " == *" $INTEGRATION_WITHOUT "* ]] ||
            die "INTEGRATION_WITHOUT is one of: ${without_each[*]}"
        EGRESS_INIT_BIN=$(static_binary) INTEGRATION_WITHOUT=$INTEGRATION_WITHOUT \
            "${static[@]}" --cfg stand_in -o "$to/egress-init" integration/probe/main.rs
    fi
}

# build_image TAG CONTEXT [OPTIONS...]: quiet unless it fails. Without the cache, because a layer of
# it may be removed by another build's end meanwhile.
build_image() {
    local tag=$1 context=$2
    shift 2
    docker build --quiet --no-cache "${labels[@]}" --tag "$tag" "$@" "$context" >"$work/build.log" 2>&1 ||
        die "$(cat "$work/build.log")"
}

# The image that most scenarios run: FROM scratch, egress-init as the entrypoint, the probe, the
# accounts root and node, a list of api.example.org.
make_image() {
    local context=$work/image
    mkdir -p "$context/etc"
    build_programs "$context"
    cp docker/Dockerfile.scratch-demo "$context/Dockerfile"
    printf 'root:x:0:0::/:\nnode:x:1000:1000::/:\n' >"$context/etc/passwd"
    printf 'root:x:0:\nnode:x:1000:\n' >"$context/etc/group"
    printf 'api.example.org\n' >"$context/etc/allowed_domains.txt"
    build_image "$image" "$context"
}

# --- networks and servers -----------------------------------------------------------------------

# make_network NAME [OPTIONS...]: with IPv4 and IPv6, in addresses that this machine does not use yet.
# Sets $prefix4 (10.213.N) and $prefix6 (fd5e:e6e5:N:). With $public set they are no private ones, which
# names below wildcards never have: those of documentation (RFC 5737), and of 6to4 relays, which are no
# more (RFC 7526). There are few of them, so that a scenario may have to wait for another's.
make_network() {
    local name=$1 prefix prefixes spoken_to _
    shift
    if [[ ${public:-} ]]; then
        mapfile -t prefixes < <(shuf --echo 203.0.113/2001:db8:113: 198.51.100/2001:db8:100: 192.88.99/2001:db8:99:)
    else
        mapfile -t prefixes < <(shuf --input-range 1-254 | sed 's,.*,10.213.&/fd5e:e6e5:&:,')
    fi
    spoken_to=$(addresses_spoken_to)
    : >"$work/network.log"
    for _ in $(seq 120); do
        for prefix in "${prefixes[@]}"; do
            prefix4=${prefix%/*} prefix6=${prefix#*/}
            grep --quiet --fixed-strings --regexp " $prefix4." --regexp " $prefix6:" <<<"$spoken_to" ||
                ! docker network create "${labels[@]}" --ipv6 --subnet "$prefix4.0/24" \
                    --gateway "$prefix4.1" --subnet "$prefix6:/64" --gateway "$prefix6:1" \
                    "$@" "$name" >/dev/null 2>"$work/network.log" || return 0
        done
        [[ ${public:-} ]] || break
        sleep 1
    done
    die "the engine made no network: $(cat "$work/network.log")"
}
# Whom other scenarios may ask meanwhile; a network in front of them would cut them off.
addresses_spoken_to() {
    sed -n 's/^nameserver / /p' /etc/resolv.conf
    getent ahosts "$(cut -d / -f 3 <<<"$debian_mirror")" | sed 's/^/ /' || true # without a network
}

# server NAME NETWORK-OPTIONS... -- WORDS...: a container $id-NAME of the probe, serving.
server() {
    local name=$1 options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    docker run --detach "${labels[@]}" --name "$id-$name" --cap-drop ALL \
        --cap-add NET_BIND_SERVICE --entrypoint /probe "${options[@]}" "$image" "$@" >/dev/null
    until_true logged "$name" '^serving'
}

# The network $net and its servers at .10, .20 and .53; $api4, $api6, $other4, $other6, $dns4, $dns6.
world() {
    [[ ${INTEGRATION_IMAGE:-} ]] || make_image
    net=$id
    make_network "$net"
    net4=$prefix4 net6=$prefix6
    api4=$net4.10 api6=${net6}:10
    other4=$net4.20 other6=${net6}:20
    dns4=$net4.53 dns6=${net6}:53
    server api --network "$net" --ip "$api4" --ip6 "$api6" -- serve 80 443 444 &
    server other --network "$net" --ip "$other4" --ip6 "$other6" -- serve 80 443 444 &
    server dns --network "$net" --ip "$dns4" --ip6 "$dns6" -- dns \
        api.example.org="$api4,$api6" other.example.org="$other4,$other6" &
    wait -n && wait -n && wait -n || die 'the servers did not start'
}

logs() { docker logs "$id-$1" 2>&1; }
# logged NAME PATTERN: has that container printed a line like this?
logged() { grep --quiet --extended-regexp -- "$2" <<<"$(logs "$1")"; }

# arrivals SERVER [PATTERN]: how many connections, datagrams and questions have reached it. A
# datagram of our own goes first, so that whatever was sent before it is in the log.
arrivals() {
    local server=$1 pattern=${2:-.} address mark
    mark=marker-$$-$RANDOM-$RANDOM
    address=$(address_of "$server" IPAddress)
    # Whichever of the two it serves; the other answers with an ICMP error, which nobody reads.
    printf '%s' "$mark" >"/dev/udp/$address/80"
    printf '%s' "$mark" >"/dev/udp/$address/53"
    until_true logged "$server" "$mark" || die "no datagram reaches the server $server"
    logs "$server" | grep --extended-regexp '^(arrived|asked) ' | grep --invert-match ' marker-' |
        grep --count --extended-regexp -- "$pattern" || true
}

address_of() {
    docker inspect --format "{{range .NetworkSettings.Networks}}{{.$2}} {{end}}" "$id-$1" |
        tr ' ' '\n' | sed -n '/./{p;q}'
}

# --- containers ---------------------------------------------------------------------------------

# run OPTIONS -- ARGUMENTS: on $net, asking the server dns; run_on NETWORK ... elsewhere.
run() { run_on "$net" --dns "$dns4" "$@"; }
run_on() {
    local options=(--network "$1") began
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    began=$(date +%s%N)
    code=0
    output=$(timeout 60 docker run --rm "${labels[@]}" "${options[@]}" "${run_image:-$image}" "$@" 2>&1) || code=$?
    took=$((($(date +%s%N) - began) / 1000000)) # milliseconds, the engine's own included
}

# start NAME OPTIONS -- ARGUMENTS, start_on NAME NETWORK ...: in the background.
start() {
    local name=$1
    shift
    start_on "$name" "$net" --dns "$dns4" "$@"
}
start_on() {
    local name=$1 options=(--network "$2")
    shift 2
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    docker run --detach "${labels[@]}" --name "$id-$name" "${options[@]}" "${run_image:-$image}" "$@" >/dev/null
}

# heard NAME: what it printed, as $output; ended NAME: waits for its end, $output and $code.
heard() { output=$(logs "$1"); }
ended() {
    code=$(timeout 60 docker wait "$id-$1")
    heard "$1"
}
exec_in() { # exec_in NAME [OPTIONS] -- WORDS...: into $output and $code
    local name=$1 options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    code=0
    output=$(timeout 60 docker exec "${options[@]}" "$id-$name" "$@" 2>&1) || code=$?
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}
# ruleset NAME: of that container's network namespace, from outside, without the counters.
ruleset() {
    local pid
    pid=$(docker inspect --format '{{.State.Pid}}' "$id-$1")
    as_root nsenter --target "$pid" --net nft --stateless list ruleset
}

# --- what a container tried ---------------------------------------------------------------------

# Attempts at everything that the world has, for `probe`.
everything() {
    local address
    for address in "$api4" "[$api6]" "$other4" "[$other6]"; do
        printf '%s\n' tcp "$address:443" tcp "$address:444" udp "$address:443"
    done
}

was() { says "^$1 $(escaped "$2") $3"; }
# reached KIND SERVER PORT, blocked KIND SERVER PORT: in both families. A block is felt at once,
# and not after the two seconds that the probe waits.
reached() {
    local four=${2}4 six=${2}6
    was "$1" "${!four}:$3" ok && was "$1" "[${!six}]:$3" ok
}
blocked() {
    local four=${2}4 six=${2}6
    was "$1" "${!four}:$3" 'failed 1?[0-9]{1,3} ms' && was "$1" "[${!six}]:$3" 'failed 1?[0-9]{1,3} ms'
}

# Without egress-init all of it gets through: what is blocked later was not blocked already.
positive_control() {
    run --entrypoint /probe "$@" -- "${attempts[@]}"
    row 'control: without egress-init everything is reached' all_open
}
all_open() {
    exits 0 && not says ' failed ' &&
        reached tcp api 443 && reached tcp other 443 && reached udp other 443
}

# As the list of $image says: api.example.org on 443 over TCP in both families, nothing else.
fenced() {
    row "${1:+$1: }the listed server is reached, IPv4 and IPv6" reached tcp api 443
    row "${1:+$1: }another port of it is not, nor UDP" fenced_api
    row "${1:+$1: }another server is not, over TCP or UDP" fenced_other
}
fenced_api() { blocked tcp api 444 && blocked udp api 443; }
fenced_other() { blocked tcp other 443 && blocked tcp other 444 && blocked udp other 443; }
# refused PATTERN: 125, one line that says this, and the command did not run.
refused() {
    exits 125 && says "^egress-init: .*$1" && not says '^(tcp|udp|status|cat|pid) '
}
