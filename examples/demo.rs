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
        API, BINARY, DNS, ELSEWHERE, FOREIGN_DNS, GIT, PROBE, Ran, Run, SENTINEL, World, nft,
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
    let mut judge = Judge {
        colours: stdout().is_terminal(),
        wrong: 0,
    };
    println!(
        "A network namespace with a small internet behind it: name servers, and servers on every"
    );
    println!("address. In it runs what an agent may try; outside, a capture sees what arrives.\n");
    let world = World::new();
    table(&world, &mut judge);
    sentinel(&mut judge);
    println!();
    if judge.wrong > 0 {
        println!("demo: {} things are not as they must be", judge.wrong);
        std::process::exit(1);
    }
    println!("demo: everything is as it must be");
}

fn table(world: &World, judge: &mut Judge) {
    let before = arrived(world, |steps| {
        let steps = serde_json::to_string(steps).unwrap();
        Run::new(PROBE).args(["__probe", &steps]).outcomes()
    });
    let mut said = String::new();
    let after = arrived(world, |steps| {
        let ran = world
            .egress()
            .args(user_options())
            .args(["--allow", LISTED])
            .probe(steps)
            .run();
        said = ran.stderr();
        ran.outcomes()
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
        let before = before.map(|out| judge.cell(out, true));
        let after = after.map(|out| judge.cell(out, row.allowed));
        println!(
            "  {:<48} {} {}   {} {}",
            row.what, before[0], before[1], after[0], after[1]
        );
    }
    let words = [
        &["egress-init", "--allow", LISTED],
        user_options(),
        &["--", "agent"],
    ]
    .concat();
    println!("\n$ {}", words.join(" "));
    print!("{said}");
}

fn sentinel(judge: &mut Judge) {
    let sentinel = std::fs::read_to_string(SENTINEL).unwrap_or_else(|error| error.to_string());
    println!("\n$ cat {SENTINEL}\n{}", sentinel.trim_end());
    judge.row("the sentinel is there", sentinel.starts_with('{'));

    let ran = check(&[]);
    judge.row("it verifies: the rules are live now", ran.code() == Some(0));
    let agent = ["--", "echo", "the agent starts"];
    let starts = |ran: &Ran| ran.code() == Some(0) && ran.stdout() == "the agent starts\n";
    let refuses = |ran: &Ran| ran.code() == Some(1) && ran.stdout().is_empty();
    let ran = check(&agent);
    judge.row("a command behind the check starts", starts(&ran));

    println!("\n$ nft flush table inet egress_init      (by a root that still could)");
    nft("flush table inet egress_init");
    let ran = check(&agent);
    judge.row(
        "without the rules it refuses, though the sentinel is there",
        refuses(&ran),
    );

    println!("\n$ rm {SENTINEL}");
    std::fs::remove_file(SENTINEL).unwrap();
    let ran = check(&agent);
    judge.row("without the sentinel it refuses too", refuses(&ran));
}

/// Runs `egress-init check` as a person sees it.
fn check(words: &[&str]) -> Ran {
    let ran = Run::new(BINARY).arg("check").args(words).run();
    let words = [&["egress-init", "check"], words].concat().join(" ");
    let code = ran.code().unwrap_or(-1);
    print!("\n$ {words}\n{}{}", ran.stdout(), ran.stderr());
    println!("(exit {code})");
    ran
}

/// Says what is good and counts what is not. Colours on a terminal only.
struct Judge {
    colours: bool,
    wrong: usize,
}

impl Judge {
    fn row(&mut self, what: &str, good: bool) {
        self.wrong += usize::from(!good);
        let verdict = self.paint(good, if good { "ok" } else { "WRONG" });
        println!("  {verdict}: {what}");
    }

    /// Whether something got out, in capitals where it is not as it must be.
    fn cell(&mut self, out: bool, must: bool) -> String {
        self.wrong += usize::from(out != must);
        let text = match (out, out == must) {
            (true, true) => "out",
            (true, false) => "OUT",
            (false, true) => "blocked",
            (false, false) => "BLOCKED",
        };
        self.paint(out == must, &format!("{text:<7}"))
    }

    fn paint(&self, good: bool, text: &str) -> String {
        match (self.colours, good) {
            (false, _) => text.to_owned(),
            (true, true) => format!("\x1b[32m{text}\x1b[0m"),
            (true, false) => format!("\x1b[31m{text}\x1b[0m"),
        }
    }
}
