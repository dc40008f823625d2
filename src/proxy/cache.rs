//! Answers that may be given out again. Pure: the time comes from the caller.
//!
//! Two stores. [`Cache`] has what the nameservers said, until its TTL is over and, as a last resort,
//! for some time after. [`Repeats`] has finished responses, octet for octet, for the same query in
//! the same octets: nothing in it is older than a second, the grain of a TTL, so that nothing in it
//! has to be counted down.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::RecordType,
};
use tokio::time::Instant;

use super::reply::Extended;
use crate::{allowlist::Name, resolve::Found};

/// What is asked for.
pub(super) type Key = (Name, RecordType);

/// What an entry takes beside the octets of its name and its answer: itself, its place in the
/// table, which is up to half empty, and three allocations.
const OVERHEAD: usize = 2 * (size_of::<Key>() + size_of::<Entry>()) + 64;

/// For how long a finished response may be repeated.
pub(super) const REPEAT: Duration = Duration::from_secs(1);

/// What is known of one name and type.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The last good answer.
    pub answer: Option<Kept>,
    /// Until when nobody is asked again, and why.
    pub failed: Option<(Instant, Extended)>,
    /// Whether the list has the name itself, so that no command can make up others like it.
    exact: bool,
}

/// An answer as the nameservers gave it.
#[derive(Debug)]
pub(super) struct Kept {
    /// Response code, answers and SOA as a message.
    octets: Box<[u8]>,
    /// When its TTL is over.
    pub until: Instant,
    /// Until when its addresses are known to be in the sets; nothing where there was no attempt.
    pub admitted: Option<Instant>,
    /// The addresses that may not be given out.
    pub refused: Box<[IpAddr]>,
}

impl Kept {
    /// Nothing where the codec cannot write what it has read.
    pub(super) fn new(found: &Found, until: Instant) -> Option<Self> {
        let mut message = Message::response(0, OpCode::Query);
        if found.nxdomain {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        message.add_answers(found.records.iter().cloned());
        message.add_authorities(found.soa.iter().cloned());
        Some(Self {
            octets: message.to_vec().ok()?.into(),
            until,
            admitted: None,
            refused: Box::default(),
        })
    }

    pub(super) fn message(&self) -> Option<Message> {
        Message::from_vec(&self.octets).ok()
    }
}

impl Entry {
    /// When it is of no use to anybody.
    fn end(&self, stale: Duration) -> Option<Instant> {
        let answer = self.answer.as_ref().map(|answer| answer.until + stale);
        answer.max(self.failed.map(|(until, _)| until))
    }

    fn cost(&self, key: &Key) -> usize {
        // Twice: none of the refused addresses takes more than it has in the answer.
        let answer = self
            .answer
            .as_ref()
            .map_or(0, |answer| answer.octets.len() * 2);
        OVERHEAD + key.0.as_str().len() + answer
    }
}

/// What the nameservers said.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    cost: usize,
    limit: usize,
    stale: Duration,
}

impl Cache {
    pub(super) fn new(limit: usize, stale: Duration) -> Self {
        Self {
            limit,
            stale,
            ..Self::default()
        }
    }

    pub(super) fn get(&mut self, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// Changes an entry, or makes it, and sees that all of them keep within the limit.
    pub(super) fn update(
        &mut self,
        key: &Key,
        exact: bool,
        now: Instant,
        change: impl FnOnce(&mut Entry),
    ) {
        let mut entry = self.remove(key).unwrap_or_default();
        entry.exact = exact;
        change(&mut entry);
        let cost = entry.cost(key);
        if cost > self.limit / 8 {
            return;
        }
        if self.cost + cost > self.limit {
            self.make_room(cost, now);
        }
        if self.cost + cost <= self.limit {
            self.cost += cost;
            self.entries.insert(key.clone(), entry);
        }
    }

    /// Keeps the entries that are still to be kept.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Entry) -> bool) {
        self.entries.retain(|key, entry| {
            let kept = keep(key, entry);
            if !kept {
                self.cost -= entry.cost(key);
            }
            kept
        });
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.cost -= entry.cost(key);
        Some(entry)
    }

    /// First what is of no use any more; then those that a command can make up, a quarter of the
    /// whole at once, so that this is seldom done.
    fn make_room(&mut self, cost: usize, now: Instant) {
        let stale = self.stale;
        self.retain(|_, entry| entry.end(stale).is_some_and(|end| end > now));
        let limit = self.limit;
        let mut order: Vec<_> = self
            .entries
            .iter()
            .map(|(key, entry)| (entry.exact, entry.end(stale), key.clone()))
            .collect();
        order.sort_unstable_by_key(|(exact, end, _)| (*exact, *end));
        for (exact, _, key) in order {
            let goal = if exact { limit } else { limit / 4 * 3 };
            if self.cost + cost <= goal {
                return;
            }
            self.remove(&key);
        }
    }

    #[cfg(test)]
    fn check(&self) {
        let cost: usize = self
            .entries
            .iter()
            .map(|(key, entry)| entry.cost(key))
            .sum();
        assert_eq!(cost, self.cost);
        assert!(cost <= self.limit);
    }
}

/// Finished responses, over UDP alone.
#[derive(Debug)]
pub(super) struct Repeats {
    /// By the octets of the query, without its id.
    responses: HashMap<Box<[u8]>, Box<[u8]>>,
    room: usize,
    until: Instant,
}

impl Repeats {
    /// Octets of queries and responses together.
    const ROOM: usize = 256 * 1024;

    pub(super) fn new(now: Instant) -> Self {
        Self {
            responses: HashMap::new(),
            room: Self::ROOM,
            until: now + REPEAT,
        }
    }

    /// Appends the response to this query, under its id; whether there is one.
    pub(super) fn get(&mut self, query: &[u8], now: Instant, to: &mut Vec<u8>) -> bool {
        if now >= self.until {
            self.clear(now);
            return false;
        }
        let Some((id, rest)) = query.split_at_checked(2) else {
            return false;
        };
        let Some(response) = self.responses.get(rest) else {
            return false;
        };
        to.extend_from_slice(id);
        to.extend_from_slice(response);
        true
    }

    /// Keeps a response, which has to hold for [`REPEAT`].
    pub(super) fn put(&mut self, query: &[u8], response: &[u8]) {
        let (Some(query), Some(response)) = (query.get(2..), response.get(2..)) else {
            return;
        };
        let cost = query.len() + response.len() + 128;
        if let Some(room) = self.room.checked_sub(cost) {
            self.room = room;
            self.responses.insert(query.into(), response.into());
        }
    }

    pub(super) fn clear(&mut self, now: Instant) {
        self.responses.clear();
        self.room = Self::ROOM;
        self.until = now + REPEAT;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use hickory_resolver::proto::rr::{Name as DnsName, RData, Record, rdata::TXT};

    const STALE: Duration = Duration::from_secs(100);

    fn key(name: &str) -> Key {
        (name.parse().unwrap(), RecordType::TXT)
    }

    fn kept(octets: usize, until: Instant) -> Kept {
        let text = RData::TXT(TXT::from_bytes(vec![&vec![b'x'; octets]]));
        let found = Found {
            records: vec![Record::from_rdata(DnsName::root(), 60, text)],
            nxdomain: false,
            soa: None,
            server: "127.0.0.1:53".parse().unwrap(),
        };
        Kept::new(&found, until).unwrap()
    }

    #[test]
    fn an_answer_is_kept_as_it_was() {
        let now = Instant::now();
        let mut cache = Cache::new(10_000, STALE);
        cache.update(&key("a.example"), true, now, |entry| {
            entry.answer = Some(kept(10, now));
        });
        let entry = cache.get(&key("a.example")).unwrap();
        let message = entry.answer.as_ref().unwrap().message().unwrap();
        assert_eq!(message.answers.len(), 1);
        assert!(cache.get(&key("b.example")).is_none());
        cache.check();
        cache.retain(|_, _| false);
        assert!(cache.get(&key("a.example")).is_none());
        cache.check();
    }

    #[test]
    fn it_never_grows_beyond_its_limit() {
        let now = Instant::now();
        let mut cache = Cache::new(100_000, STALE);
        for i in 0..20 {
            cache.update(&key(&format!("exact{i}.example")), true, now, |entry| {
                entry.answer = Some(kept(100, now));
            });
        }
        for i in 0..5000_u32 {
            let until = now + Duration::from_secs((i % 1000).into());
            cache.update(&key(&format!("made-up{i}.example")), false, now, |entry| {
                entry.answer = Some(kept(200, until));
            });
            cache.check();
        }
        // And no made-up name took the place of one that is listed.
        for i in 0..20 {
            assert!(cache.get(&key(&format!("exact{i}.example"))).is_some());
        }
        assert!(cache.entries.len() > 50);
    }

    #[test]
    fn what_is_over_goes_first() {
        let now = Instant::now();
        let mut cache = Cache::new(50_000, STALE);
        let old = now + Duration::from_secs(1);
        for i in 0..40 {
            cache.update(&key(&format!("old{i}.example")), true, now, |entry| {
                entry.answer = Some(kept(200, old));
            });
        }
        let now = old + STALE;
        for i in 0..40 {
            cache.update(&key(&format!("new{i}.example")), false, now, |entry| {
                entry.answer = Some(kept(200, now));
            });
        }
        assert!((0..40).all(|i| cache.get(&key(&format!("new{i}.example"))).is_some()));
        cache.check();
    }

    #[test]
    fn a_giant_is_not_kept() {
        let now = Instant::now();
        let mut cache = Cache::new(2000, STALE);
        cache.update(&key("a.example"), true, now, |entry| {
            entry.answer = Some(kept(255, now));
        });
        assert!(cache.get(&key("a.example")).is_none());
        cache.check();
    }

    #[test]
    fn a_response_is_repeated_for_a_second() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let get = |repeats: &mut Repeats, query: &[u8], now| {
            let mut octets = Vec::new();
            repeats.get(query, now, &mut octets).then_some(octets)
        };
        assert_eq!(get(&mut repeats, &[1, 2, 3], now), None);
        repeats.put(&[1, 2, 3], &[1, 2, 9, 9]);
        let response = Some(vec![7, 8, 9, 9]);
        assert_eq!(get(&mut repeats, &[7, 8, 3], now), response);
        assert_eq!(get(&mut repeats, &[1, 2, 4], now), None);
        assert_eq!(get(&mut repeats, &[1], now), None);
        assert_eq!(get(&mut repeats, &[7, 8, 3], now + REPEAT), None);
        assert_eq!(get(&mut repeats, &[7, 8, 3], now), None);
    }

    #[test]
    fn repeats_are_bounded() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        for i in 0..100_000_u32 {
            repeats.put(&[&[0, 0], &i.to_be_bytes()[..]].concat(), &[0; 100]);
        }
        assert!(repeats.responses.len() < 2000);
    }
}
