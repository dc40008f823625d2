//! A container entrypoint that locks the network to an allowlist before the command starts.
//!
//! Data goes one way, from top to bottom of this list:
//!
//! | step | module | what it makes |
//! | --- | --- | --- |
//! | text → entries | [`allowlist`] | a whole, valid list, or every mistake in it with its place |
//! | entries → answers | [`resolve`] | the addresses of each name |
//! | answers → policy | [`policy`] | disjoint (network, protocol, ports) to allow and to deny |
//! | policy → ruleset | [`ruleset`] | the table as plain data; prints as nft text |
//! | ruleset → kernel | [`nft`] | one transaction, acknowledged and read back |
//! | kernel → command | [`privileges`], [`sentinel`], [`launch`] | nothing kept, the proof published, exec |
//! | command → exit code | [`supervise`] | with `--supervise`: signals passed on, orphans reaped |
//!
//! [`commands`] tells these steps as stories, one for each subcommand; [`cli`] and [`config`] say
//! what the user wants; [`sys`] holds every line of `unsafe`.
//!
//! # For CLIs written in Rust
//!
//! A program that must not run unfenced asks first:
//!
//! ```no_run
//! use egress_init::{check, sentinel};
//!
//! if let Err(error) = check::firewall_ready(sentinel::DEFAULT_PATH.as_ref()) {
//!     eprintln!("not starting without the firewall: {error}");
//!     std::process::exit(1);
//! }
//! ```

pub mod accounts;
pub mod allowlist;
pub mod canary;
pub mod check;
pub mod cli;
pub mod command;
pub mod commands;
pub mod config;
pub mod container;
pub mod doctor;
pub mod error;
mod file;
pub mod host_network;
mod inputs;
pub mod keeper;
pub mod launch;
pub mod links;
pub mod log;
pub mod nft;
pub mod policy;
pub mod port;
pub mod privileges;
pub mod proxy;
pub mod resolve;
pub mod ruleset;
pub mod sentinel;
pub mod service;
pub mod signals;
pub mod socket_filter;
pub mod start_lock;
pub mod state_dir;
pub mod status;
pub mod supervise;
pub mod sys;
