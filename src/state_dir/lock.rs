//! One command at a time: an flock(2) on the directory itself, held by a descriptor that the
//! command inherits.
//!
//! On the directory and not on a file in it, so that nothing that the command deletes ends it. The
//! kernel ends it with the last process that has the descriptor. Who holds it is written beside,
//! for the message that the next one gets; that file decides nothing.

use super::{StateDirError, failed};
use crate::{container, file, sys::process};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag, openat, renameat},
    sys::{
        stat::Mode,
        statfs::{self, FsType, fstatfs},
    },
    unistd::{UnlinkatFlags, unlinkat},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread::sleep,
    time::{Duration, SystemTime},
};

/// Who holds the lock, in the directory itself.
const RECORD: &str = ".egress-init.lock";
const NEW_RECORD: &str = ".egress-init.lock.new";
/// A record is a line; what is longer is none.
const RECORD_LIMIT: u64 = 4096;

/// A holder that is ending, or has not written its record yet, is given this long.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// File systems that other hosts may have mounted too, where the kernel knows no lock of theirs.
const SHARED: [(FsType, &str); 5] = [
    (statfs::NFS_SUPER_MAGIC, "NFS"),
    (statfs::SMB_SUPER_MAGIC, "SMB"),
    (FsType(0xFF53_4D42), "CIFS"),
    (FsType(0xFE53_4D42), "SMB"),
    (FsType(0x00C3_6400), "Ceph"),
];

/// The lock. Dropping it releases it, for a command too that has its descriptor by now: see
/// [`StateLock::leave_to_command`].
#[derive(Debug)]
pub struct StateLock {
    directory: Flock<OwnedFd>,
    shared: Option<&'static str>,
}

impl StateLock {
    /// The file system, if it is one of those whose locks end at this host.
    #[must_use]
    pub fn host_only(&self) -> Option<&'static str> {
        self.shared
    }

    /// Closes it here and leaves it locked: it is the command's now, which was started with its
    /// descriptor, and ends with it.
    pub fn leave_to_command(self) {
        process::close_locked(self.directory);
    }

    /// What has to stay open.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Who holds the lock, as they wrote it themselves: for a person to read, not to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process, as its own pid namespace counts.
    pid: Option<u32>,
    /// The id of its container, where it knew it.
    container: Option<String>,
    /// The name of its host, which is mostly its container's.
    host: Option<String>,
    /// Since when, RFC 3339.
    since: Option<String>,
}

impl Holder {
    fn here() -> Self {
        Self {
            pid: Some(std::process::id()),
            container: container::id(),
            host: container::host_name(),
            since: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pid) = self.pid else {
            return f.write_str("a process that left no record");
        };
        write!(f, "pid {pid}")?;
        // Short, as `docker ps` shows it; and nothing that a terminal would obey.
        let text = |text: &str, length: usize| -> String {
            let shown = text.chars().take(length);
            shown
                .map(|c| if c.is_control() { '?' } else { c })
                .collect()
        };
        if let Some(container) = &self.container {
            write!(f, " of container {}", text(container, 12))?;
        }
        // Docker names a host after its container.
        let is_named_after = |host: &String| {
            let container = self.container.as_deref();
            container.is_some_and(|container| container.starts_with(host.as_str()))
        };
        if let Some(host) = self.host.as_ref().filter(|host| !is_named_after(host)) {
            write!(f, " on host {}", text(host, 64))?;
        }
        if let Some(since) = &self.since {
            write!(f, ", since {}", text(since, 32))?;
        }
        Ok(())
    }
}

/// Takes the lock at once, or says who has it. With the rights of the command's user.
pub fn take(directory: &OwnedFd, path: &Path) -> Result<StateLock, StateDirError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = openat(directory, ".", flags, Mode::empty()).map_err(failed("open", path))?;
    let directory = lock(directory, path)?;
    write_record(&directory).map_err(failed("write to", path))?;
    let kind = fstatfs(&*directory)
        .map_err(failed("look at", path))?
        .filesystem_type();
    let shared = SHARED.iter().find(|(shared, _)| *shared == kind);
    Ok(StateLock {
        directory,
        shared: shared.map(|(_, name)| *name),
    })
}

fn lock(mut directory: OwnedFd, path: &Path) -> Result<Flock<OwnedFd>, StateDirError> {
    for attempt in 1.. {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((open, Errno::EWOULDBLOCK)) if attempt < ATTEMPTS => directory = open,
            Err((open, Errno::EWOULDBLOCK)) => {
                directory = open;
                break;
            }
            Err((_, errno)) => return Err(failed("lock", path)(errno)),
        }
        sleep(PAUSE);
    }
    Err(StateDirError::Held {
        path: path.to_owned(),
        holder: read_record(&directory).unwrap_or_default(),
    })
}

/// Under the lock, so nobody else writes it.
fn write_record(directory: &OwnedFd) -> std::io::Result<()> {
    match unlinkat(directory, NEW_RECORD, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(
        directory,
        NEW_RECORD,
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?);
    let mut line = serde_json::to_vec(&Holder::here())?;
    line.push(b'\n');
    file.write_all(&line)?;
    renameat(directory, NEW_RECORD, directory, RECORD)?;
    Ok(())
}

fn read_record(directory: &OwnedFd) -> Option<Holder> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, RECORD, flags, Mode::empty()).ok()?);
    serde_json::from_slice(&file::content(&file, RECORD_LIMIT).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_holder_is_named_by_all_that_it_wrote() {
        let holder = Holder {
            pid: Some(1),
            container: Some("0aa20b05a40a0aa20b05a40a".into()),
            host: Some("web-1".into()),
            since: Some("2026-01-02T03:04:05Z".into()),
        };
        assert_eq!(
            holder.to_string(),
            "pid 1 of container 0aa20b05a40a on host web-1, since 2026-01-02T03:04:05Z"
        );
        let docker = Holder {
            host: Some("0aa20b05a40a".into()),
            ..holder
        };
        assert_eq!(
            docker.to_string(),
            "pid 1 of container 0aa20b05a40a, since 2026-01-02T03:04:05Z"
        );
        let hostile = Holder {
            pid: Some(1),
            host: Some("\x1b[2J\n".to_owned() + &"x".repeat(1000)),
            ..Holder::default()
        };
        let shown = hostile.to_string();
        assert!(
            !shown.contains(char::is_control) && shown.len() < 100,
            "{shown:?}"
        );
        assert_eq!(
            Holder::default().to_string(),
            "a process that left no record"
        );
    }

    #[test]
    fn a_record_reads_back_and_a_broken_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(File::open(folder.path()).unwrap());
        assert_eq!(read_record(&directory), None);
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join(NEW_RECORD)).unwrap();
        write_record(&directory).unwrap();
        write_record(&directory).unwrap();
        let holder = read_record(&directory).unwrap();
        assert_eq!(holder.pid, Some(std::process::id()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(folder.path().join(RECORD), "{").unwrap();
        assert_eq!(read_record(&directory), None);
    }
}
