//! The system calls of a start, and how each of them can fail: the errors of its manual page that
//! an unlucky or a hardened system returns (no memory, no descriptors, no space, a read-only or
//! broken disk, a security module, a seccomp profile, a signal), for the arguments it is given.
//! Left out is what only a wrong argument returns (EFAULT, EBADF), which no system returns to a
//! program that passes right ones.

#[allow(clippy::wildcard_imports)] // a table of most of them
use nix::libc::{self, *};

use super::tracer::{Fault, Process};

/// A system call, its errors, and whether the kernel may do less than it was asked to.
struct Known(&'static str, i64, &'static [i32], bool);

macro_rules! known {
    ($($name:ident: $number:ident [$($error:ident)*] $(($short:ident))?;)*) => {
        &[$(Known(stringify!($name), $number, &[$($error),*], !<[&str]>::is_empty(&[$(stringify!($short))?]))),*]
    };
}

/// A file that is there does not vanish either, nor does the kernel lose a call between one and
/// the next: ENOENT is left out, and ENOSYS lasts. EPERM and ENOSYS are what seccomp profiles return for a call that they deny: Docker's own, and
/// those of others.
#[rustfmt::skip]
const EVERYWHERE: &[Known] = known! {
    accept4: SYS_accept4 [EMFILE ENFILE ENOMEM ENOBUFS ECONNABORTED EINTR EPERM];
    bind: SYS_bind [EADDRINUSE EACCES ENOMEM ENOBUFS EPERM];
    brk: SYS_brk [ENOMEM];
    capget: SYS_capget [EPERM EINVAL ENOSYS];
    capset: SYS_capset [EPERM EINVAL ENOSYS];
    // Where the vDSO does not know the time.
    clock_gettime: SYS_clock_gettime [];
    clone3: SYS_clone3 [EAGAIN ENOMEM EPERM];
    clone: SYS_clone [EAGAIN ENOMEM EPERM];
    close: SYS_close [EINTR EIO];
    close_range: SYS_close_range [ENOSYS EPERM EINVAL ENOMEM];
    connect: SYS_connect [ECONNREFUSED EAGAIN ENETUNREACH EACCES EPERM EINTR ENOBUFS];
    epoll_create1: SYS_epoll_create1 [EMFILE ENFILE ENOMEM ENOSYS];
    epoll_ctl: SYS_epoll_ctl [ENOMEM ENOSPC EPERM];
    epoll_pwait: SYS_epoll_pwait [EINTR];
    eventfd2: SYS_eventfd2 [EMFILE ENFILE ENOMEM ENODEV];
    execve: SYS_execve [EACCES ENOENT ENOEXEC EPERM E2BIG ENOMEM EAGAIN EIO ETXTBSY];
    fchmod: SYS_fchmod [EPERM EROFS EIO];
    fchown: SYS_fchown [EPERM EROFS EIO];
    fcntl: SYS_fcntl [EPERM EAGAIN];
    flock: SYS_flock [EWOULDBLOCK EINTR ENOLCK];
    fstat: SYS_fstat [EIO ENOMEM EACCES];
    ftruncate: SYS_ftruncate [EIO EROFS EPERM ENOSPC];
    futex: SYS_futex [EINTR EAGAIN];
    getcwd: SYS_getcwd [ENOMEM];
    getdents64: SYS_getdents64 [EIO];
    getegid: SYS_getegid [];
    geteuid: SYS_geteuid [];
    getgid: SYS_getgid [];
    getgroups: SYS_getgroups [EPERM];
    getpid: SYS_getpid [];
    getppid: SYS_getppid [];
    getrandom: SYS_getrandom [EINTR ENOSYS];
    getsockname: SYS_getsockname [ENOBUFS];
    getsockopt: SYS_getsockopt [ENOMEM EPERM];
    gettid: SYS_gettid [];
    getuid: SYS_getuid [];
    inotify_add_watch: SYS_inotify_add_watch [ENOSPC ENOMEM EACCES];
    inotify_init1: SYS_inotify_init1 [EMFILE ENFILE ENOMEM];
    ioctl: SYS_ioctl [ENOTTY EPERM];
    listen: SYS_listen [EADDRINUSE EOPNOTSUPP];
    lseek: SYS_lseek [ESPIPE];
    madvise: SYS_madvise [ENOMEM EINVAL];
    mmap: SYS_mmap [ENOMEM EAGAIN];
    mprotect: SYS_mprotect [ENOMEM EACCES];
    mremap: SYS_mremap [ENOMEM];
    munmap: SYS_munmap [ENOMEM];
    newfstatat: SYS_newfstatat [EIO ENOMEM EACCES];
    openat: SYS_openat [EACCES EMFILE ENFILE ENOMEM EROFS ENOSPC EIO EINTR EPERM];
    prctl: SYS_prctl [EPERM EINVAL EACCES];
    pread64: SYS_pread64 [EIO EINTR] (short);
    prlimit64: SYS_prlimit64 [EPERM];
    pwrite64: SYS_pwrite64 [ENOSPC EIO EINTR EDQUOT EFBIG] (short);
    read: SYS_read [EIO EINTR EAGAIN ENOMEM] (short);
    recvfrom: SYS_recvfrom [EAGAIN EINTR ENOMEM ENOBUFS ECONNREFUSED];
    recvmmsg: SYS_recvmmsg [EINTR ENOMEM ENOBUFS];
    recvmsg: SYS_recvmsg [EAGAIN EINTR ENOMEM ENOBUFS ECONNREFUSED];
    rseq: SYS_rseq [EINVAL ENOSYS];
    rt_sigaction: SYS_rt_sigaction [EINVAL EPERM];
    rt_sigpending: SYS_rt_sigpending [EINVAL];
    rt_sigprocmask: SYS_rt_sigprocmask [EINVAL EPERM];
    sched_getaffinity: SYS_sched_getaffinity [EPERM ESRCH];
    seccomp: SYS_seccomp [EACCES EINVAL ENOMEM ENOSYS EPERM];
    sendmmsg: SYS_sendmmsg [EAGAIN EINTR ENOBUFS ENOMEM EPERM ENETUNREACH EHOSTUNREACH];
    sendmsg: SYS_sendmsg [EAGAIN EINTR ENOBUFS ENOMEM EPERM ENETUNREACH EHOSTUNREACH];
    sendto: SYS_sendto [EAGAIN EINTR ENOBUFS ENOMEM EPERM ENETUNREACH EHOSTUNREACH];
    set_robust_list: SYS_set_robust_list [EINVAL];
    set_tid_address: SYS_set_tid_address [];
    setgroups: SYS_setgroups [EPERM ENOMEM EINVAL];
    setpgid: SYS_setpgid [EACCES EPERM];
    setresgid: SYS_setresgid [EPERM EINVAL EAGAIN];
    setresuid: SYS_setresuid [EPERM EINVAL EAGAIN];
    setsockopt: SYS_setsockopt [EPERM ENOPROTOOPT ENOMEM];
    sigaltstack: SYS_sigaltstack [ENOMEM EPERM];
    signalfd4: SYS_signalfd4 [EMFILE ENFILE ENOMEM ENODEV];
    socket: SYS_socket [EMFILE ENFILE ENOMEM ENOBUFS EACCES EPERM EAFNOSUPPORT EPROTONOSUPPORT];
    socketpair: SYS_socketpair [EMFILE ENFILE ENOMEM];
    statx: SYS_statx [EACCES EIO ENOMEM ENOSYS];
    umask: SYS_umask [];
    uname: SYS_uname [];
    waitid: SYS_waitid [ECHILD EINTR];
    write: SYS_write [EAGAIN EINTR EIO ENOSPC EPIPE EDQUOT] (short);
    // They return nothing, or they never return.
    exit: SYS_exit [];
    exit_group: SYS_exit_group [];
    rt_sigreturn: SYS_rt_sigreturn [];
};

/// Those that younger architectures do without.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const HERE: &[Known] = known! {
    access: SYS_access [EACCES];
    arch_prctl: SYS_arch_prctl [EPERM];
    chmod: SYS_chmod [EPERM EROFS EIO EACCES];
    dup2: SYS_dup2 [EMFILE EINTR];
    epoll_wait: SYS_epoll_wait [EINTR];
    fork: SYS_fork [EAGAIN ENOMEM EPERM];
    lstat: SYS_lstat [EACCES EIO ENOMEM];
    mkdir: SYS_mkdir [EACCES ENOSPC EROFS EDQUOT EEXIST];
    open: SYS_open [EACCES EMFILE ENFILE ENOMEM EROFS ENOSPC EIO EINTR EPERM];
    poll: SYS_poll [EINTR ENOMEM];
    readlink: SYS_readlink [EIO EACCES];
    rename: SYS_rename [ENOSPC EROFS EIO EACCES EPERM EDQUOT];
    stat: SYS_stat [EACCES EIO ENOMEM];
    unlink: SYS_unlink [EACCES EBUSY EIO EPERM EROFS ENOENT];
};

/// What takes their place: the same names, so that a call is called the same everywhere.
#[rustfmt::skip]
#[cfg(target_arch = "aarch64")]
const HERE: &[Known] = known! {
    access: SYS_faccessat [EACCES];
    chmod: SYS_fchmodat [EPERM EROFS EIO EACCES];
    dup2: SYS_dup3 [EMFILE EINTR];
    mkdir: SYS_mkdirat [EACCES ENOSPC EROFS EDQUOT EEXIST];
    poll: SYS_ppoll [EINTR ENOMEM];
    readlink: SYS_readlinkat [EIO EACCES];
    rename: SYS_renameat [ENOSPC EROFS EIO EACCES EPERM EDQUOT];
    unlink: SYS_unlinkat [EACCES EBUSY EIO EPERM EROFS ENOENT];
};

/// Which argument is a path: where directories can be named, the one after.
const PATH: usize = if cfg!(target_arch = "x86_64") { 0 } else { 1 };

fn known() -> impl Iterator<Item = &'static Known> {
    EVERYWHERE.iter().chain(HERE)
}

/// The name of a system call; a number where this file does not have it.
pub fn name(number: u64) -> String {
    let known = known().find(|known| u64::try_from(known.1) == Ok(number));
    known.map_or_else(|| format!("number {number}"), |known| known.0.to_owned())
}

/// What can happen to a call that reads what the kernel has said is there: an event, a signal. It is
/// the only one who reads it, so it is not gone, and it is whole.
pub fn faults_of_events(name: &str, length: u64) -> Option<Vec<Fault>> {
    let mut faults = faults(name, length)?;
    faults.retain(|fault| !matches!(fault, Fault::Error(libc::EAGAIN) | Fault::Short));
    Some(faults)
}

/// What can happen to a call; nothing is known of a system call that is not in this file.
pub fn faults(name: &str, length: u64) -> Option<Vec<Fault>> {
    let known = known().find(|known| known.0 == name)?;
    let passing = known.2.iter().filter(|errno| **errno != ENOSYS);
    let mut faults: Vec<_> = passing.map(|errno| Fault::Error(*errno)).collect();
    if known.3 && length > 1 {
        faults.push(Fault::Short);
    }
    faults.push(Fault::Kill);
    Some(faults)
}

/// Errors that last: of a system without memory, without room, whose profile denies a call.
pub fn lasting(name: &str) -> Vec<Fault> {
    const LASTING: [i32; 9] = [
        EPERM, ENOMEM, ENOBUFS, EMFILE, ENOSYS, EROFS, ENOSPC, EIO, EACCES,
    ];
    let known = known().find(|known| known.0 == name);
    // No error of close(2) is every file's.
    let known = known.filter(|_| name != "close");
    let errors = known.map_or(&[][..], |known| known.2).iter();
    errors
        .filter(|errno| LASTING.contains(errno))
        .map(|errno| Fault::ErrorFromNow(*errno))
        .collect()
}

/// What a call is about, where that can be said in a word: its path, or which part of a change a
/// message to `nf_tables` is.
pub fn subject(name: &str, arguments: &[u64; 6], process: &Process) -> Option<String> {
    let memory = |address, length| process.memory(address, length);
    let path = |address: u64| {
        let octets = memory(address, 256);
        let end = octets.iter().position(|octet| *octet == 0)?;
        Some(String::from_utf8_lossy(&octets[..end]).into_owned())
    };
    match name {
        "execve" => path(arguments[0]),
        "access" | "chmod" | "lstat" | "mkdir" | "open" | "readlink" | "stat" | "unlink" => {
            path(arguments[PATH])
        }
        "newfstatat" | "openat" | "statx" => path(arguments[1]),
        "rename" => Some(format!(
            "{} -> {}",
            path(arguments[PATH])?,
            path(arguments[2 * PATH + 1])?
        )),
        "connect" => is_port_53(&memory(arguments[1], 4)).then(|| "a nameserver".to_owned()),
        "close" | "read" | "write" => process.descriptor(arguments[0]),
        // Neither the real nor the saved id changes: -1 in setresuid(2).
        "setresuid" => {
            let unchanged = |argument: u64| argument & 0xffff_ffff == 0xffff_ffff;
            (unchanged(arguments[0]) && unchanged(arguments[2])).then(|| "the way back".to_owned())
        }
        "sendto" => {
            let length = usize::try_from(arguments[2]).ok()?;
            nftables(&memory(arguments[1], length.min(1 << 16))).map(str::to_owned)
        }
        _ => None,
    }
}

fn is_port_53(address: &[u8]) -> bool {
    let family = address
        .first_chunk()
        .map_or(0, |family| u16::from_ne_bytes(*family));
    let inet = [libc::AF_INET, libc::AF_INET6].map(u16::try_from);
    inet.contains(&Ok(family)) && address.get(2..4) == Some(&[0, 53])
}

/// Of include/uapi/linux/netfilter/nfnetlink.h and `nf_tables.h`: a batch begins with a message of
/// type 16, a type of `nf_tables` has 10 in its upper octet.
fn nftables(message: &[u8]) -> Option<&'static str> {
    const BATCH: u16 = 16;
    const DELETE_TABLE: u16 = 0x0a02;
    const ASKS: [u16; 5] = [0x0a01, 0x0a04, 0x0a07, 0x0a0a, 0x0a0d];
    let mut rest = message;
    let mut kinds = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes(rest[..4].try_into().ok()?);
        let length = usize::try_from(length).ok()?.next_multiple_of(4);
        kinds.push(u16::from_ne_bytes(rest[4..6].try_into().ok()?));
        if length < 16 {
            break;
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    match kinds.first() {
        Some(&BATCH) if kinds.contains(&DELETE_TABLE) => Some("replaces the table"),
        Some(&BATCH) => Some("changes the table"),
        Some(kind) if ASKS.contains(kind) => Some("reads the table back"),
        _ => None,
    }
}
