//! Entries + answers → policy: which address, protocol and port may be reached, as disjoint
//! elements that a set of nftables takes as they are.
//!
//! What `!` means is decided here and in [`Allowlist::allowed`], nowhere else:
//!
//! * `!address` and `!network` win over everything.
//! * `!*.zone` takes names below the zone off the list, and no address.
//! * `!name` takes the name off the list and refuses its addresses, but for the services that
//!   another allowed name has at the same address.

mod answers;
mod inbound;
pub mod ledger;
mod merge;
mod pieces;
mod refused;

pub use crate::allowlist::Origin;
pub use answers::{Inadmissible, admissible};
pub use inbound::{InvalidInbound, parse_inbound};
pub use ledger::{Change, Ledger, Lifetimes, Outcome, Refusal, Timed};
pub use merge::disjoint;

use crate::allowlist::{Allowlist, Entry, Name, Services, Target};
use crate::service::Service;
use ipnet::IpNet;
use merge::{bits, is_host, united};
use refused::Refused;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

/// One element of a set: every address of a network, one protocol, one range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The addresses; a prefix of full length for one of them.
    pub network: IpNet,
    /// The protocol and its ports.
    pub service: Service,
}

impl Element {
    /// Whether it is of a single address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        is_host(&self.network)
    }
}

/// In two words instead of one for each part: a policy is hashed at each start.
impl Hash for Element {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(bits(self.network.addr()));
        let [a, b] = self.service.ports.first().to_be_bytes();
        let [c, d] = self.service.ports.last().to_be_bytes();
        let protocol = self.service.protocol.number();
        let family = self.network.max_prefix_len();
        let rest = [family, self.network.prefix_len(), protocol, a, b, c, d, 0];
        state.write_u64(u64::from_be_bytes(rest));
    }
}

/// As nftables prints an element: `192.0.2.7 . tcp . 443`, `10.0.0.0/8 . udp . 0-65535`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            write!(f, "{}", self.network.addr())?;
        } else {
            write!(f, "{}", self.network)?;
        }
        write!(f, " . {} . {}", self.service.protocol, self.service.ports)
    }
}

/// What may flow beside the fixed rules: the content of the sets.
///
/// Within each field the elements are disjoint and sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Destinations that may be reached.
    pub allow: Vec<Element>,
    /// Destinations that may not, whatever `allow` says.
    pub deny: Vec<Element>,
    /// Sources and the local service that they may connect to.
    pub inbound: Vec<Element>,
}

/// Nameservers that may be reached: while names are resolved, and in mode `system` afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nameservers {
    /// Servers outside the namespace, each with its port, by UDP and TCP.
    pub servers: BTreeSet<SocketAddr>,
    /// Whether a server on loopback forwards from inside this namespace to servers that are not
    /// known: Docker's embedded DNS, which sends as uid 0. Then port 53 of any server is open to
    /// uid 0.
    pub unknown: bool,
}

/// What names resolved to, in the order of the answer. A name that did not resolve is absent.
pub type Answers = BTreeMap<Name, Vec<IpAddr>>;

/// A policy, and what else follows from the list and the answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What the ruleset is built from.
    pub policy: Policy,
    /// Each allowed name that can be reached with its addresses, in the order of the answer and
    /// without those that are refused: what `/etc/hosts` may say in the mode `pinned`.
    pub hosts: Vec<(Name, Vec<IpAddr>)>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    /// How much may be reached.
    pub counts: Counts,
}

/// How much a policy allows: what the line of a good start and the sentinel say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names with at least one address.
    pub names: usize,
    /// IPv4 addresses and networks.
    pub ipv4: usize,
    /// IPv6 addresses and networks.
    pub ipv6: usize,
}

/// Something that is no error, but perhaps not what was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// An answer that [`admissible`] refuses.
    #[error(
        "{name} resolves to {address}, {reason}: left out; list the address itself if it is meant"
    )]
    Inadmissible {
        /// The allowed name.
        name: Name,
        /// The address that was left out.
        address: IpAddr,
        /// Why.
        reason: Inadmissible,
    },
    /// None of a name's addresses may be reached.
    #[error("{name} cannot be reached: every address that it resolves to is refused")]
    Unreachable {
        /// The allowed name.
        name: Name,
    },
    /// A refused name shares an address with an allowed one, which wins.
    #[error(
        "!{refused} does not close {address} to {services}: {allowed} is there too and is allowed"
    )]
    Shared {
        /// The name after `!`.
        refused: Name,
        /// An allowed name at the same address.
        allowed: Name,
        /// Their address.
        address: IpAddr,
        /// What stays open.
        services: Services,
    },
    /// A refused name without addresses, while the list allows networks that they may lie in.
    #[error("!{refused} did not resolve: the networks in the list may still reach it")]
    RefusedUnresolved {
        /// The name after `!`.
        refused: Name,
    },
    /// The policy allows no destination.
    #[error("nothing can be reached: no entry is left, or none has an address")]
    Nothing,
}

/// Decides what may flow.
///
/// `list` and `answers` say where to, `inbound` from where. That nothing is left to allow is a
/// warning and no error: it is safe, and may be meant.
#[must_use]
pub fn decide(list: &Allowlist, answers: &Answers, inbound: &[Element]) -> Decision {
    let mut warnings = Vec::new();
    let literal = Refused::new(networks(list, true));
    let granted = grant_names(list, answers, &literal, &mut warnings);

    let grants = granted.grants.iter();
    let names = grants.map(|grant| (grant.address.into(), grant.services.clone()));
    let allow = united(names.chain(allowed_networks(list, &literal)));

    let refused = refuse_names(list, answers, &granted, &mut warnings);
    let deny = united(refused.into_iter().chain(refused_networks(list)));

    // What a wildcard opens comes with the answers of mode `proxy`.
    let is_wildcard = |entry: &Entry| !entry.deny && matches!(entry.target, Target::Wildcard(_));
    if allow.is_empty() && !list.entries().iter().any(is_wildcard) {
        warnings.push(Warning::Nothing);
    }
    Decision {
        counts: count(&granted.hosts, &allow),
        policy: Policy {
            allow,
            deny,
            inbound: disjoint(inbound.iter().copied()),
        },
        hosts: granted.hosts,
        warnings,
    }
}

/// The literal addresses and networks of one verdict.
fn networks(list: &Allowlist, deny: bool) -> impl Iterator<Item = (IpNet, &Services)> {
    let entries = list
        .entries()
        .iter()
        .filter(move |entry| entry.deny == deny);
    entries.filter_map(|entry| match entry.target {
        Target::Network(network) => Some((network, &entry.services)),
        Target::Name(_) | Target::Wildcard(_) => None,
    })
}

/// The allowed literals, less what others refuse everywhere in them.
fn allowed_networks<'a>(
    list: &'a Allowlist,
    literal: &'a Refused,
) -> impl Iterator<Item = (IpNet, Services)> + 'a {
    networks(list, false)
        .map(|(network, services)| (network, services.without(&literal.services_of(network))))
}

/// The refused literals.
fn refused_networks(list: &Allowlist) -> impl Iterator<Item = (IpNet, Services)> + '_ {
    networks(list, true).map(|(network, services)| (network, services.clone()))
}

/// What of a name's services an answer opens at one address.
fn admit(
    address: IpAddr,
    origin: Origin,
    services: &Services,
    literal: &Refused,
) -> Result<Services, Refusal> {
    admissible(address, origin).map_err(Refusal::Inadmissible)?;
    let open = services.without(&literal.services_of(address.into()));
    if open.is_empty() {
        return Err(Refusal::Denied);
    }
    Ok(open)
}

/// What names may be reached, and where.
#[derive(Default)]
struct Granted<'a> {
    hosts: Vec<(Name, Vec<IpAddr>)>,
    /// Where a name is refused, in the order of the addresses, those of one address in that of the
    /// names; nobody asks for one otherwise.
    grants: Vec<Grant<'a>>,
}

/// What a name opens at one of its addresses.
struct Grant<'a> {
    address: IpAddr,
    name: &'a Name,
    services: Services,
}

impl<'a> Granted<'a> {
    fn at(&self, address: IpAddr) -> impl Iterator<Item = &Grant<'a>> {
        let first = self.grants.partition_point(|grant| grant.address < address);
        let from = self.grants[first..].iter();
        from.take_while(move |grant| grant.address == address)
    }
}

fn grant_names<'a>(
    list: &'a Allowlist,
    answers: &Answers,
    literal: &Refused,
    warnings: &mut Vec<Warning>,
) -> Granted<'a> {
    let mut granted = Granted::default();
    for (name, services) in list.allowed() {
        let Some(answer) = answers.get(name).filter(|answer| !answer.is_empty()) else {
            continue;
        };
        let mut addresses = Vec::with_capacity(answer.len());
        for (index, &address) in answer.iter().enumerate() {
            if answer[..index].contains(&address) {
                continue;
            }
            match admit(address, Origin::Name, services, literal) {
                Ok(open) => {
                    addresses.push(address);
                    granted.grants.push(Grant {
                        address,
                        name,
                        services: open,
                    });
                }
                Err(Refusal::Inadmissible(reason)) => warnings.push(Warning::Inadmissible {
                    name: name.clone(),
                    address,
                    reason,
                }),
                Err(_) => {}
            }
        }
        if addresses.is_empty() {
            warnings.push(Warning::Unreachable { name: name.clone() });
        } else {
            granted.hosts.push((name.clone(), addresses));
        }
    }
    if !list.refused().is_empty() {
        granted.grants.sort_by_key(|grant| grant.address);
    }
    granted
}

/// The addresses of refused names, less what allowed names have there.
fn refuse_names(
    list: &Allowlist,
    answers: &Answers,
    granted: &Granted<'_>,
    warnings: &mut Vec<Warning>,
) -> Vec<(IpNet, Services)> {
    let has_networks = networks(list, false).next().is_some();
    let mut found = Vec::new();
    for (refused, services) in list.refused() {
        let addresses: BTreeSet<IpAddr> = answers
            .get(refused)
            .into_iter()
            .flatten()
            // What is sent to a mapped address leaves as IPv4.
            .map(IpAddr::to_canonical)
            .collect();
        if addresses.is_empty() && has_networks {
            warnings.push(Warning::RefusedUnresolved {
                refused: refused.clone(),
            });
        }
        for address in addresses {
            let mut closed = services.clone();
            for grant in granted.at(address) {
                let shared = services.without(&services.without(&grant.services));
                closed = closed.without(&grant.services);
                if !shared.is_empty() {
                    warnings.push(Warning::Shared {
                        refused: refused.clone(),
                        allowed: grant.name.clone(),
                        address,
                        services: shared,
                    });
                }
            }
            found.push((address.into(), closed));
        }
    }
    found
}

/// Each network once: the elements are sorted.
fn count(hosts: &[(Name, Vec<IpAddr>)], allow: &[Element]) -> Counts {
    let networks = allow.chunk_by(|one, next| one.network == next.network);
    let (ipv4, ipv6): (Vec<_>, Vec<_>) =
        networks.partition(|elements| elements[0].network.addr().is_ipv4());
    Counts {
        names: hosts.len(),
        ipv4: ipv4.len(),
        ipv6: ipv6.len(),
    }
}

#[cfg(test)]
mod tests;
