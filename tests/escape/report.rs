//! What the suite found, for a terminal and for the page in docs/.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command};

use crate::{
    attempts::{self, SCAN},
    campaign::Row,
};

/// The sums of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub tried: usize,
    pub escaped: usize,
    pub without_control: usize,
}

pub fn sums(rows: &[Row], notes: &[String]) -> Sums {
    let mut sums = Sums {
        escaped: notes.len(),
        ..Sums::default()
    };
    for row in rows {
        if row.control.is_err() {
            sums.without_control += 1;
            continue;
        }
        for outcome in row.results.values().filter(|o| o.left_out.is_none()) {
            sums.tried += 1;
            sums.escaped += usize::from(!outcome.escaped.is_empty());
        }
    }
    sums
}

/// One line of the table: an attempt in all families, or a kind of socket with all protocols.
struct Line {
    name: String,
    tried: usize,
    control: String,
    /// What came of it, each configuration.
    results: Vec<String>,
}

/// The attempts of a theme, those that differ by family or protocol alone in one line.
fn lines(rows: &[Row], configurations: &[String]) -> Vec<(String, Vec<Line>)> {
    let mut themes: Vec<(String, Vec<(String, Vec<&Row>)>)> = Vec::new();
    for row in rows {
        let name = if row.name.starts_with(SCAN) {
            attempts::heading(&row.name)
        } else {
            let name = row
                .name
                .split_once(": ")
                .map_or(row.name.as_str(), |(_, name)| name);
            let name = name
                .strip_suffix(", IPv4")
                .or_else(|| name.strip_suffix(", IPv6"))
                .unwrap_or(name);
            name.to_owned()
        };
        let index = themes
            .iter()
            .position(|(theme, _)| *theme == row.theme)
            .unwrap_or_else(|| {
                themes.push((row.theme.clone(), Vec::new()));
                themes.len() - 1
            });
        let theme = &mut themes[index].1;
        match theme.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => theme.push((name, vec![row])),
        }
    }
    themes
        .into_iter()
        .map(|(theme, groups)| {
            let lines = groups
                .into_iter()
                .map(|(name, rows)| line(name, &rows, configurations));
            (theme, lines.collect())
        })
        .collect()
}

fn line(name: String, rows: &[&Row], configurations: &[String]) -> Line {
    let count = |texts: Vec<String>| -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for text in texts {
            *counts.entry(text).or_default() += 1;
        }
        let one = counts.len() == 1;
        let texts = counts.into_iter().map(|(text, count)| {
            if one || count == 1 {
                text
            } else {
                format!("{text} ({count})")
            }
        });
        texts.collect::<Vec<_>>().join(", ")
    };
    let control = count(
        rows.iter()
            .map(|row| match &row.control {
                Ok(how) => how.clone(),
                Err(why) => format!("n/a: {why}"),
            })
            .collect(),
    );
    let tried = rows
        .iter()
        .filter(|row| row.control.is_ok())
        .flat_map(|row| row.results.values())
        .filter(|outcome| outcome.left_out.is_none())
        .count();
    let results = configurations
        .iter()
        .map(|configuration| {
            let outcomes = rows
                .iter()
                .filter(|row| row.control.is_ok())
                .filter_map(|row| row.results.get(configuration));
            count(
                outcomes
                    .map(
                        |outcome| match (&outcome.left_out, outcome.escaped.is_empty()) {
                            (Some(why), _) => format!("left out: {why}"),
                            (None, false) => format!("**escaped**: {}", outcome.escaped.join("; ")),
                            (None, true) if outcome.carried.0 > 0 && row_is_of_the_link(rows) => {
                                let (octets, packets) = outcome.carried;
                                format!("carried {octets} octets in {packets} packets")
                            }
                            (None, true) if outcome.asked > 0 => {
                                format!("closed, types asked for: {}", outcome.asked)
                            }
                            (None, true) => match outcome.said.as_str() {
                                "sent" => "closed".to_owned(),
                                said => format!("closed, {said}"),
                            },
                        },
                    )
                    .collect(),
            )
        })
        .collect();
    Line {
        name,
        tried,
        control,
        results,
    }
}

fn row_is_of_the_link(rows: &[&Row]) -> bool {
    rows.iter().all(|row| row.theme == "link")
}

/// The line that counts.
pub fn verdict(sums: Sums) -> String {
    format!(
        "{} tried, {} escaped ({} more have no control on this kernel)",
        sums.tried, sums.escaped, sums.without_control
    )
}

/// For a terminal: themes with their sums, and every line that is not closed.
pub fn text(rows: &[Row], configurations: &[String], notes: &[String]) -> String {
    let mut text = String::new();
    for (theme, lines) in lines(rows, configurations) {
        let of_theme: Vec<Row> = rows
            .iter()
            .filter(|row| row.theme == theme)
            .cloned()
            .collect();
        let sums = sums(&of_theme, &[]);
        let _ = writeln!(
            text,
            "{theme:<16} {:>5} tried {:>3} escaped {:>4} n/a",
            sums.tried, sums.escaped, sums.without_control
        );
        for line in lines {
            for (configuration, result) in configurations.iter().zip(&line.results) {
                if result.contains("escaped") || result.contains("carried") {
                    let _ = writeln!(text, "    {}: {configuration}: {result}", line.name);
                }
            }
        }
    }
    for note in notes {
        let _ = writeln!(text, "escaped: {note}");
    }
    text
}

/// The table of the page.
pub fn markdown(rows: &[Row], configurations: &[String], notes: &[String]) -> String {
    let mut page = String::new();
    let sums_of_all = sums(rows, notes);
    let _ = writeln!(page, "**{}.**\n", verdict(sums_of_all));
    let _ = writeln!(
        page,
        "{}, commit {}, Linux {}, {}.\n",
        output("date", &["-u", "+%Y-%m-%d"]),
        output("git", &["rev-parse", "--short=12", "HEAD"]),
        output("uname", &["-r"]),
        output("uname", &["-m"]),
    );
    for (theme, lines) in lines(rows, configurations) {
        let _ = writeln!(page, "### {}{}\n", theme[..1].to_uppercase(), &theme[1..]);
        let _ = writeln!(
            page,
            "| attempt | tried | control | {} |",
            configurations.join(" | ")
        );
        let _ = writeln!(
            page,
            "| --- | --- | --- |{}",
            " --- |".repeat(configurations.len())
        );
        for line in lines {
            let results: Vec<_> = line.results.iter().map(|text| cell(text)).collect();
            let tried = if line.tried == 0 {
                String::new()
            } else {
                line.tried.to_string()
            };
            let _ = writeln!(
                page,
                "| {} | {tried} | {} | {} |",
                cell(&line.name),
                cell(&line.control),
                results.join(" | ")
            );
        }
        page.push('\n');
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// Puts the text between two marks of a page.
pub fn write(path: &str, part: &str, text: &str) {
    let page = fs::read_to_string(path).expect("the page");
    let (begin, end) = (
        format!("<!-- begin {part} -->"),
        format!("<!-- end {part} -->"),
    );
    let (before, rest) = page.split_once(&begin).expect("the mark where it begins");
    let (_, after) = rest.split_once(&end).expect("the mark where it ends");
    fs::write(
        path,
        format!("{before}{begin}\n{}\n{end}{after}", text.trim()),
    )
    .expect("the page");
}
