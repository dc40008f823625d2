//! Octets of a client → a query, or what is wrong with them. Pure.

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::Name as DnsName,
};

use crate::{allowlist::Name, resolve::decode};

/// The longest query that is looked at. Its question takes 271 octets at most; the rest is EDNS.
pub(super) const LONGEST: usize = 1232;

/// What every client takes over UDP (RFC 1035 section 2.3.4), and what is sent at most (DNS Flag
/// Day 2020): it fits into a packet on any path.
const SMALLEST_PAYLOAD: u16 = 512;
pub(super) const PAYLOAD: u16 = 1232;

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub id: u16,
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    pub question: Query,
    /// What the client takes over UDP, where it speaks EDNS.
    pub payload: Option<u16>,
}

/// What is no query.
#[derive(Clone, Debug)]
pub(super) enum Unfit {
    /// Not to be answered: two servers would send each other errors for ever.
    Silence,
    /// Answered with a header alone; there may be no question that can be repeated.
    Header(Box<[u8; 12]>, ResponseCode),
    /// A later version of EDNS (RFC 6891 section 6.1.3).
    BadVersion(Request),
}

impl Request {
    pub(super) fn read(octets: &[u8]) -> Result<Self, Unfit> {
        let Some(header) = octets.first_chunk::<12>() else {
            return Err(Unfit::Silence);
        };
        if header[2] & 0x80 != 0 {
            return Err(Unfit::Silence);
        }
        if header[2] & 0x78 != 0 {
            return Err(error(header, ResponseCode::NotImp));
        }
        // One question (RFC 9619), and no records before the additional ones.
        if header[4..10] != [0, 1, 0, 0, 0, 0] {
            return Err(error(header, ResponseCode::FormErr));
        }
        let Some(mut message) = decode(octets) else {
            return Err(error(header, ResponseCode::FormErr));
        };
        let (Some(question), MessageType::Query, OpCode::Query) =
            (message.queries.pop(), message.message_type, message.op_code)
        else {
            return Err(error(header, ResponseCode::FormErr));
        };
        let request = Self {
            id: message.id,
            recursion_desired: message.recursion_desired,
            checking_disabled: message.checking_disabled,
            question,
            payload: message
                .edns
                .as_ref()
                .map(|edns| edns.max_payload().clamp(SMALLEST_PAYLOAD, PAYLOAD)),
        };
        if message.version() > 0 {
            return Err(Unfit::BadVersion(request));
        }
        Ok(request)
    }

    /// The longest answer over UDP.
    pub(super) fn payload(&self) -> usize {
        self.payload.unwrap_or(SMALLEST_PAYLOAD).into()
    }

    /// The question's name as a list could have it.
    pub(super) fn name(&self) -> Option<Name> {
        listed_form(self.question.name())
    }
}

/// The header of a response with this code and nothing in it.
fn error(query: &[u8; 12], code: ResponseCode) -> Unfit {
    let mut header = Box::new([0; 12]);
    header[..2].copy_from_slice(&query[..2]);
    // QR, and of the query the opcode and RD; then RA.
    header[2] = 0x80 | query[2] & 0x79;
    header[3] = 0x80 | code.low();
    Unfit::Header(header, code)
}

/// A name of DNS as the list writes names; nothing where no list can have it. A label with a dot
/// inside, or any other octet that host names do not have, is not taken for something else.
pub(super) fn listed_form(name: &DnsName) -> Option<Name> {
    let may_be = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let mut text = String::with_capacity(name.len());
    for label in name {
        if !label.iter().all(may_be) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|octet| char::from(octet.to_ascii_lowercase())),
        );
    }
    let name: Name = text.parse().ok()?;
    (name.as_str() == text).then_some(name)
}

/// An empty answer to a query that was understood.
pub(super) fn respond(request: &Request, code: ResponseCode) -> Message {
    let mut response = Message::response(request.id, OpCode::Query);
    response.metadata.recursion_desired = request.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = request.checking_disabled;
    response.metadata.response_code = code;
    response.add_query(request.question.clone());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use hickory_resolver::proto::{
        op::Edns,
        rr::{DNSClass, RData, Record, RecordType, rdata::A},
    };
    use proptest::prelude::*;

    fn query(name: &str) -> Message {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        let name = DnsName::from_ascii(name).unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.metadata.recursion_desired = true;
        message
    }

    fn read(message: &Message) -> Result<Request, Unfit> {
        Request::read(&message.to_vec().unwrap())
    }

    fn code(message: &Message) -> ResponseCode {
        match read(message) {
            Err(Unfit::Header(header, code)) => {
                let response = Message::from_vec(&header[..]).unwrap();
                assert_eq!(response.id, message.id);
                assert_eq!(response.response_code, code);
                assert_eq!(response.message_type, MessageType::Response);
                assert_eq!(response.op_code, message.op_code);
                assert!(response.recursion_desired && response.recursion_available);
                assert!(!response.authoritative && !response.truncation);
                code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query() {
        let mut message = query("wWw.Example.org.");
        message.metadata.checking_disabled = true;
        let request = read(&message).unwrap();
        assert_eq!((request.id, request.payload()), (0x1234, 512));
        assert!(request.recursion_desired && request.checking_disabled);
        assert_eq!(request.question.name().to_ascii(), "wWw.Example.org.");
        assert_eq!(request.name().unwrap().as_str(), "www.example.org");
        for (announced, taken) in [(100, 512), (600, 600), (4096, 1232)] {
            let mut edns = Edns::new();
            edns.set_max_payload(announced);
            message.set_edns(edns);
            assert_eq!(read(&message).unwrap().payload(), taken);
        }
    }

    #[test]
    fn what_is_not_answered() {
        let mut response = query("a.example.");
        response.metadata.message_type = MessageType::Response;
        assert!(matches!(read(&response), Err(Unfit::Silence)));
        for length in 0..12 {
            let octets = &query("a.example.").to_vec().unwrap()[..length];
            assert!(matches!(Request::read(octets), Err(Unfit::Silence)));
        }
    }

    #[test]
    fn what_is_answered_with_an_error() {
        let mut update = query("a.example.");
        update.metadata.op_code = OpCode::Update;
        assert_eq!(code(&update), ResponseCode::NotImp);
        let mut two = query("a.example.");
        two.add_query(query("b.example.").queries[0].clone());
        assert_eq!(code(&two), ResponseCode::FormErr);
        let mut none = query("a.example.");
        none.queries.clear();
        assert_eq!(code(&none), ResponseCode::FormErr);
        let mut answer = query("a.example.");
        let name = answer.queries[0].name().clone();
        answer.add_answer(Record::from_rdata(name, 1, RData::A(A::new(1, 1, 1, 1))));
        assert_eq!(code(&answer), ResponseCode::FormErr);
        let mut edns = Edns::new();
        edns.set_version(1);
        let mut later = query("a.example.");
        later.set_edns(edns);
        assert!(matches!(read(&later), Err(Unfit::BadVersion(_))));
        // More records than octets.
        let mut octets = query("a.example.").to_vec().unwrap();
        octets[11] = 2;
        let unfit = Request::read(&octets);
        assert!(matches!(
            unfit,
            Err(Unfit::Header(_, ResponseCode::FormErr))
        ));
    }

    #[test]
    fn names_that_no_list_has() {
        for (labels, form) in [
            (
                &[&b"www"[..], b"Example", b"org"][..],
                Some("www.example.org"),
            ),
            (
                &[b"_sip", b"_tcp", b"example", b"org"],
                Some("_sip._tcp.example.org"),
            ),
            (&[b"db"], Some("db")),
            (&[], None),
            (&[b"a.b", b"org"], None),
            (&[b"a b", b"org"], None),
            (&[b"*", b"example", b"org"], None),
            (&[b"\xc3\xbc", b"org"], None),
            (&[b"a\0", b"org"], None),
            (&[b"1", b"2", b"3", b"4"], None),
            (&[b"xn--a", b"org"], None),
        ] {
            let name = DnsName::from_labels(labels.iter().copied()).unwrap();
            let listed = listed_form(&name);
            assert_eq!(listed.as_ref().map(Name::as_str), form, "{labels:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Request::read(&octets);
        }

        #[test]
        fn any_damage(at in 0_usize..40, octet: u8, cut in 0_usize..60) {
            let mut message = query("www.example.org.");
            message.set_edns(Edns::new());
            let mut octets = message.to_vec().unwrap();
            let length = octets.len();
            octets[at % length] = octet;
            octets.truncate(length.saturating_sub(cut / 4));
            if let Ok(request) = Request::read(&octets) {
                let class = request.question.query_class();
                prop_assert!(request.name().is_none_or(|name| name.as_str().len() < 254) || class == DNSClass::IN);
            }
        }
    }
}
