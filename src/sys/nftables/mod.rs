//! The ruleset's values as netlink messages, and the kernel's answers as values again.
//!
//! A file for each kind of thing that `nf_tables` has; all are written and read as attributes.
//! A library is not needed for it, and has to be trusted: libnftnl ends the process where an
//! attribute has another length than it expects. What it makes of the same values is the second
//! opinion of the tests.

#![deny(unsafe_code)]

mod batch;
mod chain;
mod element;
mod expr;
mod headers;
mod rule;
mod set;
mod table;
#[cfg(test)]
mod tests;

pub use super::netlink::Message;
pub use batch::{batch_begin, batch_end};
pub use chain::{
    BaseFacts, ChainFacts, HeldChain, add_chain, chain_facts, delete_chain, dump_chains,
    parse_chain,
};
pub use element::{
    add_elements, delete_elements, dump_elements, ensure_elements, flush_set, parse_elements,
};
pub use rule::{
    Count, HeldRule, add_rule, dump_rules, dump_table_rules, flush_chain, parse_counter, parse_rule,
};
pub use set::{SetFacts, add_set, delete_set, dump_sets, parse_set, set_facts};
pub use table::{add_table, delete_table, get_table, parse_table};
