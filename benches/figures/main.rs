//! `make bench`: what a start, a load and a packet cost, side by side in one run, against what
//! people use instead. `scripts/bench` builds what this needs and names it in the environment.
//!
//! Each theme is a file and a process with namespaces of its own. It returns a [`Section`]: its
//! tables as text, its charts as SVG, and how it stands to the contract's figures. All of them
//! together are `docs/benchmarks/results.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

mod chart;
mod dns;
mod instructions;
mod load;
mod machine;
mod measure;
mod network;
mod packets;
mod report;
mod sizes;
mod start;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use report::Section;
use support::{harness, outside};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Enough rounds for a median that means something.
    Full,
    /// Only that everything runs and that its results are plausible.
    Short,
}

impl Form {
    /// One of two values.
    pub fn pick<T>(self, full: T, short: T) -> T {
        match self {
            Self::Full => full,
            Self::Short => short,
        }
    }
}

struct Theme {
    name: &'static str,
    body: fn(Form) -> Section,
}

const THEMES: [Theme; 6] = [
    Theme {
        name: "start",
        body: start::section,
    },
    Theme {
        name: "load",
        body: load::section,
    },
    Theme {
        name: "packets",
        body: packets::section,
    },
    Theme {
        name: "dns",
        body: dns::section,
    },
    Theme {
        name: "sizes",
        body: sizes::section,
    },
    Theme {
        name: "instructions",
        body: instructions::section,
    },
];

/// What `scripts/bench` built beside the binary: `floor` and `empty`.
pub fn tool(name: &str) -> PathBuf {
    let folder = env::var_os("BENCH_TOOLS").expect("BENCH_TOOLS is set by scripts/bench");
    Path::new(&folder).join(name)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["__outside"] => outside::main(true),
        [outside::UNWATCHED] => outside::main(false),
        ["__count", part, ..] => instructions::count(part, &words[2..]),
        ["__theme", name, form] => theme(name, form),
        _ => return orchestrate(&words),
    }
    ExitCode::SUCCESS
}

/// Runs the themes that were named, or all, and writes the report.
fn orchestrate(words: &[&str]) -> ExitCode {
    let form = if words.contains(&"--short") {
        Form::Short
    } else {
        Form::Full
    };
    let unknown = words.iter().find(|word| {
        // Cargo passes --bench to every benchmark.
        !["--short", "--bench"].contains(word) && THEMES.iter().all(|theme| theme.name != **word)
    });
    if let Some(unknown) = unknown {
        eprintln!(
            "{unknown} is no theme; there are {:?}",
            THEMES.map(|theme| theme.name)
        );
        return ExitCode::from(2);
    }
    let chosen: Vec<_> = THEMES
        .iter()
        .filter(|theme| words.contains(&theme.name))
        .collect();
    let all = chosen.is_empty();
    let chosen = if all { THEMES.iter().collect() } else { chosen };
    let mut machine = machine::Machine::here();
    let mut sections = Vec::new();
    let mut failed = Vec::new();
    for theme in chosen {
        let started = Instant::now();
        eprintln!("== {}", theme.name);
        match run_in_namespaces(theme.name, form) {
            Some(section) => sections.push((theme.name, section)),
            // What the others find is not lost with it.
            None => failed.push(theme.name),
        }
        eprintln!(
            "== {}: {:.0} s\n",
            theme.name,
            started.elapsed().as_secs_f64()
        );
    }
    machine.finish();
    // What is in docs/ is of one whole run.
    let folder = if all && form == Form::Full && failed.is_empty() {
        PathBuf::from("docs/benchmarks")
    } else {
        tool("results")
    };
    fs::create_dir_all(&folder).expect("a folder for the results");
    let text = report::write(&folder, &machine, form, &sections);
    println!("{text}");
    eprintln!("written to {}", folder.display());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// How long a theme may take, so that a run ends whatever hangs in it: the longest takes half of it
/// on a machine of two processors.
const LIMIT: Duration = Duration::from_secs(600);

/// A theme in a process and in namespaces of its own, as the cases of the tests are.
fn run_in_namespaces(name: &str, form: Form) -> Option<Section> {
    let mut child = harness::namespaces()
        .arg(env::current_exe().expect("the path of this program"))
        .args(["__theme", name, form.pick("full", "short")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare can be started");
    // The theme ends when its input does.
    let lifeline = child.stdin.take();
    let (done, ends) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late = ends.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        drop(lifeline);
        late
    });
    let output = child.wait_with_output().expect("it was started");
    drop(done);
    if watch.join().expect("it only waits") {
        eprintln!("{name}: not done after {} s", LIMIT.as_secs());
        return None;
    }
    if !output.status.success() {
        eprintln!("{name}: {}", output.status);
        return None;
    }
    Some(serde_json::from_slice(&output.stdout).expect("a section"))
}

/// The entry of `__theme`.
fn theme(name: &str, form: &str) {
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    nix::mount::mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .expect("a /proc of its own");
    let theme = THEMES
        .iter()
        .find(|theme| theme.name == name)
        .expect("the name of a theme");
    let form = if form == "short" {
        Form::Short
    } else {
        Form::Full
    };
    let section = (theme.body)(form);
    println!("{}", serde_json::to_string(&section).unwrap());
}
