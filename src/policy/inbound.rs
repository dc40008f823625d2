//! `--inbound PORT[/PROTO][@CIDR]`: who may connect to what.

use super::{Element, merge::elements_of};
use crate::allowlist::{
    Problem, network,
    problem::{Flaw, Piece},
    services,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A value of `--inbound` that says nothing clear.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value}, column {column}: {problem}")]
pub struct InvalidInbound {
    /// The value, quoted.
    pub value: String,
    /// In characters from 1.
    pub column: usize,
    /// What is wrong, and what is accepted.
    pub problem: Problem,
}

impl InvalidInbound {
    /// What the user should write.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(
            "write PORT[/PROTO][@CIDR]: 8080, 22/tcp@10.0.0.0/8, 5000-5010/udp@2001:db8::/32"
                .into(),
        )
    }
}

/// Reads one value. Ports and protocol are those of a list entry, port 53 among them; without
/// a network everybody may connect.
pub fn parse_inbound(value: &str) -> Result<Vec<Element>, InvalidInbound> {
    let whole = Piece::new(value);
    parse(whole).map_err(|Flaw { at, problem }| InvalidInbound {
        value: whole.quoted(),
        column: value[..at].chars().count() + 1,
        problem,
    })
}

fn parse(value: Piece<'_>) -> Result<Vec<Element>, Flaw> {
    let (ports, sources) = match value.split_once('@') {
        Some((ports, source)) => (ports, vec![network::parse(source)?]),
        None => (value, everybody().into()),
    };
    let services = services::parse(ports)?.services;
    let elements = sources
        .into_iter()
        .flat_map(|source| elements_of(source, &services));
    Ok(elements.collect())
}

fn everybody() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str) -> Vec<String> {
        let elements = parse_inbound(value).unwrap_or_else(|error| panic!("{error}"));
        let print = |element: &Element| {
            let Element { network, service } = element;
            format!("{network} {} {}", service.protocol, service.ports)
        };
        elements.iter().map(print).collect()
    }

    #[test]
    fn values_are_read() {
        assert_eq!(read("8080"), ["0.0.0.0/0 tcp 8080", "::/0 tcp 8080"]);
        assert_eq!(read("22/tcp@10.0.0.0/8"), ["10.0.0.0/8 tcp 22"]);
        assert_eq!(read("53/udp@192.0.2.7"), ["192.0.2.7/32 udp 53"]);
        assert_eq!(
            read("5000-5010,80/any@2001:db8::/32"),
            [
                "2001:db8::/32 tcp 80",
                "2001:db8::/32 tcp 5000-5010",
                "2001:db8::/32 udp 80",
                "2001:db8::/32 udp 5000-5010",
            ]
        );
        assert_eq!(read("80@0.0.0.0/0"), ["0.0.0.0/0 tcp 80"]);
    }

    #[test]
    fn a_bad_value_is_named_with_its_column() {
        for (value, column, part) in [
            ("", 1, "port is missing"),
            ("x", 1, "`x` is not a port"),
            ("0", 1, "port 0"),
            ("80-70", 1, "`70-80`"),
            ("80/icmp", 4, "`icmp` is not a protocol"),
            ("80@", 4, "no address"),
            ("80@example.com", 4, "no address"),
            ("80@10.0.0.1/8", 4, "`10.0.0.0/8` is the network"),
            ("80@10.0.0.0/99", 13, "0 to 32"),
            ("80@[2001:db8::1]", 4, "not an IPv6 address"),
            ("80@10.0.0.0/8@x", 13, "`8@x` is no prefix"),
            (" 80", 1, "not a port"),
        ] {
            let error = parse_inbound(value).unwrap_err();
            assert_eq!(error.column, column, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn text_never_panics(value in "\\PC{0,20}|[0-9@/,:.a-z-]{0,20}") {
            let _ = parse_inbound(&value);
        }
    }
}
