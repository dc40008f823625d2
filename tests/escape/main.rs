//! The escape suite: a program that runs as the command and tries to get a byte out, a judge on
//! the other side, and a control for every attempt. `make escape` runs the long form.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Pedantry that a catalogue of attempts gains nothing from: lists are long, octets have one letter.
#![allow(
    clippy::assigning_clones,
    clippy::cast_precision_loss,
    clippy::doc_markdown,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::many_single_char_names,
    clippy::needless_pass_by_value,
    clippy::nonminimal_bool,
    clippy::struct_field_names,
    clippy::too_many_lines,
    clippy::trivially_copy_pass_by_ref,
    clippy::type_complexity,
    clippy::unused_self
)]

#[path = "../support/mod.rs"]
mod support;

mod attempts;
mod campaign;
mod judge;
mod plants;
mod races;
mod report;
mod resolvers;
mod sniffer;
mod stage;
mod sys;
mod token;

use std::{
    env,
    io::{BufRead, BufReader},
    process::{ExitCode, Stdio},
    thread,
};

use serde::{Deserialize, Serialize};

use campaign::{Campaign, Row};
use plants::Plant;
use stage::{Configuration, Entry, Stage, Way};
use support::harness::{self, Case};

/// How a case learns what to do, and what a case reports.
const OPTIONS: &str = "ESCAPE_OPTIONS";
/// How often each race is run.
const ROUNDS: [u64; 2] = [8, 80];

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
        ["__hammer", number] => races::hammer_main(number),
        ["__runner"] => stage::runner_main(),
        ["__attempt", contexts] => attempts::main(contexts),
        [stage::BYSTANDER, ref words @ ..] => stage::bystander_main(!words.is_empty()),
        ["__undo", context] => attempts::undo(context),
        _ if harness::dispatch(&CASES) => {}
        _ => return suite(&words),
    }
    ExitCode::SUCCESS
}

const CASES: [Case; 7] = [
    Case {
        name: "applied attempts",
        body: || case(false, applied_case),
    },
    Case {
        name: "proxied plant",
        body: || case(false, proxied_plant_case),
    },
    Case {
        name: "proxied attempts",
        body: || case(false, proxied_case),
    },
    Case {
        name: "proxied races",
        body: || case(false, proxied_races_case),
    },
    Case {
        name: "attempts",
        body: || case(true, attempts_case),
    },
    Case {
        name: "races",
        body: || case(true, races_case),
    },
    Case {
        name: "plant",
        body: || case(true, plant_case),
    },
];

/// Without words the short form: what `cargo test` and CI run. `--long` is the long form, `--plants`
/// all plants, `--plant=NAME` one; `--page=FILE` writes the tables into a page. Other words pick
/// attempts by a part of their names.
fn suite(words: &[String]) -> ExitCode {
    let flag = |name: &str| words.iter().any(|word| word == name);
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let options = Options {
        is_long: flag("--long"),
        plant: value("--plant=").map(str::to_owned),
        only: words
            .iter()
            .filter(|word| !word.starts_with('-'))
            .cloned()
            .collect(),
    };
    let page = value("--page=");
    let mut is_good = true;
    if flag("--plants") || options.plant.is_some() {
        is_good &= plants(&options, page);
    } else {
        is_good &= attempts_and_races(&options, page);
    }
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn attempts_and_races(options: &Options, page: Option<&str>) -> bool {
    let began = std::time::Instant::now();
    let only_races = options.only.iter().any(|part| part == "races");
    let names = match (only_races, options.only.is_empty()) {
        (true, _) => vec!["races", "proxied races"],
        (_, true) => vec![
            "attempts",
            "races",
            "proxied attempts",
            "proxied races",
            "applied attempts",
        ],
        _ => vec!["attempts", "proxied attempts", "applied attempts"],
    };
    // Each has a world of its own, and waits more than it works.
    let report = thread::scope(|scope| {
        let cases: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(|| run_case(name, options.clone())))
            .collect();
        let mut whole = Report::default();
        for case in cases {
            whole.join(case.join().expect("a case that panicked has said so"));
        }
        whole
    });
    let Report {
        rows,
        configurations,
        notes,
    } = report;
    print!("{}", report::text(&rows, &configurations, &notes));
    let sums = report::sums(&rows, &notes);
    println!("{}", report::verdict(sums));
    eprintln!("{:.0} s", began.elapsed().as_secs_f64());
    if let Some(page) = page {
        report::write(
            page,
            "attempts",
            &report::markdown(&rows, &configurations, &notes),
        );
    }
    sums.escaped == 0
}

impl Report {
    /// The same attempts in other configurations: their controls are those that are here.
    fn join(&mut self, other: Self) {
        for row in other.rows {
            match self.rows.iter_mut().find(|known| known.name == row.name) {
                Some(known) => known.results.extend(row.results),
                None => self.rows.push(row),
            }
        }
        for configuration in other.configurations {
            if !self.configurations.contains(&configuration) {
                self.configurations.push(configuration);
            }
        }
        self.notes.extend(other.notes);
    }
}

/// Runs every plant and says what caught it.
fn plants(options: &Options, page: Option<&str>) -> bool {
    let mut table = "| plant | what is weak | caught by | attempts that got through |\n".to_owned();
    table.push_str("| --- | --- | --- | --- |\n");
    let mut missed = Vec::new();
    let mut tried = 0;
    // What gets through without a plant says nothing about one.
    let baseline = names_of_escapes(&run_case("plant", options_of(options, None)));
    for plant in &plants::PLANTS {
        if options
            .plant
            .as_ref()
            .is_some_and(|name| name != plant.name)
        {
            continue;
        }
        let case = ["plant", "proxied plant"][usize::from(plant.is_proxied())];
        let report = run_case(case, options_of(options, Some(plant.name)));
        if report.configurations.is_empty() {
            println!("{:<28} n/a: it needs a second uid", plant.name);
            continue;
        }
        tried += 1;
        let mut caught = names_of_escapes(&report);
        caught.retain(|name| !baseline.contains(name));
        let catcher = if caught.iter().any(|name| name == plant.catcher) {
            plant.catcher
        } else {
            missed.push(plant.name);
            let row = report.rows.iter().find(|row| row.name == plant.catcher);
            eprintln!("{} does not find {}: {row:?}", plant.catcher, plant.name);
            "**nothing**"
        };
        println!("{:<28} {catcher} ({} in all)", plant.name, caught.len());
        table.push_str(&format!(
            "| `{}` | {} | {catcher} | {} |\n",
            plant.name,
            plant.what,
            caught.len()
        ));
    }
    println!("{tried} planted, {} missed", missed.len());
    if let Some(page) = page {
        report::write(page, "plants", &table);
    }
    missed.is_empty()
}

fn options_of(options: &Options, plant: Option<&str>) -> Options {
    Options {
        plant: plant.map(str::to_owned),
        ..options.clone()
    }
}

fn names_of_escapes(report: &Report) -> Vec<String> {
    let got_through = |row: &&Row| row.results.values().any(|o| !o.escaped.is_empty());
    report
        .rows
        .iter()
        .filter(got_through)
        .map(|row| row.name.clone())
        .collect()
}

/// Runs a case in namespaces of its own and takes its report.
fn run_case(name: &str, options: Options) -> Report {
    let limit = env::var(harness::LIMIT_VARIABLE).unwrap_or_else(|_| "600".to_owned());
    let mut child = harness::namespaces()
        .arg(env::current_exe().unwrap())
        .args(["__case", name])
        .env(harness::LIMIT_VARIABLE, limit)
        .env(OPTIONS, serde_json::to_string(&options).unwrap())
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
    assert!(status.success(), "{name} ended with {status}");
    serde_json::from_str(&line).expect("a report")
}

fn configurations(stage: &Stage) -> Vec<Configuration> {
    let configuration = |name, as_user| Configuration {
        name,
        options: Vec::new(),
        as_user,
        is_proxy: false,
        by: Entry::Itself,
    };
    let user = configuration("pinned, --user node", true);
    let root = configuration("pinned, uid 0", false);
    if stage.has_user {
        vec![user, root]
    } else {
        vec![root]
    }
}

/// With egress-init above the command, answering its DNS.
fn proxied(stage: &Stage) -> Vec<Configuration> {
    let names = ["proxy, --user node", "proxy, uid 0"];
    let proxied = configurations(stage)
        .into_iter()
        .map(|configuration| Configuration {
            name: names[usize::from(!configuration.as_user)],
            options: vec!["--supervise"],
            is_proxy: true,
            ..configuration
        });
    proxied.collect()
}

/// With a command that `check` starts, after `apply` or beside a sidecar.
fn applied(stage: &Stage) -> Vec<Configuration> {
    let entries = [
        ("apply, check --user node", Entry::Apply),
        ("apply --watch, check --user node", Entry::Watch),
    ];
    let applied = entries.map(|(name, by)| Configuration {
        name,
        options: Vec::new(),
        as_user: true,
        is_proxy: by == Entry::Watch,
        by,
    });
    // `check` cannot change to a user that is not there.
    applied.into_iter().filter(|_| stage.has_user).collect()
}

fn case(has_resolvers: bool, body: fn(&Stage, &Options) -> Report) {
    let options = serde_json::from_str(&env::var(OPTIONS).unwrap()).unwrap();
    let began = std::time::Instant::now();
    let report = body(&Stage::new(has_resolvers), &options);
    if env::var_os("ESCAPE_TIMES").is_some() {
        eprintln!("{:?} after {:.0?}", report.configurations, began.elapsed());
    }
    println!("{}", serde_json::to_string(&report).unwrap());
}

fn attempts_case(stage: &Stage, options: &Options) -> Report {
    let mut campaign = Campaign::new(stage, options.is_long, &options.only);
    campaign.controls();
    let mut report = Report::default();
    for configuration in configurations(stage) {
        let way = Way::Fenced(configuration.clone());
        let notes = campaign.fenced(&configuration, &way, &|_| {});
        report.notes.extend(notes);
        report.configurations.push(configuration.name.to_owned());
    }
    report.rows = campaign.rows();
    report
}

fn proxied_case(stage: &Stage, options: &Options) -> Report {
    assumed_case(stage, options, proxied(stage))
}

fn applied_case(stage: &Stage, options: &Options) -> Report {
    assumed_case(stage, options, applied(stage))
}

/// The controls are those of the other case: the parent puts them together.
fn assumed_case(stage: &Stage, options: &Options, configurations: Vec<Configuration>) -> Report {
    let mut campaign = Campaign::new(stage, options.is_long, &options.only);
    campaign.assume();
    let mut report = Report::default();
    for configuration in configurations {
        let way = Way::Fenced(configuration.clone());
        let notes = campaign.fenced(&configuration, &way, &|_| {});
        report.notes.extend(notes);
        report.configurations.push(configuration.name.to_owned());
    }
    report.rows = campaign.rows();
    report
}

fn proxied_races_case(stage: &Stage, options: &Options) -> Report {
    let configuration = proxied(stage).remove(0);
    let rounds = ROUNDS[usize::from(options.is_long)] / 2;
    Report {
        rows: races::run(stage, &configuration, rounds, None),
        configurations: vec![configuration.name.to_owned()],
        notes: Vec::new(),
    }
}

fn races_case(stage: &Stage, options: &Options) -> Report {
    let configuration = configurations(stage).remove(0);
    let rounds = ROUNDS[usize::from(options.is_long)];
    Report {
        rows: races::run(stage, &configuration, rounds, None),
        configurations: vec![configuration.name.to_owned()],
        notes: Vec::new(),
    }
}

fn plant_case(stage: &Stage, options: &Options) -> Report {
    planted(stage, options, &configurations(stage).remove(0))
}

fn proxied_plant_case(stage: &Stage, options: &Options) -> Report {
    planted(stage, options, &proxied(stage).remove(0))
}

fn planted(stage: &Stage, options: &Options, configuration: &Configuration) -> Report {
    let plant = options
        .plant
        .as_deref()
        .map(|name| Plant::named(name).expect("a plant"));
    let plant = plant.unwrap_or(&plants::NONE);
    if !plants::fits(plant, stage) {
        return Report::default();
    }
    let name = vec![configuration.name.to_owned()];
    if let Some(between) = plant.race() {
        return Report {
            rows: races::run(stage, configuration, 3, Some(&between)),
            configurations: name,
            notes: Vec::new(),
        };
    }
    let mut campaign = Campaign::new(stage, false, &options.only);
    campaign.assume();
    let way = plant.way(configuration);
    let notes = campaign.fenced(configuration, &way, &|runner| plant.apply(runner));
    Report {
        rows: campaign.rows(),
        configurations: name,
        notes,
    }
}
