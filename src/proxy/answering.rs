//! A query → an answer, or a lookup.

use std::{convert::Infallible, io, net::IpAddr, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hickory_resolver::proto::{
    op::ResponseCode,
    rr::{DNSClass, Name as DnsName, Record, RecordType},
};
use nix::sys::socket::SockaddrStorage;
use tokio::{
    net::UdpSocket,
    task::yield_now,
    time::{Instant, sleep},
};
use tracing::debug;

use super::{
    Gate, Proxy, STALE_TTL, Verdict,
    cache::{Entry, Kept, Key, REPEAT},
    listen::{Batch, Outgoing},
    reply::{self, Extended, Reply},
    request::{self, Request, Unfit, listed_form},
    waiting::{Origin, Waiter},
};
use crate::resolve::absolute;

/// Batches of datagrams that are answered before anything else has its turn: some hundred queries,
/// a millisecond at most where none of them needs a lookup.
const BATCHES: usize = 4;

/// Between two attempts to receive where the first one failed: an error that stays must not keep
/// everything else from having its turn.
const PAUSE: Duration = Duration::from_millis(10);

/// What becomes of a query.
enum Step {
    Answer(Reply),
    /// From the cache: it holds for this long.
    Kept(Reply, Duration),
    LookUp(Key, Option<usize>),
}

impl<G: Gate> Proxy<'_, G> {
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
        let mut outgoing = Outgoing::default();
        loop {
            if let Err(e) = socket.readable().await {
                debug!("dns: cannot wait for queries: {e}");
                sleep(PAUSE).await;
            }
            for _ in 0..BATCHES {
                let received = batch.receive(socket, |octets, source| {
                    if let Some(octets) = octets {
                        outgoing.add(source, |to| self.respond_udp(octets, socket, &source, to));
                    } else {
                        self.count(|c| (c.queries, c.oversized) = (c.queries + 1, c.oversized + 1));
                    }
                });
                let lost = batch.send(socket, &mut outgoing);
                self.count(|c| c.unsent += lost);
                match received {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        debug!("dns: cannot receive: {e}");
                        sleep(PAUSE).await;
                        break;
                    }
                }
            }
            yield_now().await;
        }
    }

    /// Appends the response, where there is one at once.
    fn respond_udp(
        &self,
        octets: &[u8],
        socket: &UdpSocket,
        source: &SockaddrStorage,
        to: &mut Vec<u8>,
    ) -> bool {
        if self.repeats.borrow_mut().get(octets, Instant::now(), to) {
            self.count(|c| (c.queries, c.cached) = (c.queries + 1, c.cached + 1));
            return true;
        }
        let origin = || Origin::udp(&self.listeners, socket, source);
        let response = self.respond(octets, usize::MAX, origin, true);
        if let Some(response) = &response {
            to.extend_from_slice(response);
        }
        response.is_some()
    }

    /// The response, where there is one at once; else whoever asks waits for a lookup.
    pub(super) fn respond(
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
                if udp && holds >= REPEAT {
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
        if question.query_class() != DNSClass::IN || !is_served(kind) {
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
            let ttl = Duration::from_secs(reply::LOCAL_TTL.into());
            let Ok(known) = self.gate.borrow_mut().admit(&name, &known, ttl) else {
                self.count(|c| c.failed += 1);
                return Step::Answer(Reply::error(ResponseCode::ServFail, Extended::Other));
            };
            return local(reply::known(question.name(), kind, &known));
        }
        let key = (name, kind);
        self.kept(&key, now).unwrap_or(Step::LookUp(key, wildcard))
    }

    pub(super) fn limited(&self) -> Reply {
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
    fn kept(&self, key: &Key, now: Instant) -> Option<Step> {
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
    pub(super) fn stale(&self, key: &Key, entry: &mut Entry, now: Instant) -> Option<Reply> {
        let answer = entry.answer.as_mut()?;
        if answer.until + self.limits.stale <= now {
            return None;
        }
        let mut reply = self.ready(key, answer, STALE_TTL, now)?;
        reply.extended = reply.extended.or(Some(Extended::Stale));
        Some(reply)
    }

    /// What is kept, to be given out for as long as `ttl`: filtered, and its addresses in the sets.
    pub(super) fn ready(
        &self,
        key: &Key,
        answer: &mut Kept,
        ttl: Duration,
        now: Instant,
    ) -> Option<Reply> {
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
}

/// The types that programs ask for, by their numbers in IANA's registry. A command could choose among
/// the 65,000 others so that they say something to whoever sees the queries (I7). Those reserved for
/// queries (RFC 6895 section 3.1) have no place here but for ANY, and signatures are not passed on.
fn is_served(kind: RecordType) -> bool {
    matches!(
        u16::from(kind),
        // A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, NAPTR.
        1 | 2 | 5 | 6 | 12 | 15 | 16 | 28 | 33 | 35
        // CERT, DS, SSHFP, DNSKEY, TLSA, SMIMEA, OPENPGPKEY.
        | 37 | 43 | 44 | 48 | 52 | 53 | 61
        // SVCB, HTTPS, ANY, URI, CAA.
        | 64 | 65 | 255 | 256 | 257
    )
}
