#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::allowlist::{Accept, Source, SourceKind, parse};
use crate::service::Protocol;
use proptest::prelude::*;

fn list(text: &str) -> Allowlist {
    let source = Source {
        label: "list.txt".to_owned(),
        text: text.into(),
        kind: SourceKind::Words,
    };
    parse(&[source], Accept::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn answers(answers: &[(&str, &[&str])]) -> Answers {
    answers
        .iter()
        .map(|(name, addresses)| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap());
            (name.parse().unwrap(), addresses.collect())
        })
        .collect()
}

fn printed(elements: &[Element]) -> Vec<String> {
    let print = |element: &Element| {
        let Element { network, service } = element;
        format!("{network} {} {}", service.protocol, service.ports)
    };
    elements.iter().map(print).collect()
}

fn warned(decision: &Decision) -> Vec<String> {
    decision.warnings.iter().map(Warning::to_string).collect()
}

#[test]
fn names_become_their_addresses() {
    let decision = decide(
        &list("b.com:22 a.com c.com b.com:443"),
        &answers(&[
            (
                "a.com",
                &["192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"],
            ),
            ("b.com", &["192.0.2.1"]),
        ]),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.allow),
        [
            "192.0.2.1/32 tcp 22",
            "192.0.2.1/32 tcp 80",
            "192.0.2.1/32 tcp 443",
            "192.0.2.2/32 tcp 80",
            "192.0.2.2/32 tcp 443",
            "2001:db8::1/128 tcp 80",
            "2001:db8::1/128 tcp 443",
        ]
    );
    assert_eq!(decision.policy.deny, []);
    // The order of the answer, no duplicates, nothing for a name without an answer.
    let hosts = answers(&[
        ("a.com", &["192.0.2.2", "2001:db8::1", "192.0.2.1"]),
        ("b.com", &["192.0.2.1"]),
    ]);
    assert_eq!(decision.hosts, hosts.into_iter().collect::<Vec<_>>());
    assert_eq!(
        decision.counts,
        Counts {
            names: 2,
            ipv4: 2,
            ipv6: 1
        }
    );
    assert_eq!(decision.warnings, []);
}

#[test]
fn literals_are_taken_as_written() {
    let decision = decide(
        &list("127.0.0.1:8080 169.254.169.254:80 10.0.0.0/8:5432 10.1.0.0/16:5432,22"),
        &Answers::new(),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.allow),
        [
            "10.0.0.0/8 tcp 5432",
            "10.1.0.0/16 tcp 22",
            "127.0.0.1/32 tcp 8080",
            "169.254.169.254/32 tcp 80",
        ]
    );
    assert_eq!(
        decision.counts,
        Counts {
            names: 0,
            ipv4: 4,
            ipv6: 0
        }
    );
}

#[test]
fn an_answer_cannot_bring_in_what_never_counts() {
    let decision = decide(
        &list("a.com b.com 169.254.169.254:80"),
        &answers(&[
            (
                "a.com",
                &["169.254.169.254", "10.0.0.1", "::ffff:192.0.2.1"],
            ),
            ("b.com", &["127.0.0.1"]),
        ]),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.allow),
        [
            "10.0.0.1/32 tcp 80",
            "10.0.0.1/32 tcp 443",
            "169.254.169.254/32 tcp 80"
        ]
    );
    assert_eq!(
        decision.hosts,
        answers(&[("a.com", &["10.0.0.1"])])
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(
        warned(&decision),
        [
            "a.com resolves to 169.254.169.254, a link-local address: left out; list the address itself if it is meant",
            "a.com resolves to ::ffff:192.0.2.1, an IPv4 address in the form of an IPv6 one: left out; list the address itself if it is meant",
            "b.com resolves to 127.0.0.1, a loopback address: left out; list the address itself if it is meant",
            "b.com cannot be reached: every address that it resolves to is refused",
        ]
    );
}

#[test]
fn a_refused_name_closes_its_addresses_in_a_network() {
    let decision = decide(
        &list("192.0.2.0/24:443,8443 !bad.com !worse.com:443 other.com:443"),
        &answers(&[
            ("bad.com", &["192.0.2.66", "::ffff:192.0.2.67"]),
            ("worse.com", &["192.0.2.68"]),
            ("other.com", &["192.0.2.1"]),
        ]),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.allow),
        ["192.0.2.0/24 tcp 443", "192.0.2.0/24 tcp 8443"]
    );
    assert_eq!(
        printed(&decision.policy.deny),
        [
            "192.0.2.66/32 tcp 0-65535",
            "192.0.2.66/32 udp 0-65535",
            "192.0.2.67/32 tcp 0-65535",
            "192.0.2.67/32 udp 0-65535",
            "192.0.2.68/32 tcp 443",
        ]
    );
    assert_eq!(decision.warnings, []);
}

#[test]
fn an_allowed_name_wins_an_address_that_it_shares() {
    let decision = decide(
        &list("good.com:443 !bad.com 10.0.0.0/8"),
        &answers(&[
            ("good.com", &["10.0.0.1"]),
            ("bad.com", &["10.0.0.1", "10.0.0.2"]),
        ]),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.deny),
        [
            "10.0.0.1/32 tcp 0-442",
            "10.0.0.1/32 tcp 444-65535",
            "10.0.0.1/32 udp 0-65535",
            "10.0.0.2/32 tcp 0-65535",
            "10.0.0.2/32 udp 0-65535",
        ]
    );
    assert_eq!(
        warned(&decision),
        ["!bad.com does not close 10.0.0.1 to 443: good.com is there too and is allowed"]
    );
}

#[test]
fn a_refusal_of_ports_leaves_the_others_without_a_warning() {
    let decision = decide(
        &list("a.com !a.com:80"),
        &answers(&[("a.com", &["192.0.2.1"])]),
        &[],
    );
    assert_eq!(printed(&decision.policy.allow), ["192.0.2.1/32 tcp 443"]);
    assert_eq!(printed(&decision.policy.deny), ["192.0.2.1/32 tcp 80"]);
    assert_eq!(decision.warnings, []);
}

#[test]
fn a_refused_address_or_network_always_wins() {
    let decision = decide(
        &list(
            "a.com 10.1.0.0/16:22 !10.1.0.0/16:22 !192.0.2.0/24 !2001:db8::1:443 198.51.100.0/24 !198.51.100.7",
        ),
        &answers(&[("a.com", &["192.0.2.1", "203.0.113.1"])]),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.allow),
        [
            "198.51.100.0/24 tcp 80",
            "198.51.100.0/24 tcp 443",
            "203.0.113.1/32 tcp 80",
            "203.0.113.1/32 tcp 443",
        ]
    );
    let deny = printed(&decision.policy.deny);
    for element in [
        "10.1.0.0/16 tcp 22",
        "192.0.2.0/24 tcp 0-65535",
        "192.0.2.0/24 udp 0-65535",
        "198.51.100.7/32 tcp 0-65535",
        "2001:db8::1:443/128 tcp 0-65535",
    ] {
        assert!(
            deny.iter().any(|found| found == element),
            "{element}: {deny:?}"
        );
    }
    assert_eq!(
        decision.hosts,
        answers(&[("a.com", &["203.0.113.1"])])
            .into_iter()
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_refused_zone_takes_names_and_no_address() {
    let decision = decide(
        &list("a.zone.com b.com !*.zone.com"),
        &answers(&[("a.zone.com", &["192.0.2.1"]), ("b.com", &["192.0.2.2"])]),
        &[],
    );
    assert_eq!(
        printed(&decision.policy.allow),
        ["192.0.2.2/32 tcp 80", "192.0.2.2/32 tcp 443"]
    );
    assert_eq!((decision.policy.deny, decision.warnings), (vec![], vec![]));
}

#[test]
fn an_unresolved_refusal_is_said_where_a_network_may_hold_it() {
    let decision = decide(&list("10.0.0.0/8 !bad.com"), &Answers::new(), &[]);
    assert_eq!(
        warned(&decision),
        ["!bad.com did not resolve: the networks in the list may still reach it"]
    );
    let found = answers(&[("a.com", &["192.0.2.1"]), ("bad.com", &[])]);
    assert_eq!(decide(&list("a.com !bad.com"), &found, &[]).warnings, []);
}

#[test]
fn nothing_left_is_a_warning() {
    for text in [
        "a.com !a.com",
        "!a.com",
        "a.com",
        "10.1.0.0/16 !10.0.0.0/8",
        "@npm !@npm",
    ] {
        let decision = decide(&list(text), &Answers::new(), &[]);
        assert_eq!(decision.policy.allow, [], "{text}");
        assert_eq!(decision.warnings, [Warning::Nothing], "{text}");
    }
}

#[test]
fn a_wildcard_is_left_to_come() {
    let source = Source {
        label: "list.txt".to_owned(),
        text: "*.a.com".into(),
        kind: SourceKind::Words,
    };
    let list = parse(&[source], Accept { wildcards: true }).unwrap();
    assert_eq!(decide(&list, &Answers::new(), &[]).warnings, []);
}

#[test]
fn inbound_is_merged_like_the_rest() {
    let inbound = [parse_inbound("80@10.0.0.0/8"), parse_inbound("80-81")];
    let inbound: Vec<Element> = inbound.into_iter().flat_map(Result::unwrap).collect();
    let decision = decide(&list("192.0.2.1"), &Answers::new(), &inbound);
    assert_eq!(
        printed(&decision.policy.inbound),
        ["0.0.0.0/0 tcp 80-81", "::/0 tcp 80-81"]
    );
}

/// A list over few names, addresses and ports, so that its parts meet.
fn small_list() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        (0..4_u8).prop_map(|name| format!("{}.zone.com", char::from(b'a' + name))),
        (0..8_u8).prop_map(|low| format!("192.0.2.{low}")),
        (0..2_u8).prop_map(|half| format!("192.0.2.{}/30", half * 4)),
    ];
    let entry =
        (any::<bool>(), target, 1..4_u8, 0..3_u8).prop_map(|(deny, target, ports, kind)| {
            let deny = if deny { "!" } else { "" };
            let protocol = ["tcp", "udp", "any"][usize::from(kind)];
            match ports {
                1 => format!("{deny}{target}:1/{protocol}"),
                2 => format!("{deny}{target}:1-2/{protocol}"),
                _ => format!("{deny}{target}:*/{protocol}"),
            }
        });
    prop::collection::vec(entry, 1..8).prop_map(|entries| entries.join("\n"))
}

fn small_answers() -> impl Strategy<Value = Answers> {
    let addresses = prop::collection::vec(0..8_u8, 0..4);
    prop::collection::btree_map(0..4_u8, addresses, 0..4).prop_map(|found| {
        let name = |name| {
            format!("{}.zone.com", char::from(b'a' + name))
                .parse()
                .unwrap()
        };
        let address = |low| IpAddr::from([192, 0, 2, low]);
        let answer =
            |(index, lows): (u8, Vec<u8>)| (name(index), lows.into_iter().map(address).collect());
        found.into_iter().map(answer).collect()
    })
}

fn holds(services: &Services, protocol: Protocol, port: u16) -> bool {
    services
        .iter()
        .any(|service| service.protocol == protocol && service.ports.contains(port))
}

/// Section 5, word for word and slowly: whether a packet may go.
fn may_go(
    list: &Allowlist,
    answers: &Answers,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
) -> bool {
    let matches = |deny: bool, by_name: bool| {
        let entries = list
            .entries()
            .iter()
            .filter(move |entry| entry.deny == deny);
        entries.filter(move |entry| {
            holds(&entry.services, protocol, port)
                && match &entry.target {
                    Target::Network(network) => !by_name && network.contains(&address),
                    Target::Name(name) => {
                        by_name
                            && answers
                                .get(name)
                                .is_some_and(|found| found.contains(&address))
                    }
                    Target::Wildcard(_) => false,
                }
        })
    };
    let refused_names: Vec<&Target> = matches(true, true).map(|entry| &entry.target).collect();
    let allowed_name = matches(false, true).any(|entry| !refused_names.contains(&&entry.target));
    let refused_network = matches(true, false).next().is_some();
    let allowed_network = matches(false, false).next().is_some();
    !refused_network && (allowed_name || allowed_network && refused_names.is_empty())
}

proptest! {
    #[test]
    fn a_policy_is_what_the_contract_says(text in small_list(), answers in small_answers()) {
        let list = list(&text);
        let Policy { allow, deny, .. } = decide(&list, &answers, &[]).policy;
        let has = |elements: &[Element], address, protocol, port| elements.iter().any(|element| {
            element.network.contains(&address)
                && element.service.protocol == protocol
                && element.service.ports.contains(port)
        });
        for low in 0..10_u8 {
            let address = IpAddr::from([192, 0, 2, low]);
            for protocol in Protocol::ALL {
                for port in [0, 1, 2, 3, u16::MAX] {
                    let goes = has(&allow, address, protocol, port) && !has(&deny, address, protocol, port);
                    let expected = may_go(&list, &answers, address, protocol, port);
                    prop_assert_eq!(goes, expected, "{} {} {}", address, protocol, port);
                }
            }
        }
    }
}
