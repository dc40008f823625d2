//! `make demo`: the static binary in a small internet of its own, and what gets out of it, before
//! and after. Nothing of the machine is touched; it runs as root and as a plain user.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    io::{IsTerminal, stdout},
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use support::{
    capture::Frame,
    harness::{self, Case},
    probe::{Outcome, Step},
    world::{
        API, BINARY, DNS, ELSEWHERE, FOREIGN_DNS, GIT, PROBE, Run, SENTINEL, World, nft,
        user_options,
    },
};

const LISTED: &str = "api.example.org";
const SECRET: &str = "c2VjcmV0.tunnel.example.net";

fn main() -> ExitCode {
    let demo = Case {
        name: "demo",
        body: demo,
    };
    if harness::dispatch(&[demo]) {
        return ExitCode::SUCCESS;
    }
    harness::run_in_the_open(&demo).expect("unshare can be started")
}

/// One line of the table: the same attempt in both families.
struct Row {
    what: &'static str,
    attempts: [Step; 2],
    /// Whether it is to get out behind the firewall.
    allowed: bool,
}

fn rows() -> Vec<Row> {
    let row = |what, allowed, attempts| Row {
        what,
        attempts,
        allowed,
    };
    let tcp = |to: [IpAddr; 2], port: u16| to.map(|to| Step::Tcp((to, port).into()));
    let name = |name: &str, port| [false, true].map(|v6| Step::TcpName(name.into(), port, v6));
    let secret = || SECRET.to_owned();
    vec![
        row(
            "api.example.org, tcp 443: it is listed",
            true,
            name(LISTED, 443),
        ),
        row("its address as a number, tcp 80", true, tcp(API, 80)),
        row("its address, another port: tcp 22", false, tcp(API, 22)),
        row(
            "its address, udp 443",
            false,
            API.map(|to| Step::Udp((to, 443).into())),
        ),
        row("its address, ICMP echo", false, API.map(Step::Ping)),
        row(
            "git.example.org, tcp 443: not listed",
            false,
            name("git.example.org", 443),
        ),
        row("its address as a number, tcp 80", false, tcp(GIT, 80)),
        row(
            "an address without a name, tcp 443",
            false,
            tcp(ELSEWHERE, 443),
        ),
        row(
            "the same, udp 9000",
            false,
            ELSEWHERE.map(|to| Step::Udp((to, 9000).into())),
        ),
        row(
            "DNS tunnel, udp 53 to a server of one's own",
            false,
            FOREIGN_DNS.map(|to| Step::Dns(to, secret())),
        ),
        row(
            "DNS tunnel, tcp 53 to it",
            false,
            FOREIGN_DNS.map(|to| Step::DnsTcp(to, secret())),
        ),
        row(
            "DNS tunnel through the configured server, udp",
            false,
            DNS.map(|to| Step::Dns(to, secret())),
        ),
        row(
            "DNS tunnel through it, tcp",
            false,
            DNS.map(|to| Step::DnsTcp(to, secret())),
        ),
    ]
}

/// Whether a frame is of this attempt.
fn belongs(frame: &Frame, row: &Row, family: usize) -> bool {
    let flow = |protocol, to: SocketAddr| frame.protocol == protocol && frame.to_port(to);
    match &row.attempts[family] {
        Step::Tcp(to) | Step::DnsTcp(to, _) => flow(6, *to),
        Step::Udp(to) | Step::Dns(to, _) => flow(17, *to),
        Step::TcpName(name, port, _) => {
            let address = if name == LISTED { API } else { GIT };
            flow(6, (address[family], *port).into())
        }
        Step::Ping(to) => frame.to(*to) && matches!(frame.icmp, Some(8 | 128)),
        _ => false,
    }
}

/// What got out of each attempt, by what arrived outside.
fn arrived(world: &World, attempt: impl FnOnce(&[Step]) -> Vec<Outcome>) -> Vec<[bool; 2]> {
    let rows = rows();
    let steps: Vec<Step> = rows.iter().flat_map(|row| row.attempts.clone()).collect();
    let secrets = |world: &World| {
        let queries = world.queries();
        queries
            .iter()
            .filter(|query| query.name.eq_ignore_ascii_case(SECRET))
            .count()
    };
    let before = secrets(world);
    let (_, frames) = world.arrived(|| attempt(&steps));
    let told = secrets(world) > before;
    rows.iter()
        .map(|row| {
            [0, 1].map(|family| {
                let frame = frames.iter().any(|frame| belongs(frame, row, family));
                // egress-init itself asks the configured server, for the listed name and no other.
                let configured =
                    matches!(&row.attempts[family], Step::Dns(to, _) if DNS.contains(to));
                frame && (!configured || told)
            })
        })
        .collect()
}

fn demo() {
    let paint = Paint(stdout().is_terminal());
    let world = World::new();
    let mut wrong = 0;

    println!(
        "A network namespace with a small internet behind it: name servers, and servers on every"
    );
    println!("address. In it runs what an agent may try; outside, a capture sees what arrives.\n");
    let before = arrived(&world, |steps| {
        let steps = serde_json::to_string(steps).unwrap();
        Run::new(PROBE).args(["__probe", &steps]).outcomes()
    });
    let command = format!(
        "egress-init --allow {LISTED} {} -- agent",
        user_options().join(" ")
    );
    let mut said = String::new();
    let after = arrived(&world, |steps| {
        let ran = world
            .egress()
            .args(user_options())
            .args(["--allow", LISTED])
            .probe(steps)
            .run();
        said = ran.stderr();
        if ran.code() == Some(0) {
            ran.outcomes()
        } else {
            println!("egress-init failed, and the agent did not run:\n{ran}");
            Vec::new()
        }
    });
    println!(
        "  {:<48} {:^15}   {:^15}",
        "", "without", "with egress-init"
    );
    println!(
        "  {:<48} {:<7} {:<7}   {:<7} {:<7}",
        "the agent tries", "IPv4", "IPv6", "IPv4", "IPv6"
    );
    println!("  {}", "-".repeat(80));
    for (row, (before, after)) in rows().iter().zip(before.iter().zip(&after)) {
        let good = *before == [true; 2] && *after == [row.allowed; 2];
        wrong += usize::from(!good);
        let cells = [before[0], before[1], after[0], after[1]].map(|out| {
            let text = format!("{:<7}", if out { "out" } else { "blocked" });
            paint.by(out == row.allowed || !out, &text)
        });
        let mark = if good { "" } else { "  WRONG" };
        println!(
            "  {:<48} {} {}   {} {}{mark}",
            row.what,
            paint.plain(before[0]),
            paint.plain(before[1]),
            cells[2],
            cells[3],
        );
    }
    println!("\n$ {command}\n{}", said.trim_end());

    let mut must = |what: &str, good: bool| {
        wrong += usize::from(!good);
        println!(
            "{} {what}",
            if good {
                paint.by(true, "ok   ")
            } else {
                paint.by(false, "WRONG")
            }
        );
    };
    let sentinel = std::fs::read_to_string(SENTINEL).unwrap_or_else(|error| error.to_string());
    println!("\n$ cat {SENTINEL}\n{}\n", sentinel.trim_end());
    must("the sentinel is there", sentinel.starts_with('{'));

    let check = |show: bool, words: &[&str]| {
        let ran = Run::new(BINARY).arg("check").args(words).run();
        if show {
            let words = [&["egress-init", "check"], words].concat().join(" ");
            let code = ran.code().unwrap_or(-1);
            println!("\n$ {words}\n{}{}(exit {code})", ran.stdout(), ran.stderr());
        }
        ran
    };
    let verified = check(true, &[]);
    must(
        "check verifies it against the rules that are live now",
        verified.code() == Some(0),
    );
    let guarded = check(true, &["--", "echo", "the agent starts"]);
    must(
        "a command behind the check starts",
        guarded.stdout() == "the agent starts\n",
    );

    println!("\n$ nft flush table inet egress_init      (as root, who could)");
    let flushed = std::panic::catch_unwind(|| nft("flush table inet egress_init")).is_ok();
    let refused = check(true, &["--", "echo", "the agent starts"]);
    must(
        "the same command refuses to start without rules, though the file is there",
        flushed && refused.code() == Some(1) && refused.stdout().is_empty(),
    );
    let _ = std::fs::remove_file(SENTINEL);
    let refused = check(true, &["--", "echo", "the agent starts"]);
    must(
        "and without the file",
        refused.code() == Some(1) && refused.stdout().is_empty(),
    );

    let total = rows().len();
    println!();
    if wrong == 0 {
        println!(
            "{}",
            paint.by(
                true,
                &format!("demo: all {total} rows and the sentinel are as they must be")
            )
        );
    } else {
        println!(
            "{}",
            paint.by(
                false,
                &format!("demo: {wrong} things are not as they must be")
            )
        );
        std::process::exit(1);
    }
}

/// Colours, on a terminal only.
struct Paint(bool);

impl Paint {
    fn by(&self, good: bool, text: &str) -> String {
        match (self.0, good) {
            (false, _) => text.to_owned(),
            (true, true) => format!("\x1b[32m{text}\x1b[0m"),
            (true, false) => format!("\x1b[31m{text}\x1b[0m"),
        }
    }

    fn plain(&self, out: bool) -> String {
        let text = format!("{:<7}", if out { "out" } else { "blocked" });
        if self.0 {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text
        }
    }
}
