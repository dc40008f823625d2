//! Which network namespace of which boot a process is in: what a sentinel is bound to (I3).

use crate::{error, file, sys::socket};
use std::os::fd::AsFd;
use std::os::unix::{fs::MetadataExt, net::UnixDatagram};
use std::{fs, io};
use thiserror::Error;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const NET: &str = "/proc/thread-self/ns/net";

/// The network namespace of the calling thread, told apart from every other one.
///
/// An inode number comes back once its namespace is gone, a cookie does not; a kernel before
/// Linux 5.14 has the inode alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The kernel's identifier of this boot.
    pub boot_id: String,
    /// `SO_NETNS_COOKIE`; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// The inode of `/proc/thread-self/ns/net`.
    pub netns_inode: u64,
}

/// Why the namespace is unknown.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// A file of /proc cannot be read.
    #[error("cannot read {file}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// No socket, or one that does not tell its namespace.
    #[error("cannot ask a socket for its network namespace")]
    Socket(#[source] io::Error),
}

impl NamespaceError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some("mount /proc in the container".to_owned()),
            Self::Socket(error) => Some(error::resources(error)),
        }
    }
}

impl Namespace {
    /// Of the calling thread.
    pub fn current() -> Result<Self, NamespaceError> {
        let unreadable = |file| move |source| NamespaceError::Unreadable { file, source };
        let boot_id = file::of_proc(BOOT_ID).map_err(unreadable(BOOT_ID))?;
        let net = fs::metadata(NET).map_err(unreadable(NET))?;
        Ok(Self {
            boot_id: boot_id.trim_end().to_owned(),
            netns_cookie: cookie().map_err(NamespaceError::Socket)?.unwrap_or(0),
            netns_inode: net.ino(),
        })
    }
}

/// Any socket knows its namespace; a Unix one is open to every process.
fn cookie() -> io::Result<Option<u64>> {
    socket::netns_cookie(UnixDatagram::unbound()?.as_fd())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_current_namespace_is_stable_and_whole() {
        let here = Namespace::current().unwrap();
        assert_eq!(here, Namespace::current().unwrap());
        assert_eq!(here.boot_id.len(), 36);
        assert_ne!(here.netns_inode, 0);
        assert_ne!(here.netns_cookie, 0, "this test needs Linux 5.14");
    }
}
