//! The only module of the crate with `unsafe`: thin, safe wrappers of what no crate wraps.
//!
//! Nothing here decides anything; each function is one system call, or one call repeated.

#![allow(unsafe_code)]

pub mod process;
pub mod socket;
