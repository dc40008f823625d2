//! libnftnl: the ruleset's values as netlink messages, and the kernel's answers as values again.
//!
//! The safe crate `nftnl` makes tables, chains and rules; it has no concatenated or interval
//! sets, no registers but the first, no log, limit or reject, and reads nothing back. Those go to
//! libnftnl directly, all of it here: messages in this file, answers in [`parse`], expressions
//! of rules in [`expr`], sets in [`set`].

// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod expr;
mod parse;
mod set;

pub use parse::{
    ChainFacts, Count, HeldRule, SetFacts, chain_facts, parse_chain, parse_counter, parse_elements,
    parse_rule, parse_set, parse_table, set_facts,
};

use crate::ruleset::{Chain, Hook, Set, TABLE, bytecode::Expr, set::RawElement};
use nftnl::{ChainType, MsgType, NlMsg, ProtoFamily, Rule, Table, nftnl_sys as sys};
use set::OwnedSet;
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_void},
    ptr::NonNull,
};

/// A netlink message, header and all.
pub type Message = Vec<u8>;

/// Elements in one message: 80 octets each at most, in an attribute of at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 780;

const NFT_SET_CONCAT: u32 = 0x80;
const NFT_EXTHDR_F_PRESENT: u32 = 1;
const NFT_EXTHDR_OP_IPV6: u32 = 0;
const INTERVAL_CONCATENATION: u32 = libc::NFT_SET_INTERVAL.cast_unsigned() | NFT_SET_CONCAT;

const INET: u16 = libc::NFPROTO_INET as u16;

/// Makes the table.
#[must_use]
pub fn add_table() -> Message {
    write(&table(), MsgType::Add)
}

/// Deletes the table with all that is in it.
#[must_use]
pub fn delete_table() -> Message {
    write(&table(), MsgType::Del)
}

/// Makes a chain.
#[must_use]
pub fn add_chain(chain: &Chain) -> Message {
    let table = table();
    let mut message = nftnl::Chain::new(c_string(chain.name), &table);
    if let Some(hook) = chain.hook {
        message.set_hook(
            match hook {
                Hook::Input => nftnl::Hook::In,
                Hook::Forward => nftnl::Hook::Forward,
                Hook::Output | Hook::Divert => nftnl::Hook::Out,
                Hook::Depart => nftnl::Hook::PostRouting,
            },
            hook.priority(),
        );
        message.set_type(match hook {
            Hook::Input | Hook::Forward | Hook::Output | Hook::Depart => ChainType::Filter,
            Hook::Divert => ChainType::Nat,
        });
        message.set_policy(if hook.accepts() {
            nftnl::Policy::Accept
        } else {
            nftnl::Policy::Drop
        });
    }
    write(&message, MsgType::Add)
}

/// Deletes all rules of a chain.
#[must_use]
pub fn flush_chain(name: &str) -> Message {
    let table = table();
    let chain = nftnl::Chain::new(c_string(name), &table);
    // A rule without a handle stands for all of them.
    write(&Rule::new(&chain), MsgType::Del)
}

/// Adds a rule to the end of a chain.
#[must_use]
pub fn add_rule(chain: &str, exprs: &[Expr]) -> Message {
    let table = table();
    let chain = nftnl::Chain::new(c_string(chain), &table);
    let mut rule = Rule::new(&chain);
    for expr in exprs {
        rule.add_expr(expr);
    }
    write(&rule, MsgType::Add)
}

/// Makes a set, without its elements.
#[must_use]
pub fn add_set(set: &Set, id: u32) -> Message {
    let raw = OwnedSet::new(set.name);
    if set.key.is_interval() {
        raw.set_data(sys::NFTNL_SET_DESC_CONCAT, set.key.fields());
    }
    raw.set_u32(sys::NFTNL_SET_FLAGS, flags_of(set));
    raw.set_u32(sys::NFTNL_SET_ID, id);
    raw.set_u32(sys::NFTNL_SET_KEY_TYPE, set.key.datatype());
    raw.set_u32(sys::NFTNL_SET_KEY_LEN, set.key.octets());
    raw.message(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// `NFT_SET_*`.
fn flags_of(set: &Set) -> u32 {
    let mut flags = 0;
    if set.key.is_interval() {
        flags |= INTERVAL_CONCATENATION;
    }
    if set.is_timed() {
        flags |= libc::NFT_SET_TIMEOUT.cast_unsigned();
    }
    flags
}

/// Deletes a set.
#[must_use]
pub fn delete_set(name: &str) -> Message {
    OwnedSet::new(name).message(libc::NFT_MSG_DELSET, 0)
}

/// Adds elements to a set, in as many messages as they need.
pub fn add_elements<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    elements_messages(set, elements, libc::NFT_MSG_NEWSETELEM, flags)
}

/// The same where they may be there already, which changes nothing.
pub fn ensure_elements<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    let flags = libc::NLM_F_CREATE;
    elements_messages(set, elements, libc::NFT_MSG_NEWSETELEM, flags)
}

/// Deletes elements of a set, each of which is there.
pub fn delete_elements<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    elements_messages(set, elements, libc::NFT_MSG_DELSETELEM, 0)
}

/// Deletes all elements of a set.
#[must_use]
pub fn flush_set(name: &str) -> Message {
    OwnedSet::new(name).elements_message(libc::NFT_MSG_DELSETELEM, 0)
}

fn elements_messages<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
    kind: libc::c_int,
    flags: libc::c_int,
) -> impl Iterator<Item = Message> + 'a {
    let mut elements = elements.peekable();
    std::iter::from_fn(move || {
        elements.peek()?;
        let raw = OwnedSet::new(set);
        for element in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
            raw.add(&element);
        }
        Some(raw.elements_message(kind, flags))
    })
}

/// The first message of a batch.
#[must_use]
pub fn batch_begin() -> Message {
    // SAFETY: the function writes one header with a family header to the buffer.
    build(|buffer| unsafe { sys::nftnl_batch_begin(buffer.cast(), 0) })
}

/// The last message of a batch.
#[must_use]
pub fn batch_end() -> Message {
    // SAFETY: the function writes one header with a family header to the buffer.
    build(|buffer| unsafe { sys::nftnl_batch_end(buffer.cast(), 0) })
}

/// Asks for the table: one answer.
#[must_use]
pub fn get_table() -> Message {
    let mut message = write(&table(), MsgType::Add);
    set_type(&mut message, libc::NFT_MSG_GETTABLE);
    set_flags(&mut message, 0);
    message
}

/// Asks for a chain: one answer.
#[must_use]
pub fn get_chain(name: &str) -> Message {
    let table = table();
    let mut message = write(&nftnl::Chain::new(c_string(name), &table), MsgType::Del);
    set_type(&mut message, libc::NFT_MSG_GETCHAIN);
    set_flags(&mut message, 0);
    message
}

/// Deletes a chain, which has no rules any more.
#[must_use]
pub fn delete_chain(name: &str) -> Message {
    let table = table();
    write(&nftnl::Chain::new(c_string(name), &table), MsgType::Del)
}

/// Asks for the rules of a chain.
#[must_use]
pub fn dump_rules(chain: &str) -> Message {
    let mut message = flush_chain(chain);
    set_type(&mut message, libc::NFT_MSG_GETRULE);
    set_flags(&mut message, libc::NLM_F_DUMP);
    message
}

/// Asks for the rules of all chains.
#[must_use]
pub fn dump_table_rules() -> Message {
    let name = c_string(TABLE);
    // SAFETY: the rule is live until it is freed, once, and copies the string; the buffer has room
    // for any message.
    unsafe {
        let rule = or_abort(sys::nftnl_rule_alloc()).as_ptr();
        sys::nftnl_rule_set_str(rule, sys::NFTNL_RULE_TABLE as u16, name.as_ptr());
        let message = build(|buffer| {
            let header = sys::nftnl_nlmsg_build_hdr(
                buffer.cast(),
                libc::NFT_MSG_GETRULE as u16,
                INET,
                libc::NLM_F_DUMP as u16,
                0,
            );
            sys::nftnl_rule_nlmsg_build_payload(header, rule);
            header
        });
        sys::nftnl_rule_free(rule);
        message
    }
}

/// Asks for the sets, without their elements.
#[must_use]
pub fn dump_sets() -> Message {
    OwnedSet::of_table().message(libc::NFT_MSG_GETSET, libc::NLM_F_DUMP)
}

/// Asks for the elements of a set.
#[must_use]
pub fn dump_elements(set: &str) -> Message {
    OwnedSet::new(set).elements_message(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP)
}
fn table() -> Table {
    Table::new(c_string(TABLE), ProtoFamily::Inet)
}

fn write(object: &impl NlMsg, kind: MsgType) -> Message {
    build(|buffer| {
        // SAFETY: the buffer has room for the largest message.
        unsafe { object.write(buffer, 0, kind) };
        buffer.cast()
    })
}

/// Runs `fill` on a buffer for the largest message and takes the message out of it.
///
/// One buffer serves all messages of a thread, and is all zeros again after each: to clear 68 KiB
/// for every one of them was most of what a start computed.
fn build(fill: impl FnOnce(*mut c_void) -> *mut libc::nlmsghdr) -> Message {
    thread_local! {
        // In words of the header's alignment.
        static BUFFER: RefCell<Vec<u32>> =
            RefCell::new(vec![0; nftnl::nft_nlmsg_maxsize() as usize / 4 + 1]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let header = fill(buffer.as_mut_ptr().cast());
        // SAFETY: `fill` returned the header that it wrote at the beginning of the buffer, and the
        // header's length is that of the message, which lies in the buffer.
        let message = unsafe {
            let len = (*header).nlmsg_len as usize;
            std::slice::from_raw_parts(header.cast::<u8>(), len).to_vec()
        };
        buffer[..message.len().div_ceil(4)].fill(0);
        message
    })
}

fn set_type(message: &mut [u8], kind: libc::c_int) {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
}

fn set_flags(message: &mut [u8], flags: libc::c_int) {
    message[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
}

/// # Safety
/// `data` is null or points to `len` octets that outlive the result.
unsafe fn bytes<'a>(data: *const c_void, len: u32) -> Option<&'a [u8]> {
    // SAFETY: the caller's.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len as usize) })
}

/// # Safety
/// `string` is null or a C string.
unsafe fn text(string: *const libc::c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}

/// The names that reach libnftnl are constants of this crate, or came from it.
fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn octets(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(0)
}

/// Out of memory for a few octets: nothing can go on, and the kernel keeps the lock.
fn or_abort<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| std::process::abort())
}
