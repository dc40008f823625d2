//! The start: lock, resolve, enforce. What the entrypoint and `apply` have in common.
//!
//! Each step takes what the one before returned; none can be skipped. From the first transaction
//! on the network is locked, and it is left locked, with no way out for DNS, unless every step
//! succeeded (I1, I5). Only one thing is asked before: whether the network is the container's.

use super::inputs::{self, Questions};
use crate::{
    allowlist::Name,
    cli::StartArgs,
    config::{self, Dns, Environment, OnUnresolved, StartConfig},
    error::{Error, NoAddress, UnresolvedNames},
    host_network, links,
    nft::Nftables,
    policy::{self, Answers, Decision, Nameservers, Origin},
    resolve::{self, hosts},
    ruleset::{self, Ruleset, SocketOwner},
    sentinel::{self, Sentinel},
    signals::Signals,
    start_lock::StartLock,
};
use std::{collections::HashSet, future::Future, net::IpAddr, path::Path, time::Duration};
use tracing::{debug, warn};

/// How long another start may keep this one waiting: longer than any start takes.
const START_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What the caller has looked up before the start goes on.
pub struct Prepared<T> {
    /// What the end of the start needs.
    pub end: T,
    /// Whom the command runs as, where that is known.
    pub uid: Option<u32>,
}

/// An enforced policy: the rules are in the kernel and were read back.
pub struct Enforced<T> {
    /// The configuration.
    pub config: StartConfig,
    /// What the end of the start needs.
    pub end: T,
    /// What was decided.
    pub decision: Decision,
    /// What is in the kernel.
    pub ruleset: Ruleset,
    /// Keeps other starts waiting until it is dropped, or closed by exec (I9).
    _start_lock: StartLock,
}

impl<T> Enforced<T> {
    /// What the sentinel is to say.
    pub fn sentinel(&self, mode: &str) -> Result<Sentinel, Error> {
        let counts = self.decision.counts;
        Ok(Sentinel::here(sentinel::Enforced {
            mode: mode.to_owned(),
            dns: self.config.dns.to_string(),
            ruleset_sha256: self.ruleset.digest(),
            names: counts.names as u64,
            ipv4: counts.ipv4 as u64,
            ipv6: counts.ipv6 as u64,
        })?)
    }
}

/// Runs the start. `prepare` looks up, early, what has to exist for the start to make sense.
pub async fn enforce<T>(
    args: &StartArgs,
    environment: Environment<'_>,
    default_dns: Dns,
    sentinel_path: &Path,
    prepare: impl FnOnce(&StartConfig) -> Result<Prepared<T>, Error>,
) -> Result<Enforced<T>, Error> {
    let signals = Signals::block().map_err(|error| Error::Process("block signals", error))?;
    // First of all (I3), and once more when no other start can publish any more.
    let removed = sentinel::remove(sentinel_path);
    if !args.allow_host_network {
        host_network::check().await?;
    }
    let start_lock = unless_interrupted(&signals, StartLock::acquire(START_LOCK_TIMEOUT)).await??;
    let removed = removed.and_then(|()| sentinel::remove(sentinel_path));

    let mut firewall = Firewall::lock()?;
    let result = async {
        removed?;
        let config = config::start(args, environment, default_dns)?;
        let prepared = prepare(&config)?;
        links::bring_loopback_up().await?;
        let list = inputs::allowlist(&config.lists)?;
        let questions = inputs::questions(&list, &config)?;
        firewall.open_dns(&questions, &config, prepared.uid)?;
        let known: HashSet<Name> = questions.known.keys().cloned().collect();
        let answers = unless_interrupted(&signals, answers(questions, &config)).await??;
        let decision = policy::decide(&list, &answers, &config.inbound);
        report_warnings(&decision);
        pin(&decision, &known, config.dns)?;
        firewall.enforce(&config, &decision)?;
        check_interrupted(&signals)?;
        Ok((config, prepared.end, decision))
    }
    .await;
    match result {
        Ok((config, end, decision)) => {
            let Firewall {
                kernel,
                current: ruleset,
                ..
            } = firewall;
            kernel.close();
            Ok(Enforced {
                config,
                end,
                decision,
                ruleset,
                _start_lock: start_lock,
            })
        }
        Err(error) => {
            firewall.seal();
            Err(error)
        }
    }
}

/// The firewall and what it is at the moment.
struct Firewall {
    kernel: Nftables,
    current: Ruleset,
    nameservers: Nameservers,
}

impl Firewall {
    /// Default-deny before anything else is even read (I1).
    fn lock() -> Result<Self, Error> {
        let mut kernel = Nftables::open()?;
        let current = ruleset::locked(None);
        kernel.replace(&current)?;
        debug!("the network is locked");
        Ok(Self {
            kernel,
            current,
            nameservers: Nameservers::default(),
        })
    }

    /// Lets this process, and a resolver that forwards for it as uid 0, reach the nameservers,
    /// if there is anything to ask them, now or later.
    fn open_dns(
        &mut self,
        questions: &Questions,
        config: &StartConfig,
        command: Option<u32>,
    ) -> Result<(), Error> {
        let stays_open = config.dns == Dns::System;
        if !stays_open && questions.names.is_empty() {
            return Ok(());
        }
        self.nameservers = questions.upstreams.nameservers();
        if stays_open {
            warn_of_open_dns(&self.nameservers, command)?;
        }
        let mut owners = [nix::unistd::geteuid().as_raw(), 0]
            .map(SocketOwner::user)
            .to_vec();
        owners.dedup();
        self.change_to(ruleset::locked(Some((&self.nameservers, &owners))))
    }

    fn enforce(&mut self, config: &StartConfig, decision: &Decision) -> Result<(), Error> {
        let dns = if config.dns == Dns::System {
            ruleset::Dns::Servers(&self.nameservers)
        } else {
            ruleset::Dns::Closed
        };
        let enforced = ruleset::enforced(&decision.policy, dns);
        self.change_to(enforced)?;
        Ok(self.kernel.verify(&self.current)?)
    }

    fn change_to(&mut self, next: Ruleset) -> Result<(), Error> {
        self.kernel.transition(&self.current, &next)?;
        self.current = next;
        Ok(())
    }

    /// After a failure: the lock, with nothing open.
    fn seal(&mut self) {
        let locked = ruleset::locked(None);
        if self.current != locked
            && let Err(error) = self.kernel.replace(&locked)
        {
            warn!(
                "could not close the lock's way to the nameservers: {}",
                Error::from(error).report()
            );
        }
    }
}

/// Mode `system` leaves a way out (section 7): it is said, and refused where uid 0 would have all
/// of it.
fn warn_of_open_dns(nameservers: &Nameservers, command: Option<u32>) -> Result<(), Error> {
    if nameservers.unknown && command == Some(0) {
        return Err(Error::RootWithOpenDns);
    }
    if nameservers.unknown {
        warn!(
            "dns system: port 53 of any server stays open to uid 0, because it is not known where the resolver on loopback forwards to; name the servers with --dns-upstream"
        );
    }
    warn!(
        "dns system: queries to the nameservers can carry data out (a DNS tunnel); --dns pinned closes that"
    );
    Ok(())
}

pub fn report_warnings(decision: &Decision) {
    for warning in &decision.warnings {
        warn!("{warning}");
    }
}

/// Writes the answers to /etc/hosts; what the operator has there is not repeated. In a mode that
/// asks DNS, answers of an earlier start would be in its way.
fn pin(decision: &Decision, known: &HashSet<Name>, dns: Dns) -> Result<(), Error> {
    let pinned = |(name, _): &&(Name, _)| dns == Dns::Pinned && !known.contains(name);
    let answers: Vec<_> = decision.hosts.iter().filter(pinned).cloned().collect();
    Ok(hosts::write(Path::new(hosts::HOSTS), &answers)?)
}

/// Resolves the names; those without an address end the start or are left out.
pub async fn answers(questions: Questions, config: &StartConfig) -> Result<Answers, Error> {
    let Questions {
        names,
        upstreams,
        known: mut answers,
        required,
    } = questions;
    let mut unresolved = Vec::new();
    for (name, answer) in resolve::resolve(&names, &upstreams, config.resolve_timeout).await {
        let addresses = answer.map(|resolved| resolved.addresses);
        match addresses.map_err(NoAddress::from).and_then(admissible) {
            Ok(addresses) => {
                debug!("{name} is {addresses:?}");
                answers.insert(name, addresses);
            }
            // A name that is only refused needs no address to be refused.
            Err(reason) if !required.contains(&name) => debug!("{name}: {reason}"),
            Err(reason) => unresolved.push((name, reason)),
        }
    }
    if unresolved.is_empty() {
        return Ok(answers);
    }
    let unresolved = UnresolvedNames {
        names: unresolved,
        connected: connected().await,
    };
    match config.on_unresolved {
        OnUnresolved::Fail => Err(unresolved.into()),
        OnUnresolved::Skip => {
            for line in unresolved.to_string().lines() {
                warn!("{line}");
            }
            Ok(answers)
        }
    }
}

/// The addresses, if one of them at least may come from an answer; the policy leaves out the rest.
fn admissible(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, NoAddress> {
    let mut inadmissible = None;
    for &address in &addresses {
        match policy::admissible(address, Origin::Name) {
            Ok(()) => return Ok(addresses),
            Err(reason) => inadmissible = Some(NoAddress::Inadmissible { address, reason }),
        }
    }
    inadmissible.map_or(Ok(addresses), Err)
}

/// Whether there is a way to another host at all; assumed where it cannot be read.
async fn connected() -> bool {
    links::connectivity()
        .await
        .map_or(true, |found| found.ipv4 || found.ipv6)
}

async fn unless_interrupted<T>(
    signals: &Signals,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        signal = signals.received() => Err(match signal {
            Ok(signal) => Error::Interrupted(signal),
            Err(error) => Error::Process("read signals", error),
        }),
        done = work => Ok(done),
    }
}

fn check_interrupted(signals: &Signals) -> Result<(), Error> {
    match signals.pending() {
        Ok(None) => Ok(()),
        Ok(Some(signal)) => Err(Error::Interrupted(signal)),
        Err(error) => Err(Error::Process("read signals", error)),
    }
}
