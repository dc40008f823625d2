//! A container entrypoint that locks the network to an allowlist before the command starts.

pub mod accounts;
pub mod allowlist;
pub mod canary;
pub mod check;
pub mod command;
pub mod launch;
pub mod policy;
pub mod privileges;
pub mod sentinel;
pub mod service;
pub mod socket_filter;
pub mod start_lock;
pub mod sys;
