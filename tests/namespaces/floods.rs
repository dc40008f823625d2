//! A command that asks as fast as it can, of names that are listed and of others: everything else
//! has its turn, and nothing grows without end.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::RecordType;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cases,
    support::{
        dns::ZoneSpec,
        harness::needs_second_uid,
        live::{
            LONG, SHORT, ask, end, eventually, is_open, resident, sidecar, status, supervised,
            supervised_above,
        },
        probe::Step,
        world::{ALLOWLIST, DNS, PROBE, Run, Started, World, allowlist, rejects},
    },
};

cases!(floods:
    nothing_starves_in_a_flood,
    nothing_starves_in_a_storm_of_signals,
    nobody_waits_for_a_log_that_is_not_read,
);

fn zone(last: u8) -> ZoneSpec {
    let address = format!("198.51.100.{last}");
    ZoneSpec::new()
        .addresses("api.example.org", &[&address])
        .ttl("api.example.org", 1)
        .addresses("git.example.org", &["198.51.100.20"])
}

/// What an address family takes that is not asked for in the meantime.
const GROWTH: u64 = 8 * 1024;

fn nothing_starves_in_a_flood() {
    needs_second_uid();
    let world = World::with_zone(zone(10));
    allowlist("api.example.org\n*.wild.example\n");
    let steps =
        |name: &str| serde_json::to_string(&[Step::Flood(DNS[0], name.into(), 15_000)]).unwrap();
    // The last of them leaves orphans all the time, beside its queries.
    let script = format!(
        "sleep 2
         {PROBE} __probe '{}' > /dev/null &
         {PROBE} __probe '{}' > /dev/null &
         end=$(($(date +%s) + 15))
         while [ $(date +%s) -lt $end ]; do (sleep 0.01 & sleep 0.02 &); done
         wait",
        steps("unlisted.example.net"),
        steps("wild.example"),
    );
    let mut started = supervised_above(&world, &SHORT, &["/bin/sh", "-c", &script]);
    assert!(is_open([198, 51, 100, 10].into()));
    let before = resident(started.id());
    sleep(Duration::from_secs(4));
    let refused = || status()["counters"]["dns"]["refused"].as_u64().unwrap();
    let first = refused();
    // Refresh.
    world.outside.change(zone(11));
    eventually("a refresh", || is_open([198, 51, 100, 11].into()));
    // Reload, as the file changes and as somebody asks.
    fs::write(
        ALLOWLIST,
        "api.example.org\ngit.example.org\n*.wild.example\n",
    )
    .unwrap();
    eventually("a reload", || status()["policy"]["generation"] == 2);
    eventually("its names", || is_open([198, 51, 100, 20].into()));
    rejects(&[Step::Tcp(([198, 51, 100, 99], 443).into())]);
    assert!(
        refused() > first + 1000,
        "it is a flood: {first} {}",
        refused()
    );
    // Orphans are reaped: those that sleep are all there are.
    let zombies = || {
        let ran = Run::new("ps")
            .args(["-o", "stat=", "--ppid", &started.id().to_string()])
            .run();
        ran.stdout()
            .lines()
            .filter(|line| line.starts_with('Z'))
            .count()
    };
    eventually("orphans are reaped", || zombies() < 20);
    let after = resident(started.id());
    assert!(
        after < before + GROWTH,
        "{before} KiB before, {after} KiB after"
    );
    while started.is_running() {
        sleep(Duration::from_millis(100));
    }
    started.finish().exits(0);
}

/// Each signal was looked at before anything else, so that nothing else was looked at while they
/// came as fast as they are read.
fn nothing_starves_in_a_storm_of_signals() {
    needs_second_uid();
    let world = World::with_zone(zone(10));
    allowlist("api.example.org\n");
    let keepers: [&dyn Fn() -> Started; 2] = [&|| supervised(&world, &SHORT), &|| sidecar(&SHORT)];
    for keeper in keepers {
        let started = keeper();
        let id = Pid::from_raw(i32::try_from(started.id()).unwrap());
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let _ = kill(id, Signal::SIGHUP);
                    }
                });
            }
            for last in [11, 10] {
                let answer = ask(DNS[0], "api.example.org", RecordType::A);
                // Before any check, so that the storm ends.
                let answered = answer.is_some();
                world.outside.change(zone(last));
                let since = Instant::now();
                let at = [198, 51, 100, last].into();
                while !is_open(at) && since.elapsed() < LONG {
                    sleep(Duration::from_millis(20));
                }
                let refreshed = is_open(at);
                if last == 10 || !(answered && refreshed) {
                    is_over.store(true, Ordering::Relaxed);
                }
                assert!(answered && refreshed, "{answered} {refreshed}");
            }
        });
        end(started);
    }
}

/// The command fills the pipe that both write to; a line of the log was waited for, and with it
/// were signals and queries.
fn nobody_waits_for_a_log_that_is_not_read() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let options = ["--resolve-timeout", "2s"];
    let started = supervised_above(&world, &options, &["/bin/sh", "-c", "exec yes >&2"]);
    // It is full when whoever fills it sleeps.
    let command = format!("/proc/{0}/task/{0}/children", started.id());
    eventually("the pipe is full", || {
        let child = fs::read_to_string(&command).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap();
        stat.contains("(yes) S ")
    });
    for generation in 2..5 {
        // Each reload is a line.
        allowlist(&format!("api.example.org\ngit.example.org:{generation}\n"));
        eventually("a reload", || {
            status()["policy"]["generation"] == generation
        });
        assert!(Step::Lookup("api.example.org".into()).run().is_ok());
    }
    end(started).exits(143);
}
