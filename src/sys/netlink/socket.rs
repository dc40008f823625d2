//! A netlink socket, and the messages of a datagram from it.

use nix::{
    errno::Errno,
    setsockopt_impl, sockopt_impl,
    sys::{
        socket::{
            AddressFamily, ControlMessage, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
            bind, getsockopt, sendmsg, sendto, setsockopt, socket, socketpair,
            sockopt::{ReceiveTimeout, SndBuf, SndBufForce},
        },
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    io::{self, IoSlice},
    mem,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

sockopt_impl!(
    /// Errors with the place in the message and a sentence.
    ExtendedErrors,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_EXT_ACK,
    bool
);
sockopt_impl!(
    /// Errors without what they are about, which is as long as a message may be.
    ShortErrors,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_CAP_ACK,
    bool
);

/// A socket to the kernel, of the network namespace in which it was opened.
pub struct Socket {
    inner: OwnedFd,
    /// What was received last. It has room for [`LONGEST`] octets and is never cleared: a read
    /// writes to a few of its pages, and the others stay the kernel's.
    received: Vec<u8>,
}

/// The longest datagram that the kernel answers with (`netlink_recvmsg` in its
/// `net/netlink/af_netlink.c`).
const LONGEST: usize = 32 * 1024;

/// What is known of a datagram beside its octets.
struct Datagram {
    /// The port of who sent it.
    from: Option<u32>,
    /// It was longer than the room for it.
    is_cut: bool,
}

/// The length of an address.
#[allow(clippy::cast_possible_truncation)] // it is 12
const ADDRESS: libc::socklen_t = size_of::<libc::sockaddr_nl>() as libc::socklen_t;

/// The kernel's end of every netlink socket.
const KERNEL: u32 = 0;

impl Socket {
    /// Opens and binds it, with a deadline for each read and with the kernel's extended errors.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` or `EAFNOSUPPORT` where the kernel has no such protocol.
    pub fn open(protocol: SockProtocol, timeout: Duration) -> io::Result<Self> {
        let socket = Self::bound(protocol)?;
        let microseconds = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        let deadline = TimeVal::microseconds(microseconds);
        setsockopt(&socket.inner, ReceiveTimeout, &deadline)?;
        setsockopt(&socket.inner, ExtendedErrors, &true)?;
        setsockopt(&socket.inner, ShortErrors, &true)?;
        Ok(socket)
    }

    fn bound(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let inner = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        // The kernel chooses its port.
        bind(inner.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            inner,
            received: Vec::with_capacity(LONGEST),
        })
    }

    /// Asks for room for a datagram of `len` octets and returns the longest one that the kernel
    /// will take: beyond `net.core.wmem_max` only with `CAP_NET_ADMIN` in the initial user
    /// namespace (`socket(7)`, `SO_SNDBUFFORCE`).
    pub fn room_for(&self, len: usize) -> io::Result<usize> {
        /// The kernel counts in `int`.
        const MOST: usize = i32::MAX as usize / 2;
        // The kernel keeps some octets for itself and doubles what it is told.
        let wanted = (len / 2 + 4096).min(MOST);
        let mut room = getsockopt(&self.inner, SndBuf)?;
        if room / 2 < wanted {
            setsockopt(&self.inner, SndBufForce, &wanted)
                .or_else(|_| setsockopt(&self.inner, SndBuf, &wanted))?;
            room = getsockopt(&self.inner, SndBuf)?;
        }
        // `netlink_sendmsg` in the kernel's net/netlink/af_netlink.c.
        Ok(room.saturating_sub(32))
    }

    /// Sends one datagram.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let fd = self.inner.as_raw_fd();
        let to = NetlinkAddr::new(KERNEL, 0);
        let sent = loop {
            match sendto(fd, datagram, &to, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
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
    /// `EAGAIN` when the deadline passed, `ENOSPC` when the datagram is longer than any should be,
    /// `ENOBUFS` when the kernel had no room for one and dropped it.
    pub fn receive(&mut self) -> io::Result<Messages<'_>> {
        loop {
            match self.receive_into_room() {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                // A process may send here too.
                Ok(Datagram { from, .. }) if from != Some(KERNEL) => {}
                Ok(Datagram { is_cut: true, .. }) => return Err(Errno::ENOSPC.into()),
                Ok(_) => return Ok(Messages(&self.received)),
            }
        }
    }

    fn receive_into_room(&mut self) -> Result<Datagram, Errno> {
        self.received.clear();
        let room = self.received.spare_capacity_mut();
        let mut room = libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: room.len(),
        };
        // SAFETY: both are plain numbers and pointers, for which zero is a value.
        let (mut from, mut message) = unsafe {
            let from: libc::sockaddr_nl = mem::zeroed();
            let message: libc::msghdr = mem::zeroed();
            (from, message)
        };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = ADDRESS;
        message.msg_iov = &raw mut room;
        message.msg_iovlen = 1;
        // SAFETY: what the header points to is alive and as long as it says.
        let received = unsafe { libc::recvmsg(self.inner.as_raw_fd(), &raw mut message, 0) };
        let len = usize::try_from(received).map_err(|_| Errno::last())?;
        // SAFETY: the kernel has written so many octets to the room, and not more.
        unsafe { self.received.set_len(len) };
        let is_netlink = message.msg_namelen == ADDRESS;
        Ok(Datagram {
            from: is_netlink.then_some(from.nl_pid),
            is_cut: message.msg_flags & libc::MSG_TRUNC != 0,
        })
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
}

/// The messages of a datagram, in order. One whose length cannot be is an error, and none comes
/// after it.
#[derive(Clone, Debug)]
pub struct Messages<'a>(&'a [u8]);

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        let (length, _) = rest.first_chunk::<HEADER>()?.split_first_chunk()?;
        let len = u32::from_ne_bytes(*length) as usize;
        if len < HEADER {
            return Some(Err(invalid(format!(
                "Invalid netlink message length: {len} (minimum is {HEADER})"
            ))));
        }
        let Some(message) = rest.get(..len) else {
            return Some(Err(invalid(format!(
                "Message length {len} exceeds remaining buffer size {}",
                rest.len()
            ))));
        };
        // The last one may lack what would fill it up.
        self.0 = rest
            .get(len.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some(Ok(message))
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    type Read<'a> = Result<&'a [u8], io::ErrorKind>;

    fn read<'a>(messages: impl Iterator<Item = io::Result<&'a [u8]>>) -> Vec<Read<'a>> {
        let kinds = messages.map(|message| message.map_err(|error| error.kind()));
        kinds.collect()
    }

    /// A message of so many octets that says it has so many.
    fn message(octets: usize, said: u32) -> Vec<u8> {
        let mut message = vec![7; octets];
        let len = octets.min(4);
        message[..len].copy_from_slice(&said.to_ne_bytes()[..len]);
        message
    }

    proptest! {
        /// libmnl's wrapper wants a datagram to be filled up to the end, and aligned.
        #[test]
        fn messages_are_those_that_another_reader_finds(
            parts in prop::collection::vec((4..12_usize, 0..48_u32, any::<bool>()), 0..6)
        ) {
            let datagram: Vec<u8> = parts
                .iter()
                .flat_map(|&(words, said, honest)| {
                    let octets = words * ALIGNMENT;
                    let padding = said % 4;
                    let honest = honest.then(|| u32::try_from(octets).unwrap() - padding);
                    message(octets, honest.unwrap_or(said))
                })
                .collect();
            let other = read(mnl::NlMessages::new(&datagram));
            prop_assert_eq!(read(Messages(&datagram)), other);
        }
    }

    #[test]
    fn the_last_message_need_not_be_filled_up() {
        let mut datagram = message(16, 16);
        datagram.extend(message(17, 17));
        let messages = [Ok(&datagram[..16]), Ok(&datagram[16..])];
        assert_eq!(read(Messages(&datagram)), messages);
    }

    #[test]
    fn nothing_comes_after_a_length_that_cannot_be() {
        for said in [0, 15, 33, u32::MAX] {
            let mut datagram = message(16, said);
            datagram.extend(message(16, 16));
            let error = Err(io::ErrorKind::InvalidData);
            assert_eq!(read(Messages(&datagram)), [error], "{said}");
        }
    }

    /// A question of no subsystem, which the kernel answers with an error whoever asks.
    fn question() -> Vec<u8> {
        let mut question = message(20, 20);
        question[4..8].copy_from_slice(&[0, 99, 1, 0]);
        question
    }

    #[test]
    fn the_kernel_is_heard() {
        let mut socket =
            Socket::open(SockProtocol::NetlinkNetFilter, Duration::from_secs(5)).unwrap();
        socket.send(&question()).unwrap();
        let answers: Vec<Vec<u8>> = socket
            .receive()
            .unwrap()
            .map(|answer| answer.unwrap().to_vec())
            .collect();
        assert_eq!(answers.len(), 1);
        // NLMSG_ERROR.
        assert_eq!(answers[0][4..6], 2_u16.to_ne_bytes());
        assert_eq!(answers[0][8..12], question()[8..12]);
    }

    #[test]
    fn a_datagram_that_is_too_long_is_an_error() {
        let mut socket =
            Socket::open(SockProtocol::NetlinkNetFilter, Duration::from_secs(5)).unwrap();
        socket.received = Vec::with_capacity(20);
        socket.send(&question()).unwrap();
        let error = socket.receive().map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn silence_ends() {
        let mut socket =
            Socket::open(SockProtocol::NetlinkNetFilter, Duration::from_millis(10)).unwrap();
        let error = socket.receive().map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    }

    /// Between processes, which needs no capability with this protocol.
    #[test]
    fn what_a_process_sends_is_passed_over() {
        use nix::sys::socket::{getsockname, recv};
        let [mut here, other] =
            [(); 2].map(|()| Socket::bound(SockProtocol::NetlinkUserSock).unwrap());
        setsockopt(&here.inner, ReceiveTimeout, &TimeVal::milliseconds(10)).unwrap();
        let port: NetlinkAddr = getsockname(here.inner.as_raw_fd()).unwrap();
        let forged = message(16, 16);
        sendto(other.inner.as_raw_fd(), &forged, &port, MsgFlags::empty()).unwrap();
        let mut seen = [0; 16];
        let peek = recv(here.inner.as_raw_fd(), &mut seen, MsgFlags::MSG_PEEK);
        assert_eq!((peek, &seen[..]), (Ok(16), &forged[..]));
        let error = here.receive().map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn room_that_is_there_is_not_asked_for() {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter, Duration::from_secs(5)).unwrap();
        let before = getsockopt(&socket.inner, SndBuf).unwrap();
        assert_eq!(socket.room_for(1000).unwrap(), before - 32);
        assert_eq!(getsockopt(&socket.inner, SndBuf).unwrap(), before);
    }
}
