//! libnftnl as the second opinion: it writes the same octets from the same values, and reads from
//! ours what was meant.

#![allow(unsafe_code, clippy::unwrap_used)]
// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod libnftnl;

use super::*;
use crate::{
    policy::{Element, Nameservers, Policy, Timed},
    ruleset::{
        Chain, Dns, Elements, Hook, Key, Proxy, Ruleset, Set, SocketOwner, TABLE, bytecode,
        enforced, locked, set::Family,
    },
    service::{PortRange, Protocol, Service},
};
use libnftnl::{
    RawChain, RawRule, RawSet, RawTable, as_question, built, c_string, header, message, text,
    written,
};
use nftnl::{MsgType, ProtoFamily, nftnl_sys as sys};
use std::time::Duration;

/// An attribute, by its number.
#[derive(Debug, PartialEq, Eq)]
enum Value {
    Octets(Vec<u8>),
    Nest(Vec<(u16, Value)>),
}

/// The headers of a message, and its attributes whatever their order: the kernel finds them by
/// their numbers. In a list of expressions or elements, which is the only nest of the first level,
/// it does not look at these.
fn unordered(message: &[u8]) -> (&[u8], Vec<(u16, Value)>) {
    let (headers, list) = message.split_at(20);
    let mut values = values(list);
    for (_, value) in &mut values {
        if let Value::Nest(list) = value {
            for (number, _) in list {
                *number = 1;
            }
        }
    }
    (headers, values)
}

fn values(mut list: &[u8]) -> Vec<(u16, Value)> {
    const NESTED: u16 = 0x8000;
    let mut found = Vec::new();
    while let Some(&[a, b, c, d]) = list.first_chunk() {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let number = u16::from_ne_bytes([c, d]);
        let value = if number & NESTED == 0 {
            Value::Octets(list[4..len].to_vec())
        } else {
            Value::Nest(values(&list[4..len]))
        };
        found.push((number, value));
        list = &list[len.next_multiple_of(4)..];
    }
    found.sort_by_key(|(number, _)| *number);
    found
}

fn chains() -> Vec<Chain> {
    let hooks = [
        None,
        Some(Hook::Input),
        Some(Hook::Forward),
        Some(Hook::Output),
        Some(Hook::Divert),
        Some(Hook::Depart),
    ];
    hooks
        .map(|hook| Chain {
            name: "a_chain",
            hook,
            rules: Vec::new(),
        })
        .into()
}

/// One of each key, without elements, those that may end both ways.
fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for family in Family::ALL {
        let services = [Key::Service(family), Key::ServiceRange(family)];
        let of_services = [Elements::Services(Vec::new()), Elements::Timed(Vec::new())];
        let services = services
            .into_iter()
            .flat_map(|key| of_services.clone().map(|elements| (key, elements)));
        sets.extend(services.map(|(key, elements)| Set {
            name: "a_set",
            key,
            size: None,
            elements,
        }));
        sets.push(Set {
            name: "a_set",
            key: Key::Service(family),
            size: Some(100_000),
            elements: Elements::Services(Vec::new()),
        });
    }
    sets
}

/// With every kind of rule and of element that there is.
fn rulesets() -> Vec<Ruleset> {
    let element = |network: &str, first, last| Element {
        network: network.parse().unwrap(),
        service: Service {
            protocol: Protocol::Tcp,
            ports: PortRange::new(first, last).unwrap(),
        },
    };
    let policy = Policy {
        allow: vec![
            element("192.0.2.7/32", 443, 443),
            element("198.51.100.0/24", 443, 8443),
            element("2001:db8::1/128", 443, 443),
            element("2001:db8:1::/48", 1, 65535),
        ],
        deny: vec![element("198.51.100.9/32", 443, 443)],
        inbound: vec![element("0.0.0.0/0", 8000, 8100)],
    };
    // So many of one length that they have a hash table.
    let many = (0..4096).flat_map(|index| {
        let [v4, v6] = [
            format!("10.{}.{}.0/24", index >> 8, index & 255),
            format!("2001:db8:2:{index:x}::/64"),
        ];
        [element(&v4, 443, 443), element(&v6, 443, 443)]
    });
    let networks = Policy {
        allow: many.collect(),
        ..Policy::default()
    };
    let nameservers = Nameservers {
        servers: [([192, 0, 2, 53], 53).into()].into(),
        unknown: true,
    };
    let resolver = SocketOwner {
        uid: 0,
        gid: Some(65_000),
    };
    let timed: Vec<Timed> = ["192.0.2.8/32", "2001:db8::2/128"]
        .map(|address| Timed {
            element: element(address, 443, 443),
            life: Duration::from_millis(60_001),
        })
        .into();
    let proxy = Proxy {
        nameservers: &nameservers,
        resolver,
        forwarder: true,
        local: &[([127, 0, 0, 11], 53).into()],
        generation: [7; 32],
        names: &timed,
        past: &timed,
    };
    vec![
        locked(None),
        locked(Some((&nameservers, &[resolver]))),
        enforced(&policy, Dns::Closed),
        enforced(&networks, Dns::Closed),
        enforced(&policy, Dns::Servers(&nameservers)),
        enforced(&policy, Dns::Proxy(&proxy)),
    ]
}

#[test]
fn the_table_is_written_as_libnftnl_writes_it() {
    let table = nftnl::Table::new(c_string(TABLE), ProtoFamily::Inet);
    let add = written(&table, MsgType::Add);
    assert_eq!(add_table(), add);
    assert_eq!(delete_table(), written(&table, MsgType::Del));
    assert_eq!(get_table(), as_question(add, libc::NFT_MSG_GETTABLE));
}

#[test]
fn the_table_is_read_as_libnftnl_reads_it() {
    // Dormant, with three things in it.
    let table = RawTable::new();
    let name = c_string(TABLE);
    // SAFETY: the table is live and copies the string.
    unsafe {
        sys::nftnl_table_set_str(table.0, sys::NFTNL_TABLE_NAME as u16, name.as_ptr());
        sys::nftnl_table_set_u32(table.0, sys::NFTNL_TABLE_FLAGS as u16, 1);
    }
    let mut answer = message(libc::NFT_MSG_NEWTABLE, 0, |header| {
        // SAFETY: the buffer has room for any message, and the table is live.
        unsafe { sys::nftnl_table_nlmsg_build_payload(header, table.0) };
    });
    // The kernel says how many; libnftnl reads that and does not write it. Without it there is
    // nothing to compare.
    assert_eq!(parse_table(&answer), None);
    answer.extend([8, 0, 3, 0, 0, 0, 0, 3]);
    let len = u32::try_from(answer.len()).unwrap();
    answer[..4].copy_from_slice(&len.to_ne_bytes());
    let read = RawTable::new();
    // SAFETY: a whole message, and the table is live.
    let facts = unsafe {
        assert_eq!(sys::nftnl_table_nlmsg_parse(header(&answer), read.0), 0);
        (
            sys::nftnl_table_get_u32(read.0, sys::NFTNL_TABLE_USE as u16),
            sys::nftnl_table_get_u32(read.0, sys::NFTNL_TABLE_FLAGS as u16),
        )
    };
    assert_eq!(facts, (3, 1));
    assert_eq!(parse_table(&answer), Some(facts));
}

#[test]
fn chains_are_written_as_libnftnl_writes_them() {
    let table = nftnl::Table::new(c_string(TABLE), ProtoFamily::Inet);
    for chain in chains() {
        let mut theirs = nftnl::Chain::new(c_string(chain.name), &table);
        assert_eq!(delete_chain(chain.name), written(&theirs, MsgType::Del));
        if let Some(hook) = chain.hook {
            let (place, kind, policy) = match hook {
                Hook::Input => (nftnl::Hook::In, nftnl::ChainType::Filter, false),
                Hook::Forward => (nftnl::Hook::Forward, nftnl::ChainType::Filter, false),
                Hook::Output => (nftnl::Hook::Out, nftnl::ChainType::Filter, false),
                Hook::Divert => (nftnl::Hook::Out, nftnl::ChainType::Nat, true),
                Hook::Depart => (nftnl::Hook::PostRouting, nftnl::ChainType::Filter, true),
            };
            theirs.set_hook(place, hook.priority());
            theirs.set_type(kind);
            theirs.set_policy(if policy {
                nftnl::Policy::Accept
            } else {
                nftnl::Policy::Drop
            });
        }
        assert_eq!(add_chain(&chain), written(&theirs, MsgType::Add));
    }
    let all = message(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP, |_| {});
    assert_eq!(dump_chains(), all);
}

#[test]
fn chains_are_read_as_libnftnl_reads_them() {
    for chain in chains() {
        let message = add_chain(&chain);
        let read = RawChain::new();
        let raw = read.0;
        let number = |attribute| {
            // SAFETY: the chain is live, and the attribute is of this type.
            unsafe { sys::nftnl_chain_get_u32(raw, attribute as u16) }
        };
        let name = |attribute| {
            // SAFETY: the chain is live, and the string is one of it.
            unsafe { text(sys::nftnl_chain_get_str(raw, attribute as u16)) }
        };
        // SAFETY: a whole message, and the chain is live.
        let has_hook = unsafe {
            assert_eq!(sys::nftnl_chain_nlmsg_parse(header(&message), raw), 0);
            sys::nftnl_chain_is_set(raw, sys::NFTNL_CHAIN_HOOKNUM as u16)
        };
        let theirs = HeldChain {
            table: name(sys::NFTNL_CHAIN_TABLE),
            name: name(sys::NFTNL_CHAIN_NAME),
            facts: ChainFacts {
                base: has_hook.then(|| BaseFacts {
                    kind: name(sys::NFTNL_CHAIN_TYPE),
                    hook: number(sys::NFTNL_CHAIN_HOOKNUM),
                    priority: number(sys::NFTNL_CHAIN_PRIO).cast_signed(),
                    policy: number(sys::NFTNL_CHAIN_POLICY),
                }),
            },
        };
        assert_eq!(theirs.facts, chain_facts(&chain));
        assert_eq!(parse_chain(&message), Some(theirs));
    }
}

#[test]
fn a_chain_of_another_table_may_have_any_name() {
    let mut message = add_chain(&chains()[0]);
    let at = message.windows(7).position(|part| part == b"a_chain");
    message[at.unwrap()] = 0xff;
    let read = parse_chain(&message).unwrap();
    assert_eq!((&*read.table, &*read.name), (TABLE, "\u{fffd}_chain"));
}

#[test]
fn sets_are_written_as_libnftnl_writes_them() {
    for set in sets() {
        let theirs = RawSet::of_table(Some(set.name));
        let delete = theirs.message(libc::NFT_MSG_DELSET, 0);
        assert_eq!(delete_set(set.name), delete);
        let mut flags = 0;
        if let Key::ServiceRange(_) = set.key {
            let fields = set.key.fields();
            let (data, len) = (fields.as_ptr().cast(), fields.len() as u32);
            let attribute = sys::NFTNL_SET_DESC_CONCAT as u16;
            // SAFETY: the set is live and copies the octets.
            unsafe { sys::nftnl_set_set_data(theirs.0, attribute, data, len) };
            // NFT_SET_INTERVAL and NFT_SET_CONCAT.
            flags |= 0x84;
        }
        if set.is_timed() {
            // NFT_SET_TIMEOUT.
            flags |= 0x10;
        }
        if let Some(size) = set.size {
            theirs.u32(sys::NFTNL_SET_DESC_SIZE, size);
        }
        theirs.u32(sys::NFTNL_SET_FLAGS, flags);
        theirs.u32(sys::NFTNL_SET_ID, 17);
        theirs.u32(sys::NFTNL_SET_KEY_TYPE, set.key.datatype());
        theirs.u32(sys::NFTNL_SET_KEY_LEN, set.key.octets());
        let add = theirs.message(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        assert_eq!(add_set(&set, 17), add);
    }
    let all = RawSet::of_table(None).message(libc::NFT_MSG_GETSET, libc::NLM_F_DUMP);
    assert_eq!(dump_sets(), all);
}

#[test]
fn sets_are_read_as_libnftnl_reads_them() {
    for set in sets() {
        let message = add_set(&set, 17);
        let read = RawSet::new();
        let number = |attribute| {
            // SAFETY: the set is live, and the attribute is of this type.
            unsafe { sys::nftnl_set_get_u32(read.0, attribute as u16) }
        };
        // SAFETY: a whole message; the set is live, and the string is one of it.
        let name = unsafe {
            assert_eq!(sys::nftnl_set_nlmsg_parse(header(&message), read.0), 0);
            let name = sys::NFTNL_SET_NAME as u16;
            text(sys::nftnl_set_get_str(read.0, name))
        };
        let facts = (
            number(sys::NFTNL_SET_FLAGS),
            number(sys::NFTNL_SET_KEY_TYPE),
            number(sys::NFTNL_SET_KEY_LEN),
            // It says 0 where there is none.
            Some(number(sys::NFTNL_SET_DESC_SIZE)).filter(|size| *size > 0),
        );
        assert_eq!(number(sys::NFTNL_SET_ID), 17);
        assert_eq!(facts, set_facts(&set));
        assert_eq!(parse_set(&message), Some((name, facts)));
    }
}

#[test]
fn a_batch_is_framed_as_libnftnl_frames_it() {
    // SAFETY: both write one header with a family header to the buffer.
    let [begin, end] = unsafe {
        [
            built(|buffer| sys::nftnl_batch_begin(buffer, 0)),
            built(|buffer| sys::nftnl_batch_end(buffer, 0)),
        ]
    };
    assert_eq!(batch_begin(), begin);
    assert_eq!(batch_end(), end);
}

#[test]
fn what_is_said_of_all_rules_or_elements_is_as_libnftnl_says_it() {
    let rules = RawRule::of_table(Some("a_chain"));
    let flush = rules.message(libc::NFT_MSG_DELRULE, 0);
    assert_eq!(flush_chain("a_chain"), flush);
    let dump = rules.message(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP);
    assert_eq!(dump_rules("a_chain"), dump);
    let dump = RawRule::of_table(None).message(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP);
    assert_eq!(dump_table_rules(), dump);
    let set = RawSet::of_table(Some("a_set"));
    let flush = set.elements(libc::NFT_MSG_DELSETELEM, 0);
    assert_eq!(unordered(&flush_set("a_set")), unordered(&flush));
    let dump = set.elements(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP);
    assert_eq!(unordered(&dump_elements("a_set")), unordered(&dump));
}

#[test]
fn rules_that_libnftnl_reads_it_writes_the_same() {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_APPEND;
    for ruleset in rulesets() {
        for chain in &ruleset.chains {
            for rule in &chain.rules {
                let message = add_rule(chain.name, &bytecode::lower(rule));
                let read = RawRule::new();
                // SAFETY: a whole message, and the rule is live.
                let parsed = unsafe { sys::nftnl_rule_nlmsg_parse(header(&message), read.0) };
                assert_eq!(parsed, 0, "{rule}");
                let written = read.message(libc::NFT_MSG_NEWRULE, flags);
                assert_eq!(unordered(&message), unordered(&written), "{rule}");
            }
        }
    }
}

#[test]
fn elements_that_libnftnl_reads_it_writes_the_same() {
    let mut lists = 0;
    for set in rulesets().iter().flat_map(|ruleset| &ruleset.sets) {
        let kinds = [
            (
                add_elements(set.name, set.raw_elements()).collect::<Vec<_>>(),
                libc::NFT_MSG_NEWSETELEM,
                libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            ),
            (
                ensure_elements(set.name, set.raw_elements()).collect(),
                libc::NFT_MSG_NEWSETELEM,
                libc::NLM_F_CREATE,
            ),
            (
                delete_elements(set.name, set.raw_elements()).collect(),
                libc::NFT_MSG_DELSETELEM,
                0,
            ),
        ];
        for (messages, kind, flags) in kinds {
            for message in messages {
                let read = RawSet::new();
                // SAFETY: a whole message, and the set is live.
                let parsed = unsafe { sys::nftnl_set_elems_nlmsg_parse(header(&message), read.0) };
                assert_eq!(parsed, 0, "{}", set.name);
                let written = read.elements(kind, flags);
                assert_eq!(unordered(&message), unordered(&written), "{}", set.name);
                lists += 1;
            }
        }
    }
    assert!(lists > 20, "{lists}");
}
