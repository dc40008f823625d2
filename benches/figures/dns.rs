//! The DNS server of `--supervise`, against dnsmasq with `nftset`: both put the addresses of a name
//! into a set before they answer. The same names, the same nameserver behind them, the same load,
//! in turns in one namespace. The binary itself is measured, in mode `proxy`.
//!
//! dnsmasq comes twice: alone, with a set that nothing asks, so that no packet meets a rule; and
//! with the least firewall that makes something of the set, which brings connection tracking.
//!
//! The load comes from the same machine: of two processors, the generator takes one.

use std::{
    fmt::Write as _,
    fs,
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use nix::sys::{
    signal::Signal,
    socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};

use crate::{
    Form,
    measure::{Sample, digits, thousands},
    report::{Section, Table},
    start::copy_tools,
    support::{
        dns::ZoneSpec,
        world::{self, BINARY, DNS, Run, SENTINEL, Started, World, allowlist, user_options},
    },
};

const NAMES: u16 = 1000;
/// Seconds: nothing has to be asked again while it is measured.
const TTL: u32 = 3600;
/// Queries that are under way at once, where throughput is measured.
const WINDOW: usize = 64;
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
const HOUR: f64 = 3600.0;

#[derive(Clone, Copy)]
enum Server {
    EgressInit,
    Dnsmasq,
    FencedDnsmasq,
}

/// The set that dnsmasq fills.
const SET: &str = "add table inet bench; add set inet bench allow4 { type ipv4_addr; }";

/// What makes a firewall of it, with dnsmasq as root.
const FENCE: &str = "\
add chain inet bench output { type filter hook output priority 0; policy drop; }
add rule inet bench output oif lo accept
add rule inet bench output ct state established,related accept
add rule inet bench output meta skuid 0 udp dport 53 accept
add rule inet bench output ip daddr @allow4 accept
";

impl Server {
    const ALL: [Self; 3] = [Self::EgressInit, Self::Dnsmasq, Self::FencedDnsmasq];

    fn name(self) -> &'static str {
        match self {
            Self::EgressInit => "egress-init --supervise",
            Self::Dnsmasq => "dnsmasq with nftset, no firewall",
            Self::FencedDnsmasq => "dnsmasq with nftset and a firewall",
        }
    }

    /// Starts it in a clean namespace, for these entries; it answers when this returns.
    fn start(self, list: &str) -> Started {
        world::nft("flush ruleset");
        allowlist(list);
        let _ = fs::remove_file(SENTINEL);
        let started = match self {
            Self::EgressInit => Run::new(BINARY)
                .args(user_options())
                .args(["--supervise", "--dns-wildcard-rate", "100000"])
                .command(&["/bin/sleep", "600"])
                .start(),
            Self::Dnsmasq | Self::FencedDnsmasq => {
                world::nft(SET);
                if matches!(self, Self::FencedDnsmasq) {
                    world::nft(FENCE);
                }
                Run::new("dnsmasq")
                    .args([
                        "--keep-in-foreground",
                        "--conf-file=/dev/null",
                        "--no-resolv",
                    ])
                    .args([
                        "--no-hosts",
                        "--pid-file=",
                        "--user=root",
                        "--cache-size=10000",
                    ])
                    .args(["--bind-interfaces", "--listen-address=127.0.0.1"])
                    .arg(format!("--server={}", DNS[0].ip()))
                    .arg("--nftset=/example.org/4#inet#bench#allow4")
                    .start()
            }
        };
        let patience = Instant::now() + Duration::from_secs(20);
        let ready = || match self {
            Self::EgressInit => Path::new(SENTINEL).exists(),
            Self::Dnsmasq | Self::FencedDnsmasq => true,
        };
        while !ready() || load(&[query(NAMES)], 1, Duration::from_millis(1)).0 == 0.0 {
            assert!(Instant::now() < patience, "{} does not answer", self.name());
            sleep(Duration::from_millis(20));
        }
        started
    }
}

/// What was measured of a server, a value a turn.
#[derive(Default)]
struct Measured {
    /// Microseconds: the first question for each name, below a wildcard.
    first: Vec<f64>,
    /// Microseconds: from the cache, one at a time.
    again: Vec<f64>,
    /// Microseconds: the same, each from a socket of its own, as the C library asks.
    own: Vec<f64>,
    /// Answers a second from the cache.
    rates: Vec<f64>,
    /// MiB.
    resident: Vec<f64>,
    /// An hour.
    wakeups: Vec<f64>,
}

pub fn section(form: Form) -> Section {
    let world = World::new();
    copy_tools();
    let (zone, list) = names_and_list();
    world.outside.zone(zone);
    let queries: Vec<_> = (0..NAMES).map(query).collect();
    let idle = form.pick(Duration::from_secs(60), Duration::from_secs(3));
    let mut measured = Server::ALL.map(|_| Measured::default());
    for turn in 0..form.pick(3, 1) {
        for (server, measured) in Server::ALL.into_iter().zip(&mut measured) {
            turn_of(server, measured, &queries, &list, form);
            if turn == 0 {
                let process = server.start(&list);
                // Whatever a start leaves to do.
                sleep(Duration::from_secs(2));
                let before = wakeups(process.id());
                sleep(idle);
                let woken = wakeups(process.id()) - before;
                measured.wakeups.push(woken * HOUR / idle.as_secs_f64());
                end(process);
            }
        }
    }
    let mut section = Section::new("DNS");
    section.paragraph(&format!(
        "{NAMES} names with an A record each, nameserver on the other side of a veth link. `first` is \
         the first question for a name below a wildcard: asked upstream, put into the set, answered. \
         `cached` is a later one for a name of the list, a question at a time; `own socket` the same \
         with a socket for each, as the C library asks; the rate is with {WINDOW} under way. Resident \
         memory after all of that. Wakeups (voluntary context switches) were counted for {} s without \
         a question, and extrapolated to an hour.",
        idle.as_secs()
    ));
    section.table(&table(&measured));
    let median = |values: &[f64]| Sample::new(values.iter().copied()).median();
    for (server, one) in Server::ALL.iter().zip(&measured).skip(1) {
        let ratio = median(&measured[0].rates) / median(&one.rates);
        section.target(
            &format!("answers a second, against {}", server.name()),
            "1.00",
            &format!("{ratio:.2}"),
            ratio >= 1.0,
        );
    }
    let resident = median(&measured[0].resident);
    section.target(
        &format!("resident memory supervising {NAMES} names"),
        "8 MiB",
        &format!("{} MiB", digits(resident)),
        resident <= 8.0,
    );
    section
}

fn table(measured: &[Measured; 3]) -> Table {
    let mut table = Table::new(&[
        "",
        "first p50",
        "first p99",
        "cached p50",
        "cached p99",
        "own socket p50",
        "answers/s",
        "resident",
        "wakeups/h",
    ]);
    for (server, one) in Server::ALL.iter().zip(measured) {
        let [first, again, own] =
            [&one.first, &one.again, &one.own].map(|all| Sample::new(all.iter().copied()));
        let median = |values: &[f64]| Sample::new(values.iter().copied()).median();
        table.row(vec![
            server.name().into(),
            format!("{} µs", digits(first.median())),
            format!("{} µs", digits(first.quantile(0.99))),
            format!("{} µs", digits(again.median())),
            format!("{} µs", digits(again.quantile(0.99))),
            format!("{} µs", digits(own.median())),
            thousands(median(&one.rates)),
            format!("{} MiB", digits(median(&one.resident))),
            thousands(median(&one.wakeups)),
        ]);
    }
    table
}

/// One question at a time, each from a socket of its own: microseconds.
fn each(queries: &[Vec<u8>]) -> impl Iterator<Item = f64> {
    let one = |query| load(std::slice::from_ref(query), 1, Duration::ZERO).1;
    queries.iter().flat_map(one)
}

/// Started twice: with nothing known, and for all names.
fn turn_of(server: Server, measured: &mut Measured, queries: &[Vec<u8>], list: &str, form: Form) {
    let process = server.start("*.example.org\n");
    measured.first.extend(each(queries));
    end(process);
    let process = server.start(list);
    // What one of them has not asked for yet.
    each(queries).for_each(drop);
    measured.own.extend(each(queries));
    let second = form.pick(Duration::from_secs(1), Duration::from_millis(200));
    measured.again.extend(load(queries, 1, second).1);
    measured.rates.push(load(queries, WINDOW, second * 2).0);
    measured.resident.push(resident(process.id()));
    end(process);
}

fn end(process: Started) {
    process.signal(Signal::SIGTERM);
    drop(process.finish());
}

fn names_and_list() -> (ZoneSpec, String) {
    let (mut zone, mut list) = (ZoneSpec::new(), String::new());
    // One more, which is asked for until the server answers.
    for n in 0..=NAMES {
        let name = format!("name{n}.example.org");
        let address = format!("198.51.{}.{}", 100 + n / 250, n % 250 + 1);
        zone = zone.addresses(&name, &[&address]).ttl(&name, TTL);
        writeln!(list, "{name}").unwrap();
    }
    (zone, list)
}

fn query(n: u16) -> Vec<u8> {
    let mut message = Message::new(n, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("name{n}.example.org.")).unwrap();
    message.add_query(Query::query(name, RecordType::A));
    message.metadata.recursion_desired = true;
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

/// One number of `/proc/PID/status`.
fn status(process: u32, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let number = value.and_then(|value| value.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

fn resident(process: u32) -> f64 {
    status(process, "VmRSS:") / 1024.0
}

fn wakeups(process: u32) -> f64 {
    status(process, "voluntary_ctxt_switches:")
}

/// Keeps so many queries under way for this time, one round at least: the answers a second, and
/// where it is one at a time, how long each took, in microseconds. What is lost is made up for
/// after a pause, and no answer but one with an address counts.
fn load(queries: &[Vec<u8>], window: usize, time: Duration) -> (f64, Vec<f64>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(SERVER).unwrap();
    let patience = Duration::from_millis(500);
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffers = vec![vec![0; 512]; window];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(window, None);
    let mut outgoing = MultiHeaders::<SockaddrStorage>::preallocate(window, None);
    let mut latencies = Vec::new();
    let mut next = queries.iter().cycle();
    let (mut free, mut answers) = (window, 0_u32);
    let started = Instant::now();
    loop {
        let sent = Instant::now();
        let batch: Vec<_> = next
            .by_ref()
            .take(free)
            .map(|query| [IoSlice::new(query)])
            .collect();
        let targets = vec![None; batch.len()];
        let fd = socket.as_raw_fd();
        // Refused where nobody listens yet.
        let _ = sendmmsg(fd, &mut outgoing, &batch, &targets, [], MsgFlags::empty());
        let mut slices: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None);
        free = received.map_or(0, Iterator::count);
        // RFC 1035 section 4.1.1: no error, and an answer in it.
        let good = buffers[..free]
            .iter()
            .filter(|answer| answer[3] % 16 == 0 && answer[7] > 0)
            .count();
        answers += u32::try_from(good).unwrap();
        if window == 1 && good == 1 {
            latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        if free == 0 {
            free = window;
        }
        if started.elapsed() >= time {
            break;
        }
    }
    (
        f64::from(answers) / started.elapsed().as_secs_f64(),
        latencies,
    )
}
