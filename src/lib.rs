//! A container entrypoint that locks the network to an allowlist before the command starts.

pub mod allowlist;
pub mod cli;
pub mod links;
pub mod log;
pub mod nft;
pub mod policy;
pub mod ruleset;
pub mod service;
pub mod sys;
