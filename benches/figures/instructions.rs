//! Instructions of the parts that only compute, counted by callgrind: the same on a busy machine
//! as on an idle one, so that a regression shows where no clock would tell it.
//!
//! What is counted is user space alone, from the entry of [`toggled_region`] to its end, by this
//! program in its role `__count`. `benches/instructions.txt` has the counts that were meant; more
//! than [`TOLERANCE`] above them fails the run, where the same compiler built it.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use egress_init::{
    allowlist::{self, Accept, Allowlist, Source, SourceKind},
    nft::Nftables,
    policy::{self, Answers},
    ruleset::{self, Dns, Ruleset},
};

use crate::{
    Form,
    measure::{digits, thousands},
    report::{Section, Table},
    tool,
};

const RECORD: &str = "benches/instructions.txt";
/// Hash tables with random seeds and the C library's choice of memcpy make less of a difference.
const TOLERANCE: f64 = 0.03;
const PARTS: [(&str, &str); 6] = [
    ("parse", "text to entries"),
    ("decide", "entries and answers to policy"),
    ("build", "policy to ruleset, with its mark"),
    ("text", "ruleset to nft text"),
    ("load", "ruleset to netlink batch, sent"),
    ("verify", "read back and compare"),
];

pub fn section(form: Form) -> Section {
    let mut section = Section::new("Instructions");
    section.paragraph(&format!(
        "User-space instructions (callgrind) of each part, for a list of which one half are \
         networks, one quarter addresses and one quarter names with an A and an AAAA record. \
         `recorded` is {RECORD}; more than {:.0} % above it fails the run.",
        TOLERANCE * 100.0
    ));
    let compiler = version();
    let recorded = fs::read_to_string(RECORD).unwrap_or_default();
    let comparable = recorded.lines().next() == Some(&format!("# {compiler}"));
    let recorded: BTreeMap<String, f64> = recorded.lines().filter_map(recorded_count).collect();
    let mut table = Table::new(&[
        "",
        "entries",
        "instructions",
        "an entry",
        "recorded",
        "change",
    ]);
    let mut record = format!("# {compiler}\n");
    let mut grown = Vec::new();
    for &entries in form.pick::<&[u32]>(&[10_000, 100_000], &[10_000]) {
        for (part, what) in PARTS {
            let counted = counted(part, entries);
            assert!(counted > 100_000.0, "{part} was not counted: {counted}");
            let key = format!("{part} {entries}");
            writeln!(record, "{key} {counted}").unwrap();
            let before = recorded.get(&key);
            let change = before.map(|before| counted / before - 1.0);
            if comparable && change.is_some_and(|change| change > TOLERANCE) {
                grown.push(format!("{key}: {:+.1} %", change.unwrap_or(0.0) * 100.0));
            }
            table.row(vec![
                format!("{part}: {what}"),
                thousands(f64::from(entries)),
                thousands(counted),
                digits(counted / f64::from(entries)),
                before.map_or("none".into(), |before| thousands(*before)),
                change.map_or(String::new(), |change| format!("{:+.1} %", change * 100.0)),
            ]);
        }
    }
    section.table(&table);
    if env::var_os("BENCH_RECORD").is_some() {
        fs::write(RECORD, record).expect("the record can be written");
    } else if !comparable {
        section.paragraph("The record is of another compiler: nothing was compared.");
    } else if !grown.is_empty() {
        eprintln!(
            "more instructions than recorded: {}; if it is meant, run scripts/bench --record",
            grown.join(", ")
        );
        std::process::exit(1);
    }
    section
}

fn recorded_count(line: &str) -> Option<(String, f64)> {
    let (key, count) = line.rsplit_once(' ')?;
    Some((key.to_owned(), count.parse().ok()?))
}

/// What decides the code that is counted, beside the source.
fn version() -> String {
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .expect("rustc is there");
    let rustc = String::from_utf8_lossy(&output.stdout);
    format!("{}, {}", rustc.trim(), env::consts::ARCH)
}

/// The instructions of a part, by callgrind.
fn counted(part: &str, entries: u32) -> f64 {
    let file = tool("callgrind.out");
    let status = Command::new("valgrind")
        .args([
            "--quiet",
            "--tool=callgrind",
            "--toggle-collect=*toggled_region*",
        ])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe().expect("the path of this program"))
        .args(["__count", part, &entries.to_string()])
        .status()
        .expect("valgrind can be started");
    assert!(status.success(), "{part}: {status}");
    let text = fs::read_to_string(&file).expect("callgrind has written its counts");
    let _ = fs::remove_file(&file);
    let total = text.lines().find_map(|line| {
        let count = line
            .strip_prefix("summary: ")
            .or(line.strip_prefix("totals: "))?;
        count.trim().parse().ok()
    });
    total.expect("callgrind's sum")
}

/// The entry of `__count PART ENTRIES`.
pub fn count(part: &str, arguments: &[&str]) {
    let entries: u32 = arguments[0].parse().expect("a number of entries");
    let (text, answers) = list(entries);
    let source = Source {
        label: "list".into(),
        text: text.into_bytes(),
        kind: SourceKind::Lines,
    };
    if part == "parse" {
        toggled_region(|| parse(source));
        return;
    }
    let list = parse(source);
    if part == "decide" {
        toggled_region(|| policy::decide(&list, &answers, &[]));
        return;
    }
    let decision = policy::decide(&list, &answers, &[]);
    if part == "build" {
        toggled_region(|| ruleset::enforced(&decision.policy, Dns::Closed));
        return;
    }
    let ruleset = ruleset::enforced(&decision.policy, Dns::Closed);
    match part {
        "text" => drop(toggled_region(|| ruleset.to_string())),
        "load" => drop(toggled_region(|| load(&ruleset))),
        "verify" => {
            let mut kernel = load(&ruleset);
            toggled_region(|| kernel.verify(&ruleset).expect("it was loaded"));
        }
        _ => panic!("{part} is no part"),
    }
}

/// What callgrind counts.
#[inline(never)]
fn toggled_region<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

fn parse(source: Source) -> Allowlist {
    allowlist::parse(&[source], Accept::default()).expect("a valid list")
}

fn load(ruleset: &Ruleset) -> Nftables {
    let mut kernel = Nftables::open().expect("a namespace of our own");
    kernel.replace(ruleset).expect("a valid ruleset");
    kernel
}

/// A list of this many entries, and what its names resolve to.
fn list(entries: u32) -> (String, Answers) {
    let (mut text, mut answers) = (String::new(), Answers::new());
    for n in 0..entries {
        match n % 4 {
            0 | 1 => {
                let network = Ipv4Addr::from(0x0a00_0000 + n * 128);
                writeln!(text, "{network}/26:443").unwrap();
            }
            2 => writeln!(text, "{}", Ipv4Addr::from(0xc600_0000 + n)).unwrap(),
            _ => {
                let name = format!("name{n}.example.org");
                writeln!(text, "{name}:22,443").unwrap();
                let v6 = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n));
                let v4 = Ipv4Addr::from(0xcb00_0000 + n);
                let name = name.parse().expect("a name");
                answers.insert(name, vec![IpAddr::from(v4), IpAddr::from(v6)]);
            }
        }
    }
    (text, answers)
}
