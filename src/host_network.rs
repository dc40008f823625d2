//! Is this the network of the host? The one check that comes before the lock: on
//! `docker run --network host` the lock would cut off the whole machine.
//!
//! It keeps the spirit of I1: the kernel is asked, no file of the policy is read, nothing can be
//! waited for. No single hint is trusted. Each of these proves that a namespace is the initial one:
//!
//! - sysctls that exist there alone. `sysctl_core_init` in the kernel's `net/core/sysctl_net_core.c`
//!   registers its table for `init_net`, since Linux 3.5; which of them a process sees goes by its
//!   own network namespace, whoever mounted /proc;
//! - the inode 0xEFFFFFF9 (`NET_NS_INIT_INO` in linux/nsfs.h, Linux 6.18; no other kernel has it);
//! - the cookie 1 (Linux 5.14 to 6.17: cookies are counted from 1, and `init_net` is set up first;
//!   later kernels count all kinds of namespaces, and 1 is none of the network's);
//! - sharing the namespace with process 1 of the initial pid namespace, where that can be seen.
//!
//! And a namespace with a bridge is a host to others, though it be itself in a container.

use crate::{
    links::{self, Links},
    sys::socket,
};
use std::{
    fmt, fs, io,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    path::Path,
};
use thiserror::Error;

/// Sysctls of `init_net` alone, old ones that no emulated /proc has. One of them is enough.
const INIT_SYSCTLS: [&str; 3] = [
    "/proc/sys/net/core/netdev_max_backlog",
    "/proc/sys/net/core/netdev_budget",
    "/proc/sys/net/core/dev_weight",
];
/// A sysctl that every namespace has: without it the others prove nothing by being absent.
const CONTROL_SYSCTL: &str = "/proc/sys/net/core/somaxconn";
const INIT_NET_INODE: u64 = 0xEFFF_FFF9;
const INIT_NET_COOKIE: u64 = 1;
/// `PID_NS_INIT_INO`: since Linux 3.8.
const INIT_PID_INODE: u64 = 0xEFFF_FFFC;

/// Why a start is refused before it has changed anything.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum HostNetwork {
    /// The initial network namespace.
    #[error("this is the network namespace of the host ({0}): the start would lock all of it")]
    Initial(Proof),
    /// One that connects others.
    #[error(
        "this network namespace has the bridge {0}, which connects other containers: the start would cut them off"
    )]
    Bridge(String),
    /// The kernel shows nothing that could tell.
    #[error("cannot tell whether this is the network namespace of the host")]
    Unknown,
}

impl HostNetwork {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let first = match self {
            Self::Initial(_) => "leave --network host (hostNetwork: true) out",
            Self::Bridge(_) => "start egress-init in the containers behind the bridge",
            Self::Unknown => "mount /proc in the container",
        };
        Some(format!(
            "{first}, or pass --allow-host-network if all of it is to be locked, as in a virtual machine for this container alone"
        ))
    }
}

/// What showed that a namespace is the initial one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A sysctl.
    Sysctl,
    /// The inode.
    Inode,
    /// The cookie.
    Cookie,
    /// The first process of the machine.
    Process,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sysctl => "it has the sysctls of the initial namespace",
            Self::Inode => "it has the inode of the initial namespace",
            Self::Cookie => "it has the cookie of the initial namespace",
            Self::Process => "process 1 of the host is in it",
        })
    }
}

/// Whether the network namespace of the calling thread is a host's; if not, what it saw of the
/// links.
pub fn check() -> Result<Links, HostNetwork> {
    judge(&Facts::gather())?;
    // What cannot be listed has no say; a kernel without netlink ends the start soon enough.
    let mut links = links::list().unwrap_or_default();
    match links.bridges.pop() {
        Some(bridge) => Err(HostNetwork::Bridge(bridge)),
        None => Ok(links),
    }
}

/// What the kernel shows; nothing where it does not.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    has_init_sysctls: Option<bool>,
    inode: Option<u64>,
    cookie: Option<u64>,
    shared_with_first_process: Option<bool>,
}

impl Facts {
    fn gather() -> Self {
        Self {
            has_init_sysctls: has_init_sysctls(),
            inode: inode("/proc/thread-self/ns/net"),
            cookie: cookie().ok().flatten(),
            shared_with_first_process: shared_with_first_process(),
        }
    }
}

fn judge(facts: &Facts) -> Result<(), HostNetwork> {
    let proofs = [
        (facts.has_init_sysctls == Some(true), Proof::Sysctl),
        (facts.inode == Some(INIT_NET_INODE), Proof::Inode),
        (facts.cookie == Some(INIT_NET_COOKIE), Proof::Cookie),
        (
            facts.shared_with_first_process == Some(true),
            Proof::Process,
        ),
    ];
    if let Some((_, proof)) = proofs.into_iter().find(|(found, _)| *found) {
        return Err(HostNetwork::Initial(proof));
    }
    // On each kernel one of the two tells the initial namespace, so both together rule it out.
    let ruled_out =
        facts.has_init_sysctls == Some(false) || (facts.inode.is_some() && facts.cookie.is_some());
    if ruled_out {
        Ok(())
    } else {
        Err(HostNetwork::Unknown)
    }
}

fn has_init_sysctls() -> Option<bool> {
    let there = |path: &str| Path::new(path).exists();
    if INIT_SYSCTLS.into_iter().any(there) {
        return Some(true);
    }
    there(CONTROL_SYSCTL).then_some(false)
}

fn cookie() -> io::Result<Option<u64>> {
    socket::netns_cookie(UnixDatagram::unbound()?.as_fd())
}

/// Known in the initial pid namespace only, and there with the right to look (`ptrace(2)`).
fn shared_with_first_process() -> Option<bool> {
    if inode("/proc/thread-self/ns/pid")? != INIT_PID_INODE {
        return None;
    }
    Some(inode("/proc/1/ns/net")? == inode("/proc/thread-self/ns/net")?)
}

fn inode(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// A container on Linux 6.1.
    const OWN: Facts = Facts {
        has_init_sysctls: Some(false),
        inode: Some(4_026_532_316),
        cookie: Some(17),
        shared_with_first_process: None,
    };

    #[test]
    fn a_namespace_of_its_own_passes() {
        judge(&OWN).unwrap();
        judge(&Facts {
            shared_with_first_process: Some(false),
            ..OWN
        })
        .unwrap();
    }

    #[test]
    fn each_proof_is_enough_whatever_the_others_say() {
        for (facts, proof) in [
            (
                Facts {
                    has_init_sysctls: Some(true),
                    ..OWN
                },
                Proof::Sysctl,
            ),
            (
                Facts {
                    inode: Some(INIT_NET_INODE),
                    ..OWN
                },
                Proof::Inode,
            ),
            (
                Facts {
                    cookie: Some(1),
                    ..OWN
                },
                Proof::Cookie,
            ),
            (
                Facts {
                    shared_with_first_process: Some(true),
                    ..OWN
                },
                Proof::Process,
            ),
        ] {
            assert_eq!(judge(&facts), Err(HostNetwork::Initial(proof)));
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        assert_eq!(judge(&Facts::default()), Err(HostNetwork::Unknown));
        let masked = Facts {
            has_init_sysctls: None,
            ..OWN
        };
        judge(&masked).unwrap();
        for half in [
            Facts {
                inode: None,
                ..masked
            },
            Facts {
                cookie: None,
                ..masked
            },
        ] {
            assert_eq!(judge(&half), Err(HostNetwork::Unknown));
        }
        judge(&Facts {
            has_init_sysctls: Some(false),
            ..Facts::default()
        })
        .unwrap();
    }

    #[test]
    fn every_refusal_has_the_way_around_it() {
        for refusal in [
            HostNetwork::Initial(Proof::Sysctl),
            HostNetwork::Bridge("docker0".into()),
            HostNetwork::Unknown,
        ] {
            assert!(refusal.remedy().unwrap().contains("--allow-host-network"));
        }
    }
}
