//! What is mounted (`proc_pid_mountinfo(5)`), and what of it is the host's.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub at: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// The options of the file system itself.
    pub super_options: String,
}

/// Folders of a host that no container needs whole, as the root of a mount.
const HOST_FOLDERS: [&str; 15] = [
    "/boot",
    "/etc",
    "/home",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/usr",
    "/var",
    "/var/lib",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "/var/log",
    "/var/run",
];

/// File systems that the kernel makes, of which each container has its own.
const OF_THE_KERNEL: [&str; 14] = [
    "bpf",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "overlay",
    "ramfs",
    "securityfs",
    "tmpfs",
    "tracefs",
];

/// The lines that can be understood.
pub fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    // A varying number of optional fields ends with a dash.
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let mut after = after.split(' ');
    Some(Mount {
        root: unescape(before.next()?),
        at: unescape(before.next()?),
        kind: after.next()?.to_owned(),
        super_options: after.nth(1).unwrap_or_default().to_owned(),
    })
}

/// Space, tab, newline and backslash come as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..3).filter(|_| *first == b'\\');
        let octet = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        octets.push(octet.unwrap_or(*first));
        rest = if octet.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(octets).into()
}

/// The mounts that are folders of the host's system. `is_root` says whether a whole root file
/// system is there: a volume of its own has the root `/` too.
pub fn of_the_host(mounts: &[Mount], is_root: impl Fn(&Path) -> bool) -> Vec<String> {
    let is_hosts = |mount: &Mount| {
        let Mount { root, at, kind, .. } = mount;
        if at == Path::new("/") {
            return false;
        }
        match kind.as_str() {
            // Runtimes mount parts of /proc over itself, read-only.
            "proc" => !at.starts_with("/proc"),
            "sysfs" => !at.starts_with("/sys"),
            kind if OF_THE_KERNEL.contains(&kind) => is_root(at),
            _ => {
                let root_is_named = HOST_FOLDERS.iter().any(|folder| root == Path::new(folder));
                root_is_named || is_root(at)
            }
        }
    };
    let hosts = mounts.iter().filter(|mount| is_hosts(mount));
    let mut hosts: Vec<String> = hosts
        .map(|Mount { root, at, kind, .. }| {
            format!("{} ({} of {kind})", at.display(), root.display())
        })
        .collect();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As Docker mounts a container, with a volume and its three files of /etc.
    const CONTAINER: &str = "\
601 500 0:50 / / ro,relatime master:1 - overlay overlay rw,lowerdir=/a:/b
602 601 0:51 / /proc rw,nosuid - proc proc rw
603 602 0:51 /sys /proc/sys ro,nosuid - proc proc rw
604 601 0:52 / /dev rw,nosuid - tmpfs tmpfs rw
605 601 0:53 / /sys ro,nosuid - sysfs sysfs ro
606 605 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw
607 601 8:1 /var/lib/docker/containers/ab/hosts /etc/hosts rw - ext4 /dev/sda1 rw
608 601 8:1 /var/lib/docker/volumes/x/_data /home/node/a\\040b rw - ext4 /dev/sda1 rw
609 601 8:17 / /data rw - ext4 /dev/sdb1 rw
";

    #[test]
    fn a_line_is_understood_with_its_escapes() {
        let mounts = parse(CONTAINER);
        assert_eq!(mounts.len(), 9);
        assert_eq!(mounts[7].at, Path::new("/home/node/a b"));
        assert_eq!(
            (mounts[0].kind.as_str(), mounts[0].super_options.as_str()),
            ("overlay", "rw,lowerdir=/a:/b")
        );
        assert_eq!(unescape("a\\134b\\"), Path::new("a\\b\\"));
        assert_eq!(parse("broken\n1 2 3 - x\n"), []);
    }

    #[test]
    fn a_container_has_nothing_of_the_hosts() {
        assert_eq!(
            of_the_host(&parse(CONTAINER), |_| false),
            Vec::<String>::new()
        );
    }

    #[test]
    fn folders_of_the_host_are_found() {
        for (line, is_root) in [
            ("1 2 8:1 /etc /host-etc rw - ext4 /dev/sda1 rw", false),
            ("1 2 8:1 /var/lib/docker /d rw - xfs /dev/sda1 rw", false),
            ("1 2 8:1 / /host rw - ext4 /dev/sda1 rw", true),
            ("1 2 0:9 / /host rw - overlay overlay rw", true),
            ("1 2 0:5 / /host/proc rw - proc proc rw", false),
            ("1 2 0:6 / /host/sys rw - sysfs sysfs rw", false),
        ] {
            assert_eq!(of_the_host(&parse(line), |_| is_root).len(), 1, "{line}");
        }
    }
}
