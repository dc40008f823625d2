//! Which container is this? For logs and for the holder of a lock: something that an operator can
//! look up. Nothing depends on it.

use crate::file;

/// The id of the container, where the kernel or the runtime lets it be known: 64 hexadecimal
/// digits, or the 12 that Docker makes the host name.
#[must_use]
pub fn id() -> Option<String> {
    let read = |path| file::of_proc(path).unwrap_or_default();
    from_cgroup(&read("/proc/self/cgroup"))
        .or_else(|| from_mountinfo(&read("/proc/self/mountinfo")))
        .or_else(|| from_host_name(&host_name()?))
}

/// The name of the host, as the container has it.
#[must_use]
pub fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// Of `cgroups(7)`: `/docker/ID`, `docker-ID.scope`, `cri-containerd-ID.scope` and the like. A
/// cgroup namespace hides it.
fn from_cgroup(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter_map(|path| path.rsplit('/').next())
        .find_map(long_id)
}

/// Runtimes keep the files that they mount over those of /etc in a folder named after the
/// container, Kubernetes after the sandbox of the pod (`proc_pid_mountinfo(5)`: the fourth field
/// is what of the file system is mounted, the fifth is where).
fn from_mountinfo(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let of_etc = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&at);
        of_etc.then(|| root.split('/').find_map(long_id)).flatten()
    })
}

/// 12 digits: Docker's default for a host name.
fn from_host_name(name: &str) -> Option<String> {
    (name.len() == 12 && is_hexadecimal(name)).then(|| name.to_owned())
}

/// The 64 digits in `ID`, `docker-ID.scope` or `libpod-ID`.
fn long_id(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit(['-', ':']).next()?;
    (id.len() == 64 && is_hexadecimal(id)).then(|| id.to_owned())
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: &str = "4f1c9e3a4f1c9e3a4f1c9e3a4f1c9e3a4f1c9e3a4f1c9e3a4f1c9e3a4f1c9e3a";

    #[test]
    fn cgroup_paths_of_the_usual_runtimes_have_it() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod12.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods/burstable/pod12/{ID}"),
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/k8s.io/x:cri-containerd:{ID}"),
        ] {
            let text = format!("12:pids:{path}\n0::/\n");
            assert_eq!(from_cgroup(&text).unwrap(), ID, "{path}");
        }
        assert_eq!(from_cgroup("0::/\n"), None);
        assert_eq!(from_cgroup("0::/user.slice/session-1.scope\n"), None);
        assert_eq!(from_cgroup(&format!("0::/docker/{}\n", &ID[1..])), None);
    }

    #[test]
    fn mounted_files_of_etc_have_it() {
        let line = |root: &str, at: &str| {
            format!(
                "1 2 0:3 / / rw - overlay overlay rw\n4 5 8:1 {root} {at} rw - ext4 /dev/a rw\n"
            )
        };
        let root = format!("/var/lib/docker/containers/{ID}/hostname");
        assert_eq!(from_mountinfo(&line(&root, "/etc/hostname")).unwrap(), ID);
        assert_eq!(from_mountinfo(&line(&root, "/data")), None);
        assert_eq!(from_mountinfo(&line("/etc/hosts", "/etc/hosts")), None);
        assert_eq!(from_mountinfo("broken\n"), None);
    }

    #[test]
    fn a_host_name_that_somebody_chose_is_none() {
        assert_eq!(from_host_name("0aa20b05a40a").unwrap(), "0aa20b05a40a");
        for name in ["", "web-1", "0aa20b05a40", "0AA20B05A40A", "decade-facade"] {
            assert_eq!(from_host_name(name), None, "{name}");
        }
    }
}
