//! `check`: does the sentinel verify, and are the rules live? With a command, only then.

use super::{Outcome, print, privileges};
use crate::{
    check::{self, NotReady, Report, Verified},
    cli::CheckArgs,
    command::Command,
    config::{self, Environment},
    error::Error,
    launch::launch,
};
use tracing::warn;

/// Verifies, and executes the command if there is one.
pub fn check(args: &CheckArgs, environment: Environment<'_>) -> Result<Outcome, Error> {
    let path = config::sentinel(&args.run, environment);
    let result = check::firewall_ready(&path);
    let is_bypassed = check::is_bypassed();
    if args.json {
        let report = serde_json::to_string(&Report::new(&result, is_bypassed));
        let report = report.map_err(|error| Error::Process("write the report", error.into()))?;
        print(&(report + "\n"))?;
    }
    if !passes(result, is_bypassed) {
        return Ok(Outcome::NotVerified);
    }
    if args.command.is_empty() {
        return Ok(Outcome::Done);
    }
    let config = config::run(&args.run, environment)?;
    let command = Command::look_up(&args.command, environment("PATH").as_deref())?;
    Err(launch(&command, &privileges(&config)?, None, || {}).into())
}

fn passes(result: Result<Verified, NotReady>, is_bypassed: bool) -> bool {
    let Err(error) = result else { return true };
    let reason = Error::from(error).report();
    if is_bypassed {
        warn!("{}=1: going on although {reason}", check::BYPASS_VARIABLE);
    } else {
        tracing::error!("{reason}");
    }
    is_bypassed
}
