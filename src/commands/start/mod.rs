//! The start: lock, resolve, enforce. What the entrypoint and `apply` have in common.
//!
//! Each step takes what the one before returned; none can be skipped. From the first transaction
//! on the network is locked, and it is left locked, with no way out for DNS, unless every step
//! succeeded (I1, I5). Only one thing is asked before: whether the network is the container's.

mod firewall;

use crate::{
    accounts::Identity,
    allowlist::{Allowlist, Name},
    cli::StartArgs,
    config::{self, Dns, Environment, Job, OnUnresolved, StartConfig},
    error::{Error, NoAddress, UnresolvedNames},
    host_network,
    inputs::{self, Questions},
    keeper::{self, Charge, Found, Handover, ListWatch, Reading, Terms, status_socket},
    links::{self, Links},
    nft::Nftables,
    policy::{self, Answers, Counts, Decision, Ledger, Nameservers, Origin},
    proxy::Listeners,
    resolve::{self, Resolved, hosts, nameservers::Upstreams},
    sentinel::{self, Place, Sentinel},
    signals::Signals,
    start_lock::{StartLock, StartLockError},
};
use firewall::{Firewall, forwarder, local, resolver};
use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};
use tracing::{debug, warn};

/// How long another start may keep this one waiting: longer than any start takes.
const START_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// What the caller has looked up before the start goes on.
pub struct Prepared<T> {
    /// What the end of the start needs.
    pub end: T,
    /// Whom the command runs as, where that is known.
    pub command: Option<Identity>,
    /// The group that the resolver of mode `proxy` has for itself.
    pub resolver_gid: Option<u32>,
}

/// An enforced policy: the rules are in the kernel and were read back.
pub struct Enforced<T> {
    /// The configuration.
    pub config: StartConfig,
    /// What the end of the start needs.
    pub end: T,
    /// How much may be reached.
    pub counts: Counts,
    /// What the sentinel says of the rules ([`crate::ruleset::Ruleset::digest`]).
    pub ruleset_sha256: String,
    /// The way to change it.
    pub kernel: Nftables,
    /// In mode `proxy`, what a keeper goes on with.
    pub resolving: Option<Resolving>,
    /// Keeps other starts waiting until it is dropped, or closed by exec (I9).
    pub start_lock: StartLock,
}

/// Mode `proxy`: what the start found out, and where the command's queries arrive.
pub struct Resolving {
    terms: Terms,
    found: Found,
    listeners: Listeners,
    watch: Option<ListWatch>,
    upstreams: Upstreams,
}

/// Where the resolver of mode `proxy` listens.
const LISTEN: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 53),
];

impl<T> Enforced<T> {
    /// What the sentinel is to say.
    pub fn sentinel(&self, mode: &str) -> Result<Sentinel, Error> {
        let counts = self.counts;
        Ok(Sentinel::here(sentinel::Enforced {
            mode: mode.to_owned(),
            dns: self.config.dns.to_string(),
            ruleset_sha256: self.ruleset_sha256.clone(),
            names: counts.names as u64,
            ipv4: counts.ipv4 as u64,
            ipv6: counts.ipv6 as u64,
        })?)
    }
}

/// What comes first of all (I3), before anything that can fail: an old sentinel goes. Where it
/// does not, [`enforce`] tries again, and says so. Where somebody keeps the rules, what the
/// sentinel says is true, and stays so: [`enforce`] says that too. One that `stays` may find what
/// a keeper that is gone has left in force, and then it is true as well.
pub fn begin(sentinel_path: &Path, stays: bool) {
    let kept = StartLock::check_free_to_take();
    let is_true = matches!(kept, Err(StartLockError::Kept(_)))
        || stays && matches!(Firewall::left_by_another(), Ok(Some(_)));
    if !is_true {
        let _ = sentinel::remove(sentinel_path);
    }
}

impl<T> Enforced<T> {
    /// Hands what a keeper needs over to it, in mode `proxy`; what is left of the start goes.
    pub fn hand_over(self, place: Place, mode: &'static str) -> Option<(Handover, StartLock)> {
        let Resolving {
            terms,
            found,
            listeners,
            watch,
            upstreams,
        } = self.resolving?;
        let handover = Handover {
            status_path: status_socket::path(&place.path()),
            charge: Charge::new(terms, self.kernel, found, place, mode),
            listeners,
            watch,
            upstreams,
            limits: self.config.limits,
            deadline: self.config.resolve_timeout,
        };
        Some((handover, self.start_lock.stay()))
    }
}

/// Runs the start. `prepare` looks up, early, what has to exist for the start to make sense.
pub async fn enforce<T>(
    args: &StartArgs,
    environment: Environment<'_>,
    job: Job,
    sentinel_path: &Path,
    prepare: impl FnOnce(&StartConfig) -> Result<Prepared<T>, Error>,
) -> Result<Enforced<T>, Error> {
    let signals = Signals::block().map_err(|error| Error::Process("block signals", error))?;
    // One that stays may find what another one left in force, and then the sentinel is true.
    let stays = job == Job::Apply { watch: true };
    let links = if args.allow_host_network {
        Links::default()
    } else {
        host_network::check()?
    };
    let start_lock = unless_interrupted(&signals, StartLock::acquire(START_LOCK_TIMEOUT)).await??;
    let adopted = if stays { Firewall::adopt()? } else { None };
    let mut removed = Ok(());
    let mut firewall = if let Some(firewall) = adopted {
        firewall
    } else {
        // Once more, now that no other start can publish any more (I3).
        removed = sentinel::remove(sentinel_path);
        Firewall::lock()?
    };
    let result = async {
        removed?;
        let config = config::start(args, environment, job)?;
        let prepared = prepare(&config)?;
        if !links.loopback_is_up {
            links::bring_loopback_up()?;
        }
        let listeners = (config.dns == Dns::Proxy).then(|| Listeners::bind(&LISTEN));
        let listeners = listeners.transpose().map_err(Error::Listen)?;
        let watch = listeners
            .as_ref()
            .and_then(|_| keeper::watch_lists(&config.lists));
        let (list, digest) = inputs::allowlist(&config.lists, config.dns)?;
        let questions = inputs::questions(&list, &config)?;
        firewall.open_dns(&questions, &config, &prepared)?;
        let known = questions.known.clone();
        let upstreams = questions.upstreams.clone();
        let answers = unless_interrupted(&signals, answers(&list, questions, &config)).await??;
        let decision = policy::decide(&list, &answers.addresses, &config.inbound);
        report_warnings(&decision);
        pin(&decision, &known, config.dns)?;
        let mut counts = decision.counts;
        let resolving = if let Some(listeners) = listeners {
            let terms = terms(
                &config,
                &upstreams,
                &firewall.nameservers,
                prepared.resolver_gid,
            );
            let ledger = ledger(&terms, &list, &answers);
            firewall.resolve_by(&terms, &ledger)?;
            counts = ledger.counts(Instant::now());
            let reading = Reading {
                list,
                digest,
                hosts: known,
            };
            Some(Resolving {
                found: Found {
                    ledger,
                    reading,
                    ttls: answers.ttls,
                    mark: firewall.current.ours()?.mark().unwrap_or_default(),
                },
                terms,
                listeners,
                watch,
                upstreams,
            })
        } else {
            firewall.enforce(&config, &decision)?;
            None
        };
        firewall.verify()?;
        check_interrupted(&signals)?;
        let ruleset_sha256 = firewall.current.ours()?.digest();
        Ok((config, prepared.end, counts, ruleset_sha256, resolving))
    }
    .await;
    match result {
        Ok((config, end, counts, ruleset_sha256, resolving)) => Ok(Enforced {
            config,
            end,
            counts,
            ruleset_sha256,
            kernel: firewall.kernel,
            resolving,
            start_lock,
        }),
        Err(error) => {
            if firewall.is_to_be_sealed() {
                // That of what was taken over, if it was (I3).
                let _ = sentinel::remove(sentinel_path);
                firewall.seal();
            }
            Err(error)
        }
    }
}

/// What names lend after the start.
pub fn ledger(terms: &Terms, list: &Allowlist, answers: &Answered) -> Ledger {
    let now = Instant::now();
    let mut ledger = terms.ledger(list);
    for (name, addresses) in &answers.addresses {
        let ttl = answers.ttls.get(name).copied().unwrap_or_default();
        ledger.answer(name, addresses, now + terms.lifetimes.of(ttl), now);
        ledger.refuse(name, addresses);
    }
    ledger
}

/// What the keeper is to hold to.
pub fn terms(
    config: &StartConfig,
    upstreams: &Upstreams,
    nameservers: &Nameservers,
    resolver_gid: Option<u32>,
) -> Terms {
    Terms {
        lists: inputs::as_found(config.lists.clone()),
        inbound: config.inbound.clone(),
        search: upstreams.search.clone(),
        nameservers: nameservers.clone(),
        resolver: resolver(resolver_gid),
        forwarder: forwarder(upstreams).is_some(),
        local: local(upstreams),
        lifetimes: config.lifetimes,
    }
}

pub fn report_warnings(decision: &Decision) {
    for warning in &decision.warnings {
        warn!("{warning}");
    }
}

/// Writes the answers to /etc/hosts; what the operator has there is not repeated. In a mode that
/// asks DNS, answers of an earlier start would be in its way.
fn pin(decision: &Decision, known: &Answers, dns: Dns) -> Result<(), Error> {
    let pinned = |(name, _): &&(Name, _)| dns == Dns::Pinned && !known.contains_key(name);
    let answers: Vec<_> = decision.hosts.iter().filter(pinned).cloned().collect();
    Ok(hosts::write(Path::new(hosts::HOSTS), &answers)?)
}

/// What the names resolved to.
pub struct Answered {
    /// Of DNS and of /etc/hosts.
    pub addresses: Answers,
    /// For how long those of DNS count.
    pub ttls: BTreeMap<Name, Duration>,
}

/// Resolves the names; those without an address end the start or are left out.
pub async fn answers(
    list: &Allowlist,
    questions: Questions,
    config: &StartConfig,
) -> Result<Answered, Error> {
    let Questions {
        names,
        upstreams,
        known,
    } = questions;
    let mut resolved = Vec::with_capacity(names.len());
    let mut unresolved = Vec::new();
    for (name, answer) in resolve::resolve(&names, &upstreams, config.resolve_timeout).await {
        match answer.map_err(NoAddress::from).and_then(admissible) {
            Ok(answer) => {
                debug!("{name} is {:?}", answer.addresses);
                resolved.push((name, answer));
            }
            Err(reason) => unresolved.push((name, reason)),
        }
    }
    let ttls = resolved
        .iter()
        .map(|(name, answer)| (name.clone(), answer.ttl));
    let ttls = ttls.collect();
    let mut addresses: Answers = resolved
        .into_iter()
        .map(|(name, answer)| (name, answer.addresses))
        .collect();
    addresses.extend(known);
    let answers = Answered { addresses, ttls };
    if !unresolved.is_empty() {
        let allowed = list.allowed();
        unresolved.retain(|(name, reason)| {
            let required = allowed.contains_key(name);
            if !required {
                // A name that is only refused needs no address to be refused.
                debug!("{name}: {reason}");
            }
            required
        });
    }
    if unresolved.is_empty() {
        return Ok(answers);
    }
    let unresolved = UnresolvedNames {
        names: unresolved,
        connected: connected(),
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

/// The answer, if one address of it at least may come from one; the policy leaves out the rest.
fn admissible(answer: Resolved) -> Result<Resolved, NoAddress> {
    let mut inadmissible = None;
    for &address in &answer.addresses {
        match policy::admissible(address, Origin::Name) {
            Ok(()) => return Ok(answer),
            Err(reason) => inadmissible = Some(NoAddress::Inadmissible { address, reason }),
        }
    }
    inadmissible.map_or(Ok(answer), Err)
}

/// Whether there is a way to another host at all; assumed where it cannot be read.
fn connected() -> bool {
    links::connectivity().map_or(true, |found| found.ipv4 || found.ipv6)
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
