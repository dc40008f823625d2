//! Links, addresses and routes over rtnetlink: what the namespace is connected to.
//!
//! The rules do not depend on any of it (I6); it makes loopback work where nobody brought it up,
//! and makes a failed resolution explain itself.

use crate::sys::{
    netlink::{Conversation, Failure, Socket},
    rtnetlink::{self, Link, Route},
};
use nix::sys::socket::SockProtocol;
use std::{io, net::IpAddr, time::Duration};
use thiserror::Error;

/// The index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// How long the kernel may take for one request, which it answers at once. An answer may be lost
/// for want of memory (netlink(7), `ENOBUFS`), and then never comes.
const DEADLINE: Duration = Duration::from_secs(5);

/// A failure to read or to change the links.
#[derive(Debug, Error)]
pub enum LinksError {
    /// No socket.
    #[error("could not open an rtnetlink socket")]
    Open(#[source] io::Error),
    /// No answer in time.
    #[error(
        "the kernel did not answer about the links within {}",
        humantime::format_duration(DEADLINE)
    )]
    NoAnswer,
    /// The request failed.
    #[error("could not {0}")]
    Request(&'static str, #[source] Failure),
}

impl LinksError {
    fn of(what: &'static str, failure: Failure) -> Self {
        match failure {
            Failure::Receive(error) if error.kind() == io::ErrorKind::WouldBlock => Self::NoAnswer,
            failure => Self::Request(what, failure),
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NoAnswer => {
                "start again; if it persists, report it with the version of the kernel".into()
            }
            Self::Open(_) | Self::Request(..) => {
                "run the container with --cap-add=NET_ADMIN".into()
            }
        })
    }
}

/// What a namespace is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connectivity {
    /// There is an IPv4 route to another host.
    pub ipv4: bool,
    /// The same for IPv6, link-local routes not counted.
    pub ipv6: bool,
}

/// What a list of the links showed; by default, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The names of the bridges: of interfaces that connect other namespaces through this one.
    pub bridges: Vec<String>,
    /// Loopback was there, and up.
    pub loopback_is_up: bool,
}

/// Lists the links.
pub fn list() -> Result<Links, LinksError> {
    let mut found = Links::default();
    for link in read(&mut kernel()?)? {
        found.loopback_is_up |= link.index == LOOPBACK && link.is_up;
        if link.kind.as_deref() == Some("bridge") {
            found.bridges.push(link.name);
        }
    }
    Ok(found)
}

fn read(kernel: &mut Conversation) -> Result<Vec<Link>, LinksError> {
    let links = kernel.ask(&rtnetlink::dump_links(), rtnetlink::parse_link);
    links.map_err(|failure| LinksError::of("read the links", failure))
}

/// Brings loopback up: local services are part of what may flow, and the kernel delivers the
/// answers of a rejecting rule through it.
pub fn bring_loopback_up() -> Result<(), LinksError> {
    let mut kernel = kernel()?;
    let is_down = |link: &Link| link.index == LOOPBACK && !link.is_up;
    if !read(&mut kernel)?.iter().any(is_down) {
        return Ok(());
    }
    let changed = kernel.change(&rtnetlink::bring_up(LOOPBACK));
    changed.map_err(|failure| LinksError::of("bring the loopback interface up", failure))
}

/// Says what the namespace is connected to.
pub fn connectivity() -> Result<Connectivity, LinksError> {
    let mut kernel = kernel()?;
    Ok(Connectivity {
        ipv4: is_routed(&mut kernel, libc::AF_INET)?,
        ipv6: is_routed(&mut kernel, libc::AF_INET6)?,
    })
}

fn kernel() -> Result<Conversation, LinksError> {
    let socket = Socket::open(SockProtocol::NetlinkRoute, DEADLINE);
    Ok(Conversation::new(socket.map_err(LinksError::Open)?))
}

fn is_routed(kernel: &mut Conversation, family: libc::c_int) -> Result<bool, LinksError> {
    let routes = kernel.ask(&rtnetlink::dump_routes(family), rtnetlink::parse_route);
    let routes = routes.map_err(|failure| LinksError::of("read the routes", failure))?;
    Ok(routes.iter().any(|route| !stays(route)))
}

/// Whether a route goes no further than this host or this link, or nowhere.
fn stays(route: &Route) -> bool {
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    route.kind != libc::RTN_UNICAST
        || route.output == Some(LOOPBACK)
        || route.destination.as_ref().is_some_and(is_link_local)
}
