//! The kernel's answers as values, and what of the ruleset they are compared with.

// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use super::{bytes, expr::parse_expr, flags_of, set::OwnedSet, text};
use crate::ruleset::{
    Chain, Hook, Set,
    bytecode::Expr,
    set::{KeyBytes, RawElement},
};
use nftnl::nftnl_sys as sys;
use std::{ptr::NonNull, time::Duration};

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

/// A rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRule {
    /// The chain that it is in.
    pub chain: String,
    /// Its expressions. Nothing where one of them is of a kind that this crate never sends, or
    /// that libnftnl does not know.
    pub exprs: Option<Vec<Expr>>,
}

/// A rule, from an answer to [`dump_table_rules`].
#[must_use]
pub fn parse_rule(message: &[u8]) -> Option<HeldRule> {
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_rule_alloc() })?;
    // SAFETY: `header` is a whole message; `raw` is a live rule that is freed once, here; the
    // chain's name is a string of it, copied before; the iterator and what it yields are used while
    // the rule lives.
    unsafe {
        let rule = raw.as_ptr();
        let parsed = sys::nftnl_rule_nlmsg_parse(header, rule) == 0;
        let chain = text(sys::nftnl_rule_get_str(rule, sys::NFTNL_RULE_CHAIN as u16));
        let mut exprs = parsed.then(Vec::new);
        let iter = sys::nftnl_expr_iter_create(rule);
        if iter.is_null() {
            exprs = None;
        } else {
            while let Some(expr) = NonNull::new(sys::nftnl_expr_iter_next(iter)) {
                exprs = exprs.and_then(|mut exprs| {
                    exprs.push(parse_expr(expr)?);
                    Some(exprs)
                });
            }
            sys::nftnl_expr_iter_destroy(iter);
        }
        sys::nftnl_rule_free(rule);
        Some(HeldRule { chain, exprs })
    }
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
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_rule_alloc() })?;
    // SAFETY: `header` is a whole message; `raw` is a live rule that is freed once, here; the
    // iterator and what it yields are used while the rule lives.
    unsafe {
        let mut count = (sys::nftnl_rule_nlmsg_parse(header, raw.as_ptr()) == 0).then_some(None);
        let iter = sys::nftnl_expr_iter_create(raw.as_ptr());
        if iter.is_null() {
            count = None;
        } else {
            while let Some(expr) = NonNull::new(sys::nftnl_expr_iter_next(iter)) {
                let e = expr.as_ptr();
                let name = text(sys::nftnl_expr_get_str(e, sys::NFTNL_EXPR_NAME as u16));
                if name == "counter" && count.is_some() {
                    let of = |attribute: u32| sys::nftnl_expr_get_u64(e, attribute as u16);
                    count = Some(Some(Count {
                        packets: of(sys::NFTNL_EXPR_CTR_PACKETS),
                        octets: of(sys::NFTNL_EXPR_CTR_BYTES),
                    }));
                }
            }
            sys::nftnl_expr_iter_destroy(iter);
        }
        sys::nftnl_rule_free(raw.as_ptr());
        count
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

/// The elements in one answer to [`dump_elements`].
#[must_use]
pub fn parse_elements(message: &[u8]) -> Option<Vec<RawElement>> {
    let header = header(message)?;
    let raw = OwnedSet::empty();
    // SAFETY: `header` is a whole message, and the set is live.
    if unsafe { sys::nftnl_set_elems_nlmsg_parse(header, raw.0.as_ptr()) } < 0 {
        return None;
    }
    let mut elements = Some(Vec::new());
    // SAFETY: the iterator and what it yields are used while the set lives.
    unsafe {
        let iter = sys::nftnl_set_elems_iter_create(raw.0.as_ptr());
        if iter.is_null() {
            return None;
        }
        while let Some(element) = NonNull::new(sys::nftnl_set_elems_iter_next(iter)) {
            let key = element_key(element, sys::NFTNL_SET_ELEM_KEY);
            let end = element_key(element, sys::NFTNL_SET_ELEM_KEY_END);
            let has_end =
                sys::nftnl_set_elem_is_set(element.as_ptr(), sys::NFTNL_SET_ELEM_EXPIRATION as u16);
            let life = has_end.then(|| {
                let milliseconds = sys::nftnl_set_elem_get_u64(
                    element.as_ptr(),
                    sys::NFTNL_SET_ELEM_EXPIRATION as u16,
                );
                Duration::from_millis(milliseconds)
            });
            elements = elements.and_then(|mut elements| {
                elements.push(RawElement {
                    key: key?,
                    end,
                    life,
                });
                Some(elements)
            });
        }
        sys::nftnl_set_elems_iter_destroy(iter);
    }
    elements
}

/// # Safety
/// `element` is a live element.
unsafe fn element_key(element: NonNull<sys::nftnl_set_elem>, attribute: u32) -> Option<KeyBytes> {
    let mut len = 0;
    // SAFETY: the caller's; the pointer that comes back is to `len` octets of the element, or null.
    unsafe {
        let data = sys::nftnl_set_elem_get(element.as_ptr(), attribute as u16, &raw mut len);
        bytes(data, len).and_then(KeyBytes::new)
    }
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
