//! The entrypoint: lock, resolve, enforce, drop, publish, exec; with `--supervise`, stay above the
//! command.

use super::{
    Outcome, block_on, command_identity, hold_state_dir, privileges, report_ready,
    start::{self, Enforced, Prepared},
};
use crate::{
    cli::StartArgs,
    command::Command,
    config::{self, Dns, Environment, StartConfig},
    error::Error,
    launch::launch,
    privileges::{Keeper, Privileges},
    sentinel::Place,
    state_dir::StateLock,
    supervise::{Event, Options, Plan, Supervised},
};
use std::{ffi::OsString, os::fd::AsFd, path::Path, time::Instant};
use tracing::warn;

/// Runs the start and becomes the command, or supervises it. As the command it returns only where
/// something failed.
pub fn run(
    args: &StartArgs,
    environment: Environment<'_>,
    words: &[OsString],
    began: Instant,
) -> Result<Outcome, Error> {
    let path = config::sentinel(&args.run, environment);
    let mut enforced = block_on(start::enforce(
        args,
        environment,
        Dns::Pinned,
        &path,
        |config| prepare(config, environment, words, &path),
    ))??;
    if let Some(above) = enforced.end.above.take() {
        return block_on(supervise(enforced, above, began))?;
    }
    let sentinel = enforced.sentinel("exec")?;
    let End {
        command,
        privileges,
        place,
        state,
        ..
    } = &enforced.end;
    let ready = || report(&enforced, began);
    let sentinel = Some((place, &sentinel));
    let kept = state.as_ref().map(AsFd::as_fd);
    Err(launch(command, privileges, sentinel, kept, ready).into())
}

async fn supervise(
    mut enforced: Enforced<End>,
    above: Above,
    began: Instant,
) -> Result<Outcome, Error> {
    let state = enforced.end.state.take();
    let sentinel = enforced.sentinel("supervise")?;
    let plan = Plan {
        command: &enforced.end.command,
        privileges: &enforced.end.privileges,
        sentinel: Some((&enforced.end.place, &sentinel)),
        state,
        keeper: &above.keeper,
        options: above.options,
    };
    let mut supervised = Supervised::start(plan, || report(&enforced, began))?;
    // Nothing changes the rules any more: the memory of the start is given back, and its lock.
    drop(enforced);
    loop {
        let event = supervised.next().await;
        match event.map_err(|error| Error::Process("supervise the command", error))? {
            Event::Finished(status) => return Ok(Outcome::Ended(status.exit_code())),
            Event::CommandEnded(_) | Event::Reload => {}
        }
    }
}

fn report(enforced: &Enforced<End>, began: Instant) {
    if let Some(warning) = enforced.end.place.warning() {
        warn!("{warning}; {}", warning.remedy());
    }
    report_ready(&enforced.decision, enforced.config.dns, began);
}

/// What the end of the start needs, looked up at its beginning.
struct End {
    command: Command,
    privileges: Privileges,
    place: Place,
    state: Option<StateLock>,
    /// With `--supervise`.
    above: Option<Above>,
}

/// What stays above the command.
struct Above {
    keeper: Keeper,
    options: Options,
}

impl Above {
    /// It changes no rules, so it keeps no capability for that.
    fn prepare(options: Options, command: &Privileges) -> Result<Self, Error> {
        let keeper = Keeper::above(command, &[], None)?;
        keeper.check_attainable()?;
        Ok(Self { keeper, options })
    }
}

fn prepare(
    config: &StartConfig,
    environment: Environment<'_>,
    words: &[OsString],
    path: &Path,
) -> Result<Prepared<End>, Error> {
    let command = Command::look_up(words, environment("PATH").as_deref())?;
    let privileges = privileges(&config.run)?;
    privileges.check_attainable()?;
    let above = config
        .supervise
        .map(|options| Above::prepare(options, &privileges))
        .transpose()?;
    let identity = command_identity(&privileges)?;
    let place = Place::prepare(path, &identity)?;
    let state = hold_state_dir(config.run.state_dir.as_ref(), &identity)?;
    Ok(Prepared {
        end: End {
            command,
            privileges,
            place,
            state,
            above,
        },
        uid: Some(identity.uid),
    })
}
