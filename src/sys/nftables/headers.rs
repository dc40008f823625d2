//! What each message to and from `nf_tables` begins with.

// The kernel's numbers are 16 bits or 8, and `libc` declares them as 32.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use crate::{
    ruleset::TABLE,
    sys::netlink::attribute::{Attributes, Writer},
};

/// The table's name, in a message of whatever kind: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so on
/// in the kernel's `include/uapi/linux/netfilter/nf_tables.h`.
pub(super) const NFTA_TABLE: u16 = 1;

/// The length of `struct nfgenmsg`: the family, a version that is 0, and a number in network order.
const FIXED: usize = 4;

const NFTABLES: u8 = libc::NFNL_SUBSYS_NFTABLES as u8;

/// Begins a message of this kind (`NFT_MSG_*`) about the family `inet`, with these `NLM_F_*`.
pub(super) fn begin(kind: libc::c_int, flags: libc::c_int) -> Writer {
    let kind = u16::from(NFTABLES) << 8 | kind as u16;
    Writer::new(kind, flags, &[libc::NFPROTO_INET as u8, 0, 0, 0])
}

/// One about the table or something in it, which all kinds name first.
pub(super) fn begin_of_table(kind: libc::c_int, flags: libc::c_int) -> Writer {
    let mut message = begin(kind, flags);
    message.text(NFTA_TABLE, TABLE);
    message
}

/// One that begins or ends a batch (`NFNL_MSG_BATCH_*`), and says whose messages are in it.
pub(super) fn frame(kind: libc::c_int) -> Writer {
    Writer::new(
        kind as u16,
        0,
        &[libc::NFPROTO_UNSPEC as u8, 0, 0, NFTABLES],
    )
}

/// The attributes of a message; nothing where one is broken.
pub(super) fn attributes_of(message: &[u8]) -> Option<Attributes<'_>> {
    Attributes::of_message(message, FIXED)
}
