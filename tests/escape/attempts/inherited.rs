//! Sockets from before the start, inherited or passed, and descriptors that were left open.

use std::{
    fs,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

use super::{Attempt, Context, Heirloom, address, connect_and_send, families};
use crate::{stage::GO, sys as calls};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, heirloom, body| {
        Attempt::new("inherited", name, body)
            .own(heirloom)
            .both()
            .to_vec()
    };
    [
        attempt(
            "a connection from before the start, as standard input",
            Heirloom::Connection,
            |c| {
                when_told(c)?;
                through(c, 0)
            },
        ),
        attempt(
            "a UDP flow from before the start, as standard input",
            Heirloom::Datagrams,
            |c| {
                when_told(c)?;
                through(c, 0)
            },
        ),
        attempt(
            "a socket from before the start that connects now",
            Heirloom::Unconnected,
            |c| {
                when_told(c)?;
                connect_and_send(calls::inherited(0)?, &address(c.to()), &c.payload())
            },
        ),
        attempt(
            "sockets that a neighbour passes over a Unix socket",
            Heirloom::Neighbour,
            passed,
        ),
        vec![
            Attempt::new("inherited", "a packet socket left open", leaked)
                .own(Heirloom::PacketSocket),
        ],
    ]
    .concat()
}

/// Waits until the start is over and whoever plays with the rules has done so.
pub(super) fn when_told(c: &Context) -> io::Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        if fs::read_to_string(GO).is_ok_and(|token| token == c.token) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn through(c: &Context, fd: RawFd) -> io::Result<()> {
    let socket = calls::inherited(fd)?;
    let mut last = Ok(());
    for _ in 0..3 {
        last = calls::send(&socket, &c.payload(), 0, &[], &[]).map(drop);
        thread::sleep(Duration::from_millis(20));
    }
    last
}

fn passed(c: &Context) -> io::Result<()> {
    when_told(c)?;
    let socket = calls::inherited(0)?;
    let mut buffer = [0; 16];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let mut last = Err(io::Error::other("no descriptor came"));
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for fd in descriptors {
                let by_flow = through(c, fd);
                let socket = calls::inherited(fd)?;
                let by_address =
                    calls::send(&socket, &c.payload(), 0, &address(c.to()), &[]).map(drop);
                last = by_flow.or(by_address);
            }
        }
    }
    last
}

/// Whatever is open and takes a frame.
fn leaked(c: &Context) -> io::Result<()> {
    when_told(c)?;
    let mut last = Err(io::Error::other("no descriptor above 2"));
    for fd in 3..64 {
        if let Ok(socket) = calls::inherited(fd) {
            last = families::send_frame(&socket, c);
            if last.is_ok() {
                break;
            }
        }
    }
    last.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTSOCK) => io::Error::other("no socket above 2"),
        _ => error,
    })
}
