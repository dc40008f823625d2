//! What has to be true of every ruleset, said without a kernel.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{build::*, set::*, *};
use crate::{
    policy::{Element, Nameservers, Policy},
    service::{PortRange, Protocol, Service},
};
use std::net::SocketAddr;

fn element(network: &str, port: u16) -> Element {
    Element {
        network: network.parse().unwrap(),
        service: Service {
            protocol: Protocol::Tcp,
            ports: PortRange::single(port),
        },
    }
}

fn policy() -> Policy {
    Policy {
        allow: vec![
            element("192.0.2.7/32", 443),
            element("198.51.100.0/24", 443),
            element("2001:db8::1/128", 443),
            element("2001:db8:1::/48", 443),
        ],
        deny: vec![element("198.51.100.9/32", 443)],
        inbound: vec![element("0.0.0.0/0", 8001)],
    }
}

fn nameservers() -> Nameservers {
    Nameservers {
        servers: [SocketAddr::from(([192, 0, 2, 53], 53))].into(),
        unknown: true,
    }
}

fn rules(ruleset: &Ruleset, chain: &str) -> Vec<String> {
    let chain = ruleset
        .chains
        .iter()
        .find(|found| found.name == chain)
        .unwrap();
    chain.rules.iter().map(ToString::to_string).collect()
}

fn position(rules: &[String], part: &str) -> usize {
    let found = rules.iter().position(|rule| rule.contains(part));
    found.unwrap_or_else(|| panic!("no rule with {part:?} in {rules:#?}"))
}

#[test]
fn every_base_chain_drops_and_what_leaves_is_refused_at_last() {
    for ruleset in [
        locked(None),
        locked(Some((&nameservers(), &[0]))),
        enforced(&policy(), None),
        enforced(&policy(), Some(&nameservers())),
    ] {
        let hooks: Vec<_> = ruleset.chains.iter().map(|chain| chain.hook).collect();
        assert_eq!(
            hooks,
            [
                None,
                Some(Hook::Output),
                Some(Hook::Input),
                Some(Hook::Forward)
            ]
        );
        assert_eq!(rules(&ruleset, "output").last().unwrap(), "goto refuse");
        assert!(rules(&ruleset, "forward").is_empty());
    }
}

#[test]
fn the_canary_comes_first_and_only_with_the_policy() {
    let rules = rules(&enforced(&policy(), None), "output");
    assert!(rules[0].ends_with("reject with icmp prot-unreachable"));
    assert!(rules[1].ends_with("reject with icmpv6 policy-fail"));
    assert!(!locked(None).to_string().contains("192.0.2.1"));
}

#[test]
fn pinned_closes_port_53_before_loopback_opens() {
    let rules = rules(&enforced(&policy(), None), "output");
    assert!(position(&rules, "proto-dst 53") < position(&rules, "oif \"lo\" accept"));
    assert!(!rules.iter().any(|rule| rule.contains("nameservers")));
}

#[test]
fn system_opens_port_53_to_the_nameservers_and_closes_the_rest() {
    let rules = rules(&enforced(&policy(), Some(&nameservers())), "output");
    let close = position(&rules, "proto-dst 53");
    assert!(position(&rules, "@nameservers4") < close);
    assert!(position(&rules, "meta skuid 0 udp dport 53") < close);
    assert!(close < position(&rules, "@allow4 "));
}

#[test]
fn hidden_destinations_are_refused_before_anything_is_accepted() {
    for ruleset in [
        locked(Some((&nameservers(), &[0]))),
        enforced(&policy(), None),
    ] {
        let rules = rules(&ruleset, "output");
        let first = position(&rules, " accept");
        assert!(position(&rules, "exthdr rt exists goto refuse") < first);
        assert!(position(&rules, "ip hdrlength != 5 goto refuse") < first);
    }
}

#[test]
fn what_is_denied_is_asked_first_in_both_directions() {
    let ruleset = enforced(&policy(), None);
    for chain in ["output", "input"] {
        let rules = rules(&ruleset, chain);
        assert!(position(&rules, "@deny4") < position(&rules, "@allow4 "));
        assert!(position(&rules, "@deny6") < position(&rules, "@allow6 "));
    }
}

#[test]
fn the_lock_lets_dns_through_for_the_listed_uids_only() {
    let open = rules(&locked(Some((&nameservers(), &[1000]))), "output");
    let to_servers: Vec<_> = open
        .iter()
        .filter(|rule| rule.contains("@nameservers"))
        .collect();
    assert_eq!(to_servers.len(), 2);
    assert!(
        to_servers
            .iter()
            .all(|rule| rule.starts_with("meta skuid 1000 "))
    );
    let closed = rules(&locked(None), "output");
    assert!(!closed.iter().any(|rule| rule.contains("skuid")));
    assert!(!closed.iter().any(|rule| rule.contains("ct mark")));
}

#[test]
fn single_services_and_ranges_are_kept_apart() {
    let ruleset = enforced(&policy(), None);
    let held = |name: &str| -> Vec<String> {
        let set = ruleset.sets.iter().find(|set| set.name == name).unwrap();
        match &set.elements {
            Elements::Services(elements) => elements.iter().map(ToString::to_string).collect(),
            Elements::IcmpTypes(_) => Vec::new(),
        }
    };
    assert_eq!(held("allow4"), ["192.0.2.7 . tcp . 443"]);
    assert_eq!(held("allow4_ranges"), ["198.51.100.0/24 . tcp . 443"]);
    assert_eq!(held("allow6"), ["2001:db8::1 . tcp . 443"]);
    assert_eq!(held("allow6_ranges"), ["2001:db8:1::/48 . tcp . 443"]);
    assert_eq!(held("deny4"), ["198.51.100.9 . tcp . 443"]);
    assert_eq!(held("inbound4"), ["0.0.0.0/0 . tcp . 8001"]);
}

#[test]
fn the_mark_is_the_policys() {
    let mark = |ruleset: &Ruleset| {
        let text = ruleset.to_string();
        let marks: std::collections::BTreeSet<_> = text
            .split("0x")
            .skip(1)
            .map(|rest| rest[..8].to_owned())
            .collect();
        assert_eq!(marks.len(), 1, "one mark in all rules");
        marks.into_iter().next().unwrap()
    };
    let same = mark(&enforced(&policy(), None));
    assert_eq!(same, mark(&enforced(&policy(), None)));
    assert_ne!(same, "00000000");
    let mut other = policy();
    other.allow[0].service.ports = PortRange::single(444);
    assert_ne!(same, mark(&enforced(&other, None)));
    // Not what a set holds alone, but also which set.
    let mut other = policy();
    std::mem::swap(&mut other.allow, &mut other.deny);
    assert_ne!(same, mark(&enforced(&other, None)));
    assert_ne!(same, mark(&enforced(&policy(), Some(&nameservers()))));
    assert_ne!(same, mark(&locked(Some((&nameservers(), &[0])))));
}

#[test]
fn an_element_is_what_the_kernel_takes() {
    let ruleset = enforced(&policy(), None);
    let ranges = ruleset
        .sets
        .iter()
        .find(|set| set.name == "allow4_ranges")
        .unwrap();
    let raw: Vec<_> = ranges.raw_elements().collect();
    assert_eq!(
        raw[0].key.as_slice(),
        [198, 51, 100, 0, 6, 0, 0, 0, 1, 187, 0, 0]
    );
    let end = raw[0].end.unwrap();
    assert_eq!(
        end.as_slice(),
        [198, 51, 100, 255, 6, 0, 0, 0, 1, 187, 0, 0]
    );
    let hosts = ruleset
        .sets
        .iter()
        .find(|set| set.name == "allow6")
        .unwrap();
    assert_eq!(hosts.raw_elements().next().unwrap().end, None);
}
