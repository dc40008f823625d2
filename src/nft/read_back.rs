//! The ruleset in the kernel against the one intended (I3).
//!
//! Everything of the table is compared: how many things it holds, each chain's hook, priority
//! and policy, each rule's expressions in order, each set's type and every element.

use super::{NftError, Nftables};
use crate::{
    ruleset::{Chain, Ruleset, Set, bytecode, set::RawElement},
    sys::nftnl,
};
use std::{thread, time::Duration};

pub fn compare(kernel: &mut Nftables, intended: &Ruleset) -> Result<(), NftError> {
    let held = kernel.ask(&nftnl::get_table(), nftnl::parse_table)?;
    let expected = u32::try_from(intended.chains.len() + intended.sets.len()).ok();
    same(
        "the number of chains and sets",
        held.first().copied() == expected,
    )?;
    for chain in &intended.chains {
        compare_chain(kernel, chain)?;
    }
    for set in &intended.sets {
        compare_set(kernel, set)?;
    }
    Ok(())
}

fn compare_chain(kernel: &mut Nftables, chain: &Chain) -> Result<(), NftError> {
    let facts = kernel.ask(&nftnl::get_chain(chain.name), nftnl::parse_chain)?;
    same(
        &format!("chain {}", chain.name),
        facts == [nftnl::chain_facts(chain)],
    )?;
    let rules = kernel.ask(&nftnl::dump_rules(chain.name), |message| {
        Some(nftnl::parse_rule(message))
    })?;
    same(
        &format!("the number of rules in chain {}", chain.name),
        rules.len() == chain.rules.len(),
    )?;
    for (held, rule) in rules.iter().zip(&chain.rules) {
        let equal = held
            .as_ref()
            .is_some_and(|held| *held == bytecode::lower(rule));
        same(&format!("rule `{rule}` of chain {}", chain.name), equal)?;
    }
    Ok(())
}

fn compare_set(kernel: &mut Nftables, set: &Set) -> Result<(), NftError> {
    let facts = kernel.ask(&nftnl::get_set(set.name), nftnl::parse_set)?;
    same(
        &format!("set {}", set.name),
        facts == [nftnl::set_facts(set)],
    )?;
    let mut intended: Vec<RawElement> = set.raw_elements().collect();
    intended.sort_unstable();
    let mut patience = PATIENCE;
    while held(kernel, set)? != intended {
        patience -= 1;
        same(&format!("what set {} holds", set.name), patience > 0)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// How often a set is read again that is not as intended. A hash table that was just filled grows
/// in the background, and a walk over it meanwhile may miss elements or meet them twice (seen
/// with 50,000; kernel, `lib/rhashtable.c`, `rhashtable_walk_next`).
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

fn held(kernel: &mut Nftables, set: &Set) -> Result<Vec<RawElement>, NftError> {
    let held = kernel.ask(&nftnl::dump_elements(set.name), nftnl::parse_elements)?;
    let mut held: Vec<RawElement> = held.into_iter().flatten().collect();
    held.sort_unstable();
    held.dedup();
    Ok(held)
}

fn same(what: &str, equal: bool) -> Result<(), NftError> {
    if equal {
        Ok(())
    } else {
        Err(NftError::Different(what.to_owned()))
    }
}
