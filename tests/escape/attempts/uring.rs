//! `io_uring`, which makes sockets and sends without the calls that a filter sees.

use std::{io, os::fd::AsRawFd};

use nix::libc;

use super::{Attempt, Context, Evidence, address};
use crate::sys::{Request, Ring, owned};

/// linux/io_uring.h.
const CONNECT: u8 = 16;
const SEND: u8 = 26;
const SOCKET: u8 = 45;

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("io_uring", name, body).both().to_vec();
    let vsock = Attempt::new("io_uring", "a vsock", |_| {
        ring_socket(libc::AF_VSOCK, libc::SOCK_STREAM).map(drop)
    });
    let packet = Attempt::new("io_uring", "a packet socket", |_| {
        ring_socket(libc::AF_PACKET, libc::SOCK_RAW).map(drop)
    });
    [
        attempt("connect", connect),
        attempt("send", send),
        attempt("send to an address", send_to),
        attempt("socket, then send", whole),
        vec![
            vsock.evidence(Evidence::Hold),
            packet.evidence(Evidence::Hold),
            Attempt::new("io_uring", "a ring at all", |_| Ring::new().map(drop))
                .evidence(Evidence::Hold),
        ],
    ]
    .concat()
}

fn ring_socket(family: i32, kind: i32) -> io::Result<std::os::fd::OwnedFd> {
    let fd = Ring::new()?.run(&Request {
        operation: SOCKET,
        fd: family,
        offset: u64::try_from(kind).unwrap(),
        length: Some(0),
        ..Request::default()
    })?;
    Ok(owned(fd.into()))
}

fn connect(c: &Context) -> io::Result<()> {
    let socket = c.socket(libc::SOCK_STREAM, 0)?;
    let to = address(c.to());
    Ring::new()?
        .run(&Request {
            operation: CONNECT,
            fd: socket.as_raw_fd(),
            offset: to.len() as u64,
            octets: &to,
            length: Some(0),
            ..Request::default()
        })
        .map(drop)
}

fn send(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    crate::sys::connect(&socket, &address(c.to()))?;
    Ring::new()?
        .run(&Request {
            operation: SEND,
            fd: socket.as_raw_fd(),
            octets: &c.payload(),
            ..Request::default()
        })
        .map(drop)
}

/// By way of a connection that the ring itself makes of the socket.
fn send_to(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    let ring = Ring::new()?;
    let to = address(c.to());
    ring.run(&Request {
        operation: CONNECT,
        fd: socket.as_raw_fd(),
        offset: to.len() as u64,
        octets: &to,
        length: Some(0),
        ..Request::default()
    })?;
    ring.run(&Request {
        operation: SEND,
        fd: socket.as_raw_fd(),
        octets: &c.payload(),
        ..Request::default()
    })
    .map(drop)
}

fn whole(c: &Context) -> io::Result<()> {
    let socket = ring_socket(c.domain(), libc::SOCK_DGRAM)?;
    crate::sys::connect(&socket, &address(c.to()))?;
    Ring::new()?
        .run(&Request {
            operation: SEND,
            fd: socket.as_raw_fd(),
            octets: &c.payload(),
            ..Request::default()
        })
        .map(drop)
}
