//! The DNS proxy on real sockets of loopback, in front of a real DNS server: what clients get, and,
//! from the server's log, what was asked upstream.
//!
//! The list behind it is a script ([`List`]) that notes what was to be put into the sets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket as StdUdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use egress_init::{
    allowlist::Name,
    proxy::{Gate, Limits, Listeners, NotAdmitted, Proxy, Verdict},
    resolve::{
        Resolved, Unresolved,
        nameservers::{ResolvConf, Upstreams},
    },
};
use futures_util::future::join_all;
use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name as DnsName, RData, RecordType,
        rdata::{
            A, HTTPS, SVCB,
            opt::EdnsOption,
            svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue},
        },
    },
    serialize::binary::BinEncodable as _,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use support::dns::{Behaviour, DnsServer, FORGED, Transport, ZoneSpec, closed_port};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(180);

/// What the list allows and the sets take.
#[derive(Default)]
struct List {
    exact: Vec<&'static str>,
    /// With the dot before them.
    wildcards: Vec<&'static str>,
    search: Vec<&'static str>,
    /// The sets do not take these.
    inadmissible: Vec<IpAddr>,
    /// What /etc/hosts has.
    known: Vec<(&'static str, Vec<IpAddr>)>,
    /// The kernel takes nothing.
    broken: bool,
    admitted: Vec<(String, Vec<IpAddr>, Duration)>,
    names: BTreeMap<IpAddr, Name>,
}

impl List {
    fn exact(names: &[&'static str]) -> Self {
        Self {
            exact: names.to_vec(),
            ..Self::default()
        }
    }

    fn wildcard(zone: &'static str) -> Self {
        Self {
            wildcards: vec![zone],
            ..Self::default()
        }
    }

    fn admitted_addresses(&self) -> Vec<(String, Vec<IpAddr>)> {
        let admitted = self.admitted.iter();
        admitted
            .map(|(name, addresses, _)| (name.clone(), addresses.clone()))
            .collect()
    }
}

impl Gate for List {
    fn verdict(&self, name: &Name) -> Verdict {
        let name = name.as_str();
        let below = |zone: &&str| name.strip_suffix(*zone).map(str::len);
        if self.exact.contains(&name) {
            Verdict::Allowed { wildcard: None }
        } else if let Some(length) = self.wildcards.iter().find_map(below) {
            Verdict::Allowed {
                wildcard: Some(length),
            }
        } else if self.search.iter().any(|zone| below(zone).is_some()) {
            Verdict::BlockedBelowSearch
        } else {
            Verdict::Blocked
        }
    }

    fn admit(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        ttl: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted> {
        if self.broken {
            return Err(NotAdmitted);
        }
        let out = |address: &&IpAddr| !self.inadmissible.contains(address);
        let taken: Vec<_> = addresses.iter().filter(out).copied().collect();
        self.names
            .extend(taken.iter().map(|address| (*address, name.clone())));
        self.admitted.push((name.to_string(), taken.clone(), ttl));
        Ok(taken)
    }

    fn known(&self, name: &Name) -> Option<&[IpAddr]> {
        let known = self.known.iter().find(|(known, _)| *known == name.as_str());
        known.map(|(_, addresses)| addresses.as_slice())
    }

    fn name_of(&self, address: IpAddr) -> Option<Name> {
        self.names.get(&address).cloned()
    }
}

/// What stands around the proxy.
struct Setup {
    zone: ZoneSpec,
    list: List,
    limits: Limits,
    deadline: Duration,
    /// Asked before the server of `zone`.
    first: Vec<SocketAddr>,
}

impl Setup {
    fn new(zone: ZoneSpec, list: List) -> Self {
        Self {
            zone,
            list,
            limits: Limits::default(),
            deadline: Duration::from_secs(5),
            first: Vec::new(),
        }
    }

    fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn first(mut self, servers: &[SocketAddr]) -> Self {
        self.first = servers.to_vec();
        self
    }

    /// Runs the test beside the proxy, in one task as in the keeper.
    fn run(self, test: impl AsyncFnOnce(Stage<'_>)) {
        let server = DnsServer::start(self.zone, &["127.0.0.1:0".parse().unwrap()]).unwrap();
        let servers = [&self.first[..], server.addresses()].concat();
        let upstreams = Upstreams::new(ResolvConf::parse(b""), &servers);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let gate = RefCell::new(self.list);
            let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
            let address = listeners.addresses().unwrap()[0];
            let proxy = Proxy::new(listeners, upstreams, self.limits, self.deadline, &gate);
            let stage = Stage {
                server: &server,
                gate: &gate,
                proxy: &proxy,
                address,
            };
            let test = timeout(LONG, test(stage));
            tokio::select! {
                never = proxy.serve() => match never {},
                done = test => done.expect("the test ends in time"),
            }
        });
    }
}

/// What a test sees.
#[derive(Clone, Copy)]
struct Stage<'a> {
    server: &'a DnsServer,
    gate: &'a RefCell<List>,
    proxy: &'a Proxy<'a, List>,
    address: SocketAddr,
}

impl Stage<'_> {
    /// What reached the DNS server: names and types.
    fn asked(&self) -> Vec<(String, String)> {
        let queries = self.server.queries().into_iter();
        queries.map(|query| (query.name, query.kind)).collect()
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&query(name, kind)).await
    }

    /// One query over UDP.
    async fn send(&self, query: &Message) -> Message {
        let response = self.exchange(&query.to_vec().unwrap()).await;
        let response = Message::from_vec(&response.expect("a response")).unwrap();
        assert_eq!(response.id, query.id);
        assert_eq!(response.message_type, MessageType::Response);
        let [asked, told] = [query, &response].map(|message| message.queries[0].name());
        assert!(asked.eq_case(told), "{asked} {told}");
        assert!(!response.authoritative && !response.authentic_data);
        assert!(response.recursion_available);
        response
    }

    /// Octets over UDP; nothing where nothing comes back, not even after a further query.
    async fn exchange(&self, octets: &[u8]) -> Option<Vec<u8>> {
        let socket = self.client().await;
        socket.send(octets).await.unwrap();
        let mut buffer = vec![0; 65535];
        let within = if octets.len() < 12 || octets[2] & 0x80 != 0 || octets.len() > 1232 {
            Duration::from_millis(300)
        } else {
            LONG
        };
        let length = timeout(within, socket.recv(&mut buffer))
            .await
            .ok()?
            .unwrap();
        Some(buffer[..length].to_vec())
    }

    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }

    async fn tcp(&self) -> Tcp {
        Tcp {
            stream: TcpStream::connect(self.address).await.unwrap(),
            input: Vec::new(),
        }
    }
}

/// A client over TCP.
struct Tcp {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Tcp {
    async fn write(&self, mut octets: &[u8]) {
        while !octets.is_empty() {
            self.stream.writable().await.unwrap();
            if let Ok(written) = self.stream.try_write(octets) {
                octets = &octets[written..];
            }
        }
    }

    async fn send(&self, query: &Message) {
        self.write(&framed(query)).await;
    }

    /// The next response; nothing where the connection was closed.
    async fn receive(&mut self) -> Option<Message> {
        let mut buffer = vec![0; 65535];
        loop {
            if let Some((length, rest)) = self.input.split_first_chunk()
                && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length)))
            {
                let message = Message::from_vec(message).unwrap();
                let length = 2 + usize::from(u16::from_be_bytes(*length));
                self.input.drain(..length);
                return Some(message);
            }
            self.stream.readable().await.unwrap();
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

fn framed(query: &Message) -> Vec<u8> {
    let octets = query.to_vec().unwrap();
    let length = u16::try_from(octets.len()).unwrap();
    [&length.to_be_bytes()[..], &octets].concat()
}

/// A query as most resolvers send it.
fn query(name: &str, kind: RecordType) -> Message {
    static ID: AtomicU64 = AtomicU64::new(1);
    let id = u16::try_from(ID.fetch_add(1, Ordering::Relaxed) & 0xffff).unwrap();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    let name = DnsName::from_ascii(format!("{name}.")).unwrap();
    message.add_query(Query::query(name, kind));
    message.metadata.recursion_desired = true;
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// The extended error of RFC 8914.
fn extended(message: &Message) -> Option<u16> {
    match message.edns.as_ref()?.option(15.into())? {
        EdnsOption::Unknown(15, data) => Some(u16::from_be_bytes(*data.first_chunk()?)),
        _ => None,
    }
}

fn addresses(message: &Message) -> Vec<String> {
    let addresses = message
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr());
    addresses.map(|address| address.to_string()).collect()
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter()
        .map(|address| address.parse().unwrap())
        .collect()
}

fn asked(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()))
        .collect()
}

const NAME: &str = "api.example.org";

fn zone() -> ZoneSpec {
    ZoneSpec::new().addresses(NAME, &["192.0.2.1", "192.0.2.2", "2001:db8::1"])
}

fn setup() -> Setup {
    Setup::new(zone(), List::exact(&[NAME]))
}

#[test]
fn a_listed_name_is_asked_for_once_and_its_addresses_are_taken_first() {
    setup().run(async |stage| {
        for _ in 0..3 {
            let response = stage.ask("Api.Example.ORG", RecordType::A).await;
            assert_eq!(response.response_code, ResponseCode::NoError);
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
            assert!((58..=60).contains(&response.answers[0].ttl));
        }
        let response = stage.ask(NAME, RecordType::AAAA).await;
        assert_eq!(addresses(&response), ["2001:db8::1"]);
        assert_eq!(stage.asked(), asked(&[(NAME, "A"), (NAME, "AAAA")]));
        // Once for each answer, however often it was given out.
        let admitted = stage.gate.borrow().admitted.clone();
        let minute = Duration::from_secs(60);
        let v4 = (NAME.to_owned(), ips(&["192.0.2.1", "192.0.2.2"]), minute);
        let v6 = (NAME.to_owned(), ips(&["2001:db8::1"]), minute);
        assert_eq!(admitted, [v4, v6]);
        let counters = stage.proxy.counters();
        assert_eq!(
            (counters.queries, counters.cached, counters.looked_up),
            (4, 2, 2)
        );
        assert_eq!(counters.lookups, 2);
    });
}

#[test]
fn flags_and_edns_are_echoed() {
    setup().run(async |stage| {
        for (desired, disabled) in [(true, false), (false, true)] {
            let mut query = query(NAME, RecordType::A);
            query.metadata.recursion_desired = desired;
            query.metadata.checking_disabled = disabled;
            query.metadata.authentic_data = true;
            let response = stage.send(&query).await;
            assert_eq!(response.recursion_desired, desired);
            assert_eq!(response.checking_disabled, disabled);
            assert_eq!(response.edns.unwrap().max_payload(), 1232);
        }
        let mut query = query(NAME, RecordType::A);
        query.edns = None;
        assert_eq!(stage.send(&query).await.edns, None);
    });
}

#[test]
fn a_ttl_is_counted_down_and_then_the_name_is_asked_for_again() {
    Setup::new(zone().ttl(NAME, 3), List::exact(&[NAME])).run(async |stage| {
        let ttl = async || stage.ask(NAME, RecordType::A).await.answers[0].ttl;
        assert_eq!(ttl().await, 3);
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(ttl().await, 1);
        assert_eq!(stage.asked().len(), 1);
        sleep(Duration::from_millis(1700)).await;
        assert_eq!(ttl().await, 3);
        assert_eq!(stage.asked().len(), 2);
    });
}

#[test]
fn a_ttl_is_bounded() {
    let list = List::exact(&[NAME, "absent.example"]);
    Setup::new(zone().ttl(NAME, u32::MAX / 2), list)
        .limits(|limits| {
            limits.longest = Duration::from_secs(100);
            limits.longest_absence = Duration::from_secs(10);
        })
        .run(async |stage| {
            assert_eq!(stage.ask(NAME, RecordType::A).await.answers[0].ttl, 100);
            let response = stage.ask("absent.example", RecordType::A).await;
            assert_eq!(response.authorities[0].ttl, 10);
        });
}

/// A tunnel needs one octet that arrives.
#[test]
fn of_a_name_that_is_not_listed_nothing_goes_upstream() {
    let mut list = List::exact(&[NAME]);
    list.wildcards = vec![".wild.example"];
    Setup::new(zone(), list).run(async |stage| {
        let label = "x".repeat(63);
        let long = format!("{label}.{label}.{label}.evil.example");
        let types = [
            RecordType::A,
            RecordType::TXT,
            RecordType::MX,
            RecordType::HTTPS,
            RecordType::PTR,
            RecordType::ANY,
            URI,
        ];
        let names = [
            "evil.example",
            &long,
            "xapi.example.org",
            "data.api.example.org",
            "example.org",
            "wild.example",
            "xwild.example",
            "4.3.2.1.in-addr.arpa",
            "a.b.c.d.ip6.arpa",
        ];
        for name in names {
            for kind in types {
                let start = Instant::now();
                let response = stage.ask(name, kind).await;
                assert_eq!(response.response_code, ResponseCode::Refused, "{name}");
                assert_eq!(extended(&response), Some(15));
                assert!(response.answers.is_empty() && response.authorities.is_empty());
                assert!(start.elapsed() < Duration::from_secs(1));
            }
        }
        // Labels that look like more than one.
        let odd: [&[&[u8]]; 4] = [
            &[b"evil.api.example.org"],
            &[b"api.example", b"org"],
            &[b"a.b", b"wild", b"example"],
            &[b"a\0b", b"wild", b"example"],
        ];
        for labels in odd {
            let mut query = query("x", RecordType::A);
            let name = DnsName::from_labels(labels.iter().copied()).unwrap();
            query.queries[0].set_name(name);
            let response = stage.send(&query).await;
            assert_eq!(response.response_code, ResponseCode::Refused);
        }
        let root = DnsName::root();
        let mut query = query("x", RecordType::NS);
        query.queries[0].set_name(root);
        assert_eq!(
            stage.send(&query).await.response_code,
            ResponseCode::Refused
        );
        assert_eq!(stage.asked(), []);
        assert_eq!(stage.gate.borrow().admitted, []);
        assert_eq!(stage.proxy.counters().blocked, 9 * 7 + 5);
        // And over TCP; then the way that is open.
        let mut tcp = stage.tcp().await;
        tcp.send(&self::query(&long, RecordType::A)).await;
        let response = tcp.receive().await.unwrap();
        assert_eq!(response.response_code, ResponseCode::Refused);
        assert_eq!(stage.asked(), []);
        stage.ask(NAME, RecordType::A).await;
        assert_eq!(stage.asked(), asked(&[(NAME, "A")]));
    });
}

#[test]
fn below_a_search_domain_a_name_does_not_exist() {
    let mut list = List::exact(&[NAME]);
    list.search = vec![".svc.local"];
    Setup::new(zone(), list).run(async |stage| {
        let response = stage.ask("api.example.org.svc.local", RecordType::A).await;
        assert_eq!(response.response_code, ResponseCode::NXDomain);
        assert_eq!(extended(&response), Some(15));
        assert_eq!(stage.asked(), []);
    });
}

#[test]
fn what_is_answered_without_asking_anybody() {
    setup().run(async |stage| {
        for name in ["localhost", "LOCALHOST", "a.b.localhost"] {
            assert_eq!(
                addresses(&stage.ask(name, RecordType::A).await),
                ["127.0.0.1"]
            );
            assert_eq!(addresses(&stage.ask(name, RecordType::AAAA).await), ["::1"]);
            let response = stage.ask(name, RecordType::MX).await;
            assert_eq!(response.response_code, ResponseCode::NoError);
            assert!(response.answers.is_empty());
        }
        let pointer = async |name: &str| {
            let response = stage.ask(name, RecordType::PTR).await;
            match response.answers.first().map(|record| record.data.clone()) {
                Some(RData::PTR(target)) => Ok(target.0.to_ascii()),
                _ => Err((response.response_code, extended(&response))),
            }
        };
        let nobody = Err((ResponseCode::Refused, Some(15)));
        assert_eq!(
            pointer("1.0.0.127.in-addr.arpa").await,
            Ok("localhost.".to_owned())
        );
        assert_eq!(pointer("1.2.0.192.in-addr.arpa").await, nobody);
        assert_eq!(stage.asked(), []);
        stage.ask(NAME, RecordType::A).await;
        stage.ask(NAME, RecordType::AAAA).await;
        assert_eq!(
            pointer("1.2.0.192.in-addr.arpa").await,
            Ok(format!("{NAME}."))
        );
        assert_eq!(pointer("2.0.192.in-addr.arpa").await, nobody);
        assert_eq!(pointer("x.1.2.0.192.in-addr.arpa").await, nobody);
        let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(pointer(&v6).await, Ok(format!("{NAME}.")));
        assert_eq!(stage.asked().len(), 2);
    });
}

#[test]
fn types_and_classes_that_are_not_served() {
    setup().run(async |stage| {
        for number in [
            252, 251, 253, 254, 249, 250, 41, 46, 24, 0, 10, 99, 300, 65_399,
        ] {
            let response = stage.ask(NAME, RecordType::from(number)).await;
            assert_eq!(response.response_code, ResponseCode::Refused, "{number}");
            assert_eq!(extended(&response), Some(21));
        }
        let mut query = query(NAME, RecordType::TXT);
        query.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(
            stage.send(&query).await.response_code,
            ResponseCode::Refused
        );
        let response = stage.ask(NAME, RecordType::ANY).await;
        let RData::HINFO(hinfo) = &response.answers[0].data else {
            panic!("{response}");
        };
        assert_eq!(&*hinfo.cpu, b"RFC8482");
        assert_eq!(stage.asked(), []);
    });
}

/// RFC 7553, which the library has no name for.
const URI: RecordType = RecordType::Unknown(256);

#[test]
fn other_types_of_listed_names() {
    let zone = zone()
        .record(NAME, RecordType::TXT, b"\x05hello")
        .record(NAME, RecordType::MX, b"\0\x0a\x04mail\x07example\0")
        .record(NAME, URI, b"\0\x0a\0\x01https://example.org/");
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let kinds = [RecordType::TXT, RecordType::MX, URI];
        for kind in kinds {
            let response = stage.ask(NAME, kind).await;
            assert_eq!(response.answers.len(), 1);
            assert_eq!(response.answers[0].record_type(), kind);
        }
        assert_eq!(stage.asked().len(), 3);
        assert_eq!(stage.gate.borrow().admitted, []);
    });
}

#[test]
fn only_what_the_sets_have_taken_is_given_out() {
    let mut list = List::exact(&[NAME]);
    list.inadmissible = ips(&["192.0.2.2", "2001:db8::1"]);
    Setup::new(zone(), list).run(async |stage| {
        for _ in 0..2 {
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(addresses(&response), ["192.0.2.1"]);
            assert_eq!(extended(&response), None);
            let response = stage.ask(NAME, RecordType::AAAA).await;
            assert_eq!(response.response_code, ResponseCode::NoError);
            assert!(response.answers.is_empty());
            assert_eq!(extended(&response), Some(17));
        }
        assert_eq!(stage.asked().len(), 2);
    });
    let mut list = List::exact(&[NAME]);
    list.broken = true;
    Setup::new(zone(), list).run(async |stage| {
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(response.response_code, ResponseCode::ServFail);
        assert!(response.answers.is_empty());
        // As soon as it takes them again, without asking again.
        stage.gate.borrow_mut().broken = false;
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(stage.asked().len(), 1);
    });
}

#[test]
fn an_alias_brings_its_target_in_under_the_name_asked_for() {
    for bare in [false, true] {
        let mut zone = zone()
            .cname("www.example.org", "cdn.example.net")
            .cname("cdn.example.net", NAME)
            .ttl("cdn.example.net", 7);
        zone.bare_cname = bare;
        Setup::new(zone, List::exact(&["www.example.org"])).run(async |stage| {
            let response = stage.ask("www.example.org", RecordType::A).await;
            assert_eq!(response.answers.len(), 4);
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
            assert!(response.answers.iter().all(|record| record.ttl == 7));
            let expected = (
                "www.example.org".to_owned(),
                ips(&["192.0.2.1", "192.0.2.2"]),
            );
            assert_eq!(stage.gate.borrow().admitted_addresses(), [expected]);
            // The target itself is no name of the list.
            let response = stage.ask("cdn.example.net", RecordType::A).await;
            assert_eq!(response.response_code, ResponseCode::Refused);
        });
    }
}

#[test]
fn records_that_nobody_asked_for_are_left_out() {
    let zone = zone().on(NAME, Behaviour::Stuffed);
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let mut query = query(NAME, RecordType::A);
        query.edns.as_mut().unwrap().set_dnssec_ok(true);
        let response = stage.send(&query).await;
        assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(response.answers.len(), 2);
        assert!(response.authorities.is_empty() && response.additionals.is_empty());
        let admitted = stage.gate.borrow().admitted_addresses();
        assert!(!admitted[0].1.contains(&IpAddr::from(FORGED)));
    });
}

#[test]
fn service_bindings_are_filtered() {
    let hint = |list: &[[u8; 4]]| {
        let hint = list.iter().map(|&address| A(address.into())).collect();
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(hint)))
    };
    let alpn = || {
        let alpn = Alpn(vec!["h2".to_owned()]);
        (SvcParamKey::Alpn, SvcParamValue::Alpn(alpn))
    };
    let ech = EchConfigList(vec![0, 4, 1, 2, 3, 4]);
    let ech = (
        SvcParamKey::EchConfigList,
        SvcParamValue::EchConfigList(ech),
    );
    let data = |target: &str, params| {
        let binding = SVCB::new(1, DnsName::from_ascii(target).unwrap(), params);
        HTTPS(binding).to_bytes().unwrap()
    };
    let own = data(
        ".",
        vec![alpn(), hint(&[[192, 0, 2, 1], [192, 0, 2, 9]]), ech],
    );
    let other = data("elsewhere.example.", vec![alpn(), hint(&[[192, 0, 2, 8]])]);
    let zone = zone()
        .record(NAME, RecordType::HTTPS, &own)
        .record(NAME, RecordType::HTTPS, &other)
        .record("alone.example", RecordType::HTTPS, &other);
    let mut list = List::exact(&[NAME, "alone.example"]);
    list.inadmissible = ips(&["192.0.2.9"]);
    Setup::new(zone, list).run(async |stage| {
        let response = stage.ask(NAME, RecordType::HTTPS).await;
        let [only] = &response.answers[..] else {
            panic!("{response}");
        };
        let RData::HTTPS(binding) = &only.data else {
            panic!("{response}");
        };
        assert_eq!(binding.0.svc_params, [alpn(), hint(&[[192, 0, 2, 1]])]);
        let response = stage.ask("alone.example", RecordType::HTTPS).await;
        assert_eq!(response.response_code, ResponseCode::NoError);
        assert!(response.answers.is_empty());
        assert_eq!(extended(&response), Some(17));
    });
}

#[test]
fn many_clients_and_one_query_upstream() {
    let zone = zone().delay(Duration::from_millis(300));
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let names = ["api.example.org", "API.example.org", "aPi.eXample.Org"];
        let clients = (0..60).map(|i| stage.ask(names[i % 3], RecordType::A));
        for response in join_all(clients).await {
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
        }
        assert_eq!(stage.asked(), asked(&[(NAME, "A")]));
        assert_eq!(stage.proxy.counters().looked_up, 60);
    });
}

#[test]
fn a_client_that_asks_again_gets_one_answer() {
    let zone = zone().delay(Duration::from_millis(300));
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let socket = stage.client().await;
        let octets = query(NAME, RecordType::A).to_vec().unwrap();
        for _ in 0..3 {
            socket.send(&octets).await.unwrap();
        }
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).await.unwrap();
        let more = timeout(Duration::from_millis(300), socket.recv(&mut buffer)).await;
        assert!(more.is_err());
        assert_eq!(stage.asked().len(), 1);
    });
}

/// A loop that selects may drop it and call it again.
#[test]
fn serving_can_be_broken_off_and_taken_up_again() {
    let server = DnsServer::start(
        zone().delay(Duration::from_millis(300)),
        &["127.0.0.1:0".parse().unwrap()],
    );
    let server = server.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let gate = RefCell::new(List::exact(&[NAME]));
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listeners.addresses().unwrap()[0];
        let upstreams = Upstreams::new(ResolvConf::parse(b""), server.addresses());
        let proxy = Proxy::new(listeners, upstreams, Limits::default(), LONG, &gate);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let octets = query(NAME, RecordType::A).to_vec().unwrap();
        client.send_to(&octets, address).await.unwrap();
        let mut buffer = [0; 512];
        // Long enough for the query to go out, not for its answer.
        let early = timeout(Duration::from_millis(100), proxy.serve()).await;
        assert!(early.is_err());
        assert_eq!(server.queries().len(), 1);
        let length = tokio::select! {
            never = proxy.serve() => match never {},
            length = timeout(LONG, client.recv(&mut buffer)) => length.unwrap().unwrap(),
        };
        let response = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
    });
}

#[test]
fn the_next_server_where_the_first_is_dead_slow_or_failing() {
    for behaviour in [Behaviour::Drop, Behaviour::ServFail, Behaviour::Garbage] {
        let bad = ZoneSpec::new().everything(behaviour);
        let bad = DnsServer::start(bad, &["127.0.0.1:0".parse().unwrap()]).unwrap();
        setup().first(bad.addresses()).run(async |stage| {
            let start = Instant::now();
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
            assert!(start.elapsed() < Duration::from_secs(3));
            assert!(!bad.queries().is_empty());
            // The one that was silent is not asked first again.
            let asked = bad.queries().len();
            stage.ask(NAME, RecordType::AAAA).await;
            if behaviour == Behaviour::Drop {
                assert_eq!(bad.queries().len(), asked);
            }
        });
    }
}

#[test]
fn each_query_upstream_has_a_socket_of_its_own() {
    let mut zone = ZoneSpec::new();
    for i in 0..20 {
        zone = zone.addresses(&format!("n{i}.wild.example"), &["192.0.2.1"]);
    }
    let list = List::wildcard(".wild.example");
    Setup::new(zone, list).run(async |stage| {
        for i in 0..20 {
            stage
                .ask(&format!("n{i}.wild.example"), RecordType::A)
                .await;
        }
        let queries = stage.server.queries();
        let mut ports: Vec<_> = queries.iter().map(|query| query.source.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() >= 18, "{ports:?}");
    });
}

#[test]
fn answers_too_long_for_udp_go_over_tcp_both_ways() {
    let list: Vec<_> = (0..200).map(|i| format!("192.0.2.{i}")).collect();
    let list: Vec<_> = list.iter().map(String::as_str).collect();
    let zone = ZoneSpec::new().addresses(NAME, &list);
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        for _ in 0..2 {
            let response = stage.ask(NAME, RecordType::A).await;
            assert!(response.truncation && response.answers.is_empty());
            let mut tcp = stage.tcp().await;
            tcp.send(&query(NAME, RecordType::A)).await;
            let response = tcp.receive().await.unwrap();
            assert!(!response.truncation);
            assert_eq!(response.answers.len(), 200);
        }
        let over_tcp = stage.server.queries().into_iter();
        let over_tcp = over_tcp.filter(|q| q.transport == Transport::Tcp && q.kind == "A");
        assert_eq!(over_tcp.count(), 1);
    });
}

/// What fits into 1,232 octets is cut where a client takes 512.
#[test]
fn the_clients_payload_counts() {
    let list: Vec<_> = (0..40).map(|i| format!("192.0.2.{i}")).collect();
    let list: Vec<_> = list.iter().map(String::as_str).collect();
    let zone = ZoneSpec::new().addresses(NAME, &list);
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        assert_eq!(stage.ask(NAME, RecordType::A).await.answers.len(), 40);
        let mut small = query(NAME, RecordType::A);
        small.edns = None;
        assert!(stage.send(&small).await.truncation);
        small.set_edns(Edns::new());
        assert!(stage.send(&small).await.truncation);
    });
}

#[test]
fn many_queries_on_one_connection_in_any_order() {
    let slow = zone().on(NAME, Behaviour::DelayMs(400));
    let zone = slow.addresses("fast.example", &["192.0.2.7"]);
    let list = List::exact(&[NAME, "fast.example"]);
    Setup::new(zone, list).run(async |stage| {
        let mut tcp = stage.tcp().await;
        let first = query(NAME, RecordType::A);
        let second = query("fast.example", RecordType::A);
        let third = query("evil.example", RecordType::A);
        let all = [framed(&first), framed(&second), framed(&third)].concat();
        // In pieces, as a network may deliver them.
        let (some, rest) = all.split_at(all.len() / 2 + 1);
        tcp.write(&some[..1]).await;
        sleep(Duration::from_millis(50)).await;
        tcp.write(&some[1..]).await;
        tcp.write(rest).await;
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(tcp.receive().await.unwrap().id);
        }
        assert_eq!(order, [third.id, second.id, first.id]);
        // From the cache, as many as fit into the pipe.
        let many = framed(&second).repeat(500);
        tcp.write(&many).await;
        for _ in 0..500 {
            assert_eq!(addresses(&tcp.receive().await.unwrap()), ["192.0.2.7"]);
        }
        assert_eq!(stage.proxy.counters().over_tcp, 503);
    });
}

#[test]
fn a_client_that_has_closed_its_side_still_gets_its_answer() {
    let zone = zone().delay(Duration::from_millis(300));
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let mut tcp = stage.tcp().await;
        tcp.send(&query(NAME, RecordType::A)).await;
        let stream = tcp.stream.into_std().unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        tcp.stream = TcpStream::from_std(stream).unwrap();
        assert!(tcp.receive().await.is_some());
        assert!(tcp.receive().await.is_none());
    });
}

#[test]
fn connections_are_bounded_in_time_number_and_length() {
    setup()
        .limits(|limits| {
            limits.tcp_clients = 2;
            limits.tcp_idle = Duration::from_millis(500);
        })
        .run(async |stage| {
            // Half a query, and never the rest.
            let mut idle = [stage.tcp().await, stage.tcp().await];
            idle[0].write(&[0, 40, 1, 2]).await;
            let mut third = stage.tcp().await;
            third.send(&query(NAME, RecordType::A)).await;
            let start = Instant::now();
            assert!(third.receive().await.is_some());
            assert!(start.elapsed() >= Duration::from_millis(300));
            for client in &mut idle {
                assert!(client.receive().await.is_none());
            }
            for octets in [&[0xff, 0xff, 1, 2][..], &[0, 0], &[0, 3, 1, 2, 3]] {
                let mut tcp = stage.tcp().await;
                tcp.write(octets).await;
                assert!(tcp.receive().await.is_none(), "{octets:?}");
            }
            let counters = stage.proxy.counters();
            assert_eq!((counters.oversized, counters.malformed), (1, 2));
        });
}

#[test]
fn absences_are_kept_as_long_as_their_soa_says() {
    let zone = ZoneSpec::new().addresses(NAME, &["192.0.2.1"]);
    let list = List::exact(&[NAME, "absent.example"]);
    Setup::new(zone, list).run(async |stage| {
        for _ in 0..3 {
            let response = stage.ask("absent.example", RecordType::A).await;
            assert_eq!(response.response_code, ResponseCode::NXDomain);
            assert_eq!(extended(&response), None);
            let response = stage.ask(NAME, RecordType::AAAA).await;
            assert_eq!(response.response_code, ResponseCode::NoError);
            assert!(response.answers.is_empty());
            assert_eq!(response.authorities.len(), 1);
            assert_eq!(response.authorities[0].record_type(), RecordType::SOA);
        }
        assert_eq!(
            stage.asked(),
            asked(&[("absent.example", "A"), (NAME, "AAAA")])
        );
        assert_eq!(stage.gate.borrow().admitted, []);
    });
}

#[test]
fn a_lying_upstream_is_ignored_and_counted() {
    for behaviour in [Behaviour::WrongIdFirst, Behaviour::WrongQuestionFirst] {
        let zone = zone().on(NAME, behaviour);
        Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
            assert_eq!(stage.proxy.counters().ignored, 1);
            let admitted = stage.gate.borrow().admitted_addresses();
            assert!(!admitted[0].1.contains(&IpAddr::from(FORGED)));
        });
    }
    let zone = zone().on(NAME, Behaviour::Garbage);
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(response.response_code, ResponseCode::ServFail);
        assert_eq!(extended(&response), Some(24));
        assert!(stage.proxy.counters().ignored >= 1);
    });
    let zone = ZoneSpec::new()
        .cname(NAME, "b.example")
        .cname("b.example", NAME);
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(response.response_code, ResponseCode::ServFail);
        assert_eq!(extended(&response), Some(24));
    });
}

/// A server that answers with a datagram that announces more than it has, and one that is longer
/// than any buffer.
#[test]
fn impossible_answers() {
    for octets in [
        vec![0xff; 60_000],
        vec![0x80, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
    ] {
        let liar = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        let address = liar.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, client)) = liar.recv_from(&mut buffer) {
                let _ = liar.send_to(&[&buffer[..2], &octets].concat(), client);
            }
        });
        setup().first(&[address]).run(async |stage| {
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
            assert_eq!(stage.proxy.counters().ignored, 1);
        });
    }
}

#[test]
fn malformed_queries() {
    setup().run(async |stage| {
        let good = query(NAME, RecordType::A).to_vec().unwrap();
        let changed = |at: usize, octets: &[u8]| {
            let mut changed = good.clone();
            changed[at..at + octets.len()].copy_from_slice(octets);
            changed
        };
        for (octets, expected) in [
            (good[..11].to_vec(), None),
            (Vec::new(), None),
            (changed(2, &[0x81]), None),
            (good.iter().copied().chain([0; 1232]).collect(), None),
            (changed(2, &[0x28]), Some(ResponseCode::NotImp)),
            (changed(2, &[0x20]), Some(ResponseCode::NotImp)),
            (changed(4, &[0, 0]), Some(ResponseCode::FormErr)),
            (changed(4, &[0, 2]), Some(ResponseCode::FormErr)),
            (changed(4, &[0xff, 0xff]), Some(ResponseCode::FormErr)),
            (changed(6, &[0, 1]), Some(ResponseCode::FormErr)),
            (changed(10, &[0xff, 0xff]), Some(ResponseCode::FormErr)),
            (good[..20].to_vec(), Some(ResponseCode::FormErr)),
            // A pointer to itself.
            (changed(12, &[0xc0, 12]), Some(ResponseCode::FormErr)),
            // A label that ends beyond the message.
            (changed(12, &[63]), Some(ResponseCode::FormErr)),
        ] {
            let response = stage.exchange(&octets).await;
            let Some(code) = expected else {
                assert_eq!(response, None, "{octets:x?}");
                continue;
            };
            let response = response.expect("a response");
            assert_eq!(response[..2], octets[..2]);
            let response = Message::from_vec(&response).unwrap();
            assert_eq!(response.response_code, code, "{octets:x?}");
            assert!(response.answers.is_empty());
        }
        let mut later = query(NAME, RecordType::A);
        later.edns.as_mut().unwrap().set_version(3);
        let response = stage.send(&later).await;
        // 16 is BADVERS here and BADSIG in a signature; the codec knows it as the latter.
        assert_eq!(u16::from(response.response_code), 16);
        assert_eq!(response.edns.unwrap().version(), 0);
        assert_eq!(stage.asked(), []);
        let counters = stage.proxy.counters();
        assert_eq!(counters.queries, 15);
        assert_eq!(counters.malformed, 3 + 8);
        assert_eq!(counters.oversized, 1);
        assert_eq!(counters.unsupported, 3);
    });
}

#[test]
fn a_dead_upstream_is_bounded_by_the_deadline() {
    let zone = zone().everything(Behaviour::Drop);
    Setup::new(zone, List::exact(&[NAME]))
        .deadline(Duration::from_secs(1))
        .run(async |stage| {
            let start = Instant::now();
            let clients = (0..10).map(|_| stage.ask(NAME, RecordType::A));
            for response in join_all(clients).await {
                assert_eq!(response.response_code, ResponseCode::ServFail);
                assert_eq!(extended(&response), Some(22));
            }
            assert!(start.elapsed() < Duration::from_secs(3));
            // Remembered for a moment.
            let asked = stage.asked().len();
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(response.response_code, ResponseCode::ServFail);
            assert_eq!(stage.asked().len(), asked);
            assert_eq!(stage.proxy.counters().failed, 11);
            // And tried again.
            stage.server.change(self::zone());
            sleep(Duration::from_millis(1100)).await;
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
        });
}

#[test]
fn a_closed_port_is_an_error_of_the_network() {
    let closed = closed_port();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let gate = RefCell::new(List::exact(&[NAME]));
        for (servers, code) in [(&[closed][..], 23), (&[], 22)] {
            let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
            let address = listeners.addresses().unwrap()[0];
            let upstreams = Upstreams::new(ResolvConf::parse(b""), servers);
            let limits = Limits::default();
            let proxy = Proxy::new(listeners, upstreams, limits, LONG, &gate);
            let client = async {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let octets = query(NAME, RecordType::A).to_vec().unwrap();
                socket.send_to(&octets, address).await.unwrap();
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer).await.unwrap();
                Message::from_vec(&buffer[..length]).unwrap()
            };
            let response = tokio::select! {
                never = proxy.serve() => match never {},
                response = client => response,
            };
            assert_eq!(response.response_code, ResponseCode::ServFail);
            assert_eq!(extended(&response), Some(code));
        }
    });
}

#[test]
fn an_old_answer_where_there_is_no_new_one() {
    Setup::new(zone().ttl(NAME, 1), List::exact(&[NAME])).run(async |stage| {
        stage.ask(NAME, RecordType::A).await;
        stage.server.change(zone().everything(Behaviour::Drop));
        sleep(Duration::from_millis(1100)).await;
        let start = Instant::now();
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(addresses(&response), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(extended(&response), Some(3));
        assert_eq!(response.answers[0].ttl, 30);
        let patience = start.elapsed();
        assert!((Duration::from_millis(1500)..Duration::from_secs(4)).contains(&patience));
        // Its addresses were put into the sets again.
        assert_eq!(stage.gate.borrow().admitted.len(), 2);
        // From now on at once, and without the kernel.
        let start = Instant::now();
        for _ in 0..5 {
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(extended(&response), Some(3));
        }
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(stage.gate.borrow().admitted.len(), 2);
        assert_eq!(
            stage.proxy.counters().stale + stage.proxy.counters().cached,
            6
        );
        // A refresh that succeeds ends it.
        stage.server.change(zone().ttl(NAME, 100));
        let name: Name = NAME.parse().unwrap();
        stage.proxy.refresh(&name).await.unwrap();
        sleep(Duration::from_millis(1100)).await;
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(extended(&response), None);
        assert!(response.answers[0].ttl > 90);
    });
}

#[test]
fn an_old_answer_is_not_given_out_for_ever() {
    Setup::new(zone().ttl(NAME, 1), List::exact(&[NAME]))
        .limits(|limits| limits.stale = Duration::from_millis(200))
        .deadline(Duration::from_secs(1))
        .run(async |stage| {
            stage.ask(NAME, RecordType::A).await;
            stage.server.change(zone().everything(Behaviour::Drop));
            sleep(Duration::from_millis(1300)).await;
            let response = stage.ask(NAME, RecordType::A).await;
            assert_eq!(response.response_code, ResponseCode::ServFail);
            assert!(response.answers.is_empty());
        });
}

#[test]
fn a_refresh_asks_whatever_is_known_and_keeps_the_answer() {
    Setup::new(zone().ttl(NAME, 50), List::exact(&[NAME])).run(async |stage| {
        stage.ask(NAME, RecordType::A).await;
        let name: Name = NAME.parse().unwrap();
        stage
            .server
            .change(ZoneSpec::new().addresses(NAME, &["192.0.2.7", "2001:db8::7"]));
        let resolved = stage.proxy.refresh(&name).await.unwrap();
        let expected = Resolved {
            addresses: ips(&["192.0.2.7", "2001:db8::7"]),
            ttl: Duration::from_secs(60),
        };
        assert_eq!(resolved, expected);
        assert_eq!(stage.asked().len(), 3);
        // It leaves the sets to the caller; a client's answer makes sure of them.
        assert_eq!(stage.gate.borrow().admitted.len(), 1);
        sleep(Duration::from_millis(1100)).await;
        assert_eq!(
            addresses(&stage.ask(NAME, RecordType::A).await),
            ["192.0.2.7"]
        );
        assert_eq!(
            addresses(&stage.ask(NAME, RecordType::AAAA).await),
            ["2001:db8::7"]
        );
        assert_eq!(stage.asked().len(), 3);
        assert_eq!(stage.gate.borrow().admitted.len(), 3);
        // One that fails leaves what is known.
        stage.server.change(ZoneSpec::new());
        let error = stage.proxy.refresh(&name).await.unwrap_err();
        assert!(matches!(error, Unresolved::NxDomain(_)), "{error}");
    });
}

#[test]
fn after_a_reload_nothing_is_left_of_the_old_list() {
    let zone = zone().addresses("other.example", &["192.0.2.9"]);
    let list = List::exact(&[NAME, "other.example"]);
    Setup::new(zone, list).run(async |stage| {
        for _ in 0..2 {
            stage.ask(NAME, RecordType::A).await;
            stage.ask("other.example", RecordType::A).await;
        }
        assert_eq!(stage.gate.borrow().admitted.len(), 2);
        stage.gate.borrow_mut().exact = vec![NAME];
        stage.gate.borrow_mut().inadmissible = ips(&["192.0.2.2"]);
        stage.proxy.policy_changed();
        let response = stage.ask("other.example", RecordType::A).await;
        assert_eq!(response.response_code, ResponseCode::Refused);
        let response = stage.ask(NAME, RecordType::A).await;
        assert_eq!(addresses(&response), ["192.0.2.1"]);
        assert_eq!(stage.gate.borrow().admitted.len(), 3);
        assert_eq!(stage.asked().len(), 2);
    });
}

#[test]
fn a_name_that_is_revoked_while_it_is_looked_up() {
    let zone = zone().delay(Duration::from_millis(400));
    Setup::new(zone, List::exact(&[NAME])).run(async |stage| {
        let revoke = async {
            sleep(Duration::from_millis(200)).await;
            stage.gate.borrow_mut().exact.clear();
            stage.proxy.policy_changed();
        };
        let (response, ()) = tokio::join!(stage.ask(NAME, RecordType::A), revoke);
        assert_eq!(response.response_code, ResponseCode::Refused);
        assert_eq!(stage.gate.borrow().admitted, []);
        // Perhaps twice: an answer that is late on a busy machine is asked for again.
        let mut all = stage.asked();
        all.dedup();
        assert_eq!(all, asked(&[(NAME, "A")]));
    });
}

#[test]
fn a_wildcard_is_a_narrow_tunnel() {
    let mut zone = zone();
    for i in 0..10 {
        zone = zone.addresses(&format!("n{i}.wild.example"), &["192.0.2.1"]);
    }
    let mut list = List::exact(&[NAME]);
    list.wildcards = vec![".wild.example"];
    Setup::new(zone, list)
        .limits(|limits| {
            limits.wildcard_rate = 1;
            limits.wildcard_burst = 3;
            limits.wildcard_length = 20;
        })
        .run(async |stage| {
            for i in 0..10 {
                let response = stage
                    .ask(&format!("n{i}.wild.example"), RecordType::A)
                    .await;
                let expected = if i < 3 {
                    ResponseCode::NoError
                } else {
                    ResponseCode::Refused
                };
                assert_eq!(response.response_code, expected, "{i}");
            }
            assert_eq!(stage.asked().len(), 3);
            assert_eq!(stage.proxy.counters().limited, 7);
            // What is known costs nothing, and neither do names of the list.
            for i in [0, 1, 2, 0, 1, 2] {
                let response = stage
                    .ask(&format!("n{i}.wild.example"), RecordType::A)
                    .await;
                assert_eq!(addresses(&response), ["192.0.2.1"]);
            }
            assert_eq!(addresses(&stage.ask(NAME, RecordType::A).await).len(), 2);
            sleep(Duration::from_millis(1100)).await;
            let response = stage.ask("n9.wild.example", RecordType::A).await;
            assert_eq!(addresses(&response), ["192.0.2.1"]);
            // However many tokens there are, the name is too long.
            sleep(Duration::from_millis(1100)).await;
            let asked = stage.asked().len();
            for name in [
                "a23456789012345678901.wild.example",
                "a234567890.b2345678901.wild.example",
            ] {
                let response = stage.ask(name, RecordType::A).await;
                assert_eq!(response.response_code, ResponseCode::Refused);
            }
            assert_eq!(stage.asked().len(), asked);
            let response = stage
                .ask("a2345678901234567890.wild.example", RecordType::A)
                .await;
            assert_eq!(response.response_code, ResponseCode::NXDomain);
        });
}

#[test]
fn types_are_a_narrow_tunnel_too() {
    Setup::new(zone(), List::exact(&[NAME]))
        .limits(|limits| {
            limits.wildcard_rate = 1;
            limits.wildcard_burst = 3;
        })
        .run(async |stage| {
            for (index, kind) in [2, 6, 15, 16, 33, 35, 43, 44, 48, 52]
                .into_iter()
                .enumerate()
            {
                let response = stage.ask(NAME, RecordType::from(kind)).await;
                let refused = response.response_code == ResponseCode::Refused;
                assert_eq!(refused, index >= 3, "{kind}");
            }
            assert_eq!(stage.asked().len(), 3);
            assert_eq!(stage.proxy.counters().limited, 7);
            // What a program asks for to connect costs nothing.
            for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
                let response = stage.ask(NAME, kind).await;
                assert_eq!(response.response_code, ResponseCode::NoError, "{kind}");
            }
        });
}

#[test]
fn lookups_and_those_who_wait_are_bounded() {
    let zone = zone().everything(Behaviour::Drop);
    let mut list = List::exact(&[NAME, "second.example"]);
    list.wildcards = vec![".wild.example"];
    Setup::new(zone, list)
        .deadline(Duration::from_secs(2))
        .limits(|limits| {
            limits.lookups = 4;
            limits.waiting = 20;
        })
        .run(async |stage| {
            let ask = async |name: String| stage.ask(&name, RecordType::A).await.response_code;
            // Two lookups for wildcards at most; the third gets no room, at once.
            let wild = join_all((0..2).map(|i| ask(format!("n{i}.wild.example"))));
            let rest = async {
                sleep(Duration::from_millis(100)).await;
                let start = Instant::now();
                assert_eq!(
                    ask("n2.wild.example".to_owned()).await,
                    ResponseCode::ServFail
                );
                assert!(start.elapsed() < Duration::from_secs(1));
                assert_eq!(stage.proxy.counters().overloaded, 1);
                // Names of the list still have theirs.
                join_all((0..30).map(|_| ask(NAME.to_owned()))).await;
                assert_eq!(stage.proxy.counters().overloaded, 1 + 12);
            };
            tokio::join!(wild, rest);
            assert_eq!(stage.proxy.counters().lookups, 3);
            // All of it is free again.
            stage.server.change(self::zone());
            sleep(Duration::from_millis(1100)).await;
            assert_eq!(ask(NAME.to_owned()).await, ResponseCode::NoError);
        });
}

/// In the same task as the proxy, a timer keeps firing and lookups go on.
#[test]
fn a_flood_starves_nothing() {
    let mut zone = zone();
    for i in 0..20 {
        zone = zone.addresses(&format!("n{i}.wild.example"), &["192.0.2.1"]);
    }
    let mut list = List::exact(&[NAME]);
    list.wildcards = vec![".wild.example"];
    Setup::new(zone, list).run(async |stage| {
        stage.ask(NAME, RecordType::A).await;
        let stop = Arc::new(AtomicBool::new(false));
        let address = stage.address;
        let floods = [NAME, "evil.example"].map(|name| {
            let octets = query(name, RecordType::A).to_vec().unwrap();
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
                let mut octets = octets;
                while !stop.load(Ordering::Relaxed) {
                    // No two the same: none is a repetition.
                    octets[20] = octets[20].wrapping_add(1) | 0x80;
                    let _ = socket.send_to(&octets, address);
                }
            })
        });
        let before = stage.proxy.counters().queries;
        let (start, worked) = (Instant::now(), on_processor());
        let over = Cell::new(false);
        let mut worst = Duration::ZERO;
        let timer = async {
            while !over.get() || start.elapsed() < Duration::from_secs(3) {
                // How late a timer is on a busy machine says nothing, what was done before it does.
                let asleep = on_processor();
                sleep(Duration::from_millis(10)).await;
                worst = worst.max(on_processor().saturating_sub(asleep));
            }
        };
        // The flood goes on until they are done.
        let lookups = async {
            for i in 0..20 {
                let name: Name = format!("n{i}.wild.example").parse().unwrap();
                stage.proxy.refresh(&name).await.unwrap();
            }
            over.set(true);
            start.elapsed()
        };
        // A client over TCP is not behind the flood either.
        let client = async {
            let mut tcp = stage.tcp().await;
            tcp.send(&query(NAME, RecordType::AAAA)).await;
            tcp.receive().await.unwrap()
        };
        let ((), lookups, answer) = tokio::join!(timer, lookups, client);
        stop.store(true, Ordering::Relaxed);
        for flood in floods {
            flood.join().unwrap();
        }
        let queries = f64::from(u32::try_from(stage.proxy.counters().queries - before).unwrap());
        let rate = queries / on_processor().saturating_sub(worked).as_secs_f64();
        println!("{rate} queries a second, timer behind {worst:?}, lookups in {lookups:?}");
        assert_eq!(addresses(&answer), ["2001:db8::1"]);
        assert!(worst < Duration::from_millis(500), "{worst:?}");
        assert!(rate > 1000.0, "{rate}");
    });
}

/// The time of a processor that this thread has taken.
fn on_processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let times = [usage.user_time(), usage.system_time()];
    let micros = times.iter().map(TimeValLike::num_microseconds).sum::<i64>();
    Duration::from_micros(micros.try_into().unwrap())
}

/// Runs itself again, alone in a process, to see what 1,000 kept names and a flood take.
#[test]
fn memory_is_bounded() {
    const INSIDE: &str = "EGRESS_INIT_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory_is_bounded", "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        print!("{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let mut zone = ZoneSpec::new();
    for i in 0..3000 {
        let name = format!("name{i}.wild.example");
        let target = format!("target{i}.cdn.example.net");
        let v4 = [
            Ipv4Addr::from(0xc633_6400 + i).to_string(),
            format!("2001:db8::{i:x}"),
        ];
        zone = zone
            .cname(&name, &target)
            .addresses(&target, &[&v4[0], &v4[1]]);
    }
    let list = List::wildcard(".wild.example");
    Setup::new(zone, list)
        .limits(|limits| {
            limits.wildcard_rate = 1_000_000;
            limits.wildcard_burst = 1_000_000;
            limits.cache = 1024 * 1024;
        })
        .run(async |stage| {
            let fill = async |range: std::ops::Range<usize>| {
                for i in range {
                    let name = format!("name{i}.wild.example");
                    stage.ask(&name, RecordType::A).await;
                    stage.ask(&name, RecordType::AAAA).await;
                }
            };
            fill(0..20).await;
            let before = resident();
            fill(20..1020).await;
            let filled = resident();
            fill(1020..3000).await;
            let after = resident();
            println!(
                "1,000 names: {} KiB; 2,000 more: {} KiB",
                filled - before,
                after - filled
            );
            // The server's log and the list's are in there too, some 600 octets a name.
            assert!(filled - before < 3072, "{before} {filled}");
            assert!(after - filled < 3072, "{filled} {after}");
            // The first ones went, the last ones did not.
            let asked = stage.asked().len();
            stage.ask("name2999.wild.example", RecordType::A).await;
            assert_eq!(stage.asked().len(), asked);
            stage.ask("name20.wild.example", RecordType::A).await;
            let more = stage.asked().split_off(asked);
            assert!(!more.is_empty());
            assert!(more.iter().all(|(name, _)| name == "name20.wild.example"));
        });
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn listeners_are_ours_alone_on_every_address() {
    // An address that this machine does not have, yet.
    let addresses: Vec<SocketAddr> = ["127.0.0.1:0", "[::1]:0", "192.0.2.77:0"]
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    let listeners = Listeners::bind(&addresses).unwrap();
    let bound = listeners.addresses().unwrap();
    assert!(bound.len() >= 2);
    assert!(Listeners::bind(&bound[..1]).is_err());
    assert!(StdUdpSocket::bind(bound[0]).is_err());
    assert!(TcpListener::bind(bound[0]).is_err());
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), bound[0].port());
    assert!(StdUdpSocket::bind(any).is_err());
}

#[test]
fn over_ipv6() {
    let server = DnsServer::start(zone(), &["127.0.0.1:0".parse().unwrap()]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let gate = RefCell::new(List::exact(&[NAME]));
        let listeners = Listeners::bind(&["[::1]:0".parse().unwrap()]).unwrap();
        let address = listeners.addresses().unwrap()[0];
        let upstreams = Upstreams::new(ResolvConf::parse(b""), server.addresses());
        let proxy = Proxy::new(listeners, upstreams, Limits::default(), LONG, &gate);
        let client = async {
            let socket = UdpSocket::bind("[::1]:0").await.unwrap();
            for _ in 0..2 {
                let octets = query(NAME, RecordType::A).to_vec().unwrap();
                socket.send_to(&octets, address).await.unwrap();
                let mut buffer = [0; 512];
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                assert_eq!(from, address);
                let response = Message::from_vec(&buffer[..length]).unwrap();
                assert_eq!(addresses(&response).len(), 2);
            }
        };
        tokio::select! {
            never = proxy.serve() => match never {},
            done = timeout(LONG, client) => done.unwrap(),
        }
    });
}
