//! The files that the start wrote or believed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
};

use super::{Attempt, Context, Evidence};
use crate::{
    stage::TOOL,
    support::world::{ALLOWLIST, SENTINEL},
};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| {
        Attempt::new("files", name, body)
            .privileged()
            .evidence(Evidence::State)
            .of_user()
    };
    vec![
        attempt("the sentinel written", |c| append(SENTINEL, c)),
        attempt("the sentinel truncated", |_| {
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(SENTINEL)
                .map(drop)
        }),
        attempt("the sentinel removed", |_| fs::remove_file(SENTINEL)),
        attempt("the sentinel replaced", |c| {
            fs::write("/tmp/egress-init-escape", &c.token)?;
            let renamed = fs::rename("/tmp/egress-init-escape", SENTINEL);
            let _ = fs::remove_file("/tmp/egress-init-escape");
            renamed.or_else(|_| {
                fs::remove_file(SENTINEL)?;
                fs::write(SENTINEL, &c.token)
            })
        }),
        attempt("the sentinel made writable", |_| {
            fs::set_permissions(SENTINEL, fs::Permissions::from_mode(0o666))
        }),
        attempt("the sentinel given away", |_| {
            Ok(nix::unistd::chown(
                SENTINEL,
                Some(nix::unistd::Uid::from_raw(1000)),
                None,
            )?)
        }),
        attempt("a link beside the sentinel", |_| {
            symlink("/dev/null", "/etc/beacon-code/firewall.ready.new")
        }),
        attempt("the sentinel's folder renamed", |_| {
            fs::rename("/etc/beacon-code", "/etc/beacon-code.old")
        }),
        attempt("the allowlist written", |c| append(ALLOWLIST, c)),
        attempt("/etc/hosts written", |c| append("/etc/hosts", c)),
        attempt("/etc/resolv.conf written", |c| {
            append("/etc/resolv.conf", c)
        }),
        attempt("/etc/passwd written", |c| append("/etc/passwd", c)),
        attempt("a program that root runs written", |c| {
            append(TOOL, c).or_else(|_| fs::remove_file(TOOL))
        }),
        attempt("the files by the root folder of process 1", |c| {
            append(&format!("/proc/1/root{SENTINEL}"), c)
        }),
    ]
}

fn append(path: &str, c: &Context) -> io::Result<()> {
    let mut file: File = OpenOptions::new().append(true).open(path)?;
    writeln!(file, "# {}", c.token)
}
