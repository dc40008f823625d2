#!/usr/bin/env bash
# --supervise in a container's life: signals and exit codes, reload, status, restart, a terminal, a
# read-only root, the capabilities that it takes, users.
source "$(dirname "$0")/../lib.sh"
public=1
world
mapfile -t attempts < <(everything)
supervised=(--cap-add NET_ADMIN -- --supervise)
needed=(--cap-drop ALL --cap-add NET_ADMIN --cap-add SETPCAP --cap-add SETUID --cap-add SETGID --cap-add KILL)
state=(status CapInh status CapPrm status CapEff status CapBnd status CapAmb status NoNewPrivs
    status Seccomp status Uid status Gid status Groups)
nothing_kept() {
    local set
    for set in CapInh CapPrm CapEff CapBnd CapAmb; do
        says "^status $set ok 0000000000000000$" || return 1
    done
    says '^status NoNewPrivs ok 1$' && says '^status Seccomp ok 2$'
}
is_uid() { says "^status Uid ok $1 $1 $1 $1$" && says "^status Gid ok $2 $2 $2 $2$"; }
# init_has KEY VALUE: of process 1, which stays above the command.
init_status() { sed -n "s/^$2:\s*//p" "/proc/$(docker inspect --format '{{.State.Pid}}' "$id-$1")/status" | tr '\t' ' '; }

scenario 'exit codes'
for number in 0 7 125; do
    run "${supervised[@]}" --user node -- /probe tcp "$other4:443" exit "$number"
    row "the command's own: $number" eval 'exits "$number" && was tcp "$other4:443" failed'
done
run "${supervised[@]}" --user node -- /absent
row '127 for a command that is not there' eval 'exits 127 && says "^egress-init: .*/absent"'
run "${supervised[@]}" --user node -- /etc/passwd
row '126 for one that cannot be executed' eval 'exits 126 && says "^egress-init: .*/etc/passwd"'
run -- --supervise --user node -- /probe exit 0
row '125 without NET_ADMIN, and what to add' refused 'cap-add=NET_ADMIN'

scenario 'docker stop and docker kill'
signalled() { # signalled NAME [OPTIONS]: a command below process 1 that waits
    local name=$1
    shift
    start "$name" "${supervised[@]}" --user node "$@" -- /probe tcp "$other4:443" until-signal exit 42 &&
        until_true logged "$name" '^waiting as process [2-9]' && logged "$name" '^tcp .* failed'
}
row 'the command is not process 1, and fenced' signalled stopped
docker stop --time 10 "$id-stopped" >/dev/null
ended stopped
row 'docker stop: SIGTERM reaches the command, its exit code comes back' eval 'says "^signal 15$" && exits 42'
for pair in INT:2 USR1:10; do
    row "another for SIG${pair%:*}" signalled "on-${pair#*:}"
    docker kill --signal "${pair%:*}" "$id-on-${pair#*:}" >/dev/null
    ended "on-${pair#*:}"
    row "docker kill --signal ${pair%:*}: the same" eval 'says "^signal ${pair#*:}$" && exits 42'
done
row 'one in mode pinned, with --forward-to child' signalled hangup --dns pinned --forward-to child
docker kill --signal HUP "$id-hangup" >/dev/null
ended hangup
row 'there SIGHUP is the command'"'"'s as well' eval 'says "^signal 1$" && exits 42'
start killed "${supervised[@]}" --user node -- /probe wait
row 'a command that has no handler for SIGTERM' until_true logged killed '^egress-init: firewall ready'
began=$SECONDS
docker stop --time 30 "$id-killed" >/dev/null
ended killed
row 'docker stop ends it all the same, at once, with 143' eval 'exits 143 && ((SECONDS - began < 20))'
row 'one more' signalled gone
docker kill "$id-gone" >/dev/null
ended gone
row 'docker kill: 137' exits 137

scenario 'status'
start agent "${supervised[@]}" --allow '*.example.org' --allow nowhere.example.com --on-unresolved skip --user node -- \
    /probe get api.example.org:443 dns-query "$dns4" tunnel.example.com tcp "$other4:443" wait
row 'the command runs: a name below a wildcard is reached' until_true logged agent '^get api.example.org:443 ok'
row 'it is an address of its own that is not' until_true logged agent "^tcp $(escaped "$other4"):443 failed"
exec_in agent -- /egress-init status
printf '%s\n' "$output" >"$work/status.txt"
row 'docker exec … status: the policy, its generation and its mark' \
    eval 'exits 0 && says "^policy +generation 1, since .*Z, mark 0x[0-9a-f]{8}$"'
row 'flows and queries are counted' \
    eval 'says "^flows +[1-9][0-9]* let out, .* [1-9][0-9]* refused" && says "^queries +[1-9][0-9]* answered .* [1-9][0-9]* refused"'
row 'the name, its addresses and their life' \
    says "^  api.example.org +$(escaped "$api4") $api6 for [0-9]+(m|s).*, by a wildcard$"
row 'a name without an address, and why' says '^  nowhere.example.com +no address, not refreshed: NXDOMAIN'
exec_in agent -- /egress-init status --json
row '--json is one object' eval 'exits 0 && test 1 -eq "$(wc --lines <<<"$output")" && says "^\{\"schema\":1,"'
exec_in agent --user 1000 -- /egress-init status
row 'it answers root alone' eval 'exits 125 && says "ask as root"'
exec_in agent --user 1000 -- /egress-init check
row 'check verifies' exits 0
start execed --cap-add NET_ADMIN -- --user node -- /probe wait
row 'a container without --supervise' until_true logged execed '^egress-init: firewall ready'
exec_in execed -- /egress-init status
row 'has no status: 125, and it says so' eval 'exits 125 && says "no keeper answers at .*--supervise"'

scenario 'reload: a list in a file that is mounted, in a directory that is mounted'
mkdir "$work/lists"
chmod a+rx "$work" "$work/lists"
list=("*.example.org:80" "$api4:443" "$other4:443")
printf '%s\n' "${list[@]}" | tee "$work/list" >"$work/lists/list"
keeps() { # keeps NAME MOUNT: a command with two connections open
    start "$1" --volume "$2" "${supervised[@]}" --allowlist /lists/list --user node -- \
        /probe hold "$api4:443" hold "$other4:443" wait &&
        until_true logged "$1" "^hold $(escaped "$api4"):443 up" && until_true logged "$1" "^hold $(escaped "$other4"):443 up"
}
reloaded() { # reloaded NAME GENERATION
    until_true logged "$1" "the lists are in force as they are now: .*generation $2"
}
without_other() { # without_other NAME: the other server is cut, the first one is not
    local name=$1
    exec_in "$name" --user 1000 -- /probe tcp "$other4:443" tcp "$api4:443" tcp "$api4:444"
    row 'what was revoked is cut, the established connection too' \
        eval 'was tcp "$other4:443" failed && until_true logged "$name" "^hold $(escaped "$other4"):443 cut"'
    row 'what stays allowed goes on' eval 'was tcp "$api4:443" ok && sleep 1 && ! logged "$name" "^hold $(escaped "$api4"):443 cut"'
    row 'what is new is open' was tcp "$api4:444" ok
}
new=("*.example.org:80" "$api4:443-444")
row 'one with a mounted file' keeps filed "$work/list:/lists/list:ro"
printf '%s\n' "${new[@]}" >"$work/list" # in place: the file that is mounted stays the same file
row 'a change of the mounted file is put in force' reloaded filed 2
without_other filed
row 'one with a mounted directory' keeps foldered "$work/lists:/lists:ro"
printf '%s\n' "${new[@]}" >"$work/lists/new"
mv "$work/lists/new" "$work/lists/list"
row 'a file that is replaced by rename is put in force' reloaded foldered 2
without_other foldered
docker kill --signal HUP "$id-foldered" >/dev/null
row 'docker kill --signal HUP reloads' reloaded foldered 3
row 'and the command does not see the signal' test running = "$(docker inspect --format '{{.State.Status}}' "$id-foldered")"
printf 'not a name\n' >"$work/lists/list"
row 'a mistake in the list is logged with its place' \
    until_true logged foldered 'the lists were not reloaded: /lists/list:1:'
exec_in foldered --user 1000 -- /probe tcp "$api4:443" tcp "$other4:443"
row 'and the old list stays in force' eval 'was tcp "$api4:443" ok && was tcp "$other4:443" failed'
exec_in foldered -- /egress-init status
printf '%s\n' "$output" >>"$work/status.txt"
row 'status says so' says 'not reloaded: /lists/list:1:'
row 'the sentinel still verifies' eval 'exec_in foldered --user 1000 -- /egress-init check && exits 0'
logs foldered >"$work/log.txt"

scenario 'docker restart, and the end of process 1'
# Below the wildcard, so that it is answered and not written to /etc/hosts.
start again "${supervised[@]}" --allow '*.example.org' --user node -- /probe get api.example.org:443 "tcp" "$other4:443" name api.example.org wait
times() { [[ $(logs again | grep --count "^$1") == "$2" ]]; }
row 'the agent starts' until_true times 'get api.example.org:443 ok' 1
row 'the name is not in /etc/hosts' until_true times 'name api.example.org failed' 1
docker restart --time 1 "$id-again" >/dev/null
row 'docker restart: the same once more' until_true times 'get api.example.org:443 ok' 2
pid=$(docker inspect --format '{{.State.Pid}}' "$id-again")
as_root kill -KILL "$pid"
ended again
row 'process 1 killed: the command is gone with it, 137' exits 137
docker start "$id-again" >/dev/null
row 'docker start: the same once more' until_true times 'get api.example.org:443 ok' 3
row 'and never another server' test 3 -eq "$(logs again | grep --count "^tcp $(escaped "$other4"):443 failed")"
exec_in again -- /egress-init --user node --allow "$other4" -- /probe tcp "$other4:443"
row 'a second start by exec ends at once, with 125, and says who is there' \
    eval 'exits 125 && says "keeps the rules of this network namespace" && not says "^tcp"'
exec_in again --user 1000 -- /egress-init check
row 'and has changed nothing: check verifies' exits 0

scenario 'what process 1 keeps'
start above "${supervised[@]}" --user node -- /probe wait
row 'it runs' until_true logged above '^egress-init: firewall ready'
row 'its capabilities are NET_ADMIN and KILL, and it gains none' \
    test '0000000000001020 0000000000001020 0000000000000000 1' = \
    "$(init_status above CapPrm) $(init_status above CapEff) $(init_status above CapBnd) $(init_status above NoNewPrivs)"
row 'its real and saved uid are nobody'"'"'s, its group the resolver'"'"'s' \
    test '1701278209 0 1701278209 0 1701278209 1701278209 1701278209 1701278209' = "$(init_status above Uid) $(init_status above Gid)"
row 'its resident memory is below 8 MiB' \
    test 8192 -gt "$(init_status above VmRSS | tr -dc 0-9)"
exec_in above --user 1000 -- /probe cat /proc/1/environ cat /proc/1/maps
row 'the command'"'"'s user cannot look into it' not says '^cat /proc/1/[a-z]* ok'

scenario 'a terminal'
if [[ $(script --version 2>&1) ]]; then
    tty=$(script --quiet --return --command "docker run --rm -t ${labels[*]} --network $net --dns $dns4 $image --version" /dev/null </dev/null 2>&1)
    row 'control: the engine gives one' grep --quiet egress-init <<<"$tty"
    code=0
    output=$(script --quiet --return --command "docker run --rm -it ${labels[*]} --network $net --dns $dns4 --cap-add NET_ADMIN \
        $image --supervise --user node -- /probe cat /proc/self/stat get api.example.org:443 exit 5" /dev/null </dev/null 2>&1) || code=$?
    row 'the command runs at it, its exit code comes back' eval 'exits 5 && says "^get api.example.org:443 ok"'
    # proc_pid_stat(5): the fields behind the name are state, parent, group, session, terminal, foreground.
    read -r _ _ group _ terminal foreground _ < <(sed -n 's/^cat .proc.self.stat ok [0-9]* (probe) //p' <<<"$output")
    row 'it is in the foreground of its terminal' eval '((terminal != 0)) && test "$group" = "$foreground"'
else
    die 'the terminal takes script(1); type: sudo apt-get install bsdutils'
fi

scenario '--read-only'
start frozen --read-only --tmpfs /run/egress-init:mode=0755 --env EGRESS_INIT_SENTINEL=/run/egress-init/firewall.ready \
    "${needed[@]}" --security-opt no-new-privileges -- --supervise --allow '*.example.org' --user node -- \
    /probe get api.example.org:443 "${attempts[@]}" write /x x wait
row 'it starts, and a name is reached without a line in /etc/hosts' until_true logged frozen '^get api.example.org:443 ok'
row 'nothing else is' eval 'until_true logged frozen "^write /x failed.*Read-only" && heard frozen && fenced_other && says "^tcp $(escaped "$api4"):444 failed"'
exec_in frozen -- /egress-init status
row 'status answers, beside the sentinel' eval 'exits 0 && says "^policy"'

scenario '--cap-drop ALL and those that it takes'
run "${needed[@]}" -- --supervise --user node -- /probe "${state[@]}" get api.example.org:443 "${attempts[@]}"
row 'NET_ADMIN, SETPCAP, SETUID, SETGID and KILL: the command runs as node, with nothing kept' \
    eval 'exits 0 && is_uid 1000 1000 && nothing_kept'
row 'the listed name is reached' says '^get api.example.org:443 ok'
fenced_by_name() { was tcp "$api4:444" failed && fenced_other; }
row 'and nothing else' fenced_by_name
before=$(arrivals api) before_other=$(arrivals other)
for capability in NET_ADMIN SETPCAP SETUID SETGID KILL; do
    rest=()
    for word in "${needed[@]}"; do
        if [[ $word == "$capability" ]]; then unset 'rest[-1]'; else rest+=("$word"); fi
    done
    run "${rest[@]}" -- --supervise --user node -- /probe "${state[@]}" "${attempts[@]}"
    row "without $capability: 125, it names it, the command does not run" refused "--cap-add=$capability"
done
row 'nothing arrived at any server' test "$before $before_other" = "$(arrivals api) $(arrivals other)"
# The engine opens low ports to everybody; Kubernetes does not everywhere.
closed=(--sysctl net.ipv4.ip_unprivileged_port_start=1024)
run "${closed[@]}" "${needed[@]}" -- --supervise --user node -- /probe exit 0
row 'where low ports take a capability: 125, it names NET_BIND_SERVICE' refused '--cap-add=NET_BIND_SERVICE'
run "${closed[@]}" "${needed[@]}" --cap-add NET_BIND_SERVICE -- --supervise --user node -- /probe "${state[@]}" get api.example.org:443
row 'with it the command runs, and does not have it' eval 'exits 0 && nothing_kept && says "^get api.example.org:443 ok"'

scenario 'users'
for user in 1234:4321 node 1000; do
    run "${supervised[@]}" --user "$user" -- /probe "${state[@]}" get api.example.org:443 "${attempts[@]}"
    case $user in 1234:4321) ids=(1234 4321) ;; *) ids=(1000 1000) ;; esac
    row "--user $user: it is, and reaches the listed name alone" \
        eval 'exits 0 && is_uid "${ids[@]}" && nothing_kept && says "^get api.example.org:443 ok" && fenced_by_name'
done
run "${supervised[@]}" -- /probe get api.example.org:443
row 'root with the embedded DNS, which forwards as root: 125, and what to do' refused 'uid 0 and gid 0.*--user.*--dns-upstream'
run --cap-add NET_ADMIN -- --supervise --dns-upstream "$dns4" --keep-cap SETGID -- /probe get api.example.org:443
row 'root that keeps SETGID, by which it could pass for the resolver: 125' refused '--keep-cap SETGID.*resolver'
run --cap-add NET_ADMIN -- --supervise --dns-upstream "$dns4" -- /probe "${state[@]}" get api.example.org:443 \
    dns-query "$dns4" tunnel.example.com "${attempts[@]}"
row 'root with --dns-upstream: it runs, with nothing kept' eval 'exits 0 && nothing_kept && says "^get api.example.org:443 ok" && fenced_by_name'
row 'and its own queries are answered by egress-init' was dns-query "$dns4 tunnel.example.com" 'ok response code 5'
row 'no question of it has arrived' test 0 -eq "$(arrivals dns tunnel)"

[[ -z ${KEEP_EXAMPLES:-} ]] || cp "$work/status.txt" "$work/log.txt" "$KEEP_EXAMPLES"
