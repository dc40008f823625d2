//! Rules, to the kernel and back.

use super::{
    Message,
    expr::{self, NFTA_LIST_ELEM},
    headers::{attributes_of, begin_of_table},
};
use crate::{
    ruleset::bytecode::Expr,
    sys::netlink::attribute::{Attributes, Writer, attributes},
};

// `enum nft_rule_attributes` of the kernel's include/uapi/linux/netfilter/nf_tables.h.
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// Adds a rule to the end of a chain.
#[must_use]
pub fn add_rule(chain: &str, exprs: &[Expr]) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_APPEND;
    let mut message = of_chain(libc::NFT_MSG_NEWRULE, flags, chain);
    message.nest(NFTA_RULE_EXPRESSIONS, |list| {
        for expr in exprs {
            expr::write(list, expr);
        }
    });
    message.finish()
}

/// Deletes all rules of a chain.
#[must_use]
pub fn flush_chain(chain: &str) -> Message {
    // Without a handle it stands for all of them.
    of_chain(libc::NFT_MSG_DELRULE, 0, chain).finish()
}

/// Asks for the rules of a chain.
#[must_use]
pub fn dump_rules(chain: &str) -> Message {
    of_chain(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP, chain).finish()
}

/// Asks for the rules of all chains.
#[must_use]
pub fn dump_table_rules() -> Message {
    begin_of_table(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP).finish()
}

fn of_chain(kind: libc::c_int, flags: libc::c_int, chain: &str) -> Writer {
    let mut message = begin_of_table(kind, flags);
    message.text(NFTA_RULE_CHAIN, chain);
    message
}

/// A rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRule {
    /// The chain that it is in.
    pub chain: String,
    /// Its expressions. Nothing where one of them is of a kind that this crate never sends.
    pub exprs: Option<Vec<Expr>>,
}

/// A rule, from an answer to [`dump_table_rules`].
#[must_use]
pub fn parse_rule(message: &[u8]) -> Option<HeldRule> {
    let rule = attributes_of(message)?;
    Some(HeldRule {
        chain: rule.name(NFTA_RULE_CHAIN)?,
        exprs: exprs_of(&rule).map(|expr| expr::read(&expr?)).collect(),
    })
}

/// What a counter counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their octets, headers included.
    pub octets: u64,
}

/// The counter of a rule, from an answer to [`dump_rules`]; nothing where it has none. A rule of
/// ours has one at most.
#[must_use]
pub fn parse_counter(message: &[u8]) -> Option<Option<Count>> {
    let rule = attributes_of(message)?;
    let mut counter = None;
    for expr in exprs_of(&rule) {
        if let Some(count) = expr::count_of(&expr?) {
            counter = Some(count);
        }
    }
    Some(counter)
}

/// The attributes of each expression of a rule; nothing for one that is broken.
fn exprs_of<'a>(rule: &Attributes<'a>) -> impl Iterator<Item = Option<Attributes<'a>>> {
    // A rule without expressions has no list of them.
    attributes(rule.octets(NFTA_RULE_EXPRESSIONS).unwrap_or_default()).map(|listed| {
        let (number, expr) = listed?;
        (number == NFTA_LIST_ELEM).then(|| Attributes::of(expr))?
    })
}
