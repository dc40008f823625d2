//! What a figure was measured on: the machine, the versions of everything that took part, the
//! date and the commit.

use std::{fmt, fs, process::Command};

use crate::{measure::digits, report::Table};

pub struct Machine {
    facts: Vec<(&'static str, String)>,
    load: String,
}

impl Machine {
    /// As it is before the run.
    pub fn here() -> Self {
        let said = |command: &[&str]| first_line(command).unwrap_or_else(|| "not there".into());
        let commit = first_line(&["git", "rev-parse", "--short=12", "HEAD"]);
        let changed = first_line(&["git", "status", "--porcelain", "--untracked-files=no"])
            .is_some_and(|line| !line.is_empty());
        let commit = commit.unwrap_or_else(|| "not a clone".into());
        let commit = commit + if changed { ", with changes" } else { "" };
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let facts = vec![
            ("date", said(&["date", "--utc", "+%Y-%m-%d %H:%M UTC"])),
            ("commit", commit),
            (
                "processor",
                format!("{} x {}", processors, field("/proc/cpuinfo", "model name")),
            ),
            ("memory", memory()),
            ("kernel", said(&["uname", "-srm"])),
            (
                "system",
                field("/etc/os-release", "PRETTY_NAME").replace('"', ""),
            ),
            ("rustc", said(&["rustc", "--version"])),
            ("nft", said(&["nft", "--version"])),
            ("iptables", said(&["iptables", "--version"])),
            ("ipset", said(&["ipset", "--version"])),
            ("dig", said(&["dig", "-v"])),
            ("dnsmasq", said(&["dnsmasq", "--version"])),
            ("valgrind", said(&["valgrind", "--version"])),
        ];
        Self {
            facts,
            load: load(),
        }
    }

    /// Notes how busy it is after the run.
    pub fn finish(&mut self) {
        let load = format!("{} before, {} after", self.load, load());
        self.facts.push(("load average", load));
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["measured on", ""]);
        for (name, value) in &self.facts {
            table.row(vec![(*name).into(), value.clone()]);
        }
        writeln!(f, "{table}")
    }
}

fn memory() -> String {
    let text = field("/proc/meminfo", "MemTotal");
    let kibibytes = text.trim_end_matches(" kB").parse().unwrap_or(0.0);
    format!("{} GiB", digits(kibibytes / 1024.0 / 1024.0))
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The first line that a command prints, on whichever output.
fn first_line(command: &[&str]) -> Option<String> {
    let output = Command::new(command[0]).args(&command[1..]).output().ok()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The value of a `name: value` or `name=value` line.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once([':', '='])?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| "unknown".into())
}
