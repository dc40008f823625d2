//! One start at a time in a network namespace (I9).
//!
//! Whoever listens on an abstract Unix socket of a fixed name holds the lock: such a name belongs
//! to the network namespace, needs no file, and is free again the instant its holder execs, exits
//! or is killed. Those who wait connect to it, so that the kernel wakes them at that instant.
//!
//! A keeper holds it for as long as it lives, and says so by a second name, so that nobody waits for
//! its end.
//!
//! Any process of the namespace can take the name. That stops a start and never lets one through,
//! and the error names who it was.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;
use thiserror::Error;

const NAME: &str = "egress-init";
/// What is behind the name of the lock where its holder stays.
const STAYS: &str = "-keeper";
/// How often those who wait look whether that is so.
const LOOK: Duration = Duration::from_millis(250);

/// Between two attempts where nothing tells when to try again.
const RETRY: Duration = Duration::from_millis(2);

/// The lock; dropping it releases it, and so does exec.
#[derive(Debug)]
pub struct StartLock {
    name: String,
    _listener: UnixListener,
    stays: Option<UnixListener>,
}

/// Who holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, 0 where it is of a pid namespace that this process cannot see.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub enum StartLockError {
    /// Another start took longer than this one waits.
    #[error(
        "another start of egress-init in this network namespace ({}) did not end within {}",
        describe(*.holder), humantime::format_duration(*.waited)
    )]
    Held {
        /// Who held it last, if it could be asked.
        holder: Option<Holder>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A keeper is there, which does not end by itself.
    #[error(
        "egress-init with --supervise or apply --watch ({}) keeps the rules of this network namespace",
        describe(Some(*.0))
    )]
    Kept(Holder),
    /// Something that is no start of egress-init has the name of the lock.
    #[error("the lock for starts in this network namespace is held by {}", describe(Some(*.0)))]
    Foreign(Holder),
    /// A socket call that should not fail did.
    #[error("cannot take the lock for starts in this network namespace")]
    Socket(#[from] io::Error),
}

impl StartLockError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Held {
                holder: Some(Holder { pid: 1.., .. }),
                ..
            }
            | Self::Foreign(Holder { pid: 1.., .. }) => {
                Some("end that process and start again".to_owned())
            }
            Self::Kept(_) => Some(
                "it reads its list files again when they change and on SIGHUP; for other rules than these, end it first"
                    .to_owned(),
            ),
            Self::Held { .. } | Self::Foreign(_) => Some(
                "end the other containers of this network namespace and start again".to_owned(),
            ),
            Self::Socket(_) => None,
        }
    }
}

fn describe(holder: Option<Holder>) -> String {
    match holder {
        Some(Holder {
            pid: pid @ 1..,
            uid,
        }) => format!("pid {pid}, uid {uid}"),
        Some(Holder { uid, .. }) => format!("a process of another pid namespace, uid {uid}"),
        None => "a process that is gone".to_owned(),
    }
}

impl StartLock {
    /// Takes the lock as soon as nobody else has it, within `timeout`. Needs tokio's drivers for
    /// I/O and time; to be cancelled by dropping the future.
    pub async fn acquire(timeout: Duration) -> Result<Self, StartLockError> {
        Self::acquire_named(NAME, timeout).await
    }

    /// That no keeper holds it: to be asked before a start changes anything, its sentinel included.
    pub fn check_free_to_take() -> Result<(), StartLockError> {
        let Some(stream) = connect_to_holder(NAME)? else {
            return Ok(());
        };
        let holder = ask_who(&stream)?;
        if is_trusted(holder) && stays(NAME, holder)? {
            return Err(StartLockError::Kept(holder));
        }
        Ok(())
    }

    /// Lets other starts know that this one stays, so that they end instead of waiting.
    #[must_use]
    pub fn stay(mut self) -> Self {
        // Where somebody else has the name, they wait in vain.
        self.stays = SocketAddr::from_abstract_name(format!("{}{STAYS}", self.name))
            .and_then(|address| UnixListener::bind_addr(&address))
            .ok();
        self
    }

    async fn acquire_named(name: &str, timeout: Duration) -> Result<Self, StartLockError> {
        let mut holder = None;
        match tokio::time::timeout(timeout, take(name, &mut holder)).await {
            Ok(result) => result,
            Err(_) => Err(StartLockError::Held {
                holder,
                waited: timeout,
            }),
        }
    }
}

async fn take(name: &str, holder: &mut Option<Holder>) -> Result<StartLock, StartLockError> {
    let address = SocketAddr::from_abstract_name(name)?;
    loop {
        match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => {
                return Ok(StartLock {
                    name: name.to_owned(),
                    _listener: result?,
                    stays: None,
                });
            }
        }
        if let Some(stream) = connect_to_holder(name)? {
            let found = ask_who(&stream)?;
            if !is_trusted(found) {
                return Err(StartLockError::Foreign(found));
            }
            *holder = Some(found);
            // It never sends: what becomes readable is the end.
            let stream = tokio::net::UnixStream::from_std(stream)?;
            loop {
                if stays(name, found)? {
                    return Err(StartLockError::Kept(found));
                }
                if let Ok(ended) = tokio::time::timeout(LOOK, stream.readable()).await {
                    ended?;
                    break;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Nothing where the holder is gone, does not listen yet, or has no room for one more to wait.
fn connect_to_holder(name: &str) -> io::Result<Option<UnixStream>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(
        socket.as_raw_fd(),
        &UnixAddr::new_abstract(name.as_bytes())?,
    ) {
        Ok(()) => Ok(Some(socket.into())),
        Err(Errno::ECONNREFUSED | Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether it may be a start: of root's, or of this process's user.
fn is_trusted(holder: Holder) -> bool {
    holder.uid == 0 || holder.uid == nix::unistd::geteuid().as_raw()
}

/// Whether the holder says that it stays: it, and not whoever has the name.
fn stays(name: &str, holder: Holder) -> io::Result<bool> {
    let Some(stream) = connect_to_holder(&format!("{name}{STAYS}"))? else {
        return Ok(false);
    };
    Ok(ask_who(&stream)? == holder)
}

/// Whoever called listen(2): unix(7).
fn ask_who(stream: &UnixStream) -> io::Result<Holder> {
    let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(Holder {
        pid: credentials.pid(),
        uid: credentials.uid(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::time::Instant;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(future)
    }

    /// A name of its own for each test: they share one network namespace.
    fn name(test: &str) -> String {
        format!("egress-init-test-{test}-{}", std::process::id())
    }

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_second_start_waits_for_the_first_and_is_woken() {
        let name = name("woken");
        run(async {
            let first = StartLock::acquire_named(&name, LONG).await.unwrap();
            let release = async {
                tokio::time::sleep(SHORT).await;
                drop(first);
                Instant::now()
            };
            let (second, released) = tokio::join!(
                async {
                    StartLock::acquire_named(&name, LONG).await.unwrap();
                    Instant::now()
                },
                release
            );
            assert!(second >= released);
            assert!(
                second - released < Duration::from_secs(1),
                "{:?}",
                second - released
            );
        });
    }

    #[test]
    fn a_lock_that_is_not_released_is_an_error_that_names_its_holder() {
        let name = name("held");
        run(async {
            let _first = StartLock::acquire_named(&name, LONG).await.unwrap();
            let error = StartLock::acquire_named(&name, SHORT).await.unwrap_err();
            let expected = format!("(pid {}, uid ", std::process::id());
            assert!(error.to_string().contains(&expected), "{error}");
            assert!(error.to_string().ends_with("within 50ms"), "{error}");
        });
    }

    #[test]
    fn nobody_waits_for_one_that_stays() {
        let name = name("stays");
        run(async {
            let first = StartLock::acquire_named(&name, LONG).await.unwrap();
            let stay = async {
                tokio::time::sleep(SHORT).await;
                first.stay()
            };
            let began = Instant::now();
            let (error, first) = tokio::join!(StartLock::acquire_named(&name, LONG), stay);
            assert!(
                matches!(error, Err(StartLockError::Kept(Holder { pid, .. })) if pid.cast_unsigned() == std::process::id()),
            );
            assert!(began.elapsed() < LONG / 2);
            drop(first);
            StartLock::acquire_named(&name, SHORT).await.unwrap();
        });
    }

    #[test]
    fn a_name_that_is_bound_and_not_listened_on_is_waited_for() {
        let name = name("bound");
        let bound = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let address = UnixAddr::new_abstract(name.as_bytes()).unwrap();
        nix::sys::socket::bind(bound.as_raw_fd(), &address).unwrap();
        run(async {
            let error = StartLock::acquire_named(&name, SHORT).await.unwrap_err();
            assert!(
                matches!(error, StartLockError::Held { holder: None, .. }),
                "{error}"
            );
            drop(bound);
            StartLock::acquire_named(&name, SHORT).await.unwrap();
        });
    }

    #[test]
    fn many_starts_hold_it_one_after_the_other() {
        let name = name("many");
        run(async {
            let inside = std::cell::Cell::new(0);
            let start = || async {
                let _lock = StartLock::acquire_named(&name, LONG).await.unwrap();
                inside.set(inside.get() + 1);
                assert_eq!(inside.get(), 1);
                tokio::time::sleep(Duration::from_millis(3)).await;
                inside.set(inside.get() - 1);
            };
            tokio::join!(start(), start(), start(), start(), start());
        });
    }
}
