//! The sockets that clients reach.

use std::{
    io::{self, IoSlice, IoSliceMut},
    iter,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, Backlog, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrStorage,
        setsockopt, sockopt,
    },
};
use tokio::{
    io::Interest,
    net::{TcpListener, UdpSocket},
};

/// Datagrams that are taken at once before anything else has its turn.
pub(super) const BATCH: usize = 32;

/// How often another port is asked for, where the kernel chose one that the other protocol has.
const PORTS_TRIED: usize = 16;

/// What the kernel keeps of datagrams while they wait: some 1,300 queries.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// Sockets on the addresses where the proxy answers, UDP and TCP each.
pub struct Listeners {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Binds them, inside a tokio runtime. An address need not exist yet; a family that the kernel
    /// does not have is left out. With port 0 both protocols get the port that the kernel chooses.
    pub fn bind(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut listeners = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for address in addresses {
            match pair(*address) {
                Ok((udp, tcp)) => {
                    listeners.udp.push(udp);
                    listeners.tcp.push(tcp);
                }
                Err(Errno::EAFNOSUPPORT) if address.is_ipv6() => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(listeners)
    }

    /// Where they listen.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.udp.iter().map(UdpSocket::local_addr).collect()
    }
}

/// UDP and TCP at one port. That of UDP, where the kernel chooses it, may be one that something
/// else has over TCP.
fn pair(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Errno> {
    let tries = if address.port() == 0 { PORTS_TRIED } else { 1 };
    let mut result = try_pair(address);
    for _ in 1..tries {
        if !matches!(result, Err(Errno::EADDRINUSE)) {
            break;
        }
        result = try_pair(address);
    }
    result
}

fn try_pair(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Errno> {
    let errno = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or_default());
    let udp = open(address, SockType::Datagram)?;
    // Beyond the system's limit with CAP_NET_ADMIN; without it, as much as there is.
    let _ = setsockopt(&udp, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&udp, sockopt::RcvBuf, &RECEIVE_BUFFER));
    let udp = UdpSocket::from_std(udp.into()).map_err(errno)?;
    let tcp = open(udp.local_addr().map_err(errno)?, SockType::Stream)?;
    socket::listen(&tcp, Backlog::new(128)?)?;
    let tcp = TcpListener::from_std(tcp.into()).map_err(errno)?;
    Ok((udp, tcp))
}

fn open(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, kind, flags, None)?;
    // Of both families, whatever its name says (ip(7), net/ipv6/ipv6_sockglue.c).
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    // Not for UDP, where it would let others bind the same port.
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Room for a batch of datagrams.
pub(super) struct Batch {
    buffers: Vec<Vec<u8>>,
    incoming: MultiHeaders<SockaddrStorage>,
    outgoing: MultiHeaders<SockaddrStorage>,
}

/// Datagrams to be sent, one behind the other in one buffer.
#[derive(Default)]
pub(super) struct Outgoing {
    octets: Vec<u8>,
    /// Where each ends in `octets`.
    ends: Vec<usize>,
    targets: Vec<Option<SockaddrStorage>>,
}

impl Outgoing {
    /// Adds the datagram that `write` appends, where it says that there is one.
    pub(super) fn add(
        &mut self,
        target: SockaddrStorage,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        let start = self.octets.len();
        if write(&mut self.octets) {
            self.ends.push(self.octets.len());
            self.targets.push(Some(target));
        } else {
            self.octets.truncate(start);
        }
    }

    fn slices(&self) -> Vec<[IoSlice<'_>; 1]> {
        let starts = iter::once(0).chain(self.ends.iter().copied());
        iter::zip(starts, &self.ends)
            .map(|(start, end)| [IoSlice::new(&self.octets[start..*end])])
            .collect()
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
        self.targets.clear();
    }
}

impl Batch {
    /// For datagrams of at most so many octets.
    pub(super) fn new(longest: usize) -> Self {
        Self {
            buffers: vec![vec![0; longest]; BATCH],
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Takes the datagrams that are there, at most [`BATCH`], and hands each to `take`; nothing in
    /// place of one that is too long.
    ///
    /// # Errors
    /// `WouldBlock` where there is none.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut take: impl FnMut(Option<&[u8]>, SockaddrStorage),
    ) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        socket.try_io(Interest::READABLE, || {
            let mut slices: Vec<_> = self
                .buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let received =
                socket::recvmmsg(fd, &mut self.incoming, slices.iter_mut(), flags, None)?;
            for message in received {
                let Some(source) = message.address else {
                    continue;
                };
                let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
                let octets = whole.then(|| message.iovs().next().unwrap_or_default());
                take(octets, source);
            }
            Ok(())
        })
    }

    /// Sends the datagrams, at most [`BATCH`], and forgets them. A client that does not read loses
    /// its own, as on any network. Returns how many were lost.
    pub(super) fn send(&mut self, socket: &UdpSocket, datagrams: &mut Outgoing) -> u64 {
        let slices = datagrams.slices();
        let targets = &datagrams.targets;
        let mut done = 0;
        let mut lost = 0;
        while done < slices.len() {
            let flags = MsgFlags::MSG_DONTWAIT;
            let sent = socket::sendmmsg(
                socket.as_raw_fd(),
                &mut self.outgoing,
                &slices[done..],
                &targets[done..],
                [],
                flags,
            );
            match sent.map(Iterator::count) {
                Ok(sent) if sent > 0 => done += sent,
                Err(Errno::EINTR) => {}
                // It is the first one that failed.
                _ => {
                    done += 1;
                    lost += 1;
                }
            }
        }
        datagrams.clear();
        lost
    }
}
