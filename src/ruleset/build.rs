//! What may flow, rule by rule: the lock of the start, and the policy after it.
//!
//! The order of the rules is the policy; each says why it stands where it does. Marks tell the
//! flows that this ruleset let in or out from all others (flows from before the lock, of the
//! lock's own DNS hole, of an earlier policy): see [`marked_by_content`].

use super::{
    Chain, Hook, Rule, Ruleset,
    contents::{
        ALLOWED, DENY4, DENY6, INBOUND, LOCAL_SERVERS, Length, NAMES, NAMESERVERS, PAST,
        ServiceSets, frequent_lengths, local_server_sets, nameserver_sets, policy_sets,
        set_of_length, timed_sets,
    },
    set::Family,
    term::{Direction, End, Reject, Term, Unit},
};
use crate::{
    policy::{Nameservers, Policy, Timed},
    service::Protocol,
};
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

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

/// Where the resolver of mode `proxy` listens, on [`DNS_PORT`]: where a redirect sends queries.
const LISTENERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Where Docker's embedded DNS listens, on a port of its own behind port 53.
const EMBEDDED_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

const REFUSE: &str = "refuse";
const HIDDEN: &str = "hidden";
const DNS: &str = "dns";
const ICMP_OUT: &str = "icmp_out";
const ICMP_IN: &str = "icmp_in";
const REQUESTS: &str = "requests";
const REPLIES: &str = "replies";
const LET_OUT: &str = "let_out";
const GO_ON: &str = "go_on";
const LOOKUPS: &str = "lookups";
const ANSWERS: &str = "answers";
const DIVERT: &str = "divert";
const DEPART: &str = "depart";

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
const FORWARDER: SocketOwner = SocketOwner {
    uid: 0,
    gid: Some(0),
};

impl Proxy<'_> {
    fn owners(&self) -> Vec<SocketOwner> {
        let forwarder = self.forwarder || self.nameservers.unknown;
        let mut owners = vec![self.resolver];
        owners.extend(forwarder.then_some(FORWARDER));
        owners.dedup();
        owners
    }
}

/// The lock: nothing in, nothing out but loopback, IPv6 neighbour discovery and, where `dns` is
/// given, DNS for the listed owners of sockets.
///
/// It says nothing to established flows instead of resetting them, so that those which the
/// coming policy allows survive a second start (I9). What `dns` opens is in chains of its own:
/// nothing but them has to change.
#[must_use]
pub fn locked(dns: Option<(&Nameservers, &[SocketOwner])>) -> Ruleset {
    let mut lookups = Vec::new();
    let mut answers = Vec::new();
    let mut sets = Vec::new();
    if let Some((nameservers, owners)) = dns {
        lookups.extend(way_out(owners, RESOLVER_MARK));
        lookups.extend(to_unknown_nameservers(
            nameservers,
            SocketOwner::user(0),
            RESOLVER_MARK,
        ));
        answers.push(of_flow(Direction::Reply, RESOLVER_MARK));
        sets.extend(nameserver_sets(nameservers));
    }
    let output = vec![
        jump(HIDDEN),
        jump(LOOKUPS),
        original_to(DNS),
        Rule(vec![Term::LeavesByLoopback, Term::Accept]),
        jump(ICMP_OUT),
        Rule(vec![Term::Established, Term::Drop]),
        Rule(vec![Term::Goto(REFUSE)]),
    ];
    let input = vec![
        Rule(vec![Term::CameByLoopback, Term::Accept]),
        jump(ANSWERS),
        jump(ICMP_IN),
    ];
    let mut chains = common_chains();
    chains.extend([chain(LOOKUPS, lookups), chain(ANSWERS, answers)]);
    chains.extend(base_chains(output, input));
    let ruleset = Ruleset { sets, chains }.without_empty_sets();
    ruleset.with_mark(LOCK)
}

/// The policy: what the sets allow, DNS only as `dns` says, nothing else.
///
/// What there is nothing for has no set and no rule: it would cost each start, and each packet that
/// passes it. But in mode `proxy`, where the table is one for all lists: elements come and go, and
/// a keeper knows the table of another one by it.
#[must_use]
pub fn enforced(policy: &Policy, dns: Dns<'_>) -> Ruleset {
    let is_one_for_all_lists = matches!(dns, Dns::Proxy(_));
    let lets_in = is_one_for_all_lists || !policy.inbound.is_empty();
    let frequent = if is_one_for_all_lists {
        Vec::new()
    } else {
        frequent_lengths(policy)
    };
    let mut sets = policy_sets(policy, &frequent);
    let mut chains = common_chains();
    chains.extend([
        chain(LET_OUT, vec![let_out()]),
        chain(GO_ON, vec![go_on()]),
        chain(REQUESTS, requests(dns, &frequent)),
        chain(REPLIES, replies(dns, &frequent)),
    ]);
    chains.extend(base_chains(output(dns, lets_in), input(lets_in)));
    match dns {
        Dns::Closed => {}
        Dns::Servers(nameservers) => sets.extend(nameserver_sets(nameservers)),
        Dns::Proxy(proxy) => {
            sets.extend(nameserver_sets(proxy.nameservers));
            sets.extend(local_server_sets(proxy.local));
            sets.extend(timed_sets(NAMES, proxy.names));
            sets.extend(timed_sets(PAST, proxy.past));
            chains.extend([divert(proxy), depart()]);
        }
    }
    let ruleset = Ruleset { sets, chains };
    match dns {
        Dns::Closed | Dns::Servers(_) => marked_by_content(ruleset.without_empty_sets()),
        Dns::Proxy(proxy) => marked_by_generation(ruleset, proxy.generation),
    }
}

fn output(dns: Dns<'_>, lets_in: bool) -> Vec<Rule> {
    let mut rules = canary();
    rules.push(jump(HIDDEN));
    // Closed before loopback, where a nameserver may listen too (I7).
    match dns {
        Dns::Closed => rules.push(original_to(DNS)),
        Dns::Servers(_) => {}
        Dns::Proxy(proxy) => {
            rules.push(known_to_listeners());
            rules.push(resolver_on_loopback(proxy.resolver));
            rules.extend(way_out(&proxy.owners(), RESOLVER_MARK));
            rules.extend(to_unknown_nameservers(
                proxy.nameservers,
                FORWARDER,
                RESOLVER_MARK,
            ));
            rules.extend(refuse_forged_answers());
            rules.extend(to_listeners());
            rules.push(original_to(DNS));
        }
    }
    rules.push(Rule(vec![Term::LeavesByLoopback, Term::Accept]));
    if let Dns::Servers(nameservers) = dns {
        rules.extend(to_nameservers(None, OUT_MARK));
        rules.extend(to_unknown_nameservers(
            nameservers,
            SocketOwner::user(0),
            OUT_MARK,
        ));
        // Port 53 is the mode's, not the list's: a wide entry does not open it.
        rules.push(original_to(DNS));
    }
    rules.push(original_to(REQUESTS));
    if lets_in {
        rules.push(of_flow(Direction::Reply, IN_MARK));
    }
    rules.extend(answers_to_inbound());
    rules.push(jump(ICMP_OUT));
    rules.push(Rule(vec![Term::Goto(REFUSE)]));
    rules
}

/// The flows that were let out go on; then what starts flows to what is allowed, and takes over
/// those that an earlier policy started. What looks like an answer starts none, and does not come
/// here: the other way of such a flow leads to anywhere.
fn requests(dns: Dns<'_>, frequent: &[Length]) -> Vec<Rule> {
    let let_out = [Term::Mark(OUT_MARK), Term::Accept];
    let mut rules = Vec::new();
    if let Dns::Proxy(_) = dns {
        // What a name opened ends: without an answer a flow does not outlive it.
        rules.push(Rule([&[Term::Established][..], &let_out].concat()));
        // Before what is denied: the elements of names are less what `!network` refuses, and
        // `!name` is not about them.
        rules.extend(services(NAMES, End::Destination, LET_OUT));
        rules.extend(past_requests());
    } else {
        rules.push(Rule(let_out.into()));
    }
    rules.extend(denied(End::Destination, &Term::Goto(REFUSE)));
    rules.extend(services(ALLOWED, End::Destination, LET_OUT));
    rules.extend(networks(frequent, End::Destination, LET_OUT));
    rules
}

fn input(lets_in: bool) -> Vec<Rule> {
    let mut rules = vec![
        Rule(vec![Term::CameByLoopback, Term::Accept]),
        Rule(vec![Term::Direction(Direction::Reply), Term::Jump(REPLIES)]),
    ];
    if lets_in {
        rules.push(of_flow(Direction::Original, IN_MARK));
    }
    rules.extend(let_in());
    rules.push(jump(ICMP_IN));
    rules.push(Rule(vec![Term::Counter]));
    rules
}

/// The answers to what was let out; then the way in of the flows that [`requests`] takes over: it
/// may be only the other side that talks.
fn replies(dns: Dns<'_>, frequent: &[Length]) -> Vec<Rule> {
    let mut rules = vec![Rule(vec![Term::Mark(OUT_MARK), Term::Accept])];
    if let Dns::Proxy(_) = dns {
        rules.push(Rule(vec![Term::Mark(RESOLVER_MARK), Term::Accept]));
        rules.extend(services(NAMES, End::Source, GO_ON));
        rules.extend(past_replies());
    }
    rules.extend(denied(End::Source, &Term::Drop));
    rules.extend(services(ALLOWED, End::Source, GO_ON));
    rules.extend(networks(frequent, End::Source, GO_ON));
    rules
}

/// Puts the mark of a ruleset in its rules: by a hash of everything else in it.
///
/// The same policy gives the same mark, so a second start with an unchanged list does not even
/// touch the flows that are open; any other policy gives another one, and flows that carry the
/// old mark are judged anew. Nobody without `CAP_NET_ADMIN` can set a conntrack mark, and whoever
/// wants two policies of one mark finds them in 2^30 tries, whatever the hash is: so it is a quick
/// one, that may be another one in the next version.
fn marked_by_content(ruleset: Ruleset) -> Ruleset {
    let mut hash = DefaultHasher::new();
    ruleset.hash(&mut hash);
    marked(ruleset, &hash)
}

/// The same where elements come and go: by the list that they come from.
fn marked_by_generation(ruleset: Ruleset, generation: [u8; 32]) -> Ruleset {
    let mut hash = DefaultHasher::new();
    for set in &ruleset.sets {
        (set.name, set.key, set.is_timed()).hash(&mut hash);
    }
    (&ruleset.chains, generation).hash(&mut hash);
    marked(ruleset, &hash)
}

fn marked(ruleset: Ruleset, hash: &DefaultHasher) -> Ruleset {
    #[allow(clippy::cast_possible_truncation)] // a half is as good as the whole
    let mark = hash.finish() as u32;
    // 0 is the mark of a flow that nobody marked, and the next one the lock's.
    ruleset.with_mark(if mark > LOCK | KINDS { mark } else { !mark })
}

/// The mark of the lock's own flows, whatever it lets out: it tells them from a policy's, and lets in
/// nothing but answers.
const LOCK: u32 = KINDS + 1;
/// The bits of a mark that say of which kind a flow is; [`marked`] fills in the others.
pub(super) const KINDS: u32 = 3;
/// Of the flows that the policy let out.
const OUT_MARK: u32 = 0;
/// Of the resolver's flows. It lets their answers in and nothing out, so that whoever takes the
/// port of one that is closed has not its way out (I7).
const RESOLVER_MARK: u32 = 1;
/// Of the flows that the policy let in.
const IN_MARK: u32 = 2;
/// Of the command's flows to the resolver's listeners. It lets them go on over loopback and
/// nowhere else.
const LISTENER_MARK: u32 = 3;

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

/// What comes here goes the original way of its flow ([`original_to`]): a reset that refuses a query
/// is of the same flow, the other way. By the port that the flow was first sent to: Docker's nat
/// rules turn 127.0.0.11:53 into another port before this chain sees it. That other port is open to
/// whoever finds it, so nothing goes to the address of Docker's DNS at all.
fn close_dns() -> Vec<Rule> {
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

/// A flow that was let out goes on the way that it went, and one that was let in is answered, and
/// so do the ICMP errors about either, which conntrack counts to it. Never the other way round:
/// IPv6 lets a command take any source (`IPV6_FREEBIND`), so that it could ask an allowed host in
/// the name of a stranger, and answer the stranger in the host's.
fn of_flow(direction: Direction, mark: u32) -> Rule {
    Rule(vec![
        Term::Direction(direction),
        Term::Mark(mark),
        Term::Accept,
    ])
}

/// Router solicitations, neighbour solicitations and advertisements (RFC 4861 section 4). Two
/// comparisons are cheaper than a set, to make and to ask.
const ND_OUT: &[Term] = &[Term::Icmpv6Type(133, 136), Term::NoIcmpv6Type(134, 134)];
/// Multicast listener reports of both versions, and "done" (RFC 3810 section 5, RFC 2710).
const MLD_OUT: &[Term] = &[Term::Icmpv6Type(131, 143), Term::NoIcmpv6Type(133, 142)];
/// Router advertisements, neighbour solicitations and advertisements.
const ND_IN: &[Term] = &[Term::Icmpv6Type(134, 136)];
/// Multicast listener queries.
const MLD_IN: &[Term] = &[Term::Icmpv6Type(130, 130)];

/// Hop limits 255 (RFC 4861 section 7) and 1 (RFC 3810 section 5) keep them on the link. What they
/// can tell a neighbour is kept small: of discovery, an address a packet, by a rate of packets; of
/// multicast listener reports, which list as many addresses as whoever asks for them likes, by a
/// rate of octets.
fn neighbour_discovery(nd: &[Term], mld: &[Term]) -> Vec<Rule> {
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

/// To a nameserver on loopback, and to those of the sets.
fn way_out(owners: &[SocketOwner], mark: u32) -> Vec<Rule> {
    let of_owner = |&owner: &SocketOwner| {
        let mut terms = owner.terms();
        terms.extend([Term::LeavesByLoopback, Term::Accept]);
        let mut rules = vec![Rule(terms)];
        rules.extend(to_nameservers(Some(owner), mark));
        rules
    };
    owners.iter().flat_map(of_owner).collect()
}

fn to_nameservers(owner: Option<SocketOwner>, mark: u32) -> Vec<Rule> {
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

fn to_unknown_nameservers(nameservers: &Nameservers, owner: SocketOwner, mark: u32) -> Vec<Rule> {
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
fn known_to_listeners() -> Rule {
    Rule(vec![
        Term::LeavesByLoopback,
        Term::Mark(LISTENER_MARK),
        Term::Accept,
    ])
}

/// By address and port: to these chains a packet that was sent elsewhere still leaves by the
/// interface of its first route.
fn to_listeners() -> Vec<Rule> {
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
fn resolver_on_loopback(resolver: SocketOwner) -> Rule {
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
fn refuse_forged_answers() -> Vec<Rule> {
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
fn divert(proxy: &Proxy<'_>) -> Chain {
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
fn depart() -> Chain {
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

/// A match on a service whose address and port are those of the named ends.
fn service(family: Family, address: End, port: End, set: &'static str) -> Term {
    Term::ServiceIn {
        family,
        address,
        length: None,
        port,
        set,
    }
}

/// What is denied, whatever else allows it, ends with a verdict.
fn denied(end: End, verdict: &Term) -> Vec<Rule> {
    [(Family::V4, DENY4), (Family::V6, DENY6)]
        .map(|(family, set)| Rule(vec![service(family, end, end, set), verdict.clone()]))
        .into()
}

/// What is in the sets goes to a chain.
fn services(sets: ServiceSets, end: End, chain: &'static str) -> Vec<Rule> {
    sets.map(|(family, set)| Rule(vec![service(family, end, end, set), Term::Goto(chain)]))
        .into()
}

/// What is in a network of one of these lengths goes to a chain.
fn networks(lengths: &[Length], end: End, chain: &'static str) -> impl Iterator<Item = Rule> {
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
fn let_out() -> Rule {
    Rule(vec![Term::Counter, Term::SetMark(OUT_MARK), Term::Accept])
}

/// Takes over a flow.
fn go_on() -> Rule {
    Rule(vec![Term::SetMark(OUT_MARK), Term::Accept])
}

/// Takes over flows to where a still allowed name was lately, and starts none: answers were seen
/// and they have a mark, so that an earlier generation let them out.
fn past_requests() -> Vec<Rule> {
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
fn past_replies() -> Vec<Rule> {
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
fn let_in() -> Vec<Rule> {
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
fn answers_to_inbound() -> Vec<Rule> {
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
fn refuse() -> Vec<Rule> {
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

fn jump(chain: &'static str) -> Rule {
    Rule(vec![Term::Jump(chain)])
}

/// A jump of what goes the original way of its flow.
fn original_to(chain: &'static str) -> Rule {
    Rule(vec![
        Term::Direction(Direction::Original),
        Term::Jump(chain),
    ])
}

/// What the lock and every policy have in common. The policy is put in the place of the lock by a
/// transaction that costs what is in it, and these stay as they are.
fn common_chains() -> Vec<Chain> {
    vec![
        chain(REFUSE, refuse()),
        chain(HIDDEN, refuse_hidden_destinations()),
        chain(DNS, close_dns()),
        chain(ICMP_OUT, neighbour_discovery(ND_OUT, MLD_OUT)),
        chain(ICMP_IN, neighbour_discovery(ND_IN, MLD_IN)),
    ]
}

fn base_chains(output: Vec<Rule>, input: Vec<Rule>) -> [Chain; 3] {
    let base = |name, hook, rules| Chain {
        name,
        hook: Some(hook),
        rules,
    };
    [
        base("output", Hook::Output, output),
        base("input", Hook::Input, input),
        base("forward", Hook::Forward, Vec::new()),
    ]
}

/// A chain that rules of others go to.
fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}
