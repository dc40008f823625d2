//! Resolution against a real DNS server on loopback: what comes out, and, from the server's log,
//! what was asked.
//!
//! Times are looked at only where the requirement is one, and then against a bound far from the
//! expected figure.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use egress_init::{
    allowlist::{self, Accept, Name, Source, SourceKind},
    resolve::{
        Answer, Failure, Unresolved,
        nameservers::{ResolvConf, Upstreams},
        resolve,
    },
};
use nix::errno::Errno;
use support::dns::{Behaviour, DnsServer, FORGED, Query, Transport, ZoneSpec, closed_port};

/// Longer than any test waits for an answer that comes.
const LONG: Duration = Duration::from_secs(30);

fn names(list: &[&str]) -> Vec<Name> {
    let source = Source {
        label: "test".to_owned(),
        text: list.join("\n").into_bytes(),
        kind: SourceKind::Lines,
    };
    allowlist::parse(&[source], Accept::default())
        .expect("valid names")
        .names()
}

fn start(zone: ZoneSpec) -> DnsServer {
    DnsServer::start(zone, &["127.0.0.1:0".parse().unwrap()]).expect("a DNS server")
}

/// The upstreams that a resolv.conf with these search domains gives, on the servers' ports.
fn upstreams(servers: &[SocketAddr], search: &str) -> Upstreams {
    let conf = format!("search {search}\noptions ndots:5\n");
    Upstreams::new(ResolvConf::parse(conf.as_bytes()), servers)
}

/// The addresses without their TTL.
type Addresses = Result<Vec<IpAddr>, Unresolved>;

fn run(names: &[Name], upstreams: &Upstreams, deadline: Duration) -> Vec<(Name, Addresses)> {
    let answers = run_with_ttl(names, upstreams, deadline).into_iter();
    answers
        .map(|(name, answer)| (name, answer.map(|resolved| resolved.addresses)))
        .collect()
}

fn run_with_ttl(names: &[Name], upstreams: &Upstreams, deadline: Duration) -> Vec<(Name, Answer)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(resolve(names, upstreams, deadline))
}

/// One name, asked of these servers.
fn ask(name: &str, servers: &[&DnsServer]) -> Addresses {
    ask_within(name, servers, LONG)
}

fn ask_within(name: &str, servers: &[&DnsServer], deadline: Duration) -> Addresses {
    let addresses: Vec<_> = servers.iter().map(|server| server.addresses()[0]).collect();
    let mut answers = run(&names(&[name]), &upstreams(&addresses, ""), deadline);
    assert_eq!(answers.len(), 1);
    answers.remove(0).1
}

// It stands where an answer does.
#[allow(clippy::unnecessary_wraps)]
fn addresses(list: &[&str]) -> Addresses {
    Ok(list
        .iter()
        .map(|address| address.parse().unwrap())
        .collect())
}

/// What the server was asked: name, type and transport, sorted.
fn asked(server: &DnsServer) -> Vec<(String, String, Transport)> {
    let mut asked: Vec<_> = server
        .queries()
        .into_iter()
        .map(
            |Query {
                 name,
                 kind,
                 transport,
                 ..
             }| (name, kind, transport),
        )
        .collect();
    asked.sort_by_key(|(name, kind, _)| (name.clone(), kind.clone()));
    asked
}

fn over_udp(list: &[(&str, &str)]) -> Vec<(String, String, Transport)> {
    list.iter()
        .map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned(), Transport::Udp))
        .collect()
}

const NAME: &str = "api.example.org";
const BOTH: [&str; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];

fn zone() -> ZoneSpec {
    ZoneSpec::new().addresses(
        NAME,
        &["2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.2"],
    )
}

#[test]
fn both_families_sorted_and_each_once() {
    let server = start(zone());
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
    assert_eq!(asked(&server), over_udp(&[(NAME, "A"), (NAME, "AAAA")]));
}

/// Of both families, and of the aliases on the way.
#[test]
fn the_least_ttl_is_the_answers() {
    let zone = zone().ttl(NAME, 300).cname("www.example.org", NAME);
    let server = start(zone.clone().ttl("www.example.org", 20));
    let ttl = |name| {
        let upstreams = upstreams(server.addresses(), "");
        let mut answers = run_with_ttl(&names(&[name]), &upstreams, LONG);
        answers.remove(0).1.unwrap().ttl
    };
    assert_eq!(ttl(NAME), Duration::from_secs(300));
    assert_eq!(ttl("www.example.org"), Duration::from_secs(20));
    // With its highest bit set it is none (RFC 2181 section 8).
    server.change(zone.ttl(NAME, 0x8000_0001));
    assert_eq!(ttl(NAME), Duration::ZERO);
}

#[test]
fn over_ipv6() {
    let server = DnsServer::start(zone(), &["[::1]:0".parse().unwrap()]).unwrap();
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
    assert!(server.queries()[0].source.is_ipv6());
}

#[test]
fn one_family_is_enough() {
    let server = start(ZoneSpec::new().addresses(NAME, &["192.0.2.1"]));
    assert_eq!(ask(NAME, &[&server]), addresses(&["192.0.2.1"]));
    let server = start(ZoneSpec::new().addresses(NAME, &["2001:db8::1"]));
    assert_eq!(ask(NAME, &[&server]), addresses(&["2001:db8::1"]));
}

#[test]
fn every_name_gets_its_own_answer_in_order() {
    let mut zone = ZoneSpec::new().addresses("a.example", &["192.0.2.1"]);
    zone = zone.addresses("c.example", &["192.0.2.3"]);
    let server = start(zone);
    let names = names(&["a.example", "b.example", "c.example"]);
    let answers = run(&names, &upstreams(server.addresses(), ""), LONG);
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0], (names[0].clone(), addresses(&["192.0.2.1"])));
    let nobody = Unresolved::NxDomain(server.addresses()[0]);
    assert_eq!(answers[1], (names[1].clone(), Err(nobody)));
    assert_eq!(answers[2], (names[2].clone(), addresses(&["192.0.2.3"])));
}

/// ndots and the search list must not multiply the queries of an absolute name.
#[test]
fn a_name_with_a_dot_is_asked_for_twice_and_never_below_a_search_domain() {
    let server = start(ZoneSpec::new());
    let upstreams = upstreams(server.addresses(), "ns.svc.cluster.local svc.cluster.local");
    let answers = run(&names(&["github.com"]), &upstreams, LONG);
    let error = answers[0].1.clone().unwrap_err();
    assert_eq!(error, Unresolved::NxDomain(server.addresses()[0]));
    let expected = over_udp(&[("github.com", "A"), ("github.com", "AAAA")]);
    assert_eq!(asked(&server), expected);
}

#[test]
fn a_name_without_a_dot_is_tried_as_it_is_then_below_each_search_domain() {
    let server = start(ZoneSpec::new().addresses("db.svc.local", &["10.0.0.5"]));
    let upstreams = upstreams(server.addresses(), "ns.svc.local svc.local local");
    let answers = run(&names(&["db"]), &upstreams, LONG);
    assert_eq!(answers[0].1, addresses(&["10.0.0.5"]));
    // In this order, and nothing after the answer.
    let asked: Vec<_> = server.queries().iter().map(|q| q.name.clone()).collect();
    let expected = [
        "db",
        "db",
        "db.ns.svc.local",
        "db.ns.svc.local",
        "db.svc.local",
        "db.svc.local",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn a_name_without_a_dot_that_exists_as_it_is() {
    let zone = ZoneSpec::new().addresses("db", &["10.0.0.5"]);
    let server = start(zone.addresses("db.svc.local", &["10.0.0.6"]));
    let answers = run(
        &names(&["db"]),
        &upstreams(server.addresses(), "svc.local"),
        LONG,
    );
    assert_eq!(answers[0].1, addresses(&["10.0.0.5"]));
    assert_eq!(server.queries().len(), 2);
}

/// Forwarders answer names without a dot with SERVFAIL, or with nothing.
#[test]
fn a_failure_as_it_is_does_not_keep_the_search_domains_from_being_tried() {
    for behaviour in [Behaviour::ServFail, Behaviour::Refused, Behaviour::Drop] {
        let zone = ZoneSpec::new().on("db", behaviour);
        let server = start(zone.addresses("db.svc.local", &["10.0.0.5"]));
        let upstreams = upstreams(server.addresses(), "svc.local");
        let answers = run(&names(&["db"]), &upstreams, Duration::from_secs(3));
        assert_eq!(answers[0].1, addresses(&["10.0.0.5"]), "{behaviour:?}");
    }
}

#[test]
fn a_name_found_nowhere_says_where_it_was_looked_for() {
    let server = start(ZoneSpec::new());
    let upstreams = upstreams(server.addresses(), "ns.local svc.local");
    let error = run(&names(&["db"]), &upstreams, LONG)
        .remove(0)
        .1
        .unwrap_err();
    let expected = format!(
        "NXDOMAIN from {}, also below ns.local, svc.local",
        server.addresses()[0]
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(server.queries().len(), 6);
}

/// A server that fails for one search domain may recover.
#[test]
fn a_search_domain_that_failed_is_tried_again() {
    let zone = ZoneSpec::new().addresses("db.svc.local", &["10.0.0.5"]);
    let server = start(zone.on("db.svc.local", Behaviour::ServFailFirst(1)));
    let answers = run(
        &names(&["db"]),
        &upstreams(server.addresses(), "svc.local"),
        LONG,
    );
    assert_eq!(answers[0].1, addresses(&["10.0.0.5"]));
}

#[test]
fn aliases_in_one_response() {
    let zone = zone().cname("www.example.org", "cdn.example.org");
    let server = start(zone.cname("cdn.example.org", NAME));
    assert_eq!(ask("www.example.org", &[&server]), addresses(&BOTH));
    assert_eq!(server.queries().len(), 2);
}

#[test]
fn aliases_from_a_server_that_does_not_follow_them() {
    let zone = zone()
        .bare_cname()
        .cname("www.example.org", "cdn.example.org");
    let server = start(zone.cname("cdn.example.org", NAME));
    assert_eq!(ask("www.example.org", &[&server]), addresses(&BOTH));
    assert_eq!(server.queries().len(), 6);
}

#[test]
fn an_alias_of_a_name_with_one_family_costs_no_further_query() {
    let zone = ZoneSpec::new().addresses(NAME, &["192.0.2.1"]);
    let server = start(zone.cname("www.example.org", NAME));
    assert_eq!(
        ask("www.example.org", &[&server]),
        addresses(&["192.0.2.1"])
    );
    assert_eq!(server.queries().len(), 2);
}

#[test]
fn loops_of_aliases_end() {
    for bare in [false, true] {
        let mut zone = ZoneSpec::new().cname("a.example", "b.example");
        zone = zone.cname("b.example", "a.example");
        zone.bare_cname = bare;
        let server = start(zone);
        let error = ask("a.example", &[&server]).unwrap_err();
        assert_eq!(error, Unresolved::CnameLoop(server.addresses()[0]));
        assert!(server.queries().len() <= 4);
    }
}

#[test]
fn long_chains_of_aliases_end() {
    let mut zone = ZoneSpec::new().bare_cname();
    for i in 0..40 {
        zone = zone.cname(&format!("n{i}.example"), &format!("n{}.example", i + 1));
    }
    let server = start(zone);
    let error = ask("n0.example", &[&server]).unwrap_err();
    assert_eq!(error, Unresolved::CnameChain(server.addresses()[0]));
    assert_eq!(server.queries().len(), 2 * 17);
    // From here it is 16 to the end, which is no name.
    let error = ask("n24.example", &[&server]).unwrap_err();
    assert_eq!(error, Unresolved::NxDomain(server.addresses()[0]));
}

#[test]
fn over_tcp_after_truncation() {
    let server = start(zone().on(NAME, Behaviour::Truncate));
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
    let kinds = |transport| {
        let asked = asked(&server).into_iter();
        asked
            .filter(move |q| q.2 == transport && q.1 != "CONNECT")
            .count()
    };
    assert_eq!((kinds(Transport::Udp), kinds(Transport::Tcp)), (2, 2));
}

/// An answer that is too long for any datagram.
#[test]
fn a_hundred_addresses() {
    let list: Vec<_> = (0..100).map(|i| format!("192.0.2.{i}")).collect();
    let list: Vec<_> = list.iter().map(String::as_str).collect();
    let server = start(ZoneSpec::new().addresses(NAME, &list));
    assert_eq!(ask(NAME, &[&server]).unwrap().len(), 100);
}

#[test]
fn truncated_where_tcp_is_closed() {
    // TCP is refused on an address that only UDP is forwarded from.
    let server = start(zone().on(NAME, Behaviour::Truncate));
    let front = udp_relay(server.addresses()[0]);
    let error = run(&names(&[NAME]), &upstreams(&[front], ""), LONG)
        .remove(0)
        .1
        .unwrap_err();
    let message = error.to_string();
    assert!(message.contains("connection refused"), "{message}");
    assert!(message.contains("over TCP"), "{message}");
}

/// Passes datagrams on to `server` from an address without a TCP listener.
fn udp_relay(server: SocketAddr) -> SocketAddr {
    let front = UdpSocket::bind(closed_port()).unwrap();
    let address = front.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = front.recv_from(&mut buffer) {
            let back = UdpSocket::bind("127.0.0.1:0").unwrap();
            back.send_to(&buffer[..length], server).unwrap();
            let length = back.recv(&mut buffer).unwrap();
            front.send_to(&buffer[..length], client).unwrap();
        }
    });
    address
}

#[test]
fn truncated_where_tcp_is_silent() {
    let server = start(zone().on(NAME, Behaviour::Truncate));
    let front = udp_relay(server.addresses()[0]);
    // It accepts, in the kernel, and says nothing.
    let _silent = TcpListener::bind(front).unwrap();
    let deadline = Duration::from_secs(1);
    let error = run(&names(&[NAME]), &upstreams(&[front], ""), deadline)
        .remove(0)
        .1;
    let message = error.unwrap_err().to_string();
    let expected = format!("no answer from {front} over TCP");
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn a_lost_query_is_sent_again() {
    let server = start(zone().on(NAME, Behaviour::DropFirst(1)));
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
    assert_eq!(server.queries().len(), 4);
}

#[test]
fn a_late_answer_counts_after_the_query_was_sent_again() {
    let server = start(zone().delay(Duration::from_millis(800)));
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
}

#[test]
fn a_dead_first_server_costs_a_moment() {
    let dead = start(zone().everything(Behaviour::Drop));
    let alive = start(zone());
    let start = Instant::now();
    assert_eq!(ask(NAME, &[&dead, &alive]), addresses(&BOTH));
    assert!(start.elapsed() < Duration::from_secs(3));
    // It was asked first.
    assert_eq!(asked(&dead), over_udp(&[(NAME, "A"), (NAME, "AAAA")]));
    assert_eq!(asked(&alive), over_udp(&[(NAME, "A"), (NAME, "AAAA")]));
}

#[test]
fn a_server_known_to_be_dead_is_no_longer_asked_first() {
    let dead = start(ZoneSpec::new().everything(Behaviour::Drop));
    let mut zone = ZoneSpec::new();
    let list: Vec<_> = (0..500).map(|i| format!("n{i}.example")).collect();
    for name in &list {
        zone = zone.addresses(name, &["192.0.2.1"]);
    }
    let alive = start(zone);
    let names = names(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let servers = [dead.addresses()[0], alive.addresses()[0]];
    let answers = run(&names, &upstreams(&servers, ""), LONG);
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    // Each of the 1,000 queries would have gone to it first, and on a busy machine again; so did
    // only those that were in flight before the first pause was over, 256 and a few.
    let asked: std::collections::BTreeSet<_> = dead
        .queries()
        .into_iter()
        .map(|query| (query.name, query.kind))
        .collect();
    assert!((1..900).contains(&asked.len()), "{}", asked.len());
}

#[test]
fn a_good_first_server_is_the_only_one_asked() {
    let (first, second) = (start(zone()), start(zone()));
    assert_eq!(ask(NAME, &[&first, &second]), addresses(&BOTH));
    assert_eq!(second.queries(), []);
}

#[test]
fn the_next_server_after_a_failure() {
    for behaviour in [Behaviour::ServFail, Behaviour::Refused, Behaviour::Garbage] {
        let failing = start(ZoneSpec::new().everything(behaviour));
        let good = start(zone());
        assert_eq!(
            ask(NAME, &[&failing, &good]),
            addresses(&BOTH),
            "{behaviour:?}"
        );
        assert_eq!(asked(&failing), over_udp(&[(NAME, "A"), (NAME, "AAAA")]));
    }
}

#[test]
fn the_next_server_after_a_closed_port() {
    let good = start(zone());
    let servers = [closed_port(), good.addresses()[0]];
    let answers = run(&names(&[NAME]), &upstreams(&servers, ""), LONG);
    assert_eq!(answers[0].1, addresses(&BOTH));
    // Not asked again because of silence: the kernel says that nobody listens.
    assert_eq!(asked(&good), over_udp(&[(NAME, "A"), (NAME, "AAAA")]));
}

#[test]
fn nxdomain_is_final() {
    let (first, second) = (start(ZoneSpec::new()), start(zone()));
    let error = ask(NAME, &[&first, &second]).unwrap_err();
    assert_eq!(error, Unresolved::NxDomain(first.addresses()[0]));
    let message = format!("NXDOMAIN from {}", first.addresses()[0]);
    assert_eq!(error.to_string(), message);
    assert_eq!(second.queries(), []);
}

/// Some servers answer NXDOMAIN for AAAA where the name has A alone.
#[test]
fn nxdomain_of_one_family_does_not_hide_the_other() {
    for zone in [
        zone()
            .on_aaaa(NAME, Behaviour::NxDomain)
            .on_a(NAME, Behaviour::DelayMs(200)),
        zone().on_aaaa(NAME, Behaviour::NxDomain),
    ] {
        let server = start(zone);
        assert_eq!(
            ask(NAME, &[&server]),
            addresses(&["192.0.2.1", "192.0.2.2"])
        );
    }
}

#[test]
fn a_transient_failure_of_the_only_server() {
    for behaviour in [Behaviour::ServFailFirst(2), Behaviour::RefusedFirst(2)] {
        let server = start(zone().on(NAME, behaviour));
        assert_eq!(ask(NAME, &[&server]), addresses(&BOTH), "{behaviour:?}");
    }
}

#[test]
fn a_lasting_failure_is_named_before_the_deadline() {
    for (behaviour, failure, words) in [
        (Behaviour::ServFail, Failure::ServFail, "SERVFAIL from"),
        (Behaviour::Refused, Failure::Refused, "refused by"),
        (
            Behaviour::Garbage,
            Failure::Malformed,
            "malformed answer from",
        ),
    ] {
        let server = start(zone().on(NAME, behaviour));
        let start = Instant::now();
        let error = ask(NAME, &[&server]).unwrap_err();
        assert!(start.elapsed() < LONG / 2);
        assert_eq!(
            error.to_string(),
            format!("{words} {}", server.addresses()[0])
        );
        let Unresolved::Failed(servers) = error else {
            panic!("{error}");
        };
        assert_eq!(servers[0].failure, failure);
    }
}

#[test]
fn a_closed_port_is_named_before_the_deadline() {
    let server = closed_port();
    let start = Instant::now();
    let error = run(&names(&[NAME]), &upstreams(&[server], ""), LONG)
        .remove(0)
        .1
        .unwrap_err();
    assert!(start.elapsed() < LONG / 2);
    let Unresolved::Failed(servers) = &error else {
        panic!("{error}");
    };
    assert_eq!(servers[0].failure, Failure::Network(Errno::ECONNREFUSED));
    assert!(error.to_string().contains(&server.to_string()), "{error}");
}

/// Runs itself again in a network namespace without any route.
#[test]
fn no_route() {
    const INSIDE: &str = "EGRESS_INIT_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let output = std::process::Command::new("unshare")
            .args(["--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "no_route"])
            .env(INSIDE, "1")
            .output()
            .expect("unshare(1) of util-linux");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let servers: [SocketAddr; 2] =
        ["192.0.2.53:53", "[2001:db8::53]:53"].map(|s| s.parse().unwrap());
    let error = run(&names(&[NAME]), &upstreams(&servers, ""), LONG)
        .remove(0)
        .1
        .unwrap_err();
    let expected = "network unreachable (no route to 192.0.2.53); \
                    network unreachable (no route to 2001:db8::53)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn no_address_of_either_family() {
    let server = start(ZoneSpec::new().addresses(NAME, &[]));
    let error = ask(NAME, &[&server]).unwrap_err();
    assert_eq!(error, Unresolved::NoAddress(server.addresses()[0]));
    assert!(
        error.to_string().starts_with("no A or AAAA record"),
        "{error}"
    );
}

#[test]
fn silence_ends_with_the_deadline_and_names_every_server() {
    let servers = [
        start(zone().everything(Behaviour::Drop)),
        start(zone().everything(Behaviour::ServFail)),
    ];
    let start = Instant::now();
    let error = ask_within(NAME, &[&servers[0], &servers[1]], Duration::from_secs(2)).unwrap_err();
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
    let expected = format!(
        "timeout after 2s: no answer from {}; SERVFAIL from {}",
        servers[0].addresses()[0],
        servers[1].addresses()[0],
    );
    assert_eq!(error.to_string(), expected);
}

/// Broken middleboxes do this to AAAA.
#[test]
fn a_family_that_fails_does_not_fail_the_name_nor_delay_it_for_long() {
    for behaviour in [Behaviour::Drop, Behaviour::ServFail, Behaviour::Refused] {
        let server = start(zone().on_aaaa(NAME, behaviour));
        let start_time = Instant::now();
        assert_eq!(
            ask(NAME, &[&server]),
            addresses(&["192.0.2.1", "192.0.2.2"]),
            "{behaviour:?}"
        );
        assert!(start_time.elapsed() < LONG / 6, "{behaviour:?}");
        // Asked again once at most, where A is known by then.
        let aaaa = asked(&server)
            .iter()
            .filter(|(_, kind, _)| kind == "AAAA")
            .count();
        assert!(aaaa <= 2, "{behaviour:?}: {aaaa}");
        let server = start(zone().on_a(NAME, behaviour));
        assert_eq!(
            ask(NAME, &[&server]),
            addresses(&["2001:db8::1"]),
            "{behaviour:?}"
        );
    }
}

#[test]
fn a_lost_query_of_one_family_is_sent_again_before_it_is_given_up() {
    let server = start(zone().on_aaaa(NAME, Behaviour::DropFirst(1)));
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
}

#[test]
fn an_answer_with_a_wrong_id_or_question_is_ignored() {
    for behaviour in [Behaviour::WrongIdFirst, Behaviour::WrongQuestionFirst] {
        let server = start(zone().on(NAME, behaviour));
        let answer = ask(NAME, &[&server]);
        assert!(!answer.clone().unwrap().contains(&IpAddr::from(FORGED)));
        assert_eq!(answer, addresses(&BOTH), "{behaviour:?}");
        assert_eq!(server.queries().len(), 2);
    }
}

#[test]
fn a_server_that_does_not_know_edns() {
    let server = start(zone().on(NAME, Behaviour::FormErrOnEdns));
    assert_eq!(ask(NAME, &[&server]), addresses(&BOTH));
    assert_eq!(server.queries().len(), 4);
}

#[test]
fn no_nameserver() {
    let answers = run(&names(&[NAME]), &Upstreams::default(), LONG);
    assert_eq!(answers[0].1, Err(Unresolved::NoNameserver));
    assert_eq!(run(&[], &Upstreams::default(), LONG), []);
}

/// More than are in flight at once, and more queries than sockets are open.
#[test]
fn a_thousand_names() {
    let list: Vec<_> = (0..1000).map(|i| format!("n{i}.example")).collect();
    let mut zone = ZoneSpec::new().delay(Duration::from_millis(5));
    for name in &list {
        zone = zone.addresses(name, &["192.0.2.1", "2001:db8::1"]);
    }
    let server = start(zone);
    let names = names(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let answers = run(&names, &upstreams(server.addresses(), ""), LONG);
    for (name, answer) in answers {
        assert_eq!(answer, addresses(&["192.0.2.1", "2001:db8::1"]), "{name}");
    }
    // Hardly anything was lost and sent again.
    let asked = server.queries().len();
    assert!((2000..2100).contains(&asked), "{asked}");
    let ports: std::collections::BTreeSet<_> =
        server.queries().iter().map(|q| q.source.port()).collect();
    assert!(ports.len() <= 4, "{ports:?}");
}

/// Names of a dead zone do not keep the others waiting until the deadline.
#[test]
fn silence_about_many_names_does_not_hold_up_the_rest() {
    let list: Vec<_> = (0..600).map(|i| format!("n{i:03}.example")).collect();
    let mut zone = ZoneSpec::new();
    for (i, name) in list.iter().enumerate() {
        zone = zone.addresses(name, &["192.0.2.1"]);
        if i < 400 {
            zone = zone.on(name, Behaviour::Drop);
        }
    }
    let server = start(zone);
    let names = names(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let answers = run(
        &names,
        &upstreams(server.addresses(), ""),
        Duration::from_secs(4),
    );
    let resolved = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    assert_eq!(resolved, 200);
}

/// The caller races the resolution against SIGTERM.
#[test]
fn dropped_half_way_it_asks_no_more() {
    let server = start(zone().everything(Behaviour::Drop));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let upstreams = upstreams(server.addresses(), "");
    let names = names(&[NAME]);
    runtime.block_on(async {
        let resolving = resolve(&names, &upstreams, LONG);
        tokio::time::timeout(Duration::from_millis(100), resolving)
            .await
            .unwrap_err();
        let before = server.queries().len();
        assert_eq!(before, 2);
        // Long enough for the query to be sent again, were it not given up.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(server.queries().len(), before);
    });
}

/// The server runs in processes of its own too: what goes in and comes out there.
#[test]
fn the_servers_script_and_log_are_json() {
    let json = serde_json::to_string(&zone().on(NAME, Behaviour::DropFirst(1))).unwrap();
    let zone: ZoneSpec = serde_json::from_str(&json).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let listen = ["127.0.0.1:0".parse().unwrap()];
    let server = DnsServer::start_with_log(zone, &listen, writer).unwrap();
    ask(NAME, &[&server]).unwrap();
    let queries = server.queries();
    drop(server);
    let mut log = String::new();
    std::io::Read::read_to_string(&mut reader, &mut log).unwrap();
    let logged: Vec<Query> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(logged, queries);
}
