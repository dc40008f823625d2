//! What can go wrong on the way down, and what to do about it.

use super::StatusError;
use super::capability::short;
use crate::socket_filter::SocketFilterError;
use caps::{Capability, errors::CapsError};
use std::io;
use thiserror::Error;

/// Why the command cannot be given exactly the privileges of the plan.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// `--keep-cap` with something that is no capability.
    #[error("`{0}` is not a capability")]
    UnknownCapability(String),
    /// `--keep-cap` with a capability that undoes the firewall.
    #[error("a command with {0} could undo the firewall")]
    RefusedCapability(Capability),
    /// This process lacks what a step takes.
    #[error("{capability} is missing, which it takes {purpose}")]
    Missing {
        /// The capability.
        capability: Capability,
        /// The step, an infinitive.
        purpose: &'static str,
        /// The effective user id of this process.
        started_as: u32,
    },
    /// A user namespace in which groups cannot be set.
    #[error("the groups of --user cannot be set: this user namespace denies setgroups")]
    SetgroupsDenied,
    /// The credentials of the thread cannot be read.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The capability sets of capset(2) cannot be changed.
    #[error("cannot change the effective, permitted and inheritable capabilities")]
    Capabilities(#[source] io::Error),
    /// The ambient capabilities cannot be changed.
    #[error("cannot change the ambient capabilities")]
    Ambient(#[source] CapsError),
    /// The bounding set cannot be changed.
    #[error("cannot take capability {number} from the bounding set")]
    Bounding {
        /// The number of the capability.
        number: u8,
        /// The reason.
        source: io::Error,
    },
    /// An id cannot be set.
    #[error("cannot set the {what} of --user to {id}")]
    Id {
        /// `groups`, `group` or `user`.
        what: &'static str,
        /// The value.
        id: String,
        /// The reason.
        source: io::Error,
    },
    /// An id of the supervisor's own cannot be set.
    #[error("cannot set the supervisor's {what} to {id}")]
    OwnId {
        /// `group` or `user`.
        what: &'static str,
        /// The value.
        id: u32,
        /// The reason.
        source: io::Error,
    },
    /// `no_new_privs` cannot be set, or capabilities not kept over the change of user.
    #[error("prctl {what} failed")]
    Prctl {
        /// The option of prctl(2).
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The socket filter.
    #[error(transparent)]
    SocketFilter(#[from] SocketFilterError),
    /// After the last step the kernel shows something else than planned.
    #[error("privileges were not dropped: {field} is {found}, not {expected}")]
    Differs {
        /// The line of `/proc/thread-self/status`.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

impl PrivilegeError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::UnknownCapability(_) => {
                "give a name of capabilities(7), such as NET_BIND_SERVICE".to_owned()
            }
            Self::RefusedCapability(capability) => format!("leave {} out", short(*capability)),
            Self::Missing { capability: Capability::CAP_SYS_ADMIN, .. } => {
                "leave --allow-new-privs out, or run with --cap-add=SYS_ADMIN, which is dropped before the command starts".to_owned()
            }
            Self::Missing { capability: Capability::CAP_KILL, .. } => {
                "run with --cap-add=KILL, which the command does not get, or without --supervise".to_owned()
            }
            Self::Missing { started_as, .. } if *started_as != 0 => format!(
                "start egress-init as root instead of uid {started_as} and name the user with --user"
            ),
            Self::Missing { capability, .. } => format!(
                "run with --cap-add={}; the command does not get it",
                short(*capability)
            ),
            Self::SetgroupsDenied => {
                "leave --user out, or let newgidmap(1) set up the user namespace".to_owned()
            }
            Self::Status(_) => "mount /proc in the container".to_owned(),
            Self::Id { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
                "choose an id that this user namespace maps (/proc/self/uid_map, gid_map)".to_owned()
            }
            Self::SocketFilter(error) => return error.remedy(),
            Self::Capabilities(_)
            | Self::Ambient(_)
            | Self::Bounding { .. }
            | Self::Id { .. }
            | Self::OwnId { .. }
            | Self::Prctl { .. } => {
                "run with the default capabilities of the container runtime and a seccomp profile \
                 that lets root drop them"
                    .to_owned()
            }
            Self::Differs { .. } => {
                "report this with the kernel's version and the runtime's options".to_owned()
            }
        })
    }
}
