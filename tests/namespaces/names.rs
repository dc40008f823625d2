//! Names, and DNS as a way out: modes pinned and system, resolv.conf, /etc/hosts, what becomes of
//! answers (sections 5 and 7, I7).

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, time::Duration};

use serde_json::json;

use crate::{
    cases,
    support::{
        capture::Frame,
        dns::{Behaviour, DnsServer, Transport, ZoneSpec},
        outside::at,
        probe::Step,
        world::{API, DNS, ELSEWHERE, FOREIGN_DNS, GIT, World, reaches, rejects, zone},
    },
};

cases!(names:
    pinned_puts_the_answers_into_hosts,
    pinned_twice_writes_them_once,
    pinned_closes_port_53_to_every_server,
    pinned_takes_no_wildcard,
    pinned_needs_hosts_that_can_be_written,
    system_leaves_one_way_and_says_so,
    apply_defaults_to_system,
    the_word_of_hosts_is_the_operators,
    an_alias_is_followed,
    search_lists_do_not_multiply_queries,
    a_name_without_a_dot_is_searched_for,
    a_truncated_answer_is_fetched_over_tcp,
    a_silent_server_is_not_the_last_word,
    another_upstream_can_be_named,
    answers_bring_in_no_forbidden_address,
    a_name_of_forbidden_addresses_is_unresolved,
    an_unresolved_name_ends_the_start,
        names_of_one_reason_share_a_line,
    an_unresolved_name_can_be_skipped,
    time_is_up_for_the_whole_list,
);

fn hosts() -> String {
    fs::read_to_string("/etc/hosts").unwrap()
}

fn lookup(name: &str) -> Step {
    Step::Lookup(name.to_owned())
}

/// The names that the configured servers were asked for, each once.
fn asked(world: &World) -> Vec<String> {
    let mut names: Vec<_> = world
        .queries()
        .into_iter()
        .filter(|query| query.kind != "CONNECT")
        .map(|query| query.name)
        .collect();
    names.sort();
    names.dedup();
    names
}

fn pinned_puts_the_answers_into_hosts() {
    let world = World::new();
    let (before, inode) = (hosts(), fs::metadata("/etc/hosts").unwrap().ino());
    let outcomes = world.behind(
        &["--allow", "api.example.org", "--allow", "www.example.org"],
        &[
            lookup("api.example.org"),
            lookup("www.example.org"),
            lookup("git.example.org"),
        ],
    );
    assert_eq!(outcomes[0].detail, json!(API));
    assert_eq!(outcomes[1].detail, json!(API));
    assert!(!outcomes[2].is_ok(), "{outcomes:#?}");
    assert!(
        hosts().starts_with(&before),
        "what was there stays:\n{}",
        hosts()
    );
    assert_eq!(
        fs::metadata("/etc/hosts").unwrap().ino(),
        inode,
        "written in place"
    );
}

fn pinned_twice_writes_them_once() {
    let world = World::new();
    world.enforce(&["--allow", "api.example.org"]);
    let once = hosts();
    assert!(once.contains("api.example.org"), "{once}");
    world.enforce(&["--allow", "api.example.org"]);
    assert_eq!(hosts(), once);
    world.enforce(&["--allow", "git.example.org"]);
    assert!(!hosts().contains("api.example.org"), "{}", hosts());
    assert_eq!(lookup("git.example.org").run().detail, json!(GIT));
}

fn pinned_closes_port_53_to_every_server() {
    let world = World::new();
    let local: Vec<SocketAddr> = ["127.0.0.1", "127.0.0.11", "::1"]
        .iter()
        .map(|address| at(address, 53))
        .collect();
    let server = DnsServer::start(zone(), &local).unwrap();
    let mut steps = Vec::new();
    for address in [&local[..], &DNS, &FOREIGN_DNS].concat() {
        let name = || "c2VjcmV0.tunnel.example.net".to_owned();
        steps.extend([Step::Dns(address, name()), Step::DnsTcp(address, name())]);
    }
    reaches(&steps);
    let controls = |queries: usize| assert_eq!(queries, 9, "three servers: UDP, connect, TCP");
    controls(server.queries().len());
    // A wide entry for the server itself does not open its port 53.
    let wide = format!("{}:*/any", FOREIGN_DNS[0].ip());
    let options = ["--allow", "api.example.org", "--allow", &wide];
    let (outcomes, frames) = world.arrived(|| world.behind(&options, &steps));
    for (step, outcome) in steps.iter().zip(&outcomes) {
        crate::support::world::rejected(step, outcome);
    }
    // As root it is no better, whatever its capabilities.
    let ((), more) = world.arrived(|| rejects(&steps));
    controls(server.queries().len());
    let foreign = FOREIGN_DNS.map(|server| server.ip());
    let strays: Vec<_> = frames
        .iter()
        .chain(&more)
        .filter(|frame| foreign.iter().any(|server| frame.to(*server)))
        .collect();
    assert!(strays.is_empty(), "{strays:#?}");
    // To stop, it would send to itself, which is what no longer works.
    std::mem::forget(server);
    assert_eq!(
        asked(&world),
        ["api.example.org", "c2vjcmv0.tunnel.example.net"]
    );
}

fn pinned_takes_no_wildcard() {
    let world = World::new();
    world.fails(
        &["--allow", "*.example.org"],
        &["--allow:1:1", "*.example.org"],
    );
    world.is_locked();
}

fn pinned_needs_hosts_that_can_be_written() {
    use nix::mount::{MsFlags, mount};

    let world = World::new();
    world.enforce(&["--allow", "api.example.org"]);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(
        None::<&str>,
        "/etc/hosts",
        None::<&str>,
        flags,
        None::<&str>,
    )
    .unwrap();
    world.fails(&["--allow", "git.example.org"], &["/etc/hosts", "system"]);
    world.is_locked();
}

fn system_leaves_one_way_and_says_so() {
    let world = World::new();
    let before = hosts();
    let ran = world
        .enforce(&["--dns", "system", "--allow", "api.example.org"])
        .says(&["tunnel"]);
    assert!(ran.stderr().contains("dns system"), "{ran}");
    assert_eq!(hosts(), before, "only pinned touches it");
    let name = || "api.example.org".to_owned();
    for server in DNS {
        reaches(&[Step::Dns(server, name()), Step::DnsTcp(server, name())]);
    }
    let ((), frames) = world.arrived(|| {
        for server in FOREIGN_DNS {
            rejects(&[Step::Dns(server, name()), Step::DnsTcp(server, name())]);
        }
        // Port 53 is open to the nameserver, and no other port of it.
        rejects(&DNS.map(|server| Step::Tcp((server.ip(), 443).into())));
    });
    assert!(frames.iter().all(Frame::is_neighbour_talk), "{frames:#?}");
    assert_eq!(lookup("api.example.org").run().detail, json!(API));
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
    rejects(&GIT.map(|address| Step::Tcp((address, 443).into())));
}

fn apply_defaults_to_system() {
    let world = World::new();
    let ran = world
        .egress()
        .args(["apply", "--allow", "api.example.org"])
        .run()
        .exits(0)
        .says(&["tunnel"]);
    assert_eq!(ran.stdout(), "");
    reaches(&[
        Step::Dns(DNS[0], "git.example.org".into()),
        Step::Tcp((API[0], 443).into()),
    ]);
    rejects(&ELSEWHERE.map(|address| Step::Tcp((address, 443).into())));
    world.egress().arg("check").run().exits(0);
}

fn the_word_of_hosts_is_the_operators() {
    let world = World::new();
    let line = "198.51.100.77 api.example.org\n";
    fs::write("/etc/hosts", hosts() + line).unwrap();
    let to = |address: &str| Step::Tcp(at(address, 443));
    reaches(&[to("198.51.100.77"), to("198.51.100.10")]);
    world.enforce(&["--allow", "api.example.org", "--allow", "git.example.org"]);
    reaches(&[to("198.51.100.77")]);
    rejects(&[to("198.51.100.10")]);
    assert_eq!(asked(&world), ["git.example.org"]);
    assert_eq!(hosts().matches("api.example.org").count(), 1, "{}", hosts());
}

fn an_alias_is_followed() {
    let zone = ZoneSpec::new()
        .cname("www.example.org", "a.cdn.example.net")
        .cname("a.cdn.example.net", "b.cdn.example.net")
        .addresses("b.cdn.example.net", &["198.51.100.10", "2001:db8::10"]);
    let world = World::new();
    for zone in [zone.clone(), zone.bare_cname()] {
        crate::support::world::forget();
        world.outside.zone(zone);
        world.enforce(&["--allow", "www.example.org"]);
        reaches(&API.map(|address| Step::Tcp((address, 443).into())));
        assert_eq!(lookup("www.example.org").run().detail, json!(API));
    }
}

fn search_lists_do_not_multiply_queries() {
    let world = World::new();
    let resolv = format!(
        "search prod.svc.cluster.local svc.cluster.local cluster.local\nnameserver {}\n\
         options ndots:5\n",
        DNS[0].ip()
    );
    fs::write("/etc/resolv.conf", resolv).unwrap();
    world.enforce(&["--allow", "api.example.org", "--allow", "git.example.org."]);
    assert_eq!(asked(&world), ["api.example.org", "git.example.org"]);
    let queries = world.queries();
    assert_eq!(queries.len(), 4, "A and AAAA of two names: {queries:#?}");
}

fn a_name_without_a_dot_is_searched_for() {
    let zone = ZoneSpec::new().addresses("db.prod.example.org", &["198.51.100.10"]);
    let world = World::with_zone(zone);
    let resolv = format!("search prod.example.org\nnameserver {}\n", DNS[0].ip());
    fs::write("/etc/resolv.conf", resolv).unwrap();
    world.enforce(&["--allow", "db:5432"]);
    reaches(&[Step::Tcp((API[0], 5432).into())]);
    assert_eq!(lookup("db").run().detail, json!(["198.51.100.10"]));
}

fn a_truncated_answer_is_fetched_over_tcp() {
    let world = World::with_zone(zone().on("api.example.org", Behaviour::Truncate));
    world.enforce(&["--allow", "api.example.org"]);
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
    let over_tcp = world
        .queries()
        .into_iter()
        .filter(|query| query.transport == Transport::Tcp && query.kind == "A");
    assert_eq!(over_tcp.count(), 1);
}

fn a_silent_server_is_not_the_last_word() {
    let world = World::new();
    let resolv = format!("nameserver 203.0.113.200\nnameserver {}\n", DNS[0].ip());
    fs::write("/etc/resolv.conf", resolv).unwrap();
    let ran = world.enforce(&["--allow", "api.example.org"]);
    assert!(ran.elapsed < Duration::from_secs(6), "{ran}");
    reaches(&[Step::Tcp((API[0], 443).into())]);
}

fn another_upstream_can_be_named() {
    let world = World::new();
    let upstream = FOREIGN_DNS[0].ip().to_string();
    world.enforce(&["--dns-upstream", &upstream, "--allow", "api.example.org"]);
    let (configured, foreign) = world.outside.queries();
    assert_eq!(configured, []);
    assert!(!foreign.is_empty());
    reaches(&[Step::Tcp((API[0], 443).into())]);
    // The hole was for the start.
    rejects(&[Step::Dns(FOREIGN_DNS[0], "api.example.org".into())]);
}

/// What no answer may bring in (section 5).
const FORBIDDEN: [&str; 10] = [
    "169.254.169.254",
    "127.0.0.5",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "fe80::1",
    "::1",
    "::",
    "ff02::1",
    "::ffff:198.51.100.20",
];

fn answers_bring_in_no_forbidden_address() {
    let world = World::with_zone(
        zone()
            .addresses("mixed.example.org", &FORBIDDEN)
            .addresses("mixed.example.org", &["198.51.100.10", "10.1.2.3"]),
    );
    world.enforce(&["--allow", "mixed.example.org:443"]);
    reaches(&[Step::Tcp((API[0], 443).into())]);
    rejects(&[
        Step::Tcp(at("169.254.169.254", 443)),
        Step::Tcp((GIT[0], 443).into()),
    ]);
    let found = lookup("mixed.example.org").run();
    assert_eq!(found.detail, json!(["10.1.2.3", "198.51.100.10"]));
    let table = crate::support::world::table("egress_init").unwrap();
    for address in ["169.254.169.254", "127.0.0.5", "224.0.0.1", "::ffff:"] {
        assert!(!table.contains(address), "{address} is in\n{table}");
    }
}

/// After the filter it is a name without an address.
fn a_name_of_forbidden_addresses_is_unresolved() {
    let world = World::with_zone(zone().addresses("bad.example.org", &FORBIDDEN));
    world.fails(&["--allow", "bad.example.org"], &["bad.example.org"]);
    world.enforce(&["--on-unresolved", "skip", "--allow", "bad.example.org"]);
}

fn an_unresolved_name_ends_the_start() {
    let world = World::with_zone(
        zone()
            .on("servfail.example.org", Behaviour::ServFail)
            .on("refused.example.org", Behaviour::Refused),
    );
    for (name, reason) in [
        ("gone.example.org", "NXDOMAIN"),
        ("servfail.example.org", "SERVFAIL"),
        ("refused.example.org", "REFUSED"),
    ] {
        let options = [
            "--resolve-timeout",
            "2s",
            "--allow",
            "api.example.org",
            "--allow",
            name,
        ];
        let ran = world.fails(&options, &[name]);
        let said = ran.stderr().to_uppercase();
        assert!(said.contains(reason), "expected {reason}\n{ran}");
        assert!(
            !ran.stderr().contains("api.example.org"),
            "that one is fine\n{ran}"
        );
    }
    world.is_locked();
}

fn names_of_one_reason_share_a_line() {
    let world = World::with_zone(zone().on("refused.example.org", Behaviour::Refused));
    let mut options = vec!["--resolve-timeout", "2s"];
    for name in [
        "gone.example.org",
        "refused.example.org",
        "lost.example.org",
    ] {
        options.extend(["--allow", name]);
    }
    let ran = world.fails(&options, &[]);
    let lines: Vec<_> = ran
        .stderr()
        .lines()
        .filter(|line| line.contains("no address for"))
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), 2, "{ran}");
    assert!(
        lines[0].contains("no address for gone.example.org, lost.example.org: NXDOMAIN from "),
        "{ran}"
    );
    assert!(
        lines[1].contains("no address for refused.example.org: "),
        "{ran}"
    );
}

fn an_unresolved_name_can_be_skipped() {
    let world = World::new();
    world
        .enforce(&[
            "--on-unresolved",
            "skip",
            "--allow",
            "api.example.org",
            "--allow",
            "gone.example.org",
        ])
        .says(&["gone.example.org"]);
    reaches(&[Step::Tcp((API[0], 443).into())]);
    rejects(&[Step::Tcp((ELSEWHERE[0], 443).into())]);
}

fn time_is_up_for_the_whole_list() {
    let world = World::with_zone(zone().everything(Behaviour::Drop));
    let mut options = vec!["--resolve-timeout", "600ms"];
    let names: Vec<String> = (0..50).map(|n| format!("n{n}.example.org")).collect();
    for name in &names {
        options.extend(["--allow", name]);
    }
    let ran = world.fails(&options, &["n0.example.org"]);
    assert!(ran.elapsed < Duration::from_millis(1500), "{ran}");
    assert!(ran.elapsed > Duration::from_millis(500), "{ran}");
    world.is_locked();
}
