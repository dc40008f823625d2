//! The terminal, where this process has one: which process group is in its foreground.
//!
//! The command leads a group of its own, so that what the terminal sends (Ctrl-C, a new window
//! size) reaches it and not this process. So it is to be in the foreground whenever the group of
//! this process would be. Where the job runs in a shell's background, nothing is taken from anyone.

use crate::sys::process;
use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal},
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The controlling terminal.
pub struct Terminal {
    descriptor: OwnedFd,
    /// The group of this process; 0 where it is outside of the pid namespace, and has no number.
    own: Pid,
    command: Pid,
}

impl Terminal {
    /// The one that standard input, output or error is. The command is already a group's leader.
    pub fn of_command(command: Pid) -> Option<Self> {
        let streams = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let descriptors: [BorrowedFd; 3] =
            [streams.0.as_fd(), streams.1.as_fd(), streams.2.as_fd()];
        // It fails for everything but the terminal that controls the caller's session.
        let terminal = descriptors
            .into_iter()
            .find(|descriptor| tcgetpgrp(descriptor).is_ok())?;
        Some(Self {
            descriptor: terminal.try_clone_to_owned().ok()?,
            own: getpgrp(),
            command,
        })
    }

    /// Puts the command in the foreground, if this process is there; returns whether it did.
    pub fn hand_over(&self) -> bool {
        tcgetpgrp(&self.descriptor) == Ok(self.own) && self.give()
    }

    /// Puts the command in the foreground, and returns whether it is there. SIGTTOU, which the
    /// kernel sends to those who do so from the background, is blocked.
    pub fn give(&self) -> bool {
        tcsetpgrp(&self.descriptor, self.command).is_ok()
    }

    /// Puts the group of this process back in the foreground, if the command is there or a group
    /// that is gone: what runs beside this process in its group, a script perhaps, reads next.
    pub fn take_back(&self) {
        let Ok(foreground) = tcgetpgrp(&self.descriptor) else {
            return;
        };
        let group = Pid::from_raw(-foreground.as_raw());
        let is_gone = || {
            process::kill(group, 0)
                .is_err_and(|error| error.raw_os_error() == Some(Errno::ESRCH as i32))
        };
        if self.own.as_raw() > 0
            && foreground.as_raw() > 0
            && (foreground == self.command || is_gone())
        {
            // A terminal that hung up has no foreground.
            let _ = tcsetpgrp(&self.descriptor, self.own);
        }
    }
}

/// Stops the group of this process as the terminal would, until somebody lets it go on; returns
/// whether it was stopped at all.
pub fn stop_own_group(signal: i32) -> bool {
    let signal = match signal {
        libc::SIGTTIN => Signal::SIGTTIN,
        libc::SIGTTOU => Signal::SIGTTOU,
        // The kernel makes no exception of SIGSTOP for those whom nobody lets go on.
        _ => Signal::SIGTSTP,
    };
    let mut set = SigSet::empty();
    set.add(signal);
    // Dispositions are the default ones. The signal is taken before kill(2) returns.
    let taken = set
        .thread_unblock()
        .and_then(|()| nix::sys::signal::kill(Pid::from_raw(0), signal));
    let blocked = set.thread_block();
    // A stop signal discards SIGCONT, so one that waits now came after it.
    let was_stopped = process::is_pending(Signal::SIGCONT).unwrap_or(false);
    taken.is_ok() && blocked.is_ok() && was_stopped
}
