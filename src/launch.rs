//! The end of a start: the sentinel is published and this process becomes the command.
//!
//! Publishing takes root, and so does taking the sentinel away again where the rest fails; but the
//! rest begins with not being root any more. So the user id that this process had stays saved
//! (credentials(7)), without any capability, until exec saves the effective one instead
//! (execve(2)): where exec fails it is the way back, and the command has none.
//!
//! ```text
//! block signals
//! keep what changing user takes
//! publish the sentinel
//! groups, gid, uid; the former uid is saved
//! capabilities, no_new_privs, socket filter, read back
//! close-on-exec, signals as a new process has them
//! exec
//!  └─ or an error: take on the former uid, remove the sentinel, report
//! ```
//!
//! A second thread that stays root would do as well, and cost more than all of this: to make it, to
//! have it scheduled, and to have exec end it.
//!
//! With `--supervise` a forked child becomes the command and saves nothing, because this process
//! stays and removes the sentinel: [`crate::supervise`]. The steps are these same functions.

use crate::command::Command;
use crate::privileges::{PrivilegeError, Privileges, Saved, Status, come_back};
use crate::sentinel::{Place, PlaceError, Sentinel};
use crate::sys::process;
use caps::CapsHashSet;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use thiserror::Error;

/// Why this process did not become the command. No sentinel is left, but for `SentinelLeft`.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// Privileges cannot be dropped as planned.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The sentinel cannot be published.
    #[error(transparent)]
    Publish(#[from] PlaceError),
    /// No thread, or something of a new process that cannot be set up.
    #[error("cannot {what}")]
    SetUp {
        /// What was tried, a verb.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The child that was to become the command says why it did not.
    #[error("{report}")]
    InChild {
        /// What failed, on what, and why.
        report: String,
        /// What the user can do about it.
        remedy: Option<String>,
        /// The exit code that goes with it.
        exit_code: u8,
    },
    /// The child that was to become the command ended without a word.
    #[error("the child process that was to become the command was ended before it could")]
    ChildLost,
    /// SIGTERM or SIGINT came before exec.
    #[error("stopped by {0}")]
    Interrupted(Signal),
    /// The kernel refuses to execute the command.
    #[error("cannot execute {}", .path.display())]
    Exec {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The launch failed, and then the sentinel could not be taken away.
    #[error("{launch}, and the sentinel is still there")]
    SentinelLeft {
        /// Why the launch failed.
        launch: Box<LaunchError>,
        /// Why the sentinel is still there.
        source: PlaceError,
    },
}

impl LaunchError {
    /// 126 where the command cannot be executed, 143 and 130 after a signal, else 125 (I5).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exec { .. } => 126,
            Self::Interrupted(Signal::SIGINT) => 130,
            Self::Interrupted(_) => 143,
            Self::SentinelLeft { launch, .. } => launch.exit_code(),
            Self::InChild { exit_code, .. } => *exit_code,
            Self::Privileges(_) | Self::Publish(_) | Self::SetUp { .. } | Self::ChildLost => 125,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Privileges(error) => error.remedy(),
            Self::Publish(error) => error.remedy(),
            Self::SetUp { .. } | Self::ChildLost => {
                Some("raise the container's limits on processes and memory".to_owned())
            }
            Self::InChild { remedy, .. } => remedy.clone(),
            Self::Interrupted(_) => None,
            Self::Exec { path, source } => exec_remedy(path, source),
            Self::SentinelLeft { .. } => Some("remove the sentinel by hand".to_owned()),
        }
    }
}

/// The usual reason behind each error number of execve(2).
fn exec_remedy(path: &std::path::Path, source: &io::Error) -> Option<String> {
    let path = path.display();
    Some(match source.raw_os_error()? {
        libc::ENOENT => {
            format!("install the interpreter that {path} names (its #! line, or its ELF loader)")
        }
        libc::ENOEXEC => format!("give {path} a #! line, or build it for this architecture"),
        libc::EACCES => format!(
            "let the command's user execute {path} and enter every directory on the way, on a file \
             system without noexec"
        ),
        libc::EPERM => format!(
            "take the file capabilities off {path} (setcap -r), or keep them with --keep-cap"
        ),
        libc::E2BIG => "pass fewer arguments or a smaller environment".to_owned(),
        libc::EAGAIN => "raise the command's limit on processes (ulimit -u)".to_owned(),
        _ => return None,
    })
}

/// Becomes `command` with `privileges`; before, publishes the sentinel where there is one to
/// publish, and calls `ready` when nothing but stepping down and exec is left. Of the descriptors
/// above 2 the command gets `kept` and no other (I4): the lock of the state directory ends with its
/// last descriptor, so it can live in no other way. Returns only if that fails, and then signals
/// stay blocked and capabilities gone: what is left to do is to report and to exit.
#[must_use = "it says why the command did not start"]
pub fn launch(
    command: &Command,
    privileges: &Privileges,
    sentinel: Option<(&Place, &Sentinel)>,
    kept: Option<BorrowedFd<'_>>,
    ready: impl FnOnce(),
) -> LaunchError {
    let former = nix::unistd::geteuid().as_raw();
    let Err(launch) = try_launch(command, privileges, sentinel, kept, ready);
    // Where it fails the sentinel cannot be removed either, which is said.
    let _ = come_back(former);
    withdraw(sentinel, launch)
}

fn try_launch(
    command: &Command,
    privileges: &Privileges,
    sentinel: Option<(&Place, &Sentinel)>,
    kept: Option<BorrowedFd<'_>>,
    ready: impl FnOnce(),
) -> Result<Infallible, LaunchError> {
    let before = get_ready(privileges, &CapsHashSet::new(), sentinel, ready)?;
    become_command(command, privileges, Saved::Former, &before, kept, || Ok(()))
}

/// The steps above that take root. `beside` is what this process needs of its own. Returns what it
/// was before.
pub(crate) fn get_ready(
    privileges: &Privileges,
    beside: &CapsHashSet,
    sentinel: Option<(&Place, &Sentinel)>,
    ready: impl FnOnce(),
) -> Result<Status, LaunchError> {
    // From here to exec a signal waits, so that none ends the process with the sentinel in place.
    process::change_signal_mask(SigmaskHow::SIG_BLOCK, &process::all_signals())
        .map_err(set_up("block signals"))?;
    let before = privileges.confine(beside)?;
    if let Some((place, sentinel)) = sentinel {
        place.publish(sentinel)?;
    }
    ready();
    Ok(before)
}

/// The last step above: after a failure there is no sentinel.
pub(crate) fn withdraw(sentinel: Option<(&Place, &Sentinel)>, launch: LaunchError) -> LaunchError {
    let removed = sentinel.map_or(Ok(()), |(place, _)| place.remove());
    match removed {
        Ok(()) => launch,
        Err(source) => LaunchError::SentinelLeft {
            launch: Box::new(launch),
            source,
        },
    }
}

/// The steps above from the groups to exec, by what this process was `before`. `tie` is called
/// after the last change of credentials.
pub(crate) fn become_command(
    command: &Command,
    privileges: &Privileges,
    saved: Saved,
    before: &Status,
    kept: Option<BorrowedFd<'_>>,
    tie: impl FnOnce() -> Result<(), LaunchError>,
) -> Result<Infallible, LaunchError> {
    let status = privileges.drop_all(saved, before)?;
    process::close_on_exec_above_2(kept).map_err(set_up("close file descriptors at exec"))?;
    tie()?;
    check_interrupted()?;
    process::reset_dispositions(status.ignored).map_err(set_up("reset signal dispositions"))?;
    process::change_signal_mask(SigmaskHow::SIG_SETMASK, &SigSet::empty())
        .map_err(set_up("unblock signals"))?;
    let error = execute(command);
    process::change_signal_mask(SigmaskHow::SIG_BLOCK, &process::all_signals())
        .map_err(set_up("block signals"))?;
    Err(error)
}

/// As PID 1 the process would lose such a signal at exec: default dispositions do not end an init.
pub(crate) fn check_interrupted() -> Result<(), LaunchError> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        if process::is_pending(signal).map_err(set_up("look at pending signals"))? {
            return Err(LaunchError::Interrupted(signal));
        }
    }
    Ok(())
}

/// Tries one file after the other, as execvp(3) does: what this user may not execute, or what is
/// gone by now, does not hide what comes later in PATH.
fn execute(command: &Command) -> LaunchError {
    let mut refused = None;
    for path in command.candidates() {
        // The environment is this process's own, which nothing has changed.
        let Err(errno) = nix::unistd::execv(path, command.argv());
        let error = LaunchError::Exec {
            path: OsStr::from_bytes(path.to_bytes()).into(),
            source: errno.into(),
        };
        if !matches!(errno, Errno::EACCES | Errno::ENOENT | Errno::ENOTDIR) {
            return error;
        }
        refused = refused.or(Some(error));
    }
    refused.unwrap_or(LaunchError::Exec {
        path: PathBuf::new(),
        source: Errno::ENOENT.into(),
    })
}

pub(crate) fn set_up<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |source| LaunchError::SetUp {
        what,
        source: source.into(),
    }
}
