//! What an image carries for its firewall: the static binary, against the Debian packages that
//! the script needs, with everything that they depend on and a bare Debian does not have.

use std::{collections::BTreeSet, fs, process::Command};

use crate::{
    Form,
    chart::{Bar, Bars},
    measure::{digits, thousands},
    report::{Section, Table},
    support::harness,
};

/// What the script calls, by Debian's packages.
const NEEDED: [&str; 3] = ["iptables", "ipset", "bind9-dnsutils"];
const MIB: f64 = 1024.0 * 1024.0;

pub fn section(_: Form) -> Section {
    let binary = harness::binary_under_test();
    #[allow(clippy::cast_precision_loss)] // a few MiB
    let binary = fs::metadata(binary).expect("the binary").len() as f64;
    let mut base: Vec<String> = said(&[
        "dpkg-query",
        "--show",
        "--showformat",
        "${Priority} ${Package}\\n",
    ])
    .lines()
    .filter_map(|line| line.strip_prefix("required ").map(str::to_owned))
    .collect();
    base.extend(["apt".to_owned(), "bash".to_owned()]);
    let base = with_dependencies(base);
    let needed = with_dependencies(NEEDED.map(str::to_owned));
    let added: Vec<(String, f64)> = needed
        .difference(&base)
        .map(|name| (name.clone(), size(name)))
        .collect();
    let total: f64 = added.iter().map(|(_, size)| size).sum();
    assert!(
        added.len() > NEEDED.len() && total > MIB,
        "what the script needs is installed"
    );

    let mut section = Section::new("What an image carries");
    section.paragraph(&format!(
        "The script needs {} and what they depend on: {} packages that a bare Debian (priority \
         `required`, apt, bash) does not have, by their installed sizes. egress-init needs nothing \
         else in the image; its image is `FROM scratch`, and is the binary.",
        NEEDED.join(", "),
        added.len()
    ));
    let mut table = Table::new(&["", "files", "size"]);
    table.row(vec![
        "egress-init, one static binary".into(),
        "1".into(),
        format!("{} MiB", digits(binary / MIB)),
    ]);
    let files: usize = added.iter().map(|(name, _)| files(name)).sum();
    #[allow(clippy::cast_precision_loss)] // some thousand
    let files = files as f64;
    table.row(vec![
        format!("the script's {} packages", added.len()),
        thousands(files),
        format!("{} MiB", digits(total / MIB)),
    ]);
    table.row(vec!["ratio".into(), String::new(), digits(total / binary)]);
    section.table(&table);
    let mut largest = added;
    largest.sort_by(|one, other| other.1.total_cmp(&one.1));
    let largest: Vec<String> = largest
        .iter()
        .take(6)
        .map(|(name, size)| format!("{name} {} MiB", digits(size / MIB)))
        .collect();
    section.paragraph(&format!("The largest of them: {}.", largest.join(", ")));
    section.target(
        "the binary, static and stripped",
        "4 MiB",
        &format!("{} MiB", digits(binary / MIB)),
        binary <= 4.0 * MIB,
    );
    let bar = |name: &str, value, colour| Bar::Value {
        name: name.into(),
        value,
        colour,
    };
    let title = "What an image carries for its firewall";
    let chart = Bars {
        title,
        unit: "MiB",
        rows: vec![
            bar("egress-init", binary / MIB, 0),
            bar("iptables, ipset, dig and what they need", total / MIB, 1),
        ],
    };
    section.chart("sizes", title, chart.svg());
    section
}

/// These packages and all that they depend on, as far as it is installed.
fn with_dependencies(packages: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let packages: Vec<String> = packages.into_iter().collect();
    let mut command = vec![
        "apt-cache",
        "depends",
        "--recurse",
        "--installed",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
    ];
    command.extend(packages.iter().map(String::as_str));
    said(&command)
        .lines()
        .filter(|line| !line.starts_with([' ', '<', '|']) && !line.contains(':'))
        .map(str::to_owned)
        .collect()
}

/// The installed size of a package, in octets; 0 for one that another provides.
fn size(package: &str) -> f64 {
    let text = said(&[
        "dpkg-query",
        "--show",
        "--showformat",
        "${Installed-Size}",
        package,
    ]);
    text.trim().parse().unwrap_or(0.0) * 1024.0
}

fn files(package: &str) -> usize {
    said(&["dpkg-query", "--listfiles", package])
        .lines()
        .filter(|file| fs::symlink_metadata(file).is_ok_and(|file| !file.is_dir()))
        .count()
}

fn said(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", command[0]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
