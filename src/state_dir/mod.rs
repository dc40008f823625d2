//! The state directory: what the command keeps between its runs, for itself alone.
//!
//! It belongs to the command's user and is closed to all others, and one command at a time has it:
//! a second container on the same volume would overwrite the first one's state. Where it is, is
//! never trusted: whatever is done along its path is done with the rights of the command's user,
//! and no symbolic link is followed. Root's rights touch nothing but the open directory itself.

mod lock;
mod walk;

pub use lock::{Holder, StateLock};

use crate::{accounts::Identity, privileges::PrivilegeError};
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat},
    unistd::{Gid, Uid, fchownat},
};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};
use thiserror::Error;

/// Which directory, and whether it may be repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is made where it is missing, and given owner and mode where they are others.
    pub fix: bool,
}

/// What is wrong with the state directory.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// It does not exist.
    #[error("there is no state directory {}", .0.display())]
    Missing(PathBuf),
    /// It, or something on the way to it, is a symbolic link or no directory.
    #[error("the state directory's path has {}, which is {what}", .path.display())]
    NotDirectory {
        /// The part of the path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It belongs to somebody else.
    #[error("the state directory {} is owned by uid {found}, not by the command's user (uid {wanted})", .path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The command's user.
        wanted: u32,
    },
    /// It is open to others, or closed to its owner.
    #[error("the state directory {} has mode {mode:04o}, not 0700", .path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else uses it.
    #[error("the state directory {} is in use by {holder}", .path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// The rights of the command's user cannot be taken on.
    #[error(transparent)]
    Identity(#[from] PrivilegeError),
    /// The kernel or the file system says no.
    #[error("cannot {what} the state directory {}", .path.display())]
    Io {
        /// What was tried, a verb.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl StateDirError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Missing(path) => format!(
                "mount a volume at {}, or pass --fix-state-dir, which makes it where the directory above exists",
                path.display()
            ),
            Self::NotDirectory { .. } => "name the directory by its real path".to_owned(),
            Self::Owner {
                wanted: 0, found, ..
            } => format!("name the user with --user {found}, or give the directory to root"),
            Self::Owner { path, wanted, .. } => format!(
                "pass --fix-state-dir, or run chown {wanted} {}",
                path.display()
            ),
            Self::Mode { path, .. } => {
                format!("pass --fix-state-dir, or run chmod 700 {}", path.display())
            }
            Self::Held { .. } => {
                "stop that one first, or give this one a directory of its own".to_owned()
            }
            Self::Identity(error) => return error.remedy(),
            Self::Io { what, source, .. } => return io_remedy(what, source),
        })
    }
}

fn io_remedy(what: &str, source: &io::Error) -> Option<String> {
    Some(match source.raw_os_error()? {
        libc::EROFS => "mount a writable volume there".to_owned(),
        libc::EPERM | libc::EACCES if what == CHANGE_OWNER => {
            "run with --cap-add=CHOWN, which the command does not get, or change its owner in the image or on the volume".to_owned()
        }
        libc::EACCES => {
            "let the command's user enter every directory on the way to it".to_owned()
        }
        libc::ENOSPC | libc::EDQUOT => "make room on its volume".to_owned(),
        libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL => {
            "put it on a file system that knows flock(2)".to_owned()
        }
        _ => return None,
    })
}

const CHANGE_OWNER: &str = "change the owner of";

/// Checks owner and mode, or mends them where that is asked for, and takes the lock.
pub fn hold(directory: &StateDir, command: &Identity) -> Result<StateLock, StateDirError> {
    let open = verify(directory, command)?;
    as_user(command, || lock::take(&open, &directory.path))?
}

/// The same without the lock: for `apply`, which does not stay.
pub fn prepare(directory: &StateDir, command: &Identity) -> Result<(), StateDirError> {
    verify(directory, command).map(drop)
}

/// The directory (`O_PATH`), with owner and mode as they should be.
fn verify(directory: &StateDir, command: &Identity) -> Result<OwnedFd, StateDirError> {
    let path = std::path::absolute(&directory.path).map_err(failed("find", &directory.path))?;
    let open = open(&path, directory.fix, command)?;
    if directory.fix {
        fix(&open, &path, command)?;
    }
    let found = stat(&open, &path)?;
    if found.st_uid != command.uid {
        return Err(StateDirError::Owner {
            path,
            found: found.st_uid,
            wanted: command.uid,
        });
    }
    if !is_closed(&found) {
        let mode = found.st_mode & 0o7777;
        return Err(StateDirError::Mode { path, mode });
    }
    Ok(open)
}

fn open(path: &Path, make: bool, command: &Identity) -> Result<OwnedFd, StateDirError> {
    match as_user(command, || walk::open(path))? {
        Err(StateDirError::Missing(_)) if make => {}
        result => return result,
    }
    // As its user where that may, so that it is its owner; else as whoever this is.
    if as_user(command, || walk::make(path))?.is_err() {
        walk::make(path)?;
    }
    as_user(command, || walk::open(path))?
}

/// Owner first: who owns a directory may change its mode, and that takes no capability then.
fn fix(open: &OwnedFd, path: &Path, command: &Identity) -> Result<(), StateDirError> {
    let found = stat(open, path)?;
    if found.st_uid != command.uid {
        let (uid, gid) = (Uid::from_raw(command.uid), Gid::from_raw(command.gid));
        fchownat(open, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
            .map_err(failed(CHANGE_OWNER, path))?;
    }
    if !is_closed(&found) {
        as_user(command, || close(open))?.map_err(failed("change the mode of", path))?;
    }
    Ok(())
}

/// `fchmod(2)` refuses a descriptor that is a path; its link in /proc leads to the same inode.
fn close(directory: &OwnedFd) -> nix::Result<()> {
    let link = format!("/proc/thread-self/fd/{}", directory.as_raw_fd());
    fchmodat(
        AT_FDCWD,
        link.as_str(),
        Mode::S_IRWXU,
        FchmodatFlags::FollowSymlink,
    )
}

fn is_closed(found: &FileStat) -> bool {
    found.st_mode & 0o777 == 0o700
}

fn stat(open: &OwnedFd, path: &Path) -> Result<FileStat, StateDirError> {
    fstat(open).map_err(failed("look at", path))
}

/// Runs `work` on a thread with the ids of `command`, which are all its rights: the kernel takes
/// the capabilities of a thread that leaves uid 0.
fn as_user<T: Send>(
    command: &Identity,
    work: impl FnOnce() -> T + Send,
) -> Result<T, StateDirError> {
    thread::scope(|scope| {
        let as_user = thread::Builder::new()
            .name("user".to_owned())
            .spawn_scoped(scope, || {
                crate::privileges::take_on(command)?;
                Ok(work())
            })
            .map_err(failed("start a thread for", Path::new("")))?;
        as_user
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> StateDirError {
    let path = path.to_owned();
    move |source| StateDirError::Io {
        what,
        path,
        source: source.into(),
    }
}

/// For [`crate::launch`]: the descriptor that outlives exec.
impl std::os::fd::AsFd for StateLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory()
    }
}
