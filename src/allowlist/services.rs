//! The ports half of an entry, `22,443/tcp`, and sets of services with their arithmetic.

use super::problem::{Flaw, Piece, Problem};
use crate::service::{PortRange, Protocol, Service};
use std::{borrow::Cow, fmt};

/// A set of services: sorted, no two of them overlapping or adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Services(Cow<'static, [Service]>);

impl Services {
    /// TCP 80 and 443: what an allowed target without ports may be reached at.
    pub const WEB: Self = Self(Cow::Borrowed(&[
        tcp(PortRange::single(80)),
        tcp(PortRange::single(443)),
    ]));

    /// Every port of both protocols: what a refused target without ports loses.
    pub const EVERY: Self = Self(Cow::Borrowed(&[
        tcp(PortRange::ALL),
        Service {
            protocol: Protocol::Udp,
            ports: PortRange::ALL,
        },
    ]));

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The services in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Service> {
        self.0.iter().copied()
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.iter().chain(other.iter()).collect()
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        if other.is_empty() || self.is_empty() {
            return self.clone();
        }
        let mut holes = other.0.as_ref();
        let mut left = Vec::with_capacity(self.0.len());
        for service in self.iter() {
            while holes.first().is_some_and(|hole| is_below(*hole, service)) {
                holes = &holes[1..];
            }
            let mut first = Some(service.ports.first());
            for hole in holes.iter().take_while(|hole| !is_below(service, **hole)) {
                let below = hole.ports.first().checked_sub(1);
                left.extend(between(service.protocol, first, below));
                first = hole.ports.last().checked_add(1);
            }
            left.extend(between(service.protocol, first, Some(service.ports.last())));
        }
        Self(Cow::Owned(left))
    }
}

const fn tcp(ports: PortRange) -> Service {
    Service {
        protocol: Protocol::Tcp,
        ports,
    }
}

/// Whether all of `one` comes before all of `other`.
fn is_below(one: Service, other: Service) -> bool {
    (one.protocol, one.ports.last()) < (other.protocol, other.ports.first())
}

fn between(protocol: Protocol, first: Option<u16>, last: Option<u16>) -> Option<Service> {
    let ports = PortRange::new(first?, last?)?;
    Some(Service { protocol, ports })
}

impl FromIterator<Service> for Services {
    /// The union of any services, in any order.
    fn from_iter<I: IntoIterator<Item = Service>>(services: I) -> Self {
        let mut merged: Vec<Service> = services.into_iter().collect();
        merged.sort_unstable();
        merged.dedup_by(|next, last| {
            let touching = touches(*last, *next);
            if touching {
                let end = last.ports.last().max(next.ports.last());
                last.ports = PortRange::new(last.ports.first(), end).unwrap_or(last.ports);
            }
            touching
        });
        Self(Cow::Owned(merged))
    }
}

/// Whether `next`, which does not start below `last`, overlaps it or follows it without a gap.
fn touches(last: Service, next: Service) -> bool {
    last.protocol == next.protocol
        && last
            .ports
            .last()
            .checked_add(1)
            .is_none_or(|beyond| next.ports.first() <= beyond)
}

/// As a list writes it: `22,443`, `123/udp`, `*/any`. A set that no single entry can name, of
/// different ports by protocol, is written as one group each.
impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports_of = |protocol| -> Vec<String> {
            self.iter()
                .filter(|service| service.protocol == protocol)
                .map(|service| match service.ports {
                    PortRange::ALL => "*".to_owned(),
                    ports => ports.to_string(),
                })
                .collect()
        };
        let [tcp, udp] = Protocol::ALL.map(|protocol| ports_of(protocol).join(","));
        match (tcp.as_str(), udp.as_str()) {
            (tcp, udp) if tcp == udp => write!(f, "{tcp}/any"),
            (tcp, "") => f.write_str(tcp),
            ("", udp) => write!(f, "{udp}/udp"),
            (tcp, udp) => write!(f, "{tcp} {udp}/udp"),
        }
    }
}

/// Ports as an entry names them.
pub(crate) struct Ports {
    pub services: Services,
    /// Where port 53 stands by itself, if it does.
    pub dns_at: Option<usize>,
}

/// Reads `22,443`, `8000-8100/udp` or `*/any`.
pub(crate) fn parse(piece: Piece<'_>) -> Result<Ports, Flaw> {
    let (ports, protocols) = match piece.split_once('/') {
        Some((ports, protocol)) => (ports, parse_protocol(protocol)?),
        None => (piece, [Protocol::Tcp].as_slice()),
    };
    let mut services = Vec::new();
    let mut dns_at = None;
    for part in ports.split(|character| character == ',') {
        let range = parse_range(part)?;
        if range == PortRange::single(53) {
            dns_at = dns_at.or(Some(part.at));
        }
        services.extend(protocols.iter().map(|&protocol| Service {
            protocol,
            ports: range,
        }));
    }
    Ok(Ports {
        services: services.into_iter().collect(),
        dns_at,
    })
}

/// The protocols that a word stands for.
pub(super) fn protocols(word: &str) -> Option<&'static [Protocol]> {
    let named = |name: &str| word.eq_ignore_ascii_case(name);
    if named("tcp") {
        Some(&[Protocol::Tcp])
    } else if named("udp") {
        Some(&[Protocol::Udp])
    } else if named("any") {
        Some(&Protocol::ALL)
    } else {
        None
    }
}

fn parse_protocol(piece: Piece<'_>) -> Result<&'static [Protocol], Flaw> {
    if let Some(found) = protocols(piece.text) {
        return Ok(found);
    }
    Err(match piece.split_once(',') {
        Some((word, _)) if protocols(word.text).is_some() => {
            Problem::AfterProtocol.at(word.at + word.text.len())
        }
        _ => piece.flaw(Problem::Protocol(piece.quoted())),
    })
}

fn parse_range(piece: Piece<'_>) -> Result<PortRange, Flaw> {
    if piece.text == "*" {
        return Ok(PortRange::ALL);
    }
    let Some((first, last)) = piece.split_once('-') else {
        return parse_port(piece).map(PortRange::single);
    };
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    PortRange::new(first, last).ok_or_else(|| piece.flaw(Problem::RangeDown { first, last }))
}

fn parse_port(piece: Piece<'_>) -> Result<u16, Flaw> {
    if piece.text.is_empty() {
        return Err(piece.flaw(Problem::PortMissing));
    }
    // `parse` alone would take a sign.
    let digits = piece.text.bytes().all(|octet| octet.is_ascii_digit());
    match piece.text.parse() {
        Ok(0) if digits => Err(piece.flaw(Problem::PortZero)),
        Ok(port) if digits => Ok(port),
        _ => Err(piece.flaw(Problem::Port(piece.quoted()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> String {
        match parse(Piece::new(text)) {
            Ok(ports) => ports.services.to_string(),
            Err(flaw) => format!("{}: {}", flaw.at, flaw.problem),
        }
    }

    #[test]
    fn zero_with_a_sign_is_no_port_not_port_zero() {
        for (text, message) in [
            ("0", "0: port 0 "),
            ("00", "0: port 0 "),
            ("+0", "0: `+0` is not a port"),
            ("80,+0/udp", "3: `+0` is not a port"),
        ] {
            assert!(read(text).starts_with(message), "{}", read(text));
        }
    }

    #[test]
    fn ports_are_read_merged_and_printed() {
        for (text, printed) in [
            ("443", "443"),
            ("22,443", "22,443"),
            ("443,22,443", "22,443"),
            ("80,81,82/tcp", "80-82"),
            ("8000-8100,8050-8200", "8000-8200"),
            ("123/udp", "123/udp"),
            ("*/any", "*/any"),
            ("*", "*"),
            ("443,*/UDP", "*/udp"),
            ("1-65535", "1-65535"),
            ("0443", "443"),
        ] {
            assert_eq!(read(text), printed, "{text}");
        }
    }

    #[test]
    fn a_bad_port_is_named_where_it_stands() {
        for (text, at, part) in [
            ("", 0, "missing"),
            ("22,", 3, "missing"),
            ("22,,443", 3, "missing"),
            ("80-", 3, "missing"),
            ("-80", 0, "missing"),
            ("0", 0, "port 0"),
            ("0-80", 0, "port 0"),
            ("22,65536", 3, "`65536` is not a port"),
            ("99999999999999999999", 0, "is not a port"),
            ("+80", 0, "`+80` is not a port"),
            ("https", 0, "`https` is not a port"),
            ("22,443-80", 3, "`80-443`"),
            ("1-2-3", 2, "`2-3` is not a port"),
            ("٤٤٣", 0, "is not a port"),
            ("443/", 4, "`` is not a protocol"),
            ("443/sctp", 4, "`/udp`"),
            ("443/tcp/udp", 4, "`tcp/udp` is not a protocol"),
            ("443/tcp,22", 7, "comes last"),
        ] {
            let printed = read(text);
            assert!(
                printed.starts_with(&format!("{at}: ")) && printed.contains(part),
                "{text}: {printed}"
            );
        }
    }

    fn any_service() -> impl Strategy<Value = Service> {
        let edge = prop_oneof![0_u16..12, u16::MAX - 4..=u16::MAX];
        (any::<bool>(), edge.clone(), edge).prop_map(|(udp, one, other)| Service {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            ports: PortRange::new(one.min(other), one.max(other)).unwrap(),
        })
    }

    fn holds(services: &[Service], protocol: Protocol, port: u16) -> bool {
        services
            .iter()
            .any(|service| service.protocol == protocol && service.ports.contains(port))
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_membership(
            one in prop::collection::vec(any_service(), 0..6),
            other in prop::collection::vec(any_service(), 0..6),
        ) {
            let (left, right): (Services, Services) =
                (one.iter().copied().collect(), other.iter().copied().collect());
            let (union, rest) = (left.union(&right), left.without(&right));
            for protocol in Protocol::ALL {
                for port in (0..16).chain(u16::MAX - 8..=u16::MAX) {
                    let (a, b) = (holds(&one, protocol, port), holds(&other, protocol, port));
                    prop_assert_eq!(holds(&union.0, protocol, port), a || b);
                    prop_assert_eq!(holds(&rest.0, protocol, port), a && !b);
                }
            }
            // Normal form: putting it together again changes nothing.
            prop_assert_eq!(rest.iter().collect::<Services>(), rest);
            prop_assert_eq!(union.iter().collect::<Services>(), union);
        }
    }
}
