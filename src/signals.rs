//! SIGTERM and SIGINT during the start: they end it, at once (I5).
//!
//! They are blocked and read from a descriptor (signalfd(2)): as PID 1 the kernel would drop
//! them unseen, and a handler could not tell how far the start is.

use crate::sys::process;
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use std::io;
use tokio::io::unix::AsyncFd;

/// The signals that a thread raises by a mistake of its own. To block them would only turn its end
/// into another one, and nobody else has reason to send them.
const FAULTS: [Signal; 7] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// Every signal that can be blocked, but for faults: what a supervisor reads from a descriptor.
#[must_use]
pub fn supervised() -> SigSet {
    let mut set = process::all_signals();
    for fault in FAULTS {
        set.remove(fault);
    }
    set
}

/// Blocks them all, before anything else: none that arrives during the start is lost, the command
/// gets it afterwards.
pub fn block_supervised() -> io::Result<()> {
    process::change_signal_mask(SigmaskHow::SIG_SETMASK, &supervised())
}

/// Blocks the one that asks for a reload, for a start that has nothing below it: it neither ends the
/// start nor is lost, the lists are read again afterwards.
pub fn block_hangup() -> io::Result<()> {
    let set: SigSet = [Signal::SIGHUP].into_iter().collect();
    process::change_signal_mask(SigmaskHow::SIG_BLOCK, &set)
}

/// What ended the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

impl Interruption {
    /// 128 + the number of the signal.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
        }
    }

    /// The signal's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

/// The signals that have arrived. Whoever executes the command has to unblock them.
pub struct Signals(AsyncFd<SignalFd>);

impl Signals {
    /// Blocks both for this thread and those that it starts. Within a tokio runtime.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        process::change_signal_mask(SigmaskHow::SIG_BLOCK, &set)?;
        let descriptor =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self(process::watch(descriptor)?))
    }

    /// One that has arrived already.
    pub fn pending(&self) -> io::Result<Option<Interruption>> {
        let signal = self.0.get_ref().read_signal()?;
        let interrupt = nix::libc::SIGINT.cast_unsigned();
        Ok(signal.map(|info| {
            if info.ssi_signo == interrupt {
                Interruption::Interrupt
            } else {
                Interruption::Terminate
            }
        }))
    }

    /// Waits for one.
    pub async fn received(&self) -> io::Result<Interruption> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Some(interruption) = self.pending()? {
                return Ok(interruption);
            }
            ready.clear_ready();
        }
    }
}
