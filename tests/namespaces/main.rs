//! The real binary in real network namespaces: what of the contract's sections 3 to 8 can be seen
//! from outside the program. Each case has a small internet of its own ([`support::world`]).

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod doctor;
mod enforcement;
mod flows;
mod ground;
mod health;
mod host_network;
mod live_sets;
mod logs;
mod names;
mod plan;
mod privileges;
mod resolver;
mod sentinel;
mod start;
mod state_dir;
mod supervise;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        ground::cases(),
        enforcement::cases(),
        flows::cases(),
        names::cases(),
        privileges::cases(),
        resolver::cases(),
        sentinel::cases(),
        start::cases(),
        doctor::cases(),
        health::cases(),
        host_network::cases(),
        live_sets::cases(),
        logs::cases(),
        state_dir::cases(),
        supervise::cases(),
        terminal::cases(),
        plan::cases(),
    ]
    .concat();
    support::harness::main(&cases)
}
