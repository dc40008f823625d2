//! The fork, and what parent and child tell each other until exec.
//!
//! ```text
//! this process, root                    the child
//! ──────────────────                    ─────────
//! block signals
//! keep what both ways down take
//! publish the sentinel
//! become subreaper, fork           ──►  wait
//! its group, the terminal's foreground
//! step down, read back
//! let it go                        ──►  groups, gid, uid
//!                                       capabilities, no_new_privs, socket filter, read back
//!                                       the parent-death signal, and is the parent alive?
//!                                  ◄──  nothing left but exec
//!                                       signals as a new process has them
//!                                       exec
//! remove the sentinel, report      ◄──  or an error
//! ```
//!
//! This process is down before the command runs, and can still take the sentinel away: the folder is
//! root's, and its effective uid stays that.

use super::{Options, Supervised, terminal::Terminal};
use crate::{
    command::Command,
    error,
    launch::{LaunchError, become_command, check_interrupted, get_ready, set_up, withdraw},
    privileges::{Keeper, Privileges, Saved, Status},
    sentinel::{Place, Sentinel},
    state_dir::StateLock,
    sys::process,
};
use nix::{
    errno::Errno,
    sys::{prctl, signal::Signal, wait::waitpid},
    unistd::{ForkResult, Pid, dup2_stdin, dup2_stdout, getppid, setpgid},
};
use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};
use tracing::{debug, warn};

/// From parent to child: go on. From child to parent: nothing is left but exec.
const GO_ON: u8 = 0;

/// What is to be started, and what stays above it.
pub struct Plan<'a> {
    /// The command.
    pub command: &'a Command,
    /// What the command is left with.
    pub privileges: &'a Privileges,
    /// What is published.
    pub sentinel: Option<(&'a Place, &'a Sentinel)>,
    /// What the command inherits and this process gives up (I4).
    pub state: Option<StateLock>,
    /// What this process is left with.
    pub keeper: &'a Keeper,
    /// How it supervises.
    pub options: Options,
}

impl Supervised {
    /// Publishes, forks, steps down in both processes and starts the command; `ready` is called
    /// when nothing else is left. Within a tokio runtime, in a process of one thread whose signals
    /// were blocked by [`crate::signals::block_supervised`]. It returns when the command is
    /// executed; where it is not, no sentinel is left, and what is left to do is to report and exit.
    pub fn start(plan: Plan<'_>, ready: impl FnOnce()) -> Result<Self, LaunchError> {
        let sentinel = plan.sentinel;
        try_start(plan, ready).map_err(|launch| withdraw(sentinel, launch))
    }
}

fn try_start(plan: Plan<'_>, ready: impl FnOnce()) -> Result<Supervised, LaunchError> {
    if let Some(warning) = plan.keeper.warning() {
        warn!("{warning}");
    }
    let before = get_ready(plan.privileges, &plan.keeper.needs(), plan.sentinel, ready)?;
    // Children are waited for: an ignored SIGCHLD, which is inherited, would let them vanish.
    process::reset_dispositions(before.ignored).map_err(set_up("reset signal dispositions"))?;
    if Pid::this().as_raw() != 1 {
        prctl::set_child_subreaper(true).map_err(set_up("become the subreaper"))?;
    }
    let (ours, theirs) = UnixStream::pair().map_err(set_up("make a pair of sockets"))?;
    let parent = Pid::this();
    let command = match process::fork().map_err(set_up("fork"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(ours);
            become_child(&plan, &before, parent, theirs)
        }
    };
    drop(theirs);
    let started = let_go(&plan, command, ours);
    if started.is_err() {
        // It waits, or has ended by itself, or is the command already.
        let _ = process::kill(command, libc::SIGKILL);
        let _ = waitpid(command, None);
    } else if let Some(state) = plan.state {
        state.leave_to_command();
    }
    started
}

/// The first column from the fork on.
fn let_go(plan: &Plan<'_>, command: Pid, mut child: UnixStream) -> Result<Supervised, LaunchError> {
    // Done here, while the child waits, so that it is done whoever looks first.
    setpgid(command, command).map_err(set_up("make the command's process group"))?;
    let terminal = Terminal::of_command(command);
    if let Some(terminal) = &terminal {
        terminal.hand_over();
    }
    let started = (|| {
        plan.keeper.step_down()?;
        check_interrupted()?;
        child
            .write_all(&[GO_ON])
            .map_err(set_up("let the child go on"))?;
        let mut said = Vec::new();
        child
            .read_to_end(&mut said)
            .map_err(set_up("read what the child says"))?;
        understand(&said)
    })();
    if let (Err(_), Some(terminal)) = (&started, &terminal) {
        terminal.take_back();
    }
    started?;
    close_streams();
    Supervised::new(command, plan.options, terminal).map_err(set_up("watch signals"))
}

/// What the child said until exec or its own end closed its side.
fn understand(said: &[u8]) -> Result<(), LaunchError> {
    let said = match said {
        [] => return Err(LaunchError::ChildLost),
        [GO_ON] => return Ok(()),
        [GO_ON, rest @ ..] => rest,
        whole => whole,
    };
    let (exit_code, text) = said
        .split_first()
        .map_or((125, said), |(c, rest)| (*c, rest));
    let text = String::from_utf8_lossy(text);
    let (report, remedy) = text.split_once('\0').unwrap_or((&text, ""));
    Err(LaunchError::InChild {
        report: report.to_owned(),
        remedy: Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty()),
        exit_code,
    })
}

/// What `understand` understands.
fn say(launch: &LaunchError) -> Vec<u8> {
    let mut said = vec![launch.exit_code()];
    said.extend(error::chain(launch).into_bytes());
    said.push(0);
    said.extend(launch.remedy().unwrap_or_default().into_bytes());
    said
}

/// The second column. It never returns into what belongs to the parent.
fn become_child(plan: &Plan<'_>, before: &Status, parent: Pid, mut theirs: UnixStream) -> ! {
    let Err(launch) = try_become(plan, before, parent, &mut theirs);
    // Where nobody listens, the parent is dead.
    let _ = theirs.write_all(&say(&launch));
    process::exit_now(launch.exit_code())
}

fn try_become(
    plan: &Plan<'_>,
    before: &Status,
    parent: Pid,
    theirs: &mut UnixStream,
) -> Result<Infallible, LaunchError> {
    theirs
        .read_exact(&mut [0])
        .map_err(set_up("learn that the parent is ready"))?;
    let kept = plan.state.as_ref().map(AsFd::as_fd);
    become_command(
        plan.command,
        plan.privileges,
        Saved::Command,
        before,
        kept,
        || {
            // After the last change of credentials, which clears it (prctl(2)).
            prctl::set_pdeathsig(Signal::SIGKILL).map_err(set_up("set the parent-death signal"))?;
            if getppid() != parent {
                // It died before; nobody will be told.
                return Err(set_up("go on without the supervisor")(Errno::ESRCH));
            }
            theirs
                .write_all(&[GO_ON])
                .map_err(set_up("tell the supervisor"))
        },
    )
}

/// Standard input and output are the command's alone: whoever is at their other end is to notice
/// when it closes them. Standard error stays, for the log.
fn close_streams() {
    let null: std::io::Result<File> = OpenOptions::new().read(true).write(true).open("/dev/null");
    let closed = null.and_then(|null| {
        dup2_stdin(&null)?;
        Ok(dup2_stdout(&null)?)
    });
    if let Err(error) = closed {
        debug!("standard input and output stay open: {error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn failure() -> LaunchError {
        LaunchError::Exec {
            path: "/bin/odd".into(),
            source: Errno::ENOEXEC.into(),
        }
    }

    #[test]
    fn what_the_child_says_is_what_it_met() {
        for before in [&[][..], &[GO_ON]] {
            let said = [before, &say(&failure())].concat();
            let error = understand(&said).unwrap_err();
            assert_eq!(error.exit_code(), 126);
            assert_eq!(error.to_string(), error::chain(&failure()));
            assert_eq!(error.remedy(), failure().remedy());
        }
        let bare = LaunchError::Interrupted(Signal::SIGINT);
        let error = understand(&say(&bare)).unwrap_err();
        assert_eq!((error.exit_code(), error.remedy()), (130, None));
    }

    #[test]
    fn silence_is_no_start() {
        understand(&[GO_ON]).unwrap();
        let error = understand(&[]).unwrap_err();
        assert!(matches!(error, LaunchError::ChildLost));
        assert_eq!(error.exit_code(), 125);
    }
}
