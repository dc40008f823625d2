//! The few system calls that neither std nor nix has a safe form for.

#![allow(unsafe_code)]

use std::{
    io,
    mem::{size_of, size_of_val},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

/// What the kernel says to a system call that returns -1 for an error.
fn checked(returned: i32) -> io::Result<i32> {
    if returned == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

/// socket(2), whatever the family: also those that std does not know.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = checked(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// setsockopt(2) with octets as the kernel takes them.
pub fn set_option(socket: &impl AsRawFd, level: i32, option: i32, octets: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of one slice, which the kernel only reads.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            octets.as_ptr().cast(),
            libc::socklen_t::try_from(octets.len()).unwrap(),
        )
    })
    .map(drop)
}

/// How many frames an `AF_PACKET` socket has lost since this was last asked (packet(7)).
pub fn packets_dropped(socket: &impl AsRawFd) -> io::Result<u32> {
    // struct tpacket_stats: packets, drops.
    let mut statistics = [0_u32; 2];
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics)).unwrap();
    // SAFETY: the kernel writes at most `length` octets into the array, whose size that is.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(statistics[1])
}

/// Sends a whole Ethernet frame out of an interface, past every rule for IP.
pub fn send_frame(socket: &impl AsRawFd, interface: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_ifindex = i32::try_from(interface).unwrap();
    // SAFETY: both pointers come with the size of what they point at, and are only read.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap(),
        )
    };
    if sent == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `io_uring_setup(2)` with arguments that a kernel which has it finds wrong: EFAULT then, ENOSYS
/// where it is missing or filtered.
pub fn io_uring() -> io::Error {
    // SAFETY: the null pointer is what makes the kernel refuse.
    unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
    io::Error::last_os_error()
}

/// getpid(2) through the gate of 32-bit programs, as a process does that dodges a filter.
#[cfg(target_arch = "x86_64")]
pub fn foreign_abi() -> io::Result<()> {
    const GETPID_OF_I386: i64 = 20;
    let returned: i64;
    // SAFETY: a system call without arguments; the gate clobbers r8 to r11.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") GETPID_OF_I386 => returned,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if returned < 0 {
        return Err(io::Error::from_raw_os_error(
            i32::try_from(-returned).unwrap(),
        ));
    }
    Ok(())
}

/// 32-bit ARM has no gate that a 64-bit program could use.
#[cfg(not(target_arch = "x86_64"))]
pub fn foreign_abi() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Ignores a signal in this process and what it executes.
pub fn ignore_signal(signal: nix::sys::signal::Signal) {
    // SAFETY: to ignore a signal installs no handler.
    unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
}

/// Duplicates a descriptor to a number, without close-on-exec: a leak made on purpose.
pub fn leak_descriptor(from: i32, to: i32) {
    // SAFETY: no pointers, and `to` is free in the processes that call this.
    checked(unsafe { libc::dup2(from, to) }).unwrap();
}

/// kill(2) with any number: nix knows no real-time signals.
pub fn signal(process: nix::unistd::Pid, signal: i32) -> io::Result<()> {
    // SAFETY: two integers.
    checked(unsafe { libc::kill(process.as_raw(), signal) }).map(drop)
}

/// Attaches to a process with ptrace(2).
pub fn trace(process: nix::unistd::Pid) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_ATTACH takes a process id and looks at neither pointer.
    let returned = unsafe { libc::ptrace(libc::PTRACE_ATTACH, process.as_raw(), nothing, nothing) };
    checked(i32::try_from(returned).unwrap()).map(drop)
}

/// Changes the window size of a terminal, from either end of it.
pub fn set_window_size(terminal: &impl AsRawFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads the whole structure, which outlives the call.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
        .map(drop)
}
