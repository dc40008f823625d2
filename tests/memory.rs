//! What names cost to keep. By itself, because what is measured is the process.

#![allow(clippy::unwrap_used)]

use egress_init::{
    allowlist::{self, Accept, Source, SourceKind},
    policy::{Ledger, ledger::CEILING},
};
use std::{fmt::Write, net::IpAddr, time::Instant};

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// 1,000 names with an address of each family: well below a mebibyte. Measured over more of them,
/// so that what else the process does is small against it.
#[test]
fn names_are_cheap_to_keep() {
    const NAMES: u16 = 20_000;
    let mut text = String::new();
    for index in 0..NAMES {
        writeln!(text, "n{index}.example.com").unwrap();
    }
    let source = Source {
        label: "list".into(),
        text: text.into(),
        kind: SourceKind::Lines,
    };
    let list = allowlist::parse(&[source], Accept::default()).unwrap();
    let now = Instant::now();
    let before = resident();
    let mut ledger = Ledger::new(&list, &[], &[]);
    for index in 0..NAMES {
        let [high, low] = index.to_be_bytes();
        let at = [
            IpAddr::from([198, 51, high, low]),
            IpAddr::from([0x2001, 0xdb8, index, 0, 0, 0, 0, 1]),
        ];
        let name = format!("n{index}.example.com").parse().unwrap();
        let outcome = ledger.answer(&name, &at, now + CEILING, now);
        assert_eq!(outcome.admitted, at);
    }
    let each = (resident() - before) / u64::from(NAMES);
    assert!(each < 750, "{each} octets a name");
}
