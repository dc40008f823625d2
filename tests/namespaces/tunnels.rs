//! Ways to carry something out by DNS, each of which is to leave no packet.

use crate::{
    cases,
    support::{
        harness::needs_second_uid,
        live::{as_node, end, supervised},
        probe::Step,
        world::{API, DNS, ELSEWHERE, FOREIGN_DNS, World, allowlist, reaches},
    },
};
use std::{net::SocketAddr, time::Instant};

cases!(tunnels:
    no_query_reaches_a_server,
    a_wildcard_is_bounded_in_length,
    a_wildcard_is_bounded_in_rate,
);

const SECRET: &str = "c2VjcmV0-c2VjcmV0-c2VjcmV0-c2VjcmV0-c2VjcmV0-c2VjcmV0";

fn no_query_reaches_a_server() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n*.listed.example\n");
    let long = [SECRET, SECRET, SECRET, "tunnel.example.net"].join(".");
    let below = format!("{SECRET}.api.example.org");
    let mut steps = Vec::new();
    for server in DNS
        .into_iter()
        .chain(FOREIGN_DNS)
        .chain(ELSEWHERE.map(|at| (at, 53).into()))
    {
        for name in ["tunnel.example.net", &long, &below, "listed.example", "."] {
            let name = if name == "." { "net" } else { name };
            steps.push(Step::Dns(server, name.to_owned()));
            steps.push(Step::DnsTcp(server, name.to_owned()));
        }
        let at = |port| SocketAddr::new(server.ip(), port);
        steps.extend([
            Step::Tcp(at(853)),
            Step::Udp(at(853)),
            Step::Tcp(at(443)),
            Step::Udp(at(443)),
        ]);
        steps.extend([
            Step::Udp(at(5353)),
            Step::Tcp(at(5353)),
            Step::Ping(server.ip()),
        ]);
    }
    reaches(&[
        Step::Dns(FOREIGN_DNS[0], long.clone()),
        Step::DnsTcp(FOREIGN_DNS[1], long),
    ]);
    let started = supervised(&world, &[]);
    let (configured, foreign) = world.outside.queries();
    let before = (configured.len(), foreign.len());
    assert!(before.1 > 0, "control");
    let ((), frames) = world.arrived(|| {
        for attempts in steps.chunks(12) {
            as_node(attempts).outcomes();
        }
    });
    let frames: Vec<_> = frames
        .iter()
        .filter(|frame| !frame.is_neighbour_talk())
        .collect();
    assert!(frames.is_empty(), "{frames:#?}");
    let (configured, foreign) = world.outside.queries();
    assert_eq!((configured.len(), foreign.len()), before);
    reaches(&[Step::Tcp((API[0], 443).into())]);
    end(started);
}

fn a_wildcard_is_bounded_in_length() {
    needs_second_uid();
    let world = World::new();
    allowlist("*.tunnel.example\n");
    let started = supervised(&world, &[]);
    let fits = format!("{}.tunnel.example", &SECRET[..50]);
    let long = format!("{SECRET}.{SECRET}.tunnel.example");
    let steps = [
        Step::Dns(DNS[0], fits.clone()),
        Step::Dns(DNS[0], long.clone()),
        Step::DnsTcp(DNS[1], long),
    ];
    as_node(&steps).outcomes();
    let names: Vec<String> = world
        .queries()
        .into_iter()
        .map(|query| query.name)
        .collect();
    let fits = fits.to_ascii_lowercase();
    assert!(
        !names.is_empty() && names.iter().all(|name| *name == fits),
        "{names:#?}"
    );
    end(started);
}

fn a_wildcard_is_bounded_in_rate() {
    needs_second_uid();
    let world = World::new();
    allowlist("*.tunnel.example\n");
    let started = supervised(&world, &["--dns-wildcard-rate", "4"]);
    let since = Instant::now();
    as_node(&[Step::Flood(DNS[0], "tunnel.example".into(), 3000)]).outcomes();
    let asked = world.queries().len();
    let most = 4.0 * (5.0 + since.elapsed().as_secs_f64()) + 2.0;
    assert!(asked > 4, "{asked}");
    // Each may be asked twice where an answer is late.
    #[allow(clippy::cast_precision_loss)]
    let asked = asked as f64;
    assert!(asked <= 2.0 * most, "{asked} of {most}");
    end(started);
}
