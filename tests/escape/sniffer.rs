//! Every frame that arrives on the other side, whole, whatever its protocol.
//!
//! The packet socket is made in the outside's network namespace by a thread of the case, which is
//! above both. In difference to the capture of the other tests nothing is parsed away: ARP and
//! unknown `EtherTypes` are kept, and so is what the outside itself sends, for the attempts that
//! get in there. A capture that lost frames or missed its marker is an error, never silence.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt,
    },
};

use crate::support::{capture, sys};

/// The `EtherType` of markers.
const MARKER: [u8; 2] = [0x88, 0xb5];

/// The index of the loopback interface, in every network namespace.
const LOOPBACK: usize = 1;

/// One frame as it was on the link.
#[derive(Clone, Debug)]
pub struct Frame {
    pub octets: Vec<u8>,
    /// Whether the outside itself sent it.
    pub outgoing: bool,
}

/// A capture that runs.
pub struct Sniffer {
    shared: Arc<Shared>,
    markers: OwnedFd,
    next: Mutex<u64>,
}

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

/// Runs something in a network namespace of another process.
pub fn in_network_of<T: Send + 'static>(pid: u32, body: impl FnOnce() -> T + Send + 'static) -> T {
    let there = File::open(format!("/proc/{pid}/ns/net")).expect("the namespace of the outside");
    thread::spawn(move || {
        setns(there, CloneFlags::CLONE_NEWNET).expect("the case is above the outside");
        body()
    })
    .join()
    .expect("it does not panic")
}

impl Sniffer {
    /// Starts on all interfaces of the network namespace of this process.
    pub fn start(outside: u32) -> Self {
        let socket = in_network_of(outside, || {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .expect("a packet socket");
            if setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).is_err() {
                let _ = setsockopt(&socket, sockopt::RcvBuf, &(8 << 20));
            }
            socket
        });
        let shared = Arc::new(Shared {
            socket,
            seen: Mutex::default(),
            marker: Condvar::new(),
        });
        let reader = Arc::clone(&shared);
        thread::spawn(move || reader.read());
        let markers = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).expect("a packet socket");
        Self {
            shared,
            markers,
            next: Mutex::new(1 << 32),
        }
    }

    /// Takes what has arrived since this was last asked. Waits until all that was sent before
    /// has come by.
    pub fn take(&self) -> Vec<Frame> {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        let interface = nix::net::if_::if_nametoindex("eth0").expect("the link");
        sys::send_frame(&self.markers, interface, &capture::marker(*next))
            .expect("the marker can be sent");
        let (mut seen, timeout) = self
            .shared
            .marker
            .wait_timeout_while(
                self.shared.seen.lock().unwrap(),
                Duration::from_secs(5),
                |seen| seen.marker < *next,
            )
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "the capture is blind: it did not see the marker"
        );
        let lost = sys::packets_dropped(&self.shared.socket).expect("its statistics");
        assert_eq!(lost, 0, "the capture lost {lost} frames");
        std::mem::take(&mut seen.frames)
    }
}

impl Shared {
    fn read(&self) {
        let mut buffer = vec![0; 65536];
        loop {
            let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer)
            else {
                continue;
            };
            // On its loopback interface it hears itself.
            let outgoing = from.is_none_or(|from| {
                from.pkttype() == libc::PACKET_OUTGOING || from.ifindex() == LOOPBACK
            });
            if length < 14 {
                continue;
            }
            let octets = buffer[..length].to_vec();
            let mut seen = self.seen.lock().unwrap();
            let number = octets
                .get(14..22)
                .map(|number| u64::from_be_bytes(number.try_into().unwrap()));
            match number {
                Some(number) if octets[12..14] == MARKER && octets == capture::marker(number) => {
                    seen.marker = seen.marker.max(number);
                    self.marker.notify_all();
                }
                _ => seen.frames.push(Frame { octets, outgoing }),
            }
        }
    }
}

/// A frame of another `EtherType` than any the judge knows, from the inside to the outside: how
/// the resolver of a container engine, which forwards from elsewhere, is made visible.
pub fn forwarded(octets: &[u8]) {
    let Ok(socket) = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) else {
        return;
    };
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 2, 0x88, 0xb6]);
    frame.extend(octets);
    if let Ok(interface) = nix::net::if_::if_nametoindex("eth0") {
        let _ = sys::send_frame(&socket, interface, &frame);
    }
}
