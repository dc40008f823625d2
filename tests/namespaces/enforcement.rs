//! What may flow (section 6), seen from the command and judged by what arrived outside.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    thread::sleep,
    time::Duration,
};

use crate::{
    cases,
    support::{
        capture::Frame,
        outside::at,
        probe::Step,
        world::{
            API, DNS, ELSEWHERE, FOREIGN_DNS, GIT, World, ip_batch, nft, reaches, rejected,
            rejects, sysctl,
        },
    },
};

cases!(enforcement:
    a_listed_name_is_reached_and_nothing_else,
    a_literal_address_is_reached_and_its_neighbours_are_not,
    protocols_are_kept_apart,
    a_range_has_two_ends,
    any_means_tcp_and_udp_and_no_more,
    a_network_is_reached_up_to_its_edges,
    a_refused_address_wins_over_the_network_around_it,
    a_refused_name_loses_to_an_allowed_name_of_the_same_address,
    source_routes_lead_nowhere,
    no_mark_opens_a_way,
    loopback_stays_open,
    ipv6_that_comes_later_is_closed_already,
    neighbours_still_find_each_other,
    an_error_about_a_flow_comes_in,
    multicast_reports_carry_next_to_nothing,
);

/// Positive control, then the same as the command: these succeed, those are rejected at once, and
/// nothing arrives outside but what succeeded.
#[track_caller]
fn decides(world: &World, options: &[&str], allowed: &[Step], blocked: &[Step]) {
    reaches(allowed);
    reaches(blocked);
    let steps = [blocked, allowed].concat();
    let (outcomes, frames) = world.arrived(|| world.behind(options, &steps));
    for (step, outcome) in blocked.iter().zip(&outcomes) {
        rejected(step, outcome);
    }
    for (step, outcome) in allowed.iter().zip(&outcomes[blocked.len()..]) {
        assert!(outcome.is_ok(), "{step:?} is allowed: {outcome:?}");
    }
    let strays: Vec<_> = frames
        .iter()
        .filter(|frame| !frame.is_neighbour_talk() && !is_own_query(frame))
        .filter(|frame| !allowed.iter().any(|step| belongs(frame, step)))
        .collect();
    assert!(strays.is_empty(), "these got out: {strays:#?}");
}

/// What egress-init itself asked; the case looks at the server's log for what was in it.
fn is_own_query(frame: &Frame) -> bool {
    DNS.iter().any(|server| frame.to_port(*server))
}

fn belongs(frame: &Frame, step: &Step) -> bool {
    match step {
        Step::Tcp(to) => frame.protocol == 6 && frame.to_port(*to),
        Step::Udp(to) => frame.protocol == 17 && frame.to_port(*to),
        _ => false,
    }
}

fn tcp(addresses: [IpAddr; 2], port: u16) -> [Step; 2] {
    addresses.map(|address| Step::Tcp((address, port).into()))
}

fn udp(addresses: [IpAddr; 2], port: u16) -> [Step; 2] {
    addresses.map(|address| Step::Udp((address, port).into()))
}

fn ping(addresses: [IpAddr; 2]) -> [Step; 2] {
    addresses.map(Step::Ping)
}

fn a_listed_name_is_reached_and_nothing_else() {
    let world = World::new();
    let mut blocked = [
        tcp(API, 444),
        tcp(GIT, 443),
        tcp(ELSEWHERE, 443),
        tcp(ELSEWHERE, 80),
        udp(API, 443),
        udp(ELSEWHERE, 443),
        ping(API),
        ping(ELSEWHERE),
    ]
    .concat();
    for server in [DNS, FOREIGN_DNS].concat() {
        let name = || "c2VjcmV0.tunnel.example.net".to_owned();
        blocked.extend([Step::Dns(server, name()), Step::DnsTcp(server, name())]);
    }
    let allowed = [tcp(API, 443), tcp(API, 80)].concat();
    let asked = world.queries().len();
    decides(&world, &["--allow", "api.example.org"], &allowed, &blocked);
    // The control phase asked for the tunnel's name: four times in all.
    let own: Vec<_> = world
        .queries()
        .into_iter()
        .skip(asked)
        .filter(|query| query.kind != "CONNECT")
        .map(|query| query.name)
        .collect();
    let tunnelled = own.iter().filter(|name| name.contains("tunnel")).count();
    assert_eq!(tunnelled, 4, "the server was asked {own:?}");
    assert!(
        own.iter()
            .all(|name| name.contains("tunnel") || name == "api.example.org"),
        "the server was asked {own:?}"
    );
}

fn a_literal_address_is_reached_and_its_neighbours_are_not() {
    let world = World::new();
    let neighbours = ["198.51.100.11", "2001:db8::11"].map(|a| a.parse().unwrap());
    decides(
        &world,
        &["--allow", "198.51.100.10", "--allow", "2001:db8::10"],
        &[tcp(API, 443), tcp(API, 80)].concat(),
        &[tcp(neighbours, 443), tcp(API, 22), udp(API, 443)].concat(),
    );
}

fn protocols_are_kept_apart() {
    let world = World::new();
    decides(
        &world,
        &[
            "--allow",
            "api.example.org:123/udp",
            "--allow",
            "git.example.org:22,9000/tcp",
        ],
        &[udp(API, 123), tcp(GIT, 22), tcp(GIT, 9000)].concat(),
        &[
            tcp(API, 123),
            udp(API, 443),
            udp(GIT, 22),
            tcp(GIT, 443),
            tcp(API, 22),
        ]
        .concat(),
    );
}

fn a_range_has_two_ends() {
    let world = World::new();
    decides(
        &world,
        &["--allow", "api.example.org:8000-8100"],
        &[tcp(API, 8000), tcp(API, 8050), tcp(API, 8100)].concat(),
        &[tcp(API, 7999), tcp(API, 8101), udp(API, 8050)].concat(),
    );
}

fn any_means_tcp_and_udp_and_no_more() {
    let world = World::new();
    decides(
        &world,
        &[
            "--allow",
            "api.example.org:*/any",
            "--allow",
            "git.example.org:443/any",
        ],
        &[
            tcp(API, 22),
            tcp(API, 9000),
            udp(API, 123),
            tcp(GIT, 443),
            udp(GIT, 443),
        ]
        .concat(),
        &[ping(API), ping(GIT), tcp(GIT, 444), udp(GIT, 444)].concat(),
    );
    // Only root has raw sockets: ICMP, GRE, ESP, SCTP.
    for protocol in [1, 47, 50, 132] {
        let ((), frames) = world.arrived(|| rejects(&API.map(|api| Step::Raw(api, protocol))));
        let strays: Vec<_> = frames.iter().filter(|f| !f.is_neighbour_talk()).collect();
        assert!(
            strays.is_empty(),
            "protocol {protocol} got out: {strays:#?}"
        );
    }
}

fn a_network_is_reached_up_to_its_edges() {
    let world = World::new();
    let pair = |v4: &str, v6: &str| [v4, v6].map(|a| a.parse::<IpAddr>().unwrap());
    decides(
        &world,
        &[
            "--allow",
            "198.51.100.64/26:443",
            "--allow",
            "[2001:db8:7::/64]:443",
        ],
        &[
            tcp(pair("198.51.100.64", "2001:db8:7::"), 443),
            tcp(
                pair("198.51.100.127", "2001:db8:7::ffff:ffff:ffff:ffff"),
                443,
            ),
        ]
        .concat(),
        &[
            tcp(pair("198.51.100.63", "2001:db8:6:ffff::1"), 443),
            tcp(pair("198.51.100.128", "2001:db8:7:1::"), 443),
            tcp(pair("198.51.100.64", "2001:db8:7::"), 80),
        ]
        .concat(),
    );
}

fn a_refused_address_wins_over_the_network_around_it() {
    let world = World::new();
    decides(
        &world,
        &[
            "--allow",
            "198.51.100.0/24",
            "--allow",
            "2001:db8::/64",
            "--allow",
            "!198.51.100.20",
            "--allow",
            "!2001:db8::20",
            "--allow",
            "!198.51.100.32/30:443",
        ],
        &[
            tcp(API, 443).to_vec(),
            vec![Step::Tcp(at("198.51.100.33", 80))],
        ]
        .concat(),
        &[
            tcp(GIT, 443).to_vec(),
            tcp(GIT, 80).to_vec(),
            vec![Step::Tcp(at("198.51.100.33", 443))],
        ]
        .concat(),
    );
}

fn a_refused_name_loses_to_an_allowed_name_of_the_same_address() {
    let world = World::new();
    let network = ["--allow", "198.51.100.0/24", "--allow", "2001:db8::/64"];
    // git is refused, and only the network allows its addresses.
    let refused = [&network[..], &["--allow", "!git.example.org"]].concat();
    decides(&world, &refused, &tcp(API, 443), &tcp(GIT, 443));
    nft("delete table inet egress_init");
    // www is an alias of api: the name that is allowed wins, and a warning names it.
    let shared = ["--allow", "api.example.org", "--allow", "!www.example.org"];
    decides(&world, &shared, &tcp(API, 443), &tcp(GIT, 443));
    world.enforce(&shared).says(&["www.example.org"]);
}

fn source_routes_lead_nowhere() {
    let world = World::new();
    let first: [SocketAddr; 2] = API.map(|address| (address, 9000).into());
    let (IpAddr::V4(end4), IpAddr::V6(end6)) = (ELSEWHERE[0], ELSEWHERE[1]) else {
        unreachable!("one of each")
    };
    let routed = [
        Step::SourceRoute {
            first: first[0],
            end: end4,
        },
        Step::RoutingHeader {
            first: first[1],
            end: end6,
        },
    ];
    // Control: both leave, by way of an address that will be allowed.
    let ((), frames) = world.arrived(|| reaches(&routed));
    assert_eq!(frames.iter().filter(|frame| frame.source_routed).count(), 2);
    let allowed = API.map(|address| Step::Udp((address, 9000).into()));
    let steps = [&routed[..], &allowed[..]].concat();
    let options = ["--allow", "api.example.org:9000/udp"];
    let (outcomes, frames) = world.arrived(|| world.behind(&options, &steps));
    let routed_out: Vec<_> = frames.iter().filter(|frame| frame.source_routed).collect();
    assert!(routed_out.is_empty(), "got out: {routed_out:#?}");
    assert!(outcomes[2].is_ok() && outcomes[3].is_ok(), "{outcomes:#?}");
    for (step, outcome) in routed.iter().zip(&outcomes) {
        rejected(step, outcome);
    }
}

fn no_mark_opens_a_way() {
    let world = World::new();
    let to: [SocketAddr; 2] = ELSEWHERE.map(|address| (address, 9000).into());
    reaches(&to.map(|to| Step::Marked(to, 1)));
    world.enforce(&["--allow", "api.example.org"]);
    let ((), frames) = world.arrived(|| {
        let marks = (0..32)
            .map(|bit| 1 << bit)
            .chain([0x6567, 0xe9e5, u32::MAX]);
        for mark in marks {
            rejects(&to.map(|to| Step::Marked(to, mark)));
        }
    });
    assert!(frames.iter().all(Frame::is_neighbour_talk), "{frames:#?}");
}

fn loopback_stays_open() {
    let world = World::new();
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        let listener = std::net::TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(|| crate::support::outside::echo(stream));
            }
        });
    }
    let local = [at("127.0.0.1", 8080), at("::1", 8080)].map(Step::Tcp);
    decides(
        &world,
        &["--allow", "api.example.org"],
        &local,
        &tcp(ELSEWHERE, 443),
    );
}

/// I6: the namespace has no IPv6 when egress-init starts, and gets it afterwards.
fn ipv6_that_comes_later_is_closed_already() {
    let world = World::new();
    reaches(&tcp(ELSEWHERE, 443));
    sysctl("ipv6/conf/all/disable_ipv6", "1");
    let without = Step::Tcp((API[1], 443).into()).run();
    assert!(!without.is_ok(), "IPv6 is meant to be gone: {without:?}");
    world.enforce(&["--allow", "api.example.org"]);
    sysctl("ipv6/conf/all/disable_ipv6", "0");
    ip_batch(
        "addr add fd77::2/64 dev eth0 nodad
         route replace default via fd77::1",
    );
    // How soon is not asked: an interface that has just got IPv6 may lose the first reset.
    let (outcomes, frames) = world.arrived(|| tcp(ELSEWHERE, 443).map(|step| step.run()));
    assert!(
        outcomes.iter().all(|outcome| !outcome.is_ok()),
        "{outcomes:#?}"
    );
    assert!(frames.iter().all(Frame::is_neighbour_talk), "{frames:#?}");
    // Control: the path is back, and what the list allows takes it.
    reaches(&tcp(API, 443));
}

/// Without neighbour discovery in both directions IPv6 would work for as long as the entries of
/// before last.
fn neighbours_still_find_each_other() {
    let world = World::new();
    world.enforce(&["--allow", "api.example.org"]);
    for _ in 0..2 {
        ip_batch("neigh flush dev eth0");
        world.outside.forget_neighbours();
        reaches(&tcp(API, 443));
    }
    let ((), frames) = world.arrived(|| {
        ip_batch("neigh flush dev eth0");
        reaches(&tcp(API, 443));
    });
    assert!(frames.iter().any(Frame::is_neighbour_talk), "it had to ask");
}

/// No rule is about ICMP errors: conntrack counts them to the flow that they are about.
fn an_error_about_a_flow_comes_in() {
    let world = World::new();
    // Nobody listens there, which is said by ICMP.
    let nobody = udp(API, 9);
    for outcome in world.behind(&["--allow", "api.example.org:9/udp"], &nobody) {
        assert_eq!(outcome.result, "ECONNREFUSED", "{outcome:?}");
    }
    // Without its flow the error stays out, and nothing is heard.
    nft("insert rule inet egress_init input ct state related drop");
    for outcome in nobody.iter().map(Step::run) {
        assert_eq!(outcome.result, "timeout", "{outcome:?}");
    }
}

/// Whoever joins groups chooses what the kernel reports of them to the link (RFC 3810 section 5.2).
fn multicast_reports_carry_next_to_nothing() {
    /// Joins so many groups; the octets of the reports that arrive of them.
    fn reported(world: &World, first: u16, groups: u16) -> usize {
        let interface = nix::net::if_::if_nametoindex("eth0").unwrap();
        let ((), frames) = world.arrived(|| {
            let mut sockets = Vec::new();
            for group in first..first + groups {
                if group % 10 == 0 {
                    sockets.push(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
                }
                let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0x5eed, 0, group);
                let socket = sockets.last().unwrap();
                socket.join_multicast_v6(&group, interface).unwrap();
            }
            // The kernel tells of a change twice within a second or two.
            sleep(Duration::from_millis(2500));
        });
        let reports = frames.iter().filter(|frame| frame.icmp == Some(143));
        reports.map(|frame| frame.octets).sum()
    }
    let world = World::new();
    let before = reported(&world, 0, 300);
    assert!(before > 12_000, "{before} octets without a firewall");
    world.enforce(&["--allow", "api.example.org"]);
    let after = reported(&world, 1000, 300);
    // The burst, and the rate for as long as it took.
    assert!(after < 4500, "{after} octets");
}
