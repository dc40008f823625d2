//! The union of any elements as pairwise disjoint ones, which is what a set of nftables holds.
//!
//! Networks of one family are nested or disjoint, never half and half. So it is enough that each
//! network gives up the services that a network around it already has.

use super::Element;
use crate::{allowlist::Services, service::Service};
use ipnet::IpNet;
use std::{iter, mem, net::IpAddr};

/// The union of `elements`, pairwise disjoint and sorted.
///
/// Adjacent ports become one range, and two halves of a network with the same services become that
/// network. Single addresses stay single: a set looks them up faster than networks.
pub fn disjoint(elements: impl IntoIterator<Item = Element>) -> Vec<Element> {
    let granted = elements.into_iter();
    united(granted.map(|element| (element.network, iter::once(element.service).collect())))
}

/// The same of services that are granted in networks.
pub(super) fn united(granted: impl IntoIterator<Item = (IpNet, Services)>) -> Vec<Element> {
    let granted = granted.into_iter();
    let mut granted: Vec<_> = granted
        .map(|(network, services)| (network.trunc(), services))
        .collect();
    granted.sort_unstable_by_key(order);
    let mut networks = joined(disjoint_networks(granted));
    // A merge of what is sorted by itself.
    networks.sort_by_key(order);
    networks
        .iter()
        .flat_map(|(network, services)| elements_of(*network, services))
        .collect()
}

/// One element for each of the services.
pub(super) fn elements_of(network: IpNet, services: &Services) -> impl Iterator<Item = Element> {
    let element = move |service| Element { network, service };
    services.iter().map(element)
}

/// The order of networks, as numbers.
fn order((network, _): &(IpNet, Services)) -> (u8, u128, u8) {
    (
        network.max_prefix_len(),
        bits(network.addr()),
        network.prefix_len(),
    )
}

/// An address as a number, which says nothing of its family.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether a network is a single address.
pub(super) fn is_host(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// Each network with the services that no network around it has. In sorted order a network comes
/// right after those around it, so a stack holds them.
fn disjoint_networks(sorted: Vec<(IpNet, Services)>) -> Vec<(IpNet, Services)> {
    let mut around: Vec<(IpNet, Services)> = Vec::new();
    let mut found = Vec::with_capacity(sorted.len());
    let mut sorted = sorted.into_iter().peekable();
    while let Some((network, mut services)) = sorted.next() {
        let mut more: Vec<Service> = Vec::new();
        while let Some((_, same)) = sorted.next_if(|(next, _)| *next == network) {
            more.extend(same.iter());
        }
        if !more.is_empty() {
            services = services.iter().chain(more).collect();
        }
        while around
            .pop_if(|(outer, _)| !outer.contains(&network))
            .is_some()
        {}
        let above = around.last().map(|(_, above)| above);
        let own = match above {
            Some(above) => services.without(above),
            None => services.clone(),
        };
        if own.is_empty() {
            continue;
        }
        // Nothing lies in an address.
        if !is_host(&network) {
            let covered = match above {
                Some(above) => services.union(above),
                None => services,
            };
            around.push((network, covered));
        }
        found.push((network, own));
    }
    found
}

/// Joins halves with the same services, the smallest networks first, so that four quarters become
/// one too. The result is sorted by length alone.
///
/// It keeps elements disjoint: what is nested in a half, or lies around both, has none of the
/// services that the half has.
fn joined(networks: Vec<(IpNet, Services)>) -> Vec<(IpNet, Services)> {
    let (mut all, wide): (Vec<_>, Vec<_>) = networks
        .into_iter()
        .partition(|(network, _)| is_host(network));
    if wide.is_empty() {
        return all;
    }
    // Each sorted: two halves come one after the other, for nothing of their length is between.
    let mut by_length: Vec<Vec<(IpNet, Services)>> = vec![Vec::new(); 129];
    for (network, services) in wide {
        by_length[usize::from(network.prefix_len())].push((network, services));
    }
    for length in (0..by_length.len()).rev() {
        let mut wholes = Vec::new();
        let mut halves = mem::take(&mut by_length[length]).into_iter().peekable();
        while let Some((half, services)) = halves.next() {
            let whole = half.supernet();
            let is_other_half = |(other, same): &(IpNet, Services)| {
                whole.is_some() && other.supernet() == whole && *same == services
            };
            match (halves.next_if(is_other_half), whole) {
                (Some(_), Some(whole)) => wholes.push((whole, services)),
                _ => all.push((half, services)),
            }
        }
        if wholes.is_empty() {
            continue;
        }
        let above = &mut by_length[length - 1];
        above.append(&mut wholes);
        above.sort_by_key(order);
        above.dedup_by(|(next, more), (network, services)| {
            let is_same = next == network;
            if is_same {
                *services = services.union(more);
            }
            is_same
        });
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::service::{PortRange, Protocol, Service};
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn element(network: &str, first: u16, last: u16) -> Element {
        Element {
            network: network.parse().unwrap(),
            service: Service {
                protocol: Protocol::Tcp,
                ports: PortRange::new(first, last).unwrap(),
            },
        }
    }

    #[test]
    fn a_nested_network_keeps_what_is_its_own() {
        assert_eq!(
            disjoint([
                element("10.1.0.0/16", 80, 90),
                element("10.0.0.0/8", 85, 85),
                element("10.1.2.3/32", 80, 443),
                element("11.0.0.0/8", 80, 80),
            ]),
            [
                element("10.0.0.0/8", 85, 85),
                element("10.1.0.0/16", 80, 84),
                element("10.1.0.0/16", 86, 90),
                element("10.1.2.3/32", 91, 443),
                element("11.0.0.0/8", 80, 80),
            ]
        );
    }

    #[test]
    fn halves_become_one_and_addresses_do_not() {
        assert_eq!(
            disjoint([
                element("10.0.0.0/26", 80, 80),
                element("10.0.0.64/26", 80, 80),
                element("10.0.0.128/26", 80, 80),
                element("10.0.0.192/26", 80, 80),
                element("10.0.1.0/24", 80, 80),
                element("10.0.2.0/24", 80, 80),
                element("10.0.3.0/24", 80, 81),
                element("192.0.2.0/32", 80, 80),
                element("192.0.2.1/32", 80, 80),
            ]),
            [
                element("10.0.0.0/23", 80, 80),
                element("10.0.2.0/24", 80, 80),
                element("10.0.3.0/24", 80, 81),
                element("192.0.2.0/32", 80, 80),
                element("192.0.2.1/32", 80, 80),
            ]
        );
        assert_eq!(
            disjoint([
                element("0.0.0.0/1", 1, 2),
                element("128.0.0.0/1", 1, 2),
                element("::/1", 1, 2)
            ]),
            [element("0.0.0.0/0", 1, 2), element("::/1", 1, 2)]
        );
    }

    #[test]
    fn adjacent_ports_become_a_range_and_host_bits_go() {
        assert_eq!(
            disjoint([
                element("10.0.0.1/8", 80, 80),
                element("10.0.0.2/8", 81, 90),
                element("10.9.9.9/8", 92, u16::MAX),
            ]),
            [
                element("10.0.0.0/8", 80, 90),
                element("10.0.0.0/8", 92, u16::MAX)
            ]
        );
    }

    #[test]
    fn a_hundred_thousand_networks_take_no_quadratic_time() {
        let elements = (0..100_000_u32).flat_map(|index| {
            let address = Ipv4Addr::from(0x0a00_0000 + index * 32);
            let network = IpNet::new(address.into(), 28).unwrap();
            [80, 443].map(|port| Element {
                network,
                service: Service {
                    protocol: Protocol::Tcp,
                    ports: PortRange::single(port),
                },
            })
        });
        let started = std::time::Instant::now();
        assert_eq!(disjoint(elements).len(), 200_000);
        // A debug build on a busy machine; quadratic would be minutes.
        assert!(started.elapsed().as_secs() < 10);
    }

    fn any_element() -> impl Strategy<Value = Element> {
        let network = (any::<bool>(), 0_u8..16, 0_u8..=4).prop_map(|(v4, low, length)| {
            let (address, base) = if v4 {
                (IpAddr::from([10, 0, 0, low]), 28)
            } else {
                (
                    Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low)).into(),
                    124,
                )
            };
            IpNet::new(address, base + length).unwrap()
        });
        (network, any::<bool>(), 0_u16..6, 0_u16..3).prop_map(|(network, udp, first, more)| {
            Element {
                network,
                service: Service {
                    protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                    ports: PortRange::new(first, first + more).unwrap(),
                },
            }
        })
    }

    fn count(elements: &[Element], address: IpAddr, protocol: Protocol, port: u16) -> usize {
        let holds = |element: &&Element| {
            element.network.contains(&address)
                && element.service.protocol == protocol
                && element.service.ports.contains(port)
        };
        elements.iter().filter(holds).count()
    }

    proptest! {
        // Each point that any element holds is held by exactly one, and no other point by any.
        #[test]
        fn agrees_with_membership_and_is_disjoint(elements in prop::collection::vec(any_element(), 0..40)) {
            let merged = disjoint(elements.iter().copied());
            prop_assert!(merged.is_sorted());
            for low in 0..20_u8 {
                let v6 = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low));
                for address in [IpAddr::from([10, 0, 0, low]), v6.into()] {
                    for protocol in Protocol::ALL {
                        for port in 0..10 {
                            let expected = usize::from(count(&elements, address, protocol, port) > 0);
                            prop_assert_eq!(count(&merged, address, protocol, port), expected);
                        }
                    }
                }
            }
            // Nothing more to merge, and single addresses came from single addresses.
            prop_assert_eq!(disjoint(merged.iter().copied()), merged.clone());
            for element in &merged {
                let length = element.network.prefix_len();
                let wide = element.network.max_prefix_len() > length;
                let source = |other: &Element| other.network.prefix_len() < other.network.max_prefix_len()
                    && element.network.contains(&other.network.addr());
                prop_assert!(!wide || elements.iter().any(source));
            }
        }
    }
}
