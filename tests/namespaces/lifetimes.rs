//! Addresses that live: when they come, how long they stay, and what stays longer.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::RecordType;

use crate::{
    cases,
    support::{
        dns::{Behaviour, ZoneSpec},
        harness::needs_second_uid,
        live::{
            Going, SHORT, addresses, ask, end, eventually, is_open, status, status_of, supervised,
        },
        probe::Step,
        world::{DNS, GIT, World, allowlist, reaches, rejects},
    },
};

cases!(lifetimes:
    what_nobody_asks_for_again_ends_and_its_flows_do_not,
    an_address_is_there_before_anybody_asks,
    answers_that_rotate_are_all_reached,
    a_failed_refresh_keeps_the_last_good_answer,
    silence_keeps_the_last_good_answer_too,
    names_that_wait_for_their_turn_keep_theirs_as_well,
    ranges_of_many_addresses_live_on,
    what_does_not_exist_any_more_ends_with_its_time,
    a_refused_name_without_an_address_is_no_news,
);

/// `api.example.org` at this address of 198.51.100.0/24, for a second.
fn api_at(last: u8) -> ZoneSpec {
    let address = format!("198.51.100.{last}");
    ZoneSpec::new()
        .addresses("api.example.org", &[&address])
        .ttl("api.example.org", 1)
}

fn address(last: u8) -> std::net::IpAddr {
    [198, 51, 100, last].into()
}

fn what_nobody_asks_for_again_ends_and_its_flows_do_not() {
    needs_second_uid();
    let git = GIT.map(|address| address.to_string());
    let zone = ZoneSpec::new()
        .addresses("git.example.org", &[&git[0], &git[1]])
        .ttl("git.example.org", 1);
    let world = World::with_zone(zone);
    allowlist("*.example.org\n");
    let started = supervised(&world, &SHORT);
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    let answer = ask(DNS[0], "git.example.org", RecordType::A).unwrap();
    let asked = Instant::now();
    assert_eq!(addresses(&answer), [GIT[0]]);
    let flow = Going::flow((GIT[0], 443).into());
    eventually("it ends", || !is_open(GIT[0]));
    assert!(
        asked.elapsed() > Duration::from_millis(1500),
        "{:?}",
        asked.elapsed()
    );
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    flow.goes_on();
    flow.never_failed();
    // A new answer brings it in again.
    ask(DNS[0], "git.example.org", RecordType::A).unwrap();
    reaches(&[Step::Tcp((GIT[0], 443).into())]);
    end(started);
}

fn an_address_is_there_before_anybody_asks() {
    needs_second_uid();
    let world = World::with_zone(api_at(10));
    allowlist("api.example.org\n");
    let started = supervised(&world, &SHORT);
    reaches(&[Step::Tcp((address(10), 443).into())]);
    rejects(&[Step::Tcp((address(11), 443).into())]);
    world.outside.change(api_at(11));
    eventually("the new one is there", || is_open(address(11)));
    eventually("the old one ends", || !is_open(address(10)));
    // And what lives on is never away, however often it is made to live longer.
    let clients = Going::connections((address(11), 443).into());
    sleep(Duration::from_secs(6));
    clients.never_failed();
    end(started);
}

fn answers_that_rotate_are_all_reached() {
    needs_second_uid();
    let world = World::with_zone(api_at(100));
    allowlist("api.example.org\n*.rotate.example\n");
    let started = supervised(&world, &SHORT);
    for turn in 0..24 {
        let last = 100 + turn;
        let text = format!("198.51.100.{last}");
        let zone = api_at(last)
            .addresses("a.rotate.example", &[&text])
            .ttl("a.rotate.example", 0);
        world.outside.change(zone);
        for name in ["api.example.org", "a.rotate.example"] {
            let answer = ask(DNS[usize::from(turn % 2)], name, RecordType::A).unwrap();
            for address in addresses(&answer) {
                reaches(&[Step::Tcp((address, 443).into())]);
            }
            assert!(!answer.answers.is_empty(), "{answer:?}");
        }
        sleep(Duration::from_millis(150));
    }
    end(started);
}

/// For as long as `behaviour` lasts, which is much longer than the address lives.
fn kept_through(behaviour: Behaviour) {
    let world = World::with_zone(api_at(10));
    allowlist("api.example.org\n");
    let started = supervised(&world, &[&SHORT[..], &["--resolve-timeout", "3s"]].concat());
    let clients = Going::connections((address(10), 443).into());
    // The resolver knows what it was asked for itself.
    ask(DNS[0], "api.example.org", RecordType::A).unwrap();
    clients.goes_on();
    world.outside.change(api_at(10).everything(behaviour));
    eventually("it is said", || {
        status_of("api.example.org")["error"].is_string()
    });
    sleep(Duration::from_secs(8));
    clients.goes_on();
    assert!(status_of("api.example.org")["error"].is_string());
    let lives = &status_of("api.example.org")["addresses"][0];
    assert_eq!(lives["address"], "198.51.100.10");
    // A client is answered too, with what there was.
    let answer = ask(DNS[0], "api.example.org", RecordType::A).unwrap();
    assert_eq!(addresses(&answer), [address(10)]);
    world.outside.change(api_at(10));
    eventually("it is over", || {
        status_of("api.example.org")["error"].is_null()
    });
    clients.never_failed();
    end(started).says(&[
        "could not refresh api.example.org",
        "its last addresses are kept for an hour at most",
        "api.example.org resolves again",
    ]);
}

fn a_failed_refresh_keeps_the_last_good_answer() {
    needs_second_uid();
    kept_through(Behaviour::ServFail);
}

fn silence_keeps_the_last_good_answer_too() {
    needs_second_uid();
    kept_through(Behaviour::Drop);
}

/// More names than are asked for at once, each of which takes longer than an address lives: the
/// last of them were out of the sets before anybody asked for them.
fn names_that_wait_for_their_turn_keep_theirs_as_well() {
    needs_second_uid();
    let names: Vec<String> = (0..200).map(|n| format!("n{n:03}.example.org")).collect();
    let zone = |behaviour| {
        let zone = ZoneSpec::new().everything(behaviour);
        names.iter().enumerate().fold(zone, |zone, (n, name)| {
            let address = format!("198.51.100.{n}");
            zone.addresses(name, &[&address]).ttl(name, 1)
        })
    };
    let world = World::with_zone(zone(Behaviour::Answer));
    allowlist(&(names.join("\n") + "\n"));
    let lives = ["--dns-min-ttl", "2s", "--dns-grace", "2s"];
    let options = [&lives[..], &["--resolve-timeout", "5s"]].concat();
    let started = supervised(&world, &options);
    let open = || {
        let status = status();
        let names = status["names"].as_array().unwrap().iter();
        names
            .filter(|name| !name["addresses"].as_array().unwrap().is_empty())
            .count()
    };
    eventually("all are open", || open() == names.len());
    world.outside.change(zone(Behaviour::Drop));
    // Each turn of 64 takes five seconds.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(15) {
        assert_eq!(open(), names.len(), "after {:?}", since.elapsed());
        sleep(Duration::from_millis(250));
    }
    world.outside.change(zone(Behaviour::Answer));
    end(started);
}

/// Linux 5.10 refuses to renew an element among many of one range of ports, and this fails there
/// (docs/production.md). With 6.12, of eight hundred connections one was refused while sixty elements
/// were renewed each second: what is asked here is that it goes on, and that no flow breaks.
fn ranges_of_many_addresses_live_on() {
    needs_second_uid();
    let names: Vec<String> = (0..60).map(|n| format!("n{n:03}.example.org")).collect();
    let zone = names
        .iter()
        .enumerate()
        .fold(ZoneSpec::new(), |zone, (n, name)| {
            let address = format!("198.51.100.{n}");
            zone.addresses(name, &[&address]).ttl(name, 5)
        });
    let world = World::with_zone(zone);
    allowlist(&(names.join(":7000-8000\n") + ":7000-8000\n"));
    let started = supervised(&world, &["--dns-min-ttl", "5s", "--dns-grace", "5s"]);
    let flow = Going::flow((address(30), 8000).into());
    let clients = Going::connections((address(59), 7999).into());
    sleep(Duration::from_secs(15));
    rejects(&[
        Step::Tcp((address(30), 443).into()),
        Step::Tcp((address(60), 8000).into()),
    ]);
    flow.goes_on();
    flow.never_failed();
    clients.goes_on();
    end(started);
}

fn what_does_not_exist_any_more_ends_with_its_time() {
    needs_second_uid();
    let world = World::with_zone(api_at(10));
    allowlist("api.example.org\n");
    let started = supervised(&world, &SHORT);
    reaches(&[Step::Tcp((address(10), 443).into())]);
    let flow = Going::flow((address(10), 443).into());
    world.outside.change(ZoneSpec::new());
    eventually("it ends", || !is_open(address(10)));
    assert!(status_of("api.example.org")["error"].is_string());
    flow.goes_on();
    flow.never_failed();
    end(started).says(&["its addresses end with their time"]);
}

/// It was warned of, as if it were missed.
fn a_refused_name_without_an_address_is_no_news() {
    needs_second_uid();
    let world = World::with_zone(api_at(10));
    allowlist("api.example.org\n!gone.example.org\n");
    let started = supervised(&world, &SHORT);
    eventually("it is asked for again", || {
        let queries = world.queries();
        let asked = queries.iter().filter(|q| q.name == "gone.example.org");
        asked.count() > 4
    });
    let ran = end(started);
    assert!(!ran.stderr().contains("gone.example.org"), "{ran}");
}
