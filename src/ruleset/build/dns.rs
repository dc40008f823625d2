//! The rules about DNS: who may ask whom, and, in mode `proxy`, who may answer.

use super::{
    super::{
        Chain, Hook, Rule,
        contents::{LOCAL_SERVERS, NAMESERVERS},
        term::{Direction, End, Term},
    },
    DEPART, DIVERT, REFUSE,
    mark::{LISTENER_MARK, RESOLVER_MARK},
    parts::service,
};
use crate::{
    policy::{Nameservers, Timed},
    service::Protocol,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where the resolver of mode `proxy` listens, on [`DNS_PORT`]: where a redirect sends queries.
pub(super) const LISTENERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Where Docker's embedded DNS listens, on a port of its own behind port 53.
pub(super) const EMBEDDED_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

pub(super) const DNS_PORT: u16 = 53;

/// Who opened a socket, by the numbers of the user namespace that owns the network: the kernel
/// keeps them with the socket, whatever its process becomes and whoever holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user.
    pub uid: u32,
    /// The group, or any.
    pub gid: Option<u32>,
}

impl SocketOwner {
    /// A user, whatever the group.
    #[must_use]
    pub const fn user(uid: u32) -> Self {
        Self { uid, gid: None }
    }

    fn terms(self) -> Vec<Term> {
        let mut terms = vec![Term::SocketUid(self.uid)];
        terms.extend(self.gid.map(Term::SocketGid));
        terms
    }
}

/// What a policy does with DNS (section 7 of the contract).
#[derive(Clone, Copy, Debug)]
pub enum Dns<'a> {
    /// Port 53 is closed: mode `pinned`.
    Closed,
    /// It is open to these servers: mode `system`.
    Servers(&'a Nameservers),
    /// Every query goes to a resolver of our own: mode `proxy`.
    Proxy(&'a Proxy<'a>),
}

/// The resolver of mode `proxy` and what its answers opened.
#[derive(Clone, Copy, Debug)]
pub struct Proxy<'a> {
    /// The servers that it asks.
    pub nameservers: &'a Nameservers,
    /// Whom it is told from the command by. No command may have both.
    pub resolver: SocketOwner,
    /// Whether one of the servers is on loopback and may forward from inside this namespace, as
    /// Docker's does with uid 0 and gid 0: these have the resolver's way out too.
    pub forwarder: bool,
    /// The servers on loopback. Only what uid 0 and gid 0 sends is an answer of theirs: another
    /// process may have taken their address or their port.
    pub local: &'a [SocketAddr],
    /// What tells this list from others ([`crate::policy::Ledger::generation`]). The flows of one
    /// generation go on whatever DNS says meanwhile.
    pub generation: [u8; 32],
    /// What names opened ([`crate::policy::Ledger::names`]).
    pub names: &'a [Timed],
    /// What still allowed names opened lately ([`crate::policy::Ledger::past`]): flows to there
    /// that an earlier generation let out go on.
    pub past: &'a [Timed],
}

/// Who forwards for Docker.
pub(super) const FORWARDER: SocketOwner = SocketOwner {
    uid: 0,
    gid: Some(0),
};

impl Proxy<'_> {
    pub(super) fn owners(&self) -> Vec<SocketOwner> {
        let forwarder = self.forwarder || self.nameservers.unknown;
        let mut owners = vec![self.resolver];
        owners.extend(forwarder.then_some(FORWARDER));
        owners.dedup();
        owners
    }
}

/// What comes here goes the original way of its flow ([`super::parts::original_to`]): a reset that refuses a query
/// is of the same flow, the other way. By the port that the flow was first sent to: Docker's nat
/// rules turn 127.0.0.11:53 into another port before this chain sees it. That other port is open to
/// whoever finds it, so nothing goes to the address of Docker's DNS at all.
pub(super) fn close_dns() -> Vec<Rule> {
    let to_port = |protocol| {
        Rule(vec![
            Term::IsProtocol(protocol),
            Term::OriginalDestinationPort(DNS_PORT),
            Term::Goto(REFUSE),
        ])
    };
    let mut rules: Vec<Rule> = Protocol::ALL.map(to_port).into();
    rules.push(Rule(vec![
        Term::DestinationIs(EMBEDDED_DNS),
        Term::Goto(REFUSE),
    ]));
    rules
}

/// To a nameserver on loopback, and to those of the sets.
pub(super) fn way_out(owners: &[SocketOwner], mark: u32) -> Vec<Rule> {
    let of_owner = |&owner: &SocketOwner| {
        let mut terms = owner.terms();
        terms.extend([Term::LeavesByLoopback, Term::Accept]);
        let mut rules = vec![Rule(terms)];
        rules.extend(to_nameservers(Some(owner), mark));
        rules
    };
    owners.iter().flat_map(of_owner).collect()
}

pub(super) fn to_nameservers(owner: Option<SocketOwner>, mark: u32) -> Vec<Rule> {
    NAMESERVERS
        .map(|(family, set)| {
            let mut terms = owner.map(SocketOwner::terms).unwrap_or_default();
            terms.extend([
                service(family, End::Destination, End::Destination, set),
                Term::Direction(Direction::Original),
                Term::SetMark(mark),
                Term::Accept,
            ]);
            Rule(terms)
        })
        .into()
}

pub(super) fn to_unknown_nameservers(
    nameservers: &Nameservers,
    owner: SocketOwner,
    mark: u32,
) -> Vec<Rule> {
    if !nameservers.unknown {
        return Vec::new();
    }
    Protocol::ALL
        .map(|protocol| {
            let mut terms = owner.terms();
            terms.extend([
                Term::DestinationPort(protocol, DNS_PORT),
                Term::Direction(Direction::Original),
                Term::SetMark(mark),
                Term::Accept,
            ]);
            Rule(terms)
        })
        .into()
}

/// What came as far as [`to_listeners`] once, and what the listeners say to it: each further packet
/// is spared the way there, which is half of what a query costs in these rules. What was sent
/// elsewhere and redirected is not seen to leave by loopback, and goes that way each time; an
/// answer is, unless it is for an address that is not here, to which nothing may go (I7).
pub(super) fn known_to_listeners() -> Rule {
    Rule(vec![
        Term::LeavesByLoopback,
        Term::Mark(LISTENER_MARK),
        Term::Accept,
    ])
}

/// By address and port: to these chains a packet that was sent elsewhere still leaves by the
/// interface of its first route.
pub(super) fn to_listeners() -> Vec<Rule> {
    let listeners = LISTENERS.iter().flat_map(|&address| {
        Protocol::ALL.map(|protocol| {
            Rule(vec![
                Term::DestinationIs(address),
                Term::DestinationPort(protocol, DNS_PORT),
                Term::Direction(Direction::Original),
                Term::SetMark(LISTENER_MARK),
                Term::Accept,
            ])
        })
    });
    listeners.collect()
}

/// Marks the resolver's flows to servers on loopback, so that their answers can be told.
pub(super) fn resolver_on_loopback(resolver: SocketOwner) -> Rule {
    let mut terms = resolver.terms();
    terms.extend([
        Term::LeavesByLoopback,
        Term::Direction(Direction::Original),
        Term::SetMark(RESOLVER_MARK),
        Term::Accept,
    ]);
    Rule(terms)
}

/// What reaches the resolver by loopback and is not from those who may answer it there, who came
/// before: an answer from a port that a server left or shares, or from the address of a server far
/// away, which IPv6 lets anybody take (`IPV6_FREEBIND`). And queries to a server on loopback that
/// is not at port 53.
pub(super) fn refuse_forged_answers() -> Vec<Rule> {
    let mut rules = vec![Rule(vec![
        Term::LeavesByLoopback,
        Term::Answered,
        Term::Direction(Direction::Reply),
        Term::Mark(RESOLVER_MARK),
        Term::Goto(REFUSE),
    ])];
    let mut refuse = |end, (family, set)| {
        rules.push(Rule(vec![
            Term::LeavesByLoopback,
            service(family, end, end, set),
            Term::Goto(REFUSE),
        ]));
    };
    for set in NAMESERVERS {
        refuse(End::Source, set);
    }
    for set in LOCAL_SERVERS {
        refuse(End::Source, set);
    }
    for set in LOCAL_SERVERS {
        refuse(End::Destination, set);
    }
    rules
}

/// Every query goes to the resolver, whatever server it was sent to, but for the resolver's own.
pub(super) fn divert(proxy: &Proxy<'_>) -> Chain {
    let exempt = proxy.owners().into_iter().map(|owner| {
        let mut terms = owner.terms();
        terms.push(Term::Accept);
        Rule(terms)
    });
    let diverted = Protocol::ALL.map(|protocol| {
        Rule(vec![
            Term::DestinationPort(protocol, DNS_PORT),
            Term::Redirect(DNS_PORT),
        ])
    });
    Chain {
        name: DIVERT,
        hook: Some(Hook::Divert),
        rules: exempt.chain(diverted).collect(),
    }
}

/// What was redirected to a listener and leaves by another interface: the socket is bound to that,
/// and so is the new route of its packet. Where it leaves is only known here.
pub(super) fn depart() -> Chain {
    let rules = LISTENERS.iter().flat_map(|&address| {
        [
            Rule(vec![
                Term::DestinationIs(address),
                Term::LeavesByLoopback,
                Term::Accept,
            ]),
            Rule(vec![Term::DestinationIs(address), Term::Drop]),
        ]
    });
    Chain {
        name: DEPART,
        hook: Some(Hook::Depart),
        rules: rules.collect(),
    }
}
