//! The judge: every frame that arrived outside, parsed as far as the tests ask.
//!
//! It listens with `AF_PACKET` on the far end of the link, where no rule of the inside can reach.
//! A capture that lost frames, or that does not see a marker sent after the fact, is an error and
//! never an empty list.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt,
    },
};
use serde::{Deserialize, Serialize};

/// The `EtherType` of markers: IEEE 802 local experimental.
const MARKER: u16 = 0x88b5;

/// One IP packet that arrived outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Sender and receiver of the IP header.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The transport protocol, extension headers skipped (IANA protocol numbers).
    pub protocol: u8,
    /// Source and destination port of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// The type of an ICMP or `ICMPv6` message.
    pub icmp: Option<u8>,
    /// The flags of TCP.
    pub tcp_flags: u8,
    /// Whether there are IPv4 options or an IPv6 routing header.
    pub source_routed: bool,
    /// The first eight octets that UDP carries: the tests number their datagrams.
    pub sequence: Option<u64>,
    /// The octets of the packet.
    pub octets: usize,
}

impl Frame {
    /// Whether it went to this address, any port.
    pub fn to(&self, address: IpAddr) -> bool {
        self.addresses.is_some_and(|(_, to)| to == address)
    }

    /// Whether it went to this address and port.
    pub fn to_port(&self, to: SocketAddr) -> bool {
        self.to(to.ip()) && self.ports.is_some_and(|(_, port)| port == to.port())
    }

    /// What any IPv6 host says to its neighbours by itself: discovery and multicast reports.
    pub fn is_neighbour_talk(&self) -> bool {
        self.protocol == 58 && matches!(self.icmp, Some(130..=132 | 133..=137 | 143))
    }
}

/// A capture that runs; shared with the thread that reads.
#[derive(Clone)]
pub struct Capture(Arc<Shared>);

struct Shared {
    socket: OwnedFd,
    seen: Mutex<Seen>,
    marker: Condvar,
}

#[derive(Default)]
struct Seen {
    frames: Vec<Frame>,
    marker: u64,
}

impl Capture {
    /// Starts in the network namespace of the caller, on all of its interfaces.
    pub fn start() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        // As much as the system lets a plain user have.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &(8 << 20));
        let capture = Self(Arc::new(Shared {
            socket,
            seen: Mutex::default(),
            marker: Condvar::new(),
        }));
        let reader = capture.clone();
        thread::spawn(move || reader.read());
        Ok(capture)
    }

    fn read(&self) {
        let mut buffer = vec![0; 65536];
        loop {
            let Ok((length, from)) = recvfrom::<LinkAddr>(self.0.socket.as_raw_fd(), &mut buffer)
            else {
                continue;
            };
            let outgoing = from.is_none_or(|from| from.pkttype() == libc::PACKET_OUTGOING);
            let loopback = from.is_some_and(|from| usize::from(from.hatype()) == 772);
            if outgoing || loopback || length < 14 {
                continue;
            }
            let (kind, octets) = (be16(&buffer[12..]), &buffer[14..length]);
            let mut seen = self.0.seen.lock().unwrap();
            match kind {
                MARKER => {
                    seen.marker = be64(octets);
                    self.0.marker.notify_all();
                }
                0x0800 => seen.frames.push(ipv4(octets)),
                0x86dd => seen.frames.push(ipv6(octets)),
                _ => {}
            }
        }
    }

    /// All frames so far; waits until the marker with this number has come by.
    pub fn frames(&self, marker: u64) -> Result<Vec<Frame>, String> {
        self.seen(marker, |seen| seen.frames.clone())
    }

    /// The same, and forgets them: for suites whose frames would otherwise add up.
    pub fn take_frames(&self, marker: u64) -> Result<Vec<Frame>, String> {
        self.seen(marker, |seen| std::mem::take(&mut seen.frames))
    }

    fn seen(
        &self,
        marker: u64,
        answer: impl FnOnce(&mut Seen) -> Vec<Frame>,
    ) -> Result<Vec<Frame>, String> {
        let (mut seen, timeout) = self
            .0
            .marker
            .wait_timeout_while(
                self.0.seen.lock().unwrap(),
                Duration::from_secs(5),
                |seen| seen.marker < marker,
            )
            .unwrap();
        if timeout.timed_out() {
            return Err("the capture is blind: it did not see the marker".to_owned());
        }
        match super::sys::packets_dropped(&self.0.socket) {
            Ok(0) => Ok(answer(&mut seen)),
            Ok(lost) => Err(format!("the capture lost {lost} frames")),
            Err(error) => Err(format!("the capture cannot tell what it lost: {error}")),
        }
    }
}

/// A marker to send from the inside once everything of interest was sent.
pub fn marker(number: u64) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(MARKER.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn be16(octets: &[u8]) -> u16 {
    u16::from_be_bytes([octets[0], octets[1]])
}

fn be64(octets: &[u8]) -> u64 {
    u64::from_be_bytes(octets[..8].try_into().unwrap())
}

fn ipv4(octets: &[u8]) -> Frame {
    let mut frame = Frame {
        octets: octets.len(),
        ..Frame::default()
    };
    if octets.len() < 20 {
        return frame;
    }
    let header = usize::from(octets[0] & 15) * 4;
    let address = |at: usize| {
        let four: [u8; 4] = octets[at..at + 4].try_into().unwrap();
        IpAddr::from(Ipv4Addr::from(four))
    };
    frame.addresses = Some((address(12), address(16)));
    frame.source_routed = header > 20;
    frame.protocol = octets[9];
    transport(&mut frame, octets.get(header..).unwrap_or_default());
    frame
}

fn ipv6(octets: &[u8]) -> Frame {
    let mut frame = Frame {
        octets: octets.len(),
        ..Frame::default()
    };
    if octets.len() < 40 {
        return frame;
    }
    let address = |at: usize| {
        let sixteen: [u8; 16] = octets[at..at + 16].try_into().unwrap();
        IpAddr::from(Ipv6Addr::from(sixteen))
    };
    frame.addresses = Some((address(8), address(24)));
    let mut next = octets[6];
    let mut rest = &octets[40..];
    // Hop-by-hop, routing, fragment and destination options (RFC 8200, section 4).
    while matches!(next, 0 | 43 | 44 | 60) && rest.len() >= 8 {
        frame.source_routed |= next == 43;
        let length = if next == 44 {
            8
        } else {
            (usize::from(rest[1]) + 1) * 8
        };
        next = rest[0];
        rest = rest.get(length..).unwrap_or_default();
    }
    frame.protocol = next;
    transport(&mut frame, rest);
    frame
}

fn transport(frame: &mut Frame, octets: &[u8]) {
    match frame.protocol {
        1 | 58 => frame.icmp = octets.first().copied(),
        6 | 17 if octets.len() >= 8 => {
            frame.ports = Some((be16(octets), be16(&octets[2..])));
            if frame.protocol == 6 {
                frame.tcp_flags = octets.get(13).copied().unwrap_or_default();
            } else if octets.len() >= 16 {
                frame.sequence = Some(be64(&octets[8..]));
            }
        }
        _ => {}
    }
}
