//! Everything that can end a start, with the exit code and the remedy of each.

use crate::{
    accounts::AccountError,
    allowlist::{InvalidAllowlist, Name},
    check::NotReady,
    command::CommandError,
    config::InvalidSettings,
    host_network::HostNetwork,
    keeper::NoStatus,
    launch::LaunchError,
    links::LinksError,
    nft::NftError,
    policy::Inadmissible,
    port::Closed,
    privileges::PrivilegeError,
    resolve::{Unresolved, hosts::HostsError, nameservers::ResolvConfError},
    sentinel::{NamespaceError, PlaceError},
    signals::Interruption,
    start_lock::StartLockError,
    state_dir::StateDirError,
};
use std::{borrow::Cow, fmt, io, net::IpAddr, path::PathBuf};
use thiserror::Error;

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut report = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        report.push_str(": ");
        report.push_str(&error.to_string());
        source = error.source();
    }
    report
}

/// Why an allowed name has no address.
#[derive(Debug, Error)]
pub enum NoAddress {
    /// DNS has none.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// DNS has only such as no answer may bring in.
    #[error("{address} is {reason}, which no answer may bring in")]
    Inadmissible {
        /// One of them.
        address: IpAddr,
        /// Why not.
        reason: Inadmissible,
    },
}

impl NoAddress {
    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Unresolved(reason) => reason.remedy(),
            Self::Inadmissible { .. } => {
                Some("list the address itself if it is meant, or pass --on-unresolved skip".into())
            }
        }
    }
}

/// Names without an address.
#[derive(Debug)]
pub struct UnresolvedNames {
    /// The names with the reasons.
    pub names: Vec<(Name, NoAddress)>,
    /// Whether the namespace has a route to another host.
    pub connected: bool,
}

impl fmt::Display for UnresolvedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (reason, names)) in self.by_reason().iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}no address for {}", names[0])?;
            for name in &names[1..] {
                write!(f, ", {name}")?;
            }
            write!(f, ": {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnresolvedNames {}

impl UnresolvedNames {
    /// What is to be said, and of which names: one reason is often that of all of them.
    fn by_reason(&self) -> Vec<(String, Vec<&Name>)> {
        let mut reasons: Vec<(String, Vec<&Name>)> = Vec::new();
        for (name, reason) in &self.names {
            let mut text = reason.to_string();
            if let Some(remedy) = reason.remedy().filter(|_| self.connected) {
                text = format!("{text}; {remedy}");
            }
            match reasons.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => names.push(name),
                None => reasons.push((text, vec![name])),
            }
        }
        reasons
    }

    /// What the user can do about all of them.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        (!self.connected).then(|| {
            "the network namespace has no route to another host: connect the container to a \
             network, or list addresses instead of names"
                .to_owned()
        })
    }
}

/// What the user can do where a system call failed that does not fail: the system has not enough
/// of something, or forbids it.
pub(crate) fn resources(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
            "see which seccomp profile or security module of the container denies it"
        }
        _ => "raise the container's limits on memory, processes and open files",
    }
    .to_owned()
}

/// The usual reasons why port 53 is not to be had.
fn listen_remedy(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "end the DNS server that listens on loopback or on every address of this network namespace, or choose --dns pinned"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => "run with --cap-add=NET_BIND_SERVICE".to_owned(),
        _ => resources(error),
    }
}

/// Why egress-init ends without having become the command.
#[derive(Debug, Error)]
pub enum Error {
    /// Options or variables without meaning.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// A list that cannot be read.
    #[error("cannot read the list {}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A list with errors.
    #[error(transparent)]
    Allowlist(#[from] InvalidAllowlist),
    /// No nameservers to be known.
    #[error(transparent)]
    ResolvConf(#[from] ResolvConfError),
    /// Names without an address.
    #[error(transparent)]
    Unresolved(#[from] UnresolvedNames),
    /// /etc/hosts.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// The firewall.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The links.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// `--user`.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The privileges to drop.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The way to the command.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The sentinel.
    #[error(transparent)]
    Sentinel(#[from] PlaceError),
    /// The identity of the network namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The check did not pass.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The command's own port.
    #[error(transparent)]
    Port(#[from] Closed),
    /// Another start.
    #[error(transparent)]
    StartLock(#[from] StartLockError),
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The network is not the container's.
    #[error(transparent)]
    HostNetwork(#[from] HostNetwork),
    /// DNS stays open to uid 0, and the command would be that.
    #[error(
        "the command would run as uid 0, to which --dns system leaves port 53 of any server open here"
    )]
    RootWithOpenDns,
    /// The resolver cannot be told from the command.
    #[error(
        "the command would run as uid {uid} and gid {gid}, as the resolver of --dns proxy does: its queries would pass for the resolver's"
    )]
    SharesResolver {
        /// The user of both.
        uid: u32,
        /// The group of both.
        gid: u32,
    },
    /// The command could take the resolver's place.
    #[error(
        "with --keep-cap SETGID the command could take the group of the resolver of --dns proxy: its queries would pass for the resolver's"
    )]
    CouldBeResolver,
    /// What forwards for Docker cannot be told from the command.
    #[error(
        "the command would run as uid 0 and gid 0, as the resolver on loopback ({0}) does when it forwards: its queries would pass"
    )]
    SharesForwarder(IpAddr),
    /// Port 53 of loopback.
    #[error("cannot listen for DNS queries on port 53 of loopback")]
    Listen(#[source] io::Error),
    /// `status`.
    #[error(transparent)]
    Status(#[from] NoStatus),
    /// A signal.
    #[error("{} ended the start", .0.name())]
    Interrupted(Interruption),
    /// Something that a process always has.
    #[error("cannot {0}")]
    Process(&'static str, #[source] io::Error),
}

impl Error {
    /// The exit code (section 4 of the contract, in the README).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command(error) => error.exit_code(),
            Self::Launch(error) => error.exit_code(),
            Self::Interrupted(signal) => signal.exit_code(),
            _ => 125,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Settings(_) | Self::Interrupted(_) => None,
            Self::Process(_, error) => Some(resources(error)),
            Self::List { .. } => {
                Some("name an existing file with --allowlist, readable for root".to_owned())
            }
            Self::Allowlist(error) => error.remedy(),
            Self::ResolvConf(error) => error.remedy().map(Cow::into_owned),
            Self::Unresolved(error) => error.remedy(),
            Self::Hosts(error) => error.remedy().map(Cow::into_owned),
            Self::Nft(error) => error.remedy(),
            Self::Links(error) => error.remedy(),
            Self::Account(error) => error.remedy(),
            Self::Command(error) => error.remedy(),
            Self::Privileges(error) => error.remedy(),
            Self::Launch(error) => error.remedy(),
            Self::Sentinel(error) => error.remedy(),
            Self::Namespace(error) => error.remedy(),
            Self::NotReady(error) => error.remedy(),
            Self::Port(error) => error.remedy(),
            Self::StartLock(error) => error.remedy(),
            Self::StateDir(error) => error.remedy(),
            Self::HostNetwork(error) => error.remedy(),
            Self::Status(error) => error.remedy(),
            Self::SharesResolver { .. } => Some(
                "name another user with --user, or run with --cap-add=SETGID, which gives the resolver a group of its own".to_owned(),
            ),
            Self::CouldBeResolver => Some(
                "leave --keep-cap SETGID out, or name another user with --user and do not keep SETUID".to_owned(),
            ),
            Self::SharesForwarder(_) => Some(
                "run the command as another user with --user, or name servers elsewhere with --dns-upstream".to_owned(),
            ),
            Self::Listen(error) => Some(listen_remedy(error)),
            Self::RootWithOpenDns => Some(
                "run the command as another user with --user, name the servers with --dns-upstream, or choose --dns pinned".to_owned(),
            ),
        }
    }

    /// What failed, on what, and why.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// The line for a person: the same, and what to do about it.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = self.chain();
        if let Some(remedy) = self.remedy() {
            report.push_str("; ");
            report.push_str(&remedy);
        }
        report
    }
}
