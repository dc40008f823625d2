//! What is known of a question → the message that says it. Pure.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        Name as DnsName, RData, Record, RecordType,
        rdata::{
            A, AAAA, HINFO, PTR, SVCB,
            opt::EdnsOption,
            svcb::{SvcParamKey, SvcParamValue},
        },
    },
};

use super::request::{PAYLOAD, Request, respond};

/// Extended DNS errors (RFC 8914) that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extended {
    Other,
    Limited,
    Stale,
    Blocked,
    Filtered,
    NotSupported,
    NoReachableAuthority,
    NetworkError,
    InvalidData,
}

impl Extended {
    /// The code, and words for whoever reads them in `dig`.
    fn option(self) -> EdnsOption {
        let (code, text): (u16, &str) = match self {
            Self::Other => (0, "egress-init: not now"),
            Self::Limited => (
                0,
                "egress-init: beyond --dns-wildcard-rate or --dns-wildcard-length",
            ),
            Self::Stale => (3, "egress-init: no newer answer"),
            Self::Blocked => (15, "egress-init: not in the allowlist"),
            Self::Filtered => (17, "egress-init: no address may come from DNS"),
            Self::NotSupported => (21, ""),
            Self::NoReachableAuthority => (22, ""),
            Self::NetworkError => (23, ""),
            Self::InvalidData => (24, ""),
        };
        let data = [&code.to_be_bytes(), text.as_bytes()].concat();
        EdnsOption::Unknown(15, data)
    }
}

/// A response before it is addressed to one client.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub soa: Option<Record>,
    pub extended: Option<Extended>,
}

impl Reply {
    pub(super) fn error(code: ResponseCode, extended: Extended) -> Self {
        Self {
            code,
            answers: Vec::new(),
            soa: None,
            extended: Some(extended),
        }
    }

    pub(super) fn refused() -> Self {
        Self::error(ResponseCode::Refused, Extended::Blocked)
    }

    pub(super) fn of(answers: Vec<Record>) -> Self {
        Self {
            code: ResponseCode::NoError,
            answers,
            soa: None,
            extended: None,
        }
    }

    /// For this client, no longer than `limit`; what does not fit is left out as a whole, and TC
    /// says so.
    pub(super) fn encode(&self, request: &Request, limit: usize) -> Option<Vec<u8>> {
        let mut message = respond(request, self.code);
        let asked = request.question.name();
        message.add_answers(self.answers.iter().cloned().map(|mut record| {
            // Written as the client wrote it, it takes two octets.
            if record.name == *asked {
                record.name = asked.clone();
            }
            record
        }));
        if let Some(soa) = &self.soa {
            message.add_authority(soa.clone());
        }
        if request.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            if let Some(extended) = self.extended {
                edns.options_mut().insert(extended.option());
            }
            message.set_edns(edns);
        }
        let octets = message.to_vec().ok()?;
        if octets.len() <= limit {
            return Some(octets);
        }
        message.answers.clear();
        message.authorities.clear();
        message.metadata.truncation = true;
        message.to_vec().ok()
    }
}

/// `localhost`, and what lies below it (RFC 6761 section 6.3).
pub(super) fn localhost(name: &DnsName, kind: RecordType) -> Reply {
    let data = match kind {
        RecordType::A => Some(RData::A(A::new(127, 0, 0, 1))),
        RecordType::AAAA => Some(RData::AAAA(AAAA::new(0, 0, 0, 0, 0, 0, 0, 1))),
        _ => None,
    };
    Reply::of(data.into_iter().map(|data| local(name, data)).collect())
}

/// What the operator has for a name.
pub(super) fn known(name: &DnsName, kind: RecordType, addresses: &[IpAddr]) -> Reply {
    let records = addresses.iter().filter_map(|address| {
        let data = match (kind, address) {
            (RecordType::A, IpAddr::V4(address)) => RData::A(A(*address)),
            (RecordType::AAAA, IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
            _ => return None,
        };
        Some(local(name, data))
    });
    Reply::of(records.collect())
}

/// The name of an address.
pub(super) fn pointer(name: &DnsName, target: DnsName) -> Reply {
    Reply::of(vec![local(name, RData::PTR(PTR(target)))])
}

/// To a query for ANY (RFC 8482 section 4.2).
pub(super) fn any(name: &DnsName) -> Reply {
    let data = HINFO::new("RFC8482".to_owned(), String::new());
    Reply::of(vec![local(name, RData::HINFO(data))])
}

/// For how long what is said without asking anybody counts.
pub(super) const LOCAL_TTL: u32 = 60;

fn local(name: &DnsName, data: RData) -> Record {
    Record::from_rdata(name.clone(), LOCAL_TTL, data)
}

/// Every address that the records would bring to the client.
pub(super) fn addresses(records: &[Record]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for record in records {
        addresses.extend(record.data.ip_addr());
        for (_, value) in binding(record).map_or(&[][..], |binding| &binding.svc_params) {
            match value {
                SvcParamValue::Ipv4Hint(hint) => {
                    addresses.extend(hint.0.iter().map(|a| IpAddr::V4(a.0)));
                }
                SvcParamValue::Ipv6Hint(hint) => {
                    addresses.extend(hint.0.iter().map(|aaaa| IpAddr::V6(aaaa.0)));
                }
                _ => {}
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The data of HTTPS and SVCB records (RFC 9460).
fn binding(record: &Record) -> Option<&SVCB> {
    match &record.data {
        RData::SVCB(svcb) => Some(svcb),
        RData::HTTPS(https) => Some(&https.0),
        _ => None,
    }
}

/// Takes out of the records what the client may not have: addresses that were `refused`, the keys
/// of encrypted client hellos, and bindings to a target that `may_ask` says the client could not
/// ask for anyway. Where nothing of the type is left, the aliases go too.
pub(super) fn filter(
    records: Vec<Record>,
    kind: RecordType,
    refused: &[IpAddr],
    may_ask: impl Fn(&DnsName) -> bool,
) -> Vec<Record> {
    let keep = |mut record: Record| {
        if let Some(address) = record.data.ip_addr() {
            return (!refused.contains(&address)).then_some(record);
        }
        let owner = record.name.clone();
        let binding = match &mut record.data {
            RData::SVCB(svcb) => svcb,
            RData::HTTPS(https) => &mut https.0,
            _ => return Some(record),
        };
        let target = &binding.target_name;
        if !target.is_root() && *target != owner && !may_ask(target) {
            return None;
        }
        filter_binding(binding, refused).then_some(record)
    };
    let kept: Vec<_> = records.into_iter().filter_map(keep).collect();
    match kept.last() {
        Some(last) if last.record_type() == kind => kept,
        _ => Vec::new(),
    }
}

/// Whether the binding is still one: what it calls mandatory must be there.
fn filter_binding(binding: &mut SVCB, refused: &[IpAddr]) -> bool {
    binding.svc_params.retain_mut(|(key, value)| match value {
        SvcParamValue::Ipv4Hint(hint) => {
            hint.0.retain(|a| !refused.contains(&IpAddr::V4(a.0)));
            !hint.0.is_empty()
        }
        SvcParamValue::Ipv6Hint(hint) => {
            hint.0.retain(|aaaa| !refused.contains(&IpAddr::V6(aaaa.0)));
            !hint.0.is_empty()
        }
        _ => *key != SvcParamKey::EchConfigList,
    });
    let there = |key: &SvcParamKey| binding.svc_params.iter().any(|(there, _)| there == key);
    binding.svc_params.iter().all(|(_, value)| match value {
        SvcParamValue::Mandatory(mandatory) => mandatory.0.iter().all(there),
        _ => true,
    })
}

/// Gives every record the same TTL, in seconds: the least of the whole answer, counted down.
pub(super) fn set_ttl(message: &mut Message, ttl: Duration) {
    let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let records = message.answers.iter_mut().chain(&mut message.authorities);
    records.for_each(|record| record.ttl = ttl);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use hickory_resolver::proto::{
        op::{MessageType, OpCode, Query},
        rr::rdata::{
            CNAME, HTTPS,
            svcb::{Alpn, EchConfigList, IpHint, Mandatory},
        },
    };

    fn name(text: &str) -> DnsName {
        DnsName::from_ascii(text).unwrap()
    }

    fn a(owner: &str, last: u8) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A::new(192, 0, 2, last)))
    }

    fn request(edns: bool) -> Request {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name("A.Example."), RecordType::A));
        if edns {
            message.set_edns(Edns::new());
        }
        Request::read(&message.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn a_reply_echoes_the_question() {
        let octets = Reply::of(vec![a("a.example.", 1)])
            .encode(&request(false), 512)
            .unwrap();
        let message = Message::from_vec(&octets).unwrap();
        assert_eq!(
            (message.id, message.response_code),
            (7, ResponseCode::NoError)
        );
        assert_eq!(message.queries[0].name().to_ascii(), "A.Example.");
        assert_eq!(message.answers, [a("a.example.", 1)]);
        assert!(message.recursion_available);
        assert!(!message.authoritative && !message.authentic_data && !message.truncation);
        assert_eq!(message.edns, None);
    }

    #[test]
    fn an_extended_error_goes_to_those_who_speak_edns() {
        let octets = Reply::refused().encode(&request(true), 512).unwrap();
        let message = Message::from_vec(&octets).unwrap();
        assert_eq!(message.response_code, ResponseCode::Refused);
        let edns = message.edns.unwrap();
        assert_eq!(edns.max_payload(), PAYLOAD);
        let option = edns.option(15.into()).unwrap();
        assert!(matches!(option, EdnsOption::Unknown(15, data) if data.starts_with(&[0, 15])));
        let octets = Reply::refused().encode(&request(false), 512).unwrap();
        assert_eq!(Message::from_vec(&octets).unwrap().edns, None);
    }

    #[test]
    fn what_does_not_fit_is_left_out_as_a_whole() {
        let reply = Reply::of((0..100).map(|last| a("a.example.", last)).collect());
        let octets = reply.encode(&request(true), 1232).unwrap();
        let message = Message::from_vec(&octets).unwrap();
        assert!(message.truncation && message.answers.is_empty() && message.edns.is_some());
        let octets = reply.encode(&request(true), 65535).unwrap();
        let message = Message::from_vec(&octets).unwrap();
        assert_eq!((message.truncation, message.answers.len()), (false, 100));
    }

    fn https(priority: u16, target: &str, params: Vec<(SvcParamKey, SvcParamValue)>) -> Record {
        let data = HTTPS(SVCB::new(priority, name(target), params));
        Record::from_rdata(name("a.example."), 60, RData::HTTPS(data))
    }

    fn alpn() -> (SvcParamKey, SvcParamValue) {
        let alpn = Alpn(vec!["h2".to_owned()]);
        (SvcParamKey::Alpn, SvcParamValue::Alpn(alpn))
    }

    fn hint(last: &[u8]) -> (SvcParamKey, SvcParamValue) {
        let hint = last.iter().map(|&last| A::new(192, 0, 2, last)).collect();
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(hint)))
    }

    fn hint6() -> (SvcParamKey, SvcParamValue) {
        let hint = IpHint(vec![AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)]);
        (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(hint))
    }

    fn ech() -> (SvcParamKey, SvcParamValue) {
        let ech = EchConfigList(vec![1, 2, 3]);
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(ech),
        )
    }

    #[test]
    fn hints_are_addresses_too() {
        let records = [
            https(1, ".", vec![alpn(), hint(&[2, 1]), hint6()]),
            a("a.example.", 2),
        ];
        let expected: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(addresses(&records), expected);
    }

    #[test]
    fn bindings_lose_refused_hints_and_keys() {
        let refused: [IpAddr; 2] = ["192.0.2.2", "2001:db8::1"].map(|text| text.parse().unwrap());
        let record = https(1, ".", vec![alpn(), hint(&[1, 2]), ech(), hint6()]);
        let kept = filter(vec![record], RecordType::HTTPS, &refused, |_| false);
        assert_eq!(kept, [https(1, ".", vec![alpn(), hint(&[1])])]);
        let mandatory = |keys| {
            let mandatory = SvcParamValue::Mandatory(Mandatory(keys));
            let params = vec![(SvcParamKey::Mandatory, mandatory), alpn(), ech()];
            filter(vec![https(1, ".", params)], RecordType::HTTPS, &[], |_| {
                false
            })
        };
        assert_eq!(mandatory(vec![SvcParamKey::EchConfigList]), []);
        assert_eq!(mandatory(vec![SvcParamKey::Alpn]).len(), 1);
    }

    #[test]
    fn bindings_to_a_target_that_is_not_allowed_go() {
        let may_ask = |target: &DnsName| *target == name("allowed.example.");
        let records = vec![
            https(1, "other.example.", vec![alpn(), hint(&[1])]),
            https(0, "other.example.", vec![]),
            https(2, "allowed.example.", vec![alpn()]),
            https(3, "A.example.", vec![alpn()]),
        ];
        let expected = records[2..].to_vec();
        assert_eq!(filter(records, RecordType::HTTPS, &[], may_ask), expected);
    }

    #[test]
    fn aliases_to_nothing_go_too() {
        let alias = Record::from_rdata(name("a.example."), 60, RData::CNAME(CNAME(name("b."))));
        let records = vec![alias, a("b.", 1), a("b.", 2)];
        let refused: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let some = filter(records.clone(), RecordType::A, &refused[..1], |_| false);
        assert_eq!(some.len(), 2);
        assert_eq!(filter(records, RecordType::A, &refused, |_| false), []);
    }
}
