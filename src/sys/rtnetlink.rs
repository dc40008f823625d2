//! Links and routes as rtnetlink has them (rtnetlink(7)): the messages that ask for them and what
//! the kernel answers, as values.
//!
//! A start asks for the links before it locks, whatever it is given to do. The crate of this name,
//! with a task for the connection and a value for each of some hundred attributes, takes a
//! fifteenth of that start; it is the second opinion of the tests.

#![deny(unsafe_code)]

use super::netlink::{
    Message,
    attribute::{Writer, attributes, body},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// The length of `struct rtmsg`.
const ROUTE_HEADER: usize = 12;

// Of include/uapi/linux/if_link.h and include/uapi/linux/rtnetlink.h.
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const UP: u32 = libc::IFF_UP.cast_unsigned();

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it, if anything did: `veth`, `bridge`.
    pub kind: Option<String>,
    /// It is up (`IFF_UP`), connected or not.
    pub is_up: bool,
}

/// A route, as far as it says where packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `RTN_*`.
    pub kind: u8,
    /// The interface that packets leave by, where it is one.
    pub output: Option<u32>,
    /// The network; none for all.
    pub destination: Option<IpAddr>,
}

/// Asks for all links. Nobody asks how many packets each has seen, which is most of what there is
/// to say.
#[must_use]
pub fn dump_links() -> Message {
    let mut message = Writer::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK_HEADER]);
    let mask = RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
    message.octets(libc::IFLA_EXT_MASK, &mask);
    message.finish()
}

/// Brings a link up.
#[must_use]
pub fn bring_up(index: u32) -> Message {
    let mut fixed = [0; LINK_HEADER];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    // The flags, and which of them are meant.
    fixed[8..12].copy_from_slice(&UP.to_ne_bytes());
    fixed[12..16].copy_from_slice(&UP.to_ne_bytes());
    Writer::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &fixed).finish()
}

/// Asks for the routes of a family (`AF_INET`, `AF_INET6`), of all tables.
#[must_use]
pub fn dump_routes(family: libc::c_int) -> Message {
    let mut fixed = [0; ROUTE_HEADER];
    fixed[0] = u8::try_from(family).unwrap_or_default();
    Writer::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &fixed).finish()
}

/// A link, from an answer to [`dump_links`].
#[must_use]
pub fn parse_link(message: &[u8]) -> Option<Link> {
    let (fixed, list) = body(message)?.split_at_checked(LINK_HEADER)?;
    let mut link = Link {
        index: u32_of(fixed.get(4..8)?)?,
        is_up: u32_of(fixed.get(8..12)?)? & UP != 0,
        ..Link::default()
    };
    for attribute in attributes(list) {
        match attribute? {
            (libc::IFLA_IFNAME, name) => link.name = text(name),
            (libc::IFLA_LINKINFO, info) => {
                for attribute in attributes(info) {
                    if let (IFLA_INFO_KIND, kind) = attribute? {
                        link.kind = Some(text(kind));
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// A route, from an answer to [`dump_routes`].
#[must_use]
pub fn parse_route(message: &[u8]) -> Option<Route> {
    let (fixed, list) = body(message)?.split_at_checked(ROUTE_HEADER)?;
    let mut route = Route {
        kind: *fixed.get(7)?,
        output: None,
        destination: None,
    };
    for attribute in attributes(list) {
        match attribute? {
            (libc::RTA_OIF, index) => route.output = Some(u32_of(index)?),
            (libc::RTA_DST, address) => route.destination = address_of(address),
            _ => {}
        }
    }
    Some(route)
}

/// Numbers are in the order of the machine.
fn u32_of(octets: &[u8]) -> Option<u32> {
    octets.try_into().ok().map(u32::from_ne_bytes)
}

/// Of an interface, any octets but a slash; without its end.
fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets.strip_suffix(b"\0").unwrap_or(octets)).into_owned()
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from);
    let v6 = || <[u8; 16]>::try_from(octets).ok().map(Ipv6Addr::from);
    v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sys::netlink::{Conversation, Socket};
    use futures_util::TryStreamExt as _;
    use nix::sys::socket::SockProtocol;
    use rtnetlink::{
        Handle, RouteMessageBuilder, new_connection,
        packet_route::{
            link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
            route::{RouteAddress, RouteAttribute, RouteMessage},
        },
    };
    use std::time::Duration;

    fn kernel() -> Conversation {
        let deadline = Duration::from_secs(5);
        Conversation::new(Socket::open(SockProtocol::NetlinkRoute, deadline).unwrap())
    }

    /// What the crate reads, of the same namespace.
    fn with_the_crate<T>(ask: impl AsyncFnOnce(&Handle) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let (connection, handle, _) = new_connection().unwrap();
            tokio::spawn(connection);
            ask(&handle).await
        })
    }

    fn link_of(message: &LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            is_up: message.header.flags.contains(LinkFlags::Up),
            ..Link::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = Some(kind.to_string());
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }

    fn route_of(message: &RouteMessage) -> Route {
        let mut route = Route {
            kind: message.header.kind.into(),
            output: None,
            destination: None,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.output = Some(*index),
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    route.destination = Some((*address).into());
                }
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                    route.destination = Some((*address).into());
                }
                _ => {}
            }
        }
        route
    }

    #[test]
    fn links_are_those_that_the_crate_reads() {
        let links = kernel().ask(&dump_links(), parse_link).unwrap();
        let theirs: Vec<LinkMessage> = with_the_crate(async |handle| {
            let links = handle.link().get().execute();
            links.try_collect().await.unwrap()
        });
        assert_eq!(links, theirs.iter().map(link_of).collect::<Vec<_>>());
        let loopback = links.iter().find(|link| link.index == 1).unwrap();
        assert_eq!((&*loopback.name, &loopback.kind), ("lo", &None));
    }

    #[test]
    fn routes_are_those_that_the_crate_reads() {
        for (family, request) in [
            (
                libc::AF_INET,
                RouteMessageBuilder::<Ipv4Addr>::new().build(),
            ),
            (
                libc::AF_INET6,
                RouteMessageBuilder::<Ipv6Addr>::new().build(),
            ),
        ] {
            let routes = kernel().ask(&dump_routes(family), parse_route).unwrap();
            let theirs: Vec<RouteMessage> = with_the_crate(async |handle| {
                let routes = handle.route().get(request).execute();
                routes.try_collect().await.unwrap()
            });
            assert_eq!(routes, theirs.iter().map(route_of).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_broken_is_nothing() {
        let mut message = dump_links();
        assert!(parse_link(&message).is_some());
        // The attribute says that it is longer than what is there.
        let head = message.len() - 8;
        message[head] = 200;
        assert_eq!(parse_link(&message), None);
        for short in [16, 31] {
            message.truncate(short);
            message[0] = u8::try_from(short).unwrap();
            assert_eq!(parse_link(&message), None);
            assert_eq!(parse_route(&message[..16]), None);
        }
    }
}
