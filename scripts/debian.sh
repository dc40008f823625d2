# Sourced after lib.sh: a Debian, made here of Debian's packages, because no registry is asked.

debian_mirror=http://deb.debian.org/debian

# make_debian ARCHIVE RELEASE PACKAGES [OPTIONS...]: a file system with these packages as a tar archive, unless
# it is there already. Options are mmdebstrap's. Whoever comes second waits.
make_debian() {
    local lock
    mkdir -p "$(dirname "$1")"
    exec {lock}>"$1.lock"
    flock "$lock"
    [[ -f $1 && $(<"$1.packages") == "${*:2}" ]] || fetch_debian "$@"
    exec {lock}>&-
}
fetch_debian() {
    local archive=$1 release=$2 include=$3 mirror try log
    shift 3
    # shellcheck disable=SC2016 # the placeholder is apt's
    mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
        awk '$1 ~ /^(bookworm|trixie)$/ && $2 == "main" { print $3; exit }')
    step "fetching Debian $release with $include"
    log=$(mktemp)
    # A mirror may be away for a moment.
    for try in 1 2 3; do
        mmdebstrap --quiet --format=tar --variant=minbase --include="$include" \
            --aptopt='Acquire::Retries "3"' --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            "$@" "$release" "$archive.new" "${mirror:-$debian_mirror}" >"$log" 2>&1 && break
        ((try < 3)) || die "$(cat "$log")"
        sleep 10
    done
    rm "$log"
    printf '%s\n' "$release $include${*:+ $*}" >"$archive.packages"
    mv "$archive.new" "$archive"
}
