//! What has to be true of every ruleset, said without a kernel.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{build::*, set::*, *};
use crate::{
    policy::{Element, Nameservers, Policy, Timed},
    service::{PortRange, Protocol, Service},
};
use std::{net::SocketAddr, time::Duration};

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
        deny: vec![
            element("198.51.100.9/32", 443),
            element("2001:db8:1::9/128", 443),
        ],
        inbound: vec![element("0.0.0.0/0", 8001)],
    }
}

fn nameservers() -> Nameservers {
    Nameservers {
        servers: ["192.0.2.53:53", "[2001:db8::53]:53"]
            .map(|server| server.parse().unwrap())
            .into(),
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

/// The same with the rules of other chains where they are jumped or gone to, but for `refuse`: in the
/// order in which a packet meets them.
fn path(ruleset: &Ruleset, chain: &str) -> Vec<String> {
    let follow = |rule: String| {
        let (to_there, chain) = match (rule.split_once("jump "), rule.split_once("goto ")) {
            (Some(found), _) => found,
            (None, Some(found)) if found.1 != "refuse" => found,
            _ => return vec![rule],
        };
        let there = path(ruleset, chain).into_iter();
        there.map(|rule| format!("{to_there}{rule}")).collect()
    };
    rules(ruleset, chain).into_iter().flat_map(follow).collect()
}

fn position(rules: &[String], part: &str) -> usize {
    let found = rules.iter().position(|rule| rule.contains(part));
    found.unwrap_or_else(|| panic!("no rule with {part:?} in {rules:#?}"))
}

#[test]
fn every_base_chain_drops_and_what_leaves_is_refused_at_last() {
    for ruleset in [
        locked(None),
        locked(Some((&nameservers(), &[SocketOwner::user(0)]))),
        enforced(&policy(), Dns::Closed),
        enforced(&policy(), Dns::Servers(&nameservers())),
    ] {
        let hooks: Vec<_> = ruleset
            .chains
            .iter()
            .filter_map(|chain| chain.hook)
            .collect();
        assert_eq!(hooks, [Hook::Output, Hook::Input, Hook::Forward]);
        assert_eq!(path(&ruleset, "output").last().unwrap(), "goto refuse");
        assert!(rules(&ruleset, "forward").is_empty());
    }
}

#[test]
fn the_canary_comes_first_and_only_with_the_policy() {
    let rules = path(&enforced(&policy(), Dns::Closed), "output");
    assert!(rules[0].ends_with("reject with icmp prot-unreachable"));
    assert!(rules[1].ends_with("reject with icmpv6 policy-fail"));
    assert!(!locked(None).to_string().contains("192.0.2.1"));
}

#[test]
fn pinned_closes_port_53_before_loopback_opens() {
    let rules = path(&enforced(&policy(), Dns::Closed), "output");
    assert!(position(&rules, "proto-dst 53") < position(&rules, "oif \"lo\" accept"));
    assert!(!rules.iter().any(|rule| rule.contains("nameservers")));
}

#[test]
fn system_opens_port_53_to_the_nameservers_and_closes_the_rest() {
    let rules = path(&enforced(&policy(), Dns::Servers(&nameservers())), "output");
    let close = position(&rules, "proto-dst 53");
    assert!(position(&rules, "@nameservers4") < close);
    assert!(position(&rules, "meta skuid 0 udp dport 53") < close);
    assert!(close < position(&rules, "@allow4 "));
}

#[test]
fn hidden_destinations_are_refused_before_anything_is_accepted() {
    for ruleset in [
        locked(Some((&nameservers(), &[SocketOwner::user(0)]))),
        enforced(&policy(), Dns::Closed),
    ] {
        let rules = path(&ruleset, "output");
        let first = position(&rules, " accept");
        assert!(position(&rules, "exthdr rt exists goto refuse") < first);
        assert!(position(&rules, "ip hdrlength != 5 goto refuse") < first);
    }
}

#[test]
fn what_is_denied_is_asked_first_in_both_directions() {
    let ruleset = enforced(&policy(), Dns::Closed);
    for chain in ["output", "input"] {
        let rules = path(&ruleset, chain);
        assert!(position(&rules, "@deny4") < position(&rules, "@allow4 "));
        assert!(position(&rules, "@deny6") < position(&rules, "@allow6 "));
    }
}

#[test]
fn what_there_is_nothing_for_has_no_set_and_no_rule() {
    let policy = Policy {
        allow: vec![element("192.0.2.7/32", 443)],
        ..Policy::default()
    };
    let services =
        |ruleset: &Ruleset| -> Vec<_> { ruleset.sets.iter().map(|set| set.name).collect() };
    let pinned = enforced(&policy, Dns::Closed);
    assert_eq!(services(&pinned), ["allow4"]);
    let let_out = format!("ct mark 0x{:08x} accept", pinned.mark().unwrap());
    for (chain, rule) in [
        (
            "requests",
            "ip daddr . meta l4proto . th dport @allow4 goto let_out",
        ),
        (
            "replies",
            "ip saddr . meta l4proto . th sport @allow4 goto go_on",
        ),
    ] {
        assert_eq!(rules(&pinned, chain), [&let_out, rule]);
    }
    // Nothing is let in, so that no flow has the mark of one that was.
    let text = pinned.to_string();
    let let_in = format!("0x{:08x}", pinned.mark().unwrap() | 2);
    assert!(!text.contains(&let_in), "{text}");
    let servers = Nameservers {
        servers: [SocketAddr::from(([192, 0, 2, 53], 53))].into(),
        unknown: false,
    };
    let locked = locked(Some((&servers, &[SocketOwner::user(0)])));
    assert_eq!(services(&locked), ["nameservers4"]);
    assert!(!locked.to_string().contains("@nameservers6"));
    // A keeper puts in what there is nothing of yet, and is known by its table.
    let proxy = proxy(&servers, &[]);
    let all = enforced(&policy, Dns::Proxy(&proxy));
    let none = enforced(&Policy::default(), Dns::Proxy(&proxy));
    assert_eq!(all.digest(), none.digest());
    assert_eq!(services(&all).len(), 8 + 2 + 2 + 4 + 4);
}

#[test]
fn every_rule_asks_a_set_that_is_there() {
    let nameservers = known_nameservers();
    for ruleset in [
        locked(None),
        locked(Some((&nameservers, &[SocketOwner::user(0)]))),
        enforced(&policy(), Dns::Closed),
        enforced(&Policy::default(), Dns::Closed),
        enforced(&policy(), Dns::Servers(&nameservers)),
        enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &[]))),
    ] {
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let asked: std::collections::BTreeSet<_> = rules
            .flat_map(|rule| &rule.0)
            .filter_map(Term::set)
            .collect();
        let held: std::collections::BTreeSet<_> = ruleset.sets.iter().map(|set| set.name).collect();
        assert_eq!(asked, held);
    }
}

#[test]
fn the_lock_lets_dns_through_for_the_listed_uids_only() {
    let open = path(
        &locked(Some((&nameservers(), &[SocketOwner::user(1000)]))),
        "output",
    );
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
    let closed = path(&locked(None), "output");
    assert!(!closed.iter().any(|rule| rule.contains("skuid")));
    assert!(!closed.iter().any(|rule| rule.contains("ct mark")));
}

#[test]
fn single_services_and_ranges_are_kept_apart() {
    let ruleset = enforced(&policy(), Dns::Closed);
    let held = |name: &str| -> Vec<String> {
        let set = ruleset.sets.iter().find(|set| set.name == name).unwrap();
        match &set.elements {
            Elements::Services(elements) => elements.iter().map(ToString::to_string).collect(),
            Elements::Timed(_) => Vec::new(),
        }
    };
    assert_eq!(held("allow4"), ["192.0.2.7 . tcp . 443"]);
    assert_eq!(held("allow4_ranges"), ["198.51.100.0/24 . tcp . 443"]);
    assert_eq!(held("allow6"), ["2001:db8::1 . tcp . 443"]);
    assert_eq!(held("allow6_ranges"), ["2001:db8:1::/48 . tcp . 443"]);
    assert_eq!(held("deny4"), ["198.51.100.9 . tcp . 443"]);
    assert_eq!(held("inbound4"), ["0.0.0.0/0 . tcp . 8001"]);
}

/// So many networks of one length.
fn networks(family: Family, length: u8, count: u16) -> impl Iterator<Item = Element> {
    (0..count).map(move |index| {
        let [high, low] = index.to_be_bytes();
        let network = match family {
            Family::V4 => format!("10.{high}.{low}.0/{length}"),
            Family::V6 => format!("2001:db8:0:{index:x}::/{length}"),
        };
        element(&network, 443)
    })
}

#[test]
fn many_networks_of_one_length_have_a_hash_table() {
    let mut range = element("203.0.113.0/26", 1);
    range.service.ports = PortRange::ALL;
    let policy = Policy {
        allow: networks(Family::V4, 25, 4095)
            .chain(networks(Family::V4, 26, 4096))
            .chain([range])
            .chain(networks(Family::V6, 64, 4096))
            .collect(),
        ..Policy::default()
    };
    let ruleset = enforced(&policy, Dns::Closed);
    let names: Vec<_> = ruleset.sets.iter().map(|set| set.name).collect();
    assert_eq!(names, ["allow4_ranges", "allow4_26", "allow6_64"]);
    let counts: Vec<_> = ruleset.sets.iter().map(|set| set.elements.len()).collect();
    assert_eq!(counts, [4096, 4096, 4096]);
    let sizes: Vec<_> = ruleset.sets.iter().map(|set| set.size).collect();
    assert_eq!(sizes, [None, Some(4096), Some(4096)]);
    let first = |index: usize| ruleset.sets[index].raw_elements().next().unwrap();
    assert_eq!(
        first(1).key.as_slice(),
        [10, 0, 0, 0, 6, 0, 0, 0, 1, 187, 0, 0]
    );
    assert_eq!(first(1).end, None);
    // In mode `proxy` a reload changes elements alone.
    let nameservers = nameservers();
    let proxied = enforced(&policy, Dns::Proxy(&proxy(&nameservers, &[])));
    let is_fixed = |set: &Set| set.name == "allow4_26" || set.size.is_some();
    assert!(!proxied.sets.iter().any(is_fixed));
    let text = ruleset.structure().to_string();
    for rule in [
        "ip daddr & 255.255.255.192 . meta l4proto . th dport @allow4_26 goto let_out",
        "ip saddr & 255.255.255.192 . meta l4proto . th sport @allow4_26 goto go_on",
        "ip6 daddr & ffff:ffff:ffff:ffff:: . meta l4proto . th dport @allow6_64 goto let_out",
        "ip6 saddr & ffff:ffff:ffff:ffff:: . meta l4proto . th sport @allow6_64 goto go_on",
    ] {
        assert!(text.contains(rule), "{rule}");
    }
    assert!(ruleset.to_string().contains("10.15.255.0 . tcp . 443"));
}

#[test]
fn the_mark_is_the_policys() {
    let mark = |ruleset: &Ruleset| {
        let text = ruleset.to_string();
        // But for the kinds of flows, and what is compared with kinds alone.
        let marks: std::collections::BTreeSet<_> = text
            .split("0x")
            .skip(1)
            .map(|rest| u32::from_str_radix(&rest[..8], 16).unwrap() & !KINDS)
            .filter(|mark| *mark != 0)
            .collect();
        assert_eq!(marks.len(), 1, "one mark in all rules");
        assert_eq!(marks.first(), ruleset.mark().as_ref());
        ruleset.mark()
    };
    let same = mark(&enforced(&policy(), Dns::Closed));
    assert_eq!(same, mark(&enforced(&policy(), Dns::Closed)));
    let mut other = policy();
    other.allow[0].service.ports = PortRange::single(444);
    assert_ne!(same, mark(&enforced(&other, Dns::Closed)));
    // Not what a set holds alone, but also which set.
    let mut other = policy();
    std::mem::swap(&mut other.allow, &mut other.deny);
    assert_ne!(same, mark(&enforced(&other, Dns::Closed)));
    assert_ne!(
        same,
        mark(&enforced(&policy(), Dns::Servers(&nameservers())))
    );
    assert_ne!(
        same,
        mark(&locked(Some((&nameservers(), &[SocketOwner::user(0)]))))
    );
}

#[test]
fn an_element_is_what_the_kernel_takes() {
    let ruleset = enforced(&policy(), Dns::Closed);
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

#[test]
fn of_icmp_only_what_is_about_a_flow_and_neighbour_discovery_come_in() {
    let all = enforced(&policy(), Dns::Closed);
    assert_eq!(
        rules(&all, "icmp_in"),
        [
            "icmpv6 type 134-136 ip6 hoplimit 255 limit rate 20/second burst 50 packets accept",
            "icmpv6 type mld-listener-query ip6 hoplimit 1 limit rate 200 bytes/second burst 3000 bytes accept",
        ]
    );
    assert_eq!(
        rules(&all, "icmp_out"),
        [
            "icmpv6 type 133-136 icmpv6 type != nd-router-advert ip6 hoplimit 255 limit rate 20/second burst 50 packets accept",
            "icmpv6 type 131-143 icmpv6 type != 133-142 ip6 hoplimit 1 limit rate 200 bytes/second burst 3000 bytes accept",
        ]
    );
    assert!(
        !path(&all, "input")
            .iter()
            .any(|rule| rule.contains("icmp type"))
    );
}

#[test]
fn what_is_refused_is_counted_logged_within_a_rate_and_answered() {
    assert_eq!(
        rules(&locked(None), "refuse"),
        [
            "counter",
            "limit rate 5/second burst 10 packets log prefix \"egress-init refused: \" group 1",
            "meta l4proto tcp reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ]
    );
}

fn timed(network: &str, first: u16, last: u16, seconds: u64) -> Timed {
    Timed {
        element: Element {
            network: network.parse().unwrap(),
            service: Service {
                protocol: Protocol::Tcp,
                ports: PortRange::new(first, last).unwrap(),
            },
        },
        life: Duration::from_secs(seconds),
    }
}

const RESOLVER: SocketOwner = SocketOwner {
    uid: 0,
    gid: Some(4_000_000_000),
};

fn proxy<'a>(nameservers: &'a Nameservers, names: &'a [Timed]) -> Proxy<'a> {
    Proxy {
        nameservers,
        resolver: RESOLVER,
        forwarder: false,
        local: &[],
        generation: [7; 32],
        names,
        past: names,
    }
}

fn known_nameservers() -> Nameservers {
    Nameservers {
        unknown: false,
        ..nameservers()
    }
}

#[test]
fn in_proxy_only_the_resolver_has_a_way_out_to_dns() {
    let nameservers = known_nameservers();
    let ruleset = enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &[])));
    let output = path(&ruleset, "output");
    let owner = "meta skuid 0 meta skgid 4000000000 ";
    let to_servers = output
        .iter()
        .filter(|rule| rule.contains("dport @nameservers"));
    assert!(to_servers.clone().all(|rule| rule.starts_with(owner)));
    assert_eq!(to_servers.count(), 2);
    assert!(!output.iter().any(|rule| rule.contains("skgid 0 ")));
    // Closed before anything that could let a query pass, established flows among them.
    let close = position(&output, "proto-dst 53");
    let loopback = output.iter().position(|rule| rule == "oif \"lo\" accept");
    assert!(Some(close) < loopback);
    assert!(close < position(&output, "ct state established,related ct mark"));
    assert!(position(&output, owner) < close);
    for listener in ["ip daddr 127.0.0.1", "ip6 daddr ::1"] {
        for protocol in ["udp", "tcp"] {
            let rule = format!("{listener} {protocol} dport 53 ct direction original ct mark set");
            assert!(position(&output, &rule) < close);
        }
    }
    assert_eq!(
        rules(&ruleset, "divert"),
        [
            "meta skuid 0 meta skgid 4000000000 accept",
            "tcp dport 53 redirect to :53",
            "udp dport 53 redirect to :53",
        ]
    );
}

#[test]
fn what_forwards_for_docker_has_the_same_way_out() {
    let (known, unknown) = (known_nameservers(), nameservers());
    let forwarder = Proxy {
        forwarder: true,
        ..proxy(&known, &[])
    };
    for (proxy, to_any) in [(forwarder, 0), (proxy(&unknown, &[]), 2)] {
        let ruleset = enforced(&policy(), Dns::Proxy(&proxy));
        let output = path(&ruleset, "output");
        let docker = "meta skuid 0 meta skgid 0 ";
        let ways = output.iter().filter(|rule| rule.starts_with(docker));
        assert_eq!(ways.count(), 3 + to_any);
        let any = output
            .iter()
            .filter(|rule| rule.starts_with(docker) && rule.contains("dport 53 ct direction"));
        assert_eq!(any.count(), to_any);
        let divert = rules(&ruleset, "divert");
        assert_eq!(divert[1], "meta skuid 0 meta skgid 0 accept");
    }
}

#[test]
fn the_resolvers_flows_have_a_mark_that_lets_nothing_out() {
    let nameservers = known_nameservers();
    let ruleset = enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &[])));
    let mark = ruleset.mark().unwrap();
    assert_eq!(mark & KINDS, 0);
    let resolver = format!("ct mark 0x{:08x} accept", mark | 1);
    assert!(
        !path(&ruleset, "output")
            .iter()
            .any(|rule| rule.contains(&resolver))
    );
    let answers = format!("ct direction reply {resolver}");
    assert!(path(&ruleset, "input").contains(&answers));
    let set = format!("ct mark set 0x{:08x} accept", mark | 1);
    let marked: Vec<_> = path(&ruleset, "output")
        .into_iter()
        .filter(|rule| rule.contains(&set))
        .collect();
    assert_eq!(marked.len(), 3);
    let to = |rule: &String| rule.contains("@nameservers") || rule.contains("oif \"lo\" ");
    assert!(marked.iter().all(to));
    assert_eq!(ruleset.clone().with_mark(mark), ruleset);
    assert_eq!(ruleset.clone().with_mark(8).mark(), Some(8));
}

#[test]
fn a_flow_to_the_listeners_goes_on_over_loopback_and_nowhere_else() {
    let nameservers = known_nameservers();
    let ruleset = enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &[])));
    let mark = format!("ct mark 0x{:08x}", ruleset.mark().unwrap() | 3);
    for (chain, expected) in [
        ("output", vec![format!("oif \"lo\" {mark} accept")]),
        ("input", vec![]),
    ] {
        let mut rules = path(&ruleset, chain);
        rules.retain(|rule| rule.contains(&mark));
        assert_eq!(rules, expected);
    }
    // What is refused whatever its flow comes before it.
    let output = path(&ruleset, "output");
    assert!(position(&output, "ip hdrlength") < position(&output, &mark));
}

#[test]
fn a_flow_goes_on_the_way_that_it_went_and_no_other() {
    let mark =
        |ruleset: &Ruleset, kind| format!("ct mark 0x{:08x}", ruleset.mark().unwrap() | kind);
    let nameservers = known_nameservers();
    for dns in [
        Dns::Closed,
        Dns::Servers(&nameservers),
        Dns::Proxy(&proxy(&nameservers, &[])),
    ] {
        let ruleset = enforced(&policy(), dns);
        let (let_out, let_in) = (mark(&ruleset, 0), mark(&ruleset, 2));
        for (chain, out, into) in [
            ("output", "original", "reply"),
            ("input", "reply", "original"),
        ] {
            let rules = path(&ruleset, chain);
            let goes_on = |mark: &str, direction: &str| {
                // In mode `proxy` a flow that was let out and has no answer is judged anew.
                let is_timed = matches!(dns, Dns::Proxy(_)) && direction == out;
                let state = if is_timed && chain == "output" {
                    "ct state established,related "
                } else {
                    ""
                };
                let rule = format!("ct direction {direction} {state}{mark} accept");
                assert!(rules.contains(&rule), "no {rule:?} in {rules:#?}");
            };
            goes_on(&let_out, out);
            goes_on(&let_in, into);
        }
        for rule in path(&ruleset, "output") {
            let begins = rule.contains("ct mark set") && !rule.contains("ct mark &");
            assert!(!begins || rule.contains("ct direction original"), "{rule}");
        }
    }
}

#[test]
fn an_answer_by_loopback_is_the_servers_own() {
    let nameservers = known_nameservers();
    let local = [SocketAddr::from(([127, 0, 0, 1], 5053))];
    let proxy = Proxy {
        forwarder: true,
        local: &local,
        ..proxy(&nameservers, &[])
    };
    let ruleset = enforced(&policy(), Dns::Proxy(&proxy));
    assert!(ruleset.to_string().contains("127.0.0.1 . udp . 5053"));
    let output = path(&ruleset, "output");
    let servers_own = position(&output, "meta skuid 0 meta skgid 0 oif \"lo\" accept");
    let others = output
        .iter()
        .position(|rule| rule == "oif \"lo\" accept")
        .unwrap();
    for refused in [
        "oif \"lo\" ct state established ct direction reply ct mark 0x",
        "oif \"lo\" ip saddr . meta l4proto . th sport @nameservers4 goto refuse",
        "oif \"lo\" ip6 saddr . meta l4proto . th sport @nameservers6 goto refuse",
        "oif \"lo\" ip saddr . meta l4proto . th sport @local_servers4 goto refuse",
        "oif \"lo\" ip daddr . meta l4proto . th dport @local_servers4 goto refuse",
    ] {
        let refused = position(&output, refused);
        assert!(servers_own < refused && refused < others);
    }
}

#[test]
fn dockers_dns_is_closed_whatever_its_port() {
    let to_it = "ct direction original ip daddr 127.0.0.11 goto refuse";
    for ruleset in [locked(None), enforced(&policy(), Dns::Closed)] {
        let output = path(&ruleset, "output");
        assert!(position(&output, to_it) < position(&output, "oif \"lo\" accept"));
    }
}

#[test]
fn names_are_asked_before_what_is_denied_and_past_ones_start_nothing() {
    let nameservers = known_nameservers();
    let ruleset = enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &[])));
    for (chain, direction) in [("output", "original"), ("input", "reply")] {
        let rules = path(&ruleset, chain);
        let order = [
            "@names4 ",
            "@names6_ranges ",
            "@past4 ",
            "@past6_ranges ",
            "@deny4 ",
            "@allow4 ",
        ];
        assert!(
            order.map(|part| position(&rules, part)).is_sorted(),
            "{rules:#?}"
        );
        let past = rules.iter().filter(|rule| rule.contains("@past"));
        assert_eq!(past.clone().count(), 4);
        let start = format!("ct direction {direction} ct state established ");
        assert!(past.clone().all(|rule| rule.starts_with(&start)));
    }
}

#[test]
fn the_mark_of_a_generation_is_not_what_dns_said() {
    let nameservers = known_nameservers();
    let names = [timed("192.0.2.9/32", 443, 443, 60)];
    let one = enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &[])));
    let mut denied = policy();
    denied.deny.push(element("192.0.2.66/32", 443));
    let other = enforced(&denied, Dns::Proxy(&proxy(&nameservers, &names)));
    assert_eq!(one.mark(), other.mark());
    assert_eq!(one.digest(), other.digest());
    let next = Proxy {
        generation: [8; 32],
        ..proxy(&nameservers, &names)
    };
    assert_ne!(one.mark(), enforced(&policy(), Dns::Proxy(&next)).mark());
}

#[test]
fn elements_that_end_are_printed_as_nft_does() {
    let nameservers = known_nameservers();
    let names = [
        timed("192.0.2.9/32", 443, 443, 86_400 + 61),
        timed("192.0.2.9/32", 8000, 8100, 3600),
        timed("2001:db8::9/128", 443, 443, 59),
    ];
    let text = enforced(&policy(), Dns::Proxy(&proxy(&nameservers, &names))).to_string();
    for part in [
        "set names4 {\n\t\ttype ipv4_addr . inet_proto . inet_service\n\t\tflags timeout\n\t\telements = { 192.0.2.9 . tcp . 443 timeout 1d1m1s }",
        "set names4_ranges {\n\t\ttype ipv4_addr . inet_proto . inet_service\n\t\tflags interval,timeout\n\t\telements = { 192.0.2.9 . tcp . 8000-8100 timeout 1h }",
        "2001:db8::9 . tcp . 443 timeout 59s",
        "set names6_ranges {\n\t\ttype ipv6_addr . inet_proto . inet_service\n\t\tflags interval,timeout\n\t}",
        "\t\ttype nat hook output priority -110; policy accept;\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn keys_are_ordered_as_their_octets_are() {
    let keys: Vec<Octets> = [
        &[][..],
        &[0],
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &[0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 255],
        &[0, 0, 0, 0, 0, 0, 1],
        &[1, 2, 3],
        &[
            1, 2, 3, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        ],
        &[255; 24],
    ]
    .map(|octets| Octets::new(octets).unwrap())
    .into();
    assert!(keys.is_sorted());
    for (one, other) in keys.iter().zip(&keys[1..]) {
        assert!(one < other, "{one:?} {other:?}");
    }
    assert_eq!(keys[3].cmp(&keys[3].clone()), std::cmp::Ordering::Equal);
}
