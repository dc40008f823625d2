//! Minutes of it: answers that change all the time and live a second, clients that come again and
//! again, lists that change, clients that try what they must not. `make soak` runs it for longer
//! than the tests do and shows the table.

use std::{
    env,
    fmt::Write as _,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    cases,
    support::{
        capture::Frame,
        dns::ZoneSpec,
        harness::needs_second_uid,
        live::{Going, SHORT, end, resident, status, supervised},
        probe::Step,
        world::{ELSEWHERE, FOREIGN_DNS, GIT, World, allowlist},
    },
};

cases!(soak:
    nothing_allowed_fails_and_nothing_else_passes,
);

/// How long, in seconds: the variable of `scripts/soak`.
fn time() -> Duration {
    let text = env::var("SOAK_SECONDS").unwrap_or_default();
    Duration::from_secs(text.parse().unwrap_or(20))
}

/// Each name at an address that nobody has seen before, for a second.
fn zone(turn: u32) -> ZoneSpec {
    let address = |base: u32| format!("198.51.100.{}", base + turn % 50);
    ZoneSpec::new()
        .addresses("api.example.org", &[&address(100)])
        .ttl("api.example.org", 1)
        .addresses("a.wild.example", &[&address(150)])
        .ttl("a.wild.example", 1)
        .addresses("still.example.org", &["198.51.100.30", "2001:db8::30"])
        .ttl("still.example.org", 1)
        .addresses("git.example.org", &[&GIT[0].to_string()])
}

/// What must never fail, by what it does.
fn allowed() -> [(&'static str, Going); 6] {
    let still = ([198, 51, 100, 30], 443).into();
    let literal = ([203, 0, 113, 7], 443).into();
    [
        (
            "lookup and connect, a listed name",
            Going::lookups("api.example.org", 443),
        ),
        (
            "lookup and connect, below a wildcard",
            Going::lookups("a.wild.example", 443),
        ),
        ("connect, nobody asks", Going::connections(still)),
        ("connect, a literal", Going::connections(literal)),
        ("one flow, a name", Going::flow(still)),
        ("one flow, a literal", Going::flow(literal)),
    ]
}

/// What must never pass.
fn forbidden() -> Going {
    Going::forbidden(vec![
        Step::Tcp((ELSEWHERE[0], 443).into()),
        Step::Udp((ELSEWHERE[1], 443).into()),
        Step::Lookup("tunnel.example.net".into()),
        Step::Tcp((FOREIGN_DNS[0].ip(), 853).into()),
    ])
}

fn is_forbidden(frame: &Frame) -> bool {
    let elsewhere = ELSEWHERE.iter().any(|at| frame.to(*at));
    elsewhere || FOREIGN_DNS.iter().any(|at| frame.to(at.ip()))
}

fn row(what: &str, cells: [&str; 3]) -> String {
    let [done, failed, longest] = cells;
    format!("{what:38} {done:>10} {failed:>8} {longest:>12}\n")
}

fn most(part: &[u64]) -> u64 {
    part.iter().copied().max().unwrap_or_default()
}

fn nothing_allowed_fails_and_nothing_else_passes() {
    needs_second_uid();
    let list = "api.example.org\nstill.example.org\n*.wild.example\n203.0.113.7\n";
    let world = World::with_zone(zone(0));
    allowlist(list);
    let started = supervised(&world, &SHORT);
    let (allowed, forbidden) = (allowed(), forbidden());
    let since = Instant::now();
    let mut memory = Vec::new();
    let mut turn = 0;
    while since.elapsed() < time() {
        turn += 1;
        world.outside.change(zone(turn));
        match turn % 16 {
            0 => allowlist(list),
            8 => allowlist(&format!("{list}git.example.org\n")),
            _ => {}
        }
        memory.push(resident(started.id()));
        sleep(Duration::from_millis(400));
    }
    let status = status();
    let mut table = row("", ["done", "failed", "longest ms"]);
    let mut failed = Vec::new();
    for (what, going) in allowed {
        let report = going.stop();
        let errors = report.errors.len();
        let cells = [
            report.done,
            errors as u64,
            u64::try_from(report.longest.as_millis()).unwrap(),
        ];
        table += &row(
            what,
            cells
                .map(|cell| cell.to_string())
                .each_ref()
                .map(String::as_str),
        );
        if report.done == 0 || errors > 0 {
            failed.push(report);
        }
    }
    let tried = forbidden.stop();
    let passed = world
        .frames()
        .iter()
        .filter(|frame| is_forbidden(frame))
        .count();
    let cells = [tried.done.to_string(), passed.to_string()];
    table += &row(
        "forbidden: attempts, packets outside",
        [&cells[0], &cells[1], ""],
    );
    let (first, second) = memory.split_at(memory.len() / 2);
    let (first, second) = (most(first), most(second));
    let (policy, dns) = (&status["policy"], &status["counters"]["dns"]);
    writeln!(
        table,
        "resident: {} KiB at first, {first} in the first half, {second} in the second\n\
         {} s, {turn} changes of the zone, {} generations, {} queries answered, {} refused",
        memory[0],
        since.elapsed().as_secs(),
        policy["generation"],
        dns["answered"],
        dns["refused"],
    )
    .unwrap();
    if let Ok(path) = env::var("SOAK_TABLE") {
        fs::write(path, &table).unwrap();
    }
    let ran = end(started);
    assert!(failed.is_empty(), "{table}{failed:#?}\n{ran}");
    assert!(
        tried.errors.is_empty() && tried.done > 0 && passed == 0,
        "{table}{tried:#?}"
    );
    assert!(second <= first + 1024, "memory grows: {table}{memory:?}");
}
