//! The ruleset of any list, against nft's own opinion of it: `nft -c` in a network namespace of
//! its own, which any user may make.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use egress_init::{
    allowlist::{self, Accept, Source, SourceKind},
    policy::{self, Answers, Ledger, Nameservers, ledger::lifetime},
    ruleset::{self, Dns, Proxy, SocketOwner},
};
use proptest::prelude::*;
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What nft says of a text, or nothing where it takes it.
fn complaint_of_nft(text: &str) -> Option<String> {
    let mut nft = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .args(["nft", "--check", "--file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("needs unshare (util-linux) and nft (nftables)");
    nft.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = nft.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(complaint)
}

fn ports() -> impl Strategy<Value = String> {
    let one = prop_oneof![
        (1_u16..=u16::MAX)
            .prop_filter("53 is not the list's", |port| *port != 53)
            .prop_map(|port| port.to_string()),
        (1_u16..=u16::MAX, 1_u16..=u16::MAX)
            .prop_map(|(a, b)| (a.min(b), a.max(b)))
            .prop_filter("a range", |(a, b)| a < b)
            .prop_map(|(first, last)| format!("{first}-{last}")),
        Just("*".to_owned()),
    ];
    let protocol = prop_oneof![Just(""), Just("/tcp"), Just("/udp"), Just("/any")];
    let list = (prop::collection::vec(one, 1..4), protocol)
        .prop_map(|(ports, protocol)| format!(":{}{protocol}", ports.join(",")));
    prop_oneof![Just(String::new()), list]
}

fn target() -> impl Strategy<Value = String> {
    // Few networks, so that they overlap; addresses inside and outside of them.
    let v4 = (0_u8..4, any::<[u8; 2]>(), 9_u8..=32).prop_map(|(first, [a, b], len)| {
        let network = ipnet::Ipv4Net::new(Ipv4Addr::new(10 + first, a, b, 0), len).unwrap();
        network.trunc().to_string()
    });
    let v6 = (0_u16..4, any::<[u16; 2]>(), 20_u8..=128).prop_map(|(first, [a, b], len)| {
        let address = Ipv6Addr::new(0x2001, 0xdb8, first, a, b, 0, 0, 1);
        let network = ipnet::Ipv6Net::new(address, len).unwrap();
        format!("[{}]", network.trunc())
    });
    prop_oneof![v4, v6, "[a-d]\\.example"]
}

fn list() -> impl Strategy<Value = String> {
    let entry = (
        prop_oneof![4 => Just(""), 1 => Just("!")],
        target(),
        ports(),
    )
        .prop_map(|(refused, target, ports)| format!("{refused}{target}{ports}\n"));
    prop::collection::vec(entry, 1..40).prop_map(|entries| entries.concat())
}

fn answer() -> impl Strategy<Value = Vec<IpAddr>> {
    let address = prop_oneof![
        any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([10, a, b, 1])),
        any::<u16>().prop_map(|a| IpAddr::from([0x2001, 0xdb8, a, 0, 0, 0, 0, 1])),
    ];
    prop::collection::vec(address, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nft_takes_the_text_of_any_valid_list(
        list in list(),
        answers in prop::collection::vec(answer(), 4),
        inbound in prop::option::of(1_u16..),
        server in prop::option::of(any::<bool>()),
    ) {
        let source = Source { label: "list".into(), text: list.into_bytes(), kind: SourceKind::Lines };
        let list = allowlist::parse(&[source], Accept::default()).unwrap();
        let answers: Answers = list.names().into_iter().zip(answers).collect();
        let inbound: Vec<_> = inbound
            .map(|port| policy::parse_inbound(&port.to_string()).unwrap())
            .into_iter()
            .flatten()
            .collect();
        let decision = policy::decide(&list, &answers, &inbound);
        let nameservers = server.map(|unknown| Nameservers {
            servers: [SocketAddr::from(([192, 0, 2, 53], 53))].into(),
            unknown,
        });
        let text = ruleset::enforced(&decision.policy, nameservers.as_ref().map_or(Dns::Closed, Dns::Servers)).to_string();
        prop_assert_eq!(complaint_of_nft(&text), None, "{}", text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nft_takes_the_text_of_any_ledger(
        list in list(),
        answers in prop::collection::vec((answer(), 0_u64..200_000), 4),
        forwarder in any::<bool>(),
        unknown in any::<bool>(),
    ) {
        let list = format!("{list}*.z.example:22-25,443\n");
        let source = Source { label: "list".into(), text: list.into_bytes(), kind: SourceKind::Lines };
        let list = allowlist::parse(&[source], Accept { wildcards: true }).unwrap();
        let now = Instant::now();
        let mut ledger = Ledger::new(&list, &[], &[]);
        for (name, (addresses, ttl)) in ["a", "b", "c", "other.z"].iter().zip(answers) {
            let name = format!("{name}.example").parse().unwrap();
            let until = now + lifetime(Duration::from_secs(ttl));
            ledger.answer(&name, &addresses, until, now);
            ledger.refuse(&name, &addresses);
        }
        let nameservers = Nameservers {
            servers: [SocketAddr::from(([192, 0, 2, 53], 53))].into(),
            unknown,
        };
        let proxy = Proxy {
            nameservers: &nameservers,
            resolver: SocketOwner { uid: 0, gid: Some(4_000_000_000) },
            forwarder,
            generation: ledger.generation(),
            names: &ledger.names(now),
            past: &ledger.past(now),
        };
        let text = ruleset::enforced(&ledger.policy(), Dns::Proxy(&proxy)).to_string();
        prop_assert_eq!(complaint_of_nft(&text), None, "{}", text);
    }
}

#[test]
fn nft_takes_the_lock_and_refuses_nonsense() {
    let nameservers = Nameservers {
        servers: [SocketAddr::from((Ipv6Addr::LOCALHOST, 5353))].into(),
        unknown: true,
    };
    for lock in [
        ruleset::locked(None),
        ruleset::locked(Some((&nameservers, &[0, 1000].map(SocketOwner::user)))),
    ] {
        assert_eq!(complaint_of_nft(&lock.to_string()), None);
    }
    let broken = ruleset::locked(None).to_string().replace("drop", "dorp");
    assert!(complaint_of_nft(&broken).is_some());
}
