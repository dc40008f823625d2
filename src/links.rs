//! Links, addresses and routes over rtnetlink: what the namespace is connected to.
//!
//! The rules do not depend on any of it (I6); it makes loopback work where nobody brought it up,
//! and makes a failed resolution explain itself.

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use thiserror::Error;

/// The index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// How long the kernel may take for one request, which it answers at once. An answer that was lost
/// for want of memory (netlink(7), `ENOBUFS`) never comes.
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
    Request(&'static str, #[source] Box<rtnetlink::Error>),
}

impl LinksError {
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
pub async fn list() -> Result<Links, LinksError> {
    with_handle(async |handle| {
        let failed = |error| LinksError::Request("read the links", Box::new(error));
        // Nobody asks how many packets each has seen, which is most of what there is to say.
        let request = handle.link().get();
        let mut links = request
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
            .execute();
        let mut found = Links::default();
        while let Some(link) = links.try_next().await.map_err(failed)? {
            found.loopback_is_up |= link.header.index == LOOPBACK && is_up(&link);
            found.bridges.extend(bridge_name(&link));
        }
        Ok(found)
    })
    .await
}

/// Brings loopback up where it is down: local services are part of what may flow, and the kernel
/// delivers the answers of a rejecting rule through it.
pub async fn bring_loopback_up() -> Result<(), LinksError> {
    with_handle(async |handle| {
        let failed = |error| LinksError::Request("read the loopback interface", Box::new(error));
        let mut links = handle.link().get().match_index(LOOPBACK).execute();
        let Some(link) = links.try_next().await.map_err(failed)? else {
            return Ok(());
        };
        if is_up(&link) {
            return Ok(());
        }
        let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
        let failed =
            |error| LinksError::Request("bring the loopback interface up", Box::new(error));
        handle.link().set(up).execute().await.map_err(failed)
    })
    .await
}

/// Says what the namespace is connected to.
pub async fn connectivity() -> Result<Connectivity, LinksError> {
    with_handle(async |handle| {
        let ipv4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        Ok(Connectivity {
            ipv4: routed(handle, ipv4).await?,
            ipv6: routed(handle, ipv6).await?,
        })
    })
    .await
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

/// The name of the link if it is a bridge.
fn bridge_name(link: &LinkMessage) -> Option<String> {
    let is_bridge = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    });
    let name = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
    name.filter(|_| is_bridge)
}

async fn with_handle<T>(
    job: impl AsyncFnOnce(&Handle) -> Result<T, LinksError>,
) -> Result<T, LinksError> {
    let (connection, handle, _) = new_connection().map_err(LinksError::Open)?;
    let connection = tokio::spawn(connection);
    let result = tokio::time::timeout(DEADLINE, job(&handle)).await;
    connection.abort();
    result.unwrap_or(Err(LinksError::NoAnswer))
}

async fn routed(handle: &Handle, family: RouteMessage) -> Result<bool, LinksError> {
    let failed = |error| LinksError::Request("read the routes", Box::new(error));
    let mut routes = handle.route().get(family).execute();
    let mut found = false;
    while let Some(route) = routes.try_next().await.map_err(failed)? {
        found |= route.header.kind == RouteType::Unicast && !route.attributes.iter().any(stays);
    }
    Ok(found)
}

/// Whether an attribute says that a route goes no further than this host or this link.
fn stays(attribute: &RouteAttribute) -> bool {
    match attribute {
        RouteAttribute::Oif(index) => *index == LOOPBACK,
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
            address.is_unicast_link_local()
        }
        _ => false,
    }
}
