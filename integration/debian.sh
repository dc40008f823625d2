# Sourced after lib.sh: Debian 13 made here of Debian's packages, because no registry is asked. Each is
# fetched once, into target/debian.
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

# alone KIND COMMAND...: scenarios run side by side, so that whoever comes second waits.
alone() {
    local lock
    mkdir -p "$debian"
    exec {lock}>"$debian/$1.lock"
    flock "$lock"
    "${@:2}"
    exec {lock}>&-
}

debian_archive() { alone "$1" make_archive "$1"; }
make_archive() {
    local archive=$debian/$1.tar include=${packages[$1]} mirror try
    [[ -f $archive && $(cat "$archive.packages") == "$include" ]] && return
    # shellcheck disable=SC2016 # the placeholder is apt's
    mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
        awk '$1 ~ /^(bookworm|trixie)$/ && $2 == "main" { print $3; exit }')
    step "making a Debian 13 with $include"
    # A mirror may be away for a moment.
    for try in 1 2 3; do
        mmdebstrap --quiet --format=tar --variant=minbase --include="$include" \
            --aptopt='Acquire::Retries "3"' --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            trixie "$archive.new" "${mirror:-$debian_mirror}" >"$work/mmdebstrap.log" 2>&1 && break
        ((try < 3)) || die "$(cat "$work/mmdebstrap.log")"
        sleep 10
    done
    printf '%s\n' "$include" >"$archive.packages"
    mv "$archive.new" "$archive"
}

debian_root() {
    debian_archive "$1"
    alone "$1" make_root "$1"
}
make_root() {
    local root=$debian/$1
    [[ -f $root/complete && $root/complete -nt $root.tar ]] && return
    as_root rm -rf "$root"
    as_root mkdir "$root"
    as_root tar --extract --directory "$root" --file "$root.tar" --exclude='./dev/*'
    as_root touch "$root/complete"
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
