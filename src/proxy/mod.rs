//! A DNS server that answers for the list and for nothing else.
//!
//! Every query of the command comes here, whatever server it names. A listed name is looked up
//! ([`crate::resolve`]), its addresses are put into the sets through the [`Gate`], and only what the
//! kernel has taken is given out: whoever has an answer can connect. For any other name REFUSED
//! goes back at once and nothing goes upstream (invariant I7).
//!
//! | question | answer |
//! | --- | --- |
//! | a listed name | from the cache or from the nameservers, filtered |
//! | any other name | REFUSED, or NXDOMAIN below a search domain, with extended error 15 |
//! | `localhost`, and below it | the loopback addresses |
//! | a listed name that /etc/hosts has | what it has |
//! | PTR of an address that is in the sets | the name that brought it in |
//! | ANY | HINFO (RFC 8482) |
//! | zone transfers, RRSIG and SIG, other meta types, other classes | REFUSED |
//!
//! An address counts under the name that was asked for: an alias brings its target's addresses in,
//! and no other way leads to them. HTTPS and SVCB records keep the hints that were taken, lose the
//! keys of encrypted client hellos, and are left out where their target is another name that the
//! list does not have: the client could not ask for it.
//!
//! All of it runs in one task and gives way after a bounded piece of work: a flood of queries delays
//! neither signals nor timers. What it may keep is bounded by [`Limits`].

mod cache;
mod limits;
mod listen;
mod reply;
mod request;
mod tcp;
mod waiting;

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::IpAddr,
    pin::pin,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hickory_resolver::proto::{
    op::ResponseCode,
    rr::{DNSClass, Name as DnsName, Record, RecordType},
};
use nix::sys::socket::SockaddrStorage;
use tokio::{
    net::UdpSocket,
    sync::Notify,
    task::yield_now,
    time::{Instant, timeout},
};
use tracing::debug;

use crate::{
    allowlist::Name,
    resolve::{
        Answer, Failure, Found, Resolver, ServerFailure, Servers, Unresolved, absolute,
        nameservers::Upstreams,
    },
};
use cache::{Cache, Entry, Kept, Key, Repeats};
use limits::Bucket;
pub use limits::{Counters, Limits};
pub use listen::Listeners;
use listen::{Batch, Outgoing};
use reply::{Extended, Reply};
use request::{Request, Unfit, listed_form};
use waiting::{Origin, Room, Waiter, Waiting};

/// With what TTL an answer goes out whose time is over, and for how long nobody is asked again then
/// (RFC 8767 sections 4 and 5).
const STALE_TTL: Duration = Duration::from_secs(30);

/// After so long without an answer of the nameservers, one whose time is over is given out (RFC
/// 8767 section 5).
const PATIENCE: Duration = Duration::from_millis(1800);

/// For how long a failure is remembered (RFC 9520 section 3.2).
const FAILURE: Duration = Duration::from_secs(1);

/// For how long an absence without SOA is remembered, so that one client that asks again and again
/// is not passed on.
const NO_SOA: Duration = Duration::from_secs(5);

/// What a list says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be asked for.
    Allowed {
        /// Where only a wildcard allows it: the octets that stand in place of the `*`, dots
        /// included.
        wildcard: Option<usize>,
    },
    /// It may not.
    Blocked,
    /// It may not; but it is a name with a search domain behind it, and the client has to go on
    /// with its list: it does not exist, as far as the client is told.
    BlockedBelowSearch,
}

/// The kernel did not take the addresses. Whoever says so has said why in the log.
#[derive(Debug, thiserror::Error)]
#[error("the addresses could not be put into the sets")]
pub struct NotAdmitted;

/// What the proxy asks the policy and the kernel.
pub trait Gate {
    /// Whether a name may be asked for. Asked for every query that is not a repetition.
    fn verdict(&self, name: &Name) -> Verdict;

    /// Puts addresses into the sets that the answer for `name` brought in, for `ttl` and a grace,
    /// never for less than they already have; returns those that are in. Must not return before
    /// the kernel has acknowledged them.
    fn admit(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        ttl: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted>;

    /// What the operator has in /etc/hosts for a name: it is asked of nobody.
    fn known(&self, name: &Name) -> Option<&[IpAddr]>;

    /// The name that brought in an address which is still in the sets.
    fn name_of(&self, address: IpAddr) -> Option<Name>;
}

/// The server.
pub struct Proxy<'a, G: Gate> {
    listeners: Listeners,
    servers: Servers,
    upstreams: Upstreams,
    limits: Limits,
    deadline: Duration,
    gate: &'a RefCell<G>,
    cache: RefCell<Cache>,
    repeats: RefCell<Repeats>,
    waiting: RefCell<Waiting>,
    /// Lookups that have been asked for and are not yet under way.
    begun: RefCell<Vec<Key>>,
    wake: Notify,
    bucket: RefCell<Bucket>,
    counters: Cell<Counters>,
}

/// What becomes of a query.
enum Step {
    Answer(Reply),
    /// From the cache: it holds for this long.
    Kept(Reply, Duration),
    LookUp(Key, Option<usize>),
}

impl<'a, G: Gate> Proxy<'a, G> {
    /// Binds nothing and asks nobody yet. `deadline` is for each lookup.
    pub fn new(
        listeners: Listeners,
        upstreams: Upstreams,
        limits: Limits,
        deadline: Duration,
        gate: &'a RefCell<G>,
    ) -> Self {
        let now = Instant::now();
        Self {
            listeners,
            servers: Servers::lasting(&upstreams.servers),
            upstreams,
            limits,
            deadline,
            gate,
            cache: RefCell::new(Cache::new(limits.cache, limits.stale)),
            repeats: RefCell::new(Repeats::new(now)),
            waiting: RefCell::default(),
            begun: RefCell::default(),
            wake: Notify::new(),
            bucket: RefCell::new(Bucket::full(limits.wildcard_burst, now)),
            counters: Cell::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            ignored: self.servers.ignored(),
            ..self.counters.get()
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// After a reload: nothing is given out any more that the new list does not have, and what it
    /// has is put into the sets again before it is given out.
    pub fn policy_changed(&self) {
        let gate = self.gate.borrow();
        self.repeats.borrow_mut().clear(Instant::now());
        self.cache.borrow_mut().retain(|(name, _), entry| {
            if let Some(answer) = &mut entry.answer {
                answer.admitted = None;
                answer.refused = Box::default();
            }
            matches!(gate.verdict(name), Verdict::Allowed { .. })
        });
    }

    /// Asks the nameservers for a name's addresses, whatever is known of it, and keeps what they
    /// say. The addresses are the caller's to put into the sets.
    pub async fn refresh(&self, name: &Name) -> Answer {
        if self.upstreams.servers.is_empty() {
            return Err(Unresolved::NoNameserver);
        }
        let heard = |name: &DnsName, kind: RecordType, found: &Found| {
            if let Some(name) = listed_form(name) {
                self.keep(&(name, kind), found, false);
            }
        };
        let search = &self.upstreams.search;
        let resolver = Resolver::new(&self.servers, search, self.deadline, &heard);
        resolver.lookup(name).await
    }

    /// Answers until it is dropped.
    pub async fn serve(&self) -> Infallible {
        let mut udp: FuturesUnordered<_> = self
            .listeners
            .udp
            .iter()
            .map(|s| self.serve_udp(s))
            .collect();
        let mut tcp: FuturesUnordered<_> = self
            .listeners
            .tcp
            .iter()
            .map(|s| self.serve_tcp(s))
            .collect();
        // Each gives way by itself, so that none keeps the others waiting.
        tokio::select! {
            Some(never) = udp.next() => match never {},
            Some(never) = tcp.next() => match never {},
            never = self.look_up() => match never {},
        }
    }

    async fn serve_udp(&self, socket: &UdpSocket) -> Infallible {
        let mut batch = Batch::new(request::LONGEST);
        let mut outgoing = Vec::<Outgoing>::new();
        loop {
            let take = |octets: Option<&[u8]>, source: SockaddrStorage| {
                let response = match octets {
                    Some(octets) => self.respond_udp(octets, socket, &source),
                    None => {
                        self.count(|c| (c.queries, c.oversized) = (c.queries + 1, c.oversized + 1));
                        None
                    }
                };
                outgoing.extend(response.map(|octets| (octets, source)));
            };
            if let Err(e) = batch.receive(socket, take).await {
                debug!("dns: cannot receive: {e}");
            }
            if !outgoing.is_empty() {
                let lost = batch.send(socket, &outgoing);
                self.count(|c| c.unsent += lost as u64);
                outgoing.clear();
            }
            yield_now().await;
        }
    }

    fn respond_udp(
        &self,
        octets: &[u8],
        socket: &UdpSocket,
        source: &SockaddrStorage,
    ) -> Option<Vec<u8>> {
        if let Some(response) = self.repeats.borrow_mut().get(octets, Instant::now()) {
            self.count(|c| (c.queries, c.cached) = (c.queries + 1, c.cached + 1));
            return Some(response);
        }
        let origin = || Origin::udp(&self.listeners, socket, source);
        self.respond(octets, usize::MAX, origin, true)
    }

    /// The response, where there is one at once; else whoever asks waits for a lookup.
    fn respond(
        &self,
        octets: &[u8],
        limit: usize,
        origin: impl FnOnce() -> Option<Origin>,
        udp: bool,
    ) -> Option<Vec<u8>> {
        self.count(|c| c.queries += 1);
        let request = match Request::read(octets) {
            Ok(request) => request,
            Err(unfit) => return self.refuse(unfit),
        };
        let limit = if udp { request.payload() } else { limit };
        match self.step(&request) {
            Step::Answer(reply) => reply.encode(&request, limit),
            Step::Kept(reply, holds) => {
                let response = reply.encode(&request, limit)?;
                if udp && holds >= cache::REPEAT {
                    self.repeats.borrow_mut().put(octets, &response);
                }
                Some(response)
            }
            Step::LookUp(key, wildcard) => {
                let waiter = Waiter {
                    request,
                    origin: origin()?,
                };
                self.wait(key, wildcard, waiter)
            }
        }
    }

    fn refuse(&self, unfit: Unfit) -> Option<Vec<u8>> {
        match unfit {
            Unfit::Silence => {
                self.count(|c| c.malformed += 1);
                None
            }
            Unfit::Header(header, code) => {
                self.count(|c| match code {
                    ResponseCode::NotImp => c.unsupported += 1,
                    _ => c.malformed += 1,
                });
                Some(header.to_vec())
            }
            Unfit::BadVersion(request) => {
                self.count(|c| c.unsupported += 1);
                let mut reply = Reply::of(Vec::new());
                reply.code = ResponseCode::BADVERS;
                reply.encode(&request, request.payload())
            }
        }
    }

    fn step(&self, request: &Request) -> Step {
        let now = Instant::now();
        let question = &request.question;
        let kind = question.query_type();
        if question.query_class() != DNSClass::IN || is_meta(kind) {
            self.count(|c| c.unsupported += 1);
            let code = ResponseCode::Refused;
            return Step::Answer(Reply::error(code, Extended::NotSupported));
        }
        let blocked = || {
            self.count(|c| c.blocked += 1);
            Step::Answer(Reply::refused())
        };
        let local = |reply| {
            self.count(|c| c.cached += 1);
            Step::Answer(reply)
        };
        let Some(name) = request.name() else {
            return blocked();
        };
        if name.as_str() == "localhost" || name.as_str().ends_with(".localhost") {
            return local(reply::localhost(question.name(), kind));
        }
        if kind == RecordType::PTR
            && let Some(target) = self.pointer(question.name())
        {
            return local(reply::pointer(question.name(), target));
        }
        let wildcard = match self.gate.borrow().verdict(&name) {
            Verdict::Allowed { wildcard } => wildcard,
            Verdict::Blocked => return blocked(),
            Verdict::BlockedBelowSearch => {
                self.count(|c| c.blocked += 1);
                let code = ResponseCode::NXDomain;
                return Step::Answer(Reply::error(code, Extended::Blocked));
            }
        };
        if wildcard.is_some_and(|length| length > self.limits.wildcard_length) {
            return Step::Answer(self.limited());
        }
        if kind == RecordType::ANY {
            return local(reply::any(question.name()));
        }
        let known = self.gate.borrow().known(&name).map(<[IpAddr]>::to_vec);
        if let Some(known) = known {
            return match self.gate.borrow_mut().admit(
                &name,
                &known,
                Duration::from_secs(reply::LOCAL_TTL.into()),
            ) {
                Ok(known) => local(reply::known(question.name(), kind, &known)),
                Err(NotAdmitted) => {
                    self.count(|c| c.failed += 1);
                    Step::Answer(Reply::error(ResponseCode::ServFail, Extended::Other))
                }
            };
        }
        let key = (name, kind);
        self.from_cache(&key, now)
            .unwrap_or(Step::LookUp(key, wildcard))
    }

    fn limited(&self) -> Reply {
        self.count(|c| c.limited += 1);
        Reply::error(ResponseCode::Refused, Extended::Limited)
    }

    /// The name that brought in the address of a name below in-addr.arpa or ip6.arpa.
    fn pointer(&self, name: &DnsName) -> Option<DnsName> {
        let network = name.parse_arpa_name().ok()?;
        let whole = network.prefix_len() == network.max_prefix_len();
        let address = Some(network.addr()).filter(|_| whole)?;
        if address.is_loopback() {
            return absolute("localhost");
        }
        absolute(self.gate.borrow().name_of(address)?.as_str())
    }

    /// What is known, where nobody has to be asked.
    fn from_cache(&self, key: &Key, now: Instant) -> Option<Step> {
        let mut cache = self.cache.borrow_mut();
        let entry = cache.get(key)?;
        if let Some(answer) = &mut entry.answer
            && answer.until > now
        {
            let left = answer.until - now;
            let reply = self.ready(key, answer, left, now)?;
            self.count(|c| c.cached += 1);
            return Some(Step::Kept(reply, left));
        }
        let (_, extended) = entry.failed.filter(|(until, _)| *until > now)?;
        if let Some(reply) = self.stale(key, entry, now) {
            self.count(|c| c.stale += 1);
            return Some(Step::Kept(reply, STALE_TTL));
        }
        self.count(|c| c.failed += 1);
        let code = ResponseCode::ServFail;
        Some(Step::Answer(Reply::error(code, extended)))
    }

    /// An answer whose time is over, where there is one that may still be given out.
    fn stale(&self, key: &Key, entry: &mut Entry, now: Instant) -> Option<Reply> {
        let answer = entry.answer.as_mut()?;
        if answer.until + self.limits.stale <= now {
            return None;
        }
        let mut reply = self.ready(key, answer, STALE_TTL, now)?;
        reply.extended = reply.extended.or(Some(Extended::Stale));
        Some(reply)
    }

    /// What is kept, to be given out for as long as `ttl`: filtered, and its addresses in the sets.
    fn ready(&self, key: &Key, answer: &mut Kept, ttl: Duration, now: Instant) -> Option<Reply> {
        let mut message = answer.message()?;
        if answer.admitted.is_none_or(|until| until < now + ttl) {
            let addresses = reply::addresses(&message.answers);
            // Of one that is over each use is a new one: not every one of them goes to the kernel.
            let ttl = if now > answer.until { ttl * 2 } else { ttl };
            if !addresses.is_empty() {
                let Ok(taken) = self.gate.borrow_mut().admit(&key.0, &addresses, ttl) else {
                    let code = ResponseCode::ServFail;
                    return Some(Reply::error(code, Extended::Other));
                };
                let out = |address: &IpAddr| !taken.contains(address);
                answer.refused = addresses.into_iter().filter(out).collect();
            }
            answer.admitted = Some(now + ttl);
        }
        reply::set_ttl(&mut message, ttl);
        let is_kind = |last: &Record| last.record_type() == key.1;
        let had = message.answers.last().is_some_and(is_kind);
        let answers = if had {
            let may_ask = |target: &DnsName| listed_form(target).is_some_and(|t| self.allows(&t));
            reply::filter(message.answers, key.1, &answer.refused, may_ask)
        } else {
            message.answers
        };
        let filtered = had && answers.is_empty();
        if filtered || !answer.refused.is_empty() {
            self.count(|c| c.filtered += 1);
        }
        Some(Reply {
            code: message.metadata.response_code,
            extended: filtered.then_some(Extended::Filtered),
            answers,
            soa: message.authorities.pop(),
        })
    }

    /// Puts a client behind a lookup, and begins it where it is the first. Returns the response
    /// where there is no room.
    fn wait(&self, key: Key, wildcard: Option<usize>, waiter: Waiter) -> Option<Vec<u8>> {
        let now = Instant::now();
        let mut waiting = self.waiting.borrow_mut();
        let limits = &self.limits;
        let refuse = |waiter: &Waiter, reply: &Reply| reply.encode(&waiter.request, waiter.limit());
        let overloaded = || {
            self.count(|c| c.overloaded += 1);
            Reply::error(ResponseCode::ServFail, Extended::Other)
        };
        match waiting.room(&key, wildcard.is_some(), limits) {
            Room::Behind => {}
            Room::None => return refuse(&waiter, &overloaded()),
            Room::First if self.upstreams.servers.is_empty() => {
                self.count(|c| c.failed += 1);
                let code = ResponseCode::ServFail;
                let extended = Extended::NoReachableAuthority;
                return refuse(&waiter, &Reply::error(code, extended));
            }
            Room::First => {
                let (rate, burst) = (limits.wildcard_rate, limits.wildcard_burst);
                let mut bucket = self.bucket.borrow_mut();
                if wildcard.is_some() && !bucket.take(rate, burst, now) {
                    return refuse(&waiter, &self.limited());
                }
                self.count(|c| c.lookups += 1);
                self.begun.borrow_mut().push(key.clone());
                self.wake.notify_one();
            }
        }
        waiting.add(key, wildcard.is_some(), waiter);
        None
    }

    /// Carries the lookups on.
    async fn look_up(&self) -> Infallible {
        let mut running = FuturesUnordered::new();
        loop {
            let begun = self.begun.take();
            running.extend(begun.into_iter().map(|key| self.look_up_one(key)));
            tokio::select! {
                Some(()) = running.next() => {}
                () = self.wake.notified() => {}
            }
        }
    }

    async fn look_up_one(&self, key: Key) {
        let result = match absolute(key.0.as_str()) {
            Some(name) => {
                let search = &self.upstreams.search;
                let resolver = Resolver::new(&self.servers, search, self.deadline, &|_, _, _| {});
                let mut records = pin!(resolver.records(&name, key.1));
                match timeout(PATIENCE, &mut records).await {
                    Ok(result) => result,
                    Err(_) => {
                        self.lose_patience(&key);
                        records.await
                    }
                }
            }
            None => Err(Unresolved::NotAName),
        };
        self.found(&key, &result);
    }

    /// Gives out what there was, while the nameservers are still being asked.
    fn lose_patience(&self, key: &Key) {
        let now = Instant::now();
        if !self.allows(&key.0) {
            return;
        }
        let mut cache = self.cache.borrow_mut();
        let Some(entry) = cache.get(key) else {
            return;
        };
        let Some(reply) = self.stale(key, entry, now) else {
            return;
        };
        entry.failed = Some((now + STALE_TTL, Extended::NoReachableAuthority));
        let waiters = self.waiting.borrow_mut().take(key);
        self.count(|c| c.stale += waiters.len() as u64);
        self.deliver(waiters, &reply);
    }

    fn found(&self, key: &Key, result: &Result<Found, Unresolved>) {
        let waiters = self.waiting.borrow_mut().end(key);
        let many = waiters.len() as u64;
        // The list may have changed in the meantime.
        if !self.allows(&key.0) {
            self.count(|c| c.blocked += many);
            return self.deliver(waiters, &Reply::refused());
        }
        let reply = match result {
            Ok(found) => {
                let reply = self.keep(key, found, true);
                self.count(|c| match reply {
                    Some(_) => c.looked_up += many,
                    None => c.failed += many,
                });
                let code = ResponseCode::ServFail;
                reply.unwrap_or_else(|| Reply::error(code, Extended::InvalidData))
            }
            Err(reason) => {
                debug!("dns: {}: {reason}", key.0);
                self.failed(key, extended(reason), many)
            }
        };
        self.deliver(waiters, &reply);
    }

    /// Keeps what the nameservers said; for somebody who waits, ready to be given out.
    fn keep(&self, key: &Key, found: &Found, awaited: bool) -> Option<Reply> {
        let now = Instant::now();
        let ttl = match found {
            found if found.has(key.1) => found.ttl(key.1).min(self.limits.longest),
            Found { soa: None, .. } => NO_SOA,
            found => found.ttl(key.1).min(self.limits.longest_absence),
        };
        let mut kept = Kept::new(found, now + ttl)?;
        let reply = if awaited {
            self.ready(key, &mut kept, ttl, now)
        } else {
            None
        };
        let change = |entry: &mut Entry| {
            entry.answer = Some(kept);
            entry.failed = None;
        };
        let exact = self.is_exact(&key.0);
        self.cache.borrow_mut().update(key, exact, now, change);
        reply
    }

    /// No answer can be had; perhaps there was one before.
    fn failed(&self, key: &Key, extended: Extended, many: u64) -> Reply {
        let now = Instant::now();
        let exact = self.is_exact(&key.0);
        let mut cache = self.cache.borrow_mut();
        if let Some(entry) = cache.get(key)
            && let Some(reply) = self.stale(key, entry, now)
        {
            entry.failed = Some((now + STALE_TTL, extended));
            self.count(|c| c.stale += many);
            return reply;
        }
        let change = |entry: &mut Entry| entry.failed = Some((now + FAILURE, extended));
        cache.update(key, exact, now, change);
        self.count(|c| c.failed += many);
        Reply::error(ResponseCode::ServFail, extended)
    }

    fn allows(&self, name: &Name) -> bool {
        matches!(self.gate.borrow().verdict(name), Verdict::Allowed { .. })
    }

    fn is_exact(&self, name: &Name) -> bool {
        self.gate.borrow().verdict(name) == Verdict::Allowed { wildcard: None }
    }

    fn deliver(&self, waiters: Vec<Waiter>, reply: &Reply) {
        for Waiter { request, origin } in waiters {
            let limit = origin.limit(&request);
            let Some(octets) = reply.encode(&request, limit) else {
                continue;
            };
            if !origin.send(&self.listeners, &octets) {
                self.count(|c| c.unsent += 1);
            }
        }
    }
}

/// Types that name no records of their own: those reserved for queries (RFC 6895 section 3.1) but
/// ANY, and signatures, which are not passed on.
fn is_meta(kind: RecordType) -> bool {
    let number = u16::from(kind);
    (128..255).contains(&number)
        || matches!(kind, RecordType::OPT | RecordType::SIG | RecordType::RRSIG)
        || number == 0
}

fn extended(reason: &Unresolved) -> Extended {
    let network =
        |failure: &ServerFailure| matches!(failure.failure, Failure::Network(_) | Failure::Tcp(_));
    match reason {
        Unresolved::Failed(servers) if servers.iter().all(network) => Extended::NetworkError,
        Unresolved::CnameLoop(_) | Unresolved::CnameChain(_) => Extended::InvalidData,
        Unresolved::Failed(servers)
            if servers
                .iter()
                .any(|server| server.failure == Failure::Malformed) =>
        {
            Extended::InvalidData
        }
        _ => Extended::NoReachableAuthority,
    }
}
