//! The kernel's own interfaces, and so the only module with `unsafe`: the system calls that no safe
//! crate offers, the allocator, and the C library's functions for octets.
//!
//! Nothing here decides anything. Each block says why it is sound; what comes out of here is safe
//! to use in any order.

#![allow(unsafe_code)]

pub mod allocator;
// For the program alone (`scripts/build`): a program that links this library has functions of its
// own. Without optimizations the compiler would call for them what they are themselves.
#[cfg(all(
    target_arch = "x86_64",
    any(test, all(own_memory, target_env = "musl", not(debug_assertions)))
))]
pub mod memory;
pub mod netlink;
pub mod nftables;
pub mod process;
pub mod rtnetlink;
pub mod socket;
