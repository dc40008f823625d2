#!/usr/bin/env bash
# The options that harden a container, each alone and all at once, and what is missing, by its name.
source "$(dirname "$0")/../lib.sh"
world
mapfile -t attempts < <(everything)
needed=(--cap-drop ALL --cap-add NET_ADMIN --cap-add SETPCAP --cap-add SETUID --cap-add SETGID)
state=(status CapInh status CapPrm status CapEff status CapBnd status CapAmb status NoNewPrivs
    status Seccomp status Uid status Gid status Groups)
# As the command must find itself (I4).
nothing_kept() {
    local set
    for set in CapInh CapPrm CapEff CapBnd CapAmb; do
        says "^status $set ok 0000000000000000$" || return 1
    done
    says '^status NoNewPrivs ok 1$' && says '^status Seccomp ok 2$'
}
is_node() { says '^status Uid ok 1000 1000 1000 1000$' && says '^status Gid ok 1000 1000 1000 1000$' && says '^status Groups ok ?1?0?0?0?$'; }

scenario 'what the command keeps'
positive_control
run --cap-add NET_ADMIN --cap-add NET_RAW --entrypoint /probe -- "${state[@]}" socket packet socket raw socket netlink
row 'control: without egress-init it has capabilities' not nothing_kept
row 'control: and opens packet and raw sockets' eval 'says "^socket packet ok" && says "^socket raw ok"'
run --cap-add NET_ADMIN --cap-add NET_RAW -- --user node -- /probe "${state[@]}" \
    socket packet socket raw socket vsock socket netlink write /etc/hosts x
row 'no capability in any set, no_new_privs, a socket filter' nothing_kept
row 'user, group and groups of node, and none of root' is_node
row 'no packet, raw or vsock socket' \
    eval 'says "^socket packet failed" && says "^socket raw failed" && says "^socket vsock failed"'
row 'netlink sockets still work' says '^socket netlink ok'
row '/etc/hosts is not the command'"'"'s to write' says '^write /etc/hosts failed'
run --cap-add NET_ADMIN --cap-add NET_RAW --security-opt seccomp=unconfined -- -- /probe "${state[@]}" socket raw
row 'as root and without a seccomp profile of the engine: the same' nothing_kept
row 'and no raw socket' says '^socket raw failed'

scenario '--security-opt no-new-privileges'
run --security-opt no-new-privileges --cap-add NET_ADMIN -- --user node -- /probe "${state[@]}" "${attempts[@]}"
row 'the command runs as node, with nothing kept' eval 'is_node && nothing_kept'
fenced

scenario '--cap-drop ALL and the four that it takes'
run "${needed[@]}" -- --user node -- /probe "${state[@]}" "${attempts[@]}"
row 'the command runs as node, with nothing kept' eval 'is_node && nothing_kept'
fenced
run --cap-drop ALL --cap-add NET_ADMIN --cap-add SETPCAP -- -- /probe "${state[@]}" "${attempts[@]}"
row 'without --user NET_ADMIN and SETPCAP are enough' nothing_kept
fenced 'without --user'

before=$(arrivals api) before_other=$(arrivals other)
for capability in NET_ADMIN SETPCAP SETUID SETGID; do
    scenario "--cap-drop ALL without $capability"
    rest=()
    for word in "${needed[@]}"; do
        if [[ $word == "$capability" ]]; then unset 'rest[-1]'; else rest+=("$word"); fi
    done
    run "${rest[@]}" -- --user node -- /probe "${state[@]}" "${attempts[@]}"
    row "125, it names $capability, the command does not run" refused "--cap-add=$capability"
    row 'in one line' test "$(grep --count '^egress-init' <<<"$output")" -eq 1
done
row 'nothing arrived at any server' test "$before $before_other" = "$(arrivals api) $(arrivals other)"

scenario 'capabilities that the command may not keep'
run --cap-add NET_ADMIN -- --keep-cap NET_ADMIN --user node -- /probe "${attempts[@]}"
row '--keep-cap NET_ADMIN: refused' refused 'NET_ADMIN'
run --cap-add NET_ADMIN -- --keep-cap NET_BIND_SERVICE --user node -- /probe status CapEff status CapAmb "${attempts[@]}"
row '--keep-cap NET_BIND_SERVICE: that one alone' \
    eval 'says "^status CapEff ok 0000000000000400$" && says "^status CapAmb ok 0000000000000400$"'
fenced

scenario '--user of docker itself'
# Docker gives a user that is not root no capability, whatever --cap-add says.
before=$(arrivals api) before_other=$(arrivals other)
run --user 1000:1000 --cap-add NET_ADMIN -- -- /probe "${attempts[@]}"
row 'with NET_ADMIN: 125, and the command does not run' refused '--user'
row 'with NET_ADMIN: it says to start as root' refused 'as root'
run --user 1000:1000 -- -- /probe "${attempts[@]}"
row 'without NET_ADMIN: the same' refused 'as root'
row 'nothing arrived at any server' \
    test "$before $before_other" = "$(arrivals api) $(arrivals other)"

scenario '--read-only'
read_only=(--read-only "${needed[@]}" --security-opt no-new-privileges)
run "${read_only[@]}" -- --user node -- /probe "${attempts[@]}"
row 'alone: 125, it names the folder and the tmpfs that is missing' \
    refused 'tmpfs /etc/beacon-code'
# Docker mounts /etc/hosts read-only too, so pinned takes a file of its own there.
run "${read_only[@]}" --tmpfs /run:mode=0755 -- --sentinel /run/firewall.ready --user node -- /probe "${attempts[@]}"
row 'with a tmpfs: 125, it names /etc/hosts and --dns system' refused '/etc/hosts.*--dns system'
run "${read_only[@]}" --tmpfs /run:mode=1777 -- --sentinel /run/firewall.ready --user node -- /probe "${attempts[@]}"
row 'with a tmpfs that the command can write to: 125, the folder is named' refused "the sentinel's folder /run is writable"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$work/hosts"
run "${read_only[@]}" --tmpfs /run:mode=0755,noexec --mount "type=bind,source=$work/hosts,target=/etc/hosts" -- \
    --sentinel /run/firewall.ready --user node -- /probe "${state[@]}" "${attempts[@]}" \
    get api.example.org:443 write /etc/x x write /run/firewall.ready x cat /run/firewall.ready
row 'with a tmpfs and a hosts file: the command runs, nothing is kept' eval 'is_node && nothing_kept'
row 'it connects by name' says '^get api.example.org:443 ok'
row 'it cannot write to the root file system or to the sentinel' \
    eval 'says "^write /etc/x failed" && says "^write /run/firewall.ready failed"'
row 'the sentinel is on the tmpfs' says '^cat /run/firewall.ready ok \{'
fenced
run "${read_only[@]}" --tmpfs /run:mode=0755 -- --sentinel /run/firewall.ready --dns system --user node -- \
    /probe "${attempts[@]}" get api.example.org:443
row '--dns system needs no hosts file' says '^get api.example.org:443 ok'
fenced '--dns system'
run "${read_only[@]}" --tmpfs /run:mode=0755 -- --sentinel /run/firewall.ready --allow "$api4" --allow "[$api6]" \
    --user node -- /probe "${attempts[@]}"
row 'nor does a list of addresses alone' exits 0
fenced 'addresses alone'
