//! `apply`: the start without a command. The rules and the sentinel outlive the process.

use super::{
    Outcome, block_on, report_ready,
    start::{self, Prepared},
};
use crate::{
    accounts::{Identity, UserSpec},
    cli::StartArgs,
    config::{self, Dns, Environment, StartConfig},
    error::Error,
    sentinel::Place,
};
use std::{path::Path, time::Instant};

/// Runs the start and publishes.
pub fn apply(
    args: &StartArgs,
    environment: Environment<'_>,
    began: Instant,
) -> Result<Outcome, Error> {
    let path = config::sentinel(&args.run, environment);
    let enforced = block_on(start::enforce(
        args,
        environment,
        Dns::System,
        &path,
        |config| prepare(config, &path),
    ))??;
    enforced.end.publish(&enforced.sentinel("apply")?)?;
    report_ready(&enforced.decision, enforced.config.dns, began);
    Ok(Outcome::Done)
}

/// The commands that will use the rules are not known here; `--user` says whom to keep out of the
/// sentinel's folder.
fn prepare(config: &StartConfig, path: &Path) -> Result<Prepared<Place>, Error> {
    let user = config
        .run
        .user
        .as_ref()
        .map(UserSpec::look_up)
        .transpose()?;
    let uid = user.as_ref().map(|user| user.uid);
    let identity = match user {
        Some(user) => user,
        None => {
            Identity::current().map_err(|error| Error::Process("read the process's ids", error))?
        }
    };
    Ok(Prepared {
        end: Place::prepare(path, &identity)?,
        uid,
    })
}
