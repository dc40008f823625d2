//! A container entrypoint that locks the network to an allowlist before the command starts.

pub mod allowlist;
pub mod policy;
pub mod resolve;
pub mod service;
