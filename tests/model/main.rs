//! The model of the lifecycle, checked exhaustively: no state that starts can come to violates
//! I1 to I6 or I9, and each of the mistakes that were planted in the model does.
//!
//! Why not a model checker that exists: spin would need a second description of the machine in
//! its own language, which no trace of the real program could be held against; here the fault
//! suite asks the same transition function whether what it recorded can be ([`lifecycle`],
//! tests/faults/conformance.rs). Stateright would do, and brings a web server and two dozen
//! crates; what is needed of it is forty lines ([`explore`]).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod explore;
mod lifecycle;
mod mutants;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use clap::Parser;

use explore::{Explored, explore};
use lifecycle::{Mode, Protocol, State};
use mutants::mutants;

/// Checks the model of the lifecycle.
#[derive(Parser)]
struct Arguments {
    /// Three starts and two restarts of the container instead of two and one.
    #[arg(long)]
    full: bool,
    /// The page whose tables are to be rewritten.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Ignored: what `cargo test NAME` passes to every test.
    filter: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut good = true;
    let mut rows = vec![];
    let size = if arguments.full { (3, 2) } else { (2, 1) };
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for modes in combinations(size.0) {
        let found = explore(&Protocol::real(), State::initial(&modes, size.1));
        *totals.entry("states").or_default() += found.states;
        *totals.entry("transitions").or_default() += found.transitions;
        if let Some((name, path)) = &found.violation {
            good = false;
            println!("{modes:?}: {name} does not hold after {}", told(path));
        }
        let keepers = modes
            .iter()
            .filter(|mode| **mode == Mode::Supervise)
            .count();
        // A keeper has the turn for its life: a start beside it cannot come to a good end.
        if keepers == 0 && !found.all_well {
            good = false;
            println!("{modes:?}: never do all starts come to a good end");
        }
    }
    println!(
        "{} starts, {} restarts: {} states, {} transitions, {}",
        size.0,
        size.1,
        totals["states"],
        totals["transitions"],
        if good {
            "every invariant holds"
        } else {
            "WRONG"
        }
    );
    for mutant in mutants() {
        let found = worst(&mutant.protocol);
        let (name, path) = found.violation.unwrap_or(("nothing", Vec::new()));
        let caught = name == mutant.breaks;
        good &= caught;
        println!(
            "{} {}: violates {name} after {}",
            if caught { "caught" } else { "MISSED" },
            mutant.name,
            told(&path)
        );
        rows.push(format!("| {} | {name} | {} |\n", mutant.name, told(&path)));
    }
    if let Some(page) = arguments.write {
        let steps: Vec<String> = Protocol::real()
            .steps
            .iter()
            .map(|step| format!("| {step:?} | `{}` |\n", step.code()))
            .collect();
        let steps = steps.concat();
        rewrite(
            &page,
            "steps",
            &format!("| step | in src/ |\n|---|---|\n{steps}"),
        );
        let size = format!(
            "{} starts at any moment, {} restarts of the container, every mode of each start: \
             **{} states, {} transitions, {}**.\n",
            size.0,
            size.1,
            totals["states"],
            totals["transitions"],
            if good {
                "every invariant holds in all of them"
            } else {
                "WRONG"
            },
        );
        rewrite(&page, "size", &size);
        let head = "| mistake | violates | after |\n|---|---|---|\n";
        rewrite(&page, "mutants", &format!("{head}{}", rows.concat()));
    }
    ExitCode::from(u8::from(!good))
}

/// The shortest way to a violation, whatever the modes of two starts.
fn worst(protocol: &Protocol) -> Explored {
    combinations(2)
        .into_iter()
        .map(|modes| explore(protocol, State::initial(&modes, 1)))
        .filter(|found| found.violation.is_some())
        .min_by_key(|found| found.violation.as_ref().map(|(_, path)| path.len()))
        .unwrap_or_default()
}

fn combinations(starts: usize) -> Vec<Vec<Mode>> {
    let modes = [Mode::Exec, Mode::Apply, Mode::Supervise];
    let mut all = vec![Vec::new()];
    for _ in 0..starts {
        all = all
            .into_iter()
            .flat_map(|start: Vec<Mode>| modes.map(|mode| [start.clone(), vec![mode]].concat()))
            .collect();
    }
    all
}

fn told(path: &[lifecycle::Action]) -> String {
    path.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Rewrites what is between two markers of the page.
fn rewrite(page: &PathBuf, name: &str, text: &str) {
    let old = fs::read_to_string(page).unwrap();
    let (begin, end) = (
        format!("<!-- {name}: begin -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let (head, rest) = old.split_once(&begin).expect("a beginning marker");
    let (_, tail) = rest.split_once(&end).expect("an end marker");
    fs::write(page, format!("{head}{begin}\n{text}\n{end}{tail}")).unwrap();
}
