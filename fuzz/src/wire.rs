//! A second reading of DNS messages (RFC 1035 section 4), as plain as can be: what the answers are
//! compared with. It is no judge of what is malformed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Labels in lower case.
pub type Name = Vec<Vec<u8>>;

/// What of a message says something of a name.
pub struct Message {
    pub flags: u16,
    /// With the upper bits from EDNS (RFC 6891 section 6.1.3).
    pub code: u16,
    pub questions: Vec<(Name, u16, u16)>,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    /// The longest response that EDNS allows, where there is EDNS.
    pub payload: Option<u16>,
    /// Octets behind the last record.
    pub rest: usize,
}

pub struct Record {
    pub owner: Name,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    /// Whether there is any data.
    pub filled: bool,
    pub data: Data,
}

#[derive(PartialEq, Eq)]
pub enum Data {
    Address(IpAddr),
    Alias(Name),
    Binding(Binding),
    Other,
}

/// HTTPS and SVCB records (RFC 9460 section 2.2).
#[derive(PartialEq, Eq)]
pub struct Binding {
    pub target: Name,
    /// The addresses of both hints.
    pub hints: Vec<IpAddr>,
    /// The keys of the parameters.
    pub keys: Vec<u16>,
    /// Those that are mandatory.
    pub mandatory: Vec<u16>,
}

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const AAAA: u16 = 28;
pub const SVCB: u16 = 64;
pub const HTTPS: u16 = 65;
const OPT: u16 = 41;
pub const IN: u16 = 1;

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let found = self.octets.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes([found[0], found[1]]))
    }

    fn name(&mut self) -> Option<Name> {
        let mut labels = Vec::new();
        let mut at = self.at;
        let mut jumped = false;
        for _ in 0..256 {
            let length = usize::from(*self.octets.get(at)?);
            if length >= 0xc0 {
                let low = usize::from(*self.octets.get(at + 1)?);
                if !jumped {
                    self.at = at + 2;
                }
                (at, jumped) = ((length & 0x3f) << 8 | low, true);
                continue;
            }
            at += 1;
            if length == 0 {
                if !jumped {
                    self.at = at;
                }
                return Some(labels);
            }
            labels.push(self.octets.get(at..at + length)?.to_ascii_lowercase());
            at += length;
        }
        None
    }

    fn binding(&mut self, end: usize) -> Option<Binding> {
        let _priority = self.u16()?;
        let mut binding = Binding {
            target: self.name()?,
            hints: Vec::new(),
            keys: Vec::new(),
            mandatory: Vec::new(),
        };
        while self.at < end {
            let (key, length) = (self.u16()?, usize::from(self.u16()?));
            let value = self.octets.get(self.at..self.at + length)?;
            self.at += length;
            binding.keys.push(key);
            match key {
                0 => binding.mandatory.extend(
                    value
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&key: &[u8; 2]| u16::from_be_bytes(key)),
                ),
                4 => binding.hints.extend(
                    value
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&v4: &[u8; 4]| IpAddr::from(v4)),
                ),
                6 => binding.hints.extend(
                    value
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&v6: &[u8; 16]| IpAddr::from(v6)),
                ),
                _ => {}
            }
        }
        Some(binding)
    }

    fn record(&mut self) -> Option<Record> {
        let owner = self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let ttl = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
        let length = usize::from(self.u16()?);
        let end = self.at + length;
        let octets = self.octets.get(self.at..end)?;
        let data = match kind {
            A => <[u8; 4]>::try_from(octets)
                .map_or(Data::Other, |v4| Data::Address(Ipv4Addr::from(v4).into())),
            AAAA => <[u8; 16]>::try_from(octets)
                .map_or(Data::Other, |v6| Data::Address(Ipv6Addr::from(v6).into())),
            CNAME if length > 0 => Data::Alias(self.name()?),
            SVCB | HTTPS if length > 0 => Data::Binding(self.binding(end)?),
            _ => Data::Other,
        };
        self.at = end;
        Some(Record {
            owner,
            kind,
            class,
            ttl,
            filled: length > 0,
            data,
        })
    }
}

/// Reads a message.
pub fn decode(octets: &[u8]) -> Option<Message> {
    let mut reader = Reader { octets, at: 2 };
    let flags = reader.u16()?;
    let counts = [(); 4].map(|()| reader.u16());
    let [questions, answers, authorities, additionals] = counts.map(Option::unwrap_or_default);
    let questions = (0..questions)
        .map(|_| Some((reader.name()?, reader.u16()?, reader.u16()?)))
        .collect::<Option<_>>()?;
    let mut records = |count: u16| {
        (0..count)
            .map(|_| reader.record())
            .collect::<Option<Vec<Record>>>()
    };
    let (answers, authorities) = (records(answers)?, records(authorities)?);
    let additionals = records(additionals)?;
    let edns = additionals.iter().find(|record| record.kind == OPT);
    let high = edns.map_or(0, |edns| u16::try_from(edns.ttl >> 24).expect("eight bits"));
    let rest = octets.len() - reader.at;
    Some(Message {
        rest,
        payload: edns.map(|edns| edns.class),
        flags,
        code: high << 4 | flags & 0xf,
        questions,
        answers,
        authorities,
    })
}
