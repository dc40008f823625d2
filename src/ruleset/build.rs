//! What may flow, rule by rule: the lock of the start, and the policy after it.
//!
//! The order of the rules is the policy; each says why it stands where it does. Marks tell the
//! flows that this ruleset let in or out from all others (flows from before the lock, of the
//! lock's own DNS hole, of an earlier policy): see [`with_mark`].

use super::{
    Chain, Elements, Hook, Key, Rule, Ruleset, Set,
    set::Family,
    term::{Direction, End, Reject, Term},
};
use crate::{
    policy::{Element, Nameservers, Policy},
    service::{PortRange, Protocol, Service},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP to this address (TEST-NET-1, RFC 5737) and [`CANARY_PORT`] is the canary: only these
/// rules answer it with protocol unreachable.
pub const CANARY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// UDP to this address (discard prefix, RFC 6666) is its twin for namespaces without IPv4.
pub const CANARY_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);
/// The port of both.
pub const CANARY_PORT: u16 = 1;

/// The netlink log group of refused packets (`nft(8)`, "log statement").
pub const LOG_GROUP: u16 = 1;
const LOG_PREFIX: &str = "egress-init refused: ";

const DNS_PORT: u16 = 53;

const ALLOW4: &str = "allow4";
const ALLOW4_RANGES: &str = "allow4_ranges";
const ALLOW6: &str = "allow6";
const ALLOW6_RANGES: &str = "allow6_ranges";
const DENY4: &str = "deny4";
const DENY6: &str = "deny6";
const INBOUND4: &str = "inbound4";
const INBOUND6: &str = "inbound6";
const NAMESERVERS4: &str = "nameservers4";
const NAMESERVERS6: &str = "nameservers6";
const ND_IN: &str = "nd_in";
const ND_OUT: &str = "nd_out";
const MLD_IN: &str = "mld_in";
const MLD_OUT: &str = "mld_out";
const ERRORS4: &str = "icmp_errors4";
const ERRORS6: &str = "icmp_errors6";
const REFUSE: &str = "refuse";

/// The lock: nothing in, nothing out but loopback, IPv6 neighbour discovery and, where `dns` is
/// given, DNS for the listed uids.
///
/// It says nothing to established flows instead of resetting them, so that those which the
/// coming policy allows survive a second start (I9).
#[must_use]
pub fn locked(dns: Option<(&Nameservers, &[u32])>) -> Ruleset {
    let mut output = refuse_hidden_destinations();
    if let Some((nameservers, uids)) = dns {
        for &uid in uids {
            output.push(Rule(vec![
                Term::SocketUid(uid),
                Term::LeavesByLoopback,
                Term::Accept,
            ]));
            output.extend(to_nameservers(Some(uid)));
        }
        output.extend(to_unknown_nameservers(nameservers));
    }
    output.extend(close_dns());
    output.push(Rule(vec![Term::LeavesByLoopback, Term::Accept]));
    if dns.is_some() {
        output.push(established());
    }
    output.extend(neighbour_discovery(ND_OUT, MLD_OUT));
    output.push(Rule(vec![Term::Established, Term::Drop]));
    output.push(Rule(vec![Term::Goto(REFUSE)]));

    let mut input = vec![Rule(vec![Term::CameByLoopback, Term::Accept])];
    if dns.is_some() {
        input.push(established());
    }
    input.extend(neighbour_discovery(ND_IN, MLD_IN));
    input.extend(icmp_errors());

    let mut sets = icmp_sets();
    if let Some((nameservers, _)) = dns {
        sets.extend(nameserver_sets(nameservers));
    }
    with_mark(Ruleset {
        sets,
        chains: chains(output, input),
    })
}

/// The policy: what the sets allow, DNS only where `dns` is given, nothing else.
#[must_use]
pub fn enforced(policy: &Policy, dns: Option<&Nameservers>) -> Ruleset {
    let mut output = canary();
    output.extend(refuse_hidden_destinations());
    if dns.is_none() {
        // Before loopback, where a nameserver may listen too (I7).
        output.extend(close_dns());
    }
    output.push(Rule(vec![Term::LeavesByLoopback, Term::Accept]));
    output.push(established());
    output.extend(neighbour_discovery(ND_OUT, MLD_OUT));
    if let Some(nameservers) = dns {
        output.extend(to_nameservers(None));
        output.extend(to_unknown_nameservers(nameservers));
        // Port 53 is the mode's, not the list's: a wide entry does not open it.
        output.extend(close_dns());
    }
    output.extend(refuse_denied());
    output.extend(let_out());
    output.extend(answers_to_inbound());
    output.push(Rule(vec![Term::Goto(REFUSE)]));

    let mut input = vec![
        Rule(vec![Term::CameByLoopback, Term::Accept]),
        established(),
    ];
    input.extend(neighbour_discovery(ND_IN, MLD_IN));
    input.extend(icmp_errors());
    input.extend(answers_to_allowed());
    input.extend(let_in());
    input.push(Rule(vec![Term::Counter]));

    let mut sets = icmp_sets();
    sets.extend(policy_sets(policy));
    if let Some(nameservers) = dns {
        sets.extend(nameserver_sets(nameservers));
    }
    with_mark(Ruleset {
        sets,
        chains: chains(output, input),
    })
}

/// Puts the mark of a ruleset in its rules: 32 bits of the SHA-256 of everything else in it.
///
/// The same policy gives the same mark, so a second start with an unchanged list does not even
/// touch the flows that are open; any other policy gives another one, and flows that carry the
/// old mark are judged anew. Nobody without `CAP_NET_ADMIN` can set a conntrack mark.
fn with_mark(mut ruleset: Ruleset) -> Ruleset {
    let mut hash = Sha256::new();
    hash.update(ruleset.structure().to_string());
    for set in &ruleset.sets {
        for element in set.raw_elements() {
            hash.update(element.key.as_slice());
            if let Some(end) = &element.end {
                hash.update(end.as_slice());
            }
        }
        // Keeps the elements of one set apart from those of the next.
        hash.update(set.elements.len().to_be_bytes());
    }
    let digest = hash.finalize();
    // 0 is the mark of a flow that nobody marked.
    let own = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1);
    let terms = ruleset
        .chains
        .iter_mut()
        .flat_map(|chain| &mut chain.rules)
        .flat_map(|rule| &mut rule.0);
    for term in terms {
        if let Term::Mark(mark) | Term::SetMark(mark) = term {
            *mark = own;
        }
    }
    ruleset
}

/// A mark that [`with_mark`] fills in.
const OWN_MARK: u32 = 0;

fn canary() -> Vec<Rule> {
    vec![
        Rule(vec![
            Term::DestinationIs(IpAddr::V4(CANARY_V4)),
            Term::DestinationPort(Protocol::Tcp, CANARY_PORT),
            Term::Reject(Reject::ProtocolUnreachable),
        ]),
        Rule(vec![
            Term::DestinationIs(IpAddr::V6(CANARY_V6)),
            Term::DestinationPort(Protocol::Udp, CANARY_PORT),
            Term::Reject(Reject::PolicyFail),
        ]),
    ]
}

/// A routing header, and a source route among the IPv4 options, names the real destination where
/// no set is asked for it. No capability is needed to send either.
fn refuse_hidden_destinations() -> Vec<Rule> {
    vec![
        Rule(vec![Term::HasRoutingHeader, Term::Goto(REFUSE)]),
        Rule(vec![Term::HasIpv4Options, Term::Goto(REFUSE)]),
    ]
}

/// By the port that the flow was first sent to: Docker's nat rules turn 127.0.0.11:53 into
/// another port before this chain sees it. Only in that direction: a reset that refuses a query
/// is of the same flow, the other way.
fn close_dns() -> Vec<Rule> {
    Protocol::ALL
        .map(|protocol| {
            Rule(vec![
                Term::IsProtocol(protocol),
                Term::Direction(Direction::Original),
                Term::OriginalDestinationPort(DNS_PORT),
                Term::Goto(REFUSE),
            ])
        })
        .into()
}

fn established() -> Rule {
    Rule(vec![Term::Established, Term::Mark(OWN_MARK), Term::Accept])
}

/// Hop limits 255 (RFC 4861 section 7) and 1 (RFC 3810 section 5) keep them on the link. The rate
/// keeps small what their addresses can tell a neighbour.
fn neighbour_discovery(nd: &'static str, mld: &'static str) -> Vec<Rule> {
    [(nd, 255), (mld, 1)]
        .map(|(set, hop_limit)| {
            Rule(vec![
                Term::IcmpTypeIn(Family::V6, set),
                Term::HopLimit(hop_limit),
                Term::Limit {
                    rate: 20,
                    burst: 50,
                },
                Term::Accept,
            ])
        })
        .into()
}

/// Path-MTU discovery and unreachable destinations, for flows whatever their mark.
fn icmp_errors() -> Vec<Rule> {
    vec![
        Rule(vec![Term::IcmpTypeIn(Family::V4, ERRORS4), Term::Accept]),
        Rule(vec![Term::IcmpTypeIn(Family::V6, ERRORS6), Term::Accept]),
    ]
}

fn to_nameservers(uid: Option<u32>) -> Vec<Rule> {
    [(Family::V4, NAMESERVERS4), (Family::V6, NAMESERVERS6)]
        .map(|(family, set)| {
            let mut terms: Vec<Term> = uid.map(Term::SocketUid).into_iter().collect();
            terms.extend([
                service(family, End::Destination, End::Destination, set),
                Term::SetMark(OWN_MARK),
                Term::Accept,
            ]);
            Rule(terms)
        })
        .into()
}

fn to_unknown_nameservers(nameservers: &Nameservers) -> Vec<Rule> {
    if !nameservers.unknown {
        return Vec::new();
    }
    Protocol::ALL
        .map(|protocol| {
            Rule(vec![
                Term::SocketUid(0),
                Term::DestinationPort(protocol, DNS_PORT),
                Term::SetMark(OWN_MARK),
                Term::Accept,
            ])
        })
        .into()
}

/// A match on a service whose address and port are those of the named ends.
fn service(family: Family, address: End, port: End, set: &'static str) -> Term {
    Term::ServiceIn {
        family,
        address,
        port,
        set,
    }
}

fn refuse_denied() -> Vec<Rule> {
    [(Family::V4, DENY4), (Family::V6, DENY6)]
        .map(|(family, set)| {
            Rule(vec![
                service(family, End::Destination, End::Destination, set),
                Term::Goto(REFUSE),
            ])
        })
        .into()
}

/// Starts flows to what is allowed, and takes over those that an earlier policy started.
fn let_out() -> Vec<Rule> {
    ALLOWED
        .map(|(family, set)| {
            Rule(vec![
                service(family, End::Destination, End::Destination, set),
                Term::Counter,
                Term::SetMark(OWN_MARK),
                Term::Accept,
            ])
        })
        .into()
}

/// The way in of the flows that [`let_out`] takes over: it may be only the other side that talks.
fn answers_to_allowed() -> Vec<Rule> {
    let denied = [(Family::V4, DENY4), (Family::V6, DENY6)].map(|(family, set)| {
        Rule(vec![
            Term::Direction(Direction::Reply),
            service(family, End::Source, End::Source, set),
            Term::Drop,
        ])
    });
    let allowed = ALLOWED.map(|(family, set)| {
        Rule(vec![
            Term::Direction(Direction::Reply),
            service(family, End::Source, End::Source, set),
            Term::SetMark(OWN_MARK),
            Term::Accept,
        ])
    });
    denied.into_iter().chain(allowed).collect()
}

/// Lets in what `--inbound` allows: the peer's address, the local port.
fn let_in() -> Vec<Rule> {
    INBOUND
        .map(|(family, set)| {
            Rule(vec![
                Term::Direction(Direction::Original),
                service(family, End::Source, End::Destination, set),
                Term::Counter,
                Term::SetMark(OWN_MARK),
                Term::Accept,
            ])
        })
        .into()
}

/// The way out of the flows that [`let_in`] takes over from an earlier policy.
fn answers_to_inbound() -> Vec<Rule> {
    INBOUND
        .map(|(family, set)| {
            Rule(vec![
                Term::Direction(Direction::Reply),
                service(family, End::Destination, End::Source, set),
                Term::SetMark(OWN_MARK),
                Term::Accept,
            ])
        })
        .into()
}

const ALLOWED: [(Family, &str); 4] = [
    (Family::V4, ALLOW4),
    (Family::V4, ALLOW4_RANGES),
    (Family::V6, ALLOW6),
    (Family::V6, ALLOW6_RANGES),
];

const INBOUND: [(Family, &str); 2] = [(Family::V4, INBOUND4), (Family::V6, INBOUND6)];

/// Everything refused ends here: counted, logged within a rate, and answered at once.
fn refuse() -> Chain {
    Chain {
        name: REFUSE,
        hook: None,
        rules: vec![
            Rule(vec![Term::Counter]),
            Rule(vec![
                Term::Limit { rate: 5, burst: 10 },
                Term::Log {
                    prefix: LOG_PREFIX,
                    group: LOG_GROUP,
                },
            ]),
            Rule(vec![
                Term::IsProtocol(Protocol::Tcp),
                Term::Reject(Reject::TcpReset),
            ]),
            Rule(vec![Term::Reject(Reject::AdminProhibited)]),
        ],
    }
}

fn chains(output: Vec<Rule>, input: Vec<Rule>) -> Vec<Chain> {
    vec![
        refuse(),
        Chain {
            name: "output",
            hook: Some(Hook::Output),
            rules: output,
        },
        Chain {
            name: "input",
            hook: Some(Hook::Input),
            rules: input,
        },
        Chain {
            name: "forward",
            hook: Some(Hook::Forward),
            rules: Vec::new(),
        },
    ]
}

fn icmp_sets() -> Vec<Set> {
    // RFC 792; RFC 4443, 4861 and 3810 for ICMPv6.
    let types: [(&'static str, Family, &[u8]); 6] = [
        (ND_OUT, Family::V6, &[133, 135, 136]),
        (ND_IN, Family::V6, &[134, 135, 136]),
        (MLD_OUT, Family::V6, &[131, 132, 143]),
        (MLD_IN, Family::V6, &[130]),
        (ERRORS4, Family::V4, &[3, 11, 12]),
        (ERRORS6, Family::V6, &[1, 2, 3, 4]),
    ];
    types
        .map(|(name, family, types)| Set {
            name,
            key: Key::IcmpType(family),
            elements: Elements::IcmpTypes(types.to_vec()),
        })
        .into()
}

/// Single addresses with single ports go to hash tables, which grow without growing slower;
/// networks and port ranges need interval sets. All sets are there even when empty, so that the
/// text without elements is one for all lists.
fn policy_sets(policy: &Policy) -> Vec<Set> {
    let single = |element: &&Element| element.is_host() && element.service.ports.is_single();
    let (hosts, ranges): (Vec<&Element>, Vec<&Element>) = policy.allow.iter().partition(single);
    let pick = |elements: &[&Element], family| -> Elements {
        Elements::Services(
            elements
                .iter()
                .filter(|element| Family::of(element.network.addr()) == family)
                .map(|element| **element)
                .collect(),
        )
    };
    let deny: Vec<&Element> = policy.deny.iter().collect();
    let inbound: Vec<&Element> = policy.inbound.iter().collect();
    [
        (ALLOW4, Key::Service(Family::V4), pick(&hosts, Family::V4)),
        (
            ALLOW4_RANGES,
            Key::ServiceRange(Family::V4),
            pick(&ranges, Family::V4),
        ),
        (ALLOW6, Key::Service(Family::V6), pick(&hosts, Family::V6)),
        (
            ALLOW6_RANGES,
            Key::ServiceRange(Family::V6),
            pick(&ranges, Family::V6),
        ),
        (
            DENY4,
            Key::ServiceRange(Family::V4),
            pick(&deny, Family::V4),
        ),
        (
            DENY6,
            Key::ServiceRange(Family::V6),
            pick(&deny, Family::V6),
        ),
        (
            INBOUND4,
            Key::ServiceRange(Family::V4),
            pick(&inbound, Family::V4),
        ),
        (
            INBOUND6,
            Key::ServiceRange(Family::V6),
            pick(&inbound, Family::V6),
        ),
    ]
    .map(|(name, key, elements)| Set {
        name,
        key,
        elements,
    })
    .into()
}

fn nameserver_sets(nameservers: &Nameservers) -> Vec<Set> {
    [(Family::V4, NAMESERVERS4), (Family::V6, NAMESERVERS6)]
        .map(|(family, name)| {
            let servers = nameservers
                .servers
                .iter()
                .filter(|server| Family::of(server.ip()) == family);
            let services = servers.flat_map(|server| {
                Protocol::ALL.map(|protocol| Element {
                    network: IpNet::from(server.ip()),
                    service: Service {
                        protocol,
                        ports: PortRange::single(server.port()),
                    },
                })
            });
            let mut services: Vec<Element> = services.collect();
            services.sort_unstable();
            services.dedup();
            Set {
                name,
                key: Key::Service(family),
                elements: Elements::Services(services),
            }
        })
        .into()
}
