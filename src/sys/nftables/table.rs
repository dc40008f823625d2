//! The table, to the kernel and back.

use super::{
    Message,
    headers::{attributes_of, begin_of_table},
};

// `enum nft_table_attributes` of the kernel's include/uapi/linux/netfilter/nf_tables.h.
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USE: u16 = 3;

/// Makes the table.
#[must_use]
pub fn add_table() -> Message {
    message(libc::NFT_MSG_NEWTABLE)
}

/// Deletes the table with all that is in it.
#[must_use]
pub fn delete_table() -> Message {
    message(libc::NFT_MSG_DELTABLE)
}

/// Asks for the table: one answer.
#[must_use]
pub fn get_table() -> Message {
    message(libc::NFT_MSG_GETTABLE)
}

fn message(kind: libc::c_int) -> Message {
    let mut message = begin_of_table(kind, 0);
    message.u32(NFTA_TABLE_FLAGS, 0);
    message.finish()
}

/// How many chains, sets and objects the table has, and its flags, from an answer to
/// [`get_table`].
#[must_use]
pub fn parse_table(message: &[u8]) -> Option<(u32, u32)> {
    let table = attributes_of(message)?;
    Some((table.u32(NFTA_TABLE_USE)?, table.u32(NFTA_TABLE_FLAGS)?))
}
