//! What stands between the IP header and the transport: options, extension headers, fragments,
//! and addresses that mean another.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use nix::libc;

use super::{Attempt, Context, address, connect_and_send, scoped, set};
use crate::{
    support::{
        sys,
        world::{API, ELSEWHERE},
    },
    sys as calls,
};

const V4_OPTIONS: [(&str, fn(&Context) -> io::Result<()>); 9] = [
    ("loose source route by way of an allowed host", |c| {
        option(c, &loose(131), true)
    }),
    ("strict source route by way of an allowed host", |c| {
        option(c, &loose(137), true)
    }),
    ("source route by control message", source_route_by_message),
    ("source route over TCP", source_route_tcp),
    ("record route", |c| {
        option(c, &[7, 7, 4, 0, 0, 0, 0, 0], false)
    }),
    ("timestamps", |c| {
        option(c, &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], false)
    }),
    ("router alert", |c| option(c, &[148, 4, 0, 0], false)),
    ("no-operations", |c| option(c, &[1, 1, 1, 1], false)),
    (
        "options towards an allowed host and service",
        options_to_allowed,
    ),
];

const V6_HEADERS: [(&str, fn(&Context) -> io::Result<()>); 12] = [
    ("hop-by-hop options", |c| {
        sticky(c, libc::IPV6_HOPOPTS, &padding())
    }),
    ("hop-by-hop options by control message", |c| {
        message(c, libc::IPV6_HOPOPTS, &padding())
    }),
    ("destination options", |c| {
        sticky(c, libc::IPV6_DSTOPTS, &padding())
    }),
    ("destination options by control message", |c| {
        message(c, libc::IPV6_DSTOPTS, &padding())
    }),
    ("destination options before a routing header", |c| {
        sticky(c, libc::IPV6_RTHDRDSTOPTS, &padding())
    }),
    ("options by the names of RFC 2292", |c| {
        sticky(c, 6, &message_of(libc::IPV6_DSTOPTS))
    }),
    ("segment routing by way of an allowed host", |c| {
        routing(c, 4, false)
    }),
    ("segment routing by control message", |c| {
        routing(c, 4, true)
    }),
    ("routing header type 2 by way of an allowed host", |c| {
        routing(c, 2, false)
    }),
    ("routing header type 0 by way of an allowed host", |c| {
        routing(c, 0, false)
    }),
    (
        "segment routing to an allowed host and service",
        routing_to_allowed,
    ),
    ("segment routing over TCP", routing_tcp),
];

pub fn attempts() -> Vec<Attempt> {
    let v4 = V4_OPTIONS.map(|(name, body)| Attempt::new("headers", name, body).both()[0].clone());
    let v6 = V6_HEADERS.map(|(name, body)| Attempt::new("headers", name, body).both()[1].clone());
    let both = |name, body| Attempt::new("headers", name, body).both();
    let one = |name, body, family: usize| {
        vec![Attempt::new("headers", name, body).both()[family].clone()]
    };
    [
        v4.to_vec(),
        v6.to_vec(),
        both("fragments", |c| fragments(c, c.to())).to_vec(),
        both("fragments to an allowed host", |c| fragments(c, c.beside())).to_vec(),
        both("tiny path MTU", tiny_mtu).to_vec(),
        both("path MTU discovery off, DF off", no_discovery).to_vec(),
        both("hop limit and traffic class", hop_limit).to_vec(),
        one("IPv4 address mapped into IPv6, UDP", mapped_udp, 1),
        one("IPv4 address mapped into IPv6, TCP", mapped_tcp, 1),
        one(
            "an allowed IPv4 address mapped, port not listed",
            mapped_beside,
            1,
        ),
        one("IPv6 socket turned into an IPv4 one", turned, 1),
        one("IPv4-compatible address", |c| embedded(c, [0; 12]), 1),
        one("6to4 address", six_to_four, 1),
        one(
            "NAT64 address",
            |c| embedded(c, [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
            1,
        ),
        one(
            "link-local address of the gateway",
            |c| link_local(c, true),
            1,
        ),
        one("link-local address of nobody", |c| link_local(c, false), 1),
        one("site-local and unique local addresses", local_addresses, 1),
        one("flow label", flow_label, 1),
        one(
            "jumbo payload",
            |c| message(c, libc::IPV6_HOPOPTS, &[0, 0, 0xc2, 4, 0, 1, 0, 0]),
            1,
        ),
        one("class E and 0/8 addresses", odd_addresses, 0),
    ]
    .concat()
}

/// A source route whose first hop is the allowed host; its end is the destination.
fn loose(kind: u8) -> Vec<u8> {
    let IpAddr::V4(hop) = API[0] else {
        unreachable!("IPv4 comes first")
    };
    [&[kind, 7, 4][..], &hop.octets(), &[0]].concat()
}

fn option(c: &Context, option: &[u8], to_elsewhere_by_api: bool) -> io::Result<()> {
    let socket = c.udp()?;
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, option)?;
    let to = if to_elsewhere_by_api {
        (ELSEWHERE[0], 123).into()
    } else {
        c.to()
    };
    socket.send_to(&c.payload(), to).map(drop)
}

fn options_to_allowed(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    let hidden = &c.token().0[..6];
    let option = [&[0x5e, 8][..], hidden].concat();
    // An option nobody knows cannot be set by all: a timestamp's room is as good.
    if sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option).is_err() {
        let route = [&[7, 7, 8][..], &hidden[..4], &[0]].concat();
        sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &route)?;
    }
    socket.send_to(&c.payload(), c.allowed_udp()).map(drop)
}

fn source_route_by_message(c: &Context) -> io::Result<()> {
    let control = calls::control(libc::IPPROTO_IP, libc::IP_RETOPTS, &loose(131));
    let to = address((ELSEWHERE[0], 123).into());
    calls::send(&c.udp()?, &c.payload(), 0, &to, &control).map(drop)
}

fn source_route_tcp(c: &Context) -> io::Result<()> {
    let socket = c.tcp()?;
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &loose(131))?;
    calls::bind(&socket, &address((super::any(false), c.port).into()))?;
    connect_and_send(socket, &address((ELSEWHERE[0], 443).into()), &c.payload())
}

/// Eight octets of padding for an options header.
fn padding() -> Vec<u8> {
    vec![0, 0, 1, 4, 0, 0, 0, 0]
}

fn message_of(kind: i32) -> Vec<u8> {
    calls::control(libc::IPPROTO_IPV6, kind, &padding())
}

fn sticky(c: &Context, kind: i32, header: &[u8]) -> io::Result<()> {
    let socket = c.udp()?;
    sys::set_option(&socket, libc::IPPROTO_IPV6, kind, header)?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn message(c: &Context, kind: i32, header: &[u8]) -> io::Result<()> {
    let control = calls::control(libc::IPPROTO_IPV6, kind, header);
    calls::send(&c.udp()?, &c.payload(), 0, &address(c.to()), &control).map(drop)
}

/// A routing header of this type whose first hop is the allowed host.
fn routing_header(kind: u8, end: Ipv6Addr) -> Vec<u8> {
    let IpAddr::V6(hop) = API[1] else {
        unreachable!("IPv6 comes second")
    };
    if kind == 4 {
        let start = [0, 4, 4, 1, 1, 0, 0, 0];
        [&start[..], &end.octets(), &hop.octets()].concat()
    } else {
        [&[0, 2, kind, 1, 0, 0, 0, 0][..], &hop.octets()].concat()
    }
}

fn routing(c: &Context, kind: u8, by_message: bool) -> io::Result<()> {
    let IpAddr::V6(end) = ELSEWHERE[1] else {
        unreachable!("IPv6 comes second")
    };
    let header = routing_header(kind, end);
    let to = SocketAddr::new(ELSEWHERE[1], 123);
    let socket = c.udp()?;
    if by_message {
        let control = calls::control(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header);
        return calls::send(&socket, &c.payload(), 0, &address(to), &control).map(drop);
    }
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)?;
    socket.send_to(&c.payload(), to).map(drop)
}

/// The end is allowed, and the hop before it is where nothing leads.
fn routing_to_allowed(c: &Context) -> io::Result<()> {
    let (IpAddr::V6(hop), IpAddr::V6(end)) = (ELSEWHERE[1], API[1]) else {
        unreachable!("IPv6 comes second")
    };
    let start = [0, 4, 4, 1, 1, 0, 0, 0];
    let header = [&start[..], &end.octets(), &hop.octets()].concat();
    let socket = c.udp()?;
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)?;
    socket.send_to(&c.payload(), c.allowed_udp()).map(drop)
}

fn routing_tcp(c: &Context) -> io::Result<()> {
    let IpAddr::V6(end) = ELSEWHERE[1] else {
        unreachable!("IPv6 comes second")
    };
    let socket = c.tcp()?;
    let header = routing_header(4, end);
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)?;
    calls::bind(&socket, &address((super::any(true), c.port).into()))?;
    connect_and_send(socket, &address((end, 443).into()), &c.payload())
}

/// More than one packet takes.
fn fragments(c: &Context, to: SocketAddr) -> io::Result<()> {
    let octets = c.payload().repeat(300);
    c.udp()?.send_to(&octets, to).map(drop)
}

fn tiny_mtu(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    if c.family() == 0 {
        // No option sets it in IPv4; what the kernel believes of the path is not to be had.
        set(
            &socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_OMIT,
        )?;
    } else {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU, 1280)?;
    }
    let octets = c.payload().repeat(100);
    socket.send_to(&octets, c.to()).map(drop)
}

fn no_discovery(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    let (level, option) = [
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    ][c.family()];
    set(&socket, level, option, libc::IP_PMTUDISC_DONT)?;
    socket.send_to(&c.payload(), c.to())?;
    set(&socket, level, option, libc::IP_PMTUDISC_PROBE)?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn hop_limit(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    if c.family() == 0 {
        set(&socket, libc::IPPROTO_IP, libc::IP_TTL, 1)?;
        set(&socket, libc::IPPROTO_IP, libc::IP_TOS, 0xb8)?;
    } else {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 255)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0xb8)?;
    }
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn mapped(c: &Context, address: IpAddr) -> SocketAddr {
    let IpAddr::V4(v4) = address else {
        unreachable!("IPv4 comes first")
    };
    (v4.to_ipv6_mapped(), c.port).into()
}

fn mapped_udp(c: &Context) -> io::Result<()> {
    c.udp()?
        .send_to(&c.payload(), mapped(c, ELSEWHERE[0]))
        .map(drop)
}

fn mapped_tcp(c: &Context) -> io::Result<()> {
    connect_and_send(c.tcp()?, &address(mapped(c, ELSEWHERE[0])), &c.payload())
}

fn mapped_beside(c: &Context) -> io::Result<()> {
    c.udp()?.send_to(&c.payload(), mapped(c, API[0])).map(drop)
}

fn turned(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    calls::connect(&socket, &address(mapped(c, ELSEWHERE[0])))?;
    set(
        &socket,
        libc::IPPROTO_IPV6,
        libc::IPV6_ADDRFORM,
        libc::AF_INET,
    )?;
    socket.send(&c.payload()).map(drop)
}

fn embedded(c: &Context, prefix: [u8; 12]) -> io::Result<()> {
    let IpAddr::V4(v4) = ELSEWHERE[0] else {
        unreachable!("IPv4 comes first")
    };
    let octets: [u8; 16] = [&prefix[..], &v4.octets()].concat().try_into().unwrap();
    c.udp()?
        .send_to(&c.payload(), (Ipv6Addr::from(octets), c.port))
        .map(drop)
}

fn six_to_four(c: &Context) -> io::Result<()> {
    let to = Ipv6Addr::new(0x2002, 0xcb00, 0x7142, 0, 0, 0, 0, 1);
    c.udp()?.send_to(&c.payload(), (to, c.port)).map(drop)
}

fn link_local(c: &Context, gateway: bool) -> io::Result<()> {
    let [a, b, d, e, f, g, h, i] = c.token().0;
    let to = if gateway {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1)
    } else {
        let tail = u64::from_be_bytes([a, b, d, e, f, g, h, i]);
        (0xfe80_u128 << 112 | u128::from(tail)).into()
    };
    let interface = nix::net::if_::if_nametoindex("eth0")?;
    let to = scoped((to, c.port).into(), interface);
    calls::send(&c.udp()?, &c.payload(), 0, &to, &[]).map(drop)
}

fn local_addresses(c: &Context) -> io::Result<()> {
    let [a, b, ..] = c.token().0;
    let last = u16::from_be_bytes([a, b]);
    let mut result = Ok(());
    for first in [0xfec0, 0xfc00, 0xfd00] {
        let to = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 1, last);
        result = c.udp()?.send_to(&c.payload(), (to, c.port)).map(drop);
    }
    result
}

fn flow_label(c: &Context) -> io::Result<()> {
    const IPV6_FLOWINFO_SEND: i32 = 33;
    let socket = c.udp()?;
    set(&socket, libc::IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1)?;
    let mut to = address(c.to());
    to[4..8].copy_from_slice(&0x0001_2345_u32.to_be_bytes());
    calls::send(&socket, &c.payload(), 0, &to, &[]).map(drop)
}

fn odd_addresses(c: &Context) -> io::Result<()> {
    let mut result = Err(io::Error::other("none of them"));
    for to in ["240.0.0.1", "0.1.2.3", "100.64.0.1", "169.254.169.254"] {
        let to: IpAddr = to.parse().unwrap();
        let sent = c.udp()?.send_to(&c.payload(), (to, c.port)).map(drop);
        if result.is_err() {
            result = sent;
        }
    }
    result
}
