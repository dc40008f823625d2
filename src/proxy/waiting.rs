//! Who waits for which lookup.

use std::{collections::HashMap, net::SocketAddr, rc::Rc};

use nix::sys::socket::SockaddrStorage;
use tokio::net::UdpSocket;

use super::{Limits, Listeners, cache::Key, request::Request, tcp::Client};

/// How a query came, and how its answer goes.
#[derive(Clone)]
pub(super) enum Origin {
    /// Over the UDP socket with this index.
    Udp(usize, SocketAddr),
    Tcp(Rc<Client>),
}

impl Origin {
    pub(super) fn udp(
        listeners: &Listeners,
        socket: &UdpSocket,
        source: &SockaddrStorage,
    ) -> Option<Self> {
        let same = |other: &UdpSocket| std::ptr::eq(other, socket);
        let index = listeners.udp.iter().position(same)?;
        let v4 = source
            .as_sockaddr_in()
            .map(|source| SocketAddr::V4((*source).into()));
        let v6 = || {
            source
                .as_sockaddr_in6()
                .map(|source| SocketAddr::V6((*source).into()))
        };
        Some(Self::Udp(index, v4.or_else(v6)?))
    }

    /// The longest answer that can go this way.
    pub(super) fn limit(&self, request: &Request) -> usize {
        match self {
            Self::Udp(..) => request.payload(),
            Self::Tcp(_) => super::tcp::LONGEST_ANSWER,
        }
    }

    /// Sends an answer, if it can be sent now.
    pub(super) fn send(&self, listeners: &Listeners, octets: &[u8]) -> bool {
        match self {
            Self::Udp(index, to) => listeners.udp[*index].try_send_to(octets, *to).is_ok(),
            Self::Tcp(client) => {
                client.answer(octets);
                true
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Udp(one, from), Self::Udp(other, to)) => one == other && from == to,
            _ => false,
        }
    }
}

/// A client that waits.
pub(super) struct Waiter {
    pub request: Request,
    pub origin: Origin,
}

impl Waiter {
    pub(super) fn limit(&self) -> usize {
        self.origin.limit(&self.request)
    }
}

/// Whether one more can wait.
pub(super) enum Room {
    /// Behind others; the lookup is under way.
    Behind,
    /// As the first, if a lookup is begun.
    First,
    None,
}

/// All lookups under way, and who waits for them.
#[derive(Default)]
pub(super) struct Waiting {
    lookups: HashMap<Key, Lookup>,
    clients: usize,
    wildcards: usize,
}

struct Lookup {
    waiters: Vec<Waiter>,
    wildcard: bool,
}

impl Waiting {
    pub(super) fn room(&self, key: &Key, wildcard: bool, limits: &Limits) -> Room {
        if self.clients >= limits.waiting {
            return Room::None;
        }
        if self.lookups.contains_key(key) {
            return Room::Behind;
        }
        if self.lookups.len() >= limits.lookups || wildcard && self.wildcards >= limits.lookups / 2
        {
            return Room::None;
        }
        Room::First
    }

    /// What is being looked up.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.lookups.keys().cloned().collect()
    }

    /// One that asks again, having waited too long for its taste, still gets one answer.
    pub(super) fn add(&mut self, key: Key, wildcard: bool, waiter: Waiter) {
        let lookup = self.lookups.entry(key).or_insert_with(|| {
            self.wildcards += usize::from(wildcard);
            Lookup {
                waiters: Vec::new(),
                wildcard,
            }
        });
        let again = |other: &Waiter| {
            other.request.id == waiter.request.id && other.origin.is(&waiter.origin)
        };
        if !lookup.waiters.iter().any(again) {
            lookup.waiters.push(waiter);
            self.clients += 1;
        }
    }

    /// Those who wait; the lookup goes on.
    pub(super) fn take(&mut self, key: &Key) -> Vec<Waiter> {
        let waiters = self.lookups.get_mut(key).map(|lookup| &mut lookup.waiters);
        let waiters = waiters.map(std::mem::take).unwrap_or_default();
        self.clients -= waiters.len();
        waiters
    }

    /// Those who wait for a lookup that is over.
    pub(super) fn end(&mut self, key: &Key) -> Vec<Waiter> {
        let Some(lookup) = self.lookups.remove(key) else {
            return Vec::new();
        };
        self.wildcards -= usize::from(lookup.wildcard);
        self.clients -= lookup.waiters.len();
        lookup.waiters
    }
}
