//! A DNS server that answers from a script: real packets over UDP and TCP, in either family.
//!
//! It runs inside a test ([`DnsServer::start`]) or in a process of its own, in another network
//! namespace: the script ([`ZoneSpec`]) and the log ([`Query`]) are JSON. The log is the ground
//! truth for "nothing reached the DNS server": every datagram and every TCP connection is in it,
//! those that are no DNS included, and it is written before the answer leaves.
//!
//! It answers as a recursive resolver does (whole CNAME chains, `RA` set) and sets `TC` on its
//! own where an answer exceeds what the query allows over UDP (512 octets without EDNS).

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NULL, SOA},
    },
};
use serde::{Deserialize, Serialize};

/// What the server knows and how it misbehaves. A name that is not in it gets NXDOMAIN.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZoneSpec {
    /// The names, lower-case, without a trailing dot.
    pub names: BTreeMap<String, NameSpec>,
    /// Every answer leaves this much later.
    pub delay_ms: u64,
    /// Answer a CNAME alone, without the records of its target, as a server does that is not
    /// recursive.
    pub bare_cname: bool,
    /// Over UDP give the same query the same answer again, without a look at the zone or a line in
    /// the log: for who measures others.
    pub remembers: bool,
    /// What becomes of every query, names that are not in the zone included.
    pub everything: Behaviour,
}

/// The records of one name, and what becomes of queries for it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NameSpec {
    /// Its A records.
    pub a: Vec<Ipv4Addr>,
    /// Its AAAA records.
    pub aaaa: Vec<Ipv6Addr>,
    /// Its CNAME; the addresses are then not looked at.
    pub cname: Option<String>,
    /// Its records of other types: type and data, as on the wire.
    pub other: Vec<(u16, Vec<u8>)>,
    /// The TTL of all of them; 60 s where it is not given.
    pub ttl: Option<u32>,
    /// What becomes of a query for A.
    pub on_a: Behaviour,
    /// What becomes of a query for AAAA.
    pub on_aaaa: Behaviour,
}

/// What becomes of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// It is answered from the zone.
    #[default]
    Answer,
    /// NXDOMAIN, whatever the zone has.
    NxDomain,
    /// SERVFAIL.
    ServFail,
    /// REFUSED.
    Refused,
    /// FORMERR while the query carries EDNS, else an answer: a server from before RFC 6891.
    FormErrOnEdns,
    /// No answer at all.
    Drop,
    /// No answer to the first queries of this name and type, this many; then from the zone.
    DropFirst(u32),
    /// SERVFAIL for the first queries of this name and type, this many; then from the zone.
    ServFailFirst(u32),
    /// REFUSED for the first queries of this name and type, this many; then from the zone.
    RefusedFirst(u32),
    /// From the zone, this many milliseconds later.
    DelayMs(u64),
    /// Over UDP an empty answer with TC; over TCP from the zone.
    Truncate,
    /// First 198.51.100.66 under a wrong message id, then from the zone.
    WrongIdFirst,
    /// First 198.51.100.66 for a question that nobody asked, then from the zone.
    WrongQuestionFirst,
    /// Octets that are no DNS message, with the right id.
    Garbage,
    /// From the zone, and with it what nobody asked for: a signature, an address of another name
    /// and one under the zone's nameserver, all of them [`FORGED`].
    Stuffed,
}

/// The address in answers that a resolver has to ignore.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

impl ZoneSpec {
    /// An empty zone.
    pub fn new() -> Self {
        Self::default()
    }

    fn name(&mut self, name: &str) -> &mut NameSpec {
        self.names.entry(name.to_ascii_lowercase()).or_default()
    }

    /// Adds addresses of either family to a name.
    #[must_use]
    pub fn addresses(mut self, name: &str, addresses: &[&str]) -> Self {
        let entry = self.name(name);
        for address in addresses {
            match address.parse().expect("an IP address") {
                IpAddr::V4(a) => entry.a.push(a),
                IpAddr::V6(aaaa) => entry.aaaa.push(aaaa),
            }
        }
        self
    }

    /// Makes a name an alias.
    #[must_use]
    pub fn cname(mut self, name: &str, target: &str) -> Self {
        self.name(name).cname = Some(target.to_owned());
        self
    }

    /// Adds a record of any type to a name.
    #[must_use]
    pub fn record(mut self, name: &str, kind: RecordType, data: &[u8]) -> Self {
        self.name(name).other.push((kind.into(), data.to_vec()));
        self
    }

    /// Sets the TTL of a name's records.
    #[must_use]
    pub fn ttl(mut self, name: &str, ttl: u32) -> Self {
        self.name(name).ttl = Some(ttl);
        self
    }

    /// Sets what becomes of queries for a name, of both types.
    #[must_use]
    pub fn on(self, name: &str, behaviour: Behaviour) -> Self {
        self.on_a(name, behaviour).on_aaaa(name, behaviour)
    }

    /// Sets what becomes of queries for a name's A records.
    #[must_use]
    pub fn on_a(mut self, name: &str, behaviour: Behaviour) -> Self {
        self.name(name).on_a = behaviour;
        self
    }

    /// Sets what becomes of queries for a name's AAAA records.
    #[must_use]
    pub fn on_aaaa(mut self, name: &str, behaviour: Behaviour) -> Self {
        self.name(name).on_aaaa = behaviour;
        self
    }

    /// Sets what becomes of every query.
    #[must_use]
    pub fn everything(mut self, behaviour: Behaviour) -> Self {
        self.everything = behaviour;
        self
    }

    /// Delays every answer.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay_ms = u64::try_from(delay.as_millis()).expect("a delay of less than an age");
        self
    }

    /// Remembers its answers.
    #[must_use]
    pub fn remembering(mut self) -> Self {
        self.remembers = true;
        self
    }

    /// Answers a CNAME alone.
    #[must_use]
    pub fn bare_cname(mut self) -> Self {
        self.bare_cname = true;
        self
    }
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a TCP connection.
    Tcp,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The name asked for: lower-case, no trailing dot. Empty where it is no DNS query.
    pub name: String,
    /// `A`, `AAAA` and so on; `CONNECT` for a TCP connection as such, `GARBAGE` for octets that
    /// are no DNS query.
    pub kind: String,
    /// How it came.
    pub transport: Transport,
    /// Who asked.
    pub source: SocketAddr,
    /// Which of the server's addresses was asked.
    pub server: SocketAddr,
}

/// A running server; dropping it stops it.
pub struct DnsServer {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    zone: Mutex<Arc<ZoneSpec>>,
    log: Mutex<Log>,
    /// How often each name and type was asked for, for the behaviours that count.
    asked: Mutex<HashMap<(String, RecordType), u32>>,
    stop: AtomicBool,
    /// Queries without their id, and what goes back for them, where the zone `remembers`.
    known: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

/// The most that is remembered: clients that put something of their own into each query are not
/// to fill the memory.
const REMEMBERED: usize = 10_000;

struct Log {
    queries: Vec<Query>,
    sink: Box<dyn Write + Send>,
}

impl DnsServer {
    /// Starts to answer on `listen`, UDP and TCP; port 0 for one that the kernel chooses.
    pub fn start(zone: ZoneSpec, listen: &[SocketAddr]) -> io::Result<Self> {
        Self::start_with_log(zone, listen, io::sink())
    }

    /// As [`Self::start`], and each query goes to `sink` too, one JSON object a line.
    pub fn start_with_log(
        zone: ZoneSpec,
        listen: &[SocketAddr],
        sink: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            zone: Mutex::new(Arc::new(zone)),
            log: Mutex::new(Log {
                queries: Vec::new(),
                sink: Box::new(sink),
            }),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
            known: Mutex::default(),
        });
        let mut server = Self {
            shared,
            addresses: Vec::new(),
            threads: Vec::new(),
        };
        for address in listen {
            let (udp, tcp) = bind(*address)?;
            let address = udp.local_addr()?;
            server.addresses.push(address);
            let (later, waiting) = mpsc::channel();
            let sender = udp.try_clone()?;
            server
                .threads
                .push(thread::spawn(move || send_later(&sender, &waiting)));
            let shared = Arc::clone(&server.shared);
            server.threads.push(thread::spawn(move || {
                shared.serve_udp(&udp, address, &later);
            }));
            let shared = Arc::clone(&server.shared);
            server
                .threads
                .push(thread::spawn(move || shared.serve_tcp(&tcp, address)));
        }
        Ok(server)
    }

    /// Where it listens, in the order of `listen`, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers from another zone from now on.
    pub fn change(&self, zone: ZoneSpec) {
        *self.shared.zone.lock().unwrap() = Arc::new(zone);
        self.shared.known.lock().unwrap().clear();
    }

    /// Everything that reached it, in order.
    pub fn queries(&self) -> Vec<Query> {
        self.shared.log.lock().unwrap().queries.clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for address in &self.addresses {
            // Wakes the two threads of this address, which then see `stop`.
            let any = match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            if let Ok(socket) = UdpSocket::bind((any, 0)) {
                let _ = socket.send_to(&[], address);
            }
            let _ = TcpStream::connect_timeout(address, Duration::from_secs(1));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A port of loopback where nobody listens and which nobody else is given: each call has an
/// address for itself, since a port that was given back may be somebody else's at once.
pub fn closed_port() -> SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let [high, low] = GIVEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    SocketAddr::from(([127, 53, high, low], 5300))
}

/// Both sockets on one port; where the kernel chooses it, the other protocol may have it taken.
fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = 16;
    loop {
        let udp = UdpSocket::bind(address)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(e) if address.port() != 0 || attempts == 0 => return Err(e),
            Err(_) => attempts -= 1,
        }
    }
}

/// A datagram that leaves at its time.
type Later = (Instant, Vec<u8>, SocketAddr);

fn send_later(socket: &UdpSocket, waiting: &mpsc::Receiver<Later>) {
    let mut heap = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while let Some(Reverse((due, _, _))) = heap.peek()
            && *due <= now
        {
            let Some(Reverse((_, octets, to))): Option<Reverse<Later>> = heap.pop() else {
                break;
            };
            let _ = socket.send_to(&octets, to);
        }
        let pause = heap
            .peek()
            .map_or(Duration::from_secs(3600), |Reverse((due, _, _))| {
                due.saturating_duration_since(Instant::now())
            });
        match waiting.recv_timeout(pause) {
            Ok(later) => heap.push(Reverse(later)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What goes back for one query.
struct Reply {
    messages: Vec<Vec<u8>>,
    delay: Duration,
}

impl Shared {
    fn serve_udp(&self, socket: &UdpSocket, server: SocketAddr, later: &mpsc::Sender<Later>) {
        let mut buffer = vec![0; 65535];
        loop {
            // An error here is an ICMP answer to a reply: the client went away.
            let received = socket.recv_from(&mut buffer);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let Ok((length, source)) = received else {
                continue;
            };
            let query = &buffer[..length];
            let reply = self.remembered(query).or_else(|| {
                let reply = self.reply(query, Transport::Udp, source, server)?;
                self.remember(query, &reply);
                Some(reply)
            });
            let Some(reply) = reply else {
                continue;
            };
            for octets in reply.messages {
                if reply.delay.is_zero() {
                    let _ = socket.send_to(&octets, source);
                } else {
                    let _ = later.send((Instant::now() + reply.delay, octets, source));
                }
            }
        }
    }

    fn remembered(&self, query: &[u8]) -> Option<Reply> {
        let mut answer = self.known.lock().unwrap().get(query.get(2..)?)?.clone();
        answer[..2].copy_from_slice(&query[..2]);
        Some(Reply {
            messages: vec![answer],
            delay: Duration::from_millis(self.zone.lock().unwrap().delay_ms),
        })
    }

    fn remember(&self, query: &[u8], reply: &Reply) {
        if !self.zone.lock().unwrap().remembers {
            return;
        }
        let mut known = self.known.lock().unwrap();
        if let ([answer], Some(question)) = (&reply.messages[..], query.get(2..))
            && known.len() < REMEMBERED
        {
            known.insert(question.to_vec(), answer.clone());
        }
    }

    fn serve_tcp(self: Arc<Self>, listener: &TcpListener, server: SocketAddr) {
        loop {
            let accepted = listener.accept();
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let Ok((stream, source)) = accepted else {
                continue;
            };
            self.record("", "CONNECT", Transport::Tcp, source, server);
            let shared = Arc::clone(&self);
            // Not joined: it ends with its client.
            thread::spawn(move || shared.serve_connection(stream, source, server));
        }
    }

    fn serve_connection(&self, mut stream: TcpStream, source: SocketAddr, server: SocketAddr) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut query).is_err() {
                return;
            }
            let Some(reply) = self.reply(&query, Transport::Tcp, source, server) else {
                continue;
            };
            thread::sleep(reply.delay);
            for octets in reply.messages {
                let length = u16::try_from(octets.len()).expect("a message of at most 64 KiB");
                let framed = [&length.to_be_bytes()[..], &octets].concat();
                if stream.write_all(&framed).is_err() {
                    return;
                }
            }
        }
    }

    fn record(
        &self,
        name: &str,
        kind: &str,
        transport: Transport,
        source: SocketAddr,
        server: SocketAddr,
    ) {
        let query = Query {
            name: name.to_owned(),
            kind: kind.to_owned(),
            transport,
            source,
            server,
        };
        let mut log = self.log.lock().unwrap();
        let line = serde_json::to_string(&query).expect("a query is plain data");
        writeln!(log.sink, "{line}")
            .and_then(|()| log.sink.flush())
            .expect("the log can be written");
        log.queries.push(query);
    }

    /// Logs what came and says what goes back, if anything.
    fn reply(
        &self,
        octets: &[u8],
        transport: Transport,
        source: SocketAddr,
        server: SocketAddr,
    ) -> Option<Reply> {
        let query = Message::from_vec(octets)
            .ok()
            .filter(|message| message.queries.len() == 1);
        let Some(query) = query else {
            self.record("", "GARBAGE", transport, source, server);
            return None;
        };
        let name = key(query.queries[0].name());
        let kind = query.queries[0].query_type();
        self.record(&name, &kind.to_string(), transport, source, server);
        let before = {
            let mut asked = self.asked.lock().unwrap();
            let count = asked.entry((name.clone(), kind)).or_default();
            *count += 1;
            *count - 1
        };

        let zone = Arc::clone(&self.zone.lock().unwrap());
        let mut delay = Duration::from_millis(zone.delay_ms);
        let code = |code| vec![encode(&empty(&query, code))];
        let answer = || zone.answer(&query, transport);
        let messages = match zone.behaviour(&name, kind) {
            Behaviour::Drop => return None,
            Behaviour::DropFirst(n) if before < n => return None,
            Behaviour::ServFailFirst(n) if before < n => code(ResponseCode::ServFail),
            Behaviour::RefusedFirst(n) if before < n => code(ResponseCode::Refused),
            Behaviour::NxDomain => code(ResponseCode::NXDomain),
            Behaviour::ServFail => code(ResponseCode::ServFail),
            Behaviour::Refused => code(ResponseCode::Refused),
            Behaviour::FormErrOnEdns if query.edns.is_some() => code(ResponseCode::FormErr),
            Behaviour::Truncate if transport == Transport::Udp => {
                vec![encode(&empty(&query, ResponseCode::NoError).truncate())]
            }
            Behaviour::Garbage => vec![[&octets[..2], &[0xff; 30]].concat()],
            Behaviour::WrongIdFirst => {
                let mut forged = forged(&query);
                forged.metadata.id ^= 1;
                vec![encode(&forged), answer()]
            }
            Behaviour::WrongQuestionFirst => {
                let mut forged = forged(&query);
                forged.queries[0].set_name(Name::from_ascii("nobody.asked.").unwrap());
                vec![encode(&forged), answer()]
            }
            Behaviour::DelayMs(ms) => {
                delay += Duration::from_millis(ms);
                vec![answer()]
            }
            Behaviour::Stuffed => vec![stuffed(&answer())],
            Behaviour::Answer
            | Behaviour::DropFirst(_)
            | Behaviour::ServFailFirst(_)
            | Behaviour::RefusedFirst(_)
            | Behaviour::FormErrOnEdns
            | Behaviour::Truncate => vec![answer()],
        };
        Some(Reply { messages, delay })
    }
}

impl ZoneSpec {
    fn behaviour(&self, name: &str, kind: RecordType) -> Behaviour {
        if self.everything != Behaviour::Answer {
            return self.everything;
        }
        match (self.names.get(name), kind) {
            (Some(entry), RecordType::A) => entry.on_a,
            (Some(entry), RecordType::AAAA) => entry.on_aaaa,
            _ => Behaviour::Answer,
        }
    }

    /// The answer from the zone, cut where UDP demands it.
    fn answer(&self, query: &Message, transport: Transport) -> Vec<u8> {
        let mut response = empty(query, ResponseCode::NoError);
        let question = &query.queries[0];
        let mut owner = question.name().clone();
        let mut seen = Vec::new();
        let code = loop {
            let Some(entry) = self.names.get(&key(&owner)) else {
                break ResponseCode::NXDomain;
            };
            let ttl = entry.ttl.unwrap_or(60);
            let record = |owner: &Name, data| Record::from_rdata(owner.clone(), ttl, data);
            if let Some(target) = &entry.cname {
                let target = Name::from_ascii(format!("{target}.")).expect("a valid CNAME");
                response.add_answer(record(&owner, RData::CNAME(CNAME(target.clone()))));
                seen.push(owner);
                if self.bare_cname || seen.contains(&target) {
                    break ResponseCode::NoError;
                }
                owner = target;
                continue;
            }
            match question.query_type() {
                RecordType::A => response.add_answers(
                    entry
                        .a
                        .iter()
                        .map(|&address| record(&owner, RData::A(A(address)))),
                ),
                RecordType::AAAA => response.add_answers(
                    entry
                        .aaaa
                        .iter()
                        .map(|&address| record(&owner, RData::AAAA(AAAA(address)))),
                ),
                kind => {
                    let others = entry.other.iter();
                    let others = others.filter(|(code, _)| *code == u16::from(kind));
                    response.add_answers(others.map(|(_, data)| {
                        let rdata = NULL::with(data.clone());
                        record(&owner, RData::Unknown { code: kind, rdata })
                    }))
                }
            };
            break ResponseCode::NoError;
        };
        response.metadata.response_code = code;
        // RFC 2308: the SOA marks an answer as final, be it NXDOMAIN or NODATA.
        let ends_in_cname =
            matches!(response.answers.last(), Some(r) if r.record_type() == RecordType::CNAME);
        if response.answers.is_empty() || (ends_in_cname && !self.bare_cname) {
            response.add_authority(soa());
        }
        let octets = encode(&response);
        if transport == Transport::Udp && octets.len() > usize::from(query.max_payload()) {
            return encode(&response.truncate());
        }
        octets
    }
}

/// A name as the zone and the log write it.
fn key(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), 60, data)
}

fn soa() -> Record {
    let root = Name::root();
    let data = SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, 60);
    record(&root, RData::SOA(data))
}

fn empty(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(query.id, query.op_code);
    response.metadata.recursion_desired = query.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() && code != ResponseCode::FormErr {
        response.set_edns(Edns::new());
    }
    response
}

fn forged(query: &Message) -> Message {
    let mut response = empty(query, ResponseCode::NoError);
    response.add_answer(record(query.queries[0].name(), RData::A(A(FORGED))));
    response
}

fn stuffed(answer: &[u8]) -> Vec<u8> {
    let mut response = Message::from_vec(answer).expect("a message of our own");
    let forged = RData::A(A(FORGED));
    let owner = response.queries[0].name().clone();
    let elsewhere = Name::from_ascii("elsewhere.example.").unwrap();
    let rdata = NULL::with(FORGED.octets().repeat(8));
    let code = RecordType::RRSIG;
    response.add_answer(record(&owner, RData::Unknown { code, rdata }));
    response.add_answer(record(&elsewhere, forged.clone()));
    response.add_authority(record(&elsewhere, forged.clone()));
    response.add_additional(record(&elsewhere, forged));
    encode(&response)
}

fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message of our own")
}
