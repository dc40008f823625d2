//! What chains are put together from.

use super::{
    super::{
        Chain, Rule,
        contents::{DENY4, DENY6, INBOUND, Length, PAST, ServiceSets, set_of_length},
        set::Family,
        term::{Direction, End, Reject, Term, Unit},
    },
    GO_ON, REFUSE,
    mark::{IN_MARK, OUT_MARK},
};
use crate::service::Protocol;
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

pub(super) const LOG_PREFIX: &str = "egress-init refused: ";

pub(super) fn canary() -> Vec<Rule> {
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
pub(super) fn refuse_hidden_destinations() -> Vec<Rule> {
    vec![
        Rule(vec![Term::HasRoutingHeader, Term::Goto(REFUSE)]),
        Rule(vec![Term::HasIpv4Options, Term::Goto(REFUSE)]),
    ]
}

/// A flow that was let out goes on the way that it went, and one that was let in is answered, and
/// so do the ICMP errors about either, which conntrack counts to it. Never the other way round:
/// IPv6 lets a command take any source (`IPV6_FREEBIND`), so that it could ask an allowed host in
/// the name of a stranger, and answer the stranger in the host's.
pub(super) fn of_flow(direction: Direction, mark: u32) -> Rule {
    Rule(vec![
        Term::Direction(direction),
        Term::Mark(mark),
        Term::Accept,
    ])
}

/// Router solicitations, neighbour solicitations and advertisements (RFC 4861 section 4). Two
/// comparisons are cheaper than a set, to make and to ask.
pub(super) const ND_OUT: &[Term] = &[Term::Icmpv6Type(133, 136), Term::NoIcmpv6Type(134, 134)];

/// Multicast listener reports of both versions, and "done" (RFC 3810 section 5, RFC 2710).
pub(super) const MLD_OUT: &[Term] = &[Term::Icmpv6Type(131, 143), Term::NoIcmpv6Type(133, 142)];

/// Router advertisements, neighbour solicitations and advertisements.
pub(super) const ND_IN: &[Term] = &[Term::Icmpv6Type(134, 136)];

/// Multicast listener queries.
pub(super) const MLD_IN: &[Term] = &[Term::Icmpv6Type(130, 130)];

/// Hop limits 255 (RFC 4861 section 7) and 1 (RFC 3810 section 5) keep them on the link. What they
/// can tell a neighbour is kept small: of discovery, an address a packet, by a rate of packets; of
/// multicast listener reports, which list as many addresses as whoever asks for them likes, by a
/// rate of octets.
pub(super) fn neighbour_discovery(nd: &[Term], mld: &[Term]) -> Vec<Rule> {
    let discovery = Term::Limit {
        of: Unit::Packets,
        rate: 20,
        burst: 50,
    };
    // Some thirty reports of one group at once, then two or three a second.
    let reports = Term::Limit {
        of: Unit::Octets,
        rate: 200,
        burst: 3000,
    };
    [(nd, 255, discovery), (mld, 1, reports)]
        .map(|(types, hop_limit, limit)| {
            let rest = [Term::HopLimit(hop_limit), limit, Term::Accept];
            Rule([types, &rest].concat())
        })
        .into()
}

/// A match on a service whose address and port are those of the named ends.
pub(super) fn service(family: Family, address: End, port: End, set: &'static str) -> Term {
    Term::ServiceIn {
        family,
        address,
        length: None,
        port,
        set,
    }
}

/// What is denied, whatever else allows it, ends with a verdict.
pub(super) fn denied(end: End, verdict: &Term) -> Vec<Rule> {
    [(Family::V4, DENY4), (Family::V6, DENY6)]
        .map(|(family, set)| Rule(vec![service(family, end, end, set), verdict.clone()]))
        .into()
}

/// What is in the sets goes to a chain.
pub(super) fn services(sets: ServiceSets, end: End, chain: &'static str) -> Vec<Rule> {
    sets.map(|(family, set)| Rule(vec![service(family, end, end, set), Term::Goto(chain)]))
        .into()
}

/// What is in a network of one of these lengths goes to a chain.
pub(super) fn networks(
    lengths: &[Length],
    end: End,
    chain: &'static str,
) -> impl Iterator<Item = Rule> {
    lengths.iter().map(move |&length| {
        let of_length = Term::ServiceIn {
            family: length.0,
            address: end,
            length: Some(length.1),
            port: end,
            set: set_of_length(length),
        };
        Rule(vec![of_length, Term::Goto(chain)])
    })
}

/// Starts a flow, or takes over one that an earlier policy started.
pub(super) fn let_out() -> Rule {
    Rule(vec![Term::Counter, Term::SetMark(OUT_MARK), Term::Accept])
}

/// Takes over a flow.
pub(super) fn go_on() -> Rule {
    Rule(vec![Term::SetMark(OUT_MARK), Term::Accept])
}

/// Takes over flows to where a still allowed name was lately, and starts none: answers were seen
/// and they have a mark, so that an earlier generation let them out.
pub(super) fn past_requests() -> Vec<Rule> {
    PAST.map(|(family, set)| {
        Rule(vec![
            Term::Answered,
            Term::Marked,
            service(family, End::Destination, End::Destination, set),
            Term::Goto(GO_ON),
        ])
    })
    .into()
}

/// The way in of the same flows.
pub(super) fn past_replies() -> Vec<Rule> {
    PAST.map(|(family, set)| {
        Rule(vec![
            Term::Answered,
            service(family, End::Source, End::Source, set),
            Term::Goto(GO_ON),
        ])
    })
    .into()
}

/// Lets in what `--inbound` allows: the peer's address, the local port.
pub(super) fn let_in() -> Vec<Rule> {
    INBOUND
        .map(|(family, set)| {
            Rule(vec![
                Term::Direction(Direction::Original),
                service(family, End::Source, End::Destination, set),
                Term::Counter,
                Term::SetMark(IN_MARK),
                Term::Accept,
            ])
        })
        .into()
}

/// The way out of the flows that [`let_in`] takes over from an earlier policy, whose mark says
/// that they came in: over loopback anybody begins a flow in anybody's name.
pub(super) fn answers_to_inbound() -> Vec<Rule> {
    INBOUND
        .map(|(family, set)| {
            Rule(vec![
                Term::Direction(Direction::Reply),
                Term::MarkOfKind(IN_MARK),
                service(family, End::Destination, End::Source, set),
                Term::SetMark(IN_MARK),
                Term::Accept,
            ])
        })
        .into()
}

/// Everything refused ends here: counted, logged within a rate, and answered at once.
pub(super) fn refuse() -> Vec<Rule> {
    vec![
        Rule(vec![Term::Counter]),
        Rule(vec![
            Term::Limit {
                of: Unit::Packets,
                rate: 5,
                burst: 10,
            },
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
    ]
}

pub(super) fn jump(chain: &'static str) -> Rule {
    Rule(vec![Term::Jump(chain)])
}

/// A jump of what goes the original way of its flow.
pub(super) fn original_to(chain: &'static str) -> Rule {
    Rule(vec![
        Term::Direction(Direction::Original),
        Term::Jump(chain),
    ])
}

/// A chain that rules of others go to.
pub(super) fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}
