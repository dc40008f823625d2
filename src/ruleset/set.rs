//! Sets of nftables: what they are keyed by and what they hold.

use crate::policy::{Element, Timed};
use std::{cmp::Ordering, fmt, net::IpAddr, time::Duration};

/// An IP version, as a set or a rule is bound to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// What the elements of a set are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// address . protocol . port, each a single value: a hash table in the kernel.
    Service(Family),
    /// The same with networks and port ranges: concatenated intervals (kernel 5.6).
    ServiceRange(Family),
}

/// Data types by the number that nft gives them (nftables `include/datatype.h`); a
/// concatenation is its parts, six bits each.
mod datatype {
    pub const IPV4_ADDR: u32 = 7;
    pub const IPV6_ADDR: u32 = 8;
    pub const INET_PROTO: u32 = 12;
    pub const INET_SERVICE: u32 = 13;

    pub const fn concat(parts: [u32; 3]) -> u32 {
        (parts[0] << 12) | (parts[1] << 6) | parts[2]
    }
}

impl Key {
    /// The number under which nft knows the type, so that `nft list` can print the elements.
    #[must_use]
    pub fn datatype(self) -> u32 {
        use datatype::{INET_PROTO, INET_SERVICE, IPV4_ADDR, IPV6_ADDR, concat};
        match self {
            Self::Service(Family::V4) | Self::ServiceRange(Family::V4) => {
                concat([IPV4_ADDR, INET_PROTO, INET_SERVICE])
            }
            Self::Service(Family::V6) | Self::ServiceRange(Family::V6) => {
                concat([IPV6_ADDR, INET_PROTO, INET_SERVICE])
            }
        }
    }

    /// The length of each field of the key, in octets; in the key every field is padded to four.
    #[must_use]
    pub fn fields(self) -> &'static [u8] {
        match self {
            Self::Service(Family::V4) | Self::ServiceRange(Family::V4) => &[4, 1, 2],
            Self::Service(Family::V6) | Self::ServiceRange(Family::V6) => &[16, 1, 2],
        }
    }

    /// The length of the key, in octets.
    #[must_use]
    pub fn octets(self) -> u32 {
        match self {
            Self::Service(Family::V4) | Self::ServiceRange(Family::V4) => 12,
            Self::Service(Family::V6) | Self::ServiceRange(Family::V6) => 24,
        }
    }

    /// The IP version of what it is about.
    #[must_use]
    pub fn family(self) -> Family {
        let (Self::Service(family) | Self::ServiceRange(family)) = self;
        family
    }

    /// Whether an element is a range in each field.
    #[must_use]
    pub fn is_interval(self) -> bool {
        matches!(self, Self::ServiceRange(_))
    }

    /// An element of such a set, in one of services.
    #[must_use]
    pub fn raw(self, element: &Element, life: Option<Duration>) -> RawElement {
        let protocol = element.service.protocol.number();
        let ports = element.service.ports;
        let network = element.network;
        RawElement {
            key: Octets::service(network.network(), protocol, ports.first()),
            end: self
                .is_interval()
                .then(|| Octets::service(network.broadcast(), protocol, ports.last())),
            life,
        }
    }

    /// The type as nft writes it.
    fn text(self) -> &'static str {
        match self {
            Self::Service(Family::V4) | Self::ServiceRange(Family::V4) => {
                "ipv4_addr . inet_proto . inet_service"
            }
            Self::Service(Family::V6) | Self::ServiceRange(Family::V6) => {
                "ipv6_addr . inet_proto . inet_service"
            }
        }
    }
}

/// An element as the kernel holds it: the key, and the end of the range in an interval set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawElement {
    /// The lowest value in each field, padded.
    pub key: Octets,
    /// The highest value in each field, padded.
    pub end: Option<Octets>,
    /// How long it has left, in a set whose elements end.
    pub life: Option<Duration>,
}

impl RawElement {
    /// Whether the other is of the same addresses, protocol and ports.
    #[must_use]
    pub fn is_same_service(&self, other: &Self) -> bool {
        self.key == other.key && self.end == other.end
    }

    /// The same, for as long as it is left.
    #[must_use]
    pub fn without_end(&self) -> Self {
        Self {
            life: None,
            ..self.clone()
        }
    }
}

/// The key of an element, or what a register holds: a few octets, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Octets {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl Octets {
    /// The length of the longest key: an IPv6 address, a protocol and a port.
    pub const MAX: usize = 24;

    /// The octets, or nothing where there are more than any of ours has.
    #[must_use]
    pub fn new(octets: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(Self {
            bytes,
            len: u8::try_from(octets.len()).ok()?,
        })
    }

    /// The octets.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// How many there are.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.len.into()
    }

    /// As many zeros.
    #[must_use]
    pub fn zeros(self) -> Self {
        Self {
            bytes: [0; Self::MAX],
            ..self
        }
    }

    fn service(address: IpAddr, protocol: u8, port: u16) -> Self {
        let mut bytes = [0; Self::MAX];
        let at = match address {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                4
            }
            IpAddr::V6(v6) => {
                bytes[..16].copy_from_slice(&v6.octets());
                16
            }
        };
        bytes[at] = protocol;
        bytes[at + 4..at + 6].copy_from_slice(&port.to_be_bytes());
        Self {
            bytes,
            len: if address.is_ipv4() { 12 } else { 24 },
        }
    }
}

/// As octets are, eight at a time.
impl Ord for Octets {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((words, _), (others, _)) = (self.bytes.as_chunks(), other.bytes.as_chunks());
        for (&word, &other) in words.iter().zip(others) {
            if word != other {
                return u64::from_be_bytes(word).cmp(&u64::from_be_bytes(other));
            }
        }
        self.len.cmp(&other.len)
    }
}

impl PartialOrd for Octets {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> From<[u8; N]> for Octets {
    #[allow(clippy::cast_possible_truncation)] // looked at first
    fn from(octets: [u8; N]) -> Self {
        const { assert!(N <= Self::MAX) };
        let mut bytes = [0; Self::MAX];
        bytes[..N].copy_from_slice(&octets);
        Self {
            bytes,
            len: N as u8,
        }
    }
}

/// What a set holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Elements {
    /// For the service keys: disjoint, sorted, all of the set's family.
    Services(Vec<Element>),
    /// The same, each for a time.
    Timed(Vec<Timed>),
}

impl Elements {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Services(elements) => elements.len(),
            Self::Timed(elements) => elements.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// Its key.
    pub key: Key,
    /// The most that it will hold. To a hash table of which this is known the kernel gives its room
    /// at once, instead of moving everything each time it has doubled.
    pub size: Option<u32>,
    /// Its elements.
    pub elements: Elements,
}

impl Set {
    /// Whether its elements end.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        matches!(self.elements, Elements::Timed(_))
    }

    /// The elements as the kernel takes and returns them.
    pub fn raw_elements(&self) -> impl Iterator<Item = RawElement> + '_ {
        let (services, timed): (&[Element], &[Timed]) = match &self.elements {
            Elements::Services(elements) => (elements, &[]),
            Elements::Timed(elements) => (&[], elements),
        };
        let key = self.key;
        services
            .iter()
            .map(move |element| key.raw(element, None))
            .chain(
                timed
                    .iter()
                    .map(move |timed| key.raw(&timed.element, Some(timed.life))),
            )
    }

    pub(super) fn write_text(&self, f: &mut fmt::Formatter<'_>, elements: bool) -> fmt::Result {
        writeln!(f, "\tset {} {{", self.name)?;
        writeln!(f, "\t\ttype {}", self.key.text())?;
        if let Some(size) = self.size {
            writeln!(f, "\t\tsize {size}")?;
        }
        match (self.key.is_interval(), self.is_timed()) {
            (false, false) => {}
            (true, false) => writeln!(f, "\t\tflags interval")?,
            (false, true) => writeln!(f, "\t\tflags timeout")?,
            (true, true) => writeln!(f, "\t\tflags interval,timeout")?,
        }
        if elements && !self.elements.is_empty() {
            f.write_str("\t\telements = { ")?;
            match &self.elements {
                Elements::Services(elements) => {
                    separated(f, elements, |f, element| write!(f, "{element}"))?;
                }
                Elements::Timed(elements) => {
                    separated(f, elements, |f, timed| {
                        let Timed { element, life } = timed;
                        write!(f, "{element} timeout {}", Life(*life))
                    })?;
                }
            }
            writeln!(f, " }}")?;
        }
        writeln!(f, "\t}}")
    }
}

/// A time as nft writes it: `1d2h3m4s`. Milliseconds are not ours.
struct Life(Duration);

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 86_400, 'd'),
            (seconds / 3600 % 24, 'h'),
            (seconds / 60 % 60, 'm'),
            (seconds % 60, 's'),
        ];
        let mut parts = parts.iter().filter(|(number, _)| *number > 0);
        parts.try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

fn separated<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",\n\t\t\t     ")?;
        }
        write(f, item)?;
    }
    Ok(())
}
