//! One program for all targets: `FUZZ_TARGET` says which of them gets the input. So that one
//! build, with one link, is all that a run needs; libFuzzer counts what was reached, not what
//! could be.

#![no_main]

mod sample;
mod targets;
mod wire;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::ALL.iter().find(|(known, _)| *known == name);
    let Some((_, target)) = found else {
        let known: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("FUZZ_TARGET is one of: {}", known.join(" "));
        std::process::exit(2);
    };
    TARGET.get_or_init(|| *target);
}

fuzz_target!(
    init: choose(),
    |data: &[u8]| TARGET.get().expect("chosen in the beginning")(data)
);
