//! Proof by behaviour that the rules are live: a probe with an answer that nothing else gives.
//!
//! The ruleset rejects TCP to 192.0.2.1 port 1 (TEST-NET-1, RFC 5737) with ICMP protocol
//! unreachable before anything else, and UDP to `100::1` port 1 (discard-only, RFC 6666) with `ICMPv6`
//! "failed ingress/egress policy" (RFC 4443). Both addresses lead nowhere, so without the rules
//! there is silence, or some router's other answer. Any process can ask; no packet leaves.
//!
//! What counts as "no route" is decided here: neither family reaches its address, and no interface
//! but loopback has an IPv4 address. An interface without default route, as in an internal Docker
//! network, is asked directly, because its own network is a way out too.

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6,
    connect, getsockopt, recvmsg, send, setsockopt, socket, sockopt,
};
use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{fmt, io};
use thiserror::Error;

/// What a check may take in all (section 8 of the contract).
pub const DEADLINE: Duration = Duration::from_millis(250);

/// How long one answer is waited for. It comes from this kernel, in well under a millisecond, or
/// it was swallowed by the kernel's rate limit for ICMP (icmp(7)) and is asked for again.
const ATTEMPT: Duration = Duration::from_millis(25);

/// The family of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// TCP to 192.0.2.1 port 1.
    Ipv4,
    /// UDP to `100::1` port 1.
    Ipv6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// Nothing can leave this namespace but what the rules let out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// The rules answered, in this family.
    Answered(Family),
    /// There is no way out in either family, and so nothing to ask.
    NoRoute,
}

/// The rules did not answer.
#[derive(Debug, Error)]
pub enum Dead {
    /// No answer at all: the rules are gone, though a policy of drop may remain.
    #[error("the firewall's rules are not live: the {0} canary got no answer")]
    Silent(Family),
    /// Somebody accepted the connection.
    #[error("the firewall's rules are not live: the IPv4 canary reached 192.0.2.1 port 1")]
    Connected,
    /// Another error than the one agreed upon: other rules, or a router's answer.
    #[error("the firewall's rules are not live: the IPv4 canary got another answer")]
    OtherAnswer(#[source] io::Error),
    /// The same in IPv6.
    #[error(
        "the firewall's rules are not live: the IPv6 canary got another answer, ICMPv6 type {kind} \
         code {code}"
    )]
    OtherIcmp {
        /// The type of the message.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// The probe cannot be made.
    #[error("the {family} canary cannot be sent")]
    Failed {
        /// The family.
        family: Family,
        /// The reason.
        source: io::Error,
    },
}

impl Dead {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some("restart the container so that egress-init loads the rules again".to_owned())
    }
}

/// One probe's outcome where it is no failure.
enum Outcome {
    Live,
    NoRoute,
}

/// Asks the rules in IPv4, or else in IPv6, for at most `within` in all.
pub fn probe(within: Duration) -> Result<Alive, Dead> {
    let until = Instant::now() + within;
    if let Outcome::Live = ask(Family::Ipv4, until, || tcp(None, until))? {
        return Ok(Alive::Answered(Family::Ipv4));
    }
    if let Outcome::Live = ask(Family::Ipv6, until, || udp(until))? {
        return Ok(Alive::Answered(Family::Ipv6));
    }
    for interface in interfaces_with_ipv4() {
        if let Outcome::Live = ask(Family::Ipv4, until, || tcp(Some(&interface), until))? {
            return Ok(Alive::Answered(Family::Ipv4));
        }
    }
    Ok(Alive::NoRoute)
}

/// Asks the rules in IPv6 alone: whether they answered, or there is no route.
pub fn answers_over_ipv6(within: Duration) -> Result<bool, Dead> {
    let until = Instant::now() + within;
    let outcome = ask(Family::Ipv6, until, || udp(until))?;
    Ok(matches!(outcome, Outcome::Live))
}

/// Repeats `attempt`, which makes a fresh socket each time, until one is answered. `None` means
/// not yet.
fn ask(
    family: Family,
    until: Instant,
    attempt: impl Fn() -> Result<Option<Outcome>, Dead>,
) -> Result<Outcome, Dead> {
    loop {
        if let Some(outcome) = attempt()? {
            return Ok(outcome);
        }
        if Instant::now() >= until {
            return Err(Dead::Silent(family));
        }
    }
}

/// An unprivileged process sees ICMP protocol unreachable as ENOPROTOOPT (icmp(7)). With an
/// interface, the packet goes out there whatever the routes say: to the kernel, what has no route
/// is then on the link.
fn tcp(interface: Option<&OsString>, until: Instant) -> Result<Option<Outcome>, Dead> {
    let failed = |errno: Errno| Dead::Failed {
        family: Family::Ipv4,
        source: errno.into(),
    };
    let Some(socket) = open(AddressFamily::Inet, SockType::Stream).map_err(failed)? else {
        return Ok(Some(Outcome::NoRoute));
    };
    if let Some(interface) = interface {
        match setsockopt(&socket, sockopt::BindToDevice, interface) {
            // Before Linux 5.7 it takes a capability; then the interface stays unasked.
            Err(Errno::EPERM | Errno::ENODEV) => return Ok(Some(Outcome::NoRoute)),
            result => result.map_err(failed)?,
        }
    }
    match connect(socket.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 1, 1)) {
        Err(Errno::EINPROGRESS) => {}
        Err(errno) if is_no_route(errno) => return Ok(Some(Outcome::NoRoute)),
        Err(errno) => return answered(errno).map(Some),
        Ok(()) => return Err(Dead::Connected),
    }
    if !wait(&socket, PollFlags::POLLOUT, until).map_err(failed)? {
        return Ok(None);
    }
    match getsockopt(&socket, sockopt::SocketError).map_err(failed)? {
        0 => Err(Dead::Connected),
        errno => answered(Errno::from_raw(errno)).map(Some),
    }
}

fn answered(errno: Errno) -> Result<Outcome, Dead> {
    match errno {
        Errno::ENOPROTOOPT => Ok(Outcome::Live),
        errno => Err(Dead::OtherAnswer(errno.into())),
    }
}

/// An error of a UDP socket does not tell the code of an `ICMPv6` message; its error queue does
/// (`IPV6_RECVERR` in ipv6(7)).
fn udp(until: Instant) -> Result<Option<Outcome>, Dead> {
    let failed = |errno: Errno| Dead::Failed {
        family: Family::Ipv6,
        source: errno.into(),
    };
    let Some(socket) = open(AddressFamily::Inet6, SockType::Datagram).map_err(failed)? else {
        return Ok(Some(Outcome::NoRoute));
    };
    setsockopt(&socket, sockopt::Ipv6RecvErr, &true).map_err(failed)?;
    let address = SocketAddrV6::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1), 1, 0, 0);
    let sent = connect(socket.as_raw_fd(), &SockaddrIn6::from(address))
        .and_then(|()| send(socket.as_raw_fd(), b"?", MsgFlags::empty()).map(drop));
    match sent {
        // EPERM is what a packet that the output hook rejects looks like to its sender.
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) if is_no_route(errno) => return Ok(Some(Outcome::NoRoute)),
        Err(errno) => return Err(failed(errno)),
    }
    if !wait(&socket, PollFlags::empty(), until).map_err(failed)? {
        return Ok(None);
    }
    let mut control = nix::cmsg_space!(nix::libc::sock_extended_err, nix::libc::sockaddr_in6);
    let message = recvmsg::<SockaddrIn6>(
        socket.as_raw_fd(),
        &mut [],
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE,
    )
    .map_err(failed)?;
    for control in message.cmsgs().map_err(failed)? {
        if let ControlMessageOwned::Ipv6RecvErr(error, _) = control
            && error.ee_origin == libc::SO_EE_ORIGIN_ICMP6
        {
            // Destination unreachable, source address failed ingress/egress policy.
            return match (error.ee_type, error.ee_code) {
                (1, 5) => Ok(Some(Outcome::Live)),
                (kind, code) => Err(Dead::OtherIcmp { kind, code }),
            };
        }
    }
    Ok(None)
}

/// A socket that does not block, or nothing where the kernel is without the family.
fn open(family: AddressFamily, kind: SockType) -> Result<Option<OwnedFd>, Errno> {
    match socket(
        family,
        kind,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    ) {
        Err(Errno::EAFNOSUPPORT) => Ok(None),
        result => result.map(Some),
    }
}

/// What connect(2) says at once where no route leads to the address, or none from an address of
/// this host. The same numbers later on are a router's answer.
fn is_no_route(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL
    )
}

/// Whether the socket has an event, errors included, within one attempt and before `until`.
fn wait(socket: &OwnedFd, events: PollFlags, until: Instant) -> Result<bool, Errno> {
    let until = until.min(Instant::now() + ATTEMPT);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(socket.as_fd(), events)], timeout) {
            Err(Errno::EINTR) => {}
            result => return result.map(|ready| ready > 0),
        }
    }
}

/// Interfaces that are up, are no loopback, and have an IPv4 address.
fn interfaces_with_ipv4() -> Vec<OsString> {
    let Ok(addresses) = getifaddrs() else {
        return Vec::new();
    };
    let mut interfaces: Vec<OsString> = addresses
        .filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP))
        .filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter(|entry| {
            entry
                .address
                .as_ref()
                .is_some_and(|address| address.as_sockaddr_in().is_some())
        })
        .map(|entry| entry.interface_name.into())
        .collect();
    interfaces.dedup();
    interfaces
}
