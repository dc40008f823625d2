# Sourced after lib.sh: a Debian for what is under docker/, and for the real clients. The packages are fetched
# once, into target/debian.
#
#   debian_archive KIND      KIND is a word of $packages below; the file system is $debian/KIND.tar
#   debian_root KIND         the same as a directory, $debian/KIND
#   debian_base KIND TAG     the same as an image
#   builder_base TAG         the base of docker/Dockerfile: with this machine's Rust and the crates

debian=$CARGO_TARGET_DIR/debian

declare -A packages=(
    [builder]=ca-certificates,gcc,libc6-dev
    [services]=nodejs,npm,python3-venv
    [clients]=ca-certificates,curl,git,python3,python3-requests,python3-pip,openssh-client,openssh-server,nodejs,bind9-dnsutils
)

debian_archive() { make_debian "$debian/$1.tar" trixie "${packages[$1]}"; }

# Scenarios run side by side, so that whoever comes second waits.
debian_root() {
    local root=$debian/$1 lock
    debian_archive "$1"
    exec {lock}>"$root.lock"
    flock "$lock"
    if [[ ! -f $root/complete || $root/complete -ot $root.tar ]]; then
        as_root rm -rf "$root"
        as_root mkdir "$root"
        as_root tar --extract --directory "$root" --file "$root.tar" --exclude='./dev/*'
        as_root touch "$root/complete"
    fi
    exec {lock}>&-
}

import() { # import TAG [CHANGES...] <ARCHIVE
    local tag=$1 label changes=()
    shift
    for label in "${labels[@]}"; do
        [[ $label == --label ]] || changes+=(--change "LABEL $label=1")
    done
    docker import "${changes[@]}" "$@" - "$tag" >/dev/null
}

debian_base() {
    debian_archive "$1"
    import "$2" <"$debian/$1.tar"
}

# The toolchain is the one that built everything else here; the crates are those of Cargo.lock.
builder_base() {
    local tree=$work/builder sysroot
    sysroot=$(rustc --print sysroot)
    debian_archive builder
    CARGO_HOME=$debian/cargo cargo fetch --quiet --locked --target "$(static_triple)"
    mkdir -p "$tree"/{rust/bin,cargo/registry}
    cp "$sysroot"/bin/{cargo,rustc} "$tree/rust/bin/"
    cp --recursive --link "$sysroot/lib" "$tree/rust/" 2>/dev/null || cp --recursive "$sysroot/lib" "$tree/rust/"
    cp --recursive "$debian"/cargo/registry/{cache,index} "$tree/cargo/registry/"
    cp "$debian/builder.tar" "$tree/builder.tar"
    tar --append --file "$tree/builder.tar" --owner=0 --group=0 --directory "$tree" \
        --transform='s,^,usr/local/,' rust cargo
    import "$1" --change 'ENV PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'ENV CARGO_HOME=/usr/local/cargo' --change 'ENV CARGO_NET_OFFLINE=true' \
        <"$tree/builder.tar"
    rm -rf "$tree"
}
