//! Chains without their rules, to the kernel and back, and what of the ruleset they are compared
//! with.

use super::{
    Message,
    headers::{NFTA_TABLE, attributes_of, begin, begin_of_table},
};
use crate::{
    ruleset::{Chain, Hook},
    sys::netlink::attribute::{Attributes, Writer},
};

// `enum nft_chain_attributes` and `enum nft_hook_attributes` of the kernel's
// include/uapi/linux/netfilter/nf_tables.h.
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

/// Makes a chain.
#[must_use]
pub fn add_chain(chain: &Chain) -> Message {
    let mut message = of_chain(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, chain.name);
    if let Some(hook) = chain.hook {
        let BaseFacts {
            kind,
            hook,
            priority,
            policy,
        } = base_facts(hook);
        message
            .nest(NFTA_CHAIN_HOOK, |place| {
                place
                    .u32(NFTA_HOOK_HOOKNUM, hook)
                    .u32(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
            })
            .u32(NFTA_CHAIN_POLICY, policy)
            .text(NFTA_CHAIN_TYPE, &kind);
    }
    message.finish()
}

/// Deletes a chain, which has no rules any more.
#[must_use]
pub fn delete_chain(name: &str) -> Message {
    of_chain(libc::NFT_MSG_DELCHAIN, 0, name).finish()
}

/// Asks for the chains of all tables of the family: the kernel does not let one choose
/// (`nf_tables_dump_chains` in its `net/netfilter/nf_tables_api.c`).
#[must_use]
pub fn dump_chains() -> Message {
    begin(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP).finish()
}

fn of_chain(kind: libc::c_int, flags: libc::c_int, name: &str) -> Writer {
    let mut message = begin_of_table(kind, flags);
    message.text(NFTA_CHAIN_NAME, name);
    message
}

/// A chain in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldChain {
    /// The table that it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub facts: ChainFacts,
}

/// What a chain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFacts {
    /// Where it hangs, if it has a hook.
    pub base: Option<BaseFacts>,
}

/// What a base chain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFacts {
    /// Its type.
    pub kind: String,
    /// Its hook (`NF_INET_*`).
    pub hook: u32,
    /// Its place among the chains of the same hook.
    pub priority: i32,
    /// What becomes of a packet that no rule decides (`NF_DROP` 0, `NF_ACCEPT` 1).
    pub policy: u32,
}

/// What a chain is to be, in the terms of [`parse_chain`].
#[must_use]
pub fn chain_facts(chain: &Chain) -> ChainFacts {
    ChainFacts {
        base: chain.hook.map(base_facts),
    }
}

fn base_facts(hook: Hook) -> BaseFacts {
    let number = match hook {
        Hook::Input => libc::NF_INET_LOCAL_IN,
        Hook::Forward => libc::NF_INET_FORWARD,
        Hook::Output | Hook::Divert => libc::NF_INET_LOCAL_OUT,
        Hook::Depart => libc::NF_INET_POST_ROUTING,
    };
    let policy = if hook.accepts() {
        libc::NF_ACCEPT
    } else {
        libc::NF_DROP
    };
    BaseFacts {
        kind: hook.kind().to_owned(),
        hook: number.cast_unsigned(),
        priority: hook.priority(),
        policy: policy.cast_unsigned(),
    }
}

/// A chain, from an answer to [`dump_chains`].
#[must_use]
pub fn parse_chain(message: &[u8]) -> Option<HeldChain> {
    let chain = attributes_of(message)?;
    // What others call their tables and chains may be any octets.
    let name = |number| Some(String::from_utf8_lossy(chain.text(number)?).into_owned());
    let base = match chain.octets(NFTA_CHAIN_HOOK) {
        None => None,
        Some(place) => {
            let place = Attributes::of(place)?;
            Some(BaseFacts {
                kind: name(NFTA_CHAIN_TYPE)?,
                hook: place.u32(NFTA_HOOK_HOOKNUM)?,
                priority: place.u32(NFTA_HOOK_PRIORITY)?.cast_signed(),
                policy: chain.u32(NFTA_CHAIN_POLICY)?,
            })
        }
    };
    Some(HeldChain {
        table: name(NFTA_TABLE)?,
        name: name(NFTA_CHAIN_NAME)?,
        facts: ChainFacts { base },
    })
}
