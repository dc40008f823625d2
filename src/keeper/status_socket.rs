//! The socket that answers `egress-init status`: beside the sentinel, for root alone.
//!
//! A path and not an abstract name: a folder that the command cannot write to keeps the command
//! from standing in for a keeper that is gone.

use crate::status::Status;
use nix::sys::stat::{Mode, umask};
use serde::de::Error as _;
use std::{
    fs,
    io::{self, Read},
    os::unix::net::UnixStream as BlockingStream,
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tracing::debug;

/// The name of the socket, in the folder of the sentinel.
const NAME: &str = "egress-init.sock";
/// How long a client may take to read its answer, and a keeper to write it.
const DEADLINE: Duration = Duration::from_secs(2);
/// Far more than a status takes; what is longer is none.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// Where the socket of the keeper that published this sentinel is.
#[must_use]
pub fn path(sentinel: &Path) -> PathBuf {
    sentinel.with_file_name(NAME)
}

/// The socket, listening.
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    /// Listens at `path`, in the place of a keeper that is gone. Within a tokio runtime, on a
    /// process of one thread: the mode of a socket is that of the umask.
    ///
    /// # Errors
    /// `EINVAL` where the path is longer than 107 octets (`unix(7)`).
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&path);
        umask(before);
        Ok(Self {
            listener: listener?,
            path,
        })
    }

    /// Answers one client after the other; never returns.
    pub async fn serve(&self, status: impl Fn() -> Status) -> std::convert::Infallible {
        loop {
            match self.listener.accept().await {
                Ok((client, _)) => {
                    if let Err(error) = answer(&client, &status()).await {
                        debug!("a client of the status socket: {error}");
                    }
                }
                Err(error) => {
                    debug!("the status socket: {error}");
                    // Out of descriptors, or of memory: no reason to spin.
                    tokio::time::sleep(DEADLINE).await;
                }
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // Whoever finds it later finds nobody listening, which says the same.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(client: &UnixStream, status: &Status) -> io::Result<()> {
    let mut text = serde_json::to_vec(status)?;
    text.push(b'\n');
    let write = async {
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            client.writable().await?;
            match client.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    timeout(DEADLINE, write)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Why there is no status.
#[derive(Debug, Error)]
pub enum NoStatus {
    /// Nobody listens.
    #[error("no keeper answers at {}", .path.display())]
    NoKeeper {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The socket is there and cannot be read.
    #[error("cannot read the status from {}", .path.display())]
    Read {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Something else answers.
    #[error("what answers at {} is no status", .path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl NoStatus {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NoKeeper { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("ask as root".to_owned())
            }
            Self::NoKeeper { .. } => Some(
                "there is one only with --supervise or apply --watch in --dns proxy; where its sentinel is elsewhere, name it with --sentinel"
                    .to_owned(),
            ),
            Self::Read { .. } => None,
            Self::Malformed { .. } => {
                Some("use the egress-init of the same version as the keeper's".to_owned())
            }
        }
    }
}

/// Asks the keeper whose socket is at `path`.
pub fn ask(path: &Path) -> Result<Status, NoStatus> {
    let no_keeper = |source| NoStatus::NoKeeper {
        path: path.to_owned(),
        source,
    };
    let read = |source| NoStatus::Read {
        path: path.to_owned(),
        source,
    };
    let stream = BlockingStream::connect(path).map_err(no_keeper)?;
    stream.set_read_timeout(Some(2 * DEADLINE)).map_err(read)?;
    let mut text = Vec::new();
    stream.take(MAX_SIZE).read_to_end(&mut text).map_err(read)?;
    parse(&text).map_err(|source| NoStatus::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// Reads what a keeper wrote. All of it is UTF-8 (RFC 8259 section 8.1), what is not known included.
pub fn parse(text: &[u8]) -> serde_json::Result<Status> {
    let text = std::str::from_utf8(text).map_err(serde_json::Error::custom)?;
    serde_json::from_str(text)
}
