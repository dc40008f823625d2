//! What belongs to an allowed flow without being of it: errors about it, helpers' expectations,
//! flows that are half open or that nobody answers.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use nix::libc;

use super::{
    Attempt, Context, address, any, connect_and_send,
    forged::{free, freebound},
    set, unspecified,
};
use crate::{
    stage::INVITED,
    support::world::{API, INSIDE},
    sys as calls,
};

const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("related flows", name, body).both().to_vec();
    // IPv4 refuses the sources that these need.
    let of_v6 = |name, body| vec![Attempt::new("related flows", name, body).both()[1].clone()];
    [
        of_v6(
            "an error about a datagram over loopback, as if from elsewhere",
            |c| unheard(c, c.port),
        ),
        of_v6("the same, at an invited port", |c| unheard(c, INVITED)),
        of_v6("a reset, to who is elsewhere", |c| reset(c, c.port)),
        of_v6("a reset of an invited port, to who is elsewhere", |c| {
            reset(c, INVITED)
        }),
        attempt("an error of ICMP by hand, about an allowed flow", |c| {
            forged_error(c, c.to().ip())
        }),
        attempt("an error of ICMP by hand, with more behind it", |c| {
            forged_error(c, c.beside().ip())
        }),
        attempt("an FTP client's words, for a helper to open a port", ftp),
        attempt("half open, its port to another host", |c| {
            half_open(c, c.to())
        }),
        attempt("half open, its port to another port", |c| {
            half_open(c, c.beside())
        }),
        attempt("before the allowed has answered, elsewhere", unanswered),
        of_v6(
            "an allowed flow that nobody answers, its port elsewhere",
            silent,
        ),
        attempt("connected to itself, then elsewhere", to_itself),
        attempt("both ends open at once, then elsewhere", simultaneous),
    ]
    .concat()
}

/// The kernel's errors leave at once, but for the queue of loopback.
fn settle() {
    thread::sleep(Duration::from_millis(15));
}

/// Nothing listens there, and the kernel says so to who seems to have sent it, with the datagram in
/// what it says.
fn unheard(c: &Context, port: u16) -> io::Result<()> {
    let socket = freebound(c, c.to())?;
    for _ in 0..3 {
        socket.send_to(&c.payload(), (INSIDE[1], port))?;
        settle();
    }
    Ok(())
}

/// The address and the port are the message.
fn reset(c: &Context, port: u16) -> io::Result<()> {
    let socket = c.tcp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    free(&socket, 1)?;
    calls::bind(&socket, &address(c.to()))?;
    let result = calls::connect(&socket, &address((INSIDE[1], port).into()));
    settle();
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

/// Port unreachable, said of a packet that the allowed host has sent, with the token behind its
/// ports.
fn forged_error(c: &Context, to: IpAddr) -> io::Result<()> {
    let flow = c.udp()?;
    calls::connect(&flow, &address(c.allowed_udp()))?;
    flow.set_read_timeout(Some(Duration::from_secs(2)))?;
    flow.send(b"hello")?;
    flow.recv(&mut [0; 16])?;
    let payload = c.payload();
    let length = u16::try_from(8 + payload.len()).unwrap();
    let datagram = [
        &[123, flow.local_addr()?.port(), length, 0]
            .map(u16::to_be_bytes)
            .concat()[..],
        &payload,
    ]
    .concat();
    let length = u16::try_from(datagram.len()).unwrap();
    let (quoted, kind, protocol) = match (API[c.family()], INSIDE[c.family()]) {
        (IpAddr::V4(from), IpAddr::V4(own)) => {
            let total = (length + 20).to_be_bytes();
            let start = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
            let header = [&start[..], &from.octets(), &own.octets()].concat();
            let kind = [3, 3];
            (header, kind, libc::IPPROTO_ICMP)
        }
        (IpAddr::V6(from), IpAddr::V6(own)) => {
            let length = length.to_be_bytes();
            let start = [0x60, 0, 0, 0, length[0], length[1], 17, 64];
            let header = [&start[..], &from.octets(), &own.octets()].concat();
            (header, [1, 4], libc::IPPROTO_ICMPV6)
        }
        _ => unreachable!("of one family"),
    };
    let mut octets = [&kind[..], &[0; 6], &quoted, &datagram].concat();
    // The kernel writes that of IPv6.
    if c.family() == 0 {
        let sum = checksum(&octets).to_be_bytes();
        octets[2..4].copy_from_slice(&sum);
    }
    let socket = c.socket(libc::SOCK_RAW, protocol)?;
    calls::send(&socket, &octets, 0, &address((to, 0).into()), &[]).map(drop)
}

/// RFC 1071.
fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// A client that announces the port at which it waits; a helper expects the server at it, and the
/// answer to the server from it.
fn ftp(c: &Context) -> io::Result<()> {
    let control = (API[c.family()], 21).into();
    let mut stream = TcpStream::connect_timeout(&control, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let [high, low] = c.port.to_be_bytes();
    let own = stream.local_addr()?.ip();
    let elsewhere = c.to().ip();
    let extended = 1 + c.family();
    let mut lines = String::new();
    for host in [own, elsewhere] {
        lines += &format!("EPRT |{extended}|{host}|{}|\r\n", c.port);
        let host = host.to_string().replace('.', ",");
        lines += &format!("PORT {host},{high},{low}\r\n");
    }
    stream.write_all(lines.as_bytes())?;
    stream.read_exact(&mut vec![0; lines.len()])?;
    let mut last = Ok(());
    for to in [c.beside(), c.to()] {
        let socket = own_port(c, c.port)?;
        last = connect_and_send(socket, &address(to), &c.payload());
    }
    last
}

/// A TCP socket at this port, which others may have too.
fn own_port(c: &Context, port: u16) -> io::Result<OwnedFd> {
    let socket = c.tcp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    calls::bind(&socket, &address((any(c.family() == 1), port).into()))?;
    Ok(socket)
}

/// The first segment has left and nothing has come back yet; the second has data in it.
fn half_open(c: &Context, to: SocketAddr) -> io::Result<()> {
    // Not the port that this attempt is known by: the first segment is allowed.
    let first = own_port(c, c.port - 10_000)?;
    let second = own_port(c, c.port - 10_000)?;
    set(&second, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)?;
    match calls::connect(&first, &address(c.allowed_tcp())) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let flags = libc::MSG_FASTOPEN;
    let sent = calls::send(&second, &c.payload(), flags, &address(to), &[]);
    drop(first);
    sent.map(drop)
}

fn unanswered(c: &Context) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..20 {
        let socket = c.udp()?;
        socket.send_to(b"hello", c.allowed_udp())?;
        last = socket.send_to(&c.payload(), c.to()).map(drop);
        let _ = socket.send_to(&c.payload(), c.beside());
    }
    last
}

/// From an address of the link that nobody has, so that no answer comes, ever.
fn silent(c: &Context) -> io::Result<()> {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfd, 0x77]);
    octets[15] = 0x99;
    let there = SocketAddr::new(IpAddr::from(octets), c.port - 10_000);
    let socket = freebound(c, there)?;
    for _ in 0..3 {
        socket.send_to(b"hello", c.allowed_udp())?;
    }
    let stream = c.tcp()?;
    free(&stream, 1)?;
    calls::bind(&stream, &address(there))?;
    let _ = calls::connect(&stream, &address(c.allowed_tcp()));
    thread::sleep(Duration::from_millis(5));
    calls::connect(&stream, &unspecified())?;
    let _ = connect_and_send(stream, &address(c.to()), &c.payload());
    socket.send_to(&c.payload(), c.to()).map(drop)
}

/// Both ends of a connection over loopback are one socket.
fn to_itself(c: &Context) -> io::Result<()> {
    let socket = own_port(c, c.port)?;
    let own = address((INSIDE[c.family()], c.port).into());
    match calls::connect(&socket, &own) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => settle(),
        other => other?,
    }
    let _ = calls::send(&socket, b"hello", 0, &[], &[]);
    calls::connect(&socket, &unspecified())?;
    connect_and_send(socket, &address(c.to()), &c.payload())
}

/// Each connects to the other before either has been heard, then one leaves the other.
fn simultaneous(c: &Context) -> io::Result<()> {
    let inside = INSIDE[c.family()];
    let ports = [c.port, c.port - 10_000];
    let sockets = [own_port(c, ports[0])?, own_port(c, ports[1])?];
    for (socket, port) in sockets.iter().zip([ports[1], ports[0]]) {
        let _ = calls::connect(socket, &address((inside, port).into()));
    }
    settle();
    let [first, second] = sockets;
    calls::connect(&first, &unspecified())?;
    let sent = connect_and_send(first, &address(c.to()), &c.payload());
    drop(second);
    sent
}
