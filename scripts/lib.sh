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

# That of the static binary. On x86_64 with musl, because the beginning of a static glibc asks the
# processor about itself there some forty times, and each time a virtual machine is left: half a
# millisecond. On aarch64 it does not, and Rust makes no static-pie with musl. A toolchain that does
# not have the target builds for glibc.
static_triple() {
    local triple
    triple=$(host_triple)
    if [[ $triple == x86_64-* ]] && has_target "$musl"; then
        triple=$musl
    fi
    printf '%s\n' "$triple"
}

musl=x86_64-unknown-linux-musl
has_target() { [[ -d $(rustc --print target-libdir --target "$1") ]]; }

static_binary() {
    printf '%s\n' "$CARGO_TARGET_DIR/$(static_triple)/release/egress-init"
}

engine_answers() {
    command -v docker >/dev/null && timeout 20 docker info --format '{{.ServerVersion}}' >/dev/null 2>&1
}
