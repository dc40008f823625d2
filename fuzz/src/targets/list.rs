//! The grammar of a list: every kind of source, alone and together.
//!
//! * An error has a place inside its source, and what it complains of stands there.
//! * A file is wrong exactly where its lines are wrong by themselves.
//! * What is accepted is within the grammar, and prints as what reads back to the same.

use super::fields;
use egress_init::{
    allowlist::{self, Accept, Allowlist, Entry, Mistake, Problem, Source, SourceKind, Target},
    service::PortRange,
};

const KINDS: [SourceKind; 3] = [SourceKind::Lines, SourceKind::Words, SourceKind::Entry];
const MOST_SOURCES: usize = 6;
const KEPT: usize = 20;

pub fn run(data: &[u8]) {
    let Some((&flags, rest)) = data.split_first() else {
        return;
    };
    let accept = Accept {
        wildcards: flags & 1 == 1,
    };
    let mut kind = usize::from(flags >> 1);
    let sources: Vec<Source> = fields(rest)
        .take(MOST_SOURCES)
        .enumerate()
        .map(|(index, text)| {
            kind += 1;
            Source {
                label: format!("source{index}"),
                text: text.to_vec(),
                kind: KINDS[kind % KINDS.len()],
            }
        })
        .collect();
    match allowlist::parse(&sources, accept) {
        Err(invalid) => {
            assert!(!invalid.mistakes.is_empty() && invalid.mistakes.len() <= KEPT);
            assert!(invalid.more == 0 || invalid.mistakes.len() == KEPT);
            for mistake in &invalid.mistakes {
                stands_in(&sources, mistake);
            }
        }
        Ok(list) => accepted(&list, accept),
    }
    for source in sources.iter().filter(|s| s.kind == SourceKind::Lines) {
        line_by_line(source, accept);
    }
}

/// The text of the line that a mistake names, and the rest of it from the column on.
fn stands_in(sources: &[Source], mistake: &Mistake) {
    let said = mistake.to_string();
    let index = sources
        .iter()
        .position(|source| source.label == mistake.label)
        .expect("the label is that of a source");
    let source = &sources[index];
    let prefix = format!("{}:{}:{}: ", mistake.label, mistake.line, mistake.column);
    assert!(said.starts_with(&prefix), "{said}");
    assert!(said.lines().count() == 1, "one line for one flaw: {said:?}");
    assert!(mistake.line >= 1 && mistake.column >= 1, "{said}");
    let text = source.text.as_slice();
    let line = match source.kind {
        SourceKind::Entry => {
            let before = &sources[..=index];
            let ordinal = before
                .iter()
                .filter(|s| s.kind == SourceKind::Entry)
                .count();
            assert_eq!(mistake.line as usize, ordinal, "{said}");
            text
        }
        SourceKind::Lines | SourceKind::Words => {
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
            text.split(|octet| *octet == b'\n')
                .nth(mistake.line as usize - 1)
                .unwrap_or_else(|| panic!("there is no such line: {said}"))
        }
    };
    let before = mistake.column as usize - 1;
    let valid = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap(),
    };
    let characters = valid.chars().count();
    assert!(before <= characters, "the line is shorter: {said}");
    let rest: String = valid.chars().skip(before).collect();
    let here = rest.chars().next();
    let stands = match &mistake.problem {
        Problem::NotUtf8 => before == characters && valid.len() < line.len(),
        Problem::Empty => before == 0,
        Problem::Character(character) => here == Some(*character),
        Problem::Blank(_) => here.is_some_and(char::is_whitespace),
        Problem::Comma => here == Some(','),
        Problem::User => here == Some('@'),
        Problem::Path => here == Some('/'),
        Problem::Url { .. } => rest.starts_with("://"),
        Problem::NothingRefused | Problem::RefusedTwice => here == Some('!'),
        Problem::BracketOpen => here == Some('['),
        Problem::SecondColon | Problem::Brackets { .. } => here == Some(':'),
        Problem::Zone => here == Some('%'),
        Problem::PortZero => here == Some('0'),
        Problem::PortsMissing(_) => here == Some('/'),
        Problem::Dns => rest.trim_start_matches('0').starts_with("53"),
        Problem::RangeDown { .. } => here.is_some_and(|c| c.is_ascii_digit()),
        Problem::WildcardTooBroad | Problem::WildcardPlace => here == Some('*'),
        Problem::Wildcard { .. } => rest.starts_with("*."),
        Problem::HostBits { .. } | Problem::Mapped(_) | Problem::MappedNetwork => {
            here.is_some_and(|c| c.is_ascii_hexdigit() || c == ':')
        }
        _ => true,
    };
    assert!(stands, "not at {rest:?}: {said}");
}

/// Each line by itself has the flaws that it has among the others.
fn line_by_line(source: &Source, accept: Accept) {
    let whole = match allowlist::parse(std::slice::from_ref(source), accept) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.mistakes,
    };
    let mut apart = Vec::new();
    let mut nothing = true;
    for (index, line) in source.text.split(|octet| *octet == b'\n').enumerate() {
        // A mark in the middle of a file is no mark.
        if index > 0 && line.starts_with(b"\xef\xbb\xbf") {
            return;
        }
        let line = Source {
            text: line.to_vec(),
            ..source.clone()
        };
        let invalid = match allowlist::parse(&[line], accept) {
            Err(invalid) => invalid,
            Ok(list) => {
                accepted(&list, accept);
                nothing = false;
                continue;
            }
        };
        for mut mistake in invalid.mistakes {
            if mistake.problem == Problem::Empty {
                continue;
            }
            nothing = false;
            mistake.line = u32::try_from(index).unwrap() + 1;
            apart.push(mistake);
        }
    }
    apart.truncate(KEPT);
    if nothing {
        assert_eq!(whole.len(), 1, "an empty source: {whole:?}");
        assert_eq!(whole[0].problem, Problem::Empty);
    } else {
        assert_eq!(whole, apart);
    }
}

fn accepted(list: &Allowlist, accept: Accept) {
    let entries = list.entries();
    assert!(!entries.is_empty());
    for entry in entries {
        within_the_grammar(entry, accept);
        let printed = entry.to_string();
        let again = read(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
        let [again] = again.entries() else {
            panic!("one entry reads back as {}", again.entries().len());
        };
        assert!(is_same(entry, again), "{printed}: {entry:?}, {again:?}");
    }
    // The whole list, printed, is the same list.
    let printed: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    let again = read(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
    let same = entries
        .iter()
        .zip(again.entries())
        .all(|(one, other)| is_same(one, other));
    assert!(same && entries.len() == again.entries().len());
    assert_eq!(list.allowed(), again.allowed());
    assert_eq!(list.refused(), again.refused());
    assert_eq!(list.names(), again.names());
}

fn is_same(one: &Entry, other: &Entry) -> bool {
    one.target == other.target && one.services == other.services && one.deny == other.deny
}

fn read(text: &str) -> Result<Allowlist, allowlist::InvalidAllowlist> {
    let source = Source {
        label: "again".to_owned(),
        text: text.as_bytes().to_vec(),
        kind: SourceKind::Lines,
    };
    allowlist::parse(&[source], Accept { wildcards: true })
}

fn within_the_grammar(entry: &Entry, accept: Accept) {
    assert!(!entry.services.is_empty(), "{entry}");
    if !entry.deny {
        let dns = PortRange::single(53);
        assert!(entry.services.iter().all(|s| s.ports != dns), "{entry}");
    }
    let services: Vec<_> = entry.services.iter().collect();
    for pair in services.windows(2) {
        let apart = pair[0].protocol < pair[1].protocol
            || u32::from(pair[0].ports.last()) + 1 < u32::from(pair[1].ports.first());
        assert!(apart, "services in order and apart: {entry}");
    }
    match &entry.target {
        Target::Network(network) => {
            assert_eq!(network.trunc(), *network, "no host bits");
            assert!(entry.deny || network.prefix_len() > 0, "everything");
            let mapped = matches!(network, ipnet::IpNet::V6(v6)
                if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96);
            assert!(!mapped, "{entry}");
        }
        Target::Name(name) => super::name::is_valid(name.as_str()),
        Target::Wildcard(zone) => {
            assert!(entry.deny || accept.wildcards, "{entry}");
            assert!(zone.has_dot(), "{entry}");
            super::name::is_valid(zone.as_str());
        }
    }
}
