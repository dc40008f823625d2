//! The entrypoint: lock, resolve, enforce, drop, publish, exec.

use super::{
    Outcome, block_on, privileges, report_ready,
    start::{self, Prepared},
};
use crate::{
    accounts::Identity,
    cli::StartArgs,
    command::Command,
    config::{self, Dns, Environment, StartConfig},
    error::Error,
    launch::launch,
    privileges::Privileges,
    sentinel::Place,
};
use std::{ffi::OsString, path::Path, time::Instant};
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
    } = &enforced.end;
    let sentinel = enforced.sentinel("exec")?;
    let ready = || {
        if let Some(warning) = place.warning() {
            warn!("{warning}; {}", warning.remedy());
        }
        report_ready(&enforced.decision, enforced.config.dns, began);
    };
    Err(launch(command, privileges, Some((place, &sentinel)), ready).into())
}

/// What the end of the start needs, looked up at its beginning.
struct End {
    command: Command,
    privileges: Privileges,
    place: Place,
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
    Ok(Prepared {
        end: End {
            command,
            privileges,
            place,
        },
        uid: Some(identity.uid),
    })
}

/// Whom the command runs as.
fn command_identity(privileges: &Privileges) -> Result<Identity, Error> {
    match &privileges.identity {
        Some(identity) => Ok(identity.clone()),
        None => {
            Identity::current().map_err(|error| Error::Process("read the process's ids", error))
        }
    }
}
