//! What is printed, and the tables of docs/faults.md.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use crate::{
    judge::{Case, Judged, Verdict},
    workers::Recording,
};

/// How a case is called, here and on the command line.
pub fn name(case: &Case) -> String {
    let known = case
        .regression
        .map(|regression| format!(" ({})", regression.name));
    format!(
        "{}: {}: {}{}",
        case.scenario.title(),
        case.point,
        case.fault,
        known.unwrap_or_default()
    )
}

/// Each call of the clean runs.
pub fn recordings(recordings: &[Recording]) {
    for recording in recordings {
        println!("{}:", recording.scenario.title());
        for (call, seen) in &recording.clean.calls {
            match call {
                Some(call) => println!(
                    "  {:<32} = {:<6} {:<44} {seen}",
                    call.point.to_string(),
                    call.returned.unwrap_or_default(),
                    call.subject.as_deref().unwrap_or_default(),
                ),
                None => println!("  it is the command now {:>58} {seen}", ""),
            }
        }
    }
}

pub fn each(results: &[(Case, Judged)]) {
    for (case, judged) in results {
        println!(
            "{:<60} {:?} {:?} {} ms{}\n    {}",
            name(case),
            judged.verdict,
            judged.end,
            judged.milliseconds,
            if judged.reached { "" } else { " (not reached)" },
            judged.stderr.trim_end().replace('\n', "\n    "),
        );
    }
}

/// Prints what is wrong with a case, if anything is: at once, for it may be long to the end.
pub fn wrong(case: &Case, judged: &Judged) {
    if judged.wrong.is_empty() {
        return;
    }
    let stderr = judged.stderr.trim_end().replace('\n', "\n            ");
    println!(
        "{}: {:?}, {:?}\n    {}\n    stderr: {stderr}",
        name(case),
        judged.verdict,
        judged.end,
        judged.wrong.join("\n    "),
    );
}

/// Prints what came of it all; whether anything is wrong.
pub fn summary(recordings: &[Recording], results: &[(Case, Judged)], took: Duration) -> bool {
    let failed = results
        .iter()
        .filter(|(_, judged)| !judged.wrong.is_empty())
        .count();
    for recording in recordings {
        let of = |(case, _): &&(Case, Judged)| case.scenario == recording.scenario;
        let counts = Counts::of(results.iter().filter(of));
        println!(
            "{:<9} {} calls, {} cases: {}",
            recording.scenario.title(),
            recording.calls().len(),
            counts.cases,
            counts.sentence(),
        );
    }
    let slowest = results.iter().max_by_key(|(_, judged)| judged.milliseconds);
    if let Some((case, judged)) = slowest {
        println!("slowest: {}, {} ms", name(case), judged.milliseconds);
    }
    println!(
        "{} cases in {:.0} s, {failed} wrong",
        results.len(),
        took.as_secs_f64()
    );
    failed > 0
}

#[derive(Default)]
struct Counts {
    cases: usize,
    enforced: usize,
    kept: usize,
    locked: usize,
    locked_with_dns: usize,
    policy: usize,
    untouched: usize,
    not_reached: usize,
}

impl Counts {
    fn of<'a>(results: impl Iterator<Item = &'a (Case, Judged)>) -> Self {
        let mut counts = Self::default();
        for (_, judged) in results {
            counts.cases += 1;
            counts.not_reached += usize::from(!judged.reached);
            *match judged.verdict {
                Verdict::Enforced => &mut counts.enforced,
                Verdict::Kept => &mut counts.kept,
                Verdict::Locked => &mut counts.locked,
                Verdict::LockedWithDns => &mut counts.locked_with_dns,
                Verdict::Policy => &mut counts.policy,
                Verdict::Untouched => &mut counts.untouched,
            } += 1;
        }
        counts
    }

    fn sentence(&self) -> String {
        format!(
            "{} ran enforced, {} went on as before, {} refused and locked, {} locked with DNS for \
             uid 0 (killed), {} ended under the list's rules, {} untouched; {} not reached",
            self.enforced,
            self.kept,
            self.locked,
            self.locked_with_dns,
            self.policy,
            self.untouched,
            self.not_reached
        )
    }

    fn row(&self, heading: &str) -> String {
        let cell = |count: usize| {
            if count == 0 {
                String::new()
            } else {
                count.to_string()
            }
        };
        format!(
            "| {heading} | {} | {} | {} | {} | {} | {} | {} |\n",
            self.cases,
            cell(self.enforced),
            cell(self.kept),
            cell(self.locked),
            cell(self.locked_with_dns),
            cell(self.policy),
            cell(self.untouched),
        )
    }
}

const HEAD: &str = "| cases | ran enforced | went on as before | refused, locked | killed, locked but for DNS of uid 0 | not run or ended, under the list's rules | not run, untouched |\n";

/// Rewrites what is between the markers of the page.
pub fn write(page: &Path, recordings: &[Recording], results: &[(Case, Judged)], took: Duration) {
    let text = std::fs::read_to_string(page).expect("the page can be read");
    let (begin, end) = ("<!-- faults: begin -->\n", "<!-- faults: end -->");
    let (head, rest) = text
        .split_once(begin)
        .expect("the page has a beginning marker");
    let (_, tail) = rest.split_once(end).expect("the page has an end marker");
    let text = format!(
        "{head}{begin}{}{end}{tail}",
        tables(recordings, results, took)
    );
    std::fs::write(page, text).expect("the page can be written");
}

fn tables(recordings: &[Recording], results: &[(Case, Judged)], took: Duration) -> String {
    let failed = results
        .iter()
        .filter(|(_, judged)| !judged.wrong.is_empty())
        .count();
    let mut text = format!(
        "{}\n\n**{} cases, {failed} wrong**, in {:.0} s.\n\n",
        circumstances(),
        results.len(),
        took.as_secs_f64()
    );
    let _ = writeln!(
        text,
        "| scenario | system calls {HEAD}|---|---|---|---|---|---|---|---|---|"
    );
    for recording in recordings {
        let of = |(case, _): &&(Case, Judged)| case.scenario == recording.scenario;
        let heading = format!(
            "{} | {}",
            recording.scenario.title(),
            recording.calls().len()
        );
        text += &Counts::of(results.iter().filter(of)).row(&heading);
    }
    text += "\nBy error, all scenarios:\n\n";
    let _ = writeln!(text, "| error {HEAD}|---|---|---|---|---|---|---|---|");
    text += &rows(results, |case| format!("`{}`", case.fault));
    text += "\n<details><summary>By system call and error, all scenarios</summary>\n\n";
    let _ = writeln!(
        text,
        "| system call | error {HEAD}|---|---|---|---|---|---|---|---|---|"
    );
    text += &rows(results, |case| {
        format!("`{}` | {}", case.point.call, case.fault)
    });
    text += "\n</details>\n";
    text
}

fn rows(results: &[(Case, Judged)], heading: impl Fn(&Case) -> String) -> String {
    let mut groups: BTreeMap<String, Vec<&(Case, Judged)>> = BTreeMap::new();
    for result in results {
        groups.entry(heading(&result.0)).or_default().push(result);
    }
    groups
        .iter()
        .map(|(heading, group)| Counts::of(group.iter().copied()).row(heading))
        .collect()
}

fn circumstances() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.map_or_else(
            |_| "?".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    format!(
        "{}, commit {}, Linux {}, {}.",
        said("date", &["--utc", "+%Y-%m-%d"]),
        said(
            "git",
            &["describe", "--always", "--dirty", "--exclude", "*"]
        ),
        said("uname", &["--kernel-release"]),
        said("uname", &["--machine"]),
    )
}
