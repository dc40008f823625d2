//! The real binary in real network namespaces: what of DESIGN.md's sections 3 to 8 can be seen
//! from outside the program. Each case has a small internet of its own ([`support::world`]).

#[path = "../support/mod.rs"]
mod support;

mod ground;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases: Vec<_> = [ground::cases()].concat();
    support::harness::main(&cases)
}
