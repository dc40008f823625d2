//! `apply`: the start without a command. The rules and the sentinel outlive the process.

use super::{
    Outcome, block_on, current_identity, report_ready,
    start::{self, Prepared},
};
use crate::{
    accounts::{Identity, UserSpec},
    cli::StartArgs,
    config::{self, Dns, Environment, StartConfig},
    error::Error,
    sentinel::Place,
    state_dir,
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
        |config| {
            config::unsupervised(&args.supervise)?;
            if args.run.state_dir.is_some() {
                prepare_state_dir(config)?;
            }
            prepare(config, &path)
        },
    ))??;
    enforced.end.publish(&enforced.sentinel("apply")?)?;
    report_ready(&enforced.decision, enforced.config.dns, began);
    Ok(Outcome::Done)
}

/// The commands that will use the rules are not known here; `--user` says whom to keep out of the
/// sentinel's folder.
fn prepare(config: &StartConfig, path: &Path) -> Result<Prepared<Place>, Error> {
    let user = named_user(config)?;
    let uid = user.as_ref().map(|user| user.uid);
    let identity = match user {
        Some(user) => user,
        None => current_identity()?,
    };
    Ok(Prepared {
        end: Place::prepare(path, &identity)?,
        uid,
    })
}

/// Where the option asks for it, and for the user that `--user` names. Whoever will use it takes
/// the lock: this process does not stay.
fn prepare_state_dir(config: &StartConfig) -> Result<(), Error> {
    let identity = match named_user(config)? {
        Some(user) => user,
        None => current_identity()?,
    };
    if let Some(directory) = &config.run.state_dir {
        state_dir::prepare(directory, &identity)?;
    }
    Ok(())
}

fn named_user(config: &StartConfig) -> Result<Option<Identity>, Error> {
    let user = config.run.user.as_ref();
    Ok(user.map(UserSpec::look_up).transpose()?)
}
