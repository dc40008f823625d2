//! Does the command's own port accept connections? What `check --tcp` adds for a health check.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};
use thiserror::Error;

/// How long each family is waited for. Loopback answers at once, unless the queue of the listening
/// socket is full.
const PATIENCE: Duration = Duration::from_millis(500);

/// No listening socket on loopback, in either family.
#[derive(Debug, Error)]
#[error("port {port} accepts no connection: 127.0.0.1: {ipv4}, ::1: {ipv6}")]
pub struct Closed {
    port: u16,
    ipv4: io::Error,
    ipv6: io::Error,
}

impl Closed {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(format!(
            "let the command listen on port {} of every address, or of loopback",
            self.port
        ))
    }
}

/// Connects to `port` on loopback, in IPv4 or else in IPv6, for a second at most in all. The
/// connection is closed again without a word.
pub fn accepts(port: u16) -> Result<(), Closed> {
    let connect = |address: SocketAddr| TcpStream::connect_timeout(&address, PATIENCE);
    let Err(ipv4) = connect((Ipv4Addr::LOCALHOST, port).into()) else {
        return Ok(());
    };
    let Err(ipv6) = connect((Ipv6Addr::LOCALHOST, port).into()) else {
        return Ok(());
    };
    Err(Closed { port, ipv4, ipv6 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{net::TcpListener, time::Instant};

    #[test]
    fn a_listener_on_either_loopback_address_is_enough() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            accepts(port).unwrap();
            drop(listener);
            let error = accepts(port).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("port {port} accepts")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_does_not_answer_is_not_waited_for_long() {
        // One place in the queue, and it is taken.
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let any = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0);
        nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &any).unwrap();
        let backlog = nix::sys::socket::Backlog::new(0).unwrap();
        nix::sys::socket::listen(&socket, backlog).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let _queued = TcpStream::connect(address).unwrap();
        let began = Instant::now();
        accepts(address.port()).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
