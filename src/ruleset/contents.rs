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

macro_rules! numbered {
    ($base:literal: $($number:literal)*) => { [$(concat!($base, $number)),*] };
}

/// Networks of one prefix length, by that.
const ALLOW4_OF_LENGTH: [&str; 32] = numbered!("allow4_": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
    16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
const ALLOW6_OF_LENGTH: [&str; 128] = numbered!("allow6_": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
    16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47
    48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79
    80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108
    109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127);

/// From so many on, the networks of one prefix length have a hash table of their own. In a set of
/// intervals a lookup and an insertion take longer the more it holds, and a rule with a hash table
/// takes as long as some thousand of its elements.
const MANY: usize = if cfg!(fuzzing) { 2 } else { 4096 };

pub(super) const INBOUND: [(Family, &str); 2] = [(Family::V4, INBOUND4), (Family::V6, INBOUND6)];

pub(super) const NAMESERVERS: [(Family, &str); 2] =
    [(Family::V4, NAMESERVERS4), (Family::V6, NAMESERVERS6)];

pub(super) const LOCAL_SERVERS: [(Family, &str); 2] =
    [(Family::V4, LOCAL_SERVERS4), (Family::V6, LOCAL_SERVERS6)];

/// A family and a prefix length of it.
pub(super) type Length = (Family, u8);

/// The prefix lengths of which a policy allows many networks with single ports.
pub(super) fn frequent_lengths(policy: &Policy) -> Vec<Length> {
    if policy.allow.len() < MANY {
        return Vec::new();
    }
    let mut counts = Family::ALL.map(|family| (family, [0; 128]));
    for (family, length) in policy.allow.iter().filter_map(length_of) {
        counts[usize::from(family == Family::V6)].1[usize::from(length)] += 1;
    }
    let lengths = counts.iter().flat_map(|(family, counts)| {
        let counts = (0..).zip(counts);
        counts.filter_map(|(length, &count)| (count >= MANY).then_some((*family, length)))
    });
    lengths.collect()
}

/// That of a network with a single port.
fn length_of(element: &Element) -> Option<Length> {
    let family = Family::of(element.network.addr());
    (!element.is_host() && element.service.ports.is_single())
        .then(|| (family, element.network.prefix_len()))
}

/// The set for the networks of a prefix length.
pub(super) fn set_of_length((family, length): Length) -> &'static str {
    match family {
        Family::V4 => ALLOW4_OF_LENGTH[usize::from(length)],
        Family::V6 => ALLOW6_OF_LENGTH[usize::from(length)],
    }
}

/// Single addresses with single ports go to hash tables, where a lookup takes as long however many
/// there are, and so do networks of a frequent length, by their first address; other networks and
/// port ranges need interval sets. What `stays` as it is needs no room for more.
pub(super) fn policy_sets(policy: &Policy, frequent: &[Length], stays: bool) -> Vec<Set> {
    let mut sets: Vec<Set> = [
        (ALLOW4, Key::Service(Family::V4)),
        (ALLOW4_RANGES, Key::ServiceRange(Family::V4)),
        (ALLOW6, Key::Service(Family::V6)),
        (ALLOW6_RANGES, Key::ServiceRange(Family::V6)),
    ]
    .into_iter()
    .chain(
        frequent
            .iter()
            .map(|length| (set_of_length(*length), Key::Service(length.0))),
    )
    .map(|(name, key)| Set {
        name,
        key,
        size: None,
        elements: Elements::Services(Vec::new()),
    })
    .collect();
    for element in &policy.allow {
        let length = length_of(element);
        let by_length = frequent
            .iter()
            .position(|frequent| length == Some(*frequent));
        let family = if element.network.addr().is_ipv4() {
            0
        } else {
            2
        };
        let (index, element) = match by_length {
            Some(index) => (4 + index, by_first_address(element)),
            None => (family + usize::from(!is_single(element)), *element),
        };
        if let Elements::Services(held) = &mut sets[index].elements {
            held.push(element);
        }
    }
    for set in &mut sets {
        let count = set.elements.len();
        if stays && !set.key.is_interval() && count >= MANY {
            set.size = u32::try_from(count).ok();
        }
    }
    for (name, family, elements) in [
        (DENY4, Family::V4, &policy.deny),
        (DENY6, Family::V6, &policy.deny),
        (INBOUND4, Family::V4, &policy.inbound),
        (INBOUND6, Family::V6, &policy.inbound),
    ] {
        let of_family = |element: &&Element| Family::of(element.network.addr()) == family;
        sets.push(Set {
            name,
            key: Key::ServiceRange(family),
            size: None,
            elements: Elements::Services(elements.iter().filter(of_family).copied().collect()),
        });
    }
    sets
}

/// As a set of one length holds a network.
fn by_first_address(element: &Element) -> Element {
    Element {
        network: element.network.network().into(),
        ..*element
    }
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
            size: None,
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
            size: None,
            elements: Elements::Services(services),
        }
    })
    .into()
}
