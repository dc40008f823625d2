//! Octets → a list, what its names resolve to, and the rest that a policy is made of. From a small
//! world, so that networks, names and addresses meet.

use arbitrary::{Result, Unstructured};
use egress_init::{
    allowlist::{self, Accept, Allowlist, Source, SourceKind},
    policy::{self, Answers, Decision, Element, Nameservers, Policy, ledger::Timed},
    ruleset::{
        self, Ruleset,
        build::{Dns, Proxy, SocketOwner},
    },
};
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// Everything that a ruleset follows from.
pub struct Sample {
    pub text: String,
    pub list: Allowlist,
    pub answers: Answers,
    pub inbound: Vec<Element>,
    pub nameservers: Option<Nameservers>,
    pub decision: Decision,
}

const NAMES: [&str; 5] = [
    "a.zone.example",
    "b.zone.example",
    "zone.example",
    "c.example",
    "d",
];
const MOST_ENTRIES: usize = 24;

impl Sample {
    /// Nothing where the list allows nothing that can be read.
    pub fn take(octets: &[u8]) -> Option<Self> {
        let mut octets = Unstructured::new(octets);
        let mut text = String::new();
        for _ in 0..octets.int_in_range(1..=MOST_ENTRIES).ok()? {
            writeln!(text, "{}", entry(&mut octets).ok()?).ok()?;
        }
        let source = Source {
            label: "list".to_owned(),
            text: text.clone().into_bytes(),
            kind: SourceKind::Lines,
        };
        // What it makes is valid by its making; what is not is the other targets' matter.
        let list = allowlist::parse(&[source], Accept::default())
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut answers = Answers::new();
        for name in list.names() {
            let mut addresses = Vec::new();
            for _ in 0..octets.int_in_range(0..=4).ok()? {
                addresses.push(answer(&mut octets).ok()?);
            }
            if octets.ratio(5, 6).ok()? {
                answers.insert(name, addresses);
            }
        }
        let mut inbound = Vec::new();
        for _ in 0..octets.int_in_range(0..=2).ok()? {
            let value = format!(
                "{}@{}",
                ports(&mut octets).ok()?,
                network(&mut octets).ok()?
            );
            inbound.extend(policy::parse_inbound(&value).unwrap_or_else(|e| panic!("{e}")));
        }
        let nameservers = match octets.int_in_range(0..=4).ok()? {
            0 => None,
            number => Some(Nameservers {
                servers: (1..number)
                    .map(|_| {
                        Ok(SocketAddr::new(
                            answer(&mut octets)?,
                            octets.int_in_range(1..=99)?,
                        ))
                    })
                    .collect::<Result<_>>()
                    .ok()?,
                unknown: octets.arbitrary().ok()?,
            }),
        };
        let decision = policy::decide(&list, &answers, &inbound);
        Some(Self {
            text,
            list,
            answers,
            inbound,
            nameservers,
            decision,
        })
    }
}

impl Sample {
    /// The lock of a start with this list, and its policy in one of the modes of DNS. In mode
    /// proxy what the policy allows is split: one half the list's own, the other brought in.
    pub fn rulesets(&self) -> [Ruleset; 2] {
        let nameservers = self.nameservers.as_ref();
        let owners = [SocketOwner::user(1000), RESOLVER];
        let locked = ruleset::locked(nameservers.map(|servers| (servers, owners.as_slice())));
        let policy = &self.decision.policy;
        let Some(nameservers) = nameservers else {
            return [locked, ruleset::enforced(policy, Dns::Closed)];
        };
        if self.text.len().is_multiple_of(2) {
            return [locked, ruleset::enforced(policy, Dns::Servers(nameservers))];
        }
        let (own, brought) = policy.allow.split_at(policy.allow.len() / 2);
        let timed: Vec<Timed> = (61..)
            .zip(brought)
            .map(|(seconds, &element)| Timed {
                element,
                life: Duration::from_secs(seconds * seconds),
            })
            .collect();
        let (names, past) = timed.split_at(timed.len() / 2);
        let proxy = Proxy {
            nameservers,
            resolver: RESOLVER,
            forwarder: self.text.len().is_multiple_of(3),
            local: &[],
            generation: [7; 32],
            names,
            past,
        };
        let policy = Policy {
            allow: own.to_vec(),
            ..policy.clone()
        };
        [locked, ruleset::enforced(&policy, Dns::Proxy(&proxy))]
    }
}

const RESOLVER: SocketOwner = SocketOwner {
    uid: 0,
    gid: Some(65_000),
};

fn entry(octets: &mut Unstructured) -> Result<String> {
    let refused = octets.ratio(1, 3)?;
    let target = match octets.int_in_range(0..=7)? {
        0..=2 => (*octets.choose(&NAMES)?).to_owned(),
        3 if refused => "*.zone.example".to_owned(),
        _ => {
            let network = network(octets)?;
            if network.contains(':') {
                format!("[{network}]")
            } else {
                network
            }
        }
    };
    let ports = if octets.ratio(1, 3)? {
        String::new()
    } else {
        format!(":{}", ports(octets)?)
    };
    Ok(format!("{}{target}{ports}", if refused { "!" } else { "" }))
}

fn ports(octets: &mut Unstructured) -> Result<String> {
    // Few and close to each other, so that ranges touch and overlap; never 53 alone.
    const EDGES: [u16; 10] = [1, 52, 54, 55, 80, 81, 443, 8000, 65534, 65535];
    let mut parts = Vec::new();
    for _ in 0..octets.int_in_range(1..=3)? {
        parts.push(match octets.int_in_range(0..=4)? {
            0 => "*".to_owned(),
            1 | 2 => {
                let (a, b) = (*octets.choose(&EDGES)?, *octets.choose(&EDGES)?);
                format!("{}-{}", a.min(b), a.max(b))
            }
            _ => octets.choose(&EDGES)?.to_string(),
        });
    }
    let protocol = octets.choose(&["", "/tcp", "/udp", "/any"])?;
    Ok(format!("{}{protocol}", parts.join(",")))
}

fn network(octets: &mut Unstructured) -> Result<String> {
    let whole: IpAddr = address(octets)?;
    let length = match whole {
        IpAddr::V4(_) => *octets.choose(&[8, 15, 16, 23, 24, 30, 31, 32])?,
        IpAddr::V6(_) => *octets.choose(&[7, 32, 48, 63, 64, 126, 127, 128])?,
    };
    let network = ipnet::IpNet::new(whole, length)
        .expect("a length of the family")
        .trunc();
    Ok(if length == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    })
}

/// An address that a list may have: 10.(0|1).(0..3).(0..7) and the like of IPv6.
fn address(octets: &mut Unstructured) -> Result<IpAddr> {
    let [a, b, c] = octets.arbitrary::<[u8; 3]>()?;
    Ok(if octets.arbitrary()? {
        Ipv4Addr::new(10, a & 1, b & 3, c & 7).into()
    } else {
        let (a, b, c) = (u16::from(a & 1), u16::from(b & 3), u16::from(c & 7));
        Ipv6Addr::new(0x2001, 0xdb8, a, b, 0, 0, 0, c).into()
    })
}

/// An address that an answer may have: mostly of the same world, sometimes any at all, sometimes
/// one that carries another.
fn answer(octets: &mut Unstructured) -> Result<IpAddr> {
    Ok(match octets.int_in_range(0..=9)? {
        0 => IpAddr::V4(Ipv4Addr::from(octets.arbitrary::<u32>()?)),
        1 => IpAddr::V6(Ipv6Addr::from(octets.arbitrary::<u128>()?)),
        2 => match address(octets)? {
            IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
            v6 => v6,
        },
        3 => match address(octets)? {
            IpAddr::V4(v4) => {
                IpAddr::V6(Ipv6Addr::from(0x64_ff9b << 96 | u128::from(v4.to_bits())))
            }
            v6 => v6,
        },
        4 => IpAddr::V4(*octets.choose(&[
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(169, 254, 169, 254),
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(168, 63, 129, 16),
        ])?),
        _ => address(octets)?,
    })
}
