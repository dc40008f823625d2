//! The rules of mode `proxy`, put in force by the library itself: elements that end, queries that
//! are sent elsewhere, lists that change under open connections.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use egress_init::{
    allowlist::{self, Accept, Allowlist, Name, Source, SourceKind},
    nft::{Counters, Found, NftError, Nftables},
    policy::{Change, Element, Ledger, Nameservers, ledger::lifetime},
    ruleset::{self, Dns, Proxy, Ruleset, SocketOwner},
    service::{PortRange, Protocol, Service},
};
use nix::unistd::{Gid, setegid};

use super::plan::sorted;
use crate::{
    cases,
    support::{
        capture::Frame,
        dns::{DnsServer, Transport},
        harness::needs_second_uid,
        probe::{Outcome, Step, query},
        world::{
            API, DNS, ELSEWHERE, FOREIGN_DNS, GIT, PROBE, Run, World, file, forget, nft, reaches,
            rejects, table, zone,
        },
    },
};

cases!(live_sets:
    a_name_is_open_until_it_ends,
    what_is_extended_lives_longer,
    an_open_connection_outlives_its_element,
    every_query_comes_to_the_resolver,
    without_a_resolver_no_query_leaves,
    the_resolver_alone_reaches_the_nameservers,
    the_port_of_a_closed_query_is_no_way_out,
    a_reload_cuts_what_was_revoked_and_nothing_else,
    a_reload_changes_literals_too,
    the_lock_gives_way_to_the_proxy,
    the_rules_count,
    a_table_that_was_left_can_be_taken_over,
    a_changed_table_is_seen_though_elements_end,
    the_kernel_shows_what_the_text_says,
    a_reload_is_whole_or_not_at_all,
    updates_wait_for_no_grace_period,
);

/// What the resolver of these cases is told from others by.
const RESOLVER_GID: u32 = 60_053;
const RESOLVER: SocketOwner = SocketOwner {
    uid: 0,
    gid: Some(RESOLVER_GID),
};

fn list(text: &str) -> Allowlist {
    let source = Source {
        label: "list".into(),
        text: text.into(),
        kind: SourceKind::Words,
    };
    allowlist::parse(&[source], Accept { wildcards: true }).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// What a keeper holds: the kernel, and what it put there.
struct Live {
    kernel: Nftables,
    ledger: Ledger,
    nameservers: Nameservers,
    ruleset: Ruleset,
}

impl Live {
    fn new(text: &str) -> Self {
        let ledger = Ledger::new(&list(text), &[], &[]);
        let nameservers = Nameservers {
            servers: DNS.into(),
            unknown: false,
        };
        let ruleset = ruleset_of(&ledger, &nameservers);
        let mut kernel = Nftables::open().unwrap();
        kernel.replace(&ruleset).unwrap();
        kernel.verify(&ruleset).expect("as it was sent");
        Self {
            kernel,
            ledger,
            nameservers,
            ruleset,
        }
    }

    /// An answer for a name, with its TTL.
    fn answer(&mut self, of: &str, addresses: [IpAddr; 2], ttl: Duration) {
        let now = Instant::now();
        let outcome = self
            .ledger
            .answer(&name(of), &addresses, now + lifetime(ttl), now);
        assert_eq!(outcome.admitted, addresses);
        self.kernel.update(&outcome.changes).unwrap();
    }

    /// The same, whatever the ledger would make of it.
    fn admit(&mut self, addresses: [IpAddr; 2], ports: (u16, u16), life: Duration) {
        let changes = addresses.map(|address| Change::Admit(element(address, ports), life));
        self.kernel.update(&changes).unwrap();
    }

    fn reload(mut self, text: &str) -> Self {
        let now = Instant::now();
        self.ledger = self.ledger.reload(&list(text), &[], &[], now);
        let next = ruleset_of(&self.ledger, &self.nameservers);
        self.kernel.reload(&self.ruleset, &next).unwrap();
        self.kernel.verify(&next).expect("as it was sent");
        self.ruleset = next;
        self
    }
}

fn ruleset_of(ledger: &Ledger, nameservers: &Nameservers) -> Ruleset {
    let now = Instant::now();
    let proxy = Proxy {
        nameservers,
        resolver: RESOLVER,
        forwarder: false,
        local: &[],
        generation: ledger.generation(),
        names: &ledger.names(now),
        past: &ledger.past(now),
    };
    ruleset::enforced(&ledger.policy(), Dns::Proxy(&proxy))
}

fn element(address: IpAddr, (first, last): (u16, u16)) -> Element {
    Element {
        network: address.into(),
        service: Service {
            protocol: Protocol::Tcp,
            ports: PortRange::new(first, last).unwrap(),
        },
    }
}

fn tcp(addresses: [IpAddr; 2], port: u16) -> [Step; 2] {
    addresses.map(|address| Step::Tcp((address, port).into()))
}

fn connect(address: IpAddr, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect((address, port)).expect("the path is open");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    talk(&mut stream).expect("the echo");
    stream
}

fn talk(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"still there?")?;
    stream.read_exact(&mut [0; 12])
}

#[track_caller]
fn nothing_left(frames: &[Frame]) {
    let strays: Vec<_> = frames.iter().filter(|f| !f.is_neighbour_talk()).collect();
    assert!(strays.is_empty(), "these got out: {strays:#?}");
}

const SECOND: Duration = Duration::from_secs(1);

/// Sleeps until so long after `since`.
fn wait_until(since: Instant, after: Duration) {
    thread::sleep((since + after).saturating_duration_since(Instant::now()));
}

fn a_name_is_open_until_it_ends() {
    let world = World::new();
    reaches(&tcp(API, 443));
    let mut live = Live::new("api.example.org:443 git.example.org:8000-8100");
    let ((), frames) = world.arrived(|| rejects(&tcp(API, 443)));
    nothing_left(&frames);
    live.answer("api.example.org", API, SECOND);
    live.answer("git.example.org", GIT, SECOND);
    reaches(&tcp(API, 443));
    reaches(&tcp(GIT, 8050));
    rejects(&tcp(API, 444));
    rejects(&tcp(GIT, 443));
    rejects(&tcp(ELSEWHERE, 443));
    live.kernel
        .verify(&ruleset_of(&live.ledger, &live.nameservers))
        .expect("the ledger knows what the kernel holds");
    let since = Instant::now();
    live.admit(ELSEWHERE, (443, 443), 2 * SECOND);
    live.admit(ELSEWHERE, (7000, 8000), 2 * SECOND);
    reaches(&tcp(ELSEWHERE, 443));
    reaches(&tcp(ELSEWHERE, 7999));
    wait_until(since, Duration::from_millis(2300));
    let ((), frames) = world.arrived(|| {
        rejects(&tcp(ELSEWHERE, 443));
        rejects(&tcp(ELSEWHERE, 7999));
    });
    nothing_left(&frames);
    // What has ended can be taken back, or come again.
    let gone = ELSEWHERE.map(|address| Change::Withdraw(element(address, (443, 443))));
    live.kernel.update(&gone).unwrap();
    live.admit(ELSEWHERE, (7000, 8000), 2 * SECOND);
    reaches(&tcp(ELSEWHERE, 7999));
    rejects(&tcp(ELSEWHERE, 443));
}

fn what_is_extended_lives_longer() {
    let _world = World::new();
    let mut live = Live::new("api.example.org:443");
    for ports in [(443, 443), (7000, 8000)] {
        let port = if ports.0 == 443 { 443 } else { 7999 };
        let since = Instant::now();
        live.admit(API, ports, 2 * SECOND);
        wait_until(since, SECOND);
        let again = API.map(|address| {
            let element = element(address, ports);
            [
                Change::Withdraw(element),
                Change::Admit(element, 3 * SECOND),
            ]
        });
        live.kernel.update(&again.concat()).unwrap();
        wait_until(since, Duration::from_millis(2500));
        reaches(&tcp(API, port));
        wait_until(since, Duration::from_millis(4300));
        rejects(&tcp(API, port));
        // Not known to be there, and there all the same: the end is the new one.
        live.admit(API, ports, 20 * SECOND);
        live.admit(API, ports, SECOND);
        reaches(&tcp(API, port));
        thread::sleep(Duration::from_millis(1300));
        rejects(&tcp(API, port));
    }
    // A range gives way to its parts in one step.
    live.admit(API, (7000, 8000), 20 * SECOND);
    let apart = API.map(|address| {
        [
            Change::Withdraw(element(address, (7000, 8000))),
            Change::Admit(element(address, (7000, 7998)), 20 * SECOND),
            Change::Admit(element(address, (7999, 7999)), SECOND),
            Change::Admit(element(address, (8000, 8000)), 20 * SECOND),
        ]
    });
    live.kernel.update(&apart.concat()).unwrap();
    reaches(&tcp(API, 7999));
    thread::sleep(Duration::from_millis(1300));
    rejects(&tcp(API, 7999));
    reaches(&tcp(API, 8000));
}

fn an_open_connection_outlives_its_element() {
    let _world = World::new();
    let mut live = Live::new("api.example.org:443");
    live.admit(API, (9000, 9000), SECOND);
    let mut open = API.map(|address| connect(address, 9000));
    thread::sleep(Duration::from_millis(1300));
    rejects(&tcp(API, 9000));
    for stream in &mut open {
        talk(stream).expect("it was allowed when it started");
    }
}

/// As Docker has it, for queries to its own resolver.
const DOCKER: &str = "table ip nat {
    chain DOCKER_OUTPUT {
        ip daddr 127.0.0.11 tcp dport 53 counter dnat to 127.0.0.11:38345;
        ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:38345;
    }
    chain OUTPUT { type nat hook output priority -100; policy accept;
        ip daddr 127.0.0.11 counter jump DOCKER_OUTPUT; }
}";

fn docker_resolver() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 11], 53))
}

fn queries(servers: &[SocketAddr]) -> Vec<Step> {
    let both = servers.iter().flat_map(|&server| {
        let name = || "tunnel.example.net".to_owned();
        [Step::Dns(server, name()), Step::DnsTcp(server, name())]
    });
    both.collect()
}

/// What a server logs of [`queries`] to it: a datagram, a connection, and the query in that.
const HEARD: usize = 3;

fn listeners() -> [SocketAddr; 2] {
    [
        SocketAddr::from(([127, 0, 0, 1], 53)),
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 53)),
    ]
}

fn every_query_comes_to_the_resolver() {
    let world = World::new();
    nft(DOCKER);
    let servers = [&DNS[..], &FOREIGN_DNS, &listeners(), &[docker_resolver()]].concat();
    reaches(&queries(&[DNS, FOREIGN_DNS].concat()));
    let (asked, foreign) = world.outside.queries();
    let before = (asked.len(), foreign.len());
    assert_eq!(before, (2 * HEARD, 2 * HEARD), "control");

    let _live = Live::new("api.example.org *.example.org 198.51.100.53:*/any");
    let resolver = DnsServer::start(zone(), &listeners()).unwrap();
    let ((), frames) = world.arrived(|| reaches(&queries(&servers)));
    nothing_left(&frames);
    let heard = resolver.queries();
    assert_eq!(heard.len(), HEARD * servers.len(), "{heard:#?}");
    let by_tcp = heard
        .iter()
        .filter(|query| query.transport == Transport::Tcp);
    assert_eq!(by_tcp.count(), 2 * servers.len());
    // An address that the list opens altogether is no exception.
    reaches(&queries(&[SocketAddr::from(([198, 51, 100, 53], 53))]));
    assert_eq!(resolver.queries().len(), HEARD * (servers.len() + 1));
    let (asked, foreign) = world.outside.queries();
    assert_eq!((asked.len(), foreign.len()), before, "nobody outside heard");
}

fn without_a_resolver_no_query_leaves() {
    let world = World::new();
    nft(DOCKER);
    reaches(&queries(&FOREIGN_DNS));
    let _live = Live::new("api.example.org");
    let servers = [&DNS[..], &FOREIGN_DNS, &listeners(), &[docker_resolver()]].concat();
    let (outcomes, frames) = world.arrived(|| {
        let steps = queries(&servers);
        steps.iter().map(Step::run).collect::<Vec<Outcome>>()
    });
    nothing_left(&frames);
    for outcome in outcomes {
        assert_eq!(outcome.result, "ECONNREFUSED", "at once: {outcome:?}");
    }
}

/// These steps, by a process with the resolver's user and group, or others.
fn run_as(uid: u32, gid: u32, steps: &[Step]) -> Vec<Outcome> {
    Run::new("setpriv")
        .args(["--reuid", &uid.to_string(), "--regid", &gid.to_string()])
        .args(["--clear-groups", PROBE, "__probe"])
        .arg(serde_json::to_string(steps).unwrap())
        .outcomes()
}

fn the_resolver_alone_reaches_the_nameservers() {
    needs_second_uid();
    let world = World::new();
    let _live = Live::new("api.example.org");
    for outcome in run_as(0, RESOLVER_GID, &queries(&DNS)) {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(world.queries().len(), 2 * HEARD);
    let ((), frames) = world.arrived(|| {
        let others = [(0, 0), (1000, RESOLVER_GID), (1000, 1000)];
        for (uid, gid) in others {
            for outcome in run_as(uid, gid, &queries(&DNS)) {
                assert_eq!(outcome.result, "ECONNREFUSED", "as {uid}:{gid}");
            }
        }
        // Nor has the resolver any other way.
        let elsewhere = [queries(&FOREIGN_DNS), tcp(API, 443).into()].concat();
        for outcome in run_as(0, RESOLVER_GID, &elsewhere) {
            assert!(!outcome.is_ok(), "{outcome:?}");
        }
    });
    nothing_left(&frames);
    assert_eq!(world.queries().len(), 2 * HEARD);
}

/// I7: a flow of the resolver is in the kernel for a while after its socket is closed, and anyone
/// may take the port.
fn the_port_of_a_closed_query_is_no_way_out() {
    needs_second_uid();
    let world = World::new();
    let _live = Live::new("api.example.org");
    for server in DNS {
        let own = SocketAddr::new(
            if server.is_ipv4() {
                IpAddr::from([0; 4])
            } else {
                IpAddr::from([0; 16])
            },
            0,
        );
        setegid(Gid::from_raw(RESOLVER_GID)).unwrap();
        let socket = UdpSocket::bind(own).unwrap();
        setegid(Gid::from_raw(0)).unwrap();
        socket.set_read_timeout(Some(3 * SECOND)).unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.connect(server).unwrap();
        for _ in 0..2 {
            socket.send(&query("api.example.org")).unwrap();
            socket
                .recv(&mut [0; 512])
                .expect("the resolver is answered");
        }
        drop(socket);
        let ((), frames) = world.arrived(|| {
            let socket = UdpSocket::bind(SocketAddr::new(own.ip(), port)).unwrap();
            socket.connect(server).unwrap();
            socket
                .send(&query("tunnel.example.net"))
                .expect_err("it is not the resolver's socket");
        });
        nothing_left(&frames);
    }
}

fn a_reload_cuts_what_was_revoked_and_nothing_else() {
    let world = World::new();
    let mut live = Live::new("api.example.org:9000 git.example.org:9000");
    live.answer("api.example.org", API, SECOND);
    live.answer("git.example.org", GIT, SECOND);
    let mut kept = API.map(|address| connect(address, 9000));
    let mut cut = GIT.map(|address| connect(address, 9000));
    // The same list, and a longer one: nobody notices.
    let live = live.reload("git.example.org:9000 api.example.org:9000");
    let live = live.reload("git.example.org:9000 api.example.org:9000 other.example.org");
    for stream in kept.iter_mut().chain(&mut cut) {
        talk(stream).expect("allowed by both");
    }
    let mut live = live.reload("api.example.org:9000");
    let ((), frames) = world.arrived(|| {
        for stream in &mut cut {
            talk(stream).expect_err("revoked");
        }
        rejects(&tcp(GIT, 9000));
    });
    // Those that go on may talk.
    let strays = frames
        .iter()
        .filter(|frame| GIT.iter().any(|git| frame.to(*git)));
    assert_eq!(strays.count(), 0, "{frames:#?}");
    for stream in &mut kept {
        talk(stream).expect("still allowed");
    }
    reaches(&tcp(API, 9000));

    // What is over goes on if the name is still allowed, and does not start.
    let over = API.map(|address| Change::Withdraw(element(address, (9000, 9000))));
    live.kernel.update(&over).unwrap();
    let names_only_past = |live: &Live, text: &str| {
        let ledger = Ledger::new(&list(text), &[], &[]);
        let now = Instant::now();
        let proxy = Proxy {
            nameservers: &live.nameservers,
            resolver: RESOLVER,
            forwarder: false,
            local: &[],
            generation: ledger.generation(),
            names: &[],
            past: &live.ledger.past(now),
        };
        ruleset::enforced(&ledger.policy(), Dns::Proxy(&proxy))
    };
    let next = names_only_past(&live, "api.example.org:9000 more.example.org");
    assert_ne!(next.mark(), live.ruleset.mark());
    live.kernel.reload(&live.ruleset, &next).unwrap();
    for stream in &mut kept {
        talk(stream).expect("it was let out lately");
    }
    let ((), frames) = world.arrived(|| {
        rejects(&tcp(API, 9000));
        for address in API {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            let to = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            socket
                .send_to(b"x", (to, 9000))
                .expect_err("it starts none");
        }
    });
    let started = |frame: &&Frame| frame.protocol == 17 || frame.tcp_flags & 2 != 0;
    assert_eq!(frames.iter().filter(started).count(), 0, "{frames:#?}");
}

fn a_reload_changes_literals_too() {
    let world = World::new();
    let live = Live::new("198.51.100.10:9000 [2001:db8::10]:9000 203.0.113.0/24:443");
    let mut kept = API.map(|address| connect(address, 9000));
    reaches(&[Step::Tcp((ELSEWHERE[0], 443).into())]);
    rejects(&tcp(GIT, 443));
    let live = live.reload(
        "198.51.100.10:9000 [2001:db8::10]:9000 203.0.113.0/24:444 198.51.100.20 2001:db8::20 !203.0.113.66",
    );
    for stream in &mut kept {
        talk(stream).expect("allowed by both");
    }
    let ((), frames) = world.arrived(|| {
        rejects(&[443, 444].map(|port| Step::Tcp((ELSEWHERE[0], port).into())));
    });
    // What was kept may still acknowledge its last octets.
    let to_it = |frame: &&Frame| frame.addresses.is_some_and(|(_, to)| to == ELSEWHERE[0]);
    let to_it: Vec<_> = frames.iter().filter(to_it).cloned().collect();
    nothing_left(&to_it);
    reaches(&tcp(GIT, 443));
    let mut live = live.reload("198.51.100.0/24:9000 !git.example.org");
    // What `!name` has now is refused where the network would allow it.
    reaches(&[Step::Tcp((GIT[0], 9000).into())]);
    let changes = live.ledger.refuse(&name("git.example.org"), &GIT);
    live.kernel.update(&changes).unwrap();
    rejects(&[Step::Tcp((GIT[0], 9000).into())]);
    live.kernel
        .verify(&ruleset_of(&live.ledger, &live.nameservers))
        .unwrap();
    talk(&mut kept[0]).expect("allowed by all");
    talk(&mut kept[1]).expect_err("revoked");
}

fn the_lock_gives_way_to_the_proxy() {
    needs_second_uid();
    let world = World::new();
    let nameservers = Nameservers {
        servers: DNS.into(),
        unknown: false,
    };
    let mut kernel = Nftables::open().unwrap();
    let closed = ruleset::locked(None);
    kernel.replace(&closed).unwrap();
    world.is_locked();
    let open = ruleset::locked(Some((&nameservers, &[RESOLVER])));
    kernel.transition(&closed, &open).unwrap();
    for outcome in run_as(0, RESOLVER_GID, &queries(&DNS)) {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    let ((), frames) = world.arrived(|| rejects(&queries(&DNS)));
    nothing_left(&frames);
    let ledger = Ledger::new(&list("api.example.org 198.51.100.10"), &[], &[]);
    let enforced = ruleset_of(&ledger, &nameservers);
    kernel.transition(&open, &enforced).unwrap();
    kernel.verify(&enforced).unwrap();
    reaches(&[Step::Tcp((API[0], 443).into())]);
    for outcome in run_as(0, RESOLVER_GID, &queries(&DNS)) {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    // And back, as after a failure.
    kernel.transition(&enforced, &closed).unwrap();
    kernel.verify(&closed).unwrap();
    world.is_locked();
}

fn the_rules_count() {
    let _world = World::new();
    let mut live = Live::new("api.example.org:443");
    assert_eq!(live.kernel.counters().unwrap(), Counters::default());
    live.answer("api.example.org", API, SECOND);
    reaches(&tcp(API, 443));
    rejects(&tcp(ELSEWHERE, 443));
    rejects(&tcp(ELSEWHERE, 444));
    let counters = live.kernel.counters().unwrap();
    assert_eq!(counters.let_out.packets, 2, "{counters:?}");
    assert!(counters.refused.packets >= 4, "{counters:?}");
    assert!(counters.let_out.octets >= 100, "{counters:?}");
    assert_eq!(counters.let_in.packets, 0, "{counters:?}");
}

fn a_table_that_was_left_can_be_taken_over() {
    let _world = World::new();
    let mut live = Live::new("api.example.org:443 203.0.113.7");
    live.answer("api.example.org", API, SECOND);
    let mark = live.ruleset.mark().unwrap();
    let mut kernel = Nftables::open().unwrap();
    // Any list of the same resolver has this structure.
    let other = Ledger::new(&list("*.example.org 192.0.2.0/24 !192.0.2.7"), &[], &[]);
    let shape = ruleset_of(&other, &live.nameservers);
    assert_eq!(kernel.adopt(&shape).unwrap(), Found::Alike { mark });
    assert_ne!(shape.mark(), Some(mark));
    let same = Ledger::new(&list("203.0.113.7 api.example.org:443"), &[], &[]);
    assert_eq!(ruleset_of(&same, &live.nameservers).mark(), Some(mark));
    let open = API.map(|address| connect(address, 443));
    drop(open);
    for change in [
        "insert rule inet egress_init output accept",
        "flush chain inet egress_init divert",
        "add chain inet egress_init output { type filter hook output priority 0; policy accept; }",
        "add table inet egress_init { flags dormant; }",
        "add set inet egress_init other { type ipv4_addr; }",
    ] {
        kernel.replace(&live.ruleset).unwrap();
        assert_eq!(kernel.adopt(&shape).unwrap(), Found::Alike { mark });
        nft(change);
        let found = kernel.adopt(&shape).unwrap();
        assert!(matches!(found, Found::Other { .. }), "{change}: {found:?}");
    }
    let pinned = ruleset::enforced(&live.ledger.policy(), Dns::Closed);
    kernel.replace(&pinned).unwrap();
    assert!(matches!(kernel.adopt(&shape).unwrap(), Found::Other { .. }));
    forget();
    assert_eq!(kernel.adopt(&shape).unwrap(), Found::Nothing);
}

fn a_changed_table_is_seen_though_elements_end() {
    let _world = World::new();
    let mut live = Live::new("api.example.org:443 git.example.org:8000-8100");
    live.answer("api.example.org", API, 100 * SECOND);
    live.answer("git.example.org", GIT, 100 * SECOND);
    let intended = ruleset_of(&live.ledger, &live.nameservers);
    for harmless in [
        "add element inet egress_init names4 { 203.0.113.66 . tcp . 443 timeout 2s }",
        "add element inet egress_init past4_ranges { 203.0.113.66 . tcp . 1-9 timeout 2s }",
        // They open nothing, and are filled only when a list changes.
        "flush set inet egress_init past4",
    ] {
        nft(harmless);
        live.kernel.verify(&intended).expect("it ends at once");
    }
    for change in [
        "add element inet egress_init names4 { 203.0.113.66 . tcp . 443 timeout 60s }",
        "add element inet egress_init names4 { 203.0.113.66 . tcp . 443 }",
        "add element inet egress_init past6 { 2001:db8::66 . tcp . 443 timeout 60s }",
        "delete element inet egress_init names4 { 198.51.100.10 . tcp . 443 }",
        "delete element inet egress_init names4 { 198.51.100.10 . tcp . 443 }; add element inet egress_init names4 { 198.51.100.10 . tcp . 443 timeout 1h }",
        "flush set inet egress_init names6_ranges",
        "insert rule inet egress_init divert accept",
        "add table inet egress_init { flags dormant; }",
    ] {
        live.kernel.replace(&intended).unwrap();
        live.kernel.verify(&intended).expect("as it was sent");
        nft(change);
        let error = live.kernel.verify(&intended).expect_err(change);
        assert!(matches!(error, NftError::Different(_)), "{change}: {error}");
    }
}

fn the_kernel_shows_what_the_text_says() {
    let _world = World::new();
    // nft prints protocols by the names that it finds there.
    file("/etc/protocols", "tcp 6 TCP\nudp 17 UDP\n");
    let mut live = Live::new(
        "api.example.org:443 git.example.org:22,8000-8100 192.0.2.0/24:443 !192.0.2.7 !bad.example.org",
    );
    live.answer("api.example.org", API, 1000 * SECOND);
    live.answer("git.example.org", GIT, 90_000 * SECOND);
    live.ledger.refuse(&name("bad.example.org"), &ELSEWHERE);
    let unknown = Nameservers {
        unknown: true,
        ..live.nameservers.clone()
    };
    for nameservers in [&live.nameservers, &unknown] {
        let ruleset = ruleset_of(&live.ledger, nameservers);
        live.kernel.replace(&ruleset).unwrap();
        let installed = table("egress_init").unwrap();
        assert_eq!(sorted(&installed), sorted(&ruleset.to_string()));
        forget();
        nft(&ruleset.to_string());
        assert_eq!(sorted(&table("egress_init").unwrap()), sorted(&installed));
    }
}

/// In a namespace of a plain user the socket has no room beyond `net.core.wmem_max`, which may be
/// enough or not.
fn a_reload_is_whole_or_not_at_all() {
    let _world = World::new();
    let mut live = Live::new("198.51.100.10:443");
    let mut text = "203.0.113.66:443".to_owned();
    for index in 0..30_000_u16 {
        let [high, low] = index.to_be_bytes();
        write!(text, " 10.{high}.{low}.0/25:443").unwrap();
    }
    let ledger = Ledger::new(&list(&text), &[], &[]);
    let next = ruleset_of(&ledger, &live.nameservers);
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let is_initial = map.split_whitespace().nth(2) == Some("4294967295");
    match live.kernel.reload(&live.ruleset, &next) {
        Ok(()) => {
            live.kernel.verify(&next).unwrap();
            reaches(&tcp(ELSEWHERE, 443)[..1]);
            rejects(&tcp(API, 443));
        }
        Err(error) => {
            assert!(
                !is_initial && matches!(error, NftError::TooLong { .. }),
                "{error}"
            );
            live.kernel.verify(&live.ruleset).unwrap();
            reaches(&tcp(API, 443)[..1]);
            rejects(&tcp(ELSEWHERE, 443));
        }
    }
    // What the kernel refuses it refuses whole.
    let odd = Ledger::new(&list("192.0.2.7:443"), &[], &[]);
    let odd = ruleset_of(&odd, &live.nameservers);
    let other = ruleset_of(&Ledger::new(&list("*.a.com"), &[], &[]), &live.nameservers);
    live.kernel.replace(&live.ruleset).unwrap();
    live.kernel
        .reload(&odd, &other)
        .expect_err("192.0.2.7 is not there to be deleted");
    live.kernel.verify(&live.ruleset).unwrap();
}

/// What stands between an answer and the client that waits for it.
fn updates_wait_for_no_grace_period() {
    let _world = World::new();
    let mut live = Live::new("*.example.org:443");
    let changes = |index: u16, ports: (u16, u16), again: bool| {
        let [high, low] = index.to_be_bytes();
        let addresses = [
            IpAddr::from([198, 18 + high, low, 1]),
            IpAddr::from([0x2001, 0xdb8, index, 0, 0, 0, 0, 1]),
        ];
        let changes = addresses.map(|address| {
            let element = element(address, ports);
            let first = again.then_some(Change::Withdraw(element));
            first
                .into_iter()
                .chain([Change::Admit(element, 60 * SECOND)])
        });
        changes.into_iter().flatten().collect::<Vec<_>>()
    };
    for (ports, again) in [
        ((443, 443), false),
        ((443, 443), true),
        ((7000, 8000), false),
        ((7000, 8000), true),
    ] {
        let mut times: Vec<Duration> = (0..500)
            .map(|index| {
                let changes = changes(index, ports, again);
                let started = Instant::now();
                live.kernel.update(&changes).unwrap();
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        // A grace period of RCU, as some transactions wait for, is ten milliseconds and more, each
        // time. Whatever else the machine does, some of five hundred without one are quicker. The
        // kernel copies a set of ranges for each change of it, so that these are not as quick.
        let limit = if ports.0 == ports.1 { 5 } else { 50 };
        assert!(times[25] < Duration::from_millis(limit), "{:?}", times[25]);
    }
}
