//! `check`: does the sentinel verify, and are the rules live? With a command, only then.

use super::{Outcome, command_identity, hold_state_dir, print, privileges};
use crate::{
    check::{self, NotReady, Report, Verified},
    cli::CheckArgs,
    command::Command,
    config::{self, Environment},
    error::Error,
    launch::launch,
    port,
};
use std::os::fd::AsFd;
use tracing::warn;

/// Verifies, and executes the command if there is one.
pub fn check(args: &CheckArgs, environment: Environment<'_>) -> Result<Outcome, Error> {
    let path = config::sentinel(args.run.sentinel.as_deref(), environment);
    let result = check::firewall_ready(&path);
    let is_bypassed = check::is_bypassed();
    let port = args.tcp.map_or(Ok(()), port::accepts);
    if args.json {
        let report = Report::new(&result, is_bypassed).with_port(&port);
        let report = serde_json::to_string(&report);
        let report = report.map_err(|error| Error::Process("write the report", error.into()))?;
        print(&(report + "\n"))?;
    }
    let passes = passes(result, is_bypassed);
    if let Err(closed) = port {
        tracing::error!("{}", Error::from(closed).report());
        return Ok(Outcome::NotVerified);
    }
    if !passes {
        return Ok(Outcome::NotVerified);
    }
    if args.command.is_empty() {
        return Ok(Outcome::Done);
    }
    let config = config::run(&args.run, environment)?;
    let command = Command::look_up(&args.command, environment("PATH").as_deref())?;
    let privileges = privileges(&config)?;
    privileges.check_attainable()?;
    let identity = command_identity(&privileges)?;
    let state = hold_state_dir(config.state_dir.as_ref(), &identity)?;
    let kept = state.as_ref().map(AsFd::as_fd);
    Err(launch(&command, &privileges, None, kept, || {}).into())
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
