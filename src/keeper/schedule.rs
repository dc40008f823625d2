//! When each name is asked for again. Pure: it is told the time.
//!
//! A name is due when its answer's lifetime is over, which is a grace before its addresses leave
//! the sets ([`crate::policy::Lifetime`]): so they are in the sets before any client asks. One that fails is
//! asked again soon, and its last good answer is kept, but not for ever.

use crate::allowlist::Name;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The pause after a first failure; doubled after each further one.
const RETRY: Duration = Duration::from_secs(2);
/// The longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// So long after a name was due its last good answer is kept while DNS fails (RFC 8767 speaks of
/// one to three days; an allowlist should forget sooner).
pub const KEEP: Duration = Duration::from_secs(60 * 60);
/// Names that are due within so short a time of each other wake the process once.
const SLACK: Duration = Duration::from_secs(1);

/// Names and when they are due.
#[derive(Debug, Default)]
pub struct Schedule {
    names: BTreeMap<Name, Entry>,
    /// The same, by time. Not those that are being asked for.
    queue: BTreeSet<(Instant, Name)>,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    /// When the last good answer was due to be replaced; none where there never was one.
    good_until: Option<Instant>,
    failures: u32,
}

/// What a failure means for the last good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// It stays allowed until then, when the name is asked for again.
    Keep {
        /// How many failures in a row, this one included.
        failures: u32,
        /// When it is asked for again.
        retry: Instant,
    },
    /// There is none, or it is too old by now.
    Nothing,
}

impl Schedule {
    /// Adds names that are due at once; those that are known already keep their time.
    pub fn add(&mut self, names: impl IntoIterator<Item = Name>, now: Instant) {
        for name in names {
            if !self.names.contains_key(&name) {
                self.queue.insert((now, name.clone()));
                let entry = Entry {
                    due: now,
                    good_until: None,
                    failures: 0,
                };
                self.names.insert(name, entry);
            }
        }
    }

    /// Forgets every name that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&Name) -> bool) {
        self.names.retain(|name, _| keep(name));
        self.queue.retain(|(_, name)| keep(name));
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }

    /// When the next name is due; it may be the time to ask for some that are due a little later.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Takes the names that are due, each until [`Self::succeeded`] or [`Self::failed`] is said
    /// of it.
    pub fn take_due(&mut self, now: Instant) -> Vec<Name> {
        if self.next().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        while let Some((at, _)) = self.queue.first()
            && *at <= now + SLACK
        {
            if let Some((_, name)) = self.queue.pop_first() {
                due.push(name);
            }
        }
        due
    }

    /// The name was answered, for `lifetime` from `now` on. Whether it had failed before.
    pub fn succeeded(&mut self, name: &Name, lifetime: Duration, now: Instant) -> bool {
        let Some(entry) = self.names.get_mut(name) else {
            return false;
        };
        let had_failed = entry.failures > 0;
        self.queue.remove(&(entry.due, name.clone()));
        *entry = Entry {
            due: now + lifetime,
            good_until: Some(now + lifetime),
            failures: 0,
        };
        self.queue.insert((entry.due, name.clone()));
        had_failed
    }

    /// The name was not answered.
    pub fn failed(&mut self, name: &Name, now: Instant) -> AfterFailure {
        let Some(entry) = self.names.get_mut(name) else {
            return AfterFailure::Nothing;
        };
        let pause = RETRY_MAX.min(RETRY * 2_u32.saturating_pow(entry.failures));
        entry.failures = entry.failures.saturating_add(1);
        self.queue.remove(&(entry.due, name.clone()));
        entry.due = now + pause;
        self.queue.insert((entry.due, name.clone()));
        match entry.good_until {
            Some(good_until) if now < good_until + KEEP => AfterFailure::Keep {
                failures: entry.failures,
                retry: entry.due,
            },
            _ => AfterFailure::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_name_is_due_at_once_and_then_after_its_lifetime() {
        let start = Instant::now();
        let api = name("api.example.org");
        let mut schedule = Schedule::default();
        schedule.add([api.clone()], start);
        assert_eq!(schedule.take_due(start).len(), 1);
        assert_eq!(schedule.next(), None, "it is being asked for");
        assert!(!schedule.succeeded(&api, MINUTE, start));
        assert_eq!(schedule.next(), Some(start + MINUTE));
        assert!(schedule.take_due(start + MINUTE / 2).is_empty());
        assert_eq!(schedule.take_due(start + MINUTE), [api]);
    }

    #[test]
    fn what_is_due_at_nearly_the_same_time_is_taken_together() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        let names = ["a.example", "b.example", "c.example"].map(name);
        schedule.add(names.clone(), start);
        schedule.take_due(start);
        schedule.succeeded(&names[0], MINUTE, start);
        schedule.succeeded(&names[1], MINUTE + SLACK / 2, start);
        schedule.succeeded(&names[2], MINUTE * 2, start);
        assert_eq!(schedule.take_due(start + MINUTE), names[..2]);
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer_for_a_bounded_time() {
        let start = Instant::now();
        let api = name("api.example.org");
        let mut schedule = Schedule::default();
        schedule.add([api.clone()], start);
        assert_eq!(schedule.failed(&api, start), AfterFailure::Nothing);
        schedule.succeeded(&api, MINUTE, start);
        let mut now = start + MINUTE;
        let mut kept = 0;
        let mut pauses = Vec::new();
        while let AfterFailure::Keep { failures, retry } = schedule.failed(&api, now) {
            kept += 1;
            assert_eq!(failures, kept);
            pauses.push((retry - now).as_secs());
            now = retry;
        }
        assert_eq!(pauses[..5], [2, 4, 8, 16, 30]);
        let over = now - (start + MINUTE);
        assert!(over >= KEEP && over < KEEP + RETRY_MAX, "{over:?}");
        // It is still asked for, and a good answer counts again.
        assert!(schedule.next().is_some());
        assert!(schedule.succeeded(&api, MINUTE, now));
        assert!(matches!(
            schedule.failed(&api, now + MINUTE),
            AfterFailure::Keep { failures: 1, .. }
        ));
    }

    #[test]
    fn a_name_that_is_no_longer_wanted_is_forgotten() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add(["a.example", "b.example"].map(name), start);
        schedule.retain(|kept| *kept == name("b.example"));
        assert_eq!(schedule.take_due(start), [name("b.example")]);
        assert!(!schedule.succeeded(&name("a.example"), MINUTE, start));
        assert_eq!(
            schedule.failed(&name("a.example"), start),
            AfterFailure::Nothing
        );
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_known_name_keeps_its_time() {
        let start = Instant::now();
        let api = name("api.example.org");
        let mut schedule = Schedule::default();
        schedule.add([api.clone()], start);
        schedule.take_due(start);
        schedule.succeeded(&api, MINUTE, start);
        schedule.add([api], start + MINUTE / 2);
        assert_eq!(schedule.next(), Some(start + MINUTE));
    }
}
