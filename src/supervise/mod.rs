//! Above the command: what process 1 owes to those below it, and nothing else.
//!
//! Every signal but faults is blocked from the first instruction on and read from a descriptor, one
//! after the other, by the one thread that there is. What arrives is passed on to the command's
//! process group; children that ended are reaped until none is left; a stop at the terminal is
//! handed up to the shell above, where there is one. When the command ends, what it leaves behind
//! gets SIGTERM, a grace period and SIGKILL, and the exit code is the command's.
//!
//! | module | what |
//! | --- | --- |
//! | [`start`](Supervised::start) | the fork, and what parent and child tell each other before exec |
//! | `terminal` | who is in its foreground |
//! | `remains` | what outlives the command |
//!
//! If this process dies, the command dies with it: as PID 1 the kernel ends the whole namespace,
//! else the parent-death signal ends the command, though not what the command has started (it is no
//! process's to pass on; prctl(2)). The rules stay in every case.
//!
//! A command that ignores SIGTERM is not this process's business: whoever sent that has SIGKILL too,
//! as `docker stop` does.
//!
//! [`Supervised::next`] is one future of an event loop. It does a bounded amount of work between two
//! awaits and may be dropped at any of them, so that nothing else in the loop starves however many
//! orphans or signals the command makes.

mod remains;
mod start;
mod terminal;

use crate::{
    signals,
    sys::process::{self, Change, Children},
};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use remains::Remains;
use std::{collections::VecDeque, fmt, io, str::FromStr, time::Duration};
use terminal::Terminal;
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

pub use start::Plan;

/// The grace period where none is given: less than the ten seconds after which `docker stop` kills,
/// so that the command's own exit code is still told. What s6-overlay has (`S6_KILL_GRACETIME`).
pub const DEFAULT_KILL_AFTER: Duration = Duration::from_secs(3);

/// Children that are looked at in one turn, before the rest of the event loop has its own.
const CHILDREN_A_TURN: usize = 64;
/// How often what is left is looked at, while something is: not all of it are children.
const LOOK: Duration = Duration::from_millis(20);
/// What is still there this long after SIGKILL is stuck in the kernel.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Who gets the signals that arrive here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardTo {
    /// The command's process group.
    #[default]
    Group,
    /// The command alone.
    Child,
}

impl FromStr for ForwardTo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "group" => Ok(Self::Group),
            "child" => Ok(Self::Child),
            _ => Err("is neither group nor child"),
        }
    }
}

impl fmt::Display for ForwardTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "group",
            Self::Child => "child",
        })
    }
}

/// How to supervise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who gets the signals.
    pub forward_to: ForwardTo,
    /// From SIGTERM to SIGKILL for what outlives the command.
    pub kill_after: Duration,
    /// Whether SIGHUP from a process is an [`Event::Reload`]. A hangup of the terminal, which comes
    /// from the kernel, is passed on all the same.
    pub reload_on_hangup: bool,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Exited(u8),
    /// By a signal, this one.
    Killed(u8),
}

impl Status {
    /// Its code, or 128 + the signal's number, as shells have it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 | signal,
        }
    }
}

/// What the event loop may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process asks for a reload, where [`Options::reload_on_hangup`] says so.
    Reload,
    /// The command has ended. What it left behind is being ended; go on until `Finished`.
    CommandEnded(Status),
    /// Nothing is left: exit with this status's code.
    Finished(Status),
}

/// A command that was started, and this process above it.
pub struct Supervised {
    command: Pid,
    options: Options,
    signals: AsyncFd<SignalFd>,
    terminal: Option<Terminal>,
    remains: Remains,
    phase: Phase,
    /// Whether children may have changed that were not looked at yet.
    unreaped: bool,
    events: VecDeque<Event>,
}

enum Phase {
    Running,
    Ending(Ending),
    Finished(Status),
}

/// The command has ended, and something of it is left.
#[derive(Clone, Copy)]
struct Ending {
    status: Status,
    /// When patience ends: with SIGTERM first, then with SIGKILL.
    deadline: Instant,
    /// When what is left is looked at next, whatever signals come meanwhile.
    look: Instant,
    killed: bool,
}

impl Supervised {
    fn new(command: Pid, options: Options, terminal: Option<Terminal>) -> io::Result<Self> {
        let set: SigSet = signals::supervised();
        process::change_signal_mask(SigmaskHow::SIG_SETMASK, &set)?;
        let descriptor =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self {
            command,
            options,
            signals: process::watch(descriptor)?,
            terminal,
            remains: Remains::of_this_process(),
            phase: Phase::Running,
            unreaped: true,
            events: VecDeque::new(),
        })
    }

    /// The command's process id, which is that of its process group too.
    #[must_use]
    pub fn command(&self) -> Pid {
        self.command
    }

    /// Does what is to be done until something happens that the caller has to know. After
    /// `Finished` it returns that again. Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.unreaped {
                self.unreaped = self.reap()?;
                // Whatever else is in the loop has its turn between two batches.
                tokio::task::yield_now().await;
                continue;
            }
            match self.phase {
                Phase::Finished(status) => return Ok(Event::Finished(status)),
                Phase::Running => {
                    let signal = self.signal().await?;
                    self.received(&signal);
                    // As after children: whoever sends them may send them without end, and
                    // whoever shares the session may send SIGCONT.
                    tokio::task::yield_now().await;
                }
                Phase::Ending(ending) => {
                    let wake = ending.deadline.min(ending.look);
                    tokio::select! {
                        signal = self.signal() => {
                            let signal = signal?;
                            self.received(&signal);
                            tokio::task::yield_now().await;
                        }
                        () = sleep_until(wake) => self.look_at_remains(ending)?,
                    }
                }
            }
        }
    }

    /// The next signal that arrived.
    async fn signal(&self) -> io::Result<libc::signalfd_siginfo> {
        loop {
            let mut ready = self.signals.readable().await?;
            if let Some(signal) = ready.get_inner().read_signal()? {
                return Ok(signal);
            }
            ready.clear_ready();
        }
    }

    fn received(&mut self, info: &libc::signalfd_siginfo) {
        let signal = info.ssi_signo.cast_signed();
        // Sent by this process: SIGPIPE for a log line that nobody reads, or a stop of its group.
        if info.ssi_pid == std::process::id() && info.ssi_code <= libc::SI_USER {
            return;
        }
        match signal {
            libc::SIGCHLD => {
                self.unreaped = true;
                return;
            }
            libc::SIGHUP if self.options.reload_on_hangup && info.ssi_code != libc::SI_KERNEL => {
                self.events.push_back(Event::Reload);
                return;
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Running) {
            // A shell brought the job back, or the terminal sends this for a key: the foreground is
            // the command's again.
            let by_terminal = info.ssi_code == libc::SI_KERNEL || signal == libc::SIGCONT;
            if let Some(terminal) = self.terminal.as_ref().filter(|_| by_terminal) {
                terminal.hand_over();
            }
            self.pass_on(signal);
        } else {
            self.remains.signal(signal);
        }
    }

    /// To the command's group, and to the command itself where it has left that group.
    fn pass_on(&self, signal: i32) {
        debug!("passing signal {signal} on to the command");
        let group = Pid::from_raw(-self.command.as_raw());
        let left = nix::unistd::getpgid(Some(self.command)) != Ok(self.command);
        if self.options.forward_to == ForwardTo::Group {
            // No member is left where it fails, or none that may be signalled.
            let _ = process::kill(group, signal);
        }
        if (self.options.forward_to == ForwardTo::Child || left)
            && let Err(error) = process::kill(self.command, signal)
        {
            warn!("could not pass signal {signal} on to the command: {error}");
        }
    }

    /// Looks at as many children as a turn allows; returns whether there may be more.
    fn reap(&mut self) -> io::Result<bool> {
        for _ in 0..CHILDREN_A_TURN {
            match process::next_change()? {
                // After its end another process may have its number.
                Children::Changed(pid, change)
                    if pid == self.command && matches!(self.phase, Phase::Running) =>
                {
                    self.command_changed(change);
                }
                Children::Changed(..) => {}
                found => {
                    match self.phase {
                        // The kernel has let the command go, and never says how it ended.
                        Phase::Running if found == Children::None => {
                            return Err(Errno::ECHILD.into());
                        }
                        Phase::Ending(ending) if self.remains.is_empty(found == Children::None) => {
                            self.finish(ending.status);
                        }
                        _ => {}
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn command_changed(&mut self, change: Change) {
        match change {
            Change::Exited(code) => self.ended(Status::Exited(low_octet(code))),
            Change::Killed(signal) => self.ended(Status::Killed(low_octet(signal))),
            Change::Stopped(signal) => self.stopped(signal),
            Change::Continued => {}
        }
    }

    /// At a terminal the whole job stops, this process too, so that the shell above sees it. The
    /// kernel lets no member of an orphaned process group stop so, nor PID 1, since nobody could
    /// let it go on: then nobody could let the command go on either, and it goes on at once.
    fn stopped(&self, signal: i32) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        debug!("signal {signal} stopped the command");
        let wanted_terminal = matches!(signal, libc::SIGTTIN | libc::SIGTTOU);
        // Shells say nothing when they bring a running job to the foreground.
        if wanted_terminal && terminal.hand_over() {
            self.pass_on(libc::SIGCONT);
            return;
        }
        if terminal::stop_own_group(signal) {
            // SIGCONT has arrived by now and is read as any other.
            return;
        }
        // Whoever has the terminal that it wanted will not give it back. SIGSTOP is left alone:
        // somebody wants just that, and knows SIGCONT.
        if signal == libc::SIGTSTP || wanted_terminal && terminal.give() {
            self.pass_on(libc::SIGCONT);
        }
    }

    fn ended(&mut self, status: Status) {
        debug!("the command ended: {status:?}");
        self.events.push_back(Event::CommandEnded(status));
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        // What is stopped cannot end before it goes on.
        self.remains.signal(libc::SIGTERM);
        self.remains.signal(libc::SIGCONT);
        let now = Instant::now();
        self.phase = Phase::Ending(Ending {
            status,
            deadline: now + self.options.kill_after,
            look: now + LOOK,
            killed: false,
        });
    }

    fn look_at_remains(&mut self, mut ending: Ending) -> io::Result<()> {
        let now = Instant::now();
        ending.look = now + LOOK;
        self.phase = Phase::Ending(ending);
        if now >= ending.deadline && ending.killed {
            warn!("processes are left that SIGKILL does not end");
            self.finish(ending.status);
            return Ok(());
        }
        self.unreaped = self.reap()?;
        let is_over = !matches!(self.phase, Phase::Ending(_));
        if is_over || now < ending.deadline && !ending.killed {
            return Ok(());
        }
        if !ending.killed {
            warn!(
                "SIGKILL ends what outlived the command by {}",
                humantime::format_duration(self.options.kill_after)
            );
            self.phase = Phase::Ending(Ending {
                killed: true,
                deadline: now + STUCK_AFTER,
                ..ending
            });
        }
        // Again and again: what is signalled one by one may fork meanwhile.
        self.remains.signal(libc::SIGKILL);
        self.unreaped = true;
        Ok(())
    }

    fn finish(&mut self, status: Status) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        self.phase = Phase::Finished(status);
    }
}

/// What an exit code or a signal's number has anyway.
fn low_octet(number: i32) -> u8 {
    u8::try_from(number & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(Status::Exited(7).exit_code(), 7);
        assert_eq!(Status::Killed(15).exit_code(), 143);
        assert_eq!(Status::Killed(64).exit_code(), 192);
    }

    #[test]
    fn whom_to_forward_to_is_a_word() {
        for word in ["group", "child"] {
            assert_eq!(
                word.parse::<ForwardTo>().map(|to| to.to_string()),
                Ok(word.to_owned())
            );
        }
        assert!("Group".parse::<ForwardTo>().is_err());
    }
}
