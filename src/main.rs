//! Parses, dispatches, prints the one error chain and chooses the exit code: the only place that
//! exits.

use clap::{
    Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use egress_init::{
    cli::{Action, Cli},
    commands::{self, Outcome},
    sys::allocator::Allocator,
};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error),
    };
    let outcome = match cli.action {
        None => commands::run(&cli.start, &cli.command),
        Some(Action::Apply { watch, start }) => commands::apply(&start, watch),
        Some(Action::Check(args)) => commands::check(&args),
        Some(Action::Doctor { json, start }) => commands::doctor(&start, json),
        Some(Action::Status(args)) => commands::status(&args),
        Some(Action::Plan { json, start }) => commands::plan(&start, json),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Ended(exit_code)) => ExitCode::from(exit_code),
        Ok(Outcome::NotVerified) => ExitCode::FAILURE,
        Err(error) => {
            let exit_code = error.exit_code();
            for line in error.report().lines() {
                tracing::error!(event = "failed", exit_code = u64::from(exit_code), "{line}");
            }
            ExitCode::from(exit_code)
        }
    }
}

/// What clap says, and what it does not know: that a command stands behind two dashes.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    // Nobody may be listening, which changes nothing.
    let _ = error.print();
    let word = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => Some(word),
        _ => None,
    };
    if let Some(word) = word.filter(|word| !word.starts_with('-')) {
        eprintln!("\nThe command goes behind two dashes: egress-init [OPTIONS] -- {word}");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
