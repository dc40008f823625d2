//! A CLI that refuses to start where no firewall is enforced:
//! `cargo run --example guard -- [SENTINEL]`.

use egress_init::{check, sentinel};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let path = std::env::args_os()
        .nth(1)
        .map_or(sentinel::DEFAULT_PATH.into(), PathBuf::from);
    match check::firewall_ready(&path) {
        Ok(verified) => println!("the firewall is up since {}", verified.sentinel.created),
        Err(error) if check::is_bypassed() => eprintln!("WARNING: no firewall: {error}"),
        Err(error) => {
            eprintln!("refusing to start: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
