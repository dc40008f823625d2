//! `plan`: what a start would install, without installing it and without any privilege.

use super::{Outcome, inputs, start};
use crate::{
    cli::StartArgs,
    config::{self, Dns, Environment},
    error::Error,
    policy, ruleset,
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
    let config = config::start(args, environment, Dns::Pinned)?;
    let list = inputs::allowlist(&config.lists)?;
    let questions = inputs::questions(&list, &config)?;
    let nameservers = questions.upstreams.nameservers();
    let answers = start::answers(questions, &config).await?;
    let decision = policy::decide(&list, &answers, &config.inbound);
    start::report_warnings(&decision);
    let dns = if config.dns == Dns::System {
        ruleset::Dns::Servers(&nameservers)
    } else {
        ruleset::Dns::Closed
    };
    let ruleset = ruleset::enforced(&decision.policy, dns);
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
