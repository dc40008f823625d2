//! A DNS server that answers for the list and for nothing else.
//!
//! Every query of the command comes here, whatever server it names. A listed name is looked up
//! ([`crate::resolve`]), its addresses are put into the sets through the [`Gate`], and only what the
//! kernel has taken is given out: whoever has an answer can connect. For any other name REFUSED
//! goes back at once and nothing goes upstream (invariant I7).
//!
//! | question | answer |
//! | --- | --- |
//! | a listed name | from the cache or from the nameservers, filtered |
//! | any other name | REFUSED, or NXDOMAIN below a search domain, with extended error 15 |
//! | `localhost`, and below it | the loopback addresses |
//! | a listed name that /etc/hosts has | what it has |
//! | PTR of an address that is in the sets | the name that brought it in |
//! | ANY | HINFO (RFC 8482) |
//! | types that programs do not ask for, other classes | REFUSED |
//!
//! An address counts under the name that was asked for: an alias brings its target's addresses in,
//! and no other way leads to them. HTTPS and SVCB records keep the hints that were taken, lose the
//! keys of encrypted client hellos, and are left out where their target is another name that the
//! list does not have: the client could not ask for it.
//!
//! All of it runs in one task and gives way after a bounded piece of work: a flood of queries delays
//! neither signals nor timers. What it may keep is bounded by [`Limits`].

mod answering;
mod cache;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod limits;
mod listen;
mod lookups;
mod reply;
mod request;
mod tcp;
mod waiting;

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    allowlist::Name,
    resolve::{Servers, nameservers::Upstreams},
};
use cache::{Cache, Key, Repeats};
use limits::Bucket;
pub use limits::{Counters, Limits};
pub use listen::Listeners;
use waiting::Waiting;

/// With what TTL an answer goes out whose time is over, and for how long nobody is asked again then
/// (RFC 8767 sections 4 and 5).
const STALE_TTL: Duration = Duration::from_secs(30);

/// What a list says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be asked for.
    Allowed {
        /// Where only a wildcard allows it: the octets that stand in place of the `*`, dots
        /// included.
        wildcard: Option<usize>,
    },
    /// It may not.
    Blocked,
    /// It may not; but it is a name with a search domain behind it, and the client has to go on
    /// with its list: it does not exist, as far as the client is told.
    BlockedBelowSearch,
}

/// The kernel did not take the addresses. Whoever says so has said why in the log.
#[derive(Debug, thiserror::Error)]
#[error("the addresses could not be put into the sets")]
pub struct NotAdmitted;

/// What the proxy asks the policy and the kernel. It must not call the proxy in turn.
pub trait Gate {
    /// Whether a name may be asked for. Asked for every query that is not a repetition.
    fn verdict(&self, name: &Name) -> Verdict;

    /// Puts addresses into the sets that the answer for `name` brought in, for `ttl` and a grace,
    /// never for less than they already have; returns those that are in. Must not return before
    /// the kernel has acknowledged them.
    fn admit(
        &mut self,
        name: &Name,
        addresses: &[IpAddr],
        ttl: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted>;

    /// What the operator has in /etc/hosts for a name: it is asked of nobody.
    fn known(&self, name: &Name) -> Option<&[IpAddr]>;

    /// The name that brought in an address which is still in the sets.
    fn name_of(&self, address: IpAddr) -> Option<Name>;
}

/// The server.
pub struct Proxy<'a, G: Gate> {
    listeners: Listeners,
    servers: Servers,
    upstreams: Upstreams,
    limits: Limits,
    deadline: Duration,
    gate: &'a RefCell<G>,
    cache: RefCell<Cache>,
    repeats: RefCell<Repeats>,
    waiting: RefCell<Waiting>,
    /// Lookups that have been asked for and are not yet under way.
    begun: RefCell<Vec<Key>>,
    wake: Notify,
    bucket: RefCell<Bucket>,
    counters: RefCell<Counters>,
}

impl<'a, G: Gate> Proxy<'a, G> {
    /// Asks nobody yet. `deadline` is for each lookup. A nameserver on one of the listeners'
    /// addresses would be the proxy itself, and is left out.
    pub fn new(
        listeners: Listeners,
        mut upstreams: Upstreams,
        limits: Limits,
        deadline: Duration,
        gate: &'a RefCell<G>,
    ) -> Self {
        let now = Instant::now();
        let own = listeners.addresses().unwrap_or_default();
        upstreams
            .servers
            .retain(|server| !own.iter().any(|own| is_same(server, own)));
        Self {
            listeners,
            servers: Servers::lasting(&upstreams.servers),
            upstreams,
            limits,
            deadline,
            gate,
            cache: RefCell::new(Cache::new(limits.cache, limits.stale)),
            repeats: RefCell::new(Repeats::new(now)),
            waiting: RefCell::default(),
            begun: RefCell::default(),
            wake: Notify::new(),
            bucket: RefCell::new(Bucket::full(limits.wildcard_burst, now)),
            counters: RefCell::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            ignored: self.servers.ignored(),
            ..*self.counters.borrow()
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.borrow_mut());
    }

    /// After a reload: nothing is given out any more that the new list does not have, and what it
    /// has is put into the sets again before it is given out.
    pub fn policy_changed(&self) {
        let gate = self.gate.borrow();
        self.repeats.borrow_mut().clear(Instant::now());
        self.cache.borrow_mut().retain(|(name, _), entry| {
            if let Some(answer) = &mut entry.answer {
                answer.admitted = None;
                answer.refused = Box::default();
            }
            matches!(gate.verdict(name), Verdict::Allowed { .. })
        });
    }

    fn allows(&self, name: &Name) -> bool {
        matches!(self.gate.borrow().verdict(name), Verdict::Allowed { .. })
    }

    fn is_exact(&self, name: &Name) -> bool {
        self.gate.borrow().verdict(name) == Verdict::Allowed { wildcard: None }
    }
}

/// Whether a packet to `server` comes out at the socket that is bound to `own`.
fn is_same(server: &SocketAddr, own: &SocketAddr) -> bool {
    let ip = server.ip().to_canonical();
    let any = ip.is_unspecified() && own.ip().is_loopback();
    server.port() == own.port() && (ip == own.ip() || any)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_nameserver_that_is_the_proxy_itself() {
        for (server, own, same) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("0.0.0.0:53", "127.0.0.1:53", true),
            ("[::ffff:127.0.0.1]:53", "127.0.0.1:53", true),
            ("[::1]:53", "[::1]:53", true),
            ("127.0.0.11:53", "127.0.0.1:53", false),
            ("127.0.0.1:5353", "127.0.0.1:53", false),
            ("[::1]:53", "127.0.0.1:53", false),
        ] {
            let [server, own] = [server, own].map(|text| text.parse().unwrap());
            assert_eq!(is_same(&server, &own), same, "{server} {own}");
        }
    }
}
