//! Raw system calls on the calling thread and on the file descriptors of the process.
//!
//! The credential calls are raw on purpose. Credentials are a thread's in Linux; the C library's
//! wrappers change those of every thread (nptl(7)), and a look at files with another user's rights
//! is to be one thread's. Signals and waits are raw because nix knows no real-time signals.

use nix::fcntl::Flock;
use nix::sys::{
    signal::{SigSet, SigmaskHow},
    signalfd::SignalFd,
};
use nix::unistd::{ForkResult, Pid};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use tokio::io::{Interest, unix::AsyncFd};

/// Sets the supplementary groups of the calling thread alone: setgroups(2).
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` 32-bit ids from the slice and keeps no pointer.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Lets this process open as many descriptors as the hard limit allows: `RLIMIT_NOFILE` in
/// getrlimit(2). Children that run already keep their own.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Sets real, effective and saved group id of the calling thread alone: setresgid(2).
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: the call takes three integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// An id that is to stay as it is: -1 in setresuid(2).
pub const UNCHANGED: u32 = u32::MAX;

/// Sets real, effective and saved user id of the calling thread alone, each to its own value:
/// setresuid(2).
pub fn set_uids(real: u32, effective: u32, saved: u32) -> io::Result<()> {
    // SAFETY: the call takes three integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, real, effective, saved) })
}

/// Sets the effective, permitted and inheritable capabilities of the calling thread, bit n for
/// capability n: capset(2). All at once, where a crate would take two calls for each, and so that no
/// set stays as it was because another one could not be changed.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` in linux/capability.h: sets of 64 bits, in two halves.
    const VERSION: u32 = 0x2008_0522;
    let half = |shift: u32| {
        let sets = [effective, permitted, inheritable];
        sets.map(|set| (set >> shift & 0xffff_ffff) as u32)
    };
    // `struct __user_cap_header_struct`, of the calling thread, and two of
    // `struct __user_cap_data_struct`.
    let mut header = [VERSION, 0];
    let data = [half(0), half(32)];
    // SAFETY: both have the sizes of version 3, and the kernel keeps no pointer to them. It writes
    // to the header alone, a version where it does not know this one.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()) })
}

/// Takes the capability with this number from the bounding set of the calling thread:
/// `PR_CAPBSET_DROP`, which takes `CAP_SETPCAP`.
pub fn bounding_drop(capability: u8) -> io::Result<()> {
    // SAFETY: the call takes integers.
    check(unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    })
}

/// Puts a seccomp filter on the calling thread: seccomp(2). It takes `no_new_privs` or
/// `CAP_SYS_ADMIN`.
///
/// `SPEC_ALLOW` (Linux 4.17): the filter says nothing about speculation, so it shall not switch on
/// the mitigations that older kernels tie to any filter and that slow the command down.
pub fn install_filter(program: &[seccompiler::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?;
    let program = libc::sock_fprog {
        len,
        // Both types are the kernel's `struct sock_filter` (linux/filter.h), `repr(C)`.
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` points at `len` instructions that outlive the call; the kernel copies them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    })
}

/// Sets the signals of a mask to their default disposition: bit n - 1 for signal n. What is ignored
/// has to be, because exec keeps that; it resets handlers by itself (signal(7)).
///
/// By `rt_sigaction(2)` itself: the C library's wrapper refuses the two signals that it uses.
pub fn reset_dispositions(signals: u64) -> io::Result<()> {
    // The kernel's `struct sigaction`: handler (SIG_DFL is 0), flags, restorer, a mask of 64
    // bits. Four words of 64 bits on x86_64 and aarch64.
    let default = [0_u64; 4];
    for signal in (1..=64).filter(|signal| signals >> (signal - 1) & 1 == 1) {
        // SAFETY: `default` is a whole `struct sigaction` of the kernel, the old one is not asked
        // for, and 8 is the size of the kernel's signal set.
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                8_usize,
            )
        })?;
    }
    Ok(())
}

/// Every signal there is. The C library's own idea of that leaves out those that it uses itself:
/// two in glibc, three in musl, which anybody may send all the same.
#[must_use]
pub fn all_signals() -> SigSet {
    // SAFETY: an all-zero `sigset_t` is a valid one, and it begins with the kernel's set, 64 bits
    // (glibc and musl on x86_64 and aarch64).
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        (&raw mut set).cast::<u64>().write(u64::MAX);
        SigSet::from_sigset_t_unchecked(set)
    }
}

/// Changes which signals are blocked for the calling thread: `rt_sigprocmask(2)`.
///
/// By itself: `pthread_sigmask(3)` returns its error as a number, which nix takes for success.
pub fn change_signal_mask(how: SigmaskHow, set: &SigSet) -> io::Result<()> {
    let set: *const libc::sigset_t = set.as_ref();
    // SAFETY: the C library's set begins with the kernel's, of 8 octets, which is only read.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how as libc::c_int,
            set,
            std::ptr::null::<u64>(),
            8_usize,
        )
    })
}

/// Whether a signal waits, blocked, for the calling thread or for its process: sigpending(2).
pub fn is_pending(signal: nix::sys::signal::Signal) -> io::Result<bool> {
    // SAFETY: an all-zero `sigset_t` is a valid one, and both calls get a pointer to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        check(libc::sigpending(&raw mut set))?;
        Ok(libc::sigismember(&raw const set, signal as libc::c_int) == 1)
    }
}

/// Marks every file descriptor above 2 close-on-exec but the one that is to be kept, which it
/// unmarks: `close_range(2)`, or one by one where the kernel is older than 5.11 or a container's
/// filter refuses the call.
pub fn close_on_exec_above_2(kept: Option<BorrowedFd<'_>>) -> io::Result<()> {
    // SAFETY: the call takes integers and closes nothing, so no owned descriptor is taken away.
    let all_at_once = check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    });
    all_at_once.or_else(|_| close_on_exec_one_by_one())?;
    let Some(kept) = kept else { return Ok(()) };
    // SAFETY: the descriptor is open for as long as it is borrowed; a flag is cleared.
    check(unsafe { libc::fcntl(kept.as_raw_fd(), libc::F_SETFD, 0) })
}

fn close_on_exec_one_by_one() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/thread-self/fd")? {
        let name = entry?.file_name();
        let fd = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(fd) = fd.filter(|fd| *fd > 2) else {
            continue;
        };
        // SAFETY: the call takes integers; a flag is set, no descriptor is closed.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok(())
}

/// Closes a locked file without unlocking it: the lock goes on in whoever inherited the file.
/// Dropping it would end the lock for everyone, because the open file is one.
pub fn close_locked(lock: Flock<OwnedFd>) {
    let fd = lock.as_raw_fd();
    std::mem::forget(lock);
    // SAFETY: the owner of the descriptor was taken and forgotten just now, so this is its only
    // close. Its result does not matter: the descriptor is gone in any case (close(2)).
    unsafe { libc::close(fd) };
}

/// How long a thread that was joined may take to be gone for the kernel too.
const THREAD_END: Duration = Duration::from_secs(1);

/// Forks the process, which must have one thread: fork(2).
///
/// The child has its own copy of everything and must end with exec or [`exit_now`], never by
/// returning to what belongs to its parent.
pub fn fork() -> io::Result<ForkResult> {
    let since = Instant::now();
    while std::fs::read_dir("/proc/self/task")?.count() != 1 {
        if since.elapsed() > THREAD_END {
            return Err(io::Error::other("this process has more than one thread"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: there is no other thread that could hold a lock in the child for ever, so the child
    // may do whatever a process may do.
    unsafe { nix::unistd::fork() }.map_err(Into::into)
}

/// Ends the process without running what its copy of the parent's memory would run: `_exit(2)`.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: the call takes an integer and does not return.
    unsafe { libc::_exit(code.into()) }
}

/// Sends a signal by number to a process, to a group (negative), or to everything (-1): kill(2).
/// Number 0 sends none and only looks.
pub fn kill(whom: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    check(unsafe { libc::kill(whom.as_raw(), signal) })
}

/// What a look at the children found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// One that changed, which is now reaped where it has ended.
    Changed(Pid, Change),
    /// There are some, and nothing new about them.
    Unchanged,
    /// There are none.
    None,
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It exited, with this code.
    Exited(i32),
    /// A signal ended it, by number.
    Killed(i32),
    /// A signal stopped it, by number.
    Stopped(i32),
    /// It goes on.
    Continued,
}

/// Takes the next change of any child, without waiting: waitid(2).
pub fn next_change() -> io::Result<Children> {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::__WALL;
    // SAFETY: an all-zero `siginfo_t` is a valid one, the call fills it and keeps no pointer.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::waitid(libc::P_ALL, 0, &raw mut info, flags), info)
    };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(Children::None),
        result => result?,
    }
    // SAFETY: waitid(2) fills these two fields, or leaves them zero where nothing changed.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let change = match info.si_code {
        _ if pid == 0 => return Ok(Children::Unchanged),
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
        libc::CLD_CONTINUED => Change::Continued,
        _ => Change::Stopped(status),
    };
    Ok(Children::Changed(Pid::from_raw(pid), change))
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Owns one descriptor, always returns it, and keeps it open until it is dropped.
pub trait Owner: AsRawFd {}
impl Owner for SignalFd {}
impl Owner for OwnedFd {}

/// Registers a descriptor that is to be read with the runtime of the calling thread.
pub fn watch<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what `Owner` says, until it is dropped with the AsyncFd.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::fd::AsFd;

    fn has_close_on_exec(fd: RawFd) -> bool {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC != 0
    }

    #[test]
    fn both_ways_mark_a_descriptor_close_on_exec() {
        for mark in [|| close_on_exec_above_2(None), close_on_exec_one_by_one] {
            let file = std::fs::File::open("/dev/null").unwrap();
            // SAFETY: `file` is open; a flag is cleared.
            let cleared = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
            assert_eq!(cleared, 0);
            assert!(!has_close_on_exec(file.as_raw_fd()));
            mark().unwrap();
            assert!(has_close_on_exec(file.as_raw_fd()));
        }
    }

    #[test]
    fn the_one_that_is_kept_is_not_marked() {
        let [kept, other] = [(); 2].map(|()| std::fs::File::open("/dev/null").unwrap());
        assert!(has_close_on_exec(kept.as_raw_fd()));
        close_on_exec_above_2(Some(kept.as_fd())).unwrap();
        assert!(!has_close_on_exec(kept.as_raw_fd()));
        assert!(has_close_on_exec(other.as_raw_fd()));
    }

    #[test]
    fn a_blocked_signal_is_seen_pending() {
        use nix::sys::signal::Signal;
        let mut set = SigSet::empty();
        set.add(Signal::SIGURG);
        set.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        assert!(!is_pending(Signal::SIGURG).unwrap());
        nix::sys::signal::raise(Signal::SIGURG).unwrap();
        assert!(is_pending(Signal::SIGURG).unwrap());
    }
}
