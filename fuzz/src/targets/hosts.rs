//! /etc/hosts: what the operator said stays, our block is ours and is found again.

use super::{fields, text};
use egress_init::{
    allowlist::Name,
    fuzzing::{outside_of_block, with_block},
    resolve::hosts::Hosts,
};
use std::net::IpAddr;

const BLOCK: &str = "# egress-init begin: resolved\n192.0.2.99 pinned.example\n# egress-init end\n";

pub fn run(data: &[u8]) {
    let mut parts = fields(data);
    let file = parts.next().unwrap_or_default();
    let asked = text(&mut parts);

    let (before, after) = outside_of_block(file);
    let kept = before.len() + after.len();
    assert!(kept <= file.len() && file.starts_with(before) && file.ends_with(after));
    let own = &file[before.len()..file.len() - after.len()];
    assert!(own.is_empty() || own.starts_with(b"# egress-init begin"));

    let hosts = Hosts::parse(file);
    let once = with_block(file, BLOCK);
    assert_eq!(with_block(&once, BLOCK), once, "twice is once");
    assert!(
        once.starts_with(before) && once.ends_with(after),
        "the operator's lines"
    );
    let without = with_block(&once, "");
    let line_end = !before.is_empty() && !before.ends_with(b"\n");
    let mut expected = before.to_vec();
    expected.extend(line_end.then_some(b'\n'));
    expected.extend_from_slice(after);
    // Where our block was cut off nothing is after it; where a second one follows, the text after
    // the first has it still.
    if Hosts::parse(after) == Hosts::parse(&strip(after)) {
        assert_eq!(without, expected);
        let pinned: Name = "pinned.example".parse().expect("a name");
        if !mentions(file, "pinned.example") {
            assert_eq!(Hosts::parse(&once).addresses(&pinned), None, "our own word");
        }
    }

    // A plain reading of hosts(5) finds the same addresses.
    for name in [asked.as_str(), "a", "db.example", "localhost"] {
        let Ok(name) = name.parse::<Name>() else {
            continue;
        };
        let mut expected: Vec<IpAddr> = Vec::new();
        for part in [before, after] {
            plain(part, name.as_str(), &mut expected);
        }
        let found = hosts.addresses(&name).unwrap_or_default();
        assert_eq!(found, expected, "{name}");
    }
}

/// The text without blocks of ours.
fn strip(text: &[u8]) -> Vec<u8> {
    let (before, after) = outside_of_block(text);
    [before, after].concat()
}

fn mentions(text: &[u8], name: &str) -> bool {
    String::from_utf8_lossy(text)
        .to_ascii_lowercase()
        .contains(name)
}

fn plain(text: &[u8], name: &str, found: &mut Vec<IpAddr>) {
    for line in text.split(|octet| *octet == b'\n') {
        let line = String::from_utf8_lossy(line);
        let end = line.find('#').unwrap_or(line.len());
        let words: Vec<&str> = line[..end].split_whitespace().collect();
        let Some((address, names)) = words.split_first() else {
            continue;
        };
        let Ok(address) = address.parse() else {
            continue;
        };
        if names.iter().any(|one| one.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
}
