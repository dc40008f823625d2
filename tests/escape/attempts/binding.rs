//! Where a socket says that it sits: interface, source address, source port, mark.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::libc;

use super::{Attempt, Context, address, any, connect_and_send, set};
use crate::{
    stage::INVITED,
    support::{
        sys,
        world::{API, GATEWAY},
    },
    sys as calls,
};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("binding", name, body).both();
    [
        attempt("bound to eth0", |c| to_device(c, "eth0")),
        attempt("bound to loopback, in a network that forwards", |c| {
            to_device(c, "lo")
        }),
        attempt("bound to loopback, TCP", to_loopback_tcp),
        attempt("interface by control message", by_message),
        attempt("unicast interface", unicast_interface),
        attempt("IP_TRANSPARENT, an allowed host as the source", transparent),
        attempt("IP_FREEBIND, an allowed host as the source", free),
        attempt("loopback as the source", |c| {
            from(c, loopback(c.family()), c.port)
        }),
        attempt(
            "loopback as the source of a socket bound to eth0",
            loopback_by_eth0,
        ),
        attempt("from port 53", |c| from(c, any(c.family() == 1), 53)),
        attempt("from port 123, as the allowed flow", |c| {
            from(c, any(c.family() == 1), 123)
        }),
        attempt("from an invited port", |c| {
            from(c, any(c.family() == 1), INVITED)
        }),
        attempt("from an invited port, TCP", invited_tcp),
        attempt("packet marks", marks),
        attempt("priority and type of service", priority),
        attempt("SO_DONTROUTE", dont_route),
        attempt("the gateway itself", gateway),
        attempt("the gateway itself, TCP", gateway_tcp),
        attempt("all ports of the gateway at once", gateway_sweep),
        attempt(
            "SO_ATTACH_REUSEPORT, SO_INCOMING_CPU and other options",
            odd_options,
        ),
    ]
    .concat()
}

fn to_device(c: &Context, device: &str) -> io::Result<()> {
    let socket = c.udp()?;
    sys::set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_BINDTODEVICE,
        device.as_bytes(),
    )?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn to_loopback_tcp(c: &Context) -> io::Result<()> {
    let socket = c.tcp()?;
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo")?;
    connect_and_send(socket, &address(c.to()), &c.payload())
}

/// struct `in_pktinfo` or `in6_pktinfo`.
fn packet_info(c: &Context, source: IpAddr, interface: u32) -> Vec<u8> {
    let index = interface.to_ne_bytes();
    match source {
        IpAddr::V4(v4) => {
            let info = [&index[..], &v4.octets(), &[0; 4]].concat();
            calls::control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        IpAddr::V6(v6) => {
            assert_eq!(c.family(), 1);
            let info = [&v6.octets()[..], &index].concat();
            calls::control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
        }
    }
}

fn eth0() -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex("eth0")?)
}

fn by_message(c: &Context) -> io::Result<()> {
    let control = packet_info(c, any(c.family() == 1), eth0()?);
    calls::send(&c.udp()?, &c.payload(), 0, &address(c.to()), &control).map(drop)
}

fn unicast_interface(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    let (level, option) = [
        (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
    ][c.family()];
    sys::set_option(&socket, level, option, &eth0()?.to_be_bytes())?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn transparent(c: &Context) -> io::Result<()> {
    let (level, option) = [
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    ][c.family()];
    foreign_source(c, level, option)
}

fn free(c: &Context) -> io::Result<()> {
    let (level, option) = [
        (libc::IPPROTO_IP, libc::IP_FREEBIND),
        (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    ][c.family()];
    foreign_source(c, level, option)
}

fn foreign_source(c: &Context, level: i32, option: i32) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, level, option, 1)?;
    calls::bind(&socket, &address(SocketAddr::new(API[c.family()], 123)))?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn from(c: &Context, source: IpAddr, port: u16) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    calls::bind(&socket, &address((source, port).into()))?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn loopback(family: usize) -> IpAddr {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()][family]
}

fn loopback_by_eth0(c: &Context) -> io::Result<()> {
    let control = packet_info(c, loopback(c.family()), eth0()?);
    calls::send(&c.udp()?, &c.payload(), 0, &address(c.to()), &control).map(drop)
}

fn invited_tcp(c: &Context) -> io::Result<()> {
    let socket = c.tcp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    calls::bind(&socket, &address((any(c.family() == 1), INVITED).into()))?;
    connect_and_send(socket, &address(c.to()), &c.payload())
}

fn marks(c: &Context) -> io::Result<()> {
    let marks = (0..32).map(|bit| 1_u32 << bit).chain([u32::MAX]);
    let mut last = Ok(());
    for mark in marks {
        let socket = c.udp()?;
        sys::set_option(
            &socket,
            libc::SOL_SOCKET,
            libc::SO_MARK,
            &mark.to_ne_bytes(),
        )?;
        last = socket.send_to(&c.payload(), c.to()).map(drop);
    }
    last
}

fn priority(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_PRIORITY, 6)?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn dont_route(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)?;
    socket
        .send_to(&c.payload(), (GATEWAY[c.family()], c.port))
        .map(drop)
}

fn gateway(c: &Context) -> io::Result<()> {
    let to = (GATEWAY[c.family()], c.port);
    c.udp()?.send_to(&c.payload(), to).map(drop)
}

fn gateway_tcp(c: &Context) -> io::Result<()> {
    let to = address((GATEWAY[c.family()], c.port).into());
    connect_and_send(c.tcp()?, &to, &c.payload())
}

fn gateway_sweep(c: &Context) -> io::Result<()> {
    let mut last = Ok(());
    for port in 1..2048 {
        let socket = c.udp()?;
        last = socket
            .send_to(&c.payload(), (GATEWAY[c.family()], port))
            .map(drop);
        super::pace(port.into());
    }
    last
}

/// Options that change how a packet is made, one after the other on one socket.
fn odd_options(c: &Context) -> io::Result<()> {
    const SO_TXREHASH: i32 = 74;
    const SO_TXTIME: i32 = 61;
    let socket = c.udp()?;
    let options = [
        (libc::SO_INCOMING_CPU, 0),
        (libc::SO_BUSY_POLL, 50),
        (libc::SO_TIMESTAMPING, 0x7f),
        (SO_TXREHASH, 1),
        (libc::SO_WIFI_STATUS, 1),
        (libc::SO_NOFCS, 1),
    ];
    for (option, value) in options {
        // Whatever the kernel has.
        let _ = set(&socket, libc::SOL_SOCKET, option, value);
    }
    let _ = sys::set_option(
        &socket,
        libc::SOL_SOCKET,
        SO_TXTIME,
        &[1, 0, 0, 0, 0, 0, 0, 0],
    );
    assert!(socket.as_raw_fd() > 2);
    socket.send_to(&c.payload(), c.to()).map(drop)
}
