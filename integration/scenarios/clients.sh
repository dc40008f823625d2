#!/usr/bin/env bash
# Real clients of a Debian root file system, which is made once: curl, git, Python, Node and ssh reach
# the listed name as ever and fail at once at another:
# sooner than any timeout of theirs, starting them on a loaded machine included.
source "$(dirname "$0")/../lib.sh"

root=$CARGO_TARGET_DIR/integration/clients
packages=ca-certificates,curl,git,python3,python3-requests,openssh-client,openssh-server,nodejs
if [[ ! -e $root/complete ]]; then
    command -v debootstrap >/dev/null || die 'the clients come from debootstrap; type: sudo apt-get install debootstrap'
    as_root rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    as_root debootstrap --variant=minbase --include="$packages" bookworm "$root" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1 ||
        die "debootstrap failed: $(tail -n 3 "$work/debootstrap.log")"
    as_root rm -rf "$root/var/cache/apt" "$root/var/lib/apt"
    as_root touch "$root/complete"
fi

# /usr is mounted and not copied into the image: the image is there in a moment.
mkdir "$work/clients"
as_root tar --directory "$root" --create bin sbin lib lib64 etc >"$work/clients/root.tar"
if [[ ${INTEGRATION_IMAGE:-} ]]; then
    docker create "${labels[@]}" --name "$id-programs" "$image" >/dev/null
    docker cp "$id-programs:/egress-init" "$work/clients/egress-init"
else
    make_image
    cp "$work/image/egress-init" "$work/clients/"
fi
printf 'api.example.org\napi.example.org:22,9418\n' >"$work/clients/allowed_domains.txt"
cat >"$work/clients/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD root.tar /
COPY egress-init /egress-init
COPY allowed_domains.txt /etc/beacon-code/allowed_domains.txt
ENTRYPOINT ["/egress-init"]
DOCKERFILE
build_image "$id-clients" "$work/clients"
run_image=$id-clients
mkdir "$work/data"
mounts=(--volume "$root/usr:/usr:ro" --volume "$PWD/integration/clients:/clients:ro" --tmpfs /tmp:exec)

net=$id
make_network "$net"
api4=$prefix4.10 api6=$prefix6:10 other4=$prefix4.20 other6=$prefix6:20 dns4=$prefix4.53
run_on none "${mounts[@]}" --volume "$work/data:/data" --entrypoint /clients/prepare -- /data
[[ $code == 0 ]] || die "$output"
mounts+=(--volume "$work/data:/data:ro")
web() {
    docker run --detach "${labels[@]}" --name "$id-$1" --network "$net" --ip "$2" --ip6 "$3" \
        "${mounts[@]}" --entrypoint /clients/serve "$run_image" >/dev/null
    until_true logged "$1" '^serving'
}
server dns --network "$net" --ip "$dns4" -- dns api.example.org="$api4,$api6" other.example.org="$other4,$other6"
web api "$api4" "$api6"
web other "$other4" "$other6"

clients=(curl curl-tls git-http git-https git-daemon python-urllib python-requests node-fetch ssh)
hosts=(api.example.org other.example.org)
arrived_at() { logs "$1" | grep --count --extended-regexp '^arrived|Request|Connection|Accepted' || true; }

scenario 'real clients, by name'
run "${mounts[@]}" --user nobody:nogroup --entrypoint /clients/attempt -- "${hosts[@]}"
for client in "${clients[@]}"; do
    row "control: $client reaches both names" eval 'says "^$client api.example.org ok" && says "^$client other.example.org ok"'
done
before=$(arrived_at other)
row 'control: the other server has seen them' test "$before" -ge 7
run "${mounts[@]}" --cap-add NET_ADMIN -- --user nobody -- /clients/attempt "${hosts[@]}"
row 'the clients run' exits 0
for client in "${clients[@]}"; do
    row "$client reaches the listed name" says "^$client api.example.org ok"
    row "$client fails at another at once" \
        says "^$client other.example.org failed [1-4]?[0-9]{1,3} ms: .*(resolv|resolution|EAI_AGAIN)"
done

scenario 'real clients, by address'
run "${mounts[@]}" --cap-add NET_ADMIN --add-host "other.example.org:$other4" -- --user nobody -- /clients/attempt other.example.org
for client in "${clients[@]}"; do
    row "$client fails at another address at once" \
        says "^$client other.example.org failed [1-4]?[0-9]{1,3} ms: .*([Rr]efused|Couldn't connect|ECONNREFUSED)"
done
row 'the other server has seen nobody' test "$before" -eq "$(arrived_at other)"
