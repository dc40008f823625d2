//! Nameservers that are dead, slow, or lie, as the command meets them.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};

use crate::{
    cases,
    support::{
        dns::{Behaviour, FORGED},
        harness::needs_second_uid,
        live::{addresses, ask, end, supervised},
        probe::Step,
        world::{API, DNS, GIT, World, allowlist, reaches, rejects, zone},
    },
};

cases!(upstreams:
    a_dead_one_is_waited_for_no_longer_than_the_deadline,
    a_slow_one_is_waited_for,
    a_lying_one_opens_nothing,
);

const OPTIONS: [&str; 2] = ["--resolve-timeout", "3s"];

fn a_dead_one_is_waited_for_no_longer_than_the_deadline() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n*.example.org\n");
    let started = supervised(&world, &OPTIONS);
    let known = || addresses(&ask(DNS[0], "api.example.org", RecordType::A).unwrap());
    assert_eq!(known(), [API[0]]);
    world.outside.change(zone().everything(Behaviour::Drop));
    let since = Instant::now();
    let answer = ask(DNS[0], "git.example.org", RecordType::A).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "{:?}",
        since.elapsed()
    );
    // What is known is not affected.
    assert_eq!(known(), [API[0]]);
    world.outside.change(zone());
    crate::support::live::eventually("it lives again", || {
        ask(DNS[0], "git.example.org", RecordType::A).is_some_and(|a| addresses(&a) == [GIT[0]])
    });
    end(started);
}

fn a_slow_one_is_waited_for() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n*.example.org\n");
    let started = supervised(&world, &OPTIONS);
    world
        .outside
        .change(zone().on("git.example.org", Behaviour::DelayMs(700)));
    let answer = ask(DNS[0], "git.example.org", RecordType::A).unwrap();
    assert_eq!(addresses(&answer), [GIT[0]]);
    reaches(&[Step::Tcp((GIT[0], 443).into())]);
    end(started);
}

fn a_lying_one_opens_nothing() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n*.example.org\n");
    let started = supervised(&world, &OPTIONS);
    let lies = [
        Behaviour::WrongIdFirst,
        Behaviour::WrongQuestionFirst,
        Behaviour::Stuffed,
        Behaviour::Garbage,
    ];
    for (turn, lie) in lies.into_iter().enumerate() {
        let name = format!("l{turn}.example.org");
        world.outside.change(
            zone()
                .addresses(&name, &[&GIT[0].to_string()])
                .on(&name, lie),
        );
        let answer = ask(DNS[0], &name, RecordType::A).unwrap();
        let expected: &[_] = if lie == Behaviour::Garbage {
            &[]
        } else {
            &GIT[..1]
        };
        assert_eq!(addresses(&answer), expected, "{lie:?}");
        rejects(&[Step::Tcp((IpAddr::from(FORGED), 443).into())]);
    }
    // Addresses that no answer brings in.
    let never = ["127.0.0.1", "169.254.169.254", "10.77.0.1", "0.0.0.0"];
    world
        .outside
        .change(zone().addresses("never.example.org", &never));
    let answer = ask(DNS[0], "never.example.org", RecordType::A).unwrap();
    assert_eq!(addresses(&answer), Vec::<IpAddr>::new());
    rejects(&[Step::Tcp(([10, 77, 0, 1], 443).into())]);
    end(started);
}
