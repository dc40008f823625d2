//! The container's own walls: file systems, control groups, mounts, devices, variables.

use super::{
    facts::{AroundFacts, Look, Tmp},
    limits::Limits,
    mounts::{self, Mount},
};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// `PID_NS_INIT_INO` of linux/nsfs.h: since Linux 3.8.
const INIT_PID_INODE: u64 = 0xEFFF_FFFC;

/// Looks at all of them; the state directory was looked at already.
pub fn around(
    state_dir: Option<(PathBuf, Look<()>)>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> AroundFacts {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let mounts = mounts::parse(&read(Path::new("/proc/self/mountinfo")).unwrap_or_default());
    let cgroup = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    AroundFacts {
        root_read_only: is_read_only(Path::new("/")),
        tmp: tmp(Path::new("/tmp")),
        limits: Limits::find(&cgroup, &mounts, &read),
        runtime_sockets: runtime_sockets(&mounts),
        host_mounts: mounts::of_the_host(&mounts, is_root_file_system),
        devices: devices(),
        writable_kernel: ["/proc/sys", "/sys"]
            .into_iter()
            .filter(|path| is_read_only(Path::new(path)) == Some(false))
            .map(str::to_owned)
            .collect(),
        host_pids: fs::metadata("/proc/self/ns/pid")
            .is_ok_and(|metadata| metadata.ino() == INIT_PID_INODE),
        secrets: secrets(variables),
        state_dir,
    }
}

fn is_read_only(path: &Path) -> Option<bool> {
    let found = statvfs(path).ok()?;
    Some(found.flags().contains(FsFlags::ST_RDONLY))
}

fn tmp(path: &Path) -> Tmp {
    let Ok(found) = statvfs(path) else {
        return Tmp::Absent;
    };
    if found.flags().contains(FsFlags::ST_RDONLY) {
        Tmp::ReadOnly
    } else if found.flags().contains(FsFlags::ST_NOEXEC) {
        Tmp::NoExec
    } else {
        Tmp::Executable
    }
}

/// Where the runtimes have their sockets, below /run; and wherever one was mounted.
fn runtime_sockets(mounts: &[Mount]) -> Vec<PathBuf> {
    const SOCKETS: [&str; 8] = [
        "docker.sock",
        "containerd/containerd.sock",
        "k3s/containerd/containerd.sock",
        "crio/crio.sock",
        "podman/podman.sock",
        "cri-dockerd.sock",
        "buildkit/buildkitd.sock",
        "dockershim.sock",
    ];
    let is_socket =
        |path: &Path| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let folders = mounts.iter().map(|mount| mount.at.as_path());
    let folders = [Path::new("/run"), Path::new("/var/run")]
        .into_iter()
        .chain(folders);
    let below = folders.flat_map(|folder| SOCKETS.map(|socket| folder.join(socket)));
    let mounted = mounts
        .iter()
        .filter(|mount| {
            let name = |path: &Path| {
                SOCKETS
                    .iter()
                    .any(|socket| path.file_name() == Path::new(socket).file_name())
            };
            name(&mount.root) || name(&mount.at)
        })
        .map(|mount| mount.at.clone());
    let mut found: Vec<PathBuf> = below
        .chain(mounted)
        .filter(|path| is_socket(path))
        .collect();
    // /var/run is a link to /run mostly.
    found.sort_by_key(|path| fs::canonicalize(path).ok());
    found.dedup_by_key(|path| fs::canonicalize(path).ok());
    found
}

fn is_root_file_system(path: &Path) -> bool {
    ["etc/passwd", "proc", "sys", "usr"]
        .iter()
        .all(|name| path.join(name).exists())
}

fn devices() -> Vec<PathBuf> {
    let memory = ["/dev/mem", "/dev/kmem", "/dev/port"].map(PathBuf::from);
    let memory = memory.into_iter().filter(|path| path.exists());
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let disks = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()))
        .map(|entry| entry.path());
    let mut found: Vec<PathBuf> = memory.chain(disks).collect();
    found.sort_unstable();
    found
}

/// By name alone; a value is looked at for whether there is one. What names a file is as it
/// should be.
fn secrets(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    const MARKS: [&str; 10] = [
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "SECRET",
        "TOKEN",
        "API_KEY",
        "APIKEY",
        "ACCESS_KEY",
        "PRIVATE_KEY",
        "CREDENTIAL",
    ];
    const NO_SECRETS: [&str; 7] = ["_FILE", "_FILES", "_PATH", "_DIR", "_ID", "_NAME", "_URL"];
    let mut names: Vec<String> = variables
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| {
            let name = name.to_ascii_uppercase();
            let is_marked = name.ends_with("_KEY") || MARKS.iter().any(|mark| name.contains(mark));
            is_marked && !NO_SECRETS.iter().any(|end| name.ends_with(end))
        })
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<String> {
        let variables = names.iter().map(|name| ((*name).into(), "value".into()));
        secrets(variables)
    }

    #[test]
    fn secrets_are_told_by_name() {
        let all = [
            "AWS_SECRET_ACCESS_KEY",
            "DB_PASSWORD",
            "GITHUB_TOKEN",
            "OPENAI_API_KEY",
            "STRIPE_KEY",
            "npm_config__authToken",
        ];
        assert_eq!(named(&all), all);
        let none = [
            "PATH",
            "HOME",
            "KEYBOARD",
            "DB_PASSWORD_FILE",
            "AWS_ACCESS_KEY_ID",
            "CODE_HOME",
            "OPENAI_ALLOWED_DOMAINS",
        ];
        assert_eq!(named(&none), Vec::<String>::new());
        let empty = [("GITHUB_TOKEN".into(), OsString::new())];
        assert_eq!(secrets(empty.into_iter()), Vec::<String>::new());
    }
}
