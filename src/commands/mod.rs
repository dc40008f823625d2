//! The subcommands, one file each, and what they share: logging and the runtime.

mod apply;
mod check;
mod doctor;
mod plan;
mod run;
mod start;
mod status;

use crate::{
    accounts::{Identity, UserSpec},
    cli::{CheckArgs, LogArgs, StartArgs, StatusArgs},
    config::{self, Environment, RunConfig},
    error::Error,
    log,
    policy::Counts,
    privileges::Privileges,
    signals,
    socket_filter::Family,
    state_dir::{self, StateDir, StateLock},
};
use std::{
    ffi::OsString,
    future::Future,
    io::{self, Write},
    time::Instant,
};
use tracing::{info, warn};

/// How a subcommand that returns has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// The command that was supervised ended, with this exit code.
    Ended(u8),
    /// `check` did not verify, or `doctor` found what fails.
    NotVerified,
}

const ENVIRONMENT: Environment<'static> = &|name| std::env::var_os(name);

/// The entrypoint: returns where it failed, or with the exit code of a command that it supervised.
pub fn run(args: &StartArgs, command: &[OsString]) -> Result<Outcome, Error> {
    let began = Instant::now();
    let blocked = if config::is_supervised(&args.supervise, ENVIRONMENT) {
        signals::block_supervised()
    } else {
        Ok(())
    };
    start_logging(&args.log)?;
    warn_of_unknown_variables();
    let blocked = blocked.map_err(|error| Error::Process("block signals", error));
    run::run(args, ENVIRONMENT, command, blocked, began)
}

/// `apply`.
pub fn apply(args: &StartArgs, watch: bool) -> Result<Outcome, Error> {
    let began = Instant::now();
    let blocked = if watch {
        signals::block_hangup()
    } else {
        Ok(())
    };
    start_logging(&args.log)?;
    warn_of_unknown_variables();
    let blocked = blocked.map_err(|error| Error::Process("block signals", error));
    apply::apply(args, ENVIRONMENT, watch, blocked, began)
}

/// `status`.
pub fn status(args: &StatusArgs) -> Result<Outcome, Error> {
    start_logging(&args.log)?;
    status::status(args, ENVIRONMENT)
}

/// `check`.
pub fn check(args: &CheckArgs) -> Result<Outcome, Error> {
    start_logging(&args.log)?;
    check::check(args, ENVIRONMENT)
}

/// `plan`.
pub fn plan(args: &StartArgs, json: bool) -> Result<Outcome, Error> {
    start_logging(&args.log)?;
    warn_of_unknown_variables();
    block_on(plan::plan(args, ENVIRONMENT, json))?
}

/// `doctor`.
pub fn doctor(args: &StartArgs, json: bool) -> Result<Outcome, Error> {
    start_logging(&args.log)?;
    warn_of_unknown_variables();
    doctor::doctor(args, ENVIRONMENT, json)
}

/// Logging first, so that whatever is wrong afterwards is logged as asked.
fn start_logging(args: &LogArgs) -> Result<(), Error> {
    let config = config::logging(args, ENVIRONMENT).inspect_err(|_| {
        log::start(log::Format::Text, log::default_filter(), None);
    })?;
    log::start(config.format, config.filter, config.correlation_id);
    Ok(())
}

fn warn_of_unknown_variables() {
    for name in config::unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        warn!("the variable {name} means nothing to this version");
    }
}

/// One thread: what follows changes the credentials of threads.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Process("start the asynchronous runtime", error))?;
    Ok(runtime.block_on(work))
}

/// What the command is to be left with.
fn privileges(config: &RunConfig) -> Result<Privileges, Error> {
    let identity = config.user.as_ref().map(UserSpec::look_up).transpose()?;
    let families = Family::DEFAULT
        .into_iter()
        .chain(config.socket_families.iter().copied());
    Ok(Privileges {
        identity,
        keep_caps: config.keep_caps.clone(),
        no_new_privs: !config.allow_new_privs,
        socket_families: families.collect(),
    })
}

/// Whom the command runs as.
fn command_identity(privileges: &Privileges) -> Result<Identity, Error> {
    match &privileges.identity {
        Some(identity) => Ok(identity.clone()),
        None => current_identity(),
    }
}

fn current_identity() -> Result<Identity, Error> {
    Identity::current().map_err(|error| Error::Process("read the process's ids", error))
}

/// The command's own directory, where one is named: to be kept open until exec.
fn hold_state_dir(
    directory: Option<&StateDir>,
    identity: &Identity,
) -> Result<Option<StateLock>, Error> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    let lock = state_dir::hold(directory, identity)?;
    if let Some(kind) = lock.host_only() {
        warn!(
            "the state directory {} is on {kind}: its lock holds among the containers of this host, not among hosts",
            directory.path.display()
        );
    }
    Ok(Some(lock))
}

/// The one line of a good start.
fn report_ready(counts: Counts, dns: config::Dns, began: Instant) {
    let ms = (began.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
    info!(
        event = "ready",
        names = counts.names as u64,
        ipv4 = counts.ipv4 as u64,
        ipv6 = counts.ipv6 as u64,
        dns = %dns,
        ms,
        "firewall ready: {} {}, {} IPv4 + {} IPv6 addresses, dns {dns}, {ms:.1} ms",
        counts.names,
        if counts.names == 1 { "name" } else { "names" },
        counts.ipv4,
        counts.ipv6,
    );
}

fn print(text: &str) -> Result<(), Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads only the beginning has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::Process("write to standard output", error)),
    }
}
