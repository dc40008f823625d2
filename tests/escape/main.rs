//! The escape suite: a program that runs as the command and tries to get a byte out, a judge on
//! the other side, and a control for every attempt. `make escape` runs the long form.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod attempts;
mod campaign;
mod judge;
mod sniffer;
mod stage;
mod sys;
mod token;

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{ExitCode, Stdio},
};

use serde::{Deserialize, Serialize};

use campaign::{Campaign, Row};
use stage::{Configuration, Stage, Way};
use support::harness::{self, Case};

/// How a case learns what to do, and what a case reports.
const OPTIONS: &str = "ESCAPE_OPTIONS";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Options {
    is_long: bool,
    plant: Option<String>,
    only: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    rows: Vec<Row>,
    configurations: Vec<String>,
    notes: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["__init", ref words @ ..] => return stage::init_main(words),
        ["__runner"] => stage::runner_main(),
        ["__attempt", contexts] => attempts::main(contexts),
        [stage::BYSTANDER] => stage::bystander_main(),
        ["__undo", context] => attempts::undo(context),
        _ if harness::dispatch(&[CAMPAIGN]) => {}
        _ => return suite(&words),
    }
    ExitCode::SUCCESS
}

const CAMPAIGN: Case = Case {
    name: "campaign",
    body: campaign_case,
};

fn suite(words: &[String]) -> ExitCode {
    let options = Options {
        is_long: words.iter().any(|word| word == "--long"),
        only: words.iter().filter(|word| !word.starts_with('-')).cloned().collect(),
        ..Options::default()
    };
    let report = run_case(&CAMPAIGN, &options);
    for row in &report.rows {
        println!("{} | {:?}", row.name, row.control);
        for (c, o) in &row.results {
            println!("     {c}: {o:?}");
        }
    }
    println!("{:#?}", report.notes);
    ExitCode::SUCCESS
}

/// Runs a case in namespaces of its own and takes its report.
fn run_case(case: &Case, options: &Options) -> Report {
    let mut child = harness::namespaces()
        .arg(env::current_exe().unwrap())
        .args(["__case", case.name])
        .env(OPTIONS, serde_json::to_string(options).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    // Its lifeline.
    let stdin = child.stdin.take();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let status = child.wait().unwrap();
    drop(stdin);
    assert!(status.success(), "the case ended with {status}");
    serde_json::from_str(&line).expect("a report")
}

fn configurations(has_user: bool) -> Vec<Configuration> {
    let configuration = |name, as_user| Configuration {
        name,
        options: Vec::new(),
        as_user,
    };
    let mut all = vec![configuration("pinned, uid 0", false)];
    if has_user {
        all.insert(0, configuration("pinned, --user node", true));
    }
    all
}

fn campaign_case() {
    let options: Options = serde_json::from_str(&env::var(OPTIONS).unwrap()).unwrap();
    let stage = Stage::new();
    let mut campaign = Campaign::new(&stage, options.is_long, &options.only);
    let began = std::time::Instant::now();
    campaign.controls(options.only.is_empty());
    eprintln!("controls {:?}", began.elapsed());
    let mut report = Report::default();
    for configuration in configurations(stage.has_user) {
        let way = Way::Fenced(configuration.clone());
        report.notes.extend(campaign.fenced(&configuration, &way, &|_, _| {}));
        report.configurations.push(configuration.name.to_owned());
        eprintln!("{} {:?}", configuration.name, began.elapsed());
    }
    report.rows = campaign.rows();
    println!("{}", serde_json::to_string(&report).unwrap());
    let _ = io::Write::flush(&mut io::stdout());
}
