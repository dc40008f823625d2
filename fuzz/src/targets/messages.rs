//! Ruleset → netlink messages → what the read-back makes of them: the same, for every chain, rule,
//! set and element of any policy.

use crate::sample::Sample;
use egress_init::{
    ruleset::{Ruleset, bytecode, set::RawElement},
    sys::nftnl,
};

pub fn run(data: &[u8]) {
    let Some(sample) = Sample::take(data) else {
        return;
    };
    sample.rulesets().iter().for_each(agree);
}

fn agree(ruleset: &Ruleset) {
    for chain in &ruleset.chains {
        let facts = nftnl::parse_chain(&aligned(&nftnl::add_chain(chain)));
        assert_eq!(facts, Some(nftnl::chain_facts(chain)));
        for rule in &chain.rules {
            let exprs = bytecode::lower(rule);
            let read = nftnl::parse_rule(&nftnl::add_rule(chain.name, &exprs));
            let read = read.map(|held| (held.chain, held.exprs));
            assert_eq!(read, Some((chain.name.to_owned(), Some(exprs))), "{rule}");
        }
    }
    for set in &ruleset.sets {
        let facts = nftnl::parse_set(&aligned(&nftnl::add_set(set, 1)));
        let intended = (set.name.to_owned(), nftnl::set_facts(set));
        assert_eq!(facts, Some(intended));
        // What is sent says for how long, what is answered until when: the latter is read.
        let intended: Vec<_> = set
            .raw_elements()
            .map(|element| RawElement {
                life: None,
                ..element
            })
            .collect();
        let read: Vec<_> = nftnl::add_elements(set.name, set.raw_elements())
            .flat_map(|message| nftnl::parse_elements(&message).expect("elements"))
            .collect();
        assert_eq!(read, intended, "{}", set.name);
    }
}

/// The message in memory that is aligned as libnftnl wants it.
fn aligned(message: &[u8]) -> Vec<u8> {
    let message = message.to_vec();
    assert!(message.as_ptr().cast::<u32>().is_aligned());
    message
}
