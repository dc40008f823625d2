//! Entries → answers: the addresses of each name, from /etc/hosts and from the nameservers.
//!
//! The caller takes what [`hosts`] knows and has the rest resolved here, once, through the hole
//! that the lock leaves ([`crate::policy::Nameservers`]). Nothing is filtered: which addresses an answer
//! may bring in is the policy's to say. Nothing is cached: a start asks for each name once, and
//! what the proxy may give out again it keeps itself ([`crate::proxy`]).

mod answer;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub mod hosts;
pub mod nameservers;
mod servers;
mod udp;

use std::{
    borrow::Cow,
    iter,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::select, stream::FuturesUnordered};
use hickory_resolver::proto::{
    op::Query,
    rr::{Label, Name as DnsName, RData, Record, RecordType},
};
use tokio::{
    task::{unconstrained, yield_now},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use crate::allowlist::Name;
use answer::{Chain, Reading};
use nameservers::Server;
pub use nameservers::Upstreams;
pub(crate) use servers::Servers;
pub use servers::{Failure, ServerFailure};
pub(crate) use udp::decode;

/// How long one family may stay silent once the other has settled the name. Broken middleboxes
/// drop queries for AAAA; a lost packet is sent again within this time.
const GRACE: Duration = Duration::from_secs(1);

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// There is nobody to ask.
    #[error("no nameserver is configured")]
    NoNameserver,
    /// Labels or a length that DNS does not carry.
    #[error("not a name that DNS can carry")]
    NotAName,
    /// No such name.
    #[error("NXDOMAIN from {}", Server(*.0))]
    NxDomain(SocketAddr),
    /// The name exists without an address.
    #[error("no A or AAAA record, says {}", Server(*.0))]
    NoAddress(SocketAddr),
    /// Its aliases lead back to one of themselves.
    #[error("CNAME loop, from {}", Server(*.0))]
    CnameLoop(SocketAddr),
    /// More aliases in a row than are followed.
    #[error("CNAME chain longer than 16, from {}", Server(*.0))]
    CnameChain(SocketAddr),
    /// Every server failed.
    #[error("{}", list(.0))]
    Failed(Vec<ServerFailure>),
    /// The time was over, and this is how far each server had got.
    #[error("timeout after {}: {}", humantime::format_duration(*.after), list(.servers))]
    Timeout {
        /// The time for the whole list.
        after: Duration,
        /// The servers that were asked.
        servers: Vec<ServerFailure>,
    },
    /// A name without a dot, which is not found below the search domains either.
    #[error("{reason}, also below {}", .domains.join(", "))]
    Searched {
        /// The domains.
        domains: Vec<String>,
        /// What was wrong with the name as it is, or with the first one that could not be looked
        /// up.
        reason: Box<Unresolved>,
    },
}

fn list(failures: &[ServerFailure]) -> String {
    let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
    failures.join("; ")
}

impl Unresolved {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NoNameserver => "name one with --dns-upstream IP".into(),
            Self::NotAName
            | Self::NxDomain(_)
            | Self::NoAddress(_)
            | Self::CnameLoop(_)
            | Self::CnameChain(_) => "correct the entry, or pass --on-unresolved skip".into(),
            Self::Failed(_) | Self::Timeout { .. } => {
                "check the nameserver, or name another one with --dns-upstream IP".into()
            }
            Self::Searched { reason, .. } => return reason.remedy(),
        })
    }
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Of both families, sorted, each once; never empty.
    pub addresses: Vec<IpAddr>,
    /// The least TTL of the records that led to them.
    pub ttl: Duration,
}

/// The addresses of a name, or why it has none.
pub type Answer = Result<Resolved, Unresolved>;

/// What the nameservers say of one name and type.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The aliases in their order, then the records of the type at their end; nobody's else.
    pub records: Vec<Record>,
    /// Whether the name at the end of the aliases does not exist.
    pub nxdomain: bool,
    /// Where there is no record of the type, what says for how long (RFC 2308).
    pub soa: Option<Record>,
    /// Who said it.
    pub server: SocketAddr,
}

impl Found {
    /// For how long it holds: the least TTL, and of an absence no longer than its SOA says; no
    /// time at all where there is none (RFC 2308 section 5).
    pub(crate) fn ttl(&self, kind: RecordType) -> Duration {
        let ttls = self.records.iter().map(|record| seconds(record.ttl));
        let absence = (!self.has(kind)).then(|| match &self.soa {
            Some(Record {
                ttl,
                data: RData::SOA(soa),
                ..
            }) => seconds((*ttl).min(soa.minimum)),
            _ => Duration::ZERO,
        });
        ttls.chain(absence).min().unwrap_or_default()
    }

    /// Whether there is a record of the type.
    pub(crate) fn has(&self, kind: RecordType) -> bool {
        self.records
            .last()
            .is_some_and(|record| record.record_type() == kind)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records
            .iter()
            .filter_map(|record| record.data.ip_addr())
    }
}

/// A TTL. With its highest bit set it counts as none (RFC 2181 section 8).
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(i32::try_from(ttl).map_or(0, i32::unsigned_abs).into())
}

/// Resolves all names at once, in the order of `names`, within `deadline` for all of them.
///
/// A name with a dot is absolute; one without is tried as it is, then below each search domain.
/// Dropping the future ends every query.
pub async fn resolve(
    names: &[Name],
    upstreams: &Upstreams,
    deadline: Duration,
) -> Vec<(Name, Answer)> {
    if upstreams.servers.is_empty() {
        let nobody = |name: &Name| (name.clone(), Err(Unresolved::NoNameserver));
        return names.iter().map(nobody).collect();
    }
    let servers = Servers::open(&upstreams.servers, names.len() * 2);
    // The runtime takes a turn before the first query, so that it need not within the burst: it
    // learns of a timer that is due before any of the queries'. For each one that would be its
    // first, it wakes itself by a system call.
    let mut first = pin!(sleep(servers::HEDGE));
    let _ = first.as_mut().now_or_never();
    yield_now().await;
    let resolver = Resolver::new(&servers, &upstreams.search, deadline, &|_, _, _| {});
    let mut lookups: FuturesUnordered<_> = names
        .iter()
        .enumerate()
        .map(async |(index, name)| (index, resolver.lookup(name).await))
        .collect();
    let mut answers = Vec::with_capacity(names.len());
    let all = async {
        while let Some(answer) = lookups.next().await {
            answers.push(answer);
        }
    };
    // What tokio would hold back to be fair to other tasks, it would only poll for again.
    unconstrained(async {
        tokio::select! {
            biased;
            never = servers.receive() => match never {},
            () = all => {}
        }
    })
    .await;
    answers.sort_unstable_by_key(|(index, _)| *index);
    iter::zip(names, answers)
        .map(|(name, (_, answer))| (name.clone(), answer))
        .collect()
}

/// Lookups that end together.
pub(crate) struct Resolver<'a> {
    servers: &'a Servers,
    search: &'a [String],
    deadline: Duration,
    until: Instant,
    heard: &'a Heard<'a>,
}

/// Told of everything that is found, before it is put together.
pub(crate) type Heard<'a> = dyn Fn(&DnsName, RecordType, &Found) + 'a;

impl<'a> Resolver<'a> {
    pub(crate) fn new(
        servers: &'a Servers,
        search: &'a [String],
        deadline: Duration,
        heard: &'a Heard<'a>,
    ) -> Self {
        Self {
            servers,
            search,
            deadline,
            until: Instant::now() + deadline,
            heard,
        }
    }

    /// The addresses of a name of the list.
    pub(crate) async fn lookup(&self, name: &Name) -> Answer {
        let mut resolved = self.search(name).await?;
        resolved.addresses.sort_unstable();
        resolved.addresses.dedup();
        Ok(resolved)
    }

    async fn search(&self, name: &Name) -> Answer {
        let own = absolute(name.as_str()).ok_or(Unresolved::NotAName)?;
        if name.has_dot() || self.search.is_empty() {
            return self.both_families(&own, self.until, true).await;
        }
        let below = self.search.iter();
        let below = below.filter_map(|domain| absolute(&format!("{name}.{domain}")));
        let candidates = iter::once(own).chain(below).collect();
        let found = self.first_of(candidates).await;
        found.map_err(|reason| Unresolved::Searched {
            domains: self.search.to_vec(),
            reason: Box::new(reason),
        })
    }

    /// The candidates one after the other, each with its share of the time. A server that fails
    /// for one (many refuse names without a dot) does not hold up the others: it is asked again
    /// when all of them had their turn.
    async fn first_of(&self, mut candidates: Vec<DnsName>) -> Answer {
        let mut negative = None;
        let mut failure = None;
        for patient in [false, true] {
            failure = None;
            let mut failed = Vec::new();
            let mut shares = u32::try_from(candidates.len()).unwrap_or(u32::MAX - 1);
            shares += u32::from(!patient);
            for candidate in candidates {
                let now = Instant::now();
                let share = self.until.saturating_duration_since(now) / shares;
                shares -= 1;
                match self.both_families(&candidate, now + share, patient).await {
                    Ok(addresses) => return Ok(addresses),
                    Err(e @ (Unresolved::Failed(_) | Unresolved::Timeout { .. })) => {
                        failed.push(candidate);
                        failure.get_or_insert(e);
                    }
                    Err(e) => {
                        negative.get_or_insert(e);
                    }
                }
            }
            candidates = failed;
        }
        // The candidates are never empty, so that there is one of them.
        Err(failure.or(negative).unwrap_or(Unresolved::NotAName))
    }

    /// A and AAAA at the same time. One family that fails does not fail the name.
    async fn both_families(&self, name: &DnsName, until: Instant, patient: bool) -> Answer {
        let hurry = AtomicBool::new(!patient);
        let started = Instant::now();
        let a = pin!(self.family(name, RecordType::A, until, &hurry));
        let aaaa = pin!(self.family(name, RecordType::AAAA, until, &hurry));
        let (first, rest) = select(a, aaaa).await.factor_first();
        // Of a name without records of one type, the other says more: worth the whole time.
        let second = if matches!(first, Ok(_) | Err(Unresolved::NxDomain(_))) {
            hurry.store(true, Ordering::Relaxed);
            let Ok(second) = timeout(GRACE.max(started.elapsed()), rest).await else {
                debug!("{name}: silence about the other family");
                return first;
            };
            second
        } else {
            rest.await
        };
        match (first, second) {
            (Ok(mut resolved), Ok(more)) => {
                resolved.addresses.extend(more.addresses);
                resolved.ttl = resolved.ttl.min(more.ttl);
                Ok(resolved)
            }
            (Ok(addresses), Err(other)) | (Err(other), Ok(addresses)) => {
                debug!("{name}: addresses of one family only: {other}");
                Ok(addresses)
            }
            (Err(first), Err(second)) => Err(more_telling(first, second)),
        }
    }

    async fn family(
        &self,
        name: &DnsName,
        kind: RecordType,
        until: Instant,
        hurry: &AtomicBool,
    ) -> Answer {
        let found = self.chain(name, kind, until, hurry).await?;
        (self.heard)(name, kind, &found);
        let addresses: Vec<_> = found.addresses().collect();
        match found {
            Found {
                nxdomain: true,
                server,
                ..
            } => Err(Unresolved::NxDomain(server)),
            Found { server, .. } if addresses.is_empty() => Err(Unresolved::NoAddress(server)),
            found => Ok(Resolved {
                addresses,
                ttl: found.ttl(kind),
            }),
        }
    }

    /// What is found under one absolute name, of one type. NXDOMAIN and NODATA are no errors here.
    /// A server that fails is not asked again: a client waits, and asks again itself.
    pub(crate) async fn records(
        &self,
        name: &DnsName,
        kind: RecordType,
    ) -> Result<Found, Unresolved> {
        self.chain(name, kind, self.until, &AtomicBool::new(true))
            .await
    }

    async fn chain(
        &self,
        name: &DnsName,
        kind: RecordType,
        until: Instant,
        hurry: &AtomicBool,
    ) -> Result<Found, Unresolved> {
        let mut chain = Chain::new(name);
        loop {
            let question = Query::query(chain.last().clone(), kind);
            let response = self.servers.ask(&question, until, hurry).await;
            let response = response.map_err(|servers| self.failed(servers))?;
            let server = response.server;
            let found = |chain: Chain<'_>, last, nxdomain, soa| {
                Ok(Found {
                    records: chain.ending_in(last),
                    nxdomain,
                    soa,
                    server,
                })
            };
            return match chain.read(response.message, kind) {
                Reading::Records(last) => found(chain, last, false, None),
                Reading::Follow => continue,
                Reading::NoData(soa) => found(chain, Vec::new(), false, soa),
                Reading::NxDomain(soa) => found(chain, Vec::new(), true, soa),
                Reading::Loop => Err(Unresolved::CnameLoop(server)),
                Reading::TooLong => Err(Unresolved::CnameChain(server)),
            };
        }
    }

    /// Silence ends only with the time.
    fn failed(&self, servers: Vec<ServerFailure>) -> Unresolved {
        let silent = |server: &ServerFailure| server.failure == Failure::Silent;
        if servers.iter().any(silent) {
            Unresolved::Timeout {
                after: self.deadline,
                servers,
            }
        } else {
            Unresolved::Failed(servers)
        }
    }
}

/// The name with its final dot.
pub(crate) fn absolute(name: &str) -> Option<DnsName> {
    let mut labels = name.trim_end_matches('.').split('.');
    labels.try_fold(DnsName::root(), |name, label| {
        name.append_label(Label::from_ascii(label).ok()?).ok()
    })
}

/// Of the errors of the two families, the one that says more of the name.
fn more_telling(first: Unresolved, second: Unresolved) -> Unresolved {
    let rank = |error: &Unresolved| match error {
        Unresolved::NxDomain(_) => 0,
        Unresolved::CnameLoop(_) | Unresolved::CnameChain(_) => 1,
        Unresolved::NoAddress(_) => 3,
        _ => 2,
    };
    if rank(&second) < rank(&first) {
        second
    } else {
        first
    }
}
