//! What a frame that arrived on the other side is: what the policy lets flow, what IPv6 says by
//! itself, or an escape. Everything that is not known to be allowed is an escape.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    attempts::Context,
    sniffer::Frame,
    support::world::{API, DNS, GATEWAY, INSIDE},
};

/// The services that the list of every start of the suite allows: see [`crate::stage::LIST`].
const ALLOWED: [(u8, u16); 4] = [(6, 80), (6, 443), (6, 21), (17, 123)];
/// What mode `system` leaves open at the nameservers.
const OPEN_DNS: [(u8, u16); 2] = [(6, 53), (17, 53)];
/// The name whose addresses they are of, as it is in a DNS question.
const LISTED: &[u8] = b"\x03api\x07example\x03org\x00";

/// What follows the id of a query with one question, and of one with EDNS as well: RD and nothing
/// else.
const PLAIN_HEADER: &[u8] = &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const EDNS_HEADER: &[u8] = &[1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
const CLASS_IN: [u8; 2] = [0, 1];
/// What else programs ask for, by numbers of IANA's registry (docs/supervise.md).
pub const RARE_TYPES: [u16; 17] = [
    2, 5, 6, 12, 15, 16, 33, 35, 37, 43, 44, 48, 52, 53, 61, 256, 257,
];
/// A record of EDNS without options, for answers of 1232 octets.
const EDNS: &[u8] = &[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// The judge's word on a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The policy allows it.
    Allowed,
    /// Section 6 lets it out, and this many octets in it were the command's to choose.
    Carried(usize),
    /// A lookup for the listed name, of a type that the command chose among a few, which the
    /// resolver of mode `proxy` passes on within a rate.
    Asked,
    /// It must not have left; what it is.
    Escape(String),
}

/// Whether egress-init itself may be asking its nameservers meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Over,
    Running,
    /// Mode `system`, which leaves DNS to the nameservers open, those on loopback included.
    System,
}

pub fn judge(frame: &Frame, start: Start) -> Verdict {
    let octets = &frame.octets;
    if frame.outgoing {
        return Verdict::Allowed;
    }
    let Some((kind, rest)) = octets.get(12..14).zip(octets.get(14..)) else {
        return Verdict::Escape("a frame without a header".to_owned());
    };
    match kind {
        [0x08, 0x06] => arp(rest),
        [0x08, 0x00] => Packet::v4(rest).map_or_else(malformed, |packet| packet.judge(start)),
        [0x86, 0xdd] => Packet::v6(rest).map_or_else(malformed, |packet| packet.judge(start)),
        // What a resolver on loopback forwards.
        [0x88, 0xb6] if start == Start::System => Verdict::Allowed,
        [high, low] => Verdict::Escape(format!("a frame of EtherType {high:02x}{low:02x}")),
        _ => malformed(),
    }
}

fn malformed() -> Verdict {
    Verdict::Escape("a malformed packet".to_owned())
}

/// Whether the frame belongs to an attempt: by its token in any form, or by its port or group.
pub fn belongs(frame: &Frame, forms: &[Vec<u8>], context: &Context) -> bool {
    let (port, group) = (context.port, context.group());
    if crate::token::Token::is_in(forms, &frame.octets) {
        return true;
    }
    let Some(rest) = frame.octets.get(14..) else {
        return false;
    };
    if frame.octets[12..14] == [0x08, 0x06] {
        let target = rest.get(24..28);
        return context
            .neighbours()
            .iter()
            .any(|neighbour| target == Some(&neighbour.octets()));
    }
    let packet = match frame.octets[12..14] {
        [0x08, 0x00] => Packet::v4(rest),
        [0x86, 0xdd] => Packet::v6(rest),
        _ => None,
    };
    packet.is_some_and(|packet| {
        packet.to == IpAddr::V4(group)
            || (packet.protocol == 2
                && packet.payload.windows(4).any(|four| four == group.octets()))
            || (!packet.is_later_fragment
                && matches!(packet.protocol, 6 | 17 | 33 | 132 | 136)
                && packet.ports().is_some_and(|ports| ports.contains(&port)))
    })
}

/// An ARP question for the gateway, or an answer to it (RFC 826), with nothing in the padding.
fn arp(octets: &[u8]) -> Verdict {
    let (IpAddr::V4(gateway), IpAddr::V4(inside)) = (GATEWAY[0], INSIDE[0]) else {
        return malformed();
    };
    let own = octets.get(14..18) == Some(&inside.octets());
    let target = octets.get(24..28) == Some(&gateway.octets());
    let padding = octets.iter().skip(28).all(|octet| *octet == 0);
    if own && target && padding {
        Verdict::Allowed
    } else {
        Verdict::Escape("an ARP packet about others than the gateway".to_owned())
    }
}

/// An IP packet as far as the judge reads it.
struct Packet<'a> {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    hop_limit: u8,
    /// IPv4 options, or an IPv6 extension header but for a fragment's and the router alert of a
    /// listener report.
    has_options: bool,
    is_later_fragment: bool,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn v4(octets: &'a [u8]) -> Option<Self> {
        let header = usize::from(octets.first()? & 15) * 4;
        let total = usize::from(be16(octets, 2)?);
        let four = |at: usize| {
            Some(Ipv4Addr::from(
                <[u8; 4]>::try_from(octets.get(at..at + 4)?).ok()?,
            ))
        };
        Some(Self {
            from: four(12)?.into(),
            to: four(16)?.into(),
            protocol: *octets.get(9)?,
            hop_limit: *octets.get(8)?,
            has_options: header > 20,
            is_later_fragment: be16(octets, 6)? & 0x1fff != 0,
            payload: octets.get(header..total)?,
        })
    }

    fn v6(octets: &'a [u8]) -> Option<Self> {
        let length = usize::from(be16(octets, 4)?);
        let address = |at: usize| {
            Some(Ipv6Addr::from(
                <[u8; 16]>::try_from(octets.get(at..at + 16)?).ok()?,
            ))
        };
        let mut rest = octets.get(40..40 + length)?;
        let (mut next, mut has_options, mut is_later_fragment) = (*octets.get(6)?, false, false);
        let is_alert = rest.get(2..6) == Some(&[5, 2, 0, 0]);
        while matches!(next, 0 | 43 | 44 | 60) {
            let size = if next == 44 {
                is_later_fragment = be16(rest, 2)? & 0xfff8 != 0;
                8
            } else {
                has_options |= !(next == 0 && is_alert);
                (usize::from(*rest.get(1)?) + 1) * 8
            };
            next = *rest.first()?;
            rest = rest.get(size..)?;
        }
        Some(Self {
            from: address(8)?.into(),
            to: address(24)?.into(),
            protocol: next,
            hop_limit: *octets.get(7)?,
            has_options,
            is_later_fragment,
            payload: rest,
        })
    }

    fn ports(&self) -> Option<[u16; 2]> {
        Some([be16(self.payload, 0)?, be16(self.payload, 2)?])
    }

    fn judge(&self, start: Start) -> Verdict {
        let escape = || Verdict::Escape(self.describe());
        if self.has_options {
            return escape();
        }
        if self.protocol == 58 && self.from.is_ipv6() && self.hop_limit_is_of_the_link() {
            return self.neighbour().unwrap_or_else(escape);
        }
        let to_nameserver = || {
            let port = self.ports().map(|[_, port]| SocketAddr::new(self.to, port));
            port.is_some_and(|to| DNS.contains(&to)) && matches!(self.protocol, 6 | 17)
        };
        let is_fragment = self.is_later_fragment && self.protocol == 17;
        let to_its_host = DNS.iter().any(|dns| dns.ip() == self.to);
        let about_its_answer = || to_its_host && self.is_error_about(&OPEN_DNS);
        if start == Start::System
            && (is_fragment && to_its_host || to_nameserver() || about_its_answer())
        {
            return Verdict::Allowed;
        }
        if start == Start::Running
            && let Some(verdict) = self.own_query()
        {
            return verdict;
        }
        let to_api = API.contains(&self.to);
        if to_api && self.is_later_fragment && matches!(self.protocol, 17) {
            // Its first fragment was judged by the ports.
            return Verdict::Allowed;
        }
        if to_api && self.is_allowed_service() || to_api && self.is_error_about(&ALLOWED) {
            return Verdict::Allowed;
        }
        escape()
    }

    fn is_allowed_service(&self) -> bool {
        !self.is_later_fragment
            && self
                .ports()
                .is_some_and(|[_, port]| ALLOWED.contains(&(self.protocol, port)))
    }

    /// An ICMP error back to an allowed host, about what that host sent from one of its allowed
    /// services: the kernel writes it, and every octet of it is from there.
    fn is_error_about(&self, allowed: &[(u8, u16)]) -> bool {
        let (is_error, header) = match (self.protocol, self.payload.first()) {
            (1, Some(3 | 11 | 12)) => (true, 20),
            (58, Some(1..=4)) => (true, 40),
            _ => (false, 0),
        };
        let inner = self.payload.get(8..).unwrap_or_default();
        let protocol = inner.get(if header == 20 { 9 } else { 6 });
        is_error
            && be16(inner, header)
                .zip(protocol)
                .is_some_and(|(port, protocol)| allowed.contains(&(*protocol, port)))
    }

    /// A question of egress-init for the listed name, one of its nameservers. Of what the command
    /// asks only the type may be in there: all else is as egress-init writes it, to the letter.
    fn own_query(&self) -> Option<Verdict> {
        let [_, port] = self.ports()?;
        if self.protocol != 17 || !DNS.contains(&SocketAddr::new(self.to, port)) {
            return None;
        }
        // Behind the header of UDP and the id, which is random.
        let (header, question) = self.payload.get(8 + 2..)?.split_at_checked(10)?;
        let (kind, rest) = question.strip_prefix(LISTED)?.split_first_chunk()?;
        let additional = rest.strip_prefix(&CLASS_IN)?;
        let is_plain = header == PLAIN_HEADER && additional.is_empty()
            || header == EDNS_HEADER && additional == EDNS;
        let verdict = match u16::from_be_bytes(*kind) {
            // A, AAAA, SVCB, HTTPS: what any program asks for that connects.
            1 | 28 | 64 | 65 => Verdict::Allowed,
            kind if RARE_TYPES.contains(&kind) => Verdict::Asked,
            _ => return None,
        };
        is_plain.then_some(verdict)
    }

    fn hop_limit_is_of_the_link(&self) -> bool {
        match self.payload.first() {
            Some(133..=136) => self.hop_limit == 255,
            Some(131 | 132 | 143) => self.hop_limit == 1,
            _ => false,
        }
    }

    /// What IPv6 hosts say to their neighbours, and how much of it another could have chosen.
    fn neighbour(&self) -> Option<Verdict> {
        let at = |index: usize| -> Option<Ipv6Addr> {
            let octets = self.payload.get(index..index + 16)?;
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))
        };
        let carried = |octets: usize| match octets {
            0 => Verdict::Allowed,
            octets => Verdict::Carried(octets),
        };
        match self.payload.first()? {
            133 if self.payload.len() <= 16 => Some(Verdict::Allowed),
            135 | 136 if self.payload.len() <= 32 => {
                Some(carried(usize::from(!is_of_the_link(at(8)?)) * 16))
            }
            131 | 132 if self.payload.len() == 24 => {
                Some(carried(usize::from(!is_own_group(at(8)?)) * 16))
            }
            143 => {
                let mut octets = 0;
                let mut index = 8;
                for _ in 0..be16(self.payload, 6)? {
                    let sources = usize::from(be16(self.payload, index + 2)?);
                    if !is_own_group(at(index + 4)?) {
                        octets += 16;
                    }
                    octets += 16 * sources;
                    index += 20 + 16 * sources;
                }
                (index == self.payload.len()).then(|| carried(octets))
            }
            _ => None,
        }
    }

    fn describe(&self) -> String {
        let protocol = match self.protocol {
            1 => "ICMP",
            2 => "IGMP",
            6 => "TCP",
            17 => "UDP",
            58 => "ICMPv6",
            136 => "UDP-Lite",
            _ => "",
        };
        let protocol = if protocol.is_empty() {
            format!("protocol {}", self.protocol)
        } else {
            protocol.to_owned()
        };
        let options = if self.has_options {
            " with options"
        } else {
            ""
        };
        match self
            .ports()
            .filter(|_| matches!(self.protocol, 6 | 17 | 136))
        {
            Some([_, port]) if !self.is_later_fragment => {
                format!("{protocol} to {}{options}", SocketAddr::new(self.to, port))
            }
            _ => format!("{protocol} to {}{options}", self.to),
        }
    }
}

/// The addresses that the two ends of the link have.
fn is_of_the_link(address: Ipv6Addr) -> bool {
    INSIDE.contains(&address.into())
        || GATEWAY.contains(&address.into())
        || [0x1_u64, 0x2].iter().any(|end| {
            address.octets()
                == (0xfe80_u128 << 112 | 0x00ff_fe00_0000 | u128::from(*end)).to_be_bytes()
                || address
                    == Ipv6Addr::new(
                        0xfe80,
                        0,
                        0,
                        0,
                        0,
                        0xff,
                        0xfe00,
                        u16::try_from(*end).unwrap(),
                    )
        })
}

/// The groups that a host, or router, of these addresses is in by itself.
fn is_own_group(group: Ipv6Addr) -> bool {
    let segments = group.segments();
    let solicited = segments[..7] == [0xff02, 0, 0, 0, 0, 1, 0xff00] && segments[7] <= 2;
    let known = [
        "ff02::1", "ff02::2", "ff02::6a", "ff05::2", "ff01::1", "ff01::2",
    ];
    solicited
        || segments[..6] == [0xff02, 0, 0, 0, 0, 1] && segments[6] == 0xff00 && segments[7] == 0
        || known.iter().any(|known| known.parse() == Ok(group))
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    let two = octets.get(at..at + 2)?;
    Some(u16::from_be_bytes([two[0], two[1]]))
}
