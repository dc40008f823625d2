//! What can go wrong between the ruleset and the kernel, in words.

use super::transaction::Subject;
use crate::sys::netlink::{Failure, Refusal};
use std::io;
use thiserror::Error;

const PERSISTS: &str = "start again; if it persists, report it with the version of the kernel";

/// A failure to install or to verify the ruleset. The state before it stays: a transaction takes
/// effect whole or not at all.
#[derive(Debug, Error)]
pub enum NftError {
    /// No socket to `nf_tables`.
    #[error("could not open a netlink socket to nf_tables")]
    Open(#[source] io::Error),
    /// The batch did not leave.
    #[error("could not send the ruleset to the kernel")]
    Send(#[source] io::Error),
    /// The kernel refused the whole batch.
    #[error("the kernel refused the ruleset")]
    Refused(#[source] Refusal),
    /// The kernel refused one thing in it, and so all of it.
    #[error("the kernel refused {0}")]
    RefusedStep(String, #[source] Refusal),
    /// It has to take effect at one instant, and does not fit in one datagram.
    #[error("the change is {length} octets long, and the kernel takes {limit} at a time")]
    TooLong {
        /// Its length.
        length: usize,
        /// The most that the kernel takes.
        limit: usize,
    },
    /// No answer in time, or a broken one.
    #[error("the kernel did not acknowledge the ruleset")]
    Acknowledge(#[source] io::Error),
    /// The table could not be read.
    #[error("could not read the ruleset back from the kernel")]
    ReadBack(#[source] io::Error),
    /// The kernel answered in a way that this version does not know.
    #[error("could not understand the ruleset that the kernel returned")]
    Unreadable,
    /// The table changed each time while it was being read.
    #[error("table inet egress_init kept changing while it was read back")]
    Unstable,
    /// The table is not what was sent.
    #[error("the ruleset in the kernel is not the intended one: {0} differs")]
    Different(String),
}

impl NftError {
    pub(super) fn refused(subject: Option<&Subject<'_>>, refusal: Refusal) -> Self {
        match subject {
            // Whoever lacks the capability lacks it for everything.
            Some(subject) if refusal.error.raw_os_error() != Some(libc::EPERM) => {
                Self::RefusedStep(subject.to_string(), refusal)
            }
            _ => Self::Refused(refusal),
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let source = match self {
            Self::Open(error) | Self::Send(error) => error,
            Self::Refused(refusal) | Self::RefusedStep(_, refusal) => &refusal.error,
            Self::TooLong { .. } => {
                return Some(
                    "restart with this list instead of reloading it, or raise net.core.wmem_max"
                        .into(),
                );
            }
            Self::Acknowledge(_) | Self::ReadBack(_) | Self::Unreadable => {
                return Some(PERSISTS.into());
            }
            Self::Unstable | Self::Different(_) => {
                return Some("see what else changes the firewall of this network namespace".into());
            }
        };
        Some(match source.raw_os_error().unwrap_or_default() {
            libc::EPERM | libc::EACCES if !nix::unistd::geteuid().is_root() => {
                "start as root, without USER in the image and without docker run --user, and name the command's user with egress-init --user"
            }
            libc::EPERM | libc::EACCES => {
                "run the container with --cap-add=NET_ADMIN; in a user namespace, in one that owns the network namespace"
            }
            libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT => {
                "this needs nf_tables in the kernel, version 5.6 or later (modules nf_tables, nft_ct, nft_reject_inet, \
                 nft_log, nft_limit, nf_conntrack, nfnetlink_log; with --dns proxy nft_chain_nat and nft_redir); gVisor has none: use the runc runtime there"
            }
            libc::ENOMEM | libc::ENOBUFS => "the kernel has no memory for a ruleset of this size: shorten the list",
            _ => PERSISTS,
        }
        .into())
    }
}

/// Of a question about the table.
impl From<Failure> for NftError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Send(error) => Self::Send(error),
            Failure::Receive(error) => Self::ReadBack(error),
            Failure::Refused(refusal) => Self::ReadBack(refusal.error),
            Failure::Unreadable => Self::Unreadable,
            Failure::Unstable => Self::Unstable,
        }
    }
}
