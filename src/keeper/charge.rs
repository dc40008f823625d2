//! What a keeper is in charge of: the ledger of addresses, the table in the kernel, and what there
//! is to say about both.
//!
//! Nothing waits while it is borrowed, so ledger and kernel change together: an address is in the
//! sets, acknowledged, before anybody is told of it.

use super::schedule::{AfterFailure, Schedule};
use crate::{
    allowlist::{Allowlist, Name, Origin, Target},
    config::{self, Dns},
    error::Error,
    inputs::{self, Digest},
    nft::{NftError, Nftables},
    policy::{Answers, Change, Element, Ledger, Lifetimes, Nameservers},
    proxy::{Gate, NotAdmitted, Verdict},
    resolve::{Answer, Resolved, Unresolved},
    ruleset::{self, Ruleset, SocketOwner},
    sentinel::{self, Place, Sentinel},
    status::{
        AddressStatus, Counters, DnsCounters, NameStatus, PolicyStatus, SCHEMA, Status, Traffic,
    },
};
use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

/// What a start decides once, for as long as the keeper lives.
pub struct Terms {
    /// Where the entries come from.
    pub lists: config::Lists,
    /// Connections to let in.
    pub inbound: Vec<Element>,
    /// The search list of resolv.conf.
    pub search: Vec<String>,
    /// The servers that the resolver asks.
    pub nameservers: Nameservers,
    /// Whom the resolver is told from the command by.
    pub resolver: SocketOwner,
    /// Whether one of the servers is on loopback and may forward from inside this namespace.
    pub forwarder: bool,
    /// The servers on loopback.
    pub local: Vec<SocketAddr>,
    /// How long answers count.
    pub lifetimes: Lifetimes,
}

impl Terms {
    /// An empty ledger for a list.
    #[must_use]
    pub fn ledger(&self, list: &Allowlist) -> Ledger {
        Ledger::new(list, &self.search, &self.inbound).with_grace(self.lifetimes.grace)
    }

    /// The table for what the ledger says now.
    #[must_use]
    pub fn table(&self, ledger: &Ledger) -> Ruleset {
        let now = Instant::now();
        let proxy = ruleset::Proxy {
            nameservers: &self.nameservers,
            resolver: self.resolver,
            forwarder: self.forwarder,
            local: &self.local,
            generation: ledger.generation(),
            names: &ledger.names(now),
            past: &ledger.past(now),
        };
        ruleset::enforced(&ledger.policy(), ruleset::Dns::Proxy(&proxy))
    }
}

/// The lists, read but not in force.
pub struct Reading {
    /// The entries.
    pub list: Allowlist,
    /// What tells one reading from another.
    pub digest: Digest,
    /// What /etc/hosts has for the names of the list.
    pub hosts: Answers,
}

impl Reading {
    /// Reads the lists and what /etc/hosts has for their names.
    pub fn new(lists: &config::Lists) -> Result<Self, Error> {
        let (list, digest) = inputs::allowlist(lists, Dns::Proxy)?;
        let hosts = inputs::hosts(&list)?;
        Ok(Self {
            list,
            digest,
            hosts,
        })
    }
}

/// The policy, the table, and what is known about them.
pub struct Charge {
    terms: Terms,
    kernel: Nftables,
    ledger: Ledger,
    /// The lists that are in force.
    digest: Digest,
    hosts: Answers,
    schedule: Schedule,
    /// Why a name could not be refreshed, last time.
    errors: BTreeMap<Name, String>,
    /// The sentinel's place and what it says of how this was started.
    place: Place,
    mode: &'static str,
    generation: u64,
    since: SystemTime,
    mark: u32,
    reload_error: Option<String>,
    fault: Option<NftError>,
    broken: Rc<Notify>,
}

/// What a start found out, for [`Charge::new`].
pub struct Found {
    /// The policy with the addresses of the start.
    pub ledger: Ledger,
    /// The lists behind it.
    pub reading: Reading,
    /// For how long each answer of DNS counts, from now on.
    pub ttls: BTreeMap<Name, Duration>,
    /// The mark of the flows that are let out.
    pub mark: u32,
}

impl Charge {
    /// Takes over a table that is in force.
    #[must_use]
    pub fn new(
        terms: Terms,
        kernel: Nftables,
        found: Found,
        place: Place,
        mode: &'static str,
    ) -> Self {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add(found.reading.list.names(), now);
        for (name, ttl) in &found.ttls {
            schedule.succeeded(name, terms.lifetimes.until_refresh(*ttl), now);
        }
        Self {
            terms,
            kernel,
            ledger: found.ledger,
            digest: found.reading.digest,
            hosts: found.reading.hosts,
            schedule,
            errors: BTreeMap::new(),
            place,
            mode,
            generation: 1,
            since: SystemTime::now(),
            mark: found.mark,
            reload_error: None,
            fault: None,
            broken: Rc::default(),
        }
    }

    /// What the start decided.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Notified when the table cannot be kept: [`Self::take_fault`] says why.
    #[must_use]
    pub fn broken(&self) -> Rc<Notify> {
        Rc::clone(&self.broken)
    }

    /// Why the table cannot be kept.
    pub fn take_fault(&mut self) -> Option<NftError> {
        self.fault.take()
    }

    /// When names are due next.
    #[must_use]
    pub fn next_refresh(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// The names that are due.
    pub fn due(&mut self, now: Instant) -> Vec<Name> {
        self.schedule.take_due(now)
    }

    /// What /etc/hosts has for a name: the operator's word, instead of an answer of DNS.
    #[must_use]
    pub fn known(&self, name: &Name) -> Option<Resolved> {
        self.hosts.get(name).map(|addresses| Resolved {
            addresses: addresses.clone(),
            ttl: Duration::ZERO,
        })
    }

    /// Takes the answer for a name that was due.
    pub fn refreshed(&mut self, name: &Name, answer: Answer) {
        let now = Instant::now();
        match answer {
            Ok(Resolved { addresses, ttl }) => {
                if self.take(name, &addresses, ttl).is_err() {
                    return;
                }
                let until = self.terms.lifetimes.until_refresh(ttl);
                self.errors.remove(name);
                if self.schedule.succeeded(name, until, now) {
                    info!(event = "refreshed", "{name} resolves again");
                }
            }
            Err(reason) => self.not_refreshed(name, &reason, now),
        }
    }

    /// Keeps the last good answer while its successor is still being asked for, or still to be.
    pub fn awaits(&mut self, name: &Name) {
        let now = Instant::now();
        if self.schedule.keeps(name, now) {
            self.keep(name, Duration::ZERO, now);
        }
    }

    /// The addresses that a name has may be reached for as long as one more answer counts, and for
    /// `time` at least.
    fn keep(&mut self, name: &Name, time: Duration, now: Instant) {
        let leases = self.ledger.leases_of(name, now);
        // A failure is in the log already.
        let _ = self.take(name, &leases, time);
    }

    /// What DNS says does not exist is not kept; where it says nothing, the last good answer is.
    fn not_refreshed(&mut self, name: &Name, reason: &Unresolved, now: Instant) {
        let is_news = self
            .errors
            .insert(name.clone(), reason.to_string())
            .is_none();
        let after = self.schedule.failed(name, now);
        let AfterFailure::Keep { retry, .. } = after else {
            // One that is only refused needs no address to be refused.
            if is_news && self.ledger.lookup().verdict(name).is_some() {
                warn!(event = "not-refreshed", "{name} has no address: {reason}");
            }
            return;
        };
        let is_answer = matches!(reason, Unresolved::NxDomain(_) | Unresolved::NoAddress(_));
        if is_news {
            let kept = if is_answer {
                "its addresses end with their time"
            } else {
                "its last addresses are kept for an hour at most"
            };
            warn!(
                event = "not-refreshed",
                "could not refresh {name}: {reason}; {kept}"
            );
        }
        if !is_answer {
            self.keep(name, retry - now, now);
        }
    }

    /// Puts the addresses of an answer in the sets. Those of a refused name are refused.
    fn take(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        ttl: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted> {
        let now = Instant::now();
        let mut changes = self.ledger.refuse(name, addresses);
        let mut admitted = Vec::new();
        if self.ledger.lookup().verdict(name).is_some() {
            let until = now + self.terms.lifetimes.of(ttl);
            let outcome = self.ledger.answer(name, addresses, until, now);
            for (address, reason) in &outcome.refused {
                debug!("{name} is {address} too, {reason}: left out");
            }
            changes.extend(outcome.changes);
            admitted = outcome.admitted;
        }
        self.commit(&changes)?;
        Ok(admitted)
    }

    /// Where the kernel does not take a change, the table is made anew from the ledger. Where that
    /// fails too nobody knows what is in force, and the keeper has to end.
    fn commit(&mut self, changes: &[Change]) -> Result<(), NotAdmitted> {
        if self.fault.is_some() {
            return Err(NotAdmitted);
        }
        let Err(error) = self.kernel.update(changes) else {
            return Ok(());
        };
        error!(
            event = "table-lost",
            "the kernel did not take an answer: {}; the table is made anew",
            Error::from(error).report()
        );
        let table = self.terms.table(&self.ledger);
        let restored = self
            .kernel
            .replace(&table)
            .and_then(|()| self.kernel.verify(&table));
        restored.map_err(|error| {
            self.fault = Some(error);
            self.broken.notify_one();
            NotAdmitted
        })
    }

    /// Forgets what was over long ago.
    pub fn sweep(&mut self, now: Instant) {
        self.ledger.expire(now);
    }

    /// Reads the lists again: nothing where they say what they said, unless somebody `asked`.
    pub fn read_again(&mut self, asked: bool) -> Result<Option<Reading>, Error> {
        let reading = Reading::new(&self.terms.lists);
        self.reload_error = reading.as_ref().err().map(Error::report);
        let reading = reading?;
        let is_new = reading.digest != self.digest || reading.hosts != self.hosts;
        Ok((asked || is_new).then_some(reading))
    }

    /// Refused names of a list whose addresses are not known, where networks may have them: these
    /// are to be known before the list is in force.
    #[must_use]
    pub fn refused_anew(&self, reading: &Reading) -> Vec<Name> {
        let entries = reading.list.entries();
        let opens = |entry: &crate::allowlist::Entry| {
            !entry.deny && matches!(entry.target, Target::Network(_))
        };
        if !entries.iter().any(opens) {
            return Vec::new();
        }
        let refused = reading.list.refused().keys();
        let unknown = refused.filter(|name| !self.ledger.knows_refused(name));
        unknown.cloned().collect()
    }

    /// Puts other lists in force, in one transaction: what was revoked is cut, what stays is not
    /// touched. Where it fails all is as it was.
    pub fn reload(&mut self, reading: Reading, refused: Vec<(Name, Answer)>) -> Result<(), Error> {
        let now = Instant::now();
        let from = self.terms.table(&self.ledger);
        let mut ledger =
            self.ledger
                .reload(&reading.list, &self.terms.search, &self.terms.inbound, now);
        for (name, answer) in refused {
            match answer {
                Ok(Resolved { addresses, .. }) => drop(ledger.refuse(&name, &addresses)),
                Err(reason) => warn!(
                    "!{name} did not resolve: the networks in the list may still reach it: {reason}"
                ),
            }
        }
        for (name, addresses) in &reading.hosts {
            let until = now + self.terms.lifetimes.of(Duration::ZERO);
            ledger.answer(name, addresses, until, now);
        }
        let to = self.terms.table(&ledger);
        self.exchange(&from, &to)
            .inspect_err(|error| self.reload_error = Some(error.to_string()))?;
        self.ledger = ledger;
        self.mark = to.mark().unwrap_or_default();
        self.digest = reading.digest;
        self.hosts = reading.hosts;
        self.terms.lists = inputs::as_found(std::mem::take(&mut self.terms.lists));
        let names: HashSet<Name> = reading.list.names().into_iter().collect();
        self.schedule.retain(|name| names.contains(name));
        self.errors.retain(|name, _| names.contains(name));
        let count = names.len();
        self.schedule.add(names, now);
        self.generation += 1;
        self.since = SystemTime::now();
        info!(
            event = "reloaded",
            generation = self.generation,
            names = count as u64,
            "the lists are in force as they are now: {count} {}, generation {}",
            if count == 1 { "name" } else { "names" },
            self.generation
        );
        self.publish(&to);
        Ok(())
    }

    /// One table for the other, read back; where that fails it is the one of before, or nobody
    /// knows what is in force, and the keeper has to end.
    fn exchange(&mut self, from: &Ruleset, to: &Ruleset) -> Result<(), NftError> {
        let unacknowledged = match self.kernel.reload(from, to) {
            Ok(()) => None,
            // It may be done all the same.
            Err(error @ NftError::Acknowledge(_)) => Some(error),
            Err(error) => return Err(error),
        };
        let Err(error) = self.kernel.verify(to) else {
            return Ok(());
        };
        let restored = self.kernel.replace(from);
        if let Err(lost) = restored.and_then(|()| self.kernel.verify(from)) {
            self.fault = Some(lost);
            self.broken.notify_one();
        }
        Err(unacknowledged.unwrap_or(error))
    }

    /// The sentinel says what is in force now. The old one still verifies where that fails.
    fn publish(&self, table: &Ruleset) {
        let counts = self.ledger.counts(Instant::now());
        let published = Sentinel::here(sentinel::Enforced {
            mode: self.mode.to_owned(),
            dns: Dns::Proxy.to_string(),
            ruleset_sha256: table.digest(),
            names: counts.names as u64,
            ipv4: counts.ipv4 as u64,
            ipv6: counts.ipv6 as u64,
        })
        .map_err(Error::from)
        .and_then(|sentinel| Ok(self.place.publish(&sentinel)?));
        if let Err(error) = published {
            warn!(
                "the sentinel may still tell of the lists before: {}",
                error.report()
            );
        }
    }

    /// What `egress-init status` says.
    pub fn status(&mut self, dns: DnsCounters) -> Status {
        let now = Instant::now();
        let lookup = self.ledger.lookup();
        let mut names: BTreeMap<&Name, NameStatus> = BTreeMap::new();
        let described = |name: &Name| NameStatus {
            name: name.to_string(),
            wildcard: lookup
                .verdict(name)
                .is_some_and(|allowed| allowed.origin == Origin::Wildcard),
            addresses: Vec::new(),
            error: self.errors.get(name).cloned(),
        };
        for name in self.schedule.names() {
            if lookup.verdict(name).is_some() {
                names.insert(name, described(name));
            }
        }
        for (name, leases) in self.ledger.leases(now) {
            let status = names.entry(name).or_insert_with(|| described(name));
            status.addresses = leases
                .into_iter()
                .map(|(address, life)| AddressStatus {
                    address,
                    expires_in: life.as_secs(),
                })
                .collect();
            // In whatever order the answers for each family came.
            status.addresses.sort_unstable_by_key(|known| known.address);
        }
        let names = names.into_values().collect();
        let counters = self.kernel.counters().unwrap_or_else(|error| {
            warn!("could not read the counters: {error}");
            crate::nft::Counters::default()
        });
        let traffic = |count: crate::nft::Count| Traffic {
            packets: count.packets,
            octets: count.octets,
        };
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode.to_owned(),
            pid: std::process::id(),
            policy: PolicyStatus {
                generation: self.generation,
                since: humantime::format_rfc3339_seconds(self.since).to_string(),
                mark: format!("0x{:08x}", self.mark),
            },
            reload_error: self.reload_error.clone(),
            names,
            counters: Counters {
                let_out: traffic(counters.let_out),
                let_in: traffic(counters.let_in),
                refused: traffic(counters.refused),
                uninvited: traffic(counters.uninvited),
                dns,
            },
        }
    }
}

impl Gate for Charge {
    fn verdict(&self, name: &Name) -> Verdict {
        let lookup = self.ledger.lookup();
        match lookup.verdict(name) {
            Some(allowed) => Verdict::Allowed {
                wildcard: (allowed.origin == Origin::Wildcard).then(|| lookup.octets_below(name)),
            },
            None if lookup.below_search(name) => Verdict::BlockedBelowSearch,
            None => Verdict::Blocked,
        }
    }

    fn known(&self, name: &Name) -> Option<&[IpAddr]> {
        self.hosts.get(name).map(Vec::as_slice)
    }

    fn admit(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        ttl: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted> {
        self.take(name, addresses, ttl)
    }

    fn name_of(&self, address: IpAddr) -> Option<Name> {
        self.ledger.name_of(address, Instant::now()).cloned()
    }
}
