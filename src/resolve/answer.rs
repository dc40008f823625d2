//! One response → what it says of a name: addresses, another name to ask for, or nothing.
//! Pure.

use std::net::IpAddr;

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};

/// Aliases that are followed for one name. Real chains have two to five.
const MAX_ALIASES: usize = 16;

/// The way from the name asked for to the one that has the addresses.
pub(super) struct Chain {
    /// Every name so far; the last is the one to ask for.
    names: Vec<Name>,
}

/// What a response says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The addresses.
    Addresses(Vec<IpAddr>),
    /// The chain grew and the response does not say where it ends: ask for its last name.
    Follow,
    /// The name exists and has no record of this type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// A name is an alias of itself, in the end.
    Loop,
    /// More than [`MAX_ALIASES`].
    TooLong,
}

impl Chain {
    pub(super) fn new(name: Name) -> Self {
        Self { names: vec![name] }
    }

    /// The name to ask for.
    pub(super) fn last(&self) -> &Name {
        // The list starts with one name and only grows.
        &self.names[self.names.len() - 1]
    }

    /// Follows the aliases of a response (of code NOERROR or NXDOMAIN) and reads what it says of
    /// the name at their end. Records of other names and classes are not looked at: nobody asked.
    pub(super) fn read(&mut self, response: &Message, kind: RecordType) -> Reading {
        let start = self.names.len();
        loop {
            let records = || {
                let of_last = |record: &&_| {
                    let record: &hickory_resolver::proto::rr::Record = record;
                    record.dns_class == DNSClass::IN && record.name == *self.last()
                };
                response.answers.iter().filter(of_last)
            };
            let addresses: Vec<_> = records()
                .filter(|record| record.record_type() == kind)
                .filter_map(|record| match &record.data {
                    RData::A(a) => Some(IpAddr::V4(a.0)),
                    RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                    _ => None,
                })
                .collect();
            if !addresses.is_empty() {
                return Reading::Addresses(addresses);
            }
            let target = records().find_map(|record| match &record.data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            });
            let Some(target) = target else {
                break;
            };
            if self.names.contains(&target) {
                return Reading::Loop;
            }
            if self.names.len() > MAX_ALIASES {
                return Reading::TooLong;
            }
            self.names.push(target);
        }
        if response.response_code == ResponseCode::NXDomain {
            return Reading::NxDomain;
        }
        // RFC 2308 section 2.2: with a SOA the absence is the answer. Without one, a server that
        // is not recursive may have stopped at the alias.
        let absent = response
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::SOA);
        if self.names.len() > start && !absent {
            Reading::Follow
        } else {
            Reading::NoData
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use hickory_resolver::proto::{
        op::OpCode,
        rr::{
            Record,
            rdata::{A, AAAA, CNAME, SOA},
        },
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
        let mut chain = Chain::new(name(owner));
        let reading = chain.read(message, RecordType::A);
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
        let expected = Reading::Addresses(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(read("a.", &message).0, expected);
    }

    #[test]
    fn a_chain_in_any_order() {
        let message = response(vec![
            a("c.", [192, 0, 2, 1]),
            cname("b.", "C."),
            cname("a.", "b."),
        ]);
        let expected = Reading::Addresses(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(read("a.", &message), (expected, name("c.")));
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
        assert_eq!(read("a.", &message).0, Reading::NoData);
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(read("a.", &message).0, Reading::NxDomain);
        assert_eq!(read("a.", &response(vec![])).0, Reading::NoData);
    }

    #[test]
    fn loops() {
        let message = response(vec![cname("a.", "a.")]);
        assert_eq!(read("a.", &message).0, Reading::Loop);
        let message = response(vec![cname("a.", "b."), cname("b.", "a.")]);
        assert_eq!(read("a.", &message).0, Reading::Loop);
        // Over two responses.
        let mut chain = Chain::new(name("a."));
        let kind = RecordType::A;
        let first = response(vec![cname("a.", "b.")]);
        assert_eq!(chain.read(&first, kind), Reading::Follow);
        let second = response(vec![cname("b.", "A.")]);
        assert_eq!(chain.read(&second, kind), Reading::Loop);
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
        assert!(matches!(read("n0.", &chain(16)).0, Reading::Addresses(_)));
        assert_eq!(read("n0.", &chain(17)).0, Reading::TooLong);
    }
}
