//! From start to exec, by the number of names and by how long the nameserver takes: egress-init,
//! a script that does the same job with iptables, ipset and dig, and the floor, which is one
//! parallel DNS round trip and an exec.

use std::{
    env, fmt::Write as _, fs, net::IpAddr, os::unix::fs::symlink, path::Path, time::Duration,
};

use crate::{
    Form,
    chart::{Lines, Series},
    measure::{Sample, count, digits, ms, time},
    report::{Section, Table},
    support::{
        dns::ZoneSpec,
        probe::Step,
        world::{self, BINARY, DNS, ELSEWHERE, Run, SENTINEL, World, allowlist, user_options},
    },
    tool,
};

pub const EMPTY: &str = "/etc/world/empty";
const FLOOR: &str = "/etc/world/floor";
const SCRIPT: &str = "/etc/world/script.sh";
/// How long the script may take, in seconds: a run of all this is to end within a quarter of an
/// hour.
const PATIENCE: &str = "60";

/// One of those that are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contestant {
    Floor,
    EgressInit,
    Script,
}

impl Contestant {
    const ALL: [Self; 3] = [Self::Floor, Self::EgressInit, Self::Script];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::EgressInit => "egress-init",
            Self::Script => "script",
        }
    }

    /// How long it takes; for the script at most [`PATIENCE`], and whether it was cut there.
    fn run(self, names: u32) -> (Duration, bool) {
        let run = match self {
            Self::Floor => {
                let nameserver = DNS[0].ip().to_string();
                Run::new(FLOOR).args([&nameserver, &names.to_string(), EMPTY])
            }
            Self::EgressInit => Run::new(BINARY).args(user_options()).command(&[EMPTY]),
            Self::Script => Run::new("timeout").arg(PATIENCE).args([
                "bash",
                "-c",
                r#"bash "$0" && exec "$1""#,
                SCRIPT,
                EMPTY,
            ]),
        };
        let ran = run.run();
        let cut = self == Self::Script && ran.code() == Some(124);
        let ran = ran.exits(if cut { 124 } else { 0 });
        (ran.elapsed, cut)
    }
}

/// What was measured of one list behind one nameserver.
struct Row {
    names: u32,
    delay: u32,
    samples: [Sample; 3],
    /// The script was not done in time: its figures are lower bounds.
    cut: bool,
}

impl Row {
    fn median(&self, contestant: Contestant) -> f64 {
        self.samples[contestant as usize].median()
    }
}

/// The files of a start as they were before any.
struct Clean {
    hosts: String,
}

impl Clean {
    /// As if nothing had ever been started here.
    fn up(&self) {
        world::nft("flush ruleset");
        Run::new("ipset").arg("destroy").run().exits(0);
        // A container begins with none. With one, the kernel walks over all of its table, once a
        // family, when the first rule asks for a connection's state.
        forget_flows();
        let _ = fs::remove_file(SENTINEL);
        // In place: it is a bind mount.
        fs::write("/etc/hosts", &self.hosts).unwrap();
    }
}

fn forget_flows() {
    Run::new("conntrack").arg("--flush").run().exits(0);
}

/// Puts what the runs execute where the command's user can reach it.
pub fn copy_tools() {
    for (from, to) in [(tool("empty"), EMPTY), (tool("floor"), FLOOR)] {
        fs::copy(&from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    // Debian's alternatives are links in the /etc that the world has hidden.
    fs::create_dir("/etc/alternatives").unwrap();
    for (name, program) in [
        ("iptables", "iptables-nft"),
        ("ip6tables", "ip6tables-nft"),
        ("iptables-restore", "iptables-nft-restore"),
    ] {
        let (program, link) = (
            format!("/usr/sbin/{program}"),
            format!("/etc/alternatives/{name}"),
        );
        symlink(program, link).unwrap();
    }
    world::file("/etc/protocols", "tcp 6 TCP\nudp 17 UDP\nipv6-icmp 58\n");
    let script = env::var_os("BENCH_SCRIPT").unwrap_or_else(|| "benches/script.sh".into());
    fs::copy(&script, SCRIPT).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
}

pub fn section(form: Form) -> Section {
    let world = World::unwatched();
    copy_tools();
    let clean = Clean {
        hosts: fs::read_to_string("/etc/hosts").unwrap(),
    };
    let sizes: &[u32] = form.pick(&[1, 10, 50, 100, 1000], &[1, 10]);
    let delays: &[u32] = form.pick(&[0, 10, 50], &[0, 10]);
    let mut rows = Vec::new();
    let mut table = Table::new(&[
        "names",
        "DNS delay",
        "floor",
        "egress-init",
        "beyond the floor",
        "script",
        "script / egress-init",
        "rounds, of the script",
    ]);
    for &delay in delays {
        for &names in sizes {
            let (zone, list) = names_and_addresses(names);
            let wait = Duration::from_millis(u64::from(delay));
            world.outside.zone(zone.remembering().delay(wait));
            allowlist(&list);
            let (rounds, of_the_script) = rounds(form, names, delay);
            let row = measure(&clean, names, delay, rounds, of_the_script);
            let median = |contestant| row.median(contestant);
            let [floor, ours, script] = Contestant::ALL.map(median);
            let bound = if row.cut { "> " } else { "" };
            table.row(vec![
                count(names),
                format!("{delay} ms"),
                format!("{} ms", digits(floor)),
                format!("{} ms", digits(ours)),
                format!("{} ms", digits(ours - floor)),
                format!("{bound}{} ms", digits(script)),
                format!("{bound}{}", digits(script / ours)),
                format!("{rounds}, {of_the_script}"),
            ]);
            rows.push(row);
        }
    }
    let mut section = Section::new("From start to exec");
    section.paragraph(&format!(
        "Wall time from the start of the process to the end of an empty static binary that it \
             becomes, the medians. Every name has an A and an AAAA record. The script's long runs \
             are made once, and cut after {PATIENCE} s: a figure with `>` is a lower bound.",
    ));
    section.table(&table);
    chart(&mut section, sizes, &rows);
    targets(&mut section, &rows);
    alone(&mut section, form, &clean);
    section
}

/// Each run of the script takes as long as its names do, one after the other.
fn rounds(form: Form, names: u32, delay: u32) -> (usize, usize) {
    if form == Form::Short {
        return (3, 1);
    }
    let ours = match (names, delay) {
        (1000, _) => 7,
        (_, 50) => 15,
        _ => 31,
    };
    let of_the_script = match names {
        0..=10 => 5,
        11..=50 => 2,
        _ => 1,
    };
    (ours, of_the_script)
}

fn names_and_addresses(names: u32) -> (ZoneSpec, String) {
    let mut spec = ZoneSpec::new();
    let mut list = String::new();
    for n in 0..names {
        let name = format!("name{n}.example.org");
        let [v4, v6] = addresses(n);
        spec = spec.addresses(&name, &[&v4, &v6]);
        writeln!(list, "{name}").unwrap();
    }
    (spec, list)
}

fn addresses(n: u32) -> [String; 2] {
    let v4 = format!("198.51.{}.{}", 100 + n / 250, n % 250 + 1);
    [v4, format!("2001:db8::{:x}", n + 1)]
}

fn measure(clean: &Clean, names: u32, delay: u32, rounds: usize, of_the_script: usize) -> Row {
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut cut = false;
    for round in 0..rounds {
        for contestant in Contestant::ALL {
            if contestant == Contestant::Script && round >= of_the_script {
                continue;
            }
            clean.up();
            let (time, in_vain) = contestant.run(names);
            times[contestant as usize].push(ms(time));
            cut |= in_vain;
            if round == 0 && contestant != Contestant::Floor && !in_vain {
                does_the_job(contestant);
            }
        }
    }
    clean.up();
    Row {
        names,
        delay,
        samples: times.map(Sample::new),
        cut,
    }
}

/// The list is reachable, nothing else is, and neither is DNS; in both families.
fn does_the_job(contestant: Contestant) {
    if contestant == Contestant::Script && env::var_os("BENCH_SCRIPT").is_some() {
        return;
    }
    // To the script's rules a query from the port of one of its own, of which there were thousands,
    // is of an established flow.
    forget_flows();
    let listed: [IpAddr; 2] = addresses(0).map(|address| address.parse().unwrap());
    for family in 0..2 {
        world::reaches(&[Step::Tcp((listed[family], 443).into())]);
        world::rejects(&[
            Step::Tcp((listed[family], 444).into()),
            Step::Tcp((ELSEWHERE[family], 443).into()),
            Step::Dns(DNS[family], "name0.example.org".into()),
        ]);
    }
    assert!(
        Path::new(SENTINEL).exists(),
        "{} has written its marker",
        contestant.name()
    );
}

fn chart(section: &mut Section, sizes: &[u32], rows: &[Row]) {
    let ticks: Vec<f64> = sizes.iter().map(|&size| f64::from(size)).collect();
    let mut series: Vec<Series> = Vec::new();
    for (colour, contestant) in [
        Contestant::EgressInit,
        Contestant::Script,
        Contestant::Floor,
    ]
    .into_iter()
    .enumerate()
    {
        for row in rows {
            let point = (f64::from(row.names), row.median(contestant));
            let name = format!("{}, DNS {} ms", contestant.name(), row.delay);
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series {
                    stroke: [0, 10, 50]
                        .iter()
                        .position(|delay| *delay == row.delay)
                        .unwrap_or(0),
                    name,
                    points: vec![point],
                    colour,
                }),
            }
        }
    }
    let title = "From start to exec";
    let lines = Lines {
        title,
        x: "names in the list",
        y: "milliseconds",
        ticks: &ticks,
        series,
    };
    section.chart("start", title, lines.svg());
}

fn targets(section: &mut Section, rows: &[Row]) {
    let script = |row: &Row| row.median(Contestant::Script) / row.median(Contestant::EgressInit);
    for row in rows.iter().filter(|row| row.names == 10) {
        let ratio = script(row);
        section.target(
            &format!(
                "10 names, DNS delay {} ms: faster than the script",
                row.delay
            ),
            "200 times",
            &format!("{} times", digits(ratio)),
            ratio >= 200.0,
        );
    }
    for row in rows.iter().filter(|row| row.names == 100) {
        let beyond = row.median(Contestant::EgressInit) - row.median(Contestant::Floor);
        section.target(
            &format!("100 names, DNS delay {} ms: beyond the floor", row.delay),
            "5 ms",
            &format!("{} ms", digits(beyond)),
            beyond <= 5.0,
        );
    }
}

/// What has no DNS in it: a list of one address, `check`, and an exec by itself.
fn alone(section: &mut Section, form: Form, clean: &Clean) {
    allowlist("198.51.100.1\n");
    clean.up();
    let checked = || Run::new(BINARY).arg("check").run().exits(0);
    let guarded = || {
        Run::new(BINARY)
            .arg("check")
            .command(&[EMPTY])
            .run()
            .exits(0)
    };
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..form.pick(101, 5) {
        clean.up();
        times[0].push(ms(time(|| drop(Run::new(EMPTY).run().exits(0)))));
        times[1].push(ms(Contestant::EgressInit.run(0).0));
        times[2].push(ms(checked().elapsed));
        times[3].push(ms(guarded().elapsed));
    }
    let mut table = Table::new(&["without DNS", "median", "p10", "p90"]);
    let names = [
        "the empty binary by itself",
        "start to exec, one address in the list",
        "check",
        "check -- the empty binary",
    ];
    for (name, times) in names.iter().zip(times) {
        let sample = Sample::new(times);
        let cell = |share| format!("{} ms", digits(sample.quantile(share)));
        table.row(vec![(*name).into(), cell(0.5), cell(0.1), cell(0.9)]);
    }
    section.table(&table);
}
