//! A netlink socket with the options that libmnl's Rust wrapper does not reach.

use mnl::{Bus, NlMessages, mnl_sys::mnl_socket_recvfrom};
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
pub struct Socket {
    inner: mnl::Socket,
    /// What was received last. Nothing clears it for the kernel, which writes to a few pages of it.
    received: Vec<u8>,
}

/// The longest datagram that the kernel answers with (`netlink_recvmsg` in its
/// `net/netlink/af_netlink.c`).
const LONGEST: usize = 32 * 1024;

impl Socket {
    /// Opens and binds it, with a deadline for each read and with the kernel's extended errors.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` or `EAFNOSUPPORT` where the kernel has no netfilter netlink.
    pub fn open(timeout: Duration) -> io::Result<Self> {
        let socket = Self {
            inner: mnl::Socket::new(Bus::Netfilter)?,
            received: Vec::with_capacity(LONGEST),
        };
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
        let mut room = self.send_buffer()?;
        if room / 2 < len / 2 + 4096 {
            self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &wanted)
                .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &wanted))?;
            room = self.send_buffer()?;
        }
        // `netlink_sendmsg` in the kernel's net/netlink/af_netlink.c.
        Ok(room.saturating_sub(32))
    }

    /// Sends one datagram.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = loop {
            match self.inner.send(datagram) {
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

    /// Receives one datagram.
    ///
    /// # Errors
    /// `EAGAIN` when the deadline passed, `ENOSPC` when the datagram is longer than any should be.
    pub fn receive(&mut self) -> io::Result<NlMessages<'_>> {
        self.received.clear();
        let room = self.received.spare_capacity_mut();
        let len = loop {
            // SAFETY: the socket is open, and the kernel writes at most as many octets as there is
            // room for.
            let len = unsafe {
                mnl_socket_recvfrom(
                    self.inner.as_raw_socket(),
                    room.as_mut_ptr().cast(),
                    room.len(),
                )
            };
            if let Ok(len) = usize::try_from(len) {
                break len;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        };
        // SAFETY: the kernel wrote that many octets; what does not fit is an error (libmnl,
        // `mnl_socket_recvfrom`).
        unsafe { self.received.set_len(len) };
        Ok(NlMessages::new(&self.received))
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
            let files = [self.inner.as_raw_fd(), queue.as_raw_fd()];
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
                self.inner.as_raw_fd(),
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
                self.inner.as_raw_fd(),
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
