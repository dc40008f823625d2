//! A client's query to the proxy, and what nameservers said of a listed name, in any octets. Read
//! again by a plain reading of RFC 1035 and RFC 9460:
//!
//! * A response is one to this query, whole, and no longer than the client takes.
//! * For a name that the list does not have there is no record in it.
//! * Every address in it, hints of HTTPS and SVCB records too, is one that the kernel took.
//! * No binding leads to a name that the list does not have, carries keys of encrypted client
//!   hellos, or lacks what it calls mandatory.
//! * What is repeated for the same query is what was said, under the new id.

use crate::wire::{self, A, AAAA, Data, HTTPS, Message, Name, SVCB};
use egress_init::{
    fuzzing::{Fence, exchange},
    policy::{self, Origin},
    proxy::Verdict,
};
use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

const LISTED: &str = "a.example";
/// A listed name that /etc/hosts has.
const IN_HOSTS: &str = "b.example";
const HOSTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7)),
];
const PTR: u16 = 12;
const TTL: Duration = Duration::from_secs(77);
const KINDS: [u16; 6] = [A, AAAA, HTTPS, SVCB, 16, 15];

pub fn run(data: &[u8]) {
    let Some((&[how, which], rest)) = data.split_first_chunk() else {
        return;
    };
    let kind = KINDS[usize::from(which) % KINDS.len()];
    // The query, then what was said of the name: from a length, as both may hold any octets.
    let Some((&length, rest)) = rest.split_first() else {
        return;
    };
    let (query, upstream) = rest.split_at(usize::from(length).min(rest.len()));
    let query = if how & 1 == 0 {
        query.to_vec()
    } else {
        well_formed(query, kind)
    };
    let upstream = if how & 2 == 0 {
        upstream.to_vec()
    } else {
        answer(upstream, kind)
    };
    let mut again = query.clone();
    for octet in again.iter_mut().take(2) {
        *octet ^= 0x5a;
    }
    let fence = RefCell::new(Fence {
        verdict,
        admits,
        hosts: |name| (name == IN_HOSTS).then_some(&HOSTS),
        asked: Vec::new(),
    });
    let exchange = exchange(&query, &again, (LISTED, kind, &upstream), TTL, &fence);
    let asked = fence.into_inner().asked;
    if let Some(response) = &exchange.response {
        check(&query, response, &asked, true);
    }
    if let Some(response) = &exchange.over_tcp {
        check(&query, response, &asked, false);
    }
    if let Some(repeated) = &exchange.repeated {
        let response = exchange
            .response
            .as_ref()
            .expect("what is repeated was said");
        assert_eq!(repeated[..2], again[..2]);
        assert_eq!(repeated[2..], response[2..]);
    }
}

fn verdict(name: &str) -> Verdict {
    match name {
        LISTED | IN_HOSTS => Verdict::Allowed { wildcard: None },
        _ if name.ends_with(".search.example") => Verdict::BlockedBelowSearch,
        _ => Verdict::Blocked,
    }
}

fn admits(address: IpAddr) -> bool {
    policy::admissible(address, Origin::Name).is_ok()
}

/// A header and a question in front of what may be EDNS. The name is `a.example`, in any case.
fn well_formed(rest: &[u8], kind: u16) -> Vec<u8> {
    let (case, rest) = rest.split_first().unwrap_or((&0, rest));
    let additionals = u8::from(rest.len() > 10);
    let mut octets = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, additionals];
    let letter = if case & 1 == 0 { b'a' } else { b'A' };
    octets.extend_from_slice(&[1, letter, 7]);
    octets.extend_from_slice(b"example\0");
    octets.extend_from_slice(&kind.to_be_bytes());
    octets.extend_from_slice(&[0, 1]);
    octets.extend_from_slice(rest);
    octets
}

/// A response to that question with as many answers and authorities as the first octets say.
fn answer(rest: &[u8], kind: u16) -> Vec<u8> {
    let mut head = [0; 4];
    let taken = rest.len().min(4);
    head[..taken].copy_from_slice(&rest[..taken]);
    let [high, low, answers, authorities] = head;
    let mut octets = well_formed(&[], kind);
    octets[2..12].copy_from_slice(&[high | 0x80, low, 0, 1, 0, answers, 0, authorities, 0, 0]);
    octets.extend_from_slice(&rest[taken..]);
    octets
}

fn check(query: &[u8], octets: &[u8], asked: &[IpAddr], udp: bool) {
    const HEADER: usize = 12;
    const TRUNCATED: u16 = 0x0200;
    assert!(
        octets.len() >= HEADER && octets[..2] == query[..2],
        "under its id"
    );
    assert_ne!(octets[2] & 0x80, 0, "a response");
    assert_eq!(query[2] & 0x80, 0, "no response to a response");
    assert_eq!(octets[2] & 0x78, query[2] & 0x78, "to this kind of query");
    let message = wire::decode(octets).expect("a plain reading reads it");
    assert_eq!(message.rest, 0, "nothing behind it");
    let ask = wire::decode(query);
    if message.questions.is_empty() {
        assert_eq!(octets.len(), HEADER);
        assert!(
            matches!(message.code, 1 | 4),
            "an error of form: {}",
            message.code
        );
        return;
    }
    let ask = ask.expect("a query that was understood");
    if udp {
        let takes = ask.payload.map_or(512, |payload| payload.clamp(512, 1232));
        assert!(octets.len() <= takes.into(), "longer than the client takes");
    }
    assert!(message.questions == ask.questions, "the question again");
    if message.flags & TRUNCATED != 0 {
        assert!(udp && message.answers.is_empty());
        return;
    }
    let (name, kind, class) = &message.questions[0];
    // Loopback addresses have the names that everybody knows, in both directions.
    let is_local = |end: &[u8]| name.last().is_some_and(|label| label == end);
    if is_local(b"localhost") || (is_local(b"arpa") && *kind == PTR && message.code == 0) {
        let known = message.answers.iter().all(|record| record.ttl == 60);
        return assert!(known && message.answers.len() <= 1);
    }
    if !is_listed(name) || *class != wire::IN {
        assert!(message.answers.is_empty(), "it is not listed");
        assert!(message.authorities.is_empty());
        assert!(matches!(message.code, 3 | 5 | 16), "{}", message.code);
    } else if is(name, IN_HOSTS) {
        let words = |address: &IpAddr| assert!(HOSTS.contains(address), "not in /etc/hosts");
        addresses(&message).iter().for_each(words);
    }
    records(&message, *kind, asked);
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let of = |data: &Data| match data {
        Data::Address(address) => vec![*address],
        Data::Binding(binding) => binding.hints.clone(),
        Data::Alias(_) | Data::Other => Vec::new(),
    };
    message
        .answers
        .iter()
        .flat_map(|record| of(&record.data))
        .collect()
}

fn records(message: &Message, kind: u16, asked: &[IpAddr]) {
    for address in addresses(message) {
        assert!(admits(address), "{address} was not taken");
        assert!(
            asked.contains(&address),
            "{address} was given out before it was in the sets"
        );
    }
    for record in message.answers.iter().chain(&message.authorities) {
        assert!(
            u64::from(record.ttl) <= TTL.as_secs(),
            "for {} s",
            record.ttl
        );
    }
    for record in &message.answers {
        // HINFO stands for ANY.
        assert!(
            [kind, 5, 13].contains(&record.kind),
            "a record of type {}",
            record.kind
        );
        match &record.data {
            Data::Binding(binding) => {
                assert!(
                    !binding.keys.contains(&5),
                    "keys of an encrypted client hello"
                );
                let there = |key: &u16| binding.keys.contains(key);
                assert!(
                    binding.mandatory.iter().all(there),
                    "what is mandatory is there"
                );
                assert!(
                    binding.target.is_empty()
                        || binding.target == record.owner
                        || is_listed(&binding.target),
                    "a binding to a name that cannot be asked for"
                );
            }
            Data::Address(_) | Data::Alias(_) | Data::Other => {}
        }
    }
}

fn is_listed(name: &Name) -> bool {
    is(name, LISTED) || is(name, IN_HOSTS)
}

/// Label by label: a dot inside a label is none between two.
fn is(name: &Name, text: &str) -> bool {
    name.iter()
        .map(Vec::as_slice)
        .eq(text.split('.').map(str::as_bytes))
}
