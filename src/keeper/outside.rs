//! What a keeper is told from outside: by the supervisor of a command, or by signals alone.

use crate::{
    supervise::{Event, Supervised},
    sys::process,
};
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use std::{future::Future, io};
use tokio::io::unix::AsyncFd;
use tracing::info;

/// A wish of somebody outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read the lists again.
    Reload,
    /// End with this exit code.
    End(u8),
}

/// Whoever has wishes.
pub trait Outside {
    /// The next one. Dropping the future loses nothing.
    fn wish(&mut self) -> impl Future<Output = io::Result<Wish>>;
}

/// Until the command and all that it left behind have ended.
impl Outside for Supervised {
    async fn wish(&mut self) -> io::Result<Wish> {
        loop {
            match self.next().await? {
                Event::Reload => return Ok(Wish::Reload),
                Event::Finished(status) => return Ok(Wish::End(status.exit_code())),
                Event::CommandEnded(_) => {}
            }
        }
    }
}

/// The signals of a keeper without a command: SIGHUP reloads, SIGTERM and SIGINT end it, and the
/// rules stay.
pub struct Signals {
    signals: AsyncFd<SignalFd>,
    /// A wish that nobody was told of yet.
    reload: bool,
}

impl Signals {
    /// Blocks them and reads them from now on. Within a tokio runtime.
    pub fn block() -> io::Result<Self> {
        let set: SigSet = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT]
            .into_iter()
            .collect();
        process::change_signal_mask(SigmaskHow::SIG_BLOCK, &set)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: process::watch(SignalFd::with_flags(&set, flags)?)?,
            reload: false,
        })
    }
}

impl Outside for Signals {
    async fn wish(&mut self) -> io::Result<Wish> {
        loop {
            if std::mem::take(&mut self.reload) {
                return Ok(Wish::Reload);
            }
            let mut ready = self.signals.readable().await?;
            if let Some(signal) = ready.get_inner().read_signal()? {
                if signal.ssi_signo == libc::SIGHUP.cast_unsigned() {
                    self.reload = true;
                    // Whatever else is in the loop has its turn, however many of them come.
                    tokio::task::yield_now().await;
                    continue;
                }
                info!("the rules stay; without a keeper no name resolves and no address is new");
                return Ok(Wish::End(0));
            }
            ready.clear_ready();
        }
    }
}
