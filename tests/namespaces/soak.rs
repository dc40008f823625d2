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
        dns::ZoneSpec,
        harness::needs_second_uid,
        live::{Going, SHORT, end, resident, status, supervised},
        probe::Step,
        world::{ALLOWLIST, ELSEWHERE, FOREIGN_DNS, GIT, World},
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

fn nothing_allowed_fails_and_nothing_else_passes() {
    needs_second_uid();
    let list = "api.example.org\nstill.example.org\n*.wild.example\n203.0.113.7\n";
    let world = World::with_zone(zone(0));
    fs::write(ALLOWLIST, list).unwrap();
    let started = supervised(&world, &SHORT);
    let pid = started.id();
    let still = ([198, 51, 100, 30], 443).into();
    let allowed = [
        (
            "lookup and connect, a listed name",
            Going::lookups("api.example.org", 443),
        ),
        (
            "lookup and connect, below a wildcard",
            Going::lookups("a.wild.example", 443),
        ),
        ("connect, nobody asks", Going::connections(still)),
        (
            "connect, a literal",
            Going::connections(([203, 0, 113, 7], 443).into()),
        ),
        ("one flow, a name", Going::flow(still)),
        (
            "one flow, a literal",
            Going::flow(([203, 0, 113, 7], 443).into()),
        ),
    ];
    let forbidden = Going::forbidden(vec![
        Step::Tcp((ELSEWHERE[0], 443).into()),
        Step::Udp((ELSEWHERE[1], 443).into()),
        Step::Lookup("tunnel.example.net".into()),
        Step::Tcp((FOREIGN_DNS[0].ip(), 853).into()),
    ]);
    let since = Instant::now();
    let mut memory = Vec::new();
    let mut turn = 0;
    while since.elapsed() < time() {
        turn += 1;
        world.outside.change(zone(turn));
        if turn % 8 == 0 {
            let more = if turn % 16 == 0 {
                ""
            } else {
                "git.example.org\n"
            };
            fs::write(ALLOWLIST, format!("{list}{more}")).unwrap();
        }
        memory.push(resident(pid));
        sleep(Duration::from_millis(400));
    }
    let status = status();
    let mut table = format!(
        "{:38} {:>10} {:>8} {:>12}\n",
        "", "done", "failed", "longest ms"
    );
    let mut failed = Vec::new();
    for (what, going) in allowed {
        let report = going.stop();
        writeln!(
            table,
            "{what:38} {:>10} {:>8} {:>12}",
            report.done,
            report.errors.len(),
            report.longest.as_millis()
        )
        .unwrap();
        if report.done == 0 || !report.errors.is_empty() {
            failed.push(report);
        }
    }
    let report = forbidden.stop();
    let wrong = |frame: &crate::support::capture::Frame| {
        ELSEWHERE.iter().any(|at| frame.to(*at)) || FOREIGN_DNS.iter().any(|at| frame.to(at.ip()))
    };
    let passed = world.frames().iter().filter(|frame| wrong(frame)).count();
    writeln!(
        table,
        "{:38} {:>10} {:>8} {:>12}",
        "forbidden attempts, packets of them", report.done, passed, ""
    )
    .unwrap();
    let half = memory.len() / 2;
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or_default();
    let (first, second) = (most(&memory[..half]), most(&memory[half..]));
    writeln!(
        table,
        "resident, KiB: {} at first, {first} in the first half, {second} in the second",
        memory[0]
    )
    .unwrap();
    writeln!(
        table,
        "{} s, {turn} changes of the zone, {} generations, {} queries answered, {} refused",
        since.elapsed().as_secs(),
        status["policy"]["generation"],
        status["counters"]["dns"]["answered"],
        status["counters"]["dns"]["refused"],
    )
    .unwrap();
    if let Ok(path) = env::var("SOAK_TABLE") {
        fs::write(path, &table).unwrap();
    }
    let ran = end(started);
    assert!(failed.is_empty(), "{table}{failed:#?}\n{ran}");
    assert!(
        report.errors.is_empty() && report.done > 0 && passed == 0,
        "{table}{report:#?}"
    );
    assert!(second <= first + 1024, "memory grows: {table}{memory:?}");
}
