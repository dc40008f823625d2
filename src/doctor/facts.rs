//! What the checks judge, as plain data.

use super::limits::Limits;
use crate::{
    accounts::Identity, canary::Alive, error::Error, privileges::Status, sentinel::Sentinel,
};
use std::{net::SocketAddr, path::PathBuf};

/// Everything that is judged.
pub struct Facts {
    /// What this process may do.
    pub own: Option<Status>,
    /// Before a start.
    pub start: Option<StartFacts>,
    /// After one.
    pub live: Option<LiveFacts>,
    /// In both situations.
    pub around: AroundFacts,
}

/// Before a start.
pub struct StartFacts {
    /// Whether the network is the container's.
    pub network: Look<()>,
    /// Whether the kernel takes the rules.
    pub kernel: Look<()>,
    /// Whether privileges can be dropped.
    pub drop: Look<()>,
    /// Capabilities that options ask for, as a mask.
    pub kept: u64,
    /// `--user` as typed, and who that is.
    pub user: Look<Option<(String, Identity)>>,
    /// The list, and how many of its names are to be resolved.
    pub list: Look<usize>,
    /// Each nameserver, and whether it answers.
    pub nameservers: Look<Vec<(SocketAddr, Result<(), String>)>>,
    /// Whether names can be pinned.
    pub hosts: Look<()>,
    /// Whether a sentinel can be published, and where.
    pub folder: Look<PathBuf>,
}

/// After a start.
pub struct LiveFacts {
    /// What was published.
    pub sentinel: Look<Sentinel>,
    /// Whether the rules answer.
    pub canary: Look<Alive>,
    /// Whether they answer over IPv6, false where that has no route.
    pub ipv6: Look<bool>,
    /// Capabilities that options ask for, as a mask.
    pub kept: u64,
}

/// The container's own walls.
pub struct AroundFacts {
    /// Whether the root file system is read-only.
    pub root_read_only: Option<bool>,
    /// What /tmp is like.
    pub tmp: Tmp,
    /// The limits of the control group.
    pub limits: Limits,
    /// Sockets of container runtimes.
    pub runtime_sockets: Vec<PathBuf>,
    /// Folders of the host's system.
    pub host_mounts: Vec<String>,
    /// Disks and memory devices.
    pub devices: Vec<PathBuf>,
    /// Those of /proc/sys and /sys that are not read-only.
    pub writable_kernel: Vec<String>,
    /// Whether the processes are the host's.
    pub host_pids: bool,
    /// Names of variables.
    pub secrets: Vec<String>,
    /// The state directory, where one is named, and whether it is the command's alone.
    pub state_dir: Option<(PathBuf, Look<()>)>,
}

/// One look at something.
pub enum Look<T> {
    /// It is as it should be, as far as one look can tell.
    Seen(T),
    /// It is not.
    Wrong(Problem),
    /// It cannot be seen, or need not be, and why.
    Hidden(String),
}

/// What is wrong with something.
pub struct Problem {
    /// The sentence.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl<T> Look<T> {
    /// With what to do about it.
    pub fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Wrong(Problem {
            what: what.into(),
            remedy: Some(remedy.into()),
        })
    }

    /// As a start would report it.
    pub fn of(result: Result<T, impl Into<Error>>) -> Self {
        match result {
            Ok(value) => Self::Seen(value),
            Err(error) => {
                let error = error.into();
                Self::Wrong(Problem {
                    what: first_line(&error.chain()),
                    remedy: Some(error.remedy().unwrap_or_else(|| {
                        "see docs/troubleshooting.md, which lists each message".to_owned()
                    })),
                })
            }
        }
    }
}

/// A list has all its mistakes in one error, each on a line of its own.
fn first_line(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.count() {
        0 => first,
        more => format!("{first} (and {more} more)"),
    }
}

/// What /tmp is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tmp {
    /// It does not exist.
    Absent,
    /// Nothing can be written there.
    ReadOnly,
    /// Nothing there can be executed.
    NoExec,
    /// What is written there can be executed.
    Executable,
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::limits::Limit, sentinel::Enforced};

    fn own() -> Status {
        Status {
            uid: [1000; 4],
            gid: [1000; 4],
            groups: vec![1000],
            inheritable: 0,
            permitted: 0,
            effective: 0,
            bounding: 0,
            ambient: 0,
            no_new_privs: true,
            seccomp: 2,
            ignored: 0,
        }
    }

    fn walls() -> AroundFacts {
        let limit = |value: &str| Limit::Set(value.to_owned());
        AroundFacts {
            root_read_only: Some(true),
            tmp: Tmp::NoExec,
            limits: Limits {
                memory: limit("512 MiB"),
                cpu: limit("1.00"),
                pids: limit("256"),
            },
            runtime_sockets: Vec::new(),
            host_mounts: Vec::new(),
            devices: Vec::new(),
            writable_kernel: Vec::new(),
            host_pids: false,
            secrets: Vec::new(),
            state_dir: Some(("/state".into(), Look::Seen(()))),
        }
    }

    /// The recipe for production, before a start.
    pub(in crate::doctor) fn hardened_before() -> Facts {
        let needed = [6, 7, 8, 12].iter().fold(0, |mask, bit| mask | 1 << bit);
        let node = Identity {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
        };
        Facts {
            own: Some(Status {
                uid: [0; 4],
                permitted: needed,
                effective: needed,
                bounding: needed,
                ..own()
            }),
            start: Some(StartFacts {
                network: Look::Seen(()),
                kernel: Look::Seen(()),
                drop: Look::Seen(()),
                kept: 0,
                user: Look::Seen(Some(("node".into(), node))),
                list: Look::Seen(1),
                nameservers: Look::Seen(vec![(([127, 0, 0, 11], 53).into(), Ok(()))]),
                hosts: Look::Seen(()),
                folder: Look::Seen("/etc/beacon-code".into()),
            }),
            live: None,
            around: walls(),
        }
    }

    /// The recipe for production, from inside the command.
    pub(in crate::doctor) fn hardened_after() -> Facts {
        let enforced = Enforced {
            mode: "exec".into(),
            dns: "pinned".into(),
            ruleset_sha256: "0".repeat(64),
            names: 1,
            ipv4: 1,
            ipv6: 1,
        };
        Facts {
            own: Some(own()),
            start: None,
            live: Some(LiveFacts {
                sentinel: Look::Seen(Sentinel::here(enforced).unwrap()),
                canary: Look::Seen(Alive::NoRoute),
                ipv6: Look::Seen(false),
                kept: 0,
            }),
            around: walls(),
        }
    }
}
