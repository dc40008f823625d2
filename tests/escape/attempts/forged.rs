//! Flows that are made to look like others: a source that IPv6 lets anybody take
//! (`IPV6_FREEBIND`), over loopback where nothing is asked, so that connection tracking takes what
//! leaves afterwards for an answer.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use nix::libc;

use super::{Attempt, Context, address, any, connect_and_send, dns::question, set};
use crate::{
    stage::INVITED,
    support::{
        sys,
        world::{API, DNS, ELSEWHERE, FOREIGN_DNS, INSIDE},
    },
    sys as calls,
};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("forged flows", name, body).both();
    [
        attempt(
            "a visitor from elsewhere at an invited port, then an answer",
            visitor,
        ),
        attempt(
            "a TCP visitor from elsewhere at an invited port",
            visitor_tcp,
        ),
        attempt("an answer of an allowed host, then a question", |c| {
            answered(c, c.allowed_udp())
        }),
        attempt("an answer from elsewhere, then a question", |c| {
            answered(c, c.to())
        }),
        attempt(
            "both ends, an answer of an allowed host to elsewhere",
            both_ends,
        ),
        attempt(
            "both ends, the first way over loopback, then a question",
            both_ends_of_loopback,
        ),
        attempt("both ends over TCP, fast open in the answer", both_ends_tcp),
        attempt("DNS, bound to eth0, UDP", |c| {
            let socket = bound(c.udp()?.into())?;
            let to = address(FOREIGN_DNS[c.family()]);
            calls::send(&socket, &question(c), 0, &to, &[]).map(drop)
        }),
        attempt("DNS, bound to eth0, TCP", |c| {
            let socket = bound(c.tcp()?)?;
            set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            calls::bind(&socket, &address((any(c.family() == 1), c.port).into()))?;
            let query = question(c);
            let length = u16::try_from(query.len()).unwrap();
            let octets = [&length.to_be_bytes(), &query[..]].concat();
            connect_and_send(socket, &address(FOREIGN_DNS[c.family()]), &octets)
        }),
        // Not the foreign server, which would answer, and be answered without end.
        attempt("DNS, as if the nameserver asked elsewhere", |c| {
            as_nameserver(c, (ELSEWHERE[c.family()], 53).into())
        }),
        attempt("DNS, as if the nameserver asked an allowed host", |c| {
            as_nameserver(c, (API[c.family()], 53).into())
        }),
        attempt(
            "DNS over TCP, as if the nameserver asked",
            as_nameserver_tcp,
        ),
        attempt("DNS, as if somebody elsewhere asked", |c| {
            let from = freebound(c, c.to())?;
            from.send_to(&question(c), FOREIGN_DNS[c.family()])?;
            thread::sleep(Duration::from_millis(15));
            Ok(())
        }),
    ]
    .concat()
}

fn bound(socket: OwnedFd) -> io::Result<OwnedFd> {
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0")?;
    Ok(socket)
}

/// A UDP socket that says it is there.
pub(super) fn freebound(c: &Context, there: SocketAddr) -> io::Result<UdpSocket> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    free(&socket, c.family())?;
    calls::bind(&socket, &address(there))?;
    Ok(socket)
}

pub(super) fn free(socket: &impl std::os::fd::AsRawFd, family: usize) -> io::Result<()> {
    let (level, option) = [
        (libc::IPPROTO_IP, libc::IP_FREEBIND),
        (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    ][family];
    set(socket, level, option, 1)
}

fn own(c: &Context, port: u16) -> io::Result<UdpSocket> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    calls::bind(&socket, &address((INSIDE[c.family()], port).into()))?;
    Ok(socket)
}

/// What leaves is the answer to what came in, as far as connection tracking knows.
fn visitor(c: &Context) -> io::Result<()> {
    let host = own(c, INVITED)?;
    let visitor = freebound(c, c.to())?;
    // IPv4 refuses such a source.
    let _ = visitor.send_to(b"let me in", host.local_addr()?);
    host.send_to(&c.payload(), c.to()).map(drop)
}

/// The kernel itself answers the visitor, who is elsewhere.
fn visitor_tcp(c: &Context) -> io::Result<()> {
    let any = any(c.family() == 1);
    let host = c.tcp()?;
    set(&host, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    calls::bind(&host, &address((any, INVITED).into()))?;
    calls::numbers(
        libc::SYS_listen,
        [std::os::fd::AsRawFd::as_raw_fd(&host).into(), 4, 0, 0, 0],
    )?;
    let visitor = c.tcp()?;
    set(&visitor, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    free(&visitor, c.family())?;
    calls::bind(&visitor, &address(c.to()))?;
    let to = address((INSIDE[c.family()], INVITED).into());
    match calls::connect(&visitor, &to) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            // IPv4 refuses such a source: then as any other visit, from where nobody asked.
            drop(visitor);
            let socket = c.tcp()?;
            drop(host);
            set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            calls::bind(&socket, &address((any, INVITED).into()))?;
            return connect_and_send(socket, &address(c.to()), &c.payload());
        }
        _ => {}
    }
    thread::sleep(Duration::from_millis(30));
    Ok(())
}

/// An answer that comes before the question, over loopback.
fn answered(c: &Context, peer: SocketAddr) -> io::Result<()> {
    let host = own(c, c.port)?;
    let other = freebound(c, peer)?;
    for _ in 0..2 {
        let _ = other.send_to(b"an answer", host.local_addr()?);
        let _ = host.send_to(b"a question", peer);
    }
    host.send_to(&c.payload(), c.to()).map(drop)
}

/// From elsewhere to an allowed host, which the list lets out, and then what looks like the
/// host's answer.
fn both_ends(c: &Context) -> io::Result<()> {
    // IPv4 refuses such sources: then the last of it alone.
    if c.family() == 1 {
        freebound(c, c.to())?.send_to(b"a question", c.allowed_udp())?;
        return freebound(c, c.allowed_udp())?
            .send_to(&c.payload(), c.to())
            .map(drop);
    }
    c.udp()?.send_to(&c.payload(), c.to()).map(drop)
}

/// A flow that leaves by loopback is one although it leads nowhere; its other way goes to the
/// allowed host, and then the first way is not that of loopback any more.
fn both_ends_of_loopback(c: &Context) -> io::Result<()> {
    if c.family() == 1 {
        let first = freebound(c, c.allowed_udp())?;
        sys::set_option(&first, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo")?;
        let _ = first.send_to(b"a question", c.to());
        drop(first);
        let _ = freebound(c, c.to())?.send_to(b"an answer", c.allowed_udp());
        return freebound(c, c.allowed_udp())?
            .send_to(&c.payload(), c.to())
            .map(drop);
    }
    // IPv4 refuses the stranger's source: the own one, by loopback and then not.
    let first = own(c, c.port)?;
    sys::set_option(&first, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo")?;
    let _ = first.send_to(b"a question", c.to());
    drop(first);
    own(c, c.port)?.send_to(&c.payload(), c.to()).map(drop)
}

/// Both open at once, as far as connection tracking knows, and the second with data.
fn both_ends_tcp(c: &Context) -> io::Result<()> {
    const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
    let sockets = [c.tcp()?, c.tcp()?];
    if c.family() == 1 {
        let ends = [c.to(), c.allowed_tcp()];
        for (socket, end) in sockets.iter().zip(ends) {
            set(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            free(socket, 1)?;
            calls::bind(socket, &address(end))?;
        }
        let _ = calls::connect(&sockets[0], &address(c.allowed_tcp()));
        thread::sleep(Duration::from_millis(2));
    }
    set(&sockets[1], libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)?;
    let to = address(c.to());
    calls::send(&sockets[1], &c.payload(), libc::MSG_FASTOPEN, &to, &[]).map(drop)
}

/// Whoever answers this sends what was asked to the nameserver.
fn as_nameserver(c: &Context, to: SocketAddr) -> io::Result<()> {
    let socket = freebound(c, DNS[c.family()])?;
    let sent = socket.send_to(&question(c), to);
    thread::sleep(Duration::from_millis(15));
    // IPv4 refuses such a source: then from the port alone.
    sent.or_else(|_| {
        let socket = c.udp()?;
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        calls::bind(&socket, &address((any(c.family() == 1), 53).into()))?;
        socket.send_to(&question(c), to)
    })
    .map(drop)
}

fn as_nameserver_tcp(c: &Context) -> io::Result<()> {
    let socket = c.tcp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    free(&socket, c.family())?;
    let there = if c.family() == 1 {
        DNS[1]
    } else {
        (any(false), c.port).into()
    };
    calls::bind(&socket, &address(there))?;
    let mut to = SocketAddr::new(ELSEWHERE[c.family()], 53);
    let sent = connect_and_send(socket, &address(to), &question(c));
    // So that something of this attempt is known again where nothing answers.
    to.set_port(c.port);
    let _ = c.udp()?.send_to(&c.payload(), to);
    thread::sleep(Duration::from_millis(15));
    sent
}
