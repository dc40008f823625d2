//! `doctor`: is this container ready for production?

use super::{Outcome, print};
use crate::{
    cli::StartArgs,
    config::{self, Environment, Job, StartConfig},
    doctor::{self, gather},
    error::Error,
    inputs,
};

/// Looks, judges and prints.
pub fn doctor(
    args: &StartArgs,
    environment: Environment<'_>,
    json: bool,
) -> Result<Outcome, Error> {
    let subject = gather::Subject {
        config: config::start(args, environment, Job::Look)?,
        sentinel: config::sentinel(args.run.sentinel.as_deref(), environment),
        allow_host_network: args.allow_host_network,
    };
    let privileges = super::privileges(&subject.config.run);
    // Only before a start is the list looked at.
    let names = || names_to_resolve(&subject.config);
    let facts = gather::gather(&subject, privileges, names, std::env::vars_os());
    let report = doctor::examine(&facts);
    let text = if json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Error::Process("write the report", error.into()))?;
        text + "\n"
    } else {
        report.to_string()
    };
    print(&text)?;
    Ok(if report.ok {
        Outcome::Done
    } else {
        Outcome::NotVerified
    })
}

/// How many names of the list /etc/hosts does not have already.
fn names_to_resolve(config: &StartConfig) -> Result<usize, Error> {
    let (list, _) = inputs::allowlist(&config.lists, config.dns)?;
    Ok(inputs::questions(&list, config)?.names.len())
}
