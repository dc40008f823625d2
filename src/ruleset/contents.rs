//! The sets of the table: their names, and what of a policy each holds.

use super::{Elements, Key, Set, set::Family};
use crate::{
    policy::{Element, Nameservers, Policy, Timed},
    service::{PortRange, Protocol, Service},
};
use ipnet::IpNet;
use std::net::SocketAddr;

pub(super) const ALLOW4: &str = "allow4";
pub(super) const ALLOW4_RANGES: &str = "allow4_ranges";
pub(super) const ALLOW6: &str = "allow6";
pub(super) const ALLOW6_RANGES: &str = "allow6_ranges";
pub(super) const NAMES4: &str = "names4";
pub(super) const NAMES4_RANGES: &str = "names4_ranges";
pub(super) const NAMES6: &str = "names6";
pub(super) const NAMES6_RANGES: &str = "names6_ranges";
pub(super) const PAST4: &str = "past4";
pub(super) const PAST4_RANGES: &str = "past4_ranges";
pub(super) const PAST6: &str = "past6";
pub(super) const PAST6_RANGES: &str = "past6_ranges";
pub(super) const DENY4: &str = "deny4";
pub(super) const DENY6: &str = "deny6";
pub(super) const INBOUND4: &str = "inbound4";
pub(super) const INBOUND6: &str = "inbound6";
pub(super) const NAMESERVERS4: &str = "nameservers4";
pub(super) const NAMESERVERS6: &str = "nameservers6";
pub(super) const LOCAL_SERVERS4: &str = "local_servers4";
pub(super) const LOCAL_SERVERS6: &str = "local_servers6";

/// Single services and ranges, each family.
pub(super) type ServiceSets = [(Family, &'static str); 4];

pub(super) const NAMES: ServiceSets = [
    (Family::V4, NAMES4),
    (Family::V4, NAMES4_RANGES),
    (Family::V6, NAMES6),
    (Family::V6, NAMES6_RANGES),
];

pub(super) const PAST: ServiceSets = [
    (Family::V4, PAST4),
    (Family::V4, PAST4_RANGES),
    (Family::V6, PAST6),
    (Family::V6, PAST6_RANGES),
];

pub(super) const ALLOWED: ServiceSets = [
    (Family::V4, ALLOW4),
    (Family::V4, ALLOW4_RANGES),
    (Family::V6, ALLOW6),
    (Family::V6, ALLOW6_RANGES),
];

pub(super) const INBOUND: [(Family, &str); 2] = [(Family::V4, INBOUND4), (Family::V6, INBOUND6)];

pub(super) const NAMESERVERS: [(Family, &str); 2] =
    [(Family::V4, NAMESERVERS4), (Family::V6, NAMESERVERS6)];

pub(super) const LOCAL_SERVERS: [(Family, &str); 2] =
    [(Family::V4, LOCAL_SERVERS4), (Family::V6, LOCAL_SERVERS6)];

/// Single addresses with single ports go to hash tables, which grow without growing slower;
/// networks and port ranges need interval sets.
pub(super) fn policy_sets(policy: &Policy) -> Vec<Set> {
    let (hosts, ranges): (Vec<&Element>, Vec<&Element>) =
        policy.allow.iter().partition(|element| is_single(element));
    let pick = |elements: &[&Element], family| -> Elements {
        Elements::Services(
            elements
                .iter()
                .filter(|element| Family::of(element.network.addr()) == family)
                .map(|element| **element)
                .collect(),
        )
    };
    let deny: Vec<&Element> = policy.deny.iter().collect();
    let inbound: Vec<&Element> = policy.inbound.iter().collect();
    [
        (ALLOW4, Key::Service(Family::V4), pick(&hosts, Family::V4)),
        (
            ALLOW4_RANGES,
            Key::ServiceRange(Family::V4),
            pick(&ranges, Family::V4),
        ),
        (ALLOW6, Key::Service(Family::V6), pick(&hosts, Family::V6)),
        (
            ALLOW6_RANGES,
            Key::ServiceRange(Family::V6),
            pick(&ranges, Family::V6),
        ),
        (
            DENY4,
            Key::ServiceRange(Family::V4),
            pick(&deny, Family::V4),
        ),
        (
            DENY6,
            Key::ServiceRange(Family::V6),
            pick(&deny, Family::V6),
        ),
        (
            INBOUND4,
            Key::ServiceRange(Family::V4),
            pick(&inbound, Family::V4),
        ),
        (
            INBOUND6,
            Key::ServiceRange(Family::V6),
            pick(&inbound, Family::V6),
        ),
    ]
    .map(|(name, key, elements)| Set {
        name,
        key,
        elements,
    })
    .into()
}

/// Which of the sets of names an element belongs to.
#[must_use]
pub fn names_set(element: &Element) -> (&'static str, Key) {
    of_sets(NAMES, element)
}

/// Which of the sets of what is denied an element belongs to.
#[must_use]
pub fn deny_set(element: &Element) -> (&'static str, Key) {
    let family = Family::of(element.network.addr());
    let name = match family {
        Family::V4 => DENY4,
        Family::V6 => DENY6,
    };
    (name, Key::ServiceRange(family))
}

/// Whether a set is filled when a list takes effect and not again: it may lack what came since.
#[must_use]
pub fn is_filled_once(set: &str) -> bool {
    PAST.iter().any(|(_, name)| *name == set)
}

/// Which of four an element belongs to.
fn of_sets(sets: ServiceSets, element: &Element) -> (&'static str, Key) {
    let [(_, v4), (_, v4_ranges), (_, v6), (_, v6_ranges)] = sets;
    let family = Family::of(element.network.addr());
    match (family, is_single(element)) {
        (Family::V4, true) => (v4, Key::Service(family)),
        (Family::V4, false) => (v4_ranges, Key::ServiceRange(family)),
        (Family::V6, true) => (v6, Key::Service(family)),
        (Family::V6, false) => (v6_ranges, Key::ServiceRange(family)),
    }
}

fn is_single(element: &Element) -> bool {
    element.is_host() && element.service.ports.is_single()
}

pub(super) fn timed_sets(sets: ServiceSets, timed: &[Timed]) -> Vec<Set> {
    let [v4, v4_ranges, v6, v6_ranges] = sets;
    [
        (v4, true),
        (v4_ranges, false),
        (v6, true),
        (v6_ranges, false),
    ]
    .map(|((family, name), single)| {
        let held = timed
            .iter()
            .filter(|timed| of_sets(sets, &timed.element).0 == name);
        Set {
            name,
            key: if single {
                Key::Service(family)
            } else {
                Key::ServiceRange(family)
            },
            elements: Elements::Timed(held.copied().collect()),
        }
    })
    .into()
}

pub(super) fn nameserver_sets(nameservers: &Nameservers) -> Vec<Set> {
    let servers: Vec<SocketAddr> = nameservers.servers.iter().copied().collect();
    server_sets(NAMESERVERS, &servers)
}

pub(super) fn local_server_sets(servers: &[SocketAddr]) -> Vec<Set> {
    server_sets(LOCAL_SERVERS, servers)
}

fn server_sets(sets: [(Family, &'static str); 2], servers: &[SocketAddr]) -> Vec<Set> {
    sets.map(|(family, name)| {
        let servers = servers
            .iter()
            .filter(|server| Family::of(server.ip()) == family);
        let services = servers.flat_map(|server| {
            Protocol::ALL.map(|protocol| Element {
                network: IpNet::from(server.ip()),
                service: Service {
                    protocol,
                    ports: PortRange::single(server.port()),
                },
            })
        });
        let mut services: Vec<Element> = services.collect();
        services.sort_unstable();
        services.dedup();
        Set {
            name,
            key: Key::Service(family),
            elements: Elements::Services(services),
        }
    })
    .into()
}
