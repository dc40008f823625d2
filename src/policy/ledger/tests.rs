#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::{
    allowlist::{Accept, Source, SourceKind, parse},
    service::Protocol,
};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn list(text: &str) -> Allowlist {
    let source = Source {
        label: "list".into(),
        text: text.into(),
        kind: SourceKind::Words,
    };
    parse(&[source], Accept { wildcards: true }).unwrap()
}

fn ledger(text: &str) -> Ledger {
    Ledger::new(&list(text), &[], &[])
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn printed(timed: &[Timed]) -> Vec<String> {
    let print = |timed: &Timed| format!("{} {}", timed.element, timed.life.as_secs());
    timed.iter().map(print).collect()
}

/// What the kernel holds: elements and when it forgets them.
#[derive(Default)]
struct Kernel {
    names: Vec<(Element, Instant)>,
    deny: Vec<Element>,
}

/// How late the kernel may be.
const LATE: Duration = Duration::from_secs(2);

impl Kernel {
    /// As one transaction: what goes first, then what comes.
    fn commit(&mut self, changes: &[Change], now: Instant) {
        self.names.retain(|(_, until)| *until + LATE > now);
        for change in changes {
            match change {
                Change::Withdraw(element) => self.names.retain(|(held, _)| held != element),
                Change::Undeny(element) => {
                    assert!(self.deny.contains(element), "{element} is not there");
                    self.deny.retain(|held| held != element);
                }
                Change::Admit(..) | Change::Deny(_) => {}
            }
        }
        for change in changes {
            match change {
                Change::Admit(element, life) => {
                    let overlapping = self.names.iter().find(|(held, _)| overlap(held, element));
                    assert_eq!(overlapping, None, "{element}");
                    self.names.push((*element, now + *life));
                }
                Change::Deny(element) => {
                    assert!(!self.deny.iter().any(|held| overlap(held, element)));
                    self.deny.push(*element);
                }
                Change::Withdraw(_) | Change::Undeny(_) => {}
            }
        }
    }

    fn may_go(&self, address: IpAddr, protocol: Protocol, port: u16, now: Instant) -> bool {
        let live = self.names.iter().filter(|(_, until)| *until > now);
        live.map(|(element, _)| element)
            .any(|element| holds(element, address, protocol, port))
    }
}

fn overlap(one: &Element, other: &Element) -> bool {
    one.network == other.network
        && one.service.protocol == other.service.protocol
        && one.service.ports.first() <= other.service.ports.last()
        && other.service.ports.first() <= one.service.ports.last()
}

fn holds(element: &Element, address: IpAddr, protocol: Protocol, port: u16) -> bool {
    element.network.contains(&address)
        && element.service.protocol == protocol
        && element.service.ports.contains(port)
}

#[test]
fn an_answer_opens_its_addresses_for_its_time() {
    let now = Instant::now();
    let mut ledger = ledger("a.com *.z.com:443 10.0.0.0/8");
    let outcome = ledger.answer(
        &name("a.com"),
        &addresses(&["192.0.2.1", "10.0.0.1", "127.0.0.1", "192.0.2.1"]),
        now + lifetime(300 * SECOND),
        now,
    );
    assert_eq!(outcome.admitted, addresses(&["192.0.2.1", "10.0.0.1"]));
    let loopback = Refusal::Inadmissible(Inadmissible::Loopback);
    assert_eq!(outcome.refused, [("127.0.0.1".parse().unwrap(), loopback)]);
    assert_eq!(
        printed(&ledger.names(now)),
        [
            "10.0.0.1 . tcp . 80 360",
            "10.0.0.1 . tcp . 443 360",
            "192.0.2.1 . tcp . 80 360",
            "192.0.2.1 . tcp . 443 360",
        ]
    );
    assert_eq!(outcome.changes.len(), 4);
    // A private address is the operator's to name.
    let outcome = ledger.answer(
        &name("x.z.com"),
        &addresses(&["10.0.0.1", "2001:db8::1"]),
        now + lifetime(SECOND),
        now,
    );
    assert_eq!(outcome.admitted, addresses(&["2001:db8::1"]));
    assert_eq!(
        ledger.names(now).last().map(|timed| timed.life),
        Some(120 * SECOND)
    );
    assert_eq!(
        ledger.counts(now),
        Counts {
            names: 2,
            ipv4: 3,
            ipv6: 1
        }
    );
    let outcome = ledger.answer(&name("z.com"), &addresses(&["192.0.2.9"]), now + FLOOR, now);
    assert_eq!(
        outcome.refused,
        [("192.0.2.9".parse().unwrap(), Refusal::Name)]
    );
    assert!(outcome.admitted.is_empty() && outcome.changes.is_empty());
    let later = now + 361 * SECOND;
    assert_eq!(ledger.names(later), []);
    assert_eq!(ledger.past(later).len(), 5);
    assert_eq!(ledger.past(now + HISTORY + 361 * SECOND), []);
}

#[test]
fn lifetimes_have_a_floor_and_a_ceiling() {
    assert_eq!(lifetime(Duration::ZERO), FLOOR + GRACE);
    assert_eq!(lifetime(300 * SECOND), 300 * SECOND + GRACE);
    assert_eq!(lifetime(Duration::MAX), CEILING + GRACE);
}

#[test]
fn a_later_answer_extends_what_it_repeats_and_takes_nothing() {
    let now = Instant::now();
    let mut ledger = ledger("a.com:443");
    let a = name("a.com");
    ledger.answer(
        &a,
        &addresses(&["192.0.2.1", "192.0.2.2"]),
        now + 120 * SECOND,
        now,
    );
    // Not worth a transaction, nor is an answer that ends sooner.
    for until in [120, 150, 60] {
        let outcome = ledger.answer(&a, &addresses(&["192.0.2.1"]), now + until * SECOND, now);
        assert_eq!(outcome.admitted, addresses(&["192.0.2.1"]));
        assert_eq!(outcome.changes, []);
    }
    let later = now + 60 * SECOND;
    let outcome = ledger.answer(&a, &addresses(&["192.0.2.2"]), later + 120 * SECOND, later);
    assert!(matches!(
        outcome.changes[..],
        [Change::Withdraw(one), Change::Admit(other, life)] if one == other && life == 120 * SECOND
    ));
    assert_eq!(
        printed(&ledger.names(later)),
        ["192.0.2.1 . tcp . 443 60", "192.0.2.2 . tcp . 443 120"]
    );
    // Over, and back: what may linger in the kernel is withdrawn first.
    let over = now + 121 * SECOND;
    let outcome = ledger.answer(&a, &addresses(&["192.0.2.1"]), over + 120 * SECOND, over);
    assert_eq!(outcome.changes.len(), 2);
    let long_over = now + 1000 * SECOND;
    let outcome = ledger.answer(
        &a,
        &addresses(&["192.0.2.1"]),
        long_over + 120 * SECOND,
        long_over,
    );
    assert_eq!(outcome.changes.len(), 1);
}

#[test]
fn names_share_an_address_each_for_its_time() {
    let now = Instant::now();
    let mut ledger = ledger("a.com:1-100 b.com:50,443");
    let here = addresses(&["192.0.2.1"]);
    ledger.answer(&name("a.com"), &here, now + 100 * SECOND, now);
    ledger.answer(&name("b.com"), &here, now + 200 * SECOND, now);
    assert_eq!(
        printed(&ledger.names(now)),
        [
            "192.0.2.1 . tcp . 1-49 100",
            "192.0.2.1 . tcp . 50 200",
            "192.0.2.1 . tcp . 51-100 100",
            "192.0.2.1 . tcp . 443 200",
        ]
    );
    let at = here[0];
    assert_eq!(ledger.name_of(at, now), Some(&name("b.com")));
    assert_eq!(ledger.name_of(at, now + 201 * SECOND), None);
    let leases: Vec<_> = ledger.leases(now + 150 * SECOND).collect();
    assert_eq!(leases, [(&name("b.com"), vec![(at, 50 * SECOND)])]);
}

#[test]
fn refused_literals_win_and_refused_names_have_no_say_in_names() {
    let now = Instant::now();
    let mut ledger = ledger(
        "a.com:443 b.com:80,443 192.0.2.0/24:443 !192.0.2.66 !198.51.100.0/24:80 !bad.com !worse.com:443",
    );
    let until = now + 100 * SECOND;
    let outcome = ledger.answer(
        &name("a.com"),
        &addresses(&["192.0.2.66", "192.0.2.7"]),
        until,
        now,
    );
    assert_eq!(
        outcome.refused,
        [("192.0.2.66".parse().unwrap(), Refusal::Denied)]
    );
    ledger.answer(&name("b.com"), &addresses(&["198.51.100.1"]), until, now);
    assert_eq!(
        printed(&ledger.names(now)),
        ["192.0.2.7 . tcp . 443 100", "198.51.100.1 . tcp . 443 100"]
    );
    let mut kernel = Kernel {
        deny: ledger.policy().deny,
        ..Kernel::default()
    };
    for (refused, at) in [
        (
            "bad.com",
            &["192.0.2.66", "192.0.2.8", "::ffff:192.0.2.9"][..],
        ),
        ("worse.com", &["192.0.2.8", "192.0.2.10"]),
        ("bad.com", &["192.0.2.11"]),
        ("a.com", &["192.0.2.12"]),
    ] {
        kernel.commit(&ledger.refuse(&name(refused), &addresses(at)), now);
    }
    kernel.deny.sort_unstable();
    assert_eq!(kernel.deny, ledger.policy().deny);
    let deny: Vec<String> = kernel.deny.iter().map(ToString::to_string).collect();
    for element in [
        "192.0.2.8 . tcp . 0-65535",
        "192.0.2.9 . udp . 0-65535",
        "192.0.2.10 . tcp . 443",
        "192.0.2.11 . tcp . 0-65535",
        "192.0.2.66 . tcp . 0-65535",
        "198.51.100.0/24 . tcp . 80",
    ] {
        assert!(
            deny.iter().any(|found| found == element),
            "{element}: {deny:?}"
        );
    }
    assert!(!deny.iter().any(|found| found.starts_with("192.0.2.12")));
    // The list is the same, whatever DNS said.
    let again = super::Ledger::new(
        &list(
            "a.com:443 b.com:80,443 192.0.2.0/24:443 !192.0.2.66 !198.51.100.0/24:80 !bad.com !worse.com:443",
        ),
        &[],
        &[],
    );
    assert_eq!(ledger.generation(), again.generation());
}

#[test]
fn generations_are_lists() {
    let all: Vec<[u8; 32]> = [
        "a.com",
        "a.com:443",
        "*.a.com",
        "!a.com",
        "a.com !b.com",
        "a.com !*.b.com",
        "a.com 192.0.2.1",
        "a.com !192.0.2.1",
    ]
    .map(|text| ledger(text).generation())
    .into();
    let different: BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    // The order is not the policy.
    assert_eq!(
        ledger("b.com a.com:80 a.com:443 192.0.2.1").generation(),
        ledger("192.0.2.1 a.com b.com").generation()
    );
}

#[test]
fn a_name_has_room_for_so_many_addresses() {
    let now = Instant::now();
    let mut ledger = ledger("a.com:443");
    let address = |index: usize| IpAddr::from([198, 51, 100, u8::try_from(index).unwrap()]);
    let mut kernel = Kernel::default();
    for index in 0..PER_NAME {
        let until = now + SECOND * u32::try_from(100 + index).unwrap();
        let outcome = ledger.answer(&name("a.com"), &[address(index)], until, now);
        kernel.commit(&outcome.changes, now);
    }
    // The two that end soonest go.
    let new = [address(PER_NAME), address(PER_NAME + 1), address(1)];
    let outcome = ledger.answer(&name("a.com"), &new, now + 500 * SECOND, now);
    kernel.commit(&outcome.changes, now);
    assert_eq!(outcome.admitted, new);
    assert_eq!(ledger.names(now).len(), PER_NAME);
    assert_eq!(kernel.names.len(), PER_NAME);
    for gone in [0, 2] {
        assert!(!kernel.may_go(address(gone), Protocol::Tcp, 443, now));
    }
    // One answer with too many.
    let many: Vec<IpAddr> = (0..PER_NAME + 3).map(address).collect();
    let outcome = ledger.answer(&name("a.com"), &many, now + 900 * SECOND, now);
    kernel.commit(&outcome.changes, now);
    assert_eq!(outcome.admitted.len(), PER_NAME);
    assert_eq!(outcome.refused.len(), 3);
    assert!(outcome.refused.iter().all(|(_, why)| *why == Refusal::Full));
    assert_eq!(kernel.names.len(), PER_NAME);
}

#[test]
fn a_hostile_zone_fills_its_own_room_only() {
    let mut now = Instant::now();
    let mut ledger = ledger("*.evil.com:443 a.com:443");
    let mut kernel = Kernel::default();
    let hostile = |ledger: &mut Ledger, kernel: &mut Kernel, index: usize, now: Instant| {
        let name = name(&format!("n{index}.evil.com"));
        let at = 0x0100_0000 + u32::try_from(index).unwrap();
        let address = IpAddr::from(at.to_be_bytes());
        let outcome = ledger.answer(&name, &[address], now + lifetime(SECOND), now);
        kernel
            .names
            .extend(outcome.changes.iter().filter_map(|change| match change {
                Change::Admit(element, life) => Some((*element, now + *life)),
                _ => None,
            }));
        outcome
    };
    for index in 0..BELOW_WILDCARDS {
        assert_eq!(
            hostile(&mut ledger, &mut kernel, index, now).admitted.len(),
            1
        );
    }
    let outcome = hostile(&mut ledger, &mut kernel, BELOW_WILDCARDS, now);
    assert_eq!(outcome.refused[0].1, Refusal::Full);
    assert_eq!(outcome.changes, []);
    // What it has already, it keeps; and the list's own names do not care.
    assert_eq!(hostile(&mut ledger, &mut kernel, 7, now).admitted.len(), 1);
    let own = ledger.answer(&name("a.com"), &addresses(&["192.0.2.1"]), now + FLOOR, now);
    assert_eq!(own.admitted.len(), 1);
    // When it is over, it is forgotten for the next.
    now += 200 * SECOND;
    let outcome = hostile(&mut ledger, &mut kernel, BELOW_WILDCARDS + 1, now);
    assert_eq!(outcome.admitted.len(), 1);
    assert!(ledger.past(now).len() <= BELOW_WILDCARDS / 2 + 2);
    assert_eq!(ledger.loans.len(), ledger.lenders.len());
    ledger.expire(now + HISTORY + CEILING);
    assert!(ledger.loans.is_empty() && ledger.lenders.is_empty() && ledger.below_wildcards == 0);
    // Many names at one address.
    let at = addresses(&["192.0.2.66"]);
    for index in 0..1000 {
        let name = name(&format!("n{index}.evil.com"));
        ledger.answer(&name, &at, now + FLOOR, now);
    }
    assert_eq!(ledger.lenders[&at[0]].len(), PER_ADDRESS);
    assert_eq!(ledger.below_wildcards, PER_ADDRESS);
    assert_eq!(ledger.names(now).len(), 1);
}

#[test]
fn another_list_keeps_what_it_allows() {
    let now = Instant::now();
    let mut ledger = ledger("a.com:443 b.com:443 *.z.com:443 !bad.com !fine.com 10.0.0.0/8");
    let until = now + 100 * SECOND;
    ledger.answer(&name("a.com"), &addresses(&["192.0.2.1"]), until, now);
    ledger.answer(
        &name("b.com"),
        &addresses(&["192.0.2.2", "192.0.2.3"]),
        until,
        now,
    );
    ledger.answer(&name("x.z.com"), &addresses(&["192.0.2.4"]), until, now);
    ledger.answer(&name("y.z.com"), &addresses(&["192.0.2.5"]), until, now);
    ledger.refuse(&name("bad.com"), &addresses(&["10.0.0.1"]));
    ledger.refuse(&name("fine.com"), &addresses(&["10.0.0.2"]));
    let before = ledger.generation();
    let later = now + 50 * SECOND;
    let ledger = ledger.reload(
        &list("b.com:22 !192.0.2.3 x.z.com:443 !bad.com 10.0.0.0/8"),
        &[],
        &[],
        later,
    );
    assert_ne!(ledger.generation(), before);
    assert_eq!(
        printed(&ledger.names(later)),
        ["192.0.2.2 . tcp . 22 50", "192.0.2.4 . tcp . 443 50"]
    );
    let history = 50 + HISTORY.as_secs();
    assert_eq!(
        printed(&ledger.past(later)),
        [
            format!("192.0.2.2 . tcp . 22 {history}"),
            format!("192.0.2.4 . tcp . 443 {history}")
        ]
    );
    let deny = ledger.policy().deny;
    assert!(
        deny.iter()
            .all(|element| element.network.addr() != addresses(&["10.0.0.2"])[0])
    );
    assert!(
        deny.iter()
            .any(|element| element.network.addr() == addresses(&["10.0.0.1"])[0])
    );
    assert_eq!(ledger.below_wildcards, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Answer { name: usize, at: Vec<u8>, ttl: u64 },
    Wait(u64),
    Expire,
}

const NAMES: [&str; 5] = ["a.com", "b.com", "x.z.com", "y.z.com", "no.org"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..NAMES.len(), prop::collection::vec(0..6_u8, 0..4), 0..300_u64)
            .prop_map(|(name, at, ttl)| Step::Answer { name, at, ttl }),
        2 => (0..150_u64).prop_map(Step::Wait),
        1 => Just(Step::Expire),
    ]
}

fn small_list() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        Just("a.com"),
        Just("b.com"),
        Just("x.z.com"),
        Just("*.z.com"),
        Just("!192.0.2.1"),
        Just("!192.0.2.2/31"),
        Just("!b.com"),
        Just("!*.z.com"),
    ];
    let ports = prop_oneof![
        Just(":1"),
        Just(":1-3"),
        Just(":2-4"),
        Just(":2/any"),
        Just(":*/any"),
        Just(":*/udp"),
    ];
    prop::collection::vec(
        (target, ports).prop_map(|(target, ports)| format!("{target}{ports}")),
        1..8,
    )
    .prop_map(|entries| entries.join("\n"))
}

/// Who has which address until when: the rules of `answer`, slowly.
type Model = BTreeMap<(usize, u8), Instant>;

fn expected(
    list: &Allowlist,
    model: &Model,
    low: u8,
    protocol: Protocol,
    port: u16,
    now: Instant,
) -> bool {
    let address = IpAddr::from([192, 0, 2, low]);
    let matches = |name: Option<&Name>, deny: bool| {
        list.entries().iter().any(|entry| {
            let services = entry
                .services
                .iter()
                .any(|service| service.protocol == protocol && service.ports.contains(port));
            entry.deny == deny
                && services
                && match (&entry.target, name) {
                    (crate::allowlist::Target::Name(target), Some(name)) => target == name,
                    (crate::allowlist::Target::Wildcard(zone), Some(name)) => {
                        name.zones().any(|found| found == zone.as_str())
                    }
                    (crate::allowlist::Target::Network(network), None) => {
                        network.contains(&address)
                    }
                    _ => false,
                }
        })
    };
    let lent = model
        .iter()
        .filter(|((_, at), until)| *at == low && **until > now);
    let open = lent
        .map(|((index, _), _)| name(NAMES[*index]))
        .any(|name| matches(Some(&name), false) && !matches(Some(&name), true));
    open && !matches(None, true)
}

proptest! {
    #[test]
    fn agrees_with_who_has_what(text in small_list(), other in small_list(), steps in prop::collection::vec(step(), 1..30)) {
        let first = list(&text);
        let mut ledger = Ledger::new(&first, &[], &[]);
        let (mut kernel, mut model) = (Kernel::default(), Model::new());
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Expire => ledger.expire(now),
                Step::Answer { name: index, at, ttl } => {
                    let until = now + lifetime(Duration::from_secs(ttl));
                    for &low in &at {
                        let known = model.entry((index, low)).or_insert(until);
                        if *known <= now || until > *known + GRACE / 2 {
                            *known = until;
                        }
                    }
                    let at: Vec<IpAddr> = at.iter().map(|low| IpAddr::from([192, 0, 2, *low])).collect();
                    let outcome = ledger.answer(&name(NAMES[index]), &at, until, now);
                    kernel.commit(&outcome.changes, now);
                    // What is handed out can be reached.
                    for address in &outcome.admitted {
                        let held = kernel.names.iter().any(|(held, until)| held.network.contains(address) && *until > now);
                        prop_assert!(held);
                    }
                }
            }
            let names = ledger.names(now);
            for low in 0..6 {
                let address = IpAddr::from([192, 0, 2, low]);
                let mut any = false;
                for protocol in Protocol::ALL {
                    for port in 0..6 {
                        let open = expected(&first, &model, low, protocol, port, now);
                        any |= open;
                        prop_assert_eq!(kernel.may_go(address, protocol, port, now), open, "{} {} {}", address, protocol, port);
                        let holding = names.iter().filter(|timed| holds(&timed.element, address, protocol, port));
                        prop_assert_eq!(holding.count(), usize::from(open));
                    }
                }
                prop_assert!(!any || ledger.name_of(address, now).is_some());
            }
        }
        // Another list: what it allows of what is lent, no more and no less.
        let second = list(&other);
        let allowed = |(index, low): (usize, u8)| {
            let address = IpAddr::from([192, 0, 2, low]);
            Ledger::new(&first, &[], &[]).admit(&name(NAMES[index]), address).is_ok()
        };
        model.retain(|key, _| allowed(*key));
        let ledger = ledger.reload(&second, &[], &[], now);
        let names = ledger.names(now);
        for low in 0..6 {
            let address = IpAddr::from([192, 0, 2, low]);
            for protocol in Protocol::ALL {
                for port in 0..6 {
                    let open = expected(&second, &model, low, protocol, port, now);
                    let holding = names.iter().filter(|timed| holds(&timed.element, address, protocol, port));
                    prop_assert_eq!(holding.count(), usize::from(open));
                }
            }
        }
    }
}
