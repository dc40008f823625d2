//! For `fuzz/`: a query of a client, and what the nameservers said of a name, on the way through
//! the proxy. Without sockets: a query that would be looked up has no response.

use super::{Gate, Limits, Listeners, NotAdmitted, Proxy, Verdict, cache::Kept};
use crate::{
    allowlist::Name,
    resolve::{self, nameservers::Upstreams},
};
use hickory_resolver::proto::rr::RecordType;
use std::{cell::RefCell, net::IpAddr, time::Duration};
use tokio::time::Instant;

/// What the list and the kernel say.
pub struct Fence {
    /// What the list says of a name.
    pub verdict: fn(&str) -> Verdict,
    /// Whether the kernel takes an address.
    pub admits: fn(IpAddr) -> bool,
    /// What /etc/hosts says of a name.
    pub hosts: fn(&str) -> Option<&'static [IpAddr]>,
    /// The addresses that it was asked to take.
    pub asked: Vec<IpAddr>,
}

impl Gate for Fence {
    fn verdict(&self, name: &Name) -> Verdict {
        (self.verdict)(name.as_str())
    }

    fn admit(
        &mut self,
        _: &Name,
        addresses: &[IpAddr],
        _: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted> {
        self.asked.extend(addresses);
        let admits = self.admits;
        Ok(addresses.iter().copied().filter(|a| admits(*a)).collect())
    }

    fn known(&self, name: &Name) -> Option<&[IpAddr]> {
        (self.hosts)(name.as_str())
    }

    fn name_of(&self, _: IpAddr) -> Option<Name> {
        None
    }
}

/// What came of a query.
pub struct Exchange {
    /// The response over UDP, the first time.
    pub response: Option<Vec<u8>>,
    /// The same query again, under another id, where a finished response is repeated.
    pub repeated: Option<Vec<u8>>,
    /// The same query over TCP.
    pub over_tcp: Option<Vec<u8>>,
}

/// A query to a proxy that knows what `upstream`, a response, says of `name` and `kind`, for as
/// long as `ttl`.
pub fn exchange(
    query: &[u8],
    again: &[u8],
    (name, kind, upstream): (&str, u16, &[u8]),
    ttl: Duration,
    fence: &RefCell<Fence>,
) -> Exchange {
    let listeners = Listeners {
        udp: Vec::new(),
        tcp: Vec::new(),
    };
    let upstreams = Upstreams::default();
    let proxy = Proxy::new(listeners, upstreams, Limits::default(), ttl, fence);
    let now = Instant::now();
    let kind = RecordType::from(kind);
    if let Some(found) = resolve::fuzzing::found(&format!("{name}."), kind, upstream)
        && let Ok(name) = name.parse()
    {
        let mut cache = proxy.cache.borrow_mut();
        cache.update(&(name, kind), true, now, |entry| {
            entry.answer = Kept::new(&found, now + ttl);
        });
    }
    let over = |octets, udp| proxy.respond(octets, 65_535, || None, udp);
    Exchange {
        response: over(query, true),
        repeated: {
            let mut response = Vec::new();
            let mut repeats = proxy.repeats.borrow_mut();
            repeats.get(again, now, &mut response).then_some(response)
        },
        over_tcp: over(query, false),
    }
}
