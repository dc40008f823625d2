//! One question → one response, from whichever of the nameservers gives it.
//!
//! The servers are asked in their order. The next one is asked as soon as one fails, or stays
//! silent for [`HEDGE`], while those before may still answer: a dead first server costs one such
//! pause and not the deadline. A server that failed is asked again after a growing pause, a few
//! times: forwarders refuse bursts, and some are up a moment later than the container.

use std::{
    cell::Cell,
    convert::Infallible,
    fmt, future, io, iter,
    net::SocketAddr,
    pin::pin,
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use hickory_resolver::{
    net::{
        DnsHandle as _, NetError, runtime::TokioRuntimeProvider, tcp::TcpClientStream,
        xfer::FirstAnswer as _,
    },
    proto::op::{Message, Query, ResponseCode},
};
use nix::errno::Errno;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    nameservers::Server as Named,
    udp::{self, Broken, Lane, Ticket},
};

/// How long a server may stay silent before the next one is asked too.
pub(super) const HEDGE: Duration = Duration::from_millis(300);

/// How long until a query is sent again to the same server; doubled each time.
const RESEND: Duration = Duration::from_millis(500);
const RESEND_MAX: Duration = Duration::from_secs(2);

/// The pauses before a server that failed is asked again.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
];

/// Queries in flight. One that has waited for [`HEDGE`] no longer counts, so that silence about
/// some names does not keep the others waiting.
const IN_FLIGHT: usize = 256;

/// Queries in flight on one socket. The kernel's default receive buffer (208 KiB) holds the
/// largest responses to so many.
const PER_LANE: usize = 64;

/// Connections at once, over all servers.
const TCP_CONNECTIONS: usize = 32;

/// For how long a server that was silent is not asked first.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest that one exchange over TCP may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why one server gave no usable response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came.
    Silent,
    /// Its response over UDP was cut off, and over TCP nothing came.
    SilentOverTcp,
    /// Its response over UDP was cut off, and over TCP something failed.
    Tcp(io::ErrorKind),
    /// REFUSED: it does not serve us.
    Refused,
    /// SERVFAIL: it could not find out.
    ServFail,
    /// Another code of RFC 6895 that is no answer.
    Code(u16),
    /// Octets that are no DNS response to the question.
    Malformed,
    /// The kernel did not send, or an ICMP error came back.
    Network(Errno),
}

/// What a server failed with, in words that name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFailure {
    /// The server.
    pub server: SocketAddr,
    /// What it failed with.
    pub failure: Failure,
}

impl fmt::Display for ServerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (socket, server) = (self.server, Named(self.server));
        match self.failure {
            Failure::Silent => write!(f, "no answer from {socket}"),
            Failure::SilentOverTcp => write!(
                f,
                "no answer from {socket} over TCP, which the length of the answer demands"
            ),
            Failure::Tcp(kind) => write!(
                f,
                "{kind}: {socket} over TCP, which the length of the answer demands"
            ),
            Failure::Refused => write!(f, "refused by {server}"),
            Failure::ServFail => write!(f, "SERVFAIL from {server}"),
            Failure::Code(code) => write!(f, "response code {code} from {server}"),
            Failure::Malformed => write!(f, "malformed answer from {server}"),
            Failure::Network(Errno::ECONNREFUSED) => {
                write!(f, "connection refused by {socket}: no DNS server listens")
            }
            // Without any address of IPv6, the kernel finds no source before it finds no route.
            Failure::Network(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL) => {
                write!(f, "network unreachable (no route to {server})")
            }
            Failure::Network(Errno::EPERM | Errno::EACCES) => {
                write!(f, "a firewall forbids to send to {socket}")
            }
            Failure::Network(errno) => write!(f, "{} ({socket})", errno.desc()),
        }
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Malformed => Self::Malformed,
            Broken::Network(errno) => Self::Network(errno),
        }
    }
}

/// The nameservers and their sockets.
pub(crate) struct Servers {
    all: Vec<Server>,
    queries: AtomicUsize,
    in_flight: Semaphore,
    connections: Semaphore,
    ignored: Arc<AtomicU64>,
}

struct Server {
    address: SocketAddr,
    lanes: Lanes,
    /// When it left a query without an answer, where it has answered none since: the others go
    /// first, for [`SILENCE`].
    silent: Cell<Option<Instant>>,
}

enum Lanes {
    /// For many queries at once and a short life.
    Shared(Result<Vec<Lane>, Broken>),
    /// For a long life: each query has a socket of its own, on a port that nobody knows before
    /// (RFC 5452 section 9.2), and what comes late reaches nobody. Nothing is open between queries.
    Each,
}

/// How asking one of the servers goes.
struct Attempt<'a> {
    /// Its place in the configured order.
    index: usize,
    server: &'a Server,
    /// What it failed with last; nothing where it was not asked.
    failure: Option<Failure>,
    /// Those that are left.
    pauses: slice::Iter<'static, Duration>,
}

/// A response and who gave it.
pub(super) struct Response {
    pub message: Message,
    pub server: SocketAddr,
}

impl Servers {
    /// Opens the sockets that so many `queries` need. A server whose sockets cannot be opened (no
    /// IPv6 in the kernel) fails later, alone.
    pub(super) fn open(addresses: &[SocketAddr], queries: usize) -> Self {
        let lanes = queries.clamp(1, IN_FLIGHT).div_ceil(PER_LANE);
        Self::with_lanes(addresses, |address, ignored| {
            let open = || Ok(Lane::new(address, ignored)?);
            Lanes::Shared(iter::repeat_with(open).take(lanes).collect())
        })
    }

    /// For a long life. [`Self::receive`] is not needed then.
    pub(crate) fn lasting(addresses: &[SocketAddr]) -> Self {
        Self::with_lanes(addresses, |_, _| Lanes::Each)
    }

    fn with_lanes(
        addresses: &[SocketAddr],
        lanes: impl Fn(SocketAddr, &Arc<AtomicU64>) -> Lanes,
    ) -> Self {
        let ignored = Arc::default();
        let servers = addresses.iter().map(|&address| Server {
            address,
            lanes: lanes(address, &ignored),
            silent: Cell::new(None),
        });
        Self {
            all: servers.collect(),
            queries: AtomicUsize::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
            connections: Semaphore::new(TCP_CONNECTIONS),
            ignored,
        }
    }

    /// How many datagrams came from the servers' addresses that answered no query.
    pub(crate) fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Hands responses to those who wait in [`Self::ask`]; never returns.
    pub(super) async fn receive(&self) -> Infallible {
        let shared = |server| match server {
            &Server {
                lanes: Lanes::Shared(Ok(ref lanes)),
                ..
            } => Some(lanes),
            _ => None,
        };
        let lanes = self.all.iter().filter_map(shared).flatten();
        let mut receiving: FuturesUnordered<_> = lanes.map(Lane::receive).collect();
        match receiving.next().await {
            Some(never) => never,
            // No servers.
            None => future::pending().await,
        }
    }

    /// Asks until a server responds with NOERROR or NXDOMAIN, each one has failed as often as it
    /// may, or the time is over; then it is what each of them failed with. Once `hurry` is set, a
    /// server that fails is not asked again.
    pub(super) async fn ask<'a>(
        &'a self,
        question: &'a Query,
        until: Instant,
        hurry: &AtomicBool,
    ) -> Result<Response, Vec<ServerFailure>> {
        // The end, or what comes before it: the server that was asked last is silent for too long.
        let mut alarm = pin!(sleep_until(until));
        let mut in_flight = tokio::select! {
            biased;
            // Never closed.
            permit = self.in_flight.acquire() => permit.ok(),
            () = &mut alarm => return Err(failures(self.attempts())),
        };
        let lane = self.queries.fetch_add(1, Ordering::Relaxed) / PER_LANE;
        let talk = |at: usize, server: &'a Server, pause: Duration| {
            Box::pin(async move {
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                (at, self.talk(server, lane, question, until).await)
            })
        };

        let mut attempts = self.attempts();
        let mut asked = 0;
        let mut talks = Vec::with_capacity(1);
        loop {
            if let Some(attempt) = attempts.get_mut(asked) {
                attempt.failure = Some(Failure::Silent);
                talks.push(talk(asked, attempt.server, Duration::ZERO));
                asked += 1;
                alarm.as_mut().reset(until.min(Instant::now() + HEDGE));
            }
            if talks.is_empty() {
                return Err(failures(attempts));
            }
            tokio::select! {
                biased;
                (at, outcome) = first_done(&mut talks) => {
                    let attempt = &mut attempts[at];
                    let failure = match outcome {
                        Ok(message) => {
                            let server = attempt.server.address;
                            return Ok(Response { message, server });
                        }
                        Err(failure) => failure,
                    };
                    attempt.failure = Some(failure);
                    if !hurry.load(Ordering::Relaxed) && let Some(pause) = attempt.pauses.next() {
                        talks.push(talk(at, attempt.server, *pause));
                    }
                }
                () = &mut alarm => {
                    if alarm.deadline() == until {
                        return Err(failures(attempts));
                    }
                    attempts[asked - 1].server.silent.set(Some(Instant::now()));
                    drop(in_flight.take());
                    alarm.as_mut().reset(until);
                }
            }
        }
    }

    /// The servers in the order in which they are asked.
    fn attempts(&self) -> Vec<Attempt<'_>> {
        let attempt = |(index, server)| Attempt {
            index,
            server,
            failure: None,
            pauses: PAUSES.iter(),
        };
        let mut attempts: Vec<_> = self.all.iter().enumerate().map(attempt).collect();
        // Stable: the configured order but for those that are silent.
        attempts.sort_by_key(|attempt| {
            let silent = attempt.server.silent.get();
            silent.is_some_and(|since| since.elapsed() < SILENCE)
        });
        attempts
    }

    /// One server, until it responds or fails; a server that stays silent is asked again and
    /// again.
    async fn talk(
        &self,
        server: &Server,
        lane: usize,
        question: &Query,
        until: Instant,
    ) -> Result<Message, Failure> {
        let mut edns = true;
        loop {
            let message = match &server.lanes {
                Lanes::Shared(lanes) => {
                    let lanes = lanes.as_ref().map_err(|broken| *broken)?;
                    talk_udp(&lanes[lane % lanes.len()], question, edns).await?
                }
                Lanes::Each => {
                    let lane = Lane::new(server.address, &self.ignored).map_err(Broken::from)?;
                    // What waits on a shared lane is not to be as large as this.
                    let exchange = Box::pin(async move {
                        tokio::select! {
                            never = lane.receive() => match never {},
                            message = talk_udp(&lane, question, edns) => message,
                        }
                    });
                    exchange.await?
                }
            };
            server.silent.set(None);
            match message.response_code {
                // A server from before RFC 6891.
                ResponseCode::FormErr | ResponseCode::NotImp if edns => edns = false,
                _ if message.truncation => {
                    // Rare, and larger than all the rest of what waits for an answer.
                    return Box::pin(self.talk_tcp(server, question, until)).await;
                }
                _ => return usable(message),
            }
        }
    }

    async fn talk_tcp(
        &self,
        server: &Server,
        question: &Query,
        until: Instant,
    ) -> Result<Message, Failure> {
        let _connection = self.connections.acquire().await;
        let limit = TCP_TIMEOUT.min(until.saturating_duration_since(Instant::now()) / 2);
        // Owns the task that drives the connection.
        let provider = TokioRuntimeProvider::new();
        let exchange = async {
            let connect =
                TcpClientStream::exchange(server.address, None, limit, None, provider.clone());
            let request = udp::message(question, true);
            connect.await?.send(request).first_answer().await
        };
        match timeout(limit, exchange).await {
            Ok(Ok(response)) if udp::answers(&response, question) => usable(response.into()),
            Ok(Err(NetError::Io(e))) => Err(Failure::Tcp(e.kind())),
            Err(_) | Ok(Err(NetError::Timeout)) => Err(Failure::SilentOverTcp),
            Ok(_) => Err(Failure::Malformed),
        }
    }
}

/// The failures of those that were asked, in the configured order; where nobody was, nobody
/// answered.
fn failures(mut attempts: Vec<Attempt<'_>>) -> Vec<ServerFailure> {
    attempts.sort_unstable_by_key(|attempt| attempt.index);
    let nobody = attempts.iter().all(|attempt| attempt.failure.is_none());
    attempts
        .iter()
        .filter_map(|attempt| {
            Some(ServerFailure {
                server: attempt.server.address,
                failure: attempt.failure.or(nobody.then_some(Failure::Silent))?,
            })
        })
        .collect()
}

/// The first of a few futures to be done, which is taken out. There is one for nearly all of
/// their time, so that to poll them all costs less than to know which of them was woken.
async fn first_done<F: Future + Unpin>(futures: &mut Vec<F>) -> F::Output {
    future::poll_fn(|context| {
        for (index, future) in futures.iter_mut().enumerate() {
            if let Poll::Ready(output) = future.poll_unpin(context) {
                drop(futures.swap_remove(index));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

async fn talk_udp(lane: &Lane, question: &Query, edns: bool) -> Result<Message, Failure> {
    let mut ticket = Ticket::new(lane, question, edns);
    let mut wait = RESEND;
    loop {
        ticket.send().await?;
        match timeout(wait, ticket.outcome()).await {
            Ok(outcome) => return Ok(outcome?),
            // Lost on the way, or EDNS is: some firewalls drop what they do not know.
            Err(_) => ticket.toggle_edns(),
        }
        wait = RESEND_MAX.min(wait * 2);
    }
}

/// The message, where its code says something of the name.
fn usable(message: Message) -> Result<Message, Failure> {
    match message.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        ResponseCode::ServFail => Err(Failure::ServFail),
        ResponseCode::Refused => Err(Failure::Refused),
        code => Err(Failure::Code(code.into())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn failures_in_words() {
        let words = |failure| {
            let server = "10.0.0.2:53".parse().unwrap();
            ServerFailure { server, failure }.to_string()
        };
        for (failure, expected) in [
            (Failure::Silent, "no answer from 10.0.0.2:53"),
            (Failure::Refused, "refused by 10.0.0.2"),
            (Failure::ServFail, "SERVFAIL from 10.0.0.2"),
            (Failure::Code(9), "response code 9 from 10.0.0.2"),
            (Failure::Malformed, "malformed answer from 10.0.0.2"),
            (
                Failure::Network(Errno::ENETUNREACH),
                "network unreachable (no route to 10.0.0.2)",
            ),
            (
                Failure::Network(Errno::ECONNREFUSED),
                "connection refused by 10.0.0.2:53: no DNS server listens",
            ),
            (
                Failure::Network(Errno::EPERM),
                "a firewall forbids to send to 10.0.0.2:53",
            ),
            (
                Failure::Network(Errno::EAFNOSUPPORT),
                "Address family not supported by protocol (10.0.0.2:53)",
            ),
            (
                Failure::Tcp(io::ErrorKind::ConnectionRefused),
                "connection refused: 10.0.0.2:53 over TCP, which the length of the answer demands",
            ),
            (
                Failure::SilentOverTcp,
                "no answer from 10.0.0.2:53 over TCP, which the length of the answer demands",
            ),
        ] {
            assert_eq!(words(failure), expected);
        }
    }
}
