//! One response → what it says of a name: records, another name to ask for, or nothing.
//! Pure.

use super::udp::is_same_name;
use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

/// Aliases that are followed for one name. Real chains have two to five.
const MAX_ALIASES: usize = 16;

/// The way from the name asked for to the one that has the addresses.
pub(super) struct Chain<'a> {
    asked: &'a Name,
    /// Where each alias led; the last is the one to ask for.
    names: Vec<Name>,
    /// The records that led from each name to the next.
    aliases: Vec<Record>,
}

/// What a response says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The records of the type, at least one.
    Records(Vec<Record>),
    /// The chain grew and the response does not say where it ends: ask for its last name.
    Follow,
    /// The name exists and has no record of this type; the SOA says for how long.
    NoData(Option<Record>),
    /// The name does not exist.
    NxDomain(Option<Record>),
    /// A name is an alias of itself, in the end.
    Loop,
    /// More than [`MAX_ALIASES`].
    TooLong,
}

impl<'a> Chain<'a> {
    pub(super) fn new(asked: &'a Name) -> Self {
        Self {
            asked,
            names: Vec::new(),
            aliases: Vec::new(),
        }
    }

    /// The aliases on the way, in their order, then the records at their end.
    pub(super) fn ending_in(self, mut last: Vec<Record>) -> Vec<Record> {
        last.splice(..0, self.aliases);
        last
    }

    /// The name to ask for.
    pub(super) fn last(&self) -> &Name {
        self.names.last().unwrap_or(self.asked)
    }

    /// Follows the aliases of a response (of code NOERROR or NXDOMAIN) and reads what it says of
    /// the name at their end. Records of other names and classes are not looked at: nobody asked.
    pub(super) fn read(&mut self, mut response: Message, kind: RecordType) -> Reading {
        let start = self.names.len();
        loop {
            let of_last = |record: &Record| {
                record.dns_class == DNSClass::IN && is_same_name(&record.name, self.last())
            };
            // Empty data of a type that has data is a form of dynamic update (RFC 2136), no answer.
            let wanted = |record: &Record| {
                record.record_type() == kind
                    && !matches!(record.data, RData::Update0(_))
                    && of_last(record)
            };
            let first = response.answers.iter().position(wanted);
            if let Some(first) = first {
                // Those before it are known, and most answers have one alone.
                let mut rest = response.answers.split_off(first);
                let others = rest.split_off(1).into_iter().filter(wanted);
                rest.extend(others);
                return Reading::Records(rest);
            }
            let alias = response
                .answers
                .iter()
                .find_map(|record| match &record.data {
                    RData::CNAME(target) if of_last(record) => {
                        Some((record.clone(), target.0.clone()))
                    }
                    _ => None,
                });
            let Some((alias, target)) = alias else {
                break;
            };
            if *self.asked == target || self.names.contains(&target) {
                return Reading::Loop;
            }
            if self.names.len() == MAX_ALIASES {
                return Reading::TooLong;
            }
            self.names.push(target);
            self.aliases.push(alias);
        }
        let soa = response.authorities.iter().find(|record| {
            matches!(record.data, RData::SOA(_)) && record.name.zone_of(self.last())
        });
        if response.response_code == ResponseCode::NXDomain {
            return Reading::NxDomain(soa.cloned());
        }
        // RFC 2308 section 2.2: with a SOA the absence is the answer. Without one, a server that
        // is not recursive may have stopped at the alias.
        if self.names.len() > start && soa.is_none() {
            Reading::Follow
        } else {
            Reading::NoData(soa.cloned())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use hickory_resolver::proto::{
        op::OpCode,
        rr::rdata::{A, AAAA, CNAME, SOA},
    };

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn response(records: Vec<Record>) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.add_answers(records);
        message
    }

    fn a(owner: &str, address: [u8; 4]) -> Record {
        Record::from_rdata(name(owner), 1, RData::A(A(address.into())))
    }

    fn cname(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 1, RData::CNAME(CNAME(name(target))))
    }

    fn soa() -> Record {
        let data = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 1);
        Record::from_rdata(Name::root(), 1, RData::SOA(data))
    }

    fn read(owner: &str, message: &Message) -> (Reading, Name) {
        let owner = name(owner);
        let mut chain = Chain::new(&owner);
        let reading = chain.read(message.clone(), RecordType::A);
        (reading, chain.last().clone())
    }

    #[test]
    fn addresses_of_the_name_alone() {
        let other_type = Record::from_rdata(
            name("a."),
            1,
            RData::AAAA(AAAA("2001:db8::1".parse().unwrap())),
        );
        let mut other_class = a("a.", [192, 0, 2, 8]);
        other_class.dns_class = DNSClass::CH;
        let message = response(vec![
            a("A.", [192, 0, 2, 1]),
            a("b.", [192, 0, 2, 9]),
            other_type,
            other_class,
        ]);
        let expected = Reading::Records(vec![a("a.", [192, 0, 2, 1])]);
        assert_eq!(read("a.", &message).0, expected);
    }

    #[test]
    fn a_chain_in_any_order() {
        let message = response(vec![
            a("c.", [192, 0, 2, 1]),
            cname("b.", "C."),
            cname("a.", "b."),
        ]);
        let asked = name("a.");
        let mut chain = Chain::new(&asked);
        let expected = Reading::Records(vec![a("c.", [192, 0, 2, 1])]);
        assert_eq!(chain.read(message, RecordType::A), expected);
        assert_eq!(chain.last(), &name("c."));
        let records = vec![
            cname("a.", "b."),
            cname("b.", "C."),
            a("c.", [192, 0, 2, 1]),
        ];
        assert_eq!(chain.ending_in(vec![a("c.", [192, 0, 2, 1])]), records);
    }

    #[test]
    fn a_bare_alias_is_followed() {
        let message = response(vec![cname("a.", "b.")]);
        assert_eq!(read("a.", &message), (Reading::Follow, name("b.")));
    }

    #[test]
    fn an_alias_of_nothing() {
        let mut message = response(vec![cname("a.", "b.")]);
        message.add_authority(soa());
        assert_eq!(read("a.", &message).0, Reading::NoData(Some(soa())));
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(read("a.", &message).0, Reading::NxDomain(Some(soa())));
        assert_eq!(read("a.", &response(vec![])).0, Reading::NoData(None));
    }

    #[test]
    fn the_authority_of_another_zone_says_nothing() {
        let mut message = response(vec![]);
        let mut other = soa();
        other.name = name("b.");
        message.add_authority(other);
        assert_eq!(read("a.", &message).0, Reading::NoData(None));
    }

    #[test]
    fn loops() {
        let message = response(vec![cname("a.", "a.")]);
        assert_eq!(read("a.", &message).0, Reading::Loop);
        let message = response(vec![cname("a.", "b."), cname("b.", "a.")]);
        assert_eq!(read("a.", &message).0, Reading::Loop);
        // Over two responses.
        let asked = name("a.");
        let mut chain = Chain::new(&asked);
        let kind = RecordType::A;
        let first = response(vec![cname("a.", "b.")]);
        assert_eq!(chain.read(first, kind), Reading::Follow);
        let second = response(vec![cname("b.", "A.")]);
        assert_eq!(chain.read(second, kind), Reading::Loop);
    }

    #[test]
    fn sixteen_aliases_and_no_more() {
        let chain = |aliases: u32| {
            let mut records: Vec<_> = (0..aliases)
                .map(|i| cname(&format!("n{i}."), &format!("n{}.", i + 1)))
                .collect();
            records.push(a(&format!("n{aliases}."), [192, 0, 2, 1]));
            response(records)
        };
        assert!(matches!(read("n0.", &chain(16)).0, Reading::Records(_)));
        assert_eq!(read("n0.", &chain(17)).0, Reading::TooLong);
    }
}
