//! Ruleset → netlink messages → what the read-back makes of them: the same, for every chain, rule,
//! set and element of any policy.

use crate::sample::Sample;
use egress_init::{
    ruleset::{Ruleset, TABLE, bytecode, set::RawElement},
    sys::nftables::{self, HeldChain},
};

pub fn run(data: &[u8]) {
    let Some(sample) = Sample::take(data) else {
        return;
    };
    sample.rulesets().iter().for_each(agree);
}

fn agree(ruleset: &Ruleset) {
    for chain in &ruleset.chains {
        let intended = HeldChain {
            table: TABLE.to_owned(),
            name: chain.name.to_owned(),
            facts: nftables::chain_facts(chain),
        };
        let read = nftables::parse_chain(&nftables::add_chain(chain));
        assert_eq!(read, Some(intended));
        for rule in &chain.rules {
            let exprs = bytecode::lower(rule);
            let read = nftables::parse_rule(&nftables::add_rule(chain.name, &exprs));
            let read = read.map(|held| (held.chain, held.exprs));
            assert_eq!(read, Some((chain.name.to_owned(), Some(exprs))), "{rule}");
        }
    }
    for set in &ruleset.sets {
        let facts = nftables::parse_set(&nftables::add_set(set, 1));
        let intended = (set.name.to_owned(), nftables::set_facts(set));
        assert_eq!(facts, Some(intended));
        // What is sent says for how long, what is answered until when: the latter is read.
        let intended: Vec<_> = set
            .raw_elements()
            .map(|element| RawElement {
                life: None,
                ..element
            })
            .collect();
        let read: Vec<_> = nftables::add_elements(set.name, set.raw_elements())
            .flat_map(|message| nftables::parse_elements(&message).expect("elements"))
            .collect();
        assert_eq!(read, intended, "{}", set.name);
    }
}
