//! The limits of the control group, version 2 and version 1, as the kernel's
//! admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/ have them. The tightest on the way to the
//! root counts.

use super::mounts::Mount;
use std::path::{Path, PathBuf};

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There is one.
    Set(String),
    /// There is none.
    None,
    /// The control group is not to be seen.
    Unknown,
}

/// What a leak, a busy loop and a fork bomb come up against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory.
    pub memory: Limit,
    /// Processor time.
    pub cpu: Limit,
    /// Processes and threads.
    pub pids: Limit,
}

/// Version 1 writes its largest number for no limit: a multiple of the page size below 2^63.
const NO_MEMORY_LIMIT: f64 = 9.2e18;

/// Reads a file, if there is one.
type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

impl Limits {
    /// From /proc/self/cgroup, the mounts, and the files of the groups.
    pub fn find(cgroup: &str, mounts: &[Mount], read: Read<'_>) -> Self {
        let groups = |controller| Groups::of(controller, cgroup, mounts);
        Self {
            memory: groups("memory").tightest(
                |group, version_2| {
                    let file = if version_2 {
                        "memory.max"
                    } else {
                        "memory.limit_in_bytes"
                    };
                    let limit = number(&read(&group.join(file))?);
                    Some(limit.filter(|limit| *limit < NO_MEMORY_LIMIT))
                },
                |octets| format!("{:.0} MiB", octets / 1_048_576.0),
            ),
            cpu: groups("cpu").tightest(
                |group, version_2| {
                    let [quota, period] = if version_2 {
                        let text = read(&group.join("cpu.max"))?;
                        let (quota, period) = text.trim().split_once(' ')?;
                        [number(quota), number(period)]
                    } else {
                        ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
                            .map(|file| read(&group.join(file)).as_deref().and_then(number))
                    };
                    Some(
                        quota
                            .filter(|quota| *quota > 0.0)
                            .zip(period)
                            .map(|(q, p)| q / p),
                    )
                    .filter(|_| period.is_some())
                },
                |processors| format!("{processors:.2}"),
            ),
            pids: groups("pids").tightest(
                |group, _| Some(number(&read(&group.join("pids.max"))?)),
                |processes| format!("{processes:.0}"),
            ),
        }
    }
}

/// `max`, and whatever else is no number, is none.
fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// The groups of one controller that this process is in, its own first.
struct Groups {
    directories: Vec<PathBuf>,
    version_2: bool,
}

impl Groups {
    fn of(controller: &str, cgroup: &str, mounts: &[Mount]) -> Self {
        // `hierarchy:controllers:path` (cgroups(7)); version 2 has hierarchy 0 and no controllers.
        let mut lines = cgroup.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            Some((fields.next()?, fields.next()?, fields.next()?))
        });
        let has = |names: &str| names.split(',').any(|name| name == controller);
        let own = lines.clone().find(|(_, controllers, _)| has(controllers));
        let version_2 = own.is_none();
        let own = own.or_else(|| lines.find(|(hierarchy, ..)| *hierarchy == "0"));
        let mount = mounts.iter().find(|mount| {
            if version_2 {
                mount.kind == "cgroup2"
            } else {
                mount.kind == "cgroup" && has(&mount.super_options)
            }
        });
        let directories = match (own, mount) {
            (Some((.., path)), Some(mount)) => directories(Path::new(path), mount),
            _ => Vec::new(),
        };
        Self {
            directories,
            version_2,
        }
    }

    /// `limit` is nothing where the file is not there, and nothing in it where there is no limit.
    fn tightest(
        &self,
        limit: impl Fn(&Path, bool) -> Option<Option<f64>>,
        show: impl Fn(f64) -> String,
    ) -> Limit {
        let found = self.directories.iter();
        let found: Vec<_> = found
            .filter_map(|group| limit(group, self.version_2))
            .collect();
        if found.is_empty() {
            return Limit::Unknown;
        }
        match found.into_iter().flatten().reduce(f64::min) {
            Some(value) => Limit::Set(show(value)),
            None => Limit::None,
        }
    }
}

/// From the group of `path` up to where the hierarchy is mounted. A container without a cgroup
/// namespace sees the host's path, and a mount of its own group: then that is the root.
fn directories(path: &Path, mount: &Mount) -> Vec<PathBuf> {
    let below = path.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    below
        .ancestors()
        .map(|group| mount.at.join(group))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::mounts;
    use std::collections::HashMap;

    fn find(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Limits {
        let files: HashMap<PathBuf, &str> = files
            .iter()
            .map(|(path, text)| ((*path).into(), *text))
            .collect();
        let read = |path: &Path| files.get(path).map(|text| format!("{text}\n"));
        Limits::find(cgroup, &mounts::parse(mountinfo), &read)
    }

    fn set(memory: &str, cpu: &str, pids: &str) -> Limits {
        let set = |text: &str| Limit::Set(text.to_owned());
        Limits {
            memory: set(memory),
            cpu: set(cpu),
            pids: set(pids),
        }
    }

    const V2: &str = "30 29 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n";

    #[test]
    fn version_2_in_a_cgroup_namespace() {
        let limits = find(
            "0::/\n",
            V2,
            &[
                ("/sys/fs/cgroup/memory.max", "536870912"),
                ("/sys/fs/cgroup/cpu.max", "150000 100000"),
                ("/sys/fs/cgroup/pids.max", "256"),
            ],
        );
        assert_eq!(limits, set("512 MiB", "1.50", "256"));
    }

    #[test]
    fn the_tightest_on_the_way_up_counts() {
        let limits = find(
            "0::/pod/container\n",
            V2,
            &[
                ("/sys/fs/cgroup/pod/container/memory.max", "max"),
                ("/sys/fs/cgroup/pod/memory.max", "1048576"),
                ("/sys/fs/cgroup/pod/container/cpu.max", "max 100000"),
                ("/sys/fs/cgroup/pod/container/pids.max", "10"),
                ("/sys/fs/cgroup/pod/pids.max", "100"),
            ],
        );
        assert_eq!(limits.memory, Limit::Set("1 MiB".into()));
        assert_eq!(limits.cpu, Limit::None);
        assert_eq!(limits.pids, Limit::Set("10".into()));
    }

    #[test]
    fn version_1_as_docker_mounts_it() {
        let mountinfo = "1 2 0:3 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                         1 2 0:4 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                         1 2 0:5 /docker/ab /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n\
                         1 2 0:6 / /sys/fs/cgroup/unified ro - cgroup2 cgroup rw\n";
        let cgroup =
            "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:pids:/docker/ab\n0::/docker/ab\n";
        let limits = find(
            cgroup,
            mountinfo,
            &[
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824"),
                ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000"),
                ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
                ("/sys/fs/cgroup/pids/pids.max", "64"),
            ],
        );
        assert_eq!(limits, set("1024 MiB", "0.50", "64"));
        let unlimited = find(
            cgroup,
            mountinfo,
            &[
                (
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712",
                ),
                ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1"),
                ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
                ("/sys/fs/cgroup/pids/pids.max", "max"),
            ],
        );
        assert_eq!(
            unlimited,
            Limits {
                memory: Limit::None,
                cpu: Limit::None,
                pids: Limit::None
            }
        );
    }

    #[test]
    fn what_is_not_there_is_unknown() {
        for (cgroup, mountinfo) in [("", ""), ("0::/\n", ""), ("0::/\n", V2), ("broken", V2)] {
            assert_eq!(
                find(cgroup, mountinfo, &[]).memory,
                Limit::Unknown,
                "{cgroup}"
            );
        }
    }
}
