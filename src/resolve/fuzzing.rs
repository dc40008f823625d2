//! For `fuzz/`: octets of a nameserver, on the way that a response takes.

use hickory_resolver::proto::{
    op::Query,
    op::ResponseCode::{NXDomain, NoError},
    rr::{Name, RecordType},
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    Found,
    answer::{Chain, Reading},
    decode,
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
    let kind = RecordType::from(kind);
    let asked = Name::from_ascii(name).ok()?;
    let mut chain = Chain::new(&asked);
    let mut said = Vec::new();
    for octets in responses {
        let question = Query::query(chain.last().clone(), kind);
        said.push(match decode(octets) {
            None => Said::Malformed,
            Some(message) if !answers(&message, &question) => Said::Ignored,
            Some(message)
                if message.truncation || !matches!(message.response_code, NoError | NXDomain) =>
            {
                Said::Unusable
            }
            Some(message) => match chain.read(message, kind) {
                Reading::Records(records) => {
                    Said::Addresses(records.iter().filter_map(|r| r.data.ip_addr()).collect())
                }
                Reading::Follow => {
                    let last = chain.last().to_lowercase();
                    said.push(Said::Follow(last.iter().map(<[u8]>::to_vec).collect()));
                    continue;
                }
                Reading::NoData(_) => Said::NoData,
                Reading::NxDomain(_) => Said::NxDomain,
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

/// What one response says of a name, as the proxy gets it.
pub(crate) fn found(name: &str, kind: RecordType, octets: &[u8]) -> Option<Found> {
    let asked = Name::from_ascii(name).ok()?;
    let mut chain = Chain::new(&asked);
    let message = decode(octets)?;
    let question = Query::query(chain.last().clone(), kind);
    let usable = !message.truncation && matches!(message.response_code, NoError | NXDomain);
    if !usable || !answers(&message, &question) {
        return None;
    }
    let (last, nxdomain, soa) = match chain.read(message, kind) {
        Reading::Records(records) => (records, false, None),
        Reading::NoData(soa) => (Vec::new(), false, soa),
        Reading::NxDomain(soa) => (Vec::new(), true, soa),
        Reading::Follow | Reading::Loop | Reading::TooLong => return None,
    };
    Some(Found {
        records: chain.ending_in(last),
        nxdomain,
        soa,
        server: SocketAddr::from((Ipv4Addr::LOCALHOST, 53)),
    })
}
