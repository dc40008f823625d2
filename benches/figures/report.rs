//! What a theme has found, and the report of all of them.

use std::{fmt::Write as _, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Form, machine::Machine};

/// What one theme has found.
#[derive(Default, Serialize, Deserialize)]
pub struct Section {
    /// Markdown, from its heading on.
    pub text: String,
    /// File names and their SVG.
    pub charts: Vec<(String, String)>,
    /// How it stands to what is asked.
    pub targets: Vec<Target>,
}

/// A figure of the contract (section 9) or of the task, and what was measured.
#[derive(Serialize, Deserialize)]
pub struct Target {
    what: String,
    asked: String,
    measured: String,
    holds: bool,
}

impl Section {
    pub fn new(heading: &str) -> Self {
        Self {
            text: format!("## {heading}\n\n"),
            ..Self::default()
        }
    }

    pub fn paragraph(&mut self, text: &str) {
        self.text += text;
        self.text += "\n\n";
    }

    pub fn table(&mut self, table: &Table) {
        self.text += &table.to_string();
        self.text += "\n";
    }

    pub fn chart(&mut self, name: &str, title: &str, svg: String) {
        let file = format!("{name}.svg");
        writeln!(self.text, "![{title}]({file})\n").unwrap();
        self.charts.push((file, svg));
    }

    pub fn target(&mut self, what: &str, asked: &str, measured: &str, holds: bool) {
        self.targets.push(Target {
            what: what.into(),
            asked: asked.into(),
            measured: measured.into(),
            holds,
        });
    }
}

/// Rows of text, the first of them the heading.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(heading: &[&str]) -> Self {
        Self(vec![heading.iter().map(ToString::to_string).collect()])
    }

    pub fn row(&mut self, cells: Vec<String>) {
        eprintln!("   {}", cells.join("  |  "));
        assert_eq!(cells.len(), self.0[0].len(), "a cell for each column");
        self.0.push(cells);
    }
}

/// Markdown that is a table in plain text too. The first column is text, the others are numbers.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.0[0].len();
        let width = |column: usize| {
            let cells = self.0.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.0.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(f, "| {cell:<width$} ")?;
                } else {
                    write!(f, "| {cell:>width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let line = "-".repeat(width - usize::from(column > 0));
                    let end = if column == 0 { "" } else { ":" };
                    write!(f, "| {line}{end} ")?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Writes the charts and `results.md` into a folder, and returns the text of the latter.
pub fn write(folder: &Path, machine: &Machine, form: Form, sections: &[(&str, Section)]) -> String {
    let mut text = String::from("# Benchmark results\n\n");
    writeln!(
        text,
        "Written by `scripts/bench{}`; [README.md](README.md) says what is measured and how to read it.\n",
        form.pick("", " --short")
    )
    .unwrap();
    if form == Form::Short {
        text +=
            "The short form: few rounds, which prove that everything runs. No figure to quote.\n\n";
    }
    text += &machine.to_string();
    let targets: Vec<_> = sections.iter().flat_map(|(_, one)| &one.targets).collect();
    if !targets.is_empty() {
        text += "## What is asked\n\n";
        let mut table = Table::new(&["figure", "asked", "measured", "holds"]);
        for target in targets {
            table.row(vec![
                target.what.clone(),
                target.asked.clone(),
                target.measured.clone(),
                if target.holds { "yes" } else { "**no**" }.into(),
            ]);
        }
        text += &table.to_string();
        text += "\n";
    }
    for (_, section) in sections {
        text += &section.text;
        for (file, svg) in &section.charts {
            fs::write(folder.join(file), svg).expect("a chart can be written");
        }
    }
    let text = text.trim_end().to_owned() + "\n";
    fs::write(folder.join("results.md"), &text).expect("the results can be written");
    text
}
