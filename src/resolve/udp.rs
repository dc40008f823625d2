//! Queries and responses over UDP: many in flight on few sockets.
//!
//! A socket of its own for each query would cost more than the query itself, and a descriptor.
//! Here each nameserver has a few connected sockets (`Lane`), on ports that the kernel chooses;
//! queries are told apart by a random id, and a response counts only where id and question are
//! those of a query that waits (RFC 5452 section 9). Being connected, a socket gets nothing from
//! any other address, and it gets ICMP errors: a port where nothing listens is known at once.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    convert::Infallible,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hickory_resolver::{
    net::udp::MAX_RECEIVE_BUFFER_SIZE,
    proto::{
        op::{
            DnsRequest, DnsRequestOptions, Message, MessageType, Query,
            ResponseCode::{NXDomain, NoError},
        },
        rr::{Name, RecordType},
    },
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrStorage, connect, send},
};
use tokio::{io::Interest, net::UdpSocket, sync::oneshot};

/// What came for a query: the response, or why none can come.
pub(super) type Outcome = Result<Message, Broken>;

/// Why a query over UDP has no usable response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A message with the right id that is no DNS response to the question.
    Malformed,
    /// The kernel could not send, or an ICMP error came back.
    Network(Errno),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Self::Network(Errno::from_raw(e.raw_os_error().unwrap_or_default()))
    }
}

/// Between two attempts to receive where the first one failed.
const PAUSE: Duration = Duration::from_millis(1);

/// One socket, connected to a nameserver, and the queries that wait on it.
pub(super) struct Lane {
    socket: UdpSocket,
    server: SocketAddr,
    connected: AtomicBool,
    waiting: Mutex<BTreeMap<u16, Box<Waiting>>>,
    ignored: Arc<AtomicU64>,
}

struct Waiting {
    question: Query,
    outcome: oneshot::Sender<Outcome>,
}

impl Lane {
    /// `ignored` counts the datagrams that are no answer to a query.
    pub(super) fn new(server: SocketAddr, ignored: &Arc<AtomicU64>) -> io::Result<Self> {
        let any = match server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            server,
            connected: AtomicBool::new(false),
            waiting: Mutex::default(),
            ignored: Arc::clone(ignored),
        })
    }

    /// Hands responses to the queries that wait for them; never returns.
    pub(super) async fn receive(&self) -> Infallible {
        let mut buffer = vec![0; MAX_RECEIVE_BUFFER_SIZE];
        loop {
            match self.socket.recv(&mut buffer).await {
                Ok(length) => self.dispatch(&buffer[..length]),
                Err(e) => {
                    self.fail(e.into());
                    // An error that stays must not keep the deadline from being looked at.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn dispatch(&self, octets: &[u8]) {
        let ignore = || {
            self.ignored.fetch_add(1, Ordering::Relaxed);
        };
        let Some(id) = octets.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
            return ignore();
        };
        let mut waiting = self.waiting();
        let Entry::Occupied(entry) = waiting.entry(id) else {
            return ignore();
        };
        let outcome = match decode(octets) {
            Some(message) if answers(&message, &entry.get().question) => Ok(message),
            // Someone guesses: the true one may still come.
            Some(_) => return ignore(),
            None => {
                ignore();
                Err(Broken::Malformed)
            }
        };
        // Nobody listens where the query was given up: nothing to do.
        let _ = entry.remove().outcome.send(outcome);
    }

    /// An ICMP error is of the server, not of one query; the kernel reports it once, to whoever
    /// sends or receives next.
    fn fail(&self, broken: Broken) {
        for waiting in mem::take(&mut *self.waiting()).into_values() {
            let _ = waiting.outcome.send(Err(broken));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u16, Box<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a datagram, or says that there is no room for it now.
    fn send(&self, octets: &[u8]) -> nix::Result<()> {
        let socket = self.socket.as_raw_fd();
        // Late, and again after a failure: a route may appear while we wait.
        if !self.connected.load(Ordering::Relaxed) {
            connect(socket, &SockaddrStorage::from(self.server))?;
            self.connected.store(true, Ordering::Relaxed);
        }
        match send(socket, octets, MsgFlags::empty()) {
            // A full queue loses the packet as the network may: it is sent again in time.
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    async fn send_in_time(&self, octets: Vec<u8>) -> io::Result<()> {
        let send = || self.send(&octets).map_err(io::Error::from);
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}

/// Reads a message. One that announces more records than it has octets for is not even tried: the
/// codec would set memory aside for them.
pub(crate) fn decode(octets: &[u8]) -> Option<Message> {
    let header: &[u8; 12] = octets.first_chunk()?;
    let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    // The least that they take: the root, type and class; then TTL and length too.
    let least = count(4) * 5 + (count(6) + count(8) + count(10)) * 11;
    if least > octets.len() - header.len() {
        return None;
    }
    Message::from_vec(octets).ok()
}

/// Whether a message is a response to a question. A server that understood nothing may leave the
/// question out.
pub(super) fn answers(message: &Message, question: &Query) -> bool {
    let settles = matches!(message.response_code, NoError | NXDomain);
    message.message_type == MessageType::Response
        && match &message.queries[..] {
            [] => !settles,
            [only] => {
                only.query_type() == question.query_type()
                    && only.query_class() == question.query_class()
                    && is_same_name(only.name(), question.name())
            }
            _ => false,
        }
}

/// Whether two names are the same, whatever the case of their letters. They mostly have the same
/// octets, which is quicker to see.
pub(super) fn is_same_name(one: &Name, other: &Name) -> bool {
    one.is_fqdn() == other.is_fqdn() && one.iter().eq(other) || one == other
}

/// The query as a datagram (RFC 1035 section 4): a header, a question, and with EDNS the size of an
/// answer that has room (RFC 6891 section 6.1). A start sends hundreds, and the library's
/// encoder, which is there for every kind of message, takes a tenth of its instructions for them.
fn query(id: u16, question: &Query, edns: bool) -> Vec<u8> {
    /// RD: the answer is wanted, not the way to it.
    const RECURSION: u16 = 0x0100;
    let mut octets = Vec::with_capacity(MAX_QUERY);
    let mut put = |number: u16| octets.extend_from_slice(&number.to_be_bytes());
    for number in [id, RECURSION, 1, 0, 0, edns.into()] {
        put(number);
    }
    for label in question.name() {
        // At most 63 octets long.
        octets.push(u8::try_from(label.len()).unwrap_or_default());
        octets.extend_from_slice(label);
    }
    octets.push(0);
    let mut put = |number: u16| octets.extend_from_slice(&number.to_be_bytes());
    put(question.query_type().into());
    put(question.query_class().into());
    if edns {
        // Owner, type, and in place of the class the size; no flags and no options.
        octets.push(0);
        for number in [RecordType::OPT.into(), ROOM, 0, 0, 0] {
            octets.extend_from_slice(&u16::to_be_bytes(number));
        }
    }
    octets
}

/// A header, the longest name, type and class, and EDNS.
const MAX_QUERY: usize = 12 + 255 + 4 + 11;

/// What an answer may be long without fragments: the library's, and DNS flag day 2020's.
const ROOM: u16 = 1232;

/// The query as a message under a random id.
pub(super) fn message(question: &Query, edns: bool) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.use_edns = edns;
    DnsRequest::from_query(question.clone(), options)
}

/// A query that waits on a lane; dropping it gives it up.
pub(super) struct Ticket<'a> {
    lane: &'a Lane,
    question: &'a Query,
    id: u16,
    edns: bool,
    outcome: oneshot::Receiver<Outcome>,
}

impl<'a> Ticket<'a> {
    pub(super) fn new(lane: &'a Lane, question: &'a Query, edns: bool) -> Self {
        let (sender, outcome) = oneshot::channel();
        let mut waiting = lane.waiting();
        // Far fewer than 65,536 wait on a lane, so that a free id is found soon.
        let entry = loop {
            if let Entry::Vacant(entry) = waiting.entry(Message::query().id) {
                break entry;
            }
        };
        let id = *entry.key();
        entry.insert(Box::new(Waiting {
            question: question.clone(),
            outcome: sender,
        }));
        drop(waiting);
        Self {
            lane,
            question,
            id,
            edns,
            outcome,
        }
    }

    /// Sends the query, again where it was sent before.
    pub(super) async fn send(&self) -> Result<(), Broken> {
        let octets = query(self.id, self.question, self.edns);
        let sent = match self.lane.send(&octets) {
            // Rare, and larger than all the rest of what waits for an answer.
            Err(Errno::EAGAIN) => {
                let sent = Box::pin(self.lane.send_in_time(octets)).await;
                sent.map_err(Broken::from)
            }
            sent => sent.map_err(Broken::Network),
        };
        sent.inspect_err(|broken| self.lane.fail(*broken))
    }

    /// Sends the query from now on without EDNS, or with it again.
    pub(super) fn toggle_edns(&mut self) {
        self.edns = !self.edns;
    }

    /// Waits for what comes.
    pub(super) async fn outcome(&mut self) -> Outcome {
        // The sender lives in the lane until it has sent.
        (&mut self.outcome).await.unwrap_or(Err(Broken::Malformed))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // What has its outcome waits no longer.
        if self.outcome.is_terminated() {
            return;
        }
        self.outcome.close();
        // The id may be another query's by now: whose is open.
        if let Entry::Occupied(entry) = self.lane.waiting().entry(self.id)
            && entry.get().outcome.is_closed()
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_query_is_what_the_library_writes() {
        let long = format!(
            "{}.{}.{}.{}",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61)
        );
        for name in [".", "a.", "Api.example.org.", "_dmarc.example.org.", &long] {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
                for edns in [false, true] {
                    let question = Query::query(Name::from_ascii(name).unwrap(), kind);
                    let mut theirs = message(&question, edns);
                    theirs.metadata.id = 0xbeef;
                    assert_eq!(query(0xbeef, &question, edns), theirs.to_vec().unwrap());
                }
            }
        }
    }
}
