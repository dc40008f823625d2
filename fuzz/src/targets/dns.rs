//! What nameservers send, against a second reading of the same octets: only answers to the
//! question count, aliases are followed as far as they are allowed to, and no address comes in
//! that is not in a record of the name at their end.

use crate::wire::{self, A, AAAA, Data, IN, Message, Name, SOA};
use egress_init::fuzzing::{Said, follow};

const ASKED: &str = "a.example.";
const MOST_ALIASES: usize = 16;
const NO_ERROR: u16 = 0;
const NX_DOMAIN: u16 = 3;
/// Between two responses.
const MARK: &[u8] = b"\xff\xfe\xfd\xfc";

pub fn run(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else {
        return;
    };
    let kind = if how & 1 == 0 { A } else { AAAA };
    let mut name: Name = vec![b"a".to_vec(), b"example".to_vec()];
    let parts = parts(rest).into_iter().take(4);
    let responses: Vec<Vec<u8>> = if how & 2 == 0 {
        parts.map(<[u8]>::to_vec).collect()
    } else {
        // With the header and the question that the first one must have.
        parts.map(|part| with_question(part, &name, kind)).collect()
    };
    let ours = follow(ASKED, kind, responses.iter().map(Vec::as_slice)).expect("a name");
    let mut names = vec![name.clone()];
    for (said, octets) in ours.iter().zip(&responses) {
        // What is malformed is the codec's to say.
        if *said == Said::Malformed {
            return;
        }
        let message = wire::decode(octets).expect("what the codec reads, a plain reading reads");
        assert_eq!(*said, expected(&message, &mut names, kind));
        name = names[names.len() - 1].clone();
        if let Said::Follow(next) = said {
            assert_eq!(*next, name);
        }
    }
}

fn parts(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        parts.push(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    parts.push(rest);
    parts
}

/// Flags and the counts of answers and authorities come from the part, which goes on with records.
fn with_question(part: &[u8], name: &Name, kind: u16) -> Vec<u8> {
    let mut head = [0; 4];
    let taken = part.len().min(4);
    head[..taken].copy_from_slice(&part[..taken]);
    let [high, low, answers, authorities] = head;
    let mut octets = vec![
        0,
        7,
        high | 0x80,
        low,
        0,
        1,
        0,
        answers,
        0,
        authorities,
        0,
        0,
    ];
    for label in name {
        octets.push(u8::try_from(label.len()).expect("a short label"));
        octets.extend_from_slice(label);
    }
    octets.push(0);
    octets.extend_from_slice(&kind.to_be_bytes());
    octets.extend_from_slice(&IN.to_be_bytes());
    octets.extend_from_slice(&part[taken..]);
    octets
}

fn expected(message: &Message, names: &mut Vec<Name>, kind: u16) -> Said {
    const RESPONSE: u16 = 0x8000;
    const TRUNCATED: u16 = 0x0200;
    let settles = matches!(message.code, NO_ERROR | NX_DOMAIN);
    let last = names[names.len() - 1].clone();
    let asked = match &message.questions[..] {
        [] => !settles,
        [(name, of, class)] => *name == last && *of == kind && *class == IN,
        _ => false,
    };
    if message.flags & RESPONSE == 0 || !asked {
        return Said::Ignored;
    }
    if message.flags & TRUNCATED != 0 || !settles {
        return Said::Unusable;
    }
    let start = names.len();
    loop {
        let last = &names[names.len() - 1];
        let of_last: Vec<_> = message
            .answers
            .iter()
            .filter(|r| r.owner == *last && r.class == IN)
            .collect();
        let addresses: Vec<_> = of_last
            .iter()
            .filter(|record| record.kind == kind)
            .filter_map(|record| match record.data {
                Data::Address(address) => Some(address),
                _ => None,
            })
            .collect();
        if !addresses.is_empty() {
            return Said::Addresses(addresses);
        }
        let Some(target) = of_last.iter().find_map(|record| match &record.data {
            Data::Alias(target) => Some(target.clone()),
            _ => None,
        }) else {
            break;
        };
        if names.contains(&target) {
            return Said::Loop;
        }
        if names.len() > MOST_ALIASES {
            return Said::TooLong;
        }
        names.push(target);
    }
    if message.code == NX_DOMAIN {
        return Said::NxDomain;
    }
    let last = &names[names.len() - 1];
    let absent = message
        .authorities
        .iter()
        .any(|record| record.kind == SOA && record.filled && last.ends_with(&record.owner));
    if names.len() > start && !absent {
        Said::Follow(names[names.len() - 1].clone())
    } else {
        Said::NoData
    }
}
