//! `--supervise` in mode `proxy`: what the command is answered, what its answers open and for how
//! long, and what reaches the nameservers.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    cases,
    support::{
        harness::needs_second_uid,
        probe::{Outcome, Step},
        world::{
            ALLOWLIST, API, DNS, FOREIGN_DNS, GIT, SENTINEL, Started, World, allowlist, reaches,
            rejects, table, user_options,
        },
    },
};

cases!(resolver:
    a_listed_name_is_answered_and_reached,
    a_name_below_a_wildcard_is_reached_once_it_was_asked_for,
    whatever_server_is_asked_the_list_answers,
    an_unlisted_name_leaves_no_packet,
    a_changed_list_is_in_force_at_once,
);

/// Starts a command that lives until it is told, in mode `proxy`.
fn supervised(world: &World, options: &[&str]) -> Started {
    let started = world
        .egress()
        .args(user_options())
        .arg("--supervise")
        .args(options)
        .command(&["/bin/sleep", "60"])
        .start();
    let ready = Instant::now() + Duration::from_secs(10);
    while !Path::new(SENTINEL).exists() {
        assert!(Instant::now() < ready, "no sentinel");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(50));
    started
}

fn lookup(name: &str) -> Step {
    Step::Lookup(name.into())
}

fn a_listed_name_is_answered_and_reached() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let outcomes = world.behind(
        &["--supervise"],
        &[
            lookup("api.example.org"),
            Step::Tcp((API[0], 443).into()),
            Step::Tcp((API[1], 443).into()),
            Step::Tcp((GIT[0], 443).into()),
            Step::TcpName("api.example.org".into(), 443, false),
            Step::TcpName("api.example.org".into(), 443, true),
        ],
    );
    let ok: Vec<bool> = outcomes.iter().map(Outcome::is_ok).collect();
    assert_eq!(ok, [true, true, true, false, true, true], "{outcomes:#?}");
}

fn a_name_below_a_wildcard_is_reached_once_it_was_asked_for() {
    needs_second_uid();
    let world = World::new();
    allowlist("*.example.org\n");
    let outcomes = world.behind(
        &["--supervise"],
        &[
            Step::Tcp((GIT[0], 443).into()),
            lookup("git.example.org"),
            Step::Tcp((GIT[0], 443).into()),
            Step::Tcp((GIT[1], 443).into()),
            Step::Tcp((API[0], 443).into()),
        ],
    );
    let ok: Vec<bool> = outcomes.iter().map(Outcome::is_ok).collect();
    assert_eq!(ok, [false, true, true, true, false], "{outcomes:#?}");
}

fn whatever_server_is_asked_the_list_answers() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let servers: Vec<SocketAddr> = DNS.into_iter().chain(FOREIGN_DNS).collect();
    let mut steps = Vec::new();
    for server in servers {
        steps.push(Step::Dns(server, "api.example.org".into()));
        steps.push(Step::DnsTcp(server, "api.example.org".into()));
    }
    let outcomes = world.behind(&["--supervise"], &steps);
    assert!(outcomes.iter().all(Outcome::is_ok), "{outcomes:#?}");
}

fn an_unlisted_name_leaves_no_packet() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let (outcomes, frames) = world.arrived(|| {
        world.behind(
            &["--supervise"],
            &[
                lookup("tunnel.example.net"),
                Step::Dns(FOREIGN_DNS[0], "tunnel.example.net".into()),
                Step::DnsTcp(FOREIGN_DNS[1], "tunnel.example.net".into()),
            ],
        )
    });
    assert!(!outcomes[0].is_ok(), "{outcomes:#?}");
    let queries = world.queries();
    assert!(
        queries
            .iter()
            .all(|query| query.name.starts_with("api.example.org")),
        "{queries:#?}"
    );
    let _ = frames;
}

fn a_changed_list_is_in_force_at_once() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    reaches(&[Step::Tcp((API[0], 443).into())]);
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    fs::write(ALLOWLIST, "git.example.org\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !Step::Tcp((GIT[0], 443).into()).run().is_ok() {
        assert!(Instant::now() < deadline, "{:?}", table("egress_init"));
        sleep(Duration::from_millis(20));
    }
    rejects(&[Step::Tcp((API[0], 443).into())]);
    fs::write(ALLOWLIST, "not a list\n").unwrap();
    sleep(Duration::from_millis(400));
    reaches(&[Step::Tcp((GIT[0], 443).into())]);
    started.signal(Signal::SIGTERM);
    let ran = started.finish();
    eprintln!("{ran}");
}
