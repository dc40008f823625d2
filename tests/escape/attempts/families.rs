//! Every socket that the kernel makes: families, types and protocols are enumerated, not picked.

use std::{collections::BTreeSet, io, os::fd::AsRawFd};

use nix::libc;

use super::{Attempt, Context, Evidence, address, connect_and_send};
use crate::{support::sys, sys as calls};

/// How the name of an enumerated attempt begins.
pub const SCAN: &str = "socket";

/// linux/socket.h ends at 46 today; a little beyond, for what comes.
const FAMILIES: std::ops::RangeInclusive<i32> = 1..=63;
const TYPES: [i32; 7] = [1, 2, 3, 4, 5, 6, 10];
/// 262 is MPTCP, the highest of linux/in.h.
const PROTOCOLS: std::ops::RangeInclusive<i32> = 0..=263;

const SOCK_PACKET: i32 = 10;

/// What this process can make, one name each. Where a family refuses every type with protocol 0
/// as unknown, its protocols are not gone through.
pub fn scan() -> Vec<String> {
    let mut found = BTreeSet::new();
    for family in FAMILIES {
        let is_unknown = TYPES.iter().all(|kind| {
            sys::socket(family, *kind, 0)
                .is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
        });
        if is_unknown {
            continue;
        }
        for kind in TYPES {
            // A packet socket has no protocol but an EtherType: none, IPv4, IPv6, all.
            let ether_types = [0, 0x0008, 0xdd86, 0x0300];
            let is_packet = family == libc::AF_PACKET || kind == SOCK_PACKET;
            for protocol in PROTOCOLS.chain([0xdd86, 0x0300]) {
                if is_packet != ether_types.contains(&protocol) && (is_packet || protocol > 263) {
                    continue;
                }
                if sys::socket(family, kind, protocol).is_ok() {
                    found.insert((family, kind, protocol));
                }
            }
        }
    }
    found
        .into_iter()
        .map(|(family, kind, protocol)| format!("{SCAN} {family} {kind} {protocol}"))
        .collect()
}

/// Whether sockets of this family are outside of what the rules see, so that one is too many.
pub fn is_beyond_the_rules(name: &str) -> bool {
    let [family, kind, _] = numbers(name);
    // Whatever the family says: net/socket.c makes it a packet socket.
    kind == SOCK_PACKET
        || !matches!(
            family,
            libc::AF_UNIX | libc::AF_INET | libc::AF_INET6 | libc::AF_NETLINK
        )
}

/// Whether anything sent through it could be on a link.
pub fn stays_here(name: &str) -> bool {
    matches!(numbers(name)[0], libc::AF_UNIX | libc::AF_NETLINK)
}

fn numbers(name: &str) -> [i32; 3] {
    let mut words = name.split(' ').skip(1).map(|word| word.parse().unwrap());
    [(); 3].map(|()| words.next().unwrap())
}

/// A heading for all of a family and type.
pub fn heading(name: &str) -> String {
    let [family, kind, _] = numbers(name);
    let family = match family {
        libc::AF_INET => "INET".to_owned(),
        libc::AF_INET6 => "INET6".to_owned(),
        libc::AF_NETLINK => "NETLINK".to_owned(),
        libc::AF_PACKET => "PACKET".to_owned(),
        libc::AF_UNIX => "UNIX".to_owned(),
        libc::AF_VSOCK => "VSOCK".to_owned(),
        libc::AF_XDP => "XDP".to_owned(),
        libc::AF_ALG => "ALG".to_owned(),
        libc::AF_KEY => "KEY".to_owned(),
        other => format!("number {other}"),
    };
    let kind = match kind {
        libc::SOCK_STREAM => "stream",
        libc::SOCK_DGRAM => "datagram",
        libc::SOCK_RAW => "raw",
        libc::SOCK_RDM => "reliable datagram",
        libc::SOCK_SEQPACKET => "sequenced packet",
        6 => "DCCP",
        _ => "packet",
    };
    format!("sockets of family {family}, {kind}")
}

/// Sockets that are made by calls of another ABI, which numbers them differently.
pub fn foreign() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("foreign ABI", name, body).evidence(Evidence::Hold);
    vec![
        attempt("a vsock by the calls of 32-bit programs", |_| {
            calls::socket_of_i386(libc::AF_VSOCK, libc::SOCK_STREAM).map(drop)
        }),
        attempt("a packet socket by the calls of 32-bit programs", |_| {
            calls::socket_of_i386(libc::AF_PACKET, libc::SOCK_RAW).map(drop)
        }),
        attempt("a vsock by the calls of x32", |_| {
            calls::socket_of_x32(libc::AF_VSOCK, libc::SOCK_STREAM).map(drop)
        }),
        attempt("a packet socket by the calls of x32", |_| {
            calls::socket_of_x32(libc::AF_PACKET, libc::SOCK_RAW).map(drop)
        }),
    ]
}

/// Makes it and sends through it, as far as one way fits all.
pub fn attempt(c: &Context) -> io::Result<()> {
    let [family, kind, protocol] = numbers(&c.name);
    let socket = sys::socket(family, kind | libc::SOCK_NONBLOCK, protocol)?;
    match family {
        // Getting one is the success: see `is_beyond_the_rules`.
        _ if kind == SOCK_PACKET => Ok(()),
        libc::AF_INET | libc::AF_INET6 => {
            let index = usize::from(family == libc::AF_INET6);
            let ip = crate::support::world::ELSEWHERE[index];
            if matches!(kind, libc::SOCK_STREAM | libc::SOCK_SEQPACKET) || kind == 6 {
                return connect_and_send(socket, &address((ip, c.port).into()), &c.payload());
            }
            // An echo request is what a ping socket takes; to a raw one all octets are alike. The
            // port of a raw IPv6 destination is zero or its protocol.
            let echo = [8, 128][index];
            let octets = [&[echo, 0, 0, 0, 0, 0, 0, 1][..], &c.payload()].concat();
            let port = if kind == libc::SOCK_RAW { 0 } else { c.port };
            let mut to = address((ip, port).into());
            if kind == libc::SOCK_RAW && protocol == libc::IPPROTO_RAW {
                return calls::send(&socket, &whole(index, &octets), 0, &to, &[]).map(drop);
            }
            to.truncate(if index == 0 { 16 } else { 28 });
            calls::send(&socket, &octets, 0, &to, &[]).map(drop)
        }
        libc::AF_PACKET => send_frame(&socket, c),
        _ => Ok(()),
    }
}

/// A whole frame through a packet socket.
pub fn send_frame(socket: &impl AsRawFd, c: &Context) -> io::Result<()> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 2, 0x88, 0xb7]);
    frame.extend(c.payload());
    frame.resize(60, 0);
    let index = nix::net::if_::if_nametoindex("eth0")?;
    // struct sockaddr_ll.
    let mut to = 17_u16.to_ne_bytes().to_vec();
    to.extend([0x88, 0xb7]);
    to.extend(index.to_ne_bytes());
    to.extend([0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    calls::send(socket, &frame, 0, &to, &[]).map(drop)
}

/// A packet with a header of its own.
fn whole(index: usize, payload: &[u8]) -> Vec<u8> {
    let ip = crate::support::world::ELSEWHERE[index];
    let inside = crate::support::world::INSIDE[index];
    let length = u16::try_from(payload.len()).unwrap();
    match (inside, ip) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            let total = (length + 20).to_be_bytes();
            let start = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 253, 0, 0];
            [&start[..], &from.octets(), &to.octets(), payload].concat()
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            let length = length.to_be_bytes();
            let start = [0x60, 0, 0, 0, length[0], length[1], 253, 64];
            [&start[..], &from.octets(), &to.octets(), payload].concat()
        }
        _ => unreachable!("of one family"),
    }
}
