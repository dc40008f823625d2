//! A container entrypoint that locks the network to an allowlist before the command starts.

pub mod accounts;
pub mod allowlist;
pub mod cli;
pub mod command;
pub mod commands;
pub mod config;
pub mod error;
mod file;
pub mod links;
pub mod log;
pub mod nft;
pub mod policy;
pub mod privileges;
pub mod resolve;
pub mod ruleset;
pub mod service;
pub mod signals;
pub mod socket_filter;
pub mod sys;
