//! `make bench`: the figures of the contract's section 9 that a start decides, measured with the
//! static binary in a small internet of its own. Medians, in milliseconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fmt::Write,
    net::{Ipv4Addr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use support::{
    dns::ZoneSpec,
    harness::{self, Case},
    world::{API, BINARY, Run, World, allowlist, forget, zone},
};

fn main() -> ExitCode {
    let bench = Case {
        name: "bench",
        body: bench,
    };
    if harness::dispatch(&[bench]) {
        return ExitCode::SUCCESS;
    }
    harness::run_in_the_open(&bench).expect("unshare can be started")
}

/// The median of some rounds, each after a preparation that does not count.
fn median(rounds: usize, mut prepare: impl FnMut(), mut run: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            prepare();
            run()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2].as_secs_f64() * 1000.0
}

fn row(what: &str, ms: f64) {
    println!("{what:<58} {ms:>10.2} ms");
}

fn start() -> Duration {
    Run::new(BINARY)
        .command(&["/bin/true"])
        .run()
        .exits(0)
        .elapsed
}

fn bench() {
    let world = World::new();
    let bare = median(50, || {}, || Run::new("/bin/true").run().elapsed);
    row("the command alone", bare);
    names(&world, bare);
    world.outside.zone(zone());
    networks(bare);
}

/// From start to exec: the whole run, less what the command takes alone.
fn names(world: &World, bare: f64) {
    for count in [1, 10, 100, 1000] {
        let mut spec = ZoneSpec::new();
        let mut list = String::new();
        for n in 0..count {
            let [high, low] = [n / 250, n % 250 + 1];
            let name = format!("name{n}.example.org");
            let addresses = [format!("198.51.{high}.{low}"), format!("2001:db8::{n:x}")];
            spec = spec.addresses(&name, &[&addresses[0], &addresses[1]]);
            writeln!(list, "{name}").unwrap();
        }
        world.outside.zone(spec);
        allowlist(&list);
        let rounds = if count == 1000 { 11 } else { 31 };
        let ms = median(rounds, forget, start) - bare;
        row(
            &format!("start to exec, {count} names, A and AAAA, dns pinned"),
            ms,
        );
    }
    let check = || Run::new(BINARY).arg("check").run().exits(0).elapsed;
    row("check", median(50, || {}, check) - bare);
}

fn networks(bare: f64) {
    let connect = || {
        let started = Instant::now();
        drop(TcpStream::connect((API[0], 443)).expect("it is allowed"));
        started.elapsed()
    };
    forget();
    let open = median(3000, || {}, connect);
    let mut list = String::from("api.example.org\n");
    for n in 0..100_000_u32 {
        // Every second /26: none can be merged with its neighbour.
        writeln!(list, "{}/26:443", Ipv4Addr::from(0x0a00_0000 + n * 128)).unwrap();
    }
    allowlist(&list);
    row(
        "start to exec, 100,000 networks",
        median(5, forget, start) - bare,
    );
    forget();
    let plan = Run::new(BINARY).arg("plan").run().exits(0).stdout();
    let nft = || {
        Run::new("nft")
            .args(["-f", "-"])
            .run_with_input(&plan)
            .exits(0)
            .elapsed
    };
    row("nft -f of the same ruleset", median(5, forget, nft));
    forget();
    start();
    let closed = median(3000, || {}, connect);
    println!(
        "{:<58} {:>10.1} %",
        format!("TCP connect with them ({closed:.4} ms, without {open:.4} ms)"),
        (closed / open - 1.0) * 100.0
    );
}
