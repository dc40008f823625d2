//! The kernel's answers as values, and what of the ruleset they are compared with.

// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use super::{flags_of, set::OwnedSet, text};
use crate::ruleset::{Chain, Hook, Set};
use nftnl::nftnl_sys as sys;
use std::ptr::NonNull;

/// How many chains, sets and objects the table has, and its flags, from an answer to
/// [`get_table`].
#[must_use]
pub fn parse_table(message: &[u8]) -> Option<(u32, u32)> {
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_table_alloc() })?;
    // SAFETY: `header` is a whole message, and `raw` is a live table that is freed once, here.
    unsafe {
        let parsed = sys::nftnl_table_nlmsg_parse(header, raw.as_ptr()) == 0;
        let used = sys::nftnl_table_get_u32(raw.as_ptr(), sys::NFTNL_TABLE_USE as u16);
        let flags = sys::nftnl_table_get_u32(raw.as_ptr(), sys::NFTNL_TABLE_FLAGS as u16);
        sys::nftnl_table_free(raw.as_ptr());
        parsed.then_some((used, flags))
    }
}

/// What a chain is: its hook number, priority and policy if it has a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFacts {
    /// Type, hook (`NF_INET_*`), priority and policy (`NF_DROP` 0, `NF_ACCEPT` 1).
    pub base: Option<(String, u32, i32, u32)>,
}

/// What a chain is to be, in the terms of [`parse_chain`].
#[must_use]
pub fn chain_facts(chain: &Chain) -> ChainFacts {
    let base = chain.hook.map(|hook| {
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
        (
            hook.kind().to_owned(),
            number.cast_unsigned(),
            hook.priority(),
            policy.cast_unsigned(),
        )
    });
    ChainFacts { base }
}

/// The facts of a chain, from an answer to [`get_chain`].
#[must_use]
pub fn parse_chain(message: &[u8]) -> Option<ChainFacts> {
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_chain_alloc() })?;
    // SAFETY: `header` is a whole message; `raw` is a live chain that is freed once, here; the
    // type is a string of it, copied before.
    unsafe {
        let chain = raw.as_ptr();
        let parsed = sys::nftnl_chain_nlmsg_parse(header, chain) == 0;
        let base = sys::nftnl_chain_is_set(chain, sys::NFTNL_CHAIN_HOOKNUM as u16).then(|| {
            (
                text(sys::nftnl_chain_get_str(
                    chain,
                    sys::NFTNL_CHAIN_TYPE as u16,
                )),
                sys::nftnl_chain_get_u32(chain, sys::NFTNL_CHAIN_HOOKNUM as u16),
                sys::nftnl_chain_get_s32(chain, sys::NFTNL_CHAIN_PRIO as u16),
                sys::nftnl_chain_get_u32(chain, sys::NFTNL_CHAIN_POLICY as u16),
            )
        });
        sys::nftnl_chain_free(chain);
        parsed.then_some(ChainFacts { base })
    }
}

/// The flags, the type of the key and its length in octets.
pub type SetFacts = (u32, u32, u32);

/// The name of a set and its facts, from an answer to [`dump_sets`].
#[must_use]
pub fn parse_set(message: &[u8]) -> Option<(String, SetFacts)> {
    let header = header(message)?;
    let raw = OwnedSet::empty();
    // SAFETY: `header` is a whole message, and the set is live.
    let parsed = unsafe { sys::nftnl_set_nlmsg_parse(header, raw.0.as_ptr()) } == 0;
    parsed.then(|| {
        let facts = (
            raw.get_u32(sys::NFTNL_SET_FLAGS),
            raw.get_u32(sys::NFTNL_SET_KEY_TYPE),
            raw.get_u32(sys::NFTNL_SET_KEY_LEN),
        );
        (raw.name(), facts)
    })
}

/// The same of a set of ours.
#[must_use]
pub fn set_facts(set: &Set) -> SetFacts {
    (flags_of(set), set.key.datatype(), set.key.octets())
}

/// The header of a whole message, as libnftnl wants it.
fn header(message: &[u8]) -> Option<*const libc::nlmsghdr> {
    #[allow(clippy::cast_ptr_alignment)] // looked at below
    let header = message.as_ptr().cast::<libc::nlmsghdr>();
    let length: [u8; 4] = message.get(..4)?.try_into().ok()?;
    let whole = message.len() >= size_of::<libc::nlmsghdr>()
        && u32::from_ne_bytes(length) as usize <= message.len()
        && header.is_aligned();
    whole.then_some(header)
}
