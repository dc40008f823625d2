//! The entrypoint: lock, resolve, enforce, drop, publish, exec.

use super::{
    Outcome, block_on, command_identity, hold_state_dir, privileges, report_ready,
    start::{self, Prepared},
};
use crate::{
    cli::StartArgs,
    command::Command,
    config::{self, Dns, Environment, StartConfig},
    error::Error,
    launch::launch,
    privileges::Privileges,
    sentinel::Place,
    state_dir::StateLock,
};
use std::{ffi::OsString, os::fd::AsFd, path::Path, time::Instant};
use tracing::warn;

/// Runs the start and becomes the command; returns only where something failed.
pub fn run(
    args: &StartArgs,
    environment: Environment<'_>,
    words: &[OsString],
    began: Instant,
) -> Result<Outcome, Error> {
    let path = config::sentinel(&args.run, environment);
    let enforced = block_on(start::enforce(
        args,
        environment,
        Dns::Pinned,
        &path,
        |config| prepare(config, environment, words, &path),
    ))??;
    let End {
        command,
        privileges,
        place,
        state,
    } = &enforced.end;
    let sentinel = enforced.sentinel("exec")?;
    let ready = || {
        if let Some(warning) = place.warning() {
            warn!("{warning}; {}", warning.remedy());
        }
        report_ready(&enforced.decision, enforced.config.dns, began);
    };
    let sentinel = Some((place, &sentinel));
    let kept = state.as_ref().map(AsFd::as_fd);
    Err(launch(command, privileges, sentinel, kept, ready).into())
}

/// What the end of the start needs, looked up at its beginning.
struct End {
    command: Command,
    privileges: Privileges,
    place: Place,
    state: Option<StateLock>,
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
    let identity = command_identity(&privileges)?;
    let place = Place::prepare(path, &identity)?;
    let state = hold_state_dir(config.run.state_dir.as_ref(), &identity)?;
    Ok(Prepared {
        end: End {
            command,
            privileges,
            place,
            state,
        },
        uid: Some(identity.uid),
    })
}
