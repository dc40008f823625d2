//! Every way to hand octets to a transport protocol, towards where no list leads and beside the
//! doors of an allowed host.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;

use super::{Attempt, Context, address, any, connect_and_send, set};
use crate::{support::sys, sys as calls};

const UDP_CORK: i32 = 1;
const UDP_SEGMENT: i32 = 103;
const UDP_NO_CHECK6_TX: i32 = 101;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const IPPROTO_MPTCP: i32 = 262;
const IPPROTO_DCCP: i32 = 33;
const SOCK_DCCP: i32 = 6;

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("transport", name, body).both();
    [
        attempt("TCP", tcp),
        attempt(
            "TCP to a port of an allowed host that is not listed",
            tcp_beside,
        ),
        attempt("TCP to every well-known port of an allowed host", tcp_sweep),
        attempt("TCP, data in the first segment (fast open)", tcp_fast_open),
        attempt("TCP, fast open by connect", tcp_fast_open_connect),
        attempt("TCP, both ends open at once", tcp_simultaneous),
        attempt("TCP, no delay, urgent data", tcp_urgent),
        attempt("MPTCP", |c| stream(c, IPPROTO_MPTCP)),
        attempt("MPTCP to an allowed host, port not listed", mptcp_beside),
        attempt("SCTP, stream", |c| stream(c, libc::IPPROTO_SCTP)),
        attempt("SCTP, one to many", sctp_datagram),
        attempt("DCCP", dccp),
        attempt("UDP, sendto", udp),
        attempt("UDP, connected", udp_connected),
        attempt(
            "UDP to a port of an allowed host that is not listed",
            udp_beside,
        ),
        attempt("UDP to an allowed host's TCP port", udp_wrong_protocol),
        attempt("TCP to an allowed host's UDP port", tcp_wrong_protocol),
        attempt("UDP, empty datagrams, the port as the message", udp_empty),
        attempt("UDP, a batch of destinations (sendmmsg)", udp_many),
        attempt("UDP, MSG_MORE", |c| udp_flags(c, libc::MSG_MORE)),
        attempt("UDP, MSG_CONFIRM", |c| udp_flags(c, libc::MSG_CONFIRM)),
        attempt("UDP, MSG_DONTROUTE", |c| udp_flags(c, libc::MSG_DONTROUTE)),
        attempt("UDP, MSG_EOR, MSG_OOB", |c| udp_flags(c, libc::MSG_EOR)),
        attempt("UDP, corked", udp_corked),
        attempt("UDP, segmentation offload", udp_segments),
        attempt(
            "UDP, segmentation offload by control message",
            udp_segments_by_message,
        ),
        attempt("UDP, MSG_ZEROCOPY", udp_zero_copy),
        attempt("UDP, checksum left out", udp_no_checksum),
        attempt("UDP, sendfile", udp_send_file),
        attempt("UDP, splice from a pipe", udp_splice),
        attempt("UDP-Lite", |c| udp_lite(c, false)),
        attempt("UDP-Lite to an allowed host's UDP port", |c| {
            udp_lite(c, true)
        }),
        attempt("UDP, encapsulating ESP", |c| udp_encapsulating(c, 2)),
        attempt("UDP, encapsulating L2TP", |c| udp_encapsulating(c, 3)),
        attempt("ICMP echo (ping socket)", |c| echo(c, false)),
        attempt("ICMP echo to an allowed host", |c| echo(c, true)),
        attempt(
            "raw IP with a header of its own, an allowed host's source",
            raw_header,
        ),
        attempt("raw UDP to an allowed host, a length that lies", raw_beside),
    ]
    .concat()
}

fn tcp(c: &Context) -> io::Result<()> {
    connect_and_send(c.tcp()?, &address(c.to()), &c.payload())
}

fn tcp_beside(c: &Context) -> io::Result<()> {
    connect_and_send(c.tcp()?, &address(c.beside()), &c.payload())
}

fn tcp_wrong_protocol(c: &Context) -> io::Result<()> {
    // From its own port, so that the first segment is known again.
    let socket = c.tcp()?;
    calls::bind(&socket, &address((any(c.family() == 1), c.port).into()))?;
    connect_and_send(socket, &address(c.allowed_udp()), &c.payload())
}

/// Not one socket for all: each has the port of this attempt as its source.
fn tcp_sweep(c: &Context) -> io::Result<()> {
    let mut last = Ok(());
    let mut refused = 0;
    for port in (1..1024).filter(|port| ![21, 80, 443].contains(port)) {
        let socket = c.tcp()?;
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        calls::bind(&socket, &address((any(c.family() == 1), c.port).into()))?;
        let to = address((c.beside().ip(), port).into());
        match calls::connect(&socket, &to) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => {
                refused += 1;
                last = Err(error);
            }
            Ok(()) => {}
        }
        super::pace(port.into());
    }
    if refused > 0 { last } else { Ok(()) }
}

fn fast_open_socket(c: &Context) -> io::Result<OwnedFd> {
    let socket = c.tcp()?;
    set(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)?;
    Ok(socket)
}

fn tcp_fast_open(c: &Context) -> io::Result<()> {
    let socket = fast_open_socket(c)?;
    let to = address(c.to());
    calls::send(&socket, &c.payload(), libc::MSG_FASTOPEN, &to, &[]).map(drop)
}

fn tcp_fast_open_connect(c: &Context) -> io::Result<()> {
    let socket = fast_open_socket(c)?;
    set(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
    calls::connect(&socket, &address(c.to()))?;
    calls::send(&socket, &c.payload(), 0, &[], &[]).map(drop)
}

fn tcp_simultaneous(c: &Context) -> io::Result<()> {
    let any = address((any(c.family() == 1), c.port).into());
    let sockets = [c.tcp()?, c.tcp()?];
    for socket in &sockets {
        set(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        calls::bind(socket, &any)?;
    }
    let [listener, opener] = sockets;
    connect_and_send(opener, &address(c.to()), &c.payload())?;
    drop(listener);
    Ok(())
}

fn tcp_urgent(c: &Context) -> io::Result<()> {
    let socket = c.tcp()?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    match calls::connect(&socket, &address(c.to())) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => other?,
    }
    calls::send(&socket, &c.payload(), libc::MSG_OOB, &[], &[]).map(drop)
}

fn stream(c: &Context, protocol: i32) -> io::Result<()> {
    let socket = c.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK, protocol)?;
    connect_and_send(socket, &address(c.to()), &c.payload())
}

fn mptcp_beside(c: &Context) -> io::Result<()> {
    let socket = c.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK, IPPROTO_MPTCP)?;
    connect_and_send(socket, &address(c.beside()), &c.payload())
}

fn sctp_datagram(c: &Context) -> io::Result<()> {
    let socket = c.socket(libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP)?;
    calls::send(&socket, &c.payload(), 0, &address(c.to()), &[]).map(drop)
}

fn dccp(c: &Context) -> io::Result<()> {
    let socket = c.socket(SOCK_DCCP | libc::SOCK_NONBLOCK, IPPROTO_DCCP)?;
    connect_and_send(socket, &address(c.to()), &c.payload())
}

fn udp(c: &Context) -> io::Result<()> {
    c.udp()?.send_to(&c.payload(), c.to()).map(drop)
}

fn udp_connected(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    calls::connect(&socket, &address(c.to()))?;
    socket.send(&c.payload()).map(drop)
}

fn udp_beside(c: &Context) -> io::Result<()> {
    c.udp()?.send_to(&c.payload(), c.beside()).map(drop)
}

fn udp_wrong_protocol(c: &Context) -> io::Result<()> {
    c.udp()?.send_to(&c.payload(), c.allowed_tcp()).map(drop)
}

fn udp_empty(c: &Context) -> io::Result<()> {
    c.udp()?.send_to(&[], c.to()).map(drop)
}

fn udp_many(c: &Context) -> io::Result<()> {
    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
    let socket = c.udp()?;
    let payload = c.payload();
    let slices = [[io::IoSlice::new(&payload)], [io::IoSlice::new(&payload)]];
    let to = [c.beside(), c.to()].map(|to| Some(SockaddrStorage::from(to)));
    let mut headers = MultiHeaders::preallocate(2, None);
    sendmmsg(
        socket.as_raw_fd(),
        &mut headers,
        &slices,
        to,
        [],
        MsgFlags::empty(),
    )?;
    Ok(())
}

fn udp_flags(c: &Context, flags: i32) -> io::Result<()> {
    let socket = c.udp()?;
    let to = address(c.to());
    calls::send(&socket, &c.payload(), flags, &to, &[])?;
    // Ends what MSG_MORE began.
    if flags == libc::MSG_MORE {
        calls::send(&socket, b".", 0, &to, &[])?;
    }
    Ok(())
}

fn udp_corked(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_UDP, UDP_CORK, 1)?;
    socket.send_to(&c.payload(), c.to())?;
    set(&socket, libc::SOL_UDP, UDP_CORK, 0)
}

fn udp_segments(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_UDP, UDP_SEGMENT, 64)?;
    let octets = c.payload().repeat(20);
    socket.send_to(&octets, c.to()).map(drop)
}

fn udp_segments_by_message(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    let control = calls::control(libc::SOL_UDP, UDP_SEGMENT, &64_u16.to_ne_bytes());
    let octets = c.payload().repeat(20);
    calls::send(&socket, &octets, 0, &address(c.to()), &control).map(drop)
}

fn udp_zero_copy(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
    let octets = c.payload().repeat(40);
    calls::send(&socket, &octets, libc::MSG_ZEROCOPY, &address(c.to()), &[]).map(drop)
}

fn udp_no_checksum(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    if c.family() == 0 {
        set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
    } else {
        set(&socket, libc::SOL_UDP, UDP_NO_CHECK6_TX, 1)?;
    }
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn udp_send_file(c: &Context) -> io::Result<()> {
    let mut file = File::from(calls::memory_file()?);
    file.write_all(&c.payload())?;
    file.rewind()?;
    let socket = c.udp()?;
    calls::connect(&socket, &address(c.to()))?;
    calls::send_file(&socket, &file, c.payload().len())
}

fn udp_splice(c: &Context) -> io::Result<()> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&c.payload())?;
    let socket = c.udp()?;
    calls::connect(&socket, &address(c.to()))?;
    calls::splice(&reader, &socket, c.payload().len())
}

fn udp_lite(c: &Context, allowed: bool) -> io::Result<()> {
    let socket = c.socket(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    let to = if allowed { c.allowed_udp() } else { c.to() };
    calls::send(&socket, &c.payload(), 0, &address(to), &[]).map(drop)
}

fn udp_encapsulating(c: &Context, kind: i32) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_UDP, libc::UDP_ENCAP, kind)?;
    socket.send_to(&c.payload(), c.to()).map(drop)
}

fn echo(c: &Context, allowed: bool) -> io::Result<()> {
    let (protocol, kind) = [(libc::IPPROTO_ICMP, 8), (libc::IPPROTO_ICMPV6, 128)][c.family()];
    let socket = c.socket(libc::SOCK_DGRAM, protocol)?;
    let to = if allowed { c.beside() } else { c.to() };
    let mut octets = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    octets.extend(c.payload());
    calls::send(&socket, &octets, 0, &address((to.ip(), 0).into()), &[]).map(drop)
}

/// A whole packet, as IPPROTO_RAW takes it: from an allowed host, to where nothing leads.
fn raw_header(c: &Context) -> io::Result<()> {
    let (to, from) = (c.to().ip(), c.allowed_tcp().ip());
    let payload = c.payload();
    let mut datagram = [
        123_u16,
        c.port,
        u16::try_from(8 + payload.len()).unwrap(),
        0,
    ]
    .map(u16::to_be_bytes)
    .concat();
    datagram.extend(&payload);
    let octets = match (from, to) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            let total = u16::try_from(20 + datagram.len()).unwrap().to_be_bytes();
            let start = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
            [&start[..], &from.octets(), &to.octets(), &datagram].concat()
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            let length = u16::try_from(datagram.len()).unwrap().to_be_bytes();
            let start = [0x60, 0, 0, 0, length[0], length[1], 17, 64];
            [&start[..], &from.octets(), &to.octets(), &datagram].concat()
        }
        _ => unreachable!("of one family"),
    };
    let socket = sys::socket(c.domain(), libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    calls::send(&socket, &octets, 0, &address((to, 0).into()), &[]).map(drop)
}

/// The header says one octet more than there is, and a port that is not listed.
fn raw_beside(c: &Context) -> io::Result<()> {
    let payload = c.payload();
    let mut octets = [c.port, 124, u16::try_from(9 + payload.len()).unwrap(), 0]
        .map(u16::to_be_bytes)
        .concat();
    octets.extend(payload);
    let socket = c.socket(libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    let to = address((c.beside().ip(), 0).into());
    calls::send(&socket, &octets, 0, &to, &[]).map(drop)
}
