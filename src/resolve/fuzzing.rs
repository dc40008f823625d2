//! For `fuzz/`: octets of a nameserver, on the way that a response takes.

use hickory_resolver::proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use std::net::IpAddr;

use super::{
    answer::{Chain, Reading},
    udp::answers,
};

/// What a response says, or why it says nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Octets that are no DNS message.
    Malformed,
    /// A message that is no response to the question.
    Ignored,
    /// A response, cut off or with a code that says nothing of the name.
    Unusable,
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// An alias whose end another query has to find: its labels in lower case.
    Follow(Vec<Vec<u8>>),
    /// No such record.
    NoData,
    /// No such name.
    NxDomain,
    /// An alias of itself.
    Loop,
    /// Too many aliases.
    TooLong,
}

/// What `responses` say, one after the other, to whoever asks for records of type `kind` of
/// `name` and follows the aliases. The last one tells the end.
#[must_use]
pub fn follow<'a>(
    name: &str,
    kind: u16,
    responses: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<Said>> {
    use hickory_resolver::proto::op::ResponseCode::{NXDomain, NoError};

    let kind = RecordType::from(kind);
    let mut chain = Chain::new(Name::from_ascii(name).ok()?);
    let mut said = Vec::new();
    for octets in responses {
        let question = Query::query(chain.last().clone(), kind);
        said.push(match Message::from_vec(octets) {
            Err(_) => Said::Malformed,
            Ok(message) if !answers(&message, &question) => Said::Ignored,
            Ok(message)
                if message.truncation || !matches!(message.response_code, NoError | NXDomain) =>
            {
                Said::Unusable
            }
            Ok(message) => match chain.read(&message, kind) {
                Reading::Addresses(addresses) => Said::Addresses(addresses),
                Reading::Follow => {
                    let last = chain.last().to_lowercase();
                    said.push(Said::Follow(last.iter().map(<[u8]>::to_vec).collect()));
                    continue;
                }
                Reading::NoData => Said::NoData,
                Reading::NxDomain => Said::NxDomain,
                Reading::Loop => Said::Loop,
                Reading::TooLong => Said::TooLong,
            },
        });
        if !matches!(said.last(), Some(Said::Ignored)) {
            break;
        }
    }
    Some(said)
}
