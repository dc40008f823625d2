//! `apply`: the start without a command. The rules and the sentinel outlive the process; with
//! `--watch` it stays and keeps them, as a sidecar of the containers that share the network.

use super::{
    Outcome, block_on, current_identity, report_ready,
    start::{self, Enforced, Prepared},
};
use crate::{
    accounts::{Identity, UserSpec},
    cli::StartArgs,
    config::{self, Environment, Job, StartConfig},
    error::Error,
    keeper::{self, Signals},
    log,
    privileges::Keeper,
    sentinel::Place,
    state_dir,
};
use caps::Capability;
use std::{path::Path, time::Instant};

/// Runs the start and publishes; with `watch` it returns when a signal ends it. Signals are
/// `blocked` before anything else; where that failed, an old sentinel still goes (I3).
pub fn apply(
    args: &StartArgs,
    environment: Environment<'_>,
    watch: bool,
    blocked: Result<(), Error>,
    began: Instant,
) -> Result<Outcome, Error> {
    let path = config::sentinel(args.run.sentinel.as_deref(), environment);
    start::begin(&path, watch);
    blocked?;
    block_on(async {
        let enforced = start::enforce(args, environment, Job::Apply { watch }, &path, |config| {
            config::unsupervised(&args.supervise)?;
            if args.run.state_dir.is_some() {
                prepare_state_dir(config)?;
            }
            prepare(config, &path, watch)
        })
        .await?;
        if watch {
            return stay(enforced, began).await;
        }
        enforced.end.place.publish(&enforced.sentinel("apply")?)?;
        enforced.kernel.close();
        report_ready(enforced.counts, enforced.config.dns, began);
        Ok(Outcome::Done)
    })?
}

/// Publishes, steps down, and keeps what is in force.
async fn stay(enforced: Enforced<End>, began: Instant) -> Result<Outcome, Error> {
    let sentinel = enforced.sentinel("watch")?;
    let signals = Signals::block().map_err(|error| Error::Process("block signals", error))?;
    let place = enforced.end.place.clone();
    if let Some(keeper) = &enforced.end.keeper {
        keeper.step_down()?;
    }
    place.publish(&sentinel)?;
    report_ready(enforced.counts, enforced.config.dns, began);
    log::never_wait();
    // Nobody else starts here as long as this process keeps the rules (I9).
    let Some((handover, _start_lock)) = enforced.hand_over(place, "watch") else {
        return Ok(Outcome::Done);
    };
    Ok(Outcome::Ended(keeper::keep(handover, signals).await?))
}

/// What the end needs.
struct End {
    place: Place,
    /// What a process that stays is left with.
    keeper: Option<Keeper>,
}

/// The commands that will use the rules are not known here; `--user` says whom to keep out of the
/// sentinel's folder.
fn prepare(config: &StartConfig, path: &Path, watch: bool) -> Result<Prepared<End>, Error> {
    let user = named_user(config)?;
    let gid = if watch {
        Keeper::own_group(user.as_ref())?
    } else {
        None
    };
    let keeper = watch.then(|| Keeper::alone(&[Capability::CAP_NET_ADMIN], gid));
    if let Some(keeper) = &keeper {
        keeper.check_attainable()?;
    }
    let identity = match user.clone() {
        Some(user) => user,
        None => current_identity()?,
    };
    Ok(Prepared {
        end: End {
            place: Place::prepare(path, &identity)?,
            keeper,
        },
        command: user,
        resolver_gid: gid,
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
