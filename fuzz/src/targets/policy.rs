//! What a policy lets through, packet by packet, against the contract read word by word: the sets
//! are asked about each address and port where anything could change.

use crate::sample::Sample;
use egress_init::{
    allowlist::{Entry, Name, Target},
    policy::{self, Element, Origin},
    service::Protocol,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub fn run(data: &[u8]) {
    let Some(sample) = Sample::take(data) else {
        return;
    };
    let policy = &sample.decision.policy;
    for elements in [&policy.allow, &policy.deny, &policy.inbound] {
        are_disjoint(elements);
        assert_eq!(
            policy::disjoint(elements.iter().copied()),
            *elements,
            "merged twice"
        );
    }
    let inbound_ports: Vec<u16> = ports(sample.inbound.iter());
    let listed = sample.list.entries().iter();
    let listed_ports: BTreeSet<u16> = listed
        .flat_map(|entry| entry.services.iter())
        .flat_map(|service| around(service.ports.first(), service.ports.last()))
        .collect();
    for address in addresses(&sample) {
        for protocol in Protocol::ALL {
            for &port in &listed_ports {
                let ours = !any(&policy.deny, address, protocol, port)
                    && any(&policy.allow, address, protocol, port);
                let expected = may_flow(&sample, address, protocol, port);
                assert_eq!(
                    ours, expected,
                    "{address} {protocol} {port} of\n{}{:?}\nallow {:?}\ndeny {:?}",
                    sample.text, sample.answers, policy.allow, policy.deny
                );
            }
            for &port in &inbound_ports {
                let ours = any(&policy.inbound, address, protocol, port);
                assert_eq!(ours, any(&sample.inbound, address, protocol, port));
            }
        }
    }
    hosts(&sample, &listed_ports);
    for address in sample.answers.values().flatten() {
        let ours = policy::admissible(*address, Origin::Name).is_ok();
        assert_eq!(ours, may_come_in(*address), "{address}");
    }
}

/// Each name stands in /etc/hosts with the addresses that it opens at some port, and no others.
fn hosts(sample: &Sample, listed_ports: &BTreeSet<u16>) {
    let names: BTreeSet<&Name> = sample.answers.keys().collect();
    let mut expected = BTreeSet::new();
    for name in names {
        for &address in &sample.answers[name] {
            let opens = Protocol::ALL.iter().any(|&protocol| {
                let mut ports = listed_ports.iter();
                ports.any(|&port| is_opened_by(sample, name, address, protocol, port))
            });
            if opens {
                expected.insert((name.clone(), address));
            }
        }
    }
    let mut found = BTreeSet::new();
    for (name, addresses) in &sample.decision.hosts {
        assert!(!addresses.is_empty());
        for &address in addresses {
            assert!(
                found.insert((name.clone(), address)),
                "{name} {address} twice"
            );
        }
    }
    assert_eq!(found, expected, "{}{:?}", sample.text, sample.answers);
}

/// Whether this name, by itself, opens this service of an address of its.
fn is_opened_by(
    sample: &Sample,
    name: &Name,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
) -> bool {
    let mut open = false;
    for entry in sample.list.entries() {
        let has = entry
            .services
            .iter()
            .any(|s| s.protocol == protocol && s.ports.contains(port));
        let meant = match &entry.target {
            Target::Name(other) => other == name,
            Target::Wildcard(zone) => name.as_str().ends_with(&format!(".{zone}")),
            Target::Network(network) => entry.deny && network.contains(&address),
        };
        if has && meant {
            if entry.deny {
                return false;
            }
            open = true;
        }
    }
    open && may_come_in(address)
}

fn are_disjoint(elements: &[Element]) {
    for (index, one) in elements.iter().enumerate() {
        assert_eq!(one.network, one.network.trunc());
        for other in &elements[index + 1..] {
            assert!(one < other, "in order: {one}, {other}");
            let meet = one.network.contains(&other.network) || other.network.contains(&one.network);
            let (ours, theirs) = (one.service, other.service);
            let ports = ours.protocol == theirs.protocol
                && ours.ports.first() <= theirs.ports.last()
                && theirs.ports.first() <= ours.ports.last();
            assert!(!(meet && ports), "{one} overlaps {other}");
        }
    }
}

fn any(elements: &[Element], address: IpAddr, protocol: Protocol, port: u16) -> bool {
    elements.iter().any(|element| {
        element.network.contains(&address)
            && element.service.protocol == protocol
            && element.service.ports.contains(port)
    })
}

/// Where anything could change: the ends of each network, their neighbours, each answer.
fn addresses(sample: &Sample) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<IpAddr> = sample.answers.values().flatten().copied().collect();
    found.extend(sample.answers.values().flatten().map(IpAddr::to_canonical));
    let entries = sample.list.entries().iter();
    let networks = entries.filter_map(|entry| match entry.target {
        Target::Network(network) => Some(network),
        Target::Name(_) | Target::Wildcard(_) => None,
    });
    for network in networks.chain(sample.inbound.iter().map(|element| element.network)) {
        for end in [network.network(), network.broadcast()] {
            found.extend(
                [neighbour(end, -1), Some(end), neighbour(end, 1)]
                    .into_iter()
                    .flatten(),
            );
        }
    }
    found
}

fn neighbour(address: IpAddr, step: i8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add_signed(step.into())
            .map(|bits| Ipv4Addr::from(bits).into()),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add_signed(step.into())
            .map(|bits| Ipv6Addr::from(bits).into()),
    }
}

fn ports<'a>(elements: impl Iterator<Item = &'a Element>) -> Vec<u16> {
    elements
        .flat_map(|element| around(element.service.ports.first(), element.service.ports.last()))
        .collect()
}

fn around(first: u16, last: u16) -> [u16; 4] {
    [first.saturating_sub(1), first, last, last.saturating_add(1)]
}

/// Sections 5 and 6 of the contract, for one packet.
fn may_flow(sample: &Sample, address: IpAddr, protocol: Protocol, port: u16) -> bool {
    let entries = sample.list.entries();
    let has = |entry: &&Entry| {
        entry
            .services
            .iter()
            .any(|s| s.protocol == protocol && s.ports.contains(port))
    };
    let by_network = |deny: bool| {
        entries.iter().filter(has).any(|entry| {
            entry.deny == deny
                && matches!(&entry.target, Target::Network(network) if network.contains(&address))
        })
    };
    // `!` before an address or network always wins.
    if by_network(true) {
        return false;
    }
    let taken_off = |name: &str| {
        entries
            .iter()
            .filter(has)
            .filter(|entry| entry.deny)
            .any(|entry| match &entry.target {
                Target::Name(other) => other.as_str() == name,
                Target::Wildcard(zone) => name.ends_with(&format!(".{zone}")),
                Target::Network(_) => false,
            })
    };
    let answers_of = |entry: &Entry| match &entry.target {
        Target::Name(name) => sample.answers.get(name).cloned().unwrap_or_default(),
        Target::Wildcard(_) | Target::Network(_) => Vec::new(),
    };
    let by_name = may_come_in(address)
        && entries.iter().filter(has).any(|entry| {
            !entry.deny
                && answers_of(entry).contains(&address)
                && matches!(&entry.target, Target::Name(name) if !taken_off(name.as_str()))
        });
    // `!name` refuses its addresses where only a network entry allows them.
    let refused = entries.iter().filter(has).any(|entry| {
        entry.deny
            && answers_of(entry)
                .iter()
                .any(|one| one.to_canonical() == address)
    });
    by_name || (by_network(false) && !refused)
}

/// Section 5: addresses that an answer may never bring in, as ranges of numbers.
fn may_come_in(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            !(a == 0
                || a == 127
                || (a == 169 && b == 254)
                || (224..=239).contains(&a)
                || matches!(
                    [a, b, c, d],
                    [255, 255, 255, 255]
                        | [168, 63, 129, 16]
                        | [100, 100, 100, 200]
                        | [192, 0, 0, 192]
                ))
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let low = Ipv4Addr::from(u32::try_from(bits & 0xffff_ffff).unwrap());
            match bits >> 32 {
                // NAT64 and its stateless relative carry an IPv4 address.
                0x0064_ff9b_0000_0000_0000_0000 | 0xffff_0000 => return may_come_in(low.into()),
                // Mapped, compatible, unspecified, loopback.
                0xffff | 0 => return false,
                _ => {}
            }
            match bits >> 112 {
                0x2002 => {
                    let carried = u32::try_from(bits >> 80 & 0xffff_ffff).unwrap();
                    return may_come_in(Ipv4Addr::from(carried).into());
                }
                0x2001 if bits >> 96 == 0x2001_0000 => {
                    return may_come_in(Ipv4Addr::from(!low.to_bits()).into());
                }
                0xfe80..=0xfebf | 0xff00..=0xffff => return false,
                _ => {}
            }
            !(bits >> 96 == 0xfd00_0ec2
                || matches!(
                    v6.segments(),
                    [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
                        | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
                        | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
                        | [0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]
                ))
        }
    }
}
