//! What bounds the proxy, and what it counts. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// What one command can make the proxy do and keep. Each has a default that is documented here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lookups at once, each of one name and type: 128. Those for names that only a wildcard
    /// allows take half of them at most, so that they never keep the others waiting.
    pub lookups: usize,
    /// Clients that wait for lookups, over all of them: 2,048. One that finds no room gets SERVFAIL.
    pub waiting: usize,
    /// TCP connections at once on each address: 64. Further ones wait in the kernel.
    pub tcp_clients: usize,
    /// How long a TCP connection may last without a whole query or answer: 10 s (RFC 7766 section
    /// 6.2.3).
    pub tcp_idle: Duration,
    /// Queries of one TCP connection that wait for lookups: 32. Then no more is read.
    pub tcp_waiting: usize,
    /// Octets of the answers kept, with what keeping them takes: 2 MiB, some 6,000 answers.
    pub cache: usize,
    /// The longest that an answer is kept: 24 h. Its TTL is cut to this.
    pub longest: Duration,
    /// The longest that an absence is kept: 15 min (RFC 2308 section 5 wants a bound).
    pub longest_absence: Duration,
    /// For how long after its end an answer may still be given out where the nameservers give none
    /// (RFC 8767): 1 h.
    pub stale: Duration,
    /// Lookups a second for names that only a wildcard allows, or for types that programs seldom
    /// ask for: 20. Whoever runs the zone learns what is asked for, and it can be chosen to say
    /// something; answers from the cache are not counted.
    pub wildcard_rate: u32,
    /// As many of them may come at once after a pause: 100.
    pub wildcard_burst: u32,
    /// The octets that may stand in place of the `*`: 100.
    pub wildcard_length: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lookups: 128,
            waiting: 2048,
            tcp_clients: 64,
            tcp_idle: Duration::from_secs(10),
            tcp_waiting: 32,
            cache: 2 * 1024 * 1024,
            longest: Duration::from_secs(24 * 3600),
            longest_absence: Duration::from_secs(15 * 60),
            stale: Duration::from_secs(3600),
            wildcard_rate: 20,
            wildcard_burst: 100,
            wildcard_length: 100,
        }
    }
}

/// What happened since the start. Each query is in `queries` and in one other field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages that came in, of any kind.
    pub queries: u64,
    /// Of those, over TCP.
    pub over_tcp: u64,
    /// Answered from what was kept, or without asking anybody: loopback, PTR.
    pub cached: u64,
    /// Answered after a lookup.
    pub looked_up: u64,
    /// Answered with an answer whose time was over.
    pub stale: u64,
    /// Refused: the list does not have the name, or nobody may ask for the type.
    pub blocked: u64,
    /// Refused: above the rate of what can be chosen, or the length of a wildcard.
    pub limited: u64,
    /// The nameservers gave no answer, or the kernel did not take the addresses.
    pub failed: u64,
    /// No room for a lookup or another one who waits.
    pub overloaded: u64,
    /// Not a DNS query: too short, a response, or what does not parse.
    pub malformed: u64,
    /// Longer than any query.
    pub oversized: u64,
    /// A query for what is not served: another opcode, EDNS version or class.
    pub unsupported: u64,
    /// Answers, among those counted above, from which addresses were taken out.
    pub filtered: u64,
    /// Answers that could not be sent because a client does not read.
    pub unsent: u64,
    /// Lookups begun, of one name and type each; refreshes are not among them.
    pub lookups: u64,
    /// Datagrams of nameservers that answered no query: a wrong id or question, or malformed.
    pub ignored: u64,
}

/// A token bucket: so many at once, and so many a second.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Thousandths of a token.
    tokens: u64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(burst: u32, now: Instant) -> Self {
        Self {
            tokens: u64::from(burst) * 1000,
            at: now,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_millis();
        let gained = u64::try_from(elapsed)
            .unwrap_or(u64::MAX)
            .saturating_mul(rate.into());
        if gained > 0 {
            self.at = now;
        }
        let full = u64::from(burst) * 1000;
        self.tokens = self.tokens.saturating_add(gained).min(full);
        let left = self.tokens.checked_sub(1000);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(3, start);
        let mut took = |ms| {
            let now = start + Duration::from_millis(ms);
            (0..10).filter(|_| bucket.take(2, 3, now)).count()
        };
        assert_eq!(took(0), 3);
        assert_eq!(took(499), 0);
        assert_eq!(took(500), 1);
        assert_eq!(took(1500), 2);
        // However long nobody asked.
        assert_eq!(took(1_000_000), 3);
    }

    #[test]
    fn asking_often_loses_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::full(0, start);
        let taken = (0..10_000_u64)
            .filter(|&ms| bucket.take(20, 1, start + Duration::from_millis(ms)))
            .count();
        assert!((199..=200).contains(&taken), "{taken}");
    }
}
