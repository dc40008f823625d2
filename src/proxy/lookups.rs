//! Lookups: who waits for them, and what becomes of what they find.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hickory_resolver::proto::{
    op::ResponseCode,
    rr::{Name as DnsName, RecordType},
};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::{
    Gate, Proxy, STALE_TTL,
    cache::{Entry, Kept, Key},
    reply::{Extended, Reply},
    request::listed_form,
    waiting::{Room, Waiter},
};
use crate::{
    allowlist::Name,
    resolve::{Answer, Failure, Found, Resolver, ServerFailure, Unresolved, absolute},
};

/// After so long without an answer of the nameservers, one whose time is over is given out (RFC
/// 8767 section 5).
const PATIENCE: Duration = Duration::from_millis(1800);

/// For how long a failure is remembered (RFC 9520 section 3.2).
const FAILURE: Duration = Duration::from_secs(1);

/// For how long an absence without SOA is remembered, so that one client that asks again and again
/// is not passed on.
const NO_SOA: Duration = Duration::from_secs(5);

impl<G: Gate> Proxy<'_, G> {
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

    /// Puts a client behind a lookup, and begins it where it is the first. Returns the response
    /// where there is no room.
    pub(super) fn wait(
        &self,
        key: Key,
        wildcard: Option<usize>,
        waiter: Waiter,
    ) -> Option<Vec<u8>> {
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
                let is_chosen = wildcard.is_some() || !is_usual(key.1);
                if is_chosen && !bucket.take(rate, burst, now) {
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
    pub(super) async fn look_up(&self) -> Infallible {
        let mut running = FuturesUnordered::new();
        // Where serving was broken off, those who waited still do.
        *self.begun.borrow_mut() = self.waiting.borrow().keys();
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
                if let Ok(result) = timeout(PATIENCE, &mut records).await {
                    result
                } else {
                    self.lose_patience(&key);
                    records.await
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

/// What any program asks for that connects. A command could choose among all other types so that
/// they say something to whoever sees the queries (I7).
fn is_usual(kind: RecordType) -> bool {
    matches!(
        kind,
        RecordType::A | RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB
    )
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
