//! The ruleset in the kernel against the one intended (I3).
//!
//! Everything of the table is compared: how many things it holds, each chain's hook, priority
//! and policy, each rule's expressions in order, each set's type and every element.

use super::{NftError, Nftables};
use crate::{
    ruleset::{
        Ruleset, Set, TABLE,
        bytecode::{self, Expr},
        contents::is_filled_once,
        set::RawElement,
    },
    sys::nftables::{self, HeldRule},
};
use std::{fmt, thread, time::Duration};

/// Whether a set holds what it should: sorted both, what it holds first.
type Judge = dyn Fn(&[RawElement], &[RawElement], &Set) -> bool;

pub fn compare(kernel: &mut Nftables, intended: &Ruleset, judge: &Judge) -> Result<(), NftError> {
    compare_table(kernel, intended)?;
    let rules = held_rules(kernel)?;
    compare_chains(kernel, intended, &rules)?;
    compare_facts(kernel, intended)?;
    for set in &intended.sets {
        compare_elements(kernel, set, judge)?;
    }
    Ok(())
}

/// The mark of the table in the kernel, where all else is as intended but what the sets of lists
/// and names hold.
pub fn compare_structure(kernel: &mut Nftables, intended: &Ruleset) -> Result<u32, NftError> {
    compare_table(kernel, intended)?;
    let rules = held_rules(kernel)?;
    let mut exprs = rules.iter().filter_map(|rule| rule.exprs.as_deref());
    let Some(mark) = exprs.find_map(mark_of) else {
        return Err(NftError::Different("the mark of flows".to_owned()));
    };
    let intended = intended.clone().with_mark(mark);
    compare_chains(kernel, &intended, &rules)?;
    compare_facts(kernel, &intended)?;
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
    let (used, flags) = kernel
        .conversation
        .get(&nftables::get_table(), nftables::parse_table)?;
    let expected = u32::try_from(intended.chains.len() + intended.sets.len()).ok();
    same(
        format_args!("the number of chains and sets"),
        Some(used) == expected,
    )?;
    same(format_args!("the flag dormant"), flags & DORMANT == 0)
}

/// `NFT_TABLE_F_DORMANT`: the table is there and decides nothing.
const DORMANT: u32 = 1;

/// All rules of the table, each chain's in order.
fn held_rules(kernel: &mut Nftables) -> Result<Vec<HeldRule>, NftError> {
    let rules = nftables::dump_table_rules();
    Ok(kernel.conversation.ask(&rules, nftables::parse_rule)?)
}

fn compare_chains(
    kernel: &mut Nftables,
    intended: &Ruleset,
    rules: &[HeldRule],
) -> Result<(), NftError> {
    let chains = kernel
        .conversation
        .ask(&nftables::dump_chains(), nftables::parse_chain)?;
    let ours = || chains.iter().filter(|held| held.table == TABLE);
    for chain in &intended.chains {
        let found = ours().find(|held| held.name == chain.name);
        let facts = found.map(|held| &held.facts);
        same(
            format_args!("chain {}", chain.name),
            facts == Some(&nftables::chain_facts(chain)),
        )?;
        let held = || rules.iter().filter(|rule| rule.chain == chain.name);
        same(
            format_args!("the number of rules in chain {}", chain.name),
            held().count() == chain.rules.len(),
        )?;
        for (held, rule) in held().zip(&chain.rules) {
            same(
                format_args!("rule `{rule}` of chain {}", chain.name),
                held.exprs.as_ref() == Some(&bytecode::lower(rule)),
            )?;
        }
    }
    Ok(())
}

fn compare_facts(kernel: &mut Nftables, intended: &Ruleset) -> Result<(), NftError> {
    let held = kernel
        .conversation
        .ask(&nftables::dump_sets(), nftables::parse_set)?;
    for set in &intended.sets {
        let found = held.iter().find(|(name, _)| name == set.name);
        let facts = found.map(|(_, facts)| *facts);
        same(
            format_args!("set {}", set.name),
            facts == Some(nftables::set_facts(set)),
        )?;
    }
    Ok(())
}

fn compare_elements(kernel: &mut Nftables, set: &Set, judge: &Judge) -> Result<(), NftError> {
    let mut intended: Vec<RawElement> = set.raw_elements().collect();
    intended.sort_unstable();
    let mut patience = PATIENCE;
    while !judge(&held(kernel, set)?, &intended, set) {
        patience -= 1;
        same(format_args!("what set {} holds", set.name), patience > 0)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Both sorted. Elements that end must be there unless they end soon, must not live longer than
/// intended, and others may be there only if they end soon.
pub fn is_intended(held: &[RawElement], intended: &[RawElement], set: &Set) -> bool {
    if !set.is_timed() {
        return held == intended;
    }
    let may_be_there = |element: &RawElement| {
        let longest = find(intended, element).unwrap_or_default() + SOON;
        element.life.is_some_and(|life| life <= longest)
    };
    has_intended(held, intended, set) && held.iter().all(may_be_there)
}

/// The same, but for elements that end: there may be others, and they may live longer.
pub fn has_intended(held: &[RawElement], intended: &[RawElement], set: &Set) -> bool {
    if !set.is_timed() {
        return held == intended;
    }
    let is_there = |element: &RawElement| {
        element.life.is_some_and(|life| life <= SOON) || find(held, element).is_some()
    };
    is_filled_once(set.name) || intended.iter().all(is_there)
}

/// How long an element lives that is among these, which are sorted.
fn find(among: &[RawElement], element: &RawElement) -> Option<Duration> {
    let order = |other: &RawElement| (other.key, other.end).cmp(&(element.key, element.end));
    let index = among.binary_search_by(order).ok()?;
    among[index].life
}

/// What may pass between an element's being intended and its being read.
const SOON: Duration = Duration::from_secs(5);

/// How often a set is read again that is not as intended. A hash table that was just filled grows
/// in the background, and a walk over it meanwhile may miss elements or meet them twice (seen
/// with 50,000; kernel, `lib/rhashtable.c`, `rhashtable_walk_next`).
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

fn held(kernel: &mut Nftables, set: &Set) -> Result<Vec<RawElement>, NftError> {
    let held = kernel
        .conversation
        .ask(&nftables::dump_elements(set.name), nftables::parse_elements)?;
    let mut held: Vec<RawElement> = held.into_iter().flatten().collect();
    held.sort_unstable();
    held.dedup();
    Ok(held)
}

/// What is compared is put in words only where it differs.
fn same(what: fmt::Arguments<'_>, equal: bool) -> Result<(), NftError> {
    if equal {
        Ok(())
    } else {
        Err(NftError::Different(what.to_string()))
    }
}
