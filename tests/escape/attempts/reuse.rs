//! Flows that the policy allows, used towards where it does not.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::libc;

use super::{Attempt, Context, SHORTLY, address, any, connect_and_send, set, unspecified};
use crate::{support::world::API, sys as calls};

const UDP_CORK: i32 = 1;

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("allowed flows", name, body).both();
    [
        attempt("connected to the allowed, sendto elsewhere", send_elsewhere),
        attempt("connected to the allowed, connected again", connect_again),
        attempt("disconnected by AF_UNSPEC, then elsewhere", disconnect_udp),
        attempt(
            "TCP disconnected by AF_UNSPEC, connected elsewhere",
            disconnect_tcp,
        ),
        attempt("the port of an allowed flow, to another host", |c| {
            same_port(c, false)
        }),
        attempt("the port of an allowed flow, to another port", |c| {
            same_port(c, true)
        }),
        attempt(
            "the port of an allowed TCP flow, to another host",
            same_port_tcp,
        ),
        attempt("corked towards the allowed, ended elsewhere", corked),
        attempt("while the allowed flow floods", flooded),
        attempt("an error of ICMP about an allowed flow", icmp_error),
        attempt("an FTP server's words, for a helper to open a port", ftp),
        attempt(
            "from a forked child's copy of an allowed socket",
            duplicated,
        ),
        attempt("TCP_REPAIR to another end", repaired),
        attempt(
            "the flow's raw header (TCP_SAVE_SYN, TCP_ULP)",
            upper_protocol,
        ),
    ]
    .concat()
}

/// A UDP socket that has talked to the allowed host.
fn talked(c: &Context) -> io::Result<UdpSocket> {
    let socket = c.udp()?;
    calls::connect(&socket, &address(c.allowed_udp()))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 16])?;
    Ok(socket)
}

fn connected(c: &Context) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&c.allowed_tcp(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])?;
    Ok(stream)
}

fn send_elsewhere(c: &Context) -> io::Result<()> {
    talked(c)?.send_to(&c.payload(), c.to()).map(drop)
}

fn connect_again(c: &Context) -> io::Result<()> {
    let socket = talked(c)?;
    calls::connect(&socket, &address(c.to()))?;
    socket.send(&c.payload()).map(drop)
}

fn disconnect_udp(c: &Context) -> io::Result<()> {
    let socket = talked(c)?;
    calls::connect(&socket, &unspecified())?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn disconnect_tcp(c: &Context) -> io::Result<()> {
    let stream = connected(c)?;
    calls::connect(&stream, &unspecified())?;
    stream.set_nonblocking(true)?;
    connect_and_send(OwnedFd::from(stream), &address(c.to()), &c.payload())
}

fn same_port(c: &Context, same_host: bool) -> io::Result<()> {
    let socket = talked(c)?;
    let own = socket.local_addr()?;
    drop(socket);
    let other = c.udp()?;
    calls::bind(&other, &address((any(c.family() == 1), own.port()).into()))?;
    let to = if same_host { c.beside() } else { c.to() };
    other.send_to(&c.payload(), to).map(drop)
}

fn same_port_tcp(c: &Context) -> io::Result<()> {
    let stream = connected(c)?;
    let own = stream.local_addr()?;
    set(&stream, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let other = c.tcp()?;
    set(&other, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    drop(stream);
    calls::bind(&other, &address((any(c.family() == 1), own.port()).into()))?;
    connect_and_send(other, &address(c.to()), &c.payload())
}

fn corked(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_UDP, UDP_CORK, 1)?;
    socket.send_to(b"to the allowed", c.allowed_udp())?;
    socket.send_to(&c.payload(), c.to())?;
    // What the first call opened goes to where the first call said; the rest is one attempt more.
    let _ = calls::connect(&socket, &address(c.to()));
    set(&socket, libc::SOL_UDP, UDP_CORK, 0)?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn flooded(c: &Context) -> io::Result<()> {
    let flood = talked(c)?;
    let other = c.udp()?;
    let mut result = Ok(());
    for _ in 0..200 {
        let _ = flood.send(b"flood");
        result = other.send_to(&c.payload(), c.to()).map(drop);
    }
    result
}

/// The echo meets a closed port, and the kernel answers it with an error. It goes to the allowed
/// host and is made of that host's own packet: what is tried is whether it can go elsewhere.
fn icmp_error(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    calls::connect(&socket, &address(c.allowed_udp()))?;
    let own = socket.local_addr()?;
    for _ in 0..8 {
        socket.send(b"hello")?;
    }
    drop(socket);
    thread::sleep(Duration::from_millis(20));
    let other = c.udp()?;
    calls::bind(&other, &address((any(c.family() == 1), own.port()).into()))?;
    other.send_to(&c.payload(), c.to()).map(drop)
}

/// The far end echoes what it gets, so it speaks as an FTP server that opens a passive port.
fn ftp(c: &Context) -> io::Result<()> {
    let control = (API[c.family()], 21).into();
    let mut stream = TcpStream::connect_timeout(&control, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let [high, low] = c.port.to_be_bytes();
    let line = if c.family() == 0 {
        let host = c.to().ip().to_string().replace('.', ",");
        format!("227 Entering Passive Mode ({host},{high},{low})\r\n")
    } else {
        format!("229 Entering Extended Passive Mode (|||{}|)\r\n", c.port)
    };
    stream.write_all(line.as_bytes())?;
    stream.read_exact(&mut vec![0; line.len()])?;
    let to = if c.family() == 0 { c.to() } else { c.beside() };
    connect_and_send(c.tcp()?, &address(to), &c.payload())
}

fn duplicated(c: &Context) -> io::Result<()> {
    let socket = talked(c)?;
    let copy = calls::inherited(socket.as_raw_fd())?;
    let to = address(c.to());
    let payload = c.payload();
    thread::spawn(move || calls::send(&copy, &payload, 0, &to, &[]))
        .join()
        .unwrap()
        .map(drop)
}

fn repaired(c: &Context) -> io::Result<()> {
    const TCP_REPAIR: i32 = 19;
    let socket = c.socket(libc::SOCK_STREAM, 0)?;
    set(&socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    calls::bind(&socket, &address((any(c.family() == 1), c.port).into()))?;
    calls::connect(&socket, &address(c.to()))?;
    set(&socket, libc::IPPROTO_TCP, TCP_REPAIR, 0)?;
    calls::send(&socket, &c.payload(), 0, &[], &[])?;
    thread::sleep(SHORTLY);
    Ok(())
}

fn upper_protocol(c: &Context) -> io::Result<()> {
    const TCP_ULP: i32 = 31;
    let stream = connected(c)?;
    for name in [&b"tls"[..], b"espintcp", b"mptcp", b"smc"] {
        let _ = crate::support::sys::set_option(&stream, libc::IPPROTO_TCP, TCP_ULP, name);
    }
    calls::connect(&stream, &unspecified())?;
    stream.set_nonblocking(true)?;
    connect_and_send(OwnedFd::from(stream), &address(c.to()), &c.payload())
}
