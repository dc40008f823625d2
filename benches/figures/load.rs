//! Long lists: from start to exec with so many networks or addresses, against `nft -f` of the text
//! that `plan` prints for the same list. Time, and the most memory that the process held.

use std::{fmt::Write as _, fs, net::Ipv4Addr, time::Duration};

use crate::{
    Form,
    chart::{Bar, Bars},
    measure::{Sample, count, digits, ms},
    report::{Section, Table},
    start::{EMPTY, copy_tools},
    support::world::{BINARY, Run, World, allowlist, file, forget},
};

/// What the entries of a list are.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An interval set in the kernel.
    Networks,
    /// A hash table in the kernel.
    Addresses,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Addresses => "addresses",
        }
    }

    /// A list of so many, none of which can be merged with another: every second /26 from
    /// 10.0.0.0 on, or every second address.
    pub fn list(self, entries: u32) -> String {
        let mut list = String::new();
        for n in 0..entries {
            let (address, length) = match self {
                Self::Networks => (0x0a00_0000 + n * 128, "/26"),
                Self::Addresses => (0x0a00_0000 + n * 2 + 1, ""),
            };
            writeln!(list, "{}{length}:443", Ipv4Addr::from(address)).unwrap();
        }
        list
    }
}

/// Time and peak memory of some runs.
struct Runs {
    time: Sample,
    /// MiB.
    memory: f64,
}

pub fn section(form: Form) -> Section {
    let _world = World::without_link();
    copy_tools();
    let mut section = Section::new("Loading long lists");
    section.paragraph(
        "egress-init from start to exec (lock, parse, merge, load, read everything back and compare, \
         drop, exec) beside `nft -f`, which only reads and loads the text that `plan` printed for \
         the same list. Medians; the memory is the most that was resident (GNU time).",
    );
    let mut table = Table::new(&[
        "entries",
        "egress-init",
        "nft -f",
        "ratio",
        "memory",
        "of nft",
        "rounds",
    ]);
    let mut bars = Vec::new();
    for kind in [Kind::Networks, Kind::Addresses] {
        for &entries in form.pick::<&[u32]>(&[1000, 10_000, 100_000], &[1000]) {
            let rounds = match entries {
                _ if form == Form::Short => 3,
                100_000 => 7,
                _ => 15,
            };
            let (ours, nft) = measure(kind, entries, rounds);
            let what = format!("{} {}", count(entries), kind.name());
            let ratio = ours.time.median() / nft.time.median();
            table.row(vec![
                what.clone(),
                format!("{} ms", digits(ours.time.median())),
                format!("{} ms", digits(nft.time.median())),
                digits(ratio),
                format!("{} MiB", digits(ours.memory)),
                format!("{} MiB", digits(nft.memory)),
                rounds.to_string(),
            ]);
            if entries == 100_000 {
                section.target(
                    &format!("{what}, against nft -f"),
                    "no slower",
                    &format!("{} of its time", digits(ratio)),
                    ratio <= 1.0,
                );
            }
            bars.push(Bar::Heading(what));
            for (name, runs, colour) in [
                ("egress-init, start to exec", &ours, 0),
                ("nft -f", &nft, 1),
            ] {
                bars.push(Bar::Value {
                    name: name.into(),
                    value: runs.time.median(),
                    colour,
                });
            }
        }
    }
    section.table(&table);
    let title = "Loading long lists";
    let chart = Bars {
        title,
        unit: "ms",
        rows: bars,
    };
    section.chart("load", title, chart.svg());
    section
}

fn measure(kind: Kind, entries: u32, rounds: usize) -> (Runs, Runs) {
    allowlist(&kind.list(entries));
    forget();
    let text = Run::new(BINARY).arg("plan").run().exits(0).stdout();
    let text = file("/etc/world/plan.nft", &text);
    let text = text.to_str().unwrap();
    let (mut ours, mut nft) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        forget();
        ours.push(weighed(&[BINARY, "--", EMPTY]));
        if round == 0 {
            holds(kind, entries);
        }
        forget();
        nft.push(weighed(&["nft", "-f", text]));
        if round == 0 {
            holds(kind, entries);
        }
    }
    forget();
    (runs(&ours), runs(&nft))
}

fn runs(measured: &[(Duration, f64)]) -> Runs {
    Runs {
        time: Sample::new(measured.iter().map(|(time, _)| ms(*time))),
        memory: Sample::new(measured.iter().map(|(_, memory)| *memory)).median(),
    }
}

/// How long a command takes and how much memory, in MiB: GNU time executes it, being small itself.
fn weighed(command: &[&str]) -> (Duration, f64) {
    const FILE: &str = "/etc/world/memory";
    let ran = Run::new("time")
        .args(["--format", "%M", "--output", FILE])
        .args(command)
        .run()
        .exits(0);
    let kibibytes: f64 = fs::read_to_string(FILE).unwrap().trim().parse().unwrap();
    (ran.elapsed, kibibytes / 1024.0)
}

/// The kernel has the last entry of the list.
fn holds(kind: Kind, entries: u32) {
    let lines = kind.list(entries);
    let last = lines.lines().last().unwrap().trim_end_matches(":443");
    let (set, last) = match kind {
        // Many of one length are known by their first address.
        Kind::Networks if entries > 4096 => ("allow4_26", last.trim_end_matches("/26")),
        Kind::Networks => ("allow4_ranges", last),
        Kind::Addresses => ("allow4", last),
    };
    let element = format!("{{ {last} . tcp . 443 }}");
    Run::new("nft")
        .args(["get", "element", "inet", "egress_init", set, &element])
        .run()
        .exits(0);
}
