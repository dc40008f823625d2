# Sourced by the scripts beside it: where we are, and how to say that something is wrong.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# A heading on a terminal, a plain line in a log.
step() {
    if [[ -t 1 ]]; then
        printf '\033[1m== %s\033[0m\n' "$*"
    else
        printf '== %s\n' "$*"
    fi
}

# A target/ that another user made (root, usually) is of no use to this one.
if [[ -z ${CARGO_TARGET_DIR:-} ]]; then
    if [[ -e target && ! -w target ]]; then
        CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/egress-init/target
    else
        CARGO_TARGET_DIR=$PWD/target
    fi
    export CARGO_TARGET_DIR
fi

# The target triple of this machine.
host_triple() {
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p')
    case $triple in
        x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) printf '%s\n' "$triple" ;;
        *) die "egress-init is built on x86_64 and aarch64 Linux with glibc; this toolchain is for $triple" ;;
    esac
}
machine() { host_triple | cut -d - -f 1; }

# static_triple [ARCHITECTURE]: that of the static binary. With musl, because the beginning of a static glibc
# takes longer: on x86_64 it asks the processor about itself some forty times, and each time a virtual machine
# is left. A toolchain that does not have the target builds for glibc.
static_triple() {
    local architecture=${1:-$(machine)}
    if has_target "$architecture-unknown-linux-musl"; then
        printf '%s\n' "$architecture-unknown-linux-musl"
    else
        printf '%s\n' "$architecture-unknown-linux-gnu"
    fi
}

has_target() { [[ -d $(rustc --print target-libdir --target "$1") ]]; }

static_binary() {
    printf '%s\n' "$CARGO_TARGET_DIR/$(static_triple "$@")/release/egress-init"
}

engine_answers() {
    command -v docker >/dev/null && timeout 20 docker info --format '{{.ServerVersion}}' >/dev/null 2>&1
}
