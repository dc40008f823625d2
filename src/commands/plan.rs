//! `plan`: what a start would install, without installing it and without any privilege.

use super::{Outcome, start};
use crate::{
    accounts::UserSpec,
    cli::StartArgs,
    config::Job,
    config::{self, Dns, Environment},
    error::Error,
    inputs, policy,
    privileges::Keeper,
    ruleset,
};
use serde::Serialize;
use std::{collections::BTreeMap, net::IpAddr};

/// What `--json` prints.
#[derive(Serialize)]
struct Plan<'a> {
    dns: String,
    names: BTreeMap<&'a str, &'a [IpAddr]>,
    allow: Vec<String>,
    deny: Vec<String>,
    inbound: Vec<String>,
    ruleset_sha256: String,
    ruleset: String,
}

pub async fn plan(
    args: &StartArgs,
    environment: Environment<'_>,
    json: bool,
) -> Result<Outcome, Error> {
    let config = config::start(args, environment, Job::Look)?;
    let (list, _) = inputs::allowlist(&config.lists, config.dns)?;
    let questions = inputs::questions(&list, &config)?;
    let upstreams = questions.upstreams.clone();
    let nameservers = upstreams.nameservers();
    let answers = start::answers(&list, questions, &config).await?;
    let decision = policy::decide(&list, &answers.addresses, &config.inbound);
    start::report_warnings(&decision);
    let policy = &decision.policy;
    let ruleset = match config.dns {
        Dns::Pinned => ruleset::enforced(policy, ruleset::Dns::Closed),
        Dns::System => ruleset::enforced(policy, ruleset::Dns::Servers(&nameservers)),
        Dns::Proxy => {
            let user = config
                .run
                .user
                .as_ref()
                .map(UserSpec::look_up)
                .transpose()?;
            let gid = Keeper::free_group(user.as_ref())?;
            let terms = start::terms(&config, &upstreams, &nameservers, gid);
            terms.table(&start::ledger(&terms, &list, &answers))
        }
    };
    let text = if json {
        let text =
            |elements: &[policy::Element]| elements.iter().map(ToString::to_string).collect();
        let plan = Plan {
            dns: config.dns.to_string(),
            names: decision
                .hosts
                .iter()
                .map(|(name, addresses)| (name.as_str(), addresses.as_slice()))
                .collect(),
            allow: text(&decision.policy.allow),
            deny: text(&decision.policy.deny),
            inbound: text(&decision.policy.inbound),
            ruleset_sha256: ruleset.digest(),
            ruleset: ruleset.to_string(),
        };
        let text = serde_json::to_string_pretty(&plan)
            .map_err(|error| Error::Process("write the plan", error.into()))?;
        text + "\n"
    } else {
        ruleset.to_string()
    };
    super::print(&text)?;
    Ok(Outcome::Done)
}
