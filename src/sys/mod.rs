//! The only module with `unsafe`: the C libraries and the system calls that no safe crate offers.
//!
//! Each block says why it is sound; what comes out of here is safe to use in any order.

#![allow(unsafe_code)]

pub mod netlink;
pub mod nftnl;
