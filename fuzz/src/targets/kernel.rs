//! What the kernel sends: acknowledgements of any octets, and the answers to the read-back: those
//! to a ruleset with other values in any attribute, or with any octets changed. What is cut off is
//! no answer.

use egress_init::{
    fuzzing::read_answer,
    policy::{Nameservers, Policy, ledger::Timed, parse_inbound},
    ruleset::{
        self,
        build::{Dns, Proxy, SocketOwner},
        bytecode,
    },
    sys::nftables,
};
use std::{sync::OnceLock, time::Duration};

type Parser = fn(&[u8]) -> bool;

/// The messages that are answered with, and what reads them.
static ANSWERS: OnceLock<Vec<(Vec<u8>, Parser)>> = OnceLock::new();

pub fn run(data: &[u8]) {
    let Some((&[how, which], rest)) = data.split_first_chunk() else {
        return;
    };
    if how & 1 == 0 {
        return answer(rest);
    }
    let answers = ANSWERS.get_or_init(answers);
    let (message, parse) = &answers[usize::from(which) % answers.len()];
    // In memory of exactly its length, which the sanitizer watches.
    let mut message = message.clone();
    let mut changes = rest.iter();
    if how & 4 == 0 {
        change(&mut message[HEADERS..], &mut changes);
    } else {
        for (octet, change) in message[HEADERS..].iter_mut().zip(changes.by_ref()) {
            *octet ^= change;
        }
    }
    let cut = how & 2 != 0;
    if cut {
        let left = usize::from(*changes.next().unwrap_or(&0));
        message.truncate(left.min(message.len() - 1));
    }
    message.shrink_to_fit();
    assert!(!(parse(&message) && cut), "it is not whole");
}

/// `struct nlmsghdr` and `struct nlmsgerr`, netlink(7).
fn answer(message: &[u8]) {
    const ERROR: [u8; 2] = 2_u16.to_ne_bytes();
    let read = read_answer(message);
    let is_error = message.len() >= 20 && message[4..6] == ERROR;
    assert_eq!(read.is_some(), is_error);
    if let Some((sequence, error)) = read {
        assert_eq!(sequence.to_ne_bytes(), message[8..12]);
        assert_eq!(error.is_none(), message[16..20] == [0; 4]);
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
const NESTED: u16 = 0x8000;

/// Changes what is inside the attributes, and leaves their heads: the next octet of `changes` for
/// each of theirs.
fn change<'a>(attributes: &mut [u8], changes: &mut impl Iterator<Item = &'a u8>) {
    let mut at = 0;
    while let Some(&[a, b, c, d]) = attributes.get(at..).and_then(<[u8]>::first_chunk) {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = attributes.get_mut(at + 4..at + length) else {
            return;
        };
        if u16::from_ne_bytes([c, d]) & NESTED == 0 {
            // One octet of the input for each attribute says whether it changes.
            if changes.next().is_some_and(|octet| octet & 7 == 1) {
                for (octet, change) in value.iter_mut().zip(changes.by_ref()) {
                    *octet ^= change;
                }
            }
        } else {
            change(value, changes);
        }
        at += length.next_multiple_of(4);
    }
}

fn answers() -> Vec<(Vec<u8>, Parser)> {
    let inbound = parse_inbound("22,8000-8100/any").expect("ports");
    let policy = Policy {
        allow: parse_inbound("443@10.0.0.0/8").expect("a network"),
        deny: parse_inbound("80@2001:db8::1").expect("an address"),
        inbound,
    };
    let nameservers = Nameservers {
        servers: [([192, 0, 2, 53], 53).into()].into(),
        unknown: true,
    };
    let resolver = SocketOwner {
        uid: 0,
        gid: Some(65_000),
    };
    let timed: Vec<Timed> = parse_inbound("443")
        .expect("a port")
        .into_iter()
        .map(|element| Timed {
            element,
            life: Duration::from_secs(60),
        })
        .collect();
    let proxy = Proxy {
        nameservers: &nameservers,
        resolver,
        forwarder: true,
        local: &[],
        generation: [7; 32],
        names: &timed,
        past: &timed,
    };
    let ruleset = ruleset::enforced(&policy, Dns::Proxy(&proxy));
    let mut answers: Vec<(Vec<u8>, Parser)> = Vec::new();
    answers.push((table(), |octets| nftables::parse_table(octets).is_some()));
    for chain in &ruleset.chains {
        answers.push((nftables::add_chain(chain), |octets| {
            nftables::parse_chain(octets).is_some()
        }));
        for rule in &chain.rules {
            let message = nftables::add_rule(chain.name, &bytecode::lower(rule));
            answers.push((message, |octets| {
                nftables::parse_rule(octets).is_some_and(|held| held.exprs.is_some())
            }));
        }
    }
    for set in &ruleset.sets {
        answers.push((nftables::add_set(set, 1), |octets| {
            nftables::parse_set(octets).is_some()
        }));
        for message in nftables::add_elements(set.name, set.raw_elements()) {
            answers.push((message, |octets| nftables::parse_elements(octets).is_some()));
        }
    }
    answers
}

/// The table as the kernel shows it: with how many things are in it (`NFTA_TABLE_USE`).
fn table() -> Vec<u8> {
    let mut message = nftables::add_table();
    message.extend([8_u16, 3].map(u16::to_ne_bytes).concat());
    message.extend(12_u32.to_be_bytes());
    let len = u32::try_from(message.len()).expect("a short message");
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}
