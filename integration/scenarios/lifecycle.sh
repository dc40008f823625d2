#!/usr/bin/env bash
# A container's life: exit codes, signals, stop, restart, pause, and what docker exec brings in.
source "$(dirname "$0")/../lib.sh"
world
mapfile -t attempts < <(everything)
agent=(--cap-add NET_ADMIN --)
sentinel=/etc/beacon-code/firewall.ready

scenario 'exit codes'
for number in 0 7 125; do
    run "${agent[@]}" --user node -- /probe tcp "$other4:443" exit "$number"
    row "the command's own: $number" eval 'exits "$number" && was tcp "$other4:443" failed'
done
run "${agent[@]}" --user node -- /absent
row '127 for a command that is not there' eval 'exits 127 && says "^egress-init: .*/absent"'
run "${agent[@]}" --user node -- /etc/passwd
row '126 for one that cannot be executed' eval 'exits 126 && says "^egress-init: .*/etc/passwd"'
run "${agent[@]}" --user node --no-such-option -- /probe exit 0
row '2 for wrong usage' exits 2
run "${agent[@]}" --user nobody -- /probe exit 0
row '125 for a user that is not there' refused 'nobody'

scenario 'docker stop and docker kill'
signalled() { # signalled NAME: it is the command as process 1 that waits, fenced
    start "$1" "${agent[@]}" --user node -- /probe "tcp" "$other4:443" until-signal exit 42 &&
        until_true logged "$1" '^waiting as process 1$' && logged "$1" "^tcp .* failed"
}
row 'the command is process 1, and fenced' signalled stopped
docker stop --time 10 "$id-stopped" >/dev/null
ended stopped
row 'docker stop: SIGTERM reaches the command, its exit code comes back' eval 'says "^signal 15$" && exits 42'
for pair in HUP:1 INT:2 USR1:10; do
    row "another for SIG${pair%:*}" signalled "on-${pair#*:}"
    docker kill --signal "${pair%:*}" "$id-on-${pair#*:}" >/dev/null
    ended "on-${pair#*:}"
    row "docker kill --signal ${pair%:*}: the same" eval 'says "^signal ${pair#*:}$" && exits 42'
done
row 'one more' signalled killed
docker kill "$id-killed" >/dev/null
ended killed
row 'docker kill: 137' exits 137

scenario 'docker stop during the start'
server silent --network "$net" --ip "$net4.54" -- dns silent
start resolving --cap-add NET_ADMIN -- --dns-upstream "$net4.54" --resolve-timeout 60s --user node -- /probe "${attempts[@]}"
row 'it waits for DNS' until_true logged silent '^asked'
began=$SECONDS
docker stop --time 10 "$id-resolving" >/dev/null
ended resolving
row 'it ends at once, with 143, and the command does not run' \
    eval 'exits 143 && ((SECONDS - began < 9)) && ! says "^tcp"'

scenario 'docker restart'
positive_control
start again "${agent[@]}" --user node -- /probe cat "$sentinel" "${attempts[@]}" cat "$sentinel" wait
fenced_times() { # so many starts, each as fenced as the other
    heard again
    local target
    [[ $(grep --count '^egress-init: firewall ready' <<<"$output") == "$1" ]] &&
        [[ $(grep --count "^cat $sentinel ok {" <<<"$output") == $((2 * $1)) ]] || return 1
    for target in "$api4:443 ok" "[$api6]:443 ok" "$other4:443 failed" "[$other6]:443 failed"; do
        [[ $(grep --count --fixed-strings "tcp $target" <<<"$output") == "$1" ]] || return 1
    done
}
cookie() { sed -n 's/.*"netns_cookie":\([0-9]*\).*/\1/p' <<<"$output" | tail -n 1; }
table() { ruleset again 2>/dev/null | sed -n '/^table inet egress_init/,/^}/p' | sed 's/0x[0-9a-f]\{8\}/MARK/'; }
row 'the agent starts' until_true fenced_times 1
first=$(cookie) rules=$(table)
row 'rules are there, seen from outside' grep --quiet 'policy drop' <<<"$rules"
before=$(arrivals other)
exec_in again --user 1000 -- /egress-init check
row 'check in it verifies' exits 0
docker kill "$id-again" >/dev/null
docker cp "$id-again:$sentinel" "$work/left-behind" 2>/dev/null || true
row 'a container that was killed has left its sentinel behind' test -s "$work/left-behind"
docker start "$id-again" >/dev/null
row 'docker start after docker kill: fenced as before' until_true fenced_times 2
docker restart --time 1 "$id-again" >/dev/null
row 'docker restart: fenced as before' until_true fenced_times 3
row 'the sentinel is of the new network namespace' test "$first" != "$(cookie)"
row 'the rules are the same, seen from outside' test "$rules" = "$(table)"
exec_in again --user 1000 -- /egress-init check
row 'check in it verifies' exits 0
row 'nothing arrived at the other server over three starts' test "$before" -eq "$(arrivals other)"

scenario 'docker exec'
before=$(arrivals other)
exec_in again --user 1000 -- /probe "${attempts[@]}"
row 'a tool is fenced by the network namespace' eval 'exits 0 && reached tcp api 443 && fenced_other'
exec_in again -- /probe "${attempts[@]}" status CapEff
row 'so it is as root, though with the capabilities of the container' \
    eval 'fenced_other && ! says "^status CapEff ok 0000000000000000"'
exec_in again -- /egress-init check --user node -- /probe "${attempts[@]}" status CapBnd status Uid status NoNewPrivs
row 'behind check -- it has no capability and is the user' \
    eval 'says "^status CapBnd ok 0000000000000000" && says "^status Uid ok 1000 " && says "^status NoNewPrivs ok 1"'
row 'behind check -- it is fenced too' eval 'reached tcp api 443 && fenced_other'
exec_in again -- /egress-init check --user node -- /probe exit 9
row 'behind check -- its exit code comes back' exits 9
start bare --entrypoint /probe -- wait
exec_in bare -- /egress-init check -- /probe "${attempts[@]}"
row 'where no firewall is, check -- does not run it' eval 'exits 1 && says "^egress-init: .*sentinel" && ! says "^tcp"'
exec_in again -- /egress-init --user node --allow "$other4" -- /probe tcp "$other4:443" tcp "$api4:443"
row 'a second start by exec, with the capability, replaces the policy' \
    eval 'was tcp "$other4:443" ok && was tcp "$api4:443" failed'
exec_in again --user 1000 -- /egress-init --allow "$other4" -- /probe exit 0
row 'without the capability it is refused' refused 'egress-init'
row 'but for that second start nothing arrived at the other server' test "$((before + 1))" -eq "$(arrivals other)"

scenario 'docker pause and unpause'
start paused "${agent[@]}" --user node -- /probe tick
row 'the agent is at work' until_true logged paused '^tick 3$'
docker pause "$id-paused" >/dev/null
ticks=$(logs paused | grep --count ^tick)
sleep 0.4
row 'paused: it stands still' test "$(logs paused | grep --count ^tick)" -le $((ticks + 1))
docker unpause "$id-paused" >/dev/null
row 'unpaused: it goes on' until_true logged paused "^tick $((ticks + 4))$"
exec_in paused --user 1000 -- /egress-init check
row 'and is verified' exits 0
before=$(arrivals other)
exec_in paused --user 1000 -- /probe "${attempts[@]}"
fenced
row 'nothing arrived at the other server' test "$before" -eq "$(arrivals other)"
