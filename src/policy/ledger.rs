//! Which name lent which address until when, and what that changes in the sets.
//!
//! In mode `proxy` addresses come with answers and go with their time. The kernel forgets elements
//! by itself; the ledger knows the same and more: which name an address came from, and which
//! addresses an allowed name had lately, so that a new list can be put in place of the old one
//! without cutting what both allow.
//!
//! It is plain data. What [`Ledger::answer`] returns as [`Change`]s is to be committed before the
//! answer is given to anyone; a change that failed leaves the kernel behind the ledger, and a
//! ruleset made of [`Ledger::policy`], [`Ledger::names`] and [`Ledger::past`] brings it back.
//!
//! What can be reached by a name is told apart from what a literal or a network allows by the set
//! it is in, so that elements of one never meet those of the other. Names come first there: what
//! `!network` refuses is taken from their elements here, and `!name` has no say in them
//! ([`crate::policy`]).

use super::{
    Counts, Element, Policy, admit, allowed_networks,
    answers::Inadmissible,
    disjoint,
    merge::{elements_of, united},
    networks,
    pieces::Piece,
    pieces::pieces,
    refused::Refused,
    refused_networks,
};
use crate::allowlist::{Allowed, Allowlist, Lookup, Name, Origin, Services};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// The shortest time that an answer counts for, whatever its TTL: programs keep addresses longer
/// than they may.
pub const FLOOR: Duration = Duration::from_secs(60);
/// The longest.
pub const CEILING: Duration = Duration::from_secs(24 * 60 * 60);
/// What is added to either, so that a client that asks in time always finds its address open.
pub const GRACE: Duration = Duration::from_secs(60);
/// How long after its time an address is remembered, for the flows to it that are still open when
/// the list changes.
pub const HISTORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Addresses of one name at a time, those remembered included.
pub const PER_NAME: usize = 128;
/// Addresses of all names below wildcards, those remembered included: whoever runs such a zone
/// chooses the names, the addresses and, through a client, how many there are.
pub const BELOW_WILDCARDS: usize = 8192;
/// Names below wildcards that share one address: many of them at one would make each answer dear.
pub const PER_ADDRESS: usize = 64;

/// Longer than a change takes to reach the kernel: until then an element may outlive its loan.
const SLACK: Duration = Duration::from_secs(5);

/// How long an answer with this TTL counts, where nothing else is asked for.
#[must_use]
pub fn lifetime(ttl: Duration) -> Duration {
    Lifetimes::default().of(ttl)
}

/// How long answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The shortest TTL that is believed: [`FLOOR`] unless the user says otherwise.
    pub floor: Duration,
    /// What is added to every TTL: [`GRACE`] unless the user says otherwise.
    pub grace: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            floor: FLOOR,
            grace: GRACE,
        }
    }
}

impl Lifetimes {
    /// Of the addresses of an answer with this TTL.
    #[must_use]
    pub fn of(self, ttl: Duration) -> Duration {
        self.until_refresh(ttl) + self.grace
    }

    /// Until the name is to be asked for again.
    #[must_use]
    pub fn until_refresh(self, ttl: Duration) -> Duration {
        ttl.clamp(self.floor, CEILING)
    }
}

/// An element that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timed {
    /// What may be reached.
    pub element: Element,
    /// For how long from now; whole seconds, as nftables prints them, and never less than what was
    /// lent: whoever has the answer counts on it.
    pub life: Duration,
}

/// One change of the sets. Those of one answer belong in one transaction; what is withdrawn and
/// admitted again in it really lives longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A name's address may be reached, for as long.
    Admit(Element, Duration),
    /// No longer, or not for as long. It may be gone already.
    Withdraw(Element),
    /// An address of a refused name may not be reached, where a network would allow it.
    Deny(Element),
    /// It may again.
    Undeny(Element),
}

/// Why an address of an answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No answer may bring it in.
    #[error("{0}")]
    Inadmissible(Inadmissible),
    /// `!address` or `!network` refuses all that the name allows.
    #[error("an address that the list refuses")]
    Denied,
    /// Beyond [`PER_NAME`] or [`BELOW_WILDCARDS`].
    #[error("one address more than are kept")]
    Full,
    /// The list does not allow the name.
    #[error("an address of a name that is not allowed")]
    Name,
}

/// What became of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The addresses that may be reached once `changes` are committed, in the order of the answer.
    pub admitted: Vec<IpAddr>,
    /// The others.
    pub refused: Vec<(IpAddr, Refusal)>,
    /// What to commit. Nothing where the sets are good for the answer as they are.
    pub changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Loan {
    address: IpAddr,
    until: Instant,
}

impl Loan {
    fn is_live(self, now: Instant) -> bool {
        self.until > now
    }

    fn remembered_until(self) -> Instant {
        self.until + HISTORY
    }
}

/// The list, and what its names lent.
pub struct Ledger {
    lookup: Lookup,
    literal: Refused,
    literals: Policy,
    refusals: BTreeMap<Name, Services>,
    generation: [u8; 32],
    loans: BTreeMap<Name, Vec<Loan>>,
    /// The names in `loans` by address.
    lenders: BTreeMap<IpAddr, Vec<Name>>,
    /// Loans of names below wildcards.
    below_wildcards: usize,
    /// Until when none of these is over, as was found when there was no room.
    none_over_before: Option<Instant>,
    /// The addresses of refused names, the newest first.
    refused: BTreeMap<Name, Vec<IpAddr>>,
    grace: Duration,
}

impl Ledger {
    /// An empty one for a list. `search` is what resolv.conf says ([`Lookup::new`]).
    #[must_use]
    pub fn new(list: &Allowlist, search: &[String], inbound: &[Element]) -> Self {
        let literal = Refused::new(networks(list, true));
        let literals = Policy {
            allow: united(allowed_networks(list, &literal)),
            deny: united(refused_networks(list)),
            inbound: disjoint(inbound.iter().copied()),
        };
        let lookup = Lookup::new(list, search);
        let refusals = list.refused().clone();
        Self {
            generation: generation(&lookup, &literals, &refusals),
            lookup,
            literal,
            literals,
            refusals,
            loans: BTreeMap::new(),
            lenders: BTreeMap::new(),
            below_wildcards: 0,
            none_over_before: None,
            refused: BTreeMap::new(),
            grace: GRACE,
        }
    }

    /// The same, told that addresses have another grace than [`GRACE`].
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// What the list says of names.
    #[must_use]
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// What tells this list from any other, in 32 octets: the names and their services, literals,
    /// `--inbound`; nothing that DNS says.
    #[must_use]
    pub fn generation(&self) -> [u8; 32] {
        self.generation
    }

    /// Takes an answer for an allowed name: its addresses may be reached until then.
    ///
    /// Nothing is taken away early: an address that was in the last answer and is not in this one
    /// lives to its end. An address that lives nearly as long already, to within half of the grace,
    /// is left as it is.
    pub fn answer(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        until: Instant,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let wanted = self.wanted(name, addresses, now, &mut outcome.refused);
        let loans = self.loans.get(name).map_or(&[][..], Vec::as_slice);
        let extended: Vec<IpAddr> = wanted
            .iter()
            .copied()
            .filter(|&address| {
                let loan = loans.iter().find(|loan| loan.address == address);
                loan.is_none_or(|loan| !loan.is_live(now) || until > loan.until + self.grace / 2)
            })
            .collect();
        let evicted = crowded_out(loans, &wanted);
        let touched: BTreeSet<IpAddr> = extended.iter().chain(&evicted).copied().collect();

        let before = self.held(&touched, now);
        for &address in &evicted {
            self.forget(name, address);
        }
        for &address in &extended {
            self.lend(name, Loan { address, until });
        }
        outcome.changes = self.changes(&touched, &before, now);
        outcome.admitted = wanted;
        outcome
    }

    /// Takes the addresses of a refused name. They stay refused until newer ones crowd them out:
    /// what a name had may still be its.
    pub fn refuse(&mut self, name: &Name, addresses: &[IpAddr]) -> Vec<Change> {
        if !self.refusals.contains_key(name) {
            return Vec::new();
        }
        let known = self.refused.get(name).cloned().unwrap_or_default();
        let mut kept: Vec<IpAddr> = Vec::new();
        // What is sent to a mapped address leaves as IPv4.
        let fresh = addresses.iter().map(IpAddr::to_canonical);
        for address in fresh.chain(known.iter().copied()) {
            if kept.len() < PER_NAME && !kept.contains(&address) {
                kept.push(address);
            }
        }
        let changed = |one: &[IpAddr], other: &[IpAddr]| -> Vec<IpAddr> {
            let gone = one.iter().filter(|address| !other.contains(address));
            gone.copied().collect()
        };
        let touched = [changed(&kept, &known), changed(&known, &kept)].concat();
        let before: Vec<Element> = touched.iter().flat_map(|&at| self.denied_at(at)).collect();
        self.refused.insert(name.clone(), kept);
        let after: Vec<Element> = touched.iter().flat_map(|&at| self.denied_at(at)).collect();
        let lost = before.iter().filter(|element| !after.contains(element));
        let new = after.iter().filter(|element| !before.contains(element));
        lost.map(|element| Change::Undeny(*element))
            .chain(new.map(|element| Change::Deny(*element)))
            .collect()
    }

    /// Forgets what was over long ago. The kernel needs no word of it.
    pub fn expire(&mut self, now: Instant) {
        self.forget_where(|_, loan| loan.remembered_until() <= now);
    }

    /// An allowed name that has this address now, the one that has it longest.
    #[must_use]
    pub fn name_of(&self, address: IpAddr, now: Instant) -> Option<&Name> {
        let lenders = self.lenders.get(&address)?.iter();
        let live = lenders.filter_map(|name| {
            let loan = self.loan(name, address)?;
            loan.is_live(now).then_some((loan.until, name))
        });
        live.max_by_key(|(until, _)| *until).map(|(_, name)| name)
    }

    /// The names with an address that may be reached, and for how long, in alphabetical order.
    pub fn leases(&self, now: Instant) -> impl Iterator<Item = (&Name, Vec<(IpAddr, Duration)>)> {
        self.loans.iter().filter_map(move |(name, loans)| {
            let live = loans.iter().filter(|loan| loan.is_live(now));
            let live: Vec<_> = live
                .map(|loan| (loan.address, loan.until.saturating_duration_since(now)))
                .collect();
            (!live.is_empty()).then_some((name, live))
        })
    }

    /// The addresses of one name that may be reached.
    #[must_use]
    pub fn leases_of(&self, name: &Name, now: Instant) -> Vec<IpAddr> {
        let loans = self.loans.get(name).into_iter().flatten();
        let live = loans.filter(|loan| loan.is_live(now));
        live.map(|loan| loan.address).collect()
    }

    /// Whether addresses of a refused name are known.
    #[must_use]
    pub fn knows_refused(&self, name: &Name) -> bool {
        self.refused.contains_key(name)
    }

    /// How much may be reached.
    #[must_use]
    pub fn counts(&self, now: Instant) -> Counts {
        let lent = self.leases(now).map(|(name, loans)| {
            let addresses = loans.into_iter().map(|(address, _)| IpNet::from(address));
            (name, addresses.collect::<Vec<_>>())
        });
        let (mut names, mut networks) = (0, BTreeSet::new());
        for (_, addresses) in lent {
            names += 1;
            networks.extend(addresses);
        }
        networks.extend(self.literals.allow.iter().map(|element| element.network));
        let ipv4 = networks.iter().filter(|net| net.addr().is_ipv4()).count();
        Counts {
            names,
            ipv4,
            ipv6: networks.len() - ipv4,
        }
    }

    /// The sets that do not expire: literals, `--inbound`, and what is refused.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut policy = self.literals.clone();
        let addresses: BTreeSet<IpAddr> = self.refused.values().flatten().copied().collect();
        let refused = addresses.into_iter().flat_map(|at| self.denied_at(at));
        policy.deny.extend(refused);
        policy.deny.sort_unstable();
        policy
    }

    /// What names opened, now.
    #[must_use]
    pub fn names(&self, now: Instant) -> Vec<Timed> {
        self.timed(now, |loan| loan.until)
    }

    /// What names opened lately, now included.
    #[must_use]
    pub fn past(&self, now: Instant) -> Vec<Timed> {
        self.timed(now, Loan::remembered_until)
    }

    /// The ledger of another list, with what that list still allows. This one stays as it is, for
    /// the case that the kernel does not take the other.
    #[must_use]
    pub fn reload(
        &self,
        list: &Allowlist,
        search: &[String],
        inbound: &[Element],
        now: Instant,
    ) -> Self {
        let mut next = Self::new(list, search, inbound).with_grace(self.grace);
        for (name, loans) in &self.loans {
            for &loan in loans.iter().filter(|loan| loan.remembered_until() > now) {
                if next.admit(name, loan.address).is_ok() && next.room_for(name, now) > 0 {
                    next.lend(name, loan);
                }
            }
        }
        let refusals = &next.refusals;
        let refused = self.refused.iter();
        next.refused = refused
            .filter(|(name, _)| refusals.contains_key(*name))
            .map(|(name, addresses)| (name.clone(), addresses.clone()))
            .collect();
        next
    }

    /// The addresses of an answer that count, each once; the others with their reason.
    fn wanted(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        now: Instant,
        refused: &mut Vec<(IpAddr, Refusal)>,
    ) -> Vec<IpAddr> {
        let mut wanted = Vec::new();
        let mut added = 0;
        for &address in addresses {
            if wanted.contains(&address) {
                continue;
            }
            match self.admit(name, address) {
                Err(reason) => refused.push((address, reason)),
                Ok(_) if wanted.len() == PER_NAME => refused.push((address, Refusal::Full)),
                Ok(_) if self.loan(name, address).is_some() => wanted.push(address),
                Ok(_) if self.room_for(name, now) > added => {
                    added += 1;
                    wanted.push(address);
                }
                Ok(_) => refused.push((address, Refusal::Full)),
            }
        }
        wanted
    }

    /// The services of a name that an answer opens at an address.
    fn admit(&self, name: &Name, address: IpAddr) -> Result<Services, Refusal> {
        let allowed = self.lookup.verdict(name).ok_or(Refusal::Name)?;
        let Allowed { services, origin } = allowed;
        admit(address, origin, services, &self.literal)
    }

    /// How many more addresses the ledger has room for. Names that the list has are as many as it
    /// has; the others share what there is, and make room by forgetting half of what is over.
    fn room_for(&mut self, name: &Name, now: Instant) -> usize {
        if !self.is_below_wildcard(name) {
            return usize::MAX;
        }
        let may_be_over = self.none_over_before.is_none_or(|time| time <= now);
        if self.below_wildcards >= BELOW_WILDCARDS && may_be_over {
            self.make_room(now);
        }
        BELOW_WILDCARDS.saturating_sub(self.below_wildcards)
    }

    /// Forgets the older half of what is over of names below wildcards.
    fn make_room(&mut self, now: Instant) {
        let below = self.loans.iter();
        let mut ends: Vec<Instant> = below
            .filter(|(name, _)| self.is_below_wildcard(name))
            .flat_map(|(_, loans)| loans.iter().map(|loan| loan.until + SLACK))
            .collect();
        self.none_over_before = ends.iter().min().copied();
        ends.retain(|end| *end <= now);
        if !ends.is_empty() {
            let middle = ends.len() / 2;
            let last = *ends.select_nth_unstable(middle).1;
            self.forget_where(|below, loan| below && loan.until + SLACK <= last);
        }
    }

    fn is_below_wildcard(&self, name: &Name) -> bool {
        let verdict = self.lookup.verdict(name);
        verdict.is_some_and(|allowed| allowed.origin == Origin::Wildcard)
    }

    fn loan(&self, name: &Name, address: IpAddr) -> Option<&Loan> {
        let mut loans = self.loans.get(name)?.iter();
        loans.find(|loan| loan.address == address)
    }

    fn lend(&mut self, name: &Name, loan: Loan) {
        let loans = self.loans.entry(name.clone()).or_default();
        if let Some(known) = loans.iter_mut().find(|known| known.address == loan.address) {
            known.until = known.until.max(loan.until);
            return;
        }
        // Most names have few addresses, and there may be many names.
        loans.reserve_exact(1);
        loans.push(loan);
        let lenders = self.lenders.entry(loan.address).or_default();
        lenders.reserve_exact(1);
        lenders.push(name.clone());
        self.below_wildcards += usize::from(self.is_below_wildcard(name));
        self.thin_out(loan.address, name);
    }

    /// Forgets, at an address that has too many names below wildcards, the one that ends soonest,
    /// but for the newest.
    fn thin_out(&mut self, address: IpAddr, newest: &Name) {
        let lenders = self.lenders.get(&address).map_or(&[][..], Vec::as_slice);
        if lenders.len() <= PER_ADDRESS {
            return;
        }
        let below = lenders.iter().filter(|name| self.is_below_wildcard(name));
        let others = below.filter(|name| *name != newest);
        let mut ends: Vec<(Instant, &Name)> = others
            .filter_map(|name| Some((self.loan(name, address)?.until, name)))
            .collect();
        ends.sort_unstable();
        if ends.len() >= PER_ADDRESS
            && let Some((_, name)) = ends.first()
        {
            self.forget(&(*name).clone(), address);
        }
    }

    fn forget(&mut self, name: &Name, address: IpAddr) {
        if let Some(loans) = self.loans.get_mut(name) {
            loans.retain(|loan| loan.address != address);
            if loans.is_empty() {
                self.loans.remove(name);
            }
        }
        if let Some(lenders) = self.lenders.get_mut(&address) {
            lenders.retain(|lender| lender != name);
            if lenders.is_empty() {
                self.lenders.remove(&address);
            }
        }
        self.below_wildcards -= usize::from(self.is_below_wildcard(name));
    }

    /// Forgets loans by whether they are below a wildcard and by themselves.
    fn forget_where(&mut self, is_forgotten: impl Fn(bool, &Loan) -> bool) {
        let mut forgotten = Vec::new();
        for (name, loans) in &self.loans {
            let below = self.is_below_wildcard(name);
            let these = loans.iter().filter(|loan| is_forgotten(below, loan));
            forgotten.extend(these.map(|loan| (name.clone(), loan.address)));
        }
        for (name, address) in forgotten {
            self.forget(&name, address);
        }
    }

    /// The pieces of an address by the loans that end after `now`, by whatever end counts.
    fn pieces_at(
        &self,
        address: IpAddr,
        now: Instant,
        end: impl Fn(Loan) -> Instant,
    ) -> Vec<Piece> {
        let lenders = self.lenders.get(&address).into_iter().flatten();
        pieces(lenders.filter_map(|name| {
            let until = end(*self.loan(name, address)?);
            let open = self.admit(name, address).ok()?;
            (until > now).then_some((open, until))
        }))
    }

    /// What the kernel may hold of these addresses.
    fn held(&self, addresses: &BTreeSet<IpAddr>, now: Instant) -> Vec<Vec<Piece>> {
        let held = |&address| {
            let mut held = self.pieces_at(address, now, |loan| loan.until + SLACK);
            for piece in &mut held {
                piece.until -= SLACK;
            }
            held
        };
        addresses.iter().map(held).collect()
    }

    fn changes(
        &self,
        addresses: &BTreeSet<IpAddr>,
        before: &[Vec<Piece>],
        now: Instant,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&address, before) in addresses.iter().zip(before) {
            let after = self.pieces_at(address, now, |loan| loan.until);
            let element = |piece: &Piece| Element {
                network: address.into(),
                service: piece.service,
            };
            let gone = before.iter().filter(|piece| !after.contains(piece));
            changes.extend(gone.map(|piece| Change::Withdraw(element(piece))));
            let new = after.iter().filter(|piece| !before.contains(piece));
            changes.extend(new.map(|piece| {
                let life = piece.until.saturating_duration_since(now);
                Change::Admit(element(piece), life)
            }));
        }
        changes
    }

    fn timed(&self, now: Instant, end: impl Fn(Loan) -> Instant) -> Vec<Timed> {
        let mut timed: Vec<Timed> = Vec::new();
        for &address in self.lenders.keys() {
            timed.extend(self.pieces_at(address, now, &end).iter().map(|piece| {
                let life = piece.until.saturating_duration_since(now);
                let begun = u64::from(life.subsec_nanos() > 0);
                Timed {
                    element: Element {
                        network: address.into(),
                        service: piece.service,
                    },
                    life: Duration::from_secs(life.as_secs() + begun),
                }
            }));
        }
        timed.sort_unstable();
        timed
    }

    /// What refused names refuse at an address. Literals do so by themselves.
    fn denied_at(&self, address: IpAddr) -> Vec<Element> {
        let here = self.refused.iter().filter(|(_, at)| at.contains(&address));
        let services: Services = here
            .filter_map(|(name, _)| self.refusals.get(name))
            .flat_map(Services::iter)
            .collect();
        let literal = self.literal.services_of(address.into());
        elements_of(address.into(), &services.without(&literal)).collect()
    }
}

/// The addresses that a name has to give up for its new ones: those that end soonest.
fn crowded_out(loans: &[Loan], wanted: &[IpAddr]) -> Vec<IpAddr> {
    let mut others: Vec<&Loan> = loans
        .iter()
        .filter(|loan| !wanted.contains(&loan.address))
        .collect();
    others.sort_by_key(|loan| loan.until);
    let excess = (others.len() + wanted.len()).saturating_sub(PER_NAME);
    others[..excess].iter().map(|loan| loan.address).collect()
}

fn generation(lookup: &Lookup, literals: &Policy, refusals: &BTreeMap<Name, Services>) -> [u8; 32] {
    let mut hash = Sha256::new();
    lookup.identify(&mut hash);
    for (name, services) in refusals {
        hash.update(format!("!{name} {services}\n"));
    }
    for elements in [&literals.allow, &literals.deny, &literals.inbound] {
        for element in elements {
            hash.update(format!("{element}\n"));
        }
        // Keeps the elements of one kind apart from those of the next.
        hash.update("\n");
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
