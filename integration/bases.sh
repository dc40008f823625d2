# Sourced after lib.sh: base images for what is under docker/, made here of Debian's packages,
# because no registry is asked. The packages are fetched once, into target/bases.
#
#   debian_base KIND TAG     KIND is a word of base_packages below
#   builder_base TAG         the base of docker/Dockerfile: with this machine's Rust and the crates

bases=$CARGO_TARGET_DIR/bases

declare -A base_packages=(
    [builder]=ca-certificates,gcc,libc6-dev
    [services]=nodejs,npm,python3-venv
)

# debian_archive KIND: a file system of Debian 13 with these packages, as $bases/KIND.tar. Scenarios
# run side by side, so that whoever comes second waits.
debian_archive() {
    mkdir -p "$bases"
    local lock
    exec {lock}>"$bases/$1.lock"
    flock "$lock"
    make_archive "$1"
    exec {lock}>&-
}
make_archive() {
    local archive=$bases/$1.tar packages=${base_packages[$1]} mirror
    [[ -f $archive && $(cat "$archive.packages") == "$packages" ]] && return
    command -v mmdebstrap >/dev/null || install_mmdebstrap
    # shellcheck disable=SC2016 # the placeholder is apt's
    mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
        awk '$1 ~ /^(bookworm|trixie)$/ && $2 == "main" { print $3; exit }')
    step "making a Debian 13 with $packages"
    mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        trixie "$archive.new" "${mirror:-http://deb.debian.org/debian}" >"$work/mmdebstrap.log" 2>&1 ||
        die "$(cat "$work/mmdebstrap.log")"
    printf '%s\n' "$packages" >"$archive.packages"
    mv "$archive.new" "$archive"
}

install_mmdebstrap() {
    if ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
        die 'the images need mmdebstrap; type: sudo apt-get install mmdebstrap'
    fi
    step 'installing mmdebstrap'
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --yes --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null
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
    import "$2" <"$bases/$1.tar"
}

# The toolchain is the one that built everything else here; the crates are those of Cargo.lock.
builder_base() {
    local tree=$work/builder sysroot
    sysroot=$(rustc --print sysroot)
    debian_archive builder
    CARGO_HOME=$bases/cargo cargo fetch --quiet --locked --target "$(static_triple)"
    mkdir -p "$tree"/{rust/bin,cargo/registry}
    cp "$sysroot"/bin/{cargo,rustc} "$tree/rust/bin/"
    cp --recursive --link "$sysroot/lib" "$tree/rust/" 2>/dev/null || cp --recursive "$sysroot/lib" "$tree/rust/"
    cp --recursive "$bases"/cargo/registry/{cache,index} "$tree/cargo/registry/"
    cp "$bases/builder.tar" "$tree/builder.tar"
    tar --append --file "$tree/builder.tar" --owner=0 --group=0 --directory "$tree" \
        --transform='s,^,usr/local/,' rust cargo
    import "$1" --change 'ENV PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'ENV CARGO_HOME=/usr/local/cargo' --change 'ENV CARGO_NET_OFFLINE=true' \
        <"$tree/builder.tar"
    rm -rf "$tree"
}
