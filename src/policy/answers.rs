//! Which addresses an answer of DNS may bring in.
//!
//! Whoever answers for an allowed name could answer with any address: the machine itself, the
//! cloud's metadata service, a neighbour. Section 5 of the contract says which of them never
//! count, whatever the entry. A literal address or network of the list does not pass through here:
//! it is the operator's word.

use crate::allowlist::Origin;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inadmissible {
    /// 0.0.0.0/8 (RFC 1122 section 3.2.1.3) and `::`: to Linux this machine.
    #[error("an unspecified address")]
    Unspecified,
    /// 127.0.0.0/8 and `::1`.
    #[error("a loopback address")]
    Loopback,
    /// 169.254.0.0/16 (RFC 3927), where clouds keep their metadata, and `fe80::/10`.
    #[error("a link-local address")]
    LinkLocal,
    /// A cloud's metadata service or platform channel outside the link-local ranges.
    #[error("the address of a cloud's metadata service")]
    Metadata,
    /// 224.0.0.0/4 and `ff00::/8`.
    #[error("a multicast address")]
    Multicast,
    /// 255.255.255.255.
    #[error("the broadcast address")]
    Broadcast,
    /// `::ffff:0:0/96` and the deprecated `::/96` (RFC 4291 section 2.5.5): not addresses of IPv6
    /// traffic at all.
    #[error("an IPv4 address in the form of an IPv6 one")]
    Mapped,
    /// Only of use inside an operator's network, and only an exact name may bring it in.
    #[error("a private address, which only a name listed by itself may have")]
    Private,
}

/// Addresses of cloud services that are outside the ranges refused by kind, as their vendors
/// document them: whoever reaches one may obtain the machine's credentials.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba Cloud
    Ipv4Addr::new(168, 63, 129, 16),   // Azure's platform channel
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle Cloud, first generation
];
const METADATA_V6: [Ipv6Net; 5] = [
    v6(0xfd00_0ec2 << 96, 32), // AWS: metadata, DNS, NTP, pod identity
    v6(0xfd20_00ce << 96 | 0x0254, 128), // Google Cloud
    v6(0xfd00_00c1 << 96 | 0xa9fe_a9fe, 128), // Oracle Cloud
    v6(0xfd00_0042 << 96 | 0x0042, 128), // Scaleway
    v6(0xfd00_a9fe_a9fe << 80 | 1, 128), // Akamai (Linode)
];

/// What is routed nowhere but inside networks (IANA special-purpose address registries). The
/// contract names RFC 1918, CGNAT and ULA; the others are in use as private addresses too.
const PRIVATE: [IpNet; 10] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),                   // RFC 6598, CGNAT
    v4([192, 0, 0, 0], 24),                    // RFC 6890
    v4([198, 18, 0, 0], 15),                   // RFC 2544, benchmarks
    v4([240, 0, 0, 0], 4),                     // RFC 1112, reserved
    IpNet::V6(v6(0xfc00 << 112, 7)),           // RFC 4193, ULA
    IpNet::V6(v6(0xfec0 << 112, 10)),          // RFC 3879, site-local
    IpNet::V6(v6(0x0064_ff9b_0001 << 80, 48)), // RFC 8215, local NAT64
];

/// Whether an answer may bring this address in.
///
/// An IPv6 address that carries an IPv4 one to a translator or a tunnel counts as what it carries,
/// so that `64:ff9b::7f00:1` is no way around the rule for 127.0.0.1.
pub fn admissible(address: IpAddr, origin: Origin) -> Result<(), Inadmissible> {
    let never = match address {
        IpAddr::V4(address) => never_v4(address),
        IpAddr::V6(address) => match carried(address) {
            Some(inner) => return admissible(inner.into(), origin),
            None => never_v6(address),
        },
    };
    let is_private = || PRIVATE.iter().any(|network| network.contains(&address));
    match (never, origin) {
        (Some(reason), _) => Err(reason),
        (None, Origin::Wildcard) if is_private() => Err(Inadmissible::Private),
        (None, _) => Ok(()),
    }
}

fn never_v4(address: Ipv4Addr) -> Option<Inadmissible> {
    if address.octets()[0] == 0 {
        Some(Inadmissible::Unspecified)
    } else if address.is_loopback() {
        Some(Inadmissible::Loopback)
    } else if address.is_link_local() {
        Some(Inadmissible::LinkLocal)
    } else if address.is_multicast() {
        Some(Inadmissible::Multicast)
    } else if address.is_broadcast() {
        Some(Inadmissible::Broadcast)
    } else if METADATA_V4.contains(&address) {
        Some(Inadmissible::Metadata)
    } else {
        None
    }
}

fn never_v6(address: Ipv6Addr) -> Option<Inadmissible> {
    if address.is_unspecified() {
        Some(Inadmissible::Unspecified)
    } else if address.is_loopback() {
        Some(Inadmissible::Loopback)
    } else if address.is_unicast_link_local() {
        Some(Inadmissible::LinkLocal)
    } else if address.is_multicast() {
        Some(Inadmissible::Multicast)
    } else if METADATA_V6.iter().any(|network| network.contains(&address)) {
        Some(Inadmissible::Metadata)
    } else if matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, _, _]) {
        Some(Inadmissible::Mapped)
    } else {
        None
    }
}

/// The IPv4 address that packets to this one reach in the end: through NAT64 (RFC 6052) or its
/// stateless relative (RFC 2765), 6to4 (RFC 3056) or Teredo (RFC 4380).
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(join(high, low))
        }
        [0x2002, high, low, ..] => Some(join(high, low)),
        [0x2001, 0, .., high, low] => Some(join(!high, !low)),
        _ => None,
    }
}

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(bits: u128, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, origin: Origin) -> Result<(), Inadmissible> {
        admissible(text.parse().unwrap(), origin)
    }

    #[test]
    fn ordinary_addresses_come_in() {
        for text in [
            "1.1.1.1",
            "192.0.2.7",
            "128.0.0.1",
            "126.255.255.255",
            "169.253.255.255",
            "172.32.0.1",
            "100.128.0.1",
            "168.63.129.17",
            "223.255.255.255",
            "2606:4700::1",
            "2001:db8::1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "2001:0:4136:e378:8000:63bf:fefe:fefe",
        ] {
            assert_eq!(check(text, Origin::Name), Ok(()), "{text}");
            assert_eq!(check(text, Origin::Wildcard), Ok(()), "{text}");
        }
    }

    #[test]
    fn some_addresses_never_come_in() {
        use Inadmissible::*;
        for (text, reason) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("127.0.0.1", Loopback),
            ("127.255.0.53", Loopback),
            ("::1", Loopback),
            ("169.254.169.254", LinkLocal),
            ("169.254.170.2", LinkLocal),
            ("fe80::1", LinkLocal),
            ("fe80::a9fe:a9fe", LinkLocal),
            ("febf::1", LinkLocal),
            ("224.0.0.1", Multicast),
            ("239.255.255.250", Multicast),
            ("ff02::fb", Multicast),
            ("255.255.255.255", Broadcast),
            ("100.100.100.200", Metadata),
            ("168.63.129.16", Metadata),
            ("192.0.0.192", Metadata),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd20:ce::254", Metadata),
            ("fd00:c1::a9fe:a9fe", Metadata),
            ("fd00:42::42", Metadata),
            ("fd00:a9fe:a9fe::1", Metadata),
            ("::ffff:1.1.1.1", Mapped),
            ("::ffff:127.0.0.1", Mapped),
            ("::1.1.1.1", Mapped),
            // Carried by another address.
            ("64:ff9b::127.0.0.1", Loopback),
            ("64:ff9b::169.254.169.254", LinkLocal),
            ("64:ff9b::168.63.129.16", Metadata),
            ("::ffff:0:169.254.169.254", LinkLocal),
            ("2002:7f00:1::1", Loopback),
            ("2002:a9fe:a9fe::", LinkLocal),
            ("2001:0:4136:e378:8000:63bf:80ff:fffe", Loopback),
        ] {
            assert_eq!(check(text, Origin::Name), Err(reason), "{text}");
            assert_eq!(check(text, Origin::Wildcard), Err(reason), "{text}");
        }
    }

    #[test]
    fn private_addresses_come_in_by_an_exact_name_alone() {
        for text in [
            "10.0.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.0.8",
            "198.19.0.1",
            "240.0.0.1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "64:ff9b:1::1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::1",
        ] {
            assert_eq!(check(text, Origin::Name), Ok(()), "{text}");
            assert_eq!(
                check(text, Origin::Wildcard),
                Err(Inadmissible::Private),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_wildcard_brings_in_no_more_than_a_name(bits: u128, v4: u32, is_v4: bool) {
            let address = if is_v4 { IpAddr::from(Ipv4Addr::from(v4)) } else { Ipv6Addr::from(bits).into() };
            if admissible(address, Origin::Wildcard).is_ok() {
                prop_assert_eq!(admissible(address, Origin::Name), Ok(()));
            }
        }

        #[test]
        fn carrying_an_address_changes_nothing(v4: u32, wildcard: bool) {
            let origin = if wildcard { Origin::Wildcard } else { Origin::Name };
            let direct = admissible(Ipv4Addr::from(v4).into(), origin);
            let nat64 = Ipv6Addr::from(0x0064_ff9b_u128 << 96 | u128::from(v4));
            prop_assert_eq!(admissible(nat64.into(), origin), direct);
            let six_to_four = Ipv6Addr::from(0x2002_u128 << 112 | u128::from(v4) << 80 | 1);
            prop_assert_eq!(admissible(six_to_four.into(), origin), direct);
        }
    }
}
