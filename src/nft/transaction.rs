//! A ruleset as netlink messages, and messages as the batches that the kernel commits whole.
//!
//! A batch takes effect at one instant or not at all. What must change at one instant is in one
//! batch; what nothing refers to yet (new sets and their elements) may come in batches before it,
//! where the socket has no room for all of it.

use crate::{
    policy,
    ruleset::{
        Chain, Rule, Ruleset, Set, bytecode,
        contents::{deny_set, names_set},
        set::RawElement,
    },
    sys::nftables::{self, Message},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

/// What a message is about, for the error that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The table itself.
    Table,
    /// A chain.
    Chain(&'static str),
    /// A set.
    Set(&'static str),
    /// Elements of a set.
    Elements(&'static str),
    /// A rule of a chain. Its text is made where it is wanted, which is in an error.
    Rule(&'static str, &'a Rule),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => write!(f, "table inet {}", crate::ruleset::TABLE),
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Set(name) => write!(f, "set {name}"),
            Self::Elements(set) => write!(f, "elements of set {set}"),
            Self::Rule(chain, rule) => write!(f, "rule `{rule}` of chain {chain}"),
        }
    }
}

/// A message and what it is about.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// What it is about.
    pub subject: Subject<'a>,
    /// Its octets; the sequence number is still open.
    pub message: Message,
}

/// The change from one state of the table to another.
#[derive(Clone, Debug, Default)]
pub struct Change<'a> {
    /// Messages that may be committed before the rest: nothing that decides a packet refers to
    /// what they make.
    pub prepare: Vec<Step<'a>>,
    /// Messages that are committed together, last.
    pub switch: Vec<Step<'a>>,
}

/// The table as `to` says, whatever is there now, in one transaction.
///
/// Chains of the old table and of the new one both end in drop, so that no packet finds a
/// moment between them.
#[must_use]
pub fn replace(to: &Ruleset) -> Change<'_> {
    let mut switch = vec![
        // Deleting what is not there is an error, making what is there is not.
        step(Subject::Table, nftables::add_table()),
        step(Subject::Table, nftables::delete_table()),
        step(Subject::Table, nftables::add_table()),
    ];
    switch.extend(add_sets(to.sets.iter()));
    for chain in &to.chains {
        switch.push(step(Subject::Chain(chain.name), nftables::add_chain(chain)));
    }
    switch.extend(add_rules(to.chains.iter()));
    Change {
        prepare: Vec::new(),
        switch,
    }
}

/// The table as `to` says, where it is now as `from` says. A set that both have is the same in
/// both. A chain that both have with the same rules is left as it is, its counters too: what a
/// transaction costs is the expressions in it.
#[must_use]
pub fn transition<'a>(from: &'a Ruleset, to: &'a Ruleset) -> Change<'a> {
    let prepare = add_sets(to.sets.iter().filter(|set| !from.sets.contains(set)));
    let changed = |chain: &&Chain| !(from.chains.contains(chain) && to.chains.contains(chain));
    let old: Vec<&Chain> = from.chains.iter().filter(changed).collect();
    let new: Vec<&Chain> = to.chains.iter().filter(changed).collect();
    let mut switch = empty_chains(&old);
    let obsolete = from.sets.iter().filter(|set| !to.sets.contains(set));
    switch.extend(obsolete.map(|set| step(Subject::Set(set.name), nftables::delete_set(set.name))));
    switch.extend(exchange_chains(&old, &new));
    Change { prepare, switch }
}

/// The same where a set that both have may hold something else: all of it at one instant.
///
/// Elements that end are all made anew, because only the kernel knows which it still has; of the
/// others, of which there may be very many, those that differ.
#[must_use]
pub fn reload<'a>(from: &'a Ruleset, to: &'a Ruleset) -> Vec<Step<'a>> {
    let old: Vec<&Chain> = from.chains.iter().collect();
    let new: Vec<&Chain> = to.chains.iter().collect();
    let mut steps = empty_chains(&old);
    let same = |one: &Set, other: &Set| {
        one.name == other.name && one.key == other.key && one.is_timed() == other.is_timed()
    };
    let obsolete = from
        .sets
        .iter()
        .filter(|set| !to.sets.iter().any(|other| same(set, other)));
    steps.extend(obsolete.map(|set| step(Subject::Set(set.name), nftables::delete_set(set.name))));
    let mut made = Vec::new();
    for set in &to.sets {
        match from.sets.iter().find(|other| same(set, other)) {
            None => made.push(set),
            Some(_) if set.is_timed() => {
                steps.push(step(
                    Subject::Elements(set.name),
                    nftables::flush_set(set.name),
                ));
                let elements = nftables::add_elements(set.name, set.raw_elements());
                steps.extend(elements.map(elements_of(set.name)));
            }
            Some(old) => {
                let (before, after): (HashSet<_>, HashSet<_>) =
                    (old.raw_elements().collect(), set.raw_elements().collect());
                let gone = old
                    .raw_elements()
                    .filter(|element| !after.contains(element));
                let gone = nftables::delete_elements(set.name, gone);
                steps.extend(gone.map(elements_of(set.name)));
                let come = set
                    .raw_elements()
                    .filter(|element| !before.contains(element));
                let come = nftables::add_elements(set.name, come);
                steps.extend(come.map(elements_of(set.name)));
            }
        }
    }
    steps.extend(add_sets(made.into_iter()));
    steps.extend(exchange_chains(&old, &new));
    steps
}

/// Elements that come and go, without their rules.
///
/// To delete what has just ended is an error, and to add what is there does not make it live
/// longer (kernel before 6.12). So each element is first made sure of, which changes nothing where
/// it is there, then deleted, then added: within one transaction, and with the same end whatever
/// was there before.
#[must_use]
pub fn update(changes: &[policy::Change]) -> Vec<Step<'static>> {
    #[derive(Default)]
    struct Turn {
        gone: Vec<RawElement>,
        come: Vec<RawElement>,
    }
    let mut turns: BTreeMap<&'static str, Turn> = BTreeMap::new();
    for change in changes {
        let (name, key) = match change {
            policy::Change::Admit(element, _) | policy::Change::Withdraw(element) => {
                names_set(element)
            }
            policy::Change::Deny(element) | policy::Change::Undeny(element) => deny_set(element),
        };
        let turn = turns.entry(name).or_default();
        match change {
            policy::Change::Admit(element, life) => turn.come.push(key.raw(element, Some(*life))),
            policy::Change::Deny(element) => turn.come.push(key.raw(element, None)),
            policy::Change::Withdraw(element) | policy::Change::Undeny(element) => {
                turn.gone.push(key.raw(element, None));
            }
        }
    }
    let mut steps = Vec::new();
    for (set, Turn { gone, come }) in turns {
        let fresh = come.iter().filter(|element| {
            let known = gone.iter().find(|other| other.is_same_service(element));
            known.is_none()
        });
        let fresh: Vec<RawElement> = fresh.map(RawElement::without_end).collect();
        // What goes may overlap what comes, so that it goes before that is made sure of.
        for elements in [gone, fresh] {
            let sure = nftables::ensure_elements(set, elements.iter().cloned());
            steps.extend(sure.map(elements_of(set)));
            let deleted = nftables::delete_elements(set, elements.iter().cloned());
            steps.extend(deleted.map(elements_of(set)));
        }
        let added = nftables::add_elements(set, come.into_iter());
        steps.extend(added.map(elements_of(set)));
    }
    steps
}

fn empty_chains<'a>(chains: &[&Chain]) -> Vec<Step<'a>> {
    let flush = |chain: &&Chain| {
        step(
            Subject::Chain(chain.name),
            nftables::flush_chain(chain.name),
        )
    };
    chains.iter().map(flush).collect()
}

/// The chains of one table for those of another, with all rules of the other.
fn exchange_chains<'a>(from: &[&Chain], to: &[&'a Chain]) -> Vec<Step<'a>> {
    let lacks = |chains: &[&Chain], chain: &Chain| {
        let mut chains = chains.iter();
        !chains.any(|other| other.name == chain.name)
    };
    let new = to.iter().filter(|chain| lacks(from, chain));
    let mut steps: Vec<Step> = new
        .map(|chain| step(Subject::Chain(chain.name), nftables::add_chain(chain)))
        .collect();
    steps.extend(add_rules(to.iter().copied()));
    let obsolete = from.iter().filter(|chain| lacks(to, chain));
    steps.extend(obsolete.map(|chain| {
        step(
            Subject::Chain(chain.name),
            nftables::delete_chain(chain.name),
        )
    }));
    steps
}

fn add_sets<'a>(sets: impl Iterator<Item = &'a Set>) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for (id, set) in (1..).zip(sets) {
        steps.push(step(Subject::Set(set.name), nftables::add_set(set, id)));
        steps.extend(
            nftables::add_elements(set.name, set.raw_elements()).map(elements_of(set.name)),
        );
    }
    steps
}

fn add_rules<'a>(chains: impl Iterator<Item = &'a Chain>) -> Vec<Step<'a>> {
    let rules = chains.flat_map(|chain| chain.rules.iter().map(move |rule| (chain.name, rule)));
    rules
        .map(|(chain, rule)| {
            let message = nftables::add_rule(chain, &bytecode::lower(rule));
            step(Subject::Rule(chain, rule), message)
        })
        .collect()
}

fn elements_of<'a>(set: &'static str) -> impl Fn(Message) -> Step<'a> {
    move |message| step(Subject::Elements(set), message)
}

fn step(subject: Subject<'_>, message: Message) -> Step<'_> {
    Step { subject, message }
}

/// A batch as the kernel takes it: one datagram.
pub struct Batch<'a> {
    /// The octets.
    pub datagram: Vec<u8>,
    /// The steps in it; their sequence numbers follow that of [`Batch::header`].
    pub steps: &'a [Step<'a>],
    /// The sequence number of the batch's first header, to which errors of the whole batch go.
    pub header: u32,
}

impl<'a> Batch<'a> {
    /// The sequence number of the last step, the only one that is acknowledged.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.header
            .wrapping_add(u32::try_from(self.steps.len()).unwrap_or(u32::MAX))
    }

    /// The step that a sequence number belongs to.
    #[must_use]
    pub fn step(&self, sequence: u32) -> Option<&Step<'a>> {
        let index = sequence.wrapping_sub(self.header).checked_sub(1)?;
        self.steps.get(usize::try_from(index).ok()?)
    }
}

/// The length of a batch without messages, in octets.
const FRAME: usize = 2 * 20;

/// Puts steps in a batch, numbered from `sequence`.
#[must_use]
pub fn batch<'a>(steps: &'a [Step<'a>], sequence: u32) -> Batch<'a> {
    let mut batch = endless_batch(steps, sequence);
    let end = batch.last().wrapping_add(1);
    append(&mut batch.datagram, &nftables::batch_end(), end, false);
    batch
}

/// The same without its end: the kernel commits nothing of it.
#[must_use]
pub fn endless_batch<'a>(steps: &'a [Step<'a>], sequence: u32) -> Batch<'a> {
    let len = FRAME + steps.iter().map(|step| step.message.len()).sum::<usize>();
    let mut datagram = Vec::with_capacity(len);
    let mut number = sequence;
    append(&mut datagram, &nftables::batch_begin(), number, false);
    for (index, step) in steps.iter().enumerate() {
        number = number.wrapping_add(1);
        let acknowledge = index + 1 == steps.len();
        append(&mut datagram, &step.message, number, acknowledge);
    }
    Batch {
        datagram,
        steps,
        header: sequence,
    }
}

/// Appends a message with its sequence number, and with the flags that this crate decides: one
/// acknowledgement a batch keeps the answers within any receive buffer.
fn append(datagram: &mut Vec<u8>, message: &[u8], sequence: u32, acknowledge: bool) {
    let at = datagram.len();
    datagram.extend_from_slice(message);
    let header = &mut datagram[at..];
    let flags = u16::from_ne_bytes([header[6], header[7]]) & !ACK;
    let flags = if acknowledge { flags | ACK } else { flags };
    header[6..8].copy_from_slice(&flags.to_ne_bytes());
    header[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 4
const ACK: u16 = libc::NLM_F_ACK as u16;

/// Cuts steps into runs whose batches are at most `limit` octets long.
pub fn cut<'a>(steps: &'a [Step<'a>], limit: usize) -> impl Iterator<Item = &'a [Step<'a>]> {
    let mut rest = steps;
    std::iter::from_fn(move || {
        let mut len = FRAME;
        let fits = rest.iter().take_while(|step| {
            len += step.message.len();
            len <= limit
        });
        // A message that does not fit by itself is sent all the same: the kernel says why not.
        let count = fits.count().max(1).min(rest.len());
        let (run, tail) = rest.split_at(count);
        rest = tail;
        (!run.is_empty()).then_some(run)
    })
}

/// The length of steps as one batch, in octets.
pub fn length_of<'a>(steps: impl IntoIterator<Item = &'a Step<'a>>) -> usize {
    let messages = steps.into_iter().map(|step| step.message.len());
    FRAME + messages.sum::<usize>()
}

/// The length of a change as one batch, in octets.
#[must_use]
pub fn length(change: &Change<'_>) -> usize {
    length_of(change.prepare.iter().chain(&change.switch))
}
