//! Policy → ruleset: the table `inet egress_init` as plain data.
//!
//! One value serves four purposes: [`fmt::Display`] prints it as `nft -f` text, [`bytecode`] turns
//! a rule into the expressions that the kernel runs, [`crate::nft`] sends it and compares what
//! the kernel holds with it, and [`Ruleset::digest`] names it in the sentinel.
//!
//! What may flow is written down in [`build`], what the sets hold in [`contents`]; the vocabulary of a rule is in [`term`]. Nothing
//! here touches the kernel.

pub mod build;
pub mod bytecode;
pub mod contents;
pub mod set;
pub mod term;
#[cfg(test)]
mod tests;

pub use build::{Dns, Proxy, SocketOwner, enforced, locked};
pub use set::{Elements, Key, Set};
pub use term::Term;

use sha2::{Digest, Sha256};
use std::fmt;

/// The name of the table, in family `inet`. No other table is ever read or written.
pub const TABLE: &str = "egress_init";

/// Where a base chain hangs in the path of a packet (`nft(8)`, "chain hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Packets for a local process.
    Input,
    /// Packets on their way through.
    Forward,
    /// Packets of a local process.
    Output,
    /// The first packet of a flow of a local process, to say where it goes.
    Divert,
    /// Packets that leave, when it is settled by which interface.
    Depart,
}

impl Hook {
    /// Before -100, where Docker sends queries to its own resolver.
    const DIVERT_PRIORITY: i32 = -110;

    /// The type of a chain that hangs there.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Input | Self::Forward | Self::Output | Self::Depart => "filter",
            Self::Divert => "nat",
        }
    }

    /// Its place among the chains of the same hook.
    #[must_use]
    pub fn priority(self) -> i32 {
        match self {
            Self::Input | Self::Forward | Self::Output | Self::Depart => 0,
            Self::Divert => Self::DIVERT_PRIORITY,
        }
    }

    /// Whether a packet passes that no rule decides.
    #[must_use]
    pub fn accepts(self) -> bool {
        matches!(self, Self::Divert | Self::Depart)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output | Self::Divert => "output",
            Self::Depart => "postrouting",
        })
    }
}

/// A rule: its terms are evaluated in order until one does not match or gives a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule(pub Vec<Term>);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{term}")?;
        }
        Ok(())
    }
}

/// A chain. One with a hook is a base chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it hangs; none for a chain that rules go to.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ruleset {
    /// Sets, in the order in which they are made and listed.
    pub sets: Vec<Set>,
    /// Chains, each after those that it goes to.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// The mark of the flows that the rules let in or out; none in a lock that lets none.
    #[must_use]
    pub fn mark(&self) -> Option<u32> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        let mut terms = rules.flat_map(|rule| &rule.0);
        terms.find_map(|term| match term {
            Term::SetMark(mark) => Some(mark & !build::KINDS),
            _ => None,
        })
    }

    /// The same for every packet, without the sets that hold nothing and the rules that ask them.
    #[must_use]
    fn without_empty_sets(mut self) -> Self {
        let is_kept = |set: &Set| !set.elements.is_empty();
        let gone: Vec<_> = self.sets.iter().filter(|set| !is_kept(set)).collect();
        let asks_one = |term: &Term| {
            let asked = term.set();
            gone.iter().any(|set| asked == Some(set.name))
        };
        for chain in &mut self.chains {
            chain.rules.retain(|rule| !rule.0.iter().any(asks_one));
        }
        self.sets.retain(is_kept);
        self
    }

    /// The same ruleset with another mark.
    #[must_use]
    pub fn with_mark(mut self, mark: u32) -> Self {
        let rules = self.chains.iter_mut().flat_map(|chain| &mut chain.rules);
        for term in rules.flat_map(|rule| &mut rule.0) {
            if let Term::Mark(held) | Term::SetMark(held) = term {
                *held = mark & !build::KINDS | *held & build::KINDS;
            }
        }
        self
    }

    /// SHA-256 of the text without the elements, in lower-case hexadecimal: what
    /// `nft -s -t list table inet egress_init | sha256sum` prints.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.structure().to_string()))
    }

    /// The text without the elements of the sets, as `nft -s -t list table` prints it.
    #[must_use]
    pub fn structure(&self) -> impl fmt::Display + '_ {
        Text {
            ruleset: self,
            elements: false,
        }
    }
}

/// The text that `nft -f` takes, elements included.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text {
            ruleset: self,
            elements: true,
        }
        .fmt(f)
    }
}

struct Text<'a> {
    ruleset: &'a Ruleset,
    elements: bool,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (index, set) in self.ruleset.sets.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            set.write_text(f, self.elements)?;
        }
        for (index, chain) in self.ruleset.chains.iter().enumerate() {
            if index > 0 || !self.ruleset.sets.is_empty() {
                writeln!(f)?;
            }
            writeln!(f, "\tchain {} {{", chain.name)?;
            if let Some(hook) = chain.hook {
                let priority = match hook.priority() {
                    0 => "filter".to_owned(),
                    other => other.to_string(),
                };
                let policy = if hook.accepts() { "accept" } else { "drop" };
                writeln!(
                    f,
                    "\t\ttype {} hook {hook} priority {priority}; policy {policy};",
                    hook.kind()
                )?;
            }
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
