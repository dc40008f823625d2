//! Sets without their elements, to the kernel and back, and what of the ruleset they are compared
//! with.

use super::{
    Message,
    expr::NFTA_LIST_ELEM,
    headers::{attributes_of, begin_of_table},
};
use crate::{ruleset::Set, sys::netlink::attribute::Writer};

// `enum nft_set_attributes`, `enum nft_set_desc_attributes` and `enum nft_set_field_attributes` of
// the kernel's include/uapi/linux/netfilter/nf_tables.h.
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;

const NFT_SET_CONCAT: u32 = 0x80;
const INTERVAL_CONCATENATION: u32 = libc::NFT_SET_INTERVAL.cast_unsigned() | NFT_SET_CONCAT;

/// Makes a set, without its elements.
#[must_use]
pub fn add_set(set: &Set, id: u32) -> Message {
    let (flags, datatype, octets, size) = set_facts(set);
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = of_set(libc::NFT_MSG_NEWSET, create, set.name);
    message
        .u32(NFTA_SET_FLAGS, flags)
        .u32(NFTA_SET_KEY_TYPE, datatype)
        .u32(NFTA_SET_KEY_LEN, octets)
        .u32(NFTA_SET_ID, id);
    if let Some(size) = size {
        message.nest(NFTA_SET_DESC, |desc| {
            desc.u32(NFTA_SET_DESC_SIZE, size);
        });
    }
    if set.key.is_interval() {
        message.nest(NFTA_SET_DESC, |desc| {
            desc.nest(NFTA_SET_DESC_CONCAT, |list| {
                for &octets in set.key.fields() {
                    list.nest(NFTA_LIST_ELEM, |field| {
                        field.u32(NFTA_SET_FIELD_LEN, octets.into());
                    });
                }
            });
        });
    }
    message.finish()
}

/// Deletes a set.
#[must_use]
pub fn delete_set(name: &str) -> Message {
    of_set(libc::NFT_MSG_DELSET, 0, name).finish()
}

/// Asks for the sets, without their elements.
#[must_use]
pub fn dump_sets() -> Message {
    begin_of_table(libc::NFT_MSG_GETSET, libc::NLM_F_DUMP).finish()
}

fn of_set(kind: libc::c_int, flags: libc::c_int, name: &str) -> Writer {
    let mut message = begin_of_table(kind, flags);
    message.text(NFTA_SET_NAME, name);
    message
}

/// The flags (`NFT_SET_*`), the type of the key and its length in octets, and the most that the set
/// may hold.
pub type SetFacts = (u32, u32, u32, Option<u32>);

/// The facts of a set of ours.
#[must_use]
pub fn set_facts(set: &Set) -> SetFacts {
    let mut flags = 0;
    if set.key.is_interval() {
        flags |= INTERVAL_CONCATENATION;
    }
    if set.is_timed() {
        flags |= libc::NFT_SET_TIMEOUT.cast_unsigned();
    }
    (flags, set.key.datatype(), set.key.octets(), set.size)
}

/// The name of a set and its facts, from an answer to [`dump_sets`].
#[must_use]
pub fn parse_set(message: &[u8]) -> Option<(String, SetFacts)> {
    let set = attributes_of(message)?;
    let facts = (
        // The kernel leaves them out where there are none.
        set.u32(NFTA_SET_FLAGS).unwrap_or_default(),
        set.u32(NFTA_SET_KEY_TYPE)?,
        set.u32(NFTA_SET_KEY_LEN)?,
        set.nest(NFTA_SET_DESC)
            .and_then(|desc| desc.u32(NFTA_SET_DESC_SIZE)),
    );
    Some((set.name(NFTA_SET_NAME)?, facts))
}
