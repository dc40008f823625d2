//! The ruleset as text, against nft itself: it takes the text, and shows of the table that it makes
//! of it what it shows of the table that this program loads, chain by chain, rule by rule and
//! element by element.
//!
//! Only in a network namespace of its own: the table is loaded there.

use crate::sample::Sample;
use egress_init::{
    nft::Nftables,
    ruleset::{self, Ruleset},
};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::Once,
};

static ALONE: Once = Once::new();

pub fn run(data: &[u8]) {
    ALONE.call_once(must_be_alone);
    let Some(sample) = Sample::take(data) else {
        return;
    };
    let [locked, enforced] = sample.rulesets();
    agree(if sample.text.len().is_multiple_of(8) {
        &locked
    } else {
        &enforced
    });
}

/// A network of its own has no interface but its own loopback.
fn must_be_alone() {
    let interfaces = fs::read_to_string("/proc/net/dev").expect("/proc/net/dev");
    let others = interfaces
        .lines()
        .skip(2)
        .any(|line| !line.trim_start().starts_with("lo:"));
    if others || std::env::var_os("FUZZ_OWN_NETWORK").is_none() {
        eprintln!("this target loads rulesets: scripts/fuzz runs it in a network namespace");
        std::process::exit(2);
    }
}

fn agree(ruleset: &Ruleset) {
    let text = ruleset.to_string();
    let forget = format!("table inet {0}\ndelete table inet {0}\n", ruleset::TABLE);
    nft(&["--file", "-"], &format!("{forget}{text}"));
    let theirs = sorted(&listing());
    let mut kernel = Nftables::open().expect("nf_tables");
    kernel
        .replace(ruleset)
        .expect("the kernel takes what nft took");
    kernel
        .verify(ruleset)
        .expect("the kernel holds what it took");
    kernel.close();
    assert_eq!(sorted(&listing()), theirs, "{text}");
}

fn listing() -> String {
    nft(
        &["--stateless", "list", "table", "inet", ruleset::TABLE],
        "",
    )
}

/// The blocks of a listing and the elements of each set in alphabetical order: theirs is that in
/// which they were made, or that of a hash.
fn sorted(listing: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        match blocks.last_mut() {
            Some(block) if line.starts_with("\t\t") => {
                block.push(' ');
                block.push_str(line.trim());
            }
            _ => blocks.push(line.trim().to_owned()),
        }
    }
    for block in &mut blocks {
        if let Some((head, elements)) = block.split_once("elements = {") {
            let mut elements: Vec<&str> = elements
                .trim_end_matches('}')
                .split(',')
                .map(str::trim)
                .collect();
            elements.sort_unstable();
            *block = format!("{head}{}", elements.join(", "));
        }
    }
    blocks.sort();
    blocks
}

fn nft(arguments: &[&str], text: &str) -> String {
    let mut nft = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft (nftables)");
    let mut input = nft.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("nft reads");
    drop(input);
    let output = nft.wait_with_output().expect("nft ends");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{text}");
    String::from_utf8(output.stdout).expect("text")
}
