//! The entrypoint: lock, resolve, enforce, drop, publish, exec; with `--supervise`, stay above the
//! command.

use super::{
    Outcome, block_on, command_identity, hold_state_dir, privileges, report_ready,
    start::{self, Enforced, Prepared},
};
use crate::{
    accounts::Identity,
    cli::StartArgs,
    command::Command,
    config::{self, Dns, Environment, Job, StartConfig},
    error::Error,
    keeper::{self, Outside, Wish},
    launch::launch,
    log,
    policy::Counts,
    privileges::{Keeper, Privileges},
    sentinel::Place,
    state_dir::StateLock,
    supervise::{Options, Plan, Supervised},
};
use caps::Capability;
use std::{ffi::OsString, os::fd::AsFd, path::Path, time::Instant};
use tracing::warn;

/// Runs the start and becomes the command, or supervises it. As the command it returns only where
/// something failed. Signals are `blocked` before anything else; where that failed, an old sentinel
/// still goes (I3).
pub fn run(
    args: &StartArgs,
    environment: Environment<'_>,
    words: &[OsString],
    blocked: Result<(), Error>,
    began: Instant,
) -> Result<Outcome, Error> {
    let path = config::sentinel(args.run.sentinel.as_deref(), environment);
    start::begin(&path, false);
    blocked?;
    let started = block_on(async {
        let mut enforced = start::enforce(args, environment, Job::Run, &path, |config| {
            prepare(config, environment, words, &path)
        })
        .await?;
        match enforced.end.above.take() {
            Some(above) => supervise(enforced, above, began).await.map(Started::Ended),
            None => Ok(Started::Enforced(Box::new(enforced))),
        }
    })??;
    let enforced = match started {
        Started::Ended(code) => return Ok(Outcome::Ended(code)),
        Started::Enforced(enforced) => *enforced,
    };
    let sentinel = enforced.sentinel("exec")?;
    let Enforced {
        end,
        kernel,
        counts,
        config,
        start_lock: _start_lock,
        ..
    } = enforced;
    kernel.close();
    let ready = || report(&end.place, counts, config.dns, began);
    let sentinel = Some((&end.place, &sentinel));
    let kept = end.state.as_ref().map(AsFd::as_fd);
    Err(launch(&end.command, &end.privileges, sentinel, kept, ready).into())
}

/// How far a start has come.
enum Started {
    /// What is left is to become the command.
    Enforced(Box<Enforced<End>>),
    /// The command was supervised and has ended.
    Ended(u8),
}

async fn supervise(mut enforced: Enforced<End>, above: Above, began: Instant) -> Result<u8, Error> {
    let state = enforced.end.state.take();
    let sentinel = enforced.sentinel("supervise")?;
    let End {
        command,
        privileges,
        place,
        ..
    } = &enforced.end;
    let (counts, dns) = (enforced.counts, enforced.config.dns);
    let plan = Plan {
        command,
        privileges,
        sentinel: Some((place, &sentinel)),
        state,
        keeper: &above.keeper,
        options: above.options,
    };
    let mut supervised = Supervised::start(plan, || report(place, counts, dns, began))?;
    log::never_wait();
    let place = place.clone();
    // In mode proxy, and in no other.
    if let Some((handover, _start_lock)) = enforced.hand_over(place, "supervise") {
        // Nobody else starts here as long as this process keeps the rules (I9).
        return keeper::keep(handover, supervised).await;
    }
    // Nothing changes the rules any more: the memory of the start is given back, and its lock.
    loop {
        let wish = supervised.wish().await;
        match wish.map_err(|error| Error::Process("supervise the command", error))? {
            Wish::End(code) => return Ok(code),
            Wish::Reload => {}
        }
    }
}

fn report(place: &Place, counts: Counts, dns: Dns, began: Instant) {
    if let Some(warning) = place.warning() {
        warn!("{warning}; {}", warning.remedy());
    }
    report_ready(counts, dns, began);
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
    gid: Option<u32>,
}

impl Above {
    /// It changes rules in mode `proxy` alone, and is then told from the command by a group.
    fn prepare(
        options: Options,
        dns: Dns,
        command: &Privileges,
        identity: &Identity,
    ) -> Result<Self, Error> {
        let (capabilities, gid) = if dns == Dns::Proxy {
            // What the resolver is told by: a uid and a group that no command can take.
            let has_uid = identity.uid == nix::unistd::geteuid().as_raw()
                || command.keeps(Capability::CAP_SETUID);
            if has_uid && command.keeps(Capability::CAP_SETGID) {
                return Err(Error::CouldBeResolver);
            }
            let gid = Keeper::own_group(Some(identity))?;
            (&[Capability::CAP_NET_ADMIN][..], gid)
        } else {
            (&[][..], None)
        };
        let keeper = Keeper::above(command, capabilities, gid)?;
        keeper.check_attainable()?;
        Ok(Self {
            keeper,
            options,
            gid,
        })
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
    let identity = command_identity(&privileges)?;
    let above = config
        .supervise
        .map(|options| Above::prepare(options, config.dns, &privileges, &identity))
        .transpose()?;
    let place = Place::prepare(path, &identity)?;
    let state = hold_state_dir(config.run.state_dir.as_ref(), &identity)?;
    Ok(Prepared {
        resolver_gid: above.as_ref().and_then(|above| above.gid),
        end: End {
            command,
            privileges,
            place,
            state,
            above,
        },
        command: Some(identity),
    })
}
