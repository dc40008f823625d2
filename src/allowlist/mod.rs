//! Text → entries: the grammar of an allowlist, and the lists that ship with the binary.
//!
//! [`parse`] takes every source at once and gives either a whole [`Allowlist`] or everything that
//! is wrong with it (I8). It reads no file and resolves no name; what the entries mean together,
//! and with the answers of DNS, is for [`crate::policy`] to say.

mod entry;
mod lookup;
mod name;
pub(crate) mod network;
pub(crate) mod problem;
mod scan;
pub(crate) mod services;
mod shipped;

pub use entry::{Entry, Target};
pub use lookup::{Allowed, Lookup, Origin};
pub use name::Name;
pub use problem::{InvalidAllowlist, Mistake, Problem};
pub use scan::split_list;
pub use services::Services;
pub use shipped::shipped;

use entry::{Item, Verdict};
use problem::{Flaw, KEPT, Piece};
use scan::Word;
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

/// Text that entries come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What errors call it: the file's path as it was given, `--allow`, or the variable's name.
    pub label: String,
    /// The text as it was found, UTF-8 or not.
    pub text: Vec<u8>,
    /// How it is divided into entries.
    pub kind: SourceKind,
}

/// How a source is divided into entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A file: one entry a line.
    Lines,
    /// A variable: blanks, line ends and commas separate entries, and a comma that a port or a
    /// range of ports follows belongs to the entry.
    Words,
    /// The value of one `--allow`: one entry. Errors give as its line which of the `--allow` it
    /// is, counted from 1, and the column within the value.
    Entry,
}

/// What the DNS mode can enforce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Whether a wildcard may be allowed: only where every query of the command is answered here.
    /// A refused one, `!*.example.com`, needs no such resolver and is accepted in any mode.
    pub wildcards: bool,
}

/// Where an entry stands, small, because there may be many: [`Allowlist::locate`] prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    source: u32,
    line: u32,
    column: u32,
}

/// The entries of all sources, in their order, each of them valid.
#[derive(Clone, Debug)]
pub struct Allowlist {
    labels: Vec<String>,
    entries: Vec<Entry>,
    allowed: BTreeMap<Name, Services>,
    refused: BTreeMap<Name, Services>,
}

/// Reads every source.
///
/// A list that asks for a shipped one, `@github`, holds its entries in that place.
pub fn parse(sources: &[Source], accept: Accept) -> Result<Allowlist, InvalidAllowlist> {
    let mut reader = Reader {
        accept,
        entries: Vec::new(),
        included: HashSet::new(),
        mistakes: Vec::new(),
        total: 0,
    };
    let mut flags = 0;
    for (index, source) in (0..).zip(sources) {
        flags += u32::from(source.kind == SourceKind::Entry);
        reader.read(source, index, flags);
    }
    if reader.total > 0 {
        return Err(InvalidAllowlist {
            more: reader.total - reader.mistakes.len(),
            mistakes: reader.mistakes,
        });
    }
    let refused = collect(&reader.entries, true, as_name);
    Ok(Allowlist {
        labels: sources.iter().map(|source| source.label.clone()).collect(),
        allowed: allowed(&reader.entries, &refused),
        refused,
        entries: reader.entries,
    })
}

/// What has been read so far.
struct Reader {
    accept: Accept,
    entries: Vec<Entry>,
    included: HashSet<(&'static str, Verdict)>,
    mistakes: Vec<Mistake>,
    total: usize,
}

impl Reader {
    fn read(&mut self, source: &Source, index: u32, ordinal: u32) {
        let mut found = false;
        for Word { line, column, text } in scan::words(source, ordinal) {
            found = true;
            let place = Place {
                source: index,
                line,
                column,
            };
            match text {
                Err(problem) => self.report(source, place, problem),
                Ok(text) => {
                    if let Err(flaw) = self.take(text, source.kind, place) {
                        let column = column + scan::column_after(&text[..flaw.at]) - 1;
                        self.report(source, Place { column, ..place }, flaw.problem);
                    }
                }
            }
        }
        if !found {
            let line = match source.kind {
                SourceKind::Entry => ordinal,
                SourceKind::Lines | SourceKind::Words => 1,
            };
            let place = Place {
                source: index,
                line,
                column: 1,
            };
            self.report(source, place, Problem::Empty);
        }
    }

    /// Takes the entry, or the entries of the shipped list that it names.
    fn take(&mut self, text: &str, kind: SourceKind, place: Place) -> Result<(), Flaw> {
        let blank = match kind {
            SourceKind::Entry => "each `--allow` takes one entry",
            SourceKind::Lines | SourceKind::Words => "one entry a line, comments after `#`",
        };
        match entry::parse(text, self.accept, blank)? {
            Item::One(target, services, verdict) => self.push(target, services, verdict, place),
            Item::List(name, verdict) => self.include(name, verdict, place)?,
        }
        Ok(())
    }

    /// Once anything is wrong no entry will be used, so that none is kept.
    fn push(&mut self, target: Target, services: Services, verdict: Verdict, place: Place) {
        if self.total == 0 {
            self.entries.push(Entry {
                target,
                services,
                deny: verdict == Verdict::Deny,
                place,
            });
        }
    }

    /// Takes each entry of a shipped list, or refuses each of them entirely.
    fn include(&mut self, asked: Piece<'_>, verdict: Verdict, place: Place) -> Result<(), Flaw> {
        let (name, text) = find_shipped(asked)?;
        if !self.included.insert((name, verdict)) {
            return Ok(());
        }
        let source = Source {
            label: String::new(),
            text: text.into(),
            kind: SourceKind::Lines,
        };
        let accept = Accept {
            wildcards: self.accept.wildcards || verdict == Verdict::Deny,
        };
        for word in scan::words(&source, 0) {
            // A flaw cannot be: every shipped list is parsed by a test. It would be this entry's.
            let start = asked.at - 1;
            let text = word.text.map_err(|problem| problem.at(start))?;
            let item = entry::parse(text, accept, "").map_err(|flaw| flaw.problem.at(start))?;
            if let Item::One(target, services, _) = item {
                let services = match verdict {
                    Verdict::Allow => services,
                    Verdict::Deny => Services::EVERY,
                };
                self.push(target, services, verdict, place);
            }
        }
        Ok(())
    }

    fn report(&mut self, source: &Source, place: Place, problem: Problem) {
        self.total += 1;
        self.entries = Vec::new();
        if self.mistakes.len() < KEPT {
            self.mistakes.push(Mistake {
                label: source.label.clone(),
                line: place.line,
                column: place.column,
                problem,
            });
        }
    }
}

/// The shipped list that follows `@`.
fn find_shipped(asked: Piece<'_>) -> Result<(&'static str, &'static str), Flaw> {
    if let Some(found) = shipped::find(asked.text) {
        return Ok(found);
    }
    if let Some(end) = asked.text.find([':', '/', ','])
        && let Some((name, _)) = shipped::find(asked.until(end).text)
    {
        return Err(Problem::ListPorts(format!("@{name}")).at(asked.at + end));
    }
    let name = asked.quoted().replacen('`', "`@", 1);
    Err(asked.flaw(Problem::UnknownList(name)))
}

impl Allowlist {
    /// Every entry, in the order in which the sources have them.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The names to resolve, sorted: those in [`Self::allowed`] and those in [`Self::refused`].
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        let names = self.allowed.keys().chain(self.refused.keys());
        let mut names: Vec<Name> = names.cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The names that may be reached, with all services that any entry allows, less those that
    /// `!name` and `!*.zone` refuse. A name that loses all of them is absent.
    #[must_use]
    pub fn allowed(&self) -> &BTreeMap<Name, Services> {
        &self.allowed
    }

    /// The names that `!name` refuses, with all services that are refused. Their addresses are
    /// refused where no allowed name has them too, so that they are worth resolving; that one of
    /// them has none is no error.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<Name, Services> {
        &self.refused
    }

    /// Where an entry stands, as `FILE:LINE:COLUMN`.
    #[must_use]
    pub fn locate(&self, place: Place) -> impl fmt::Display {
        let label = usize::try_from(place.source)
            .ok()
            .and_then(|index| self.labels.get(index));
        let label = label.map_or("", String::as_str);
        format!("{label}:{}:{}", place.line, place.column)
    }
}

/// What is left of the names that may be reached.
fn allowed(entries: &[Entry], refused: &BTreeMap<Name, Services>) -> BTreeMap<Name, Services> {
    let zones = collect(entries, true, |target| match target {
        Target::Wildcard(zone) => Some(zone),
        Target::Name(_) | Target::Network(_) => None,
    });
    let mut allowed = collect(entries, false, as_name);
    if !(refused.is_empty() && zones.is_empty()) {
        allowed.retain(|name, services| {
            let above = name.zones().filter_map(|zone| zones.get(zone));
            for lost in refused.get(name).into_iter().chain(above) {
                *services = services.without(lost);
            }
            !services.is_empty()
        });
    }
    allowed
}

/// The union of services by name, over the entries of one verdict whose target has one.
fn collect(
    entries: &[Entry],
    deny: bool,
    name_of: impl Fn(&Target) -> Option<&Name>,
) -> BTreeMap<Name, Services> {
    let of_verdict = entries.iter().filter(|entry| entry.deny == deny);
    let mut found: Vec<(&Name, &Services)> = of_verdict
        .filter_map(|entry| Some((name_of(&entry.target)?, &entry.services)))
        .collect();
    found.sort_unstable_by_key(|(name, _)| *name);
    let by_name = found.chunk_by(|(one, _), (next, _)| one == next);
    let united = |entries: &[(&Name, &Services)]| {
        let (name, services) = entries[0];
        // As nearly all are.
        let services = if entries.len() == 1 {
            services.clone()
        } else {
            let services = entries.iter().flat_map(|(_, services)| services.iter());
            services.collect()
        };
        (name.clone(), services)
    };
    by_name.map(united).collect()
}

fn as_name(target: &Target) -> Option<&Name> {
    match target {
        Target::Name(name) => Some(name),
        Target::Wildcard(_) | Target::Network(_) => None,
    }
}

#[cfg(test)]
mod tests;
