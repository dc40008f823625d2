# Sourced after lib.sh by the scenarios with real clients: a Debian with curl, git, pip, Python, Node, ssh
# and dig, made once, as the image $run_image, and servers for them.
#
#   real_clients LIST...     makes the image, whose list has these entries; sets $mounts, options of every
#                            container of it
#   web NAME OPTIONS...      a container $id-NAME of it that serves HTTP, HTTPS, git and ssh
#   at_once CLIENT           how long it may take to fail
#   arrived_at NAME          how many came there
#
# In such a container /clients/attempt HOST... tries every one of $clients: integration/clients.

source integration/debian.sh

clients=(curl curl-tls git-http git-https git-daemon pip python-urllib python-requests node-fetch ssh)

real_clients() {
    local root=$debian/clients
    debian_root clients

    # /usr is mounted and not copied into the image: the image is there in a moment.
    mkdir "$work/clients" "$work/data"
    as_root tar --directory "$root" --create bin sbin lib lib64 etc >"$work/clients/root.tar"
    if [[ ${INTEGRATION_IMAGE:-} ]]; then
        docker create "${labels[@]}" --name "$id-programs" "$image" >/dev/null
        docker cp "$id-programs:/egress-init" "$work/clients/egress-init"
    else
        make_image
        cp "$work/image/egress-init" "$work/clients/"
    fi
    printf '%s\n' "$@" >"$work/clients/allowed_domains.txt"
    cat >"$work/clients/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD root.tar /
COPY egress-init /egress-init
COPY allowed_domains.txt /etc/beacon-code/allowed_domains.txt
ENTRYPOINT ["/egress-init"]
DOCKERFILE
    build_image "$id-clients" "$work/clients"
    run_image=$id-clients
    mounts=(--volume "$root/usr:/usr:ro" --volume "$PWD/integration/clients:/clients:ro" --tmpfs /tmp:exec)
    run_on none "${mounts[@]}" --volume "$work/data:/data" --entrypoint /clients/prepare -- /data
    [[ $code == 0 ]] || die "$output"
    mounts+=(--volume "$work/data:/data:ro")
}

web() {
    local name=$1
    shift
    docker run --detach "${labels[@]}" --name "$id-$name" "$@" \
        "${mounts[@]}" --entrypoint /clients/serve "$run_image" >/dev/null
    until_true logged "$name" '^serving'
}

# How many milliseconds, as a pattern, are sooner than the timeouts of a client; pip alone takes seconds
# to start on a loaded machine.
at_once() { if [[ $1 == pip ]]; then echo '1?[0-9]{1,4}'; else echo '[0-9]{1,4}'; fi; }

arrived_at() { logs "$1" | grep --count --extended-regexp '^arrived|Request|Connection|Accepted' || true; }
