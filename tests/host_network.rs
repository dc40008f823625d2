//! The refusal on `--network host`, in whatever network namespace the tests are run in.
//!
//! The binary runs without `CAP_NET_ADMIN`, in the bounding set included: if it failed to see that
//! this is the host, the kernel would refuse the lock, and the sentence would be another one. So
//! nothing here can lock the machine.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    path::Path,
    process::{Command, Output},
};

/// By other means than the program's: `ipv4_table` in the kernel's `net/ipv4/sysctl_net_ipv4.c` is
/// registered for the initial namespace alone.
fn is_host() -> bool {
    let ipv4 = Path::new("/proc/sys/net/ipv4");
    assert!(ipv4.join("ip_forward").exists(), "control: /proc is there");
    ipv4.join("tcp_mem").exists()
}

/// Runs the binary, with no capability to change the network, as the last words of `prefix`.
fn start(prefix: &[&str], options: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let sentinel = folder.path().join("firewall.ready");
    let bare = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    let drops = if nix::unistd::geteuid().is_root() {
        &bare[..]
    } else {
        &[]
    };
    let words: Vec<&str> = prefix.iter().chain(drops).copied().collect();
    let binary = env!("CARGO_BIN_EXE_egress-init");
    let mut command = match words.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["--allow", "192.0.2.7", "--sentinel"])
        .arg(&sentinel)
        .args(options)
        .args(["--", "/bin/echo", "the command ran"])
        .output()
        .unwrap();
    assert_eq!(stdout, b"", "the command must not run");
    assert!(!sentinel.exists());
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

const REFUSAL: &str = "this is the network namespace of the host";
const LACKS: &str = "the kernel refused the ruleset: Operation not permitted";

#[test]
fn the_host_is_refused_before_anything_is_tried() {
    let (code, said) = start(&[], &[]);
    assert_eq!(code, Some(125), "{said}");
    if is_host() {
        assert!(said.contains(REFUSAL), "{said}");
        assert!(said.contains("--allow-host-network"), "{said}");
        assert!(!said.contains(LACKS), "the lock came first: {said}");
    } else {
        // In a container: as for any other namespace of its own.
        assert!(said.contains(LACKS), "{said}");
    }
}

#[test]
fn on_demand_the_host_is_tried() {
    let (code, said) = start(&[], &["--allow-host-network"]);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains(LACKS), "{said}");
}

#[test]
fn a_namespace_of_its_own_is_not_mistaken_for_it() {
    let unshare: &[&str] = if nix::unistd::geteuid().is_root() {
        &["unshare", "--net"]
    } else {
        &["unshare", "--user", "--net"]
    };
    let (code, said) = start(unshare, &[]);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains(LACKS), "{said}");
    assert!(!said.contains(REFUSAL), "{said}");
}
