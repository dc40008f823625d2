//! A netlink socket with the options that libmnl's Rust wrapper does not reach.

use mnl::{Bus, NlMessages};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use std::{
    io::{self, IoSlice},
    mem,
    os::fd::AsRawFd,
    time::Duration,
};

/// A socket to `nf_tables`, of the network namespace in which it was opened.
pub struct Socket(mnl::Socket);

impl Socket {
    /// Opens and binds it, with a deadline for each read and with the kernel's extended errors.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` or `EAFNOSUPPORT` where the kernel has no netfilter netlink.
    pub fn open(timeout: Duration) -> io::Result<Self> {
        let socket = Self(mnl::Socket::new(Bus::Netfilter)?);
        let seconds = libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX);
        let microseconds = libc::suseconds_t::from(timeout.subsec_micros().cast_signed());
        let deadline = libc::timeval {
            tv_sec: seconds,
            tv_usec: microseconds,
        };
        socket.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &deadline)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1_i32)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1_i32)?;
        Ok(socket)
    }

    /// Asks for room for a datagram of `len` octets and returns the longest one that the kernel
    /// will take: beyond `net.core.wmem_max` only with `CAP_NET_ADMIN` in the initial user
    /// namespace (`socket(7)`, `SO_SNDBUFFORCE`).
    pub fn room_for(&self, len: usize) -> io::Result<usize> {
        // The kernel keeps some octets for itself and doubles what it is told.
        let wanted = libc::c_int::try_from(len / 2 + 4096).unwrap_or(libc::c_int::MAX / 2);
        if self.send_buffer()? / 2 < len / 2 + 4096 {
            self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &wanted)
                .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &wanted))?;
        }
        // `netlink_sendmsg` in the kernel's net/netlink/af_netlink.c.
        Ok(self.send_buffer()?.saturating_sub(32))
    }

    /// Sends one datagram.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = loop {
            match self.0.send(datagram) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if sent == datagram.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Receives one datagram into `buffer`, which is to be 32 KiB at least (`NLMSG_GOODSIZE`).
    ///
    /// # Errors
    /// `EAGAIN` when the deadline passed.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<NlMessages<'a>> {
        loop {
            match self.0.recv_raw(buffer) {
                Ok(len) => return Ok(NlMessages::new(&buffer[..len])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes it without the wait that closing one has.
    ///
    /// The kernel frees all that was deleted in the namespace first, after one RCU grace period
    /// (`nft_rcv_nl_event` in `net/netfilter/nf_tables_api.c`): ten milliseconds and more, at the
    /// end of a start that takes two. So the last reference is left to the kernel: in a queue that
    /// only itself refers to, where the garbage collector of Unix sockets finds it (unix(7),
    /// `SCM_RIGHTS`). Where that fails, the wait is all that comes of it.
    pub fn close(self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let pair = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags);
        if let Ok((here, queue)) = &pair {
            let files = [self.0.as_raw_fd(), queue.as_raw_fd()];
            let message = [ControlMessage::ScmRights(&files)];
            let octet = [IoSlice::new(b"\0")];
            let _ = sendmsg::<()>(here.as_raw_fd(), &octet, &message, MsgFlags::empty(), None);
        }
        // In this order: the collector may come as soon as the pair is closed.
        drop(self);
        drop(pair);
    }

    fn send_buffer(&self) -> io::Result<usize> {
        let mut value: libc::c_int = 0;
        let mut len = socklen::<libc::c_int>();
        // SAFETY: the kernel writes at most `len` octets to `value`, which has that many.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(usize::try_from(value).unwrap_or(0))
        }
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a live plain C value of the length that is passed with it.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                socklen::<T>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn socklen<T>() -> libc::socklen_t {
    // No socket option is longer than a few octets.
    libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}
