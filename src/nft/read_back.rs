//! The ruleset in the kernel against the one intended (I3).
//!
//! Everything of the table is compared: how many things it holds, each chain's hook, priority
//! and policy, each rule's expressions in order, each set's type and every element.

use super::{NftError, Nftables};
use crate::{
    ruleset::{
        Chain, Elements, Ruleset, Set,
        bytecode::{self, Expr},
        contents::is_filled_once,
        set::RawElement,
    },
    sys::nftnl,
};
use std::{thread, time::Duration};

pub fn compare(kernel: &mut Nftables, intended: &Ruleset) -> Result<(), NftError> {
    compare_table(kernel, intended)?;
    for chain in &intended.chains {
        compare_chain(kernel, chain)?;
    }
    for set in &intended.sets {
        compare_facts(kernel, set)?;
        compare_elements(kernel, set)?;
    }
    Ok(())
}

/// The mark of the table in the kernel, where all else is as intended but what the sets of lists
/// and names hold.
pub fn compare_structure(kernel: &mut Nftables, intended: &Ruleset) -> Result<u32, NftError> {
    compare_table(kernel, intended)?;
    let mut mark = None;
    for chain in &intended.chains {
        let rules = kernel.ask(&nftnl::dump_rules(chain.name), |message| {
            Some(nftnl::parse_rule(message).unwrap_or_default())
        })?;
        mark = mark.or_else(|| rules.iter().find_map(|rule| mark_of(rule)));
    }
    let Some(mark) = mark else {
        return Err(NftError::Different("the mark of flows".to_owned()));
    };
    let intended = intended.clone().with_mark(mark);
    for chain in &intended.chains {
        compare_chain(kernel, chain)?;
    }
    for set in &intended.sets {
        compare_facts(kernel, set)?;
        if let Elements::IcmpTypes(_) = set.elements {
            compare_elements(kernel, set)?;
        }
    }
    Ok(intended.mark().unwrap_or(mark))
}

/// The mark that a rule sets, if it sets one.
fn mark_of(rule: &[Expr]) -> Option<u32> {
    rule.windows(2).find_map(|pair| match pair {
        [Expr::Immediate { value, .. }, Expr::SetCtMark { .. }] => {
            Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
        }
        _ => None,
    })
}

fn compare_table(kernel: &mut Nftables, intended: &Ruleset) -> Result<(), NftError> {
    let held = kernel.ask(&nftnl::get_table(), nftnl::parse_table)?;
    let (used, flags) = held.first().copied().unwrap_or_default();
    let expected = u32::try_from(intended.chains.len() + intended.sets.len()).ok();
    same("the number of chains and sets", Some(used) == expected)?;
    same("the flag dormant", flags & DORMANT == 0)
}

/// `NFT_TABLE_F_DORMANT`: the table is there and decides nothing.
const DORMANT: u32 = 1;

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

fn compare_facts(kernel: &mut Nftables, set: &Set) -> Result<(), NftError> {
    let facts = kernel.ask(&nftnl::get_set(set.name), nftnl::parse_set)?;
    same(
        &format!("set {}", set.name),
        facts == [nftnl::set_facts(set)],
    )
}

fn compare_elements(kernel: &mut Nftables, set: &Set) -> Result<(), NftError> {
    let mut intended: Vec<RawElement> = set.raw_elements().collect();
    intended.sort_unstable();
    let mut patience = PATIENCE;
    while !is_intended(&held(kernel, set)?, &intended, set) {
        patience -= 1;
        same(&format!("what set {} holds", set.name), patience > 0)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Both sorted. Elements that end must be there unless they end soon, must not live longer than
/// intended, and others may be there only if they end soon.
fn is_intended(held: &[RawElement], intended: &[RawElement], set: &Set) -> bool {
    if !set.is_timed() {
        return held == intended;
    }
    let find = |among: &[RawElement], element: &RawElement| {
        let order = |other: &RawElement| (other.key, other.end).cmp(&(element.key, element.end));
        let index = among.binary_search_by(order).ok()?;
        among[index].life
    };
    let is_there = |element: &RawElement| {
        element.life.is_some_and(|life| life <= SOON) || find(held, element).is_some()
    };
    let may_be_there = |element: &RawElement| {
        let longest = find(intended, element).unwrap_or_default() + SOON;
        element.life.is_some_and(|life| life <= longest)
    };
    let whole = is_filled_once(set.name) || intended.iter().all(is_there);
    whole && held.iter().all(may_be_there)
}

/// What may pass between an element's being intended and its being read.
const SOON: Duration = Duration::from_secs(5);

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
