//! DNS as the command sees it: every kind of question, in every kind of namespace, and who may
//! answer the resolver.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use nix::libc;

use crate::{
    cases,
    support::{
        capture::Frame,
        dns::{DnsServer, ZoneSpec},
        harness::needs_second_uid,
        live::{as_node, ask, end, ready, supervised},
        probe::{Outcome, Step},
        sys,
        world::{
            BINARY, DNS, ELSEWHERE, FOREIGN_DNS, GIT, Run, World, allowlist, ip_batch, nft,
            reaches, rejects, sysctl, user_options, zone,
        },
    },
};

cases!(queries:
    the_name_of_an_address_is_known_here,
    hints_are_answers_too,
    search_domains_work,
    dockers_dns_forwards_and_nobody_else_reaches_it,
    nobody_answers_in_the_place_of_a_server,
    a_query_from_a_socket_that_is_bound_to_the_link_does_not_leave,
    a_server_that_is_gone_is_not_replaced_by_the_command,
    ipv6_alone,
    without_ipv6,
    a_command_that_is_root_is_no_resolver,
    who_cannot_be_told_apart_is_refused,
    a_port_that_is_taken,
    the_command_keeps_its_own_limit_of_descriptors,
);

fn ok(outcomes: &[Outcome]) -> Vec<bool> {
    outcomes.iter().map(Outcome::is_ok).collect()
}

fn lookup(name: &str) -> Step {
    Step::Lookup(name.into())
}

fn resolv_conf(text: &str) {
    fs::write("/etc/resolv.conf", text).unwrap();
}

fn the_name_of_an_address_is_known_here() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    let asked = world.queries().len();
    let answer = ask(
        FOREIGN_DNS[0],
        "10.100.51.198.in-addr.arpa",
        RecordType::PTR,
    )
    .unwrap();
    assert_eq!(answer.answers.len(), 1, "{answer:?}");
    assert_eq!(answer.answers[0].data.to_string(), "api.example.org.");
    let other = ask(DNS[0], "20.100.51.198.in-addr.arpa", RecordType::PTR).unwrap();
    assert_eq!(other.metadata.response_code, ResponseCode::Refused);
    assert_eq!(world.queries().len(), asked);
    end(started);
}

fn hints_are_answers_too() {
    needs_second_uid();
    // Priority 1, the name itself, two hints and a key of encrypted client hellos (RFC 9460).
    let hints = [198, 51, 100, 20, 127, 0, 0, 9];
    let https = [&[0, 1, 0, 0, 4, 0, 8][..], &hints, &[0, 5, 0, 3, 7, 7, 7]].concat();
    let zone = zone().record("api.example.org", RecordType::HTTPS, &https);
    let world = World::with_zone(zone);
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    let answer = ask(DNS[0], "api.example.org", RecordType::HTTPS).unwrap();
    let text = format!("{:?}", answer.answers);
    assert_eq!(answer.answers.len(), 1, "{text}");
    let octets = answer.to_vec().unwrap();
    let has = |part: &[u8]| octets.windows(part.len()).any(|window| window == part);
    assert!(
        has(&hints[..4]) && !has(&hints[4..]) && !has(&[7, 7, 7]),
        "{text}"
    );
    reaches(&[Step::Tcp((GIT[0], 443).into())]);
    end(started);
}

fn search_domains_work() {
    needs_second_uid();
    let world = World::new();
    let servers = fs::read_to_string("/etc/resolv.conf").unwrap();
    resolv_conf(&format!(
        "{servers}search pod.cluster.local cluster.local example.org\noptions ndots:5\n"
    ));
    allowlist("api.example.org\n");
    let steps = [
        Step::TcpName("api.example.org".into(), 443, false),
        Step::TcpName("api".into(), 443, false),
        Step::TcpName("api".into(), 443, true),
        lookup("git"),
        lookup("git.example.org"),
    ];
    let outcomes = world.behind(&["--supervise"], &steps);
    assert_eq!(
        ok(&outcomes),
        [true, true, true, false, false],
        "{outcomes:#?}"
    );
    let queries = world.queries();
    assert!(
        queries.iter().all(|query| query.name == "api.example.org"),
        "{queries:#?}"
    );
}

const EMBEDDED: &str = "127.0.0.11:38345";

/// As Docker has it on a user-defined network: its DNS is a socket of uid 0 in this namespace, on a
/// port of its own, which forwards from here.
fn docker() -> DnsServer {
    nft("table ip nat {
        chain DOCKER_OUTPUT {
            ip daddr 127.0.0.11 tcp dport 53 counter dnat to 127.0.0.11:38345;
            ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:38345;
        }
        chain DOCKER_POSTROUTING {
            ip saddr 127.0.0.11 tcp sport 38345 counter snat to :53;
            ip saddr 127.0.0.11 udp sport 38345 counter snat to :53;
        }
        chain OUTPUT { type nat hook output priority -100; policy accept;
            ip daddr 127.0.0.11 counter jump DOCKER_OUTPUT; }
        chain POSTROUTING { type nat hook postrouting priority 100; policy accept;
            ip daddr 127.0.0.11 counter jump DOCKER_POSTROUTING; }
    }");
    resolv_conf("nameserver 127.0.0.11\noptions ndots:0\n# ExtServers: [192.0.2.53]\n");
    sysctl("ipv4/ip_unprivileged_port_start", "0");
    forward(EMBEDDED.parse().unwrap())
}

/// Answers what the server outside answers, and asks it from here.
fn forward(at: SocketAddr) -> DnsServer {
    let socket = UdpSocket::bind(at).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let onward = UdpSocket::bind("0.0.0.0:0").unwrap();
            onward
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            let mut answer = [0; 4096];
            let asked = onward
                .send_to(&buffer[..length], DNS[0])
                .and_then(|_| onward.recv(&mut answer));
            if let Ok(length) = asked {
                let _ = socket.send_to(&answer[..length], from);
            }
        }
    });
    // Keeps what is asked of port 53 of other addresses from being an error of its own.
    DnsServer::start(ZoneSpec::new(), &["127.0.0.12:5353".parse().unwrap()]).unwrap()
}

fn dockers_dns_forwards_and_nobody_else_reaches_it() {
    needs_second_uid();
    let world = World::new();
    let _docker = docker();
    allowlist("api.example.org\n*.example.org\n");
    let embedded: SocketAddr = EMBEDDED.parse().unwrap();
    let at_53 = SocketAddr::new(embedded.ip(), 53);
    reaches(&[
        Step::Dns(at_53, "tunnel.example.net".into()),
        Step::Dns(embedded, "tunnel.example.net".into()),
    ]);
    let control = world.queries().len();
    assert_eq!(control, 2);
    let steps = [
        Step::TcpName("api.example.org".into(), 443, false),
        Step::TcpName("git.example.org".into(), 443, false),
        Step::Dns(at_53, "tunnel.example.net".into()),
        Step::Dns(embedded, "tunnel.example.net".into()),
        Step::DnsTcp(embedded, "tunnel.example.net".into()),
        lookup("tunnel.example.net"),
    ];
    // The fourth goes past port 53, to where Docker's DNS really listens.
    let outcomes = world.behind(&["--supervise"], &steps);
    assert_eq!(
        ok(&outcomes),
        [true, true, true, false, false, false],
        "{outcomes:#?}"
    );
    let unlisted = |world: &World| {
        let queries = world.queries();
        queries
            .iter()
            .skip(control)
            .filter(|query| query.name.contains("tunnel"))
            .count()
    };
    assert_eq!(unlisted(&world), 0);
    // Nor is there such a way in mode pinned.
    allowlist("api.example.org\n");
    let outcomes = world.behind(&[], &steps);
    assert_eq!(
        ok(&outcomes),
        [true, false, false, false, false, false],
        "{outcomes:#?}"
    );
    assert_eq!(unlisted(&world), 0);
}

fn nobody_answers_in_the_place_of_a_server() {
    needs_second_uid();
    let world = World::new();
    let _docker = docker();
    resolv_conf("nameserver 127.0.0.11\nnameserver 2001:db8::53\n# ExtServers: [192.0.2.53]\n");
    allowlist("api.example.org\n");
    // Whoever the resolver is, its sockets are somewhere on loopback.
    let resolver = |address: &str| {
        let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        socket
    };
    let (v4, v6) = (resolver("127.0.0.1"), resolver("::1"));
    let heard = |socket: &UdpSocket| socket.recv(&mut [0; 64]).is_ok();
    let from = |address: &str, to: &UdpSocket| {
        Step::Forged(address.parse().unwrap(), to.local_addr().unwrap())
    };
    let forged = [from("127.0.0.11:53", &v4), from("[2001:db8::53]:53", &v6)];
    let honest = [from("127.0.0.12:53", &v4), from("[2001:db8::54]:53", &v6)];
    // Control: without rules an unprivileged process can do it.
    assert_eq!(ok(&as_node(&forged).outcomes()), [true, true]);
    assert!(heard(&v4) && heard(&v6));
    let started = supervised(&world, &[]);
    assert_eq!(ok(&as_node(&forged).outcomes()), [false, false]);
    assert!(!heard(&v4) && !heard(&v6));
    assert_eq!(ok(&as_node(&honest).outcomes()), [true, true]);
    assert!(heard(&v4) && heard(&v6));
    assert!(as_node(&[lookup("api.example.org")]).outcomes()[0].is_ok());
    end(started);
}

/// It is redirected to loopback, and its new route is by the link all the same.
fn a_query_from_a_socket_that_is_bound_to_the_link_does_not_leave() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let bound = |to: SocketAddr| {
        let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0").unwrap();
        socket.send_to(b"no DNS at all", to)
    };
    let strays = |frames: Vec<Frame>| -> Vec<Frame> {
        let strays = frames
            .into_iter()
            .filter(|frame| !frame.is_neighbour_talk());
        strays.collect()
    };
    let targets = [FOREIGN_DNS[0], FOREIGN_DNS[1]]
        .into_iter()
        .chain(["127.0.0.1:53", "[::1]:53"].map(|to| to.parse().unwrap()));
    let targets: Vec<SocketAddr> = targets.collect();
    let (sent, frames) = world.arrived(|| bound(targets[0]).is_ok() && bound(targets[1]).is_ok());
    assert!(sent && strays(frames).len() >= 2, "control");
    let started = supervised(&world, &[]);
    let ((), frames) = world.arrived(|| {
        for to in targets {
            let _ = bound(to);
        }
    });
    let strays = strays(frames);
    assert!(strays.is_empty(), "{strays:#?}");
    end(started);
}

fn a_server_that_is_gone_is_not_replaced_by_the_command() {
    needs_second_uid();
    let world = World::new();
    sysctl("ipv4/ip_unprivileged_port_start", "0");
    resolv_conf("nameserver 127.0.0.11\nnameserver ::1\n# ExtServers: [192.0.2.53]\n");
    allowlist("api.example.org\n*.example.org\n");
    let lies = ZoneSpec::new()
        .addresses("api.example.org", &[&ELSEWHERE[0].to_string()])
        .addresses("git.example.org", &[&ELSEWHERE[0].to_string()]);
    let at = SocketAddr::from(([127, 0, 0, 11], 53));
    let outcomes = world.behind(
        &[
            "--supervise",
            "--on-unresolved",
            "skip",
            "--resolve-timeout",
            "1s",
        ],
        &[
            Step::ServeDns(at, Box::new(lies)),
            lookup("api.example.org"),
            lookup("git.example.org"),
            Step::Tcp((ELSEWHERE[0], 443).into()),
        ],
    );
    assert_eq!(ok(&outcomes), [true, false, false, false], "{outcomes:#?}");
}

fn ipv6_alone() {
    needs_second_uid();
    let world = World::new();
    ip_batch(
        "addr flush dev eth0 scope global\naddr add fd77::2/64 dev eth0 nodad\nroute replace default via fd77::1",
    );
    resolv_conf("nameserver 2001:db8::53\n");
    allowlist("api.example.org\n");
    let steps = [
        lookup("api.example.org"),
        Step::TcpName("api.example.org".into(), 443, true),
        Step::Dns(FOREIGN_DNS[1], "api.example.org".into()),
        Step::Tcp((GIT[1], 443).into()),
    ];
    let outcomes = world.behind(&["--supervise"], &steps);
    assert_eq!(ok(&outcomes), [true, true, true, false], "{outcomes:#?}");
}

fn without_ipv6() {
    needs_second_uid();
    let world = World::new();
    for which in ["all", "default", "lo"] {
        sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "1");
    }
    resolv_conf("nameserver 192.0.2.53\n");
    allowlist("api.example.org\n");
    let steps = [
        lookup("api.example.org"),
        Step::TcpName("api.example.org".into(), 443, false),
        Step::DnsTcp(FOREIGN_DNS[0], "api.example.org".into()),
        Step::Tcp((GIT[0], 443).into()),
    ];
    let outcomes = world.behind(&["--supervise"], &steps);
    assert_eq!(ok(&outcomes), [true, true, true, false], "{outcomes:#?}");
}

fn a_command_that_is_root_is_no_resolver() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let mut steps = vec![Step::TcpName("api.example.org".into(), 443, false)];
    for server in DNS.into_iter().chain(FOREIGN_DNS) {
        steps.push(Step::Dns(server, "tunnel.example.net".into()));
        steps.push(Step::DnsTcp(server, "tunnel.example.net".into()));
    }
    let outcomes = world.egress().arg("--supervise").probe(&steps).outcomes();
    // They are answered, by the list.
    assert!(outcomes.iter().all(Outcome::is_ok), "{outcomes:#?}");
    let (configured, foreign) = world.outside.queries();
    assert!(
        configured
            .iter()
            .all(|query| query.name == "api.example.org"),
        "{configured:#?}"
    );
    assert!(foreign.is_empty(), "{foreign:#?}");
}

fn who_cannot_be_told_apart_is_refused() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    Run::new("setpriv")
        .args([
            "--bounding-set=-setgid",
            "--inh-caps=-setgid",
            BINARY,
            "--supervise",
        ])
        .command(&["/bin/true"])
        .run()
        .exits(125)
        .says(&["uid 0", "gid 0"]);
    let _docker = docker();
    world
        .egress()
        .arg("--supervise")
        .command(&["/bin/true"])
        .run()
        .exits(125)
        .says(&["127.0.0.11"]);
}

fn a_port_that_is_taken() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let _taken = UdpSocket::bind("127.0.0.1:53").unwrap();
    world.fails(&["--supervise"], &["53"]);
    world.is_locked();
}

fn the_command_keeps_its_own_limit_of_descriptors() {
    needs_second_uid();
    let _world = World::new();
    allowlist("api.example.org\n");
    let run = Run::new("prlimit")
        .args(["--nofile=200:4000", BINARY])
        .args(user_options())
        .args(["--supervise", "--", "/bin/sleep", "1000"]);
    let started = ready(run.start());
    let id = started.id();
    let limit = |id: &str| {
        let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    assert_eq!(limit(&id.to_string()), "4000");
    assert_eq!(limit(children.trim()), "200");
    end(started);
}
