//! libnftnl: the ruleset's values as netlink messages, and the kernel's answers as values again.
//!
//! The safe crate `nftnl` makes tables and chains; it has no concatenated or interval sets, and
//! reads nothing back. Those go to libnftnl directly: messages in this file, answers in [`parse`],
//! sets in [`set`]. What a table has many of does not: [`rule`]s with their expressions and the
//! [`element`]s of sets are written and read as [`attribute`]s, which says why.

// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod attribute;
mod element;
mod expr;
mod parse;
mod rule;
mod set;

pub use attribute::attributes;
pub use element::{
    add_elements, delete_elements, dump_elements, ensure_elements, flush_set, parse_elements,
};
pub use parse::{
    ChainFacts, SetFacts, chain_facts, parse_chain, parse_set, parse_table, set_facts,
};
pub use rule::{
    Count, HeldRule, add_rule, dump_rules, dump_table_rules, flush_chain, parse_counter, parse_rule,
};

use crate::ruleset::{Chain, Hook, Set, TABLE};
use nftnl::{ChainType, MsgType, NlMsg, ProtoFamily, Table, nftnl_sys as sys};
use set::OwnedSet;
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_void},
    ptr::NonNull,
};

/// A netlink message, header and all.
pub type Message = Vec<u8>;

const NFT_SET_CONCAT: u32 = 0x80;
const INTERVAL_CONCATENATION: u32 = libc::NFT_SET_INTERVAL.cast_unsigned() | NFT_SET_CONCAT;

const INET: u8 = libc::NFPROTO_INET as u8;

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

/// Asks for the sets, without their elements.
#[must_use]
pub fn dump_sets() -> Message {
    OwnedSet::of_table().message(libc::NFT_MSG_GETSET, libc::NLM_F_DUMP)
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
/// One buffer serves all messages of a thread. Nothing clears it: libmnl writes all octets of what
/// it appends, those that fill an attribute up as well, and of 68 KiB a message takes a hundred.
fn build(fill: impl FnOnce(*mut c_void) -> *mut libc::nlmsghdr) -> Message {
    thread_local! {
        // In words of the header's alignment.
        static BUFFER: RefCell<Vec<u32>> =
            RefCell::new(Vec::with_capacity(nftnl::nft_nlmsg_maxsize() as usize / 4 + 1));
    }
    BUFFER.with_borrow_mut(|buffer| {
        let header = fill(buffer.as_mut_ptr().cast());
        // SAFETY: `fill` returned the header that it wrote at the beginning of the buffer, and the
        // header's length is that of the message, which lies in the buffer and was written.
        unsafe {
            let len = (*header).nlmsg_len as usize;
            std::slice::from_raw_parts(header.cast::<u8>(), len).to_vec()
        }
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
