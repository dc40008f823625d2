//! What may flow, rule by rule: the lock of the start, and the policy after it.
//!
//! The order of the rules is the policy; each says why it stands where it does. Marks tell the
//! flows that this ruleset let in or out from all others (flows from before the lock, of the
//! lock's own DNS hole, of an earlier policy): see [`mark`].

mod dns;
mod mark;
mod parts;

pub use dns::{Dns, Proxy, SocketOwner};
pub(super) use mark::KINDS;
pub use parts::{CANARY_PORT, CANARY_V4, CANARY_V6, LOG_GROUP};

use super::{
    Chain, Hook, Rule, Ruleset,
    contents::{
        ALLOWED, Length, NAMES, PAST, frequent_lengths, local_server_sets, nameserver_sets,
        policy_sets, timed_sets,
    },
    term::{Direction, End, Term},
};
use crate::policy::{Nameservers, Policy};
use dns::{
    FORWARDER, close_dns, depart, divert, known_to_listeners, refuse_forged_answers,
    resolver_on_loopback, to_listeners, to_nameservers, to_unknown_nameservers, way_out,
};
use mark::{IN_MARK, LOCK, OUT_MARK, RESOLVER_MARK, marked_by_content, marked_by_generation};
use parts::{
    MLD_IN, MLD_OUT, ND_IN, ND_OUT, answers_to_inbound, canary, chain, denied, go_on, jump, let_in,
    let_out, neighbour_discovery, networks, of_flow, original_to, past_replies, past_requests,
    refuse, refuse_hidden_destinations, services,
};

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
    let mut sets = policy_sets(policy, &frequent, !is_one_for_all_lists);
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
