//! The kernel's own interfaces, and so the only module with `unsafe`: the system calls that no safe
//! crate offers, and the allocator.
//!
//! Nothing here decides anything. Each block says why it is sound; what comes out of here is safe
//! to use in any order.

#![allow(unsafe_code)]

pub mod allocator;
pub mod netlink;
pub mod nftables;
pub mod process;
pub mod rtnetlink;
pub mod socket;
