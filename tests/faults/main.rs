//! The fault suite: every system call of a start is made to fail, with each error that it can
//! plausibly return, and cut by SIGKILL; and after each either the command runs fenced, with a
//! sentinel that verifies, or it does not run, there is no sentinel, and what was closed is
//! closed (I1 to I6). Then those of a refresh, of a reload and of a query of the command: and after
//! each what was in force before is in force, or what is to come, and nothing else.
//!
//! First a clean run of each scenario is recorded ([`tracer`]); its calls and what can happen to
//! them ([`calls`]) are the cases. Workers, each with a small internet of its own
//! ([`support::world`]), bring about the state before ([`scenario`]), run the case and judge it
//! ([`judge`], [`keeping`]) by what leaves ([`gate`]). What `make faults` prints and writes is in [`report`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod cases;
mod conformance;
mod gate;
mod judge;
mod keeping;
mod regressions;
mod report;
mod scenario;
mod tracer;
mod workers;

#[path = "../model/lifecycle.rs"]
mod lifecycle;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;

use scenario::Scenario;

/// Makes every system call of a start fail.
#[derive(Parser)]
struct Arguments {
    /// Every case; without it a sample that takes a minute.
    #[arg(long)]
    full: bool,
    /// One scenario only: start, re-run, apply, root, supervise, watch, take-over, refresh, reload,
    /// hangup, query.
    #[arg(long)]
    scenario: Option<String>,
    /// Cases whose name contains this, such as `capset #3: EPERM`.
    filter: Option<String>,
    /// How many at a time.
    #[arg(long)]
    jobs: Option<usize>,
    /// The page whose tables are to be rewritten.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Print every case with what came of it.
    #[arg(long)]
    verbose: bool,
    /// Print the calls of a clean run, and what leaves after each.
    #[arg(long)]
    record: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["__worker"] {
        workers::main();
        return ExitCode::SUCCESS;
    }
    if support::harness::dispatch(&[]) {
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let began = Instant::now();
    let chosen: Vec<Scenario> = scenario::possible()
        .into_iter()
        .filter(|scenario| {
            let asked = arguments.scenario.as_deref();
            asked.is_none_or(|title| title == scenario.title())
        })
        .collect();
    let recordings = workers::record(&chosen);
    if arguments.record {
        report::recordings(&recordings);
        return ExitCode::SUCCESS;
    }
    let mut wrong = false;
    for recording in &recordings {
        for line in &recording.clean.wrong {
            println!(
                "{}: a start without a fault: {line}",
                recording.scenario.title()
            );
            wrong = true;
        }
    }
    let mut cases = cases::all(&recordings, arguments.full);
    if let Some(filter) = &arguments.filter {
        cases.retain(|case| report::name(case).contains(filter.as_str()));
    }
    let jobs = arguments.jobs.unwrap_or_else(|| {
        // A case waits as much as it works.
        2 * std::thread::available_parallelism().map_or(1, usize::from)
    });
    let results = workers::judge_all(cases, jobs);
    if arguments.verbose {
        report::each(&results);
    }
    wrong |= report::summary(&recordings, &results, began.elapsed());
    if let Some(page) = &arguments.write {
        report::write(page, &recordings, &results, began.elapsed());
    }
    ExitCode::from(u8::from(wrong))
}
