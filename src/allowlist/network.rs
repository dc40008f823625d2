//! Addresses and networks as an entry writes them, strictly: what could be meant in two ways is
//! refused.

use super::problem::{Flaw, Piece, Problem};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address or a network of either family, where nothing else can stand.
pub(crate) fn parse(piece: Piece<'_>) -> Result<IpNet, Flaw> {
    if piece.text.contains(':') {
        return parse_ipv6(piece);
    }
    let (address, prefix) = split_prefix(piece);
    match address.text.parse::<Ipv4Addr>() {
        Ok(found) => network(address, found.into(), prefix),
        Err(_) => Err(piece.flaw(Problem::NotNetwork(piece.quoted()))),
    }
}

/// Reads an IPv6 address or network, without brackets.
pub(super) fn parse_ipv6(piece: Piece<'_>) -> Result<IpNet, Flaw> {
    let (address, prefix) = split_prefix(piece);
    if let Some(zone) = piece.text.find('%') {
        return Err(Problem::Zone.at(piece.at + zone));
    }
    let found: Ipv6Addr = address
        .text
        .parse()
        .map_err(|_| piece.flaw(Problem::NotIpv6(piece.quoted())))?;
    let network = network(address, found.into(), prefix)?;
    match found.to_ipv4_mapped() {
        Some(mapped) if network.prefix_len() == 128 => Err(piece.flaw(Problem::Mapped(mapped))),
        Some(_) if network.prefix_len() >= 96 => Err(piece.flaw(Problem::MappedNetwork)),
        _ => Ok(network),
    }
}

/// The address and what follows `/`, if it does.
pub(super) fn split_prefix(piece: Piece<'_>) -> (Piece<'_>, Option<Piece<'_>>) {
    match piece.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (piece, None),
    }
}

/// Joins an address and the prefix length behind it.
pub(super) fn network(
    piece: Piece<'_>,
    address: IpAddr,
    prefix: Option<Piece<'_>>,
) -> Result<IpNet, Flaw> {
    let max = if address.is_ipv4() { 32 } else { 128 };
    let length = match prefix {
        Some(prefix) => parse_length(prefix, max)?,
        None => max,
    };
    let network = match address {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, length).into(),
        IpAddr::V6(address) => IpNet::from(Ipv6Net::new_assert(address, length)),
    }
    .trunc();
    if network.addr() == address {
        Ok(network)
    } else {
        Err(piece.flaw(Problem::HostBits { address, network }))
    }
}

/// A prefix length of at most `max`, in the one way that it can be written.
fn parse_length(piece: Piece<'_>, max: u8) -> Result<u8, Flaw> {
    match piece.text.parse::<u8>() {
        Ok(length) if length <= max && length.to_string() == piece.text => Ok(length),
        _ => Err(piece.flaw(Problem::Prefix {
            found: piece.quoted(),
            max,
        })),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_flaw_of_a_network_is_named_where_it_stands() {
        for (text, at, part) in [
            ("10.20.0.1/16", 0, "`10.20.0.0/16` is the network"),
            ("2001:db8::1/32", 0, "`2001:db8::/32` is the network"),
            ("10.0.0.0/33", 9, "0 to 32"),
            ("10.0.0.0/", 9, "0 to 32"),
            ("10.0.0.0/08", 9, "0 to 32"),
            ("10.0.0.0/+8", 9, "0 to 32"),
            ("10.0.0.0/255.0.0.0", 9, "`255.0.0.0` is no prefix length"),
            ("2001:db8::/129", 11, "0 to 128"),
            ("fe80::1%eth0", 7, "zone"),
            ("fe80::%1/64", 6, "zone"),
            ("::ffff:192.0.2.7", 0, "write `192.0.2.7`"),
            ("::ffff:c000:207", 0, "write `192.0.2.7`"),
            ("::ffff:0:0/96", 0, "the IPv4 network"),
            ("2001:db8:::1", 0, "not an IPv6 address"),
            ("nonsense", 0, "no address and no network"),
            ("010.0.0.0/8", 0, "no address and no network"),
        ] {
            let flaw = parse(Piece::new(text)).unwrap_err();
            let printed = flaw.problem.to_string();
            assert!(
                flaw.at == at && printed.contains(part),
                "{text}: {flaw:?} {printed}"
            );
        }
    }

    proptest! {
        // What is accepted is what `ipnet` reads, less what this grammar refuses on purpose.
        #[test]
        fn agrees_with_ipnet(text in "[0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,2}|[0-9a-f]{0,4}(:[0-9a-f]{0,4}){2,7}/[0-9]{1,3}") {
            let theirs = text.parse::<IpNet>().ok();
            match parse(Piece::new(&text)) {
                Ok(ours) => prop_assert_eq!(Some(ours), theirs),
                Err(flaw) => {
                    let strict = theirs.is_some_and(|net| net == net.trunc())
                        && !matches!(flaw.problem, Problem::Mapped(_) | Problem::MappedNetwork)
                        // `ipnet` reads a number with leading zeros, as decimal.
                        && !text.split(['.', '/']).any(|part| {
                            part.len() > 1 && part.starts_with('0') && !part.contains(':')
                        });
                    prop_assert!(!strict, "{} is refused: {}", text, flaw.problem);
                }
            }
        }

        #[test]
        fn every_network_reads_back(bits: u128, length in 0_u8..=128, v4: bool) {
            let net = if v4 {
                let address = Ipv4Addr::from(u32::try_from(bits & 0xffff_ffff).unwrap());
                IpNet::new(address.into(), length % 33).unwrap().trunc()
            } else {
                IpNet::new(Ipv6Addr::from(bits | 1 << 127).into(), length).unwrap().trunc()
            };
            prop_assert_eq!(parse(Piece::new(&net.to_string())), Ok(net));
        }
    }
}
