//! Parses, dispatches, prints the one error chain and chooses the exit code: the only place that
//! exits.

use clap::Parser;
use egress_init::{
    cli::{Action, Cli},
    commands::{self, Outcome},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.action {
        None => commands::run(&cli.start, &cli.command),
        Some(Action::Apply { start }) => commands::apply(&start),
        Some(Action::Check(args)) => commands::check(&args),
        Some(Action::Plan { json, start }) => commands::plan(&start, json),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
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
