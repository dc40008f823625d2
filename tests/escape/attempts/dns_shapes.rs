//! DNS messages in odd shapes, most of them about an allowed name: whatever of them is the command's
//! choice must not reach a server (I7).

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::libc;

use super::{Attempt, Context, address, any, dns::query, set};
use crate::{judge::RARE_TYPES, support::world::DNS, sys as calls};

/// The name that every list of the suite allows.
pub(super) const ALLOWED: &str = "api.example.org";

/// How long an answer is waited for: what asks a nameserver has asked it by then.
const PATIENCE: Duration = Duration::from_millis(60);

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("DNS", name, body).both();
    [
        attempt(
            "an allowed name, id, flags and class as the message",
            header,
        ),
        attempt(
            "an allowed name, client subnet, cookie, padding, other options",
            options,
        ),
        attempt("an allowed name, records beside the question", beside),
        attempt("an allowed name, data behind the end", behind),
        attempt("an allowed name, updated and notified of", opcodes),
        attempt(
            "an allowed name, with other names as more questions",
            counts,
        ),
        attempt("TCP, several messages in a segment", segment),
        attempt("TCP, a length that lies", length),
        // Last, because the rate of such types is used up after it.
        attempt("an allowed name, its type as the message", types),
    ]
    .concat()
}

/// Types that no other attempt asks for, so that no answer is one that is kept: the first of
/// sixteen.
pub(super) fn own_type(c: &Context) -> u16 {
    0x4000 | (c.port & 0x3ff) << 4
}

fn allowed(c: &Context) -> Vec<u8> {
    numbered(c, 0)
}

fn numbered(c: &Context, number: u16) -> Vec<u8> {
    query(ALLOWED, own_type(c) + number)
}

/// Labels as they are on the wire.
pub(super) fn name(labels: &[&[u8]]) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in labels {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(*label);
    }
    octets.push(0);
    octets
}

/// A query whose question is these octets.
pub(super) fn asking(name: &[u8], kind: u16) -> Vec<u8> {
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], name, &kind.to_be_bytes(), &[0, 1]].concat()
}

/// A record of the root, of one of these types.
fn record(kind: u16, class: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [
        &[0][..],
        &kind.to_be_bytes(),
        &class.to_be_bytes(),
        &[0; 4],
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

/// A character string of a TXT record.
fn text(c: &Context) -> Vec<u8> {
    let payload = c.payload();
    [&[u8::try_from(payload.len()).unwrap()][..], &payload].concat()
}

/// Sends all of them, and waits a moment for the answer to each. From a port of its own, since not
/// all that is sent here has the token in it; where an earlier policy knows a flow from there, and
/// this one does not, from another.
pub(super) fn ask(c: &Context, messages: &[Vec<u8>]) -> io::Result<()> {
    let any = any(c.family() == 1);
    let first = ask_from(c, (any, c.port).into(), messages);
    match first {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            ask_from(c, (any, 0).into(), messages)
        }
        other => other,
    }
}

fn ask_from(c: &Context, own: SocketAddr, messages: &[Vec<u8>]) -> io::Result<()> {
    let name = &allowed(c)[12..29];
    let socket = UdpSocket::bind(own)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut last = Ok(());
    for (message, number) in messages.iter().zip(0..) {
        let mut message = message.clone();
        let is_own = message.get(29..31) == Some(&own_type(c).to_be_bytes());
        if is_own && message[12..29].eq_ignore_ascii_case(name) {
            message[29..31].copy_from_slice(&(own_type(c) + number).to_be_bytes());
        }
        last = socket.send_to(&message, DNS[c.family()]).map(drop);
        if last.is_ok() {
            let _ = socket.recv(&mut [0; 2048]);
        }
    }
    last
}

fn header(c: &Context) -> io::Result<()> {
    let [a, b, ..] = c.token().0;
    let change = |changes: &[(usize, u8)]| {
        let mut octets = allowed(c);
        octets[..2].copy_from_slice(&[a, b]);
        let end = octets.len();
        for (index, value) in changes {
            // Beyond the header: counted from the end, where the class is.
            let index = if *index < 12 {
                *index
            } else {
                end + 12 - *index
            };
            octets[index] = *value;
        }
        octets
    };
    ask(
        c,
        &[
            // AA, TC and RD; RA, Z, AD, CD and a code; RD left out.
            change(&[(2, 0x07)]),
            change(&[(3, 0xff)]),
            change(&[(2, 0), (3, 0x50)]),
            change(&[(2, 0x81)]),
            // Classes CH, ANY, NONE and one that nobody has; the bit of multicast DNS.
            change(&[(13, 3)]),
            change(&[(13, 255)]),
            change(&[(13, 254)]),
            change(&[(13, b), (14, a)]),
            change(&[(14, 0x80)]),
        ],
    )
}

/// Client subnet (RFC 7871), cookie (RFC 7873), padding (RFC 7830), NSID, key tag, and what nobody
/// knows; a header of EDNS that says something; two of them.
fn options(c: &Context) -> io::Result<()> {
    let token = c.token().0;
    let payload = c.payload();
    let option = |code: u16, data: &[u8]| {
        let length = u16::try_from(data.len()).unwrap();
        [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
    };
    let with = |records: &[Vec<u8>]| {
        let mut octets = allowed(c);
        octets[11] = u8::try_from(records.len()).unwrap();
        octets.extend(records.concat());
        octets
    };
    let subnet = [&[0, 2, 128, 0][..], &token, &token].concat();
    let data = [
        option(8, &subnet),
        option(10, &token),
        option(12, &payload),
        option(3, &payload),
        option(14, &payload),
        option(26946, &payload),
        // An option that is longer than the record.
        [&[0, 10, 0xff, 0xff][..], &payload].concat(),
    ];
    let mut messages: Vec<_> = data
        .iter()
        .map(|data| with(&[record(41, 1232, data)]))
        .collect();
    messages.push(with(&[record(41, 1232, &data.concat())]));
    messages.push(with(&[
        record(41, 1232, &data[0]),
        record(41, 1232, &data[1]),
    ]));
    let size = u16::from_be_bytes([token[0], token[1]]);
    let mut said = record(41, size, &data[5]);
    // The extended code, the version, the flags.
    said[5..9].copy_from_slice(&[token[2], 0, token[3] | 0x80, token[4]]);
    messages.push(with(std::slice::from_ref(&said)));
    said[6] = token[5] | 1;
    messages.push(with(&[said]));
    ask(c, &messages)
}

/// As answer, authority and additional record; a signature of the transaction.
fn beside(c: &Context) -> io::Result<()> {
    let text = text(c);
    let with = |section: usize, record: Vec<u8>| {
        let mut octets = allowed(c);
        octets[section] = 1;
        octets.extend(record);
        octets
    };
    let payload = c.payload();
    let messages: Vec<_> = [7, 9, 11]
        .into_iter()
        .map(|section| with(section, record(16, 1, &text)))
        .chain([250, 24, 249].map(|kind| with(11, record(kind, 255, &payload))))
        .collect();
    ask(c, &messages)
}

fn behind(c: &Context) -> io::Result<()> {
    let payload = c.payload();
    let edns = record(41, 1232, &[]);
    let mut with_edns = [allowed(c), edns, payload.clone()].concat();
    with_edns[11] = 1;
    let filled = [allowed(c), payload.clone(), vec![0; 1000], payload.clone()].concat();
    let long = [allowed(c), payload.repeat(100)].concat();
    let second = [allowed(c), super::dns::question(c)].concat();
    ask(
        c,
        &[
            [allowed(c), payload].concat(),
            with_edns,
            second,
            filled,
            long,
        ],
    )
}

/// Every opcode, those of the update (RFC 2136) and the notification (RFC 1996) with what they are
/// for.
fn opcodes(c: &Context) -> io::Result<()> {
    let text = text(c);
    let mut messages: Vec<_> = (1..16)
        .map(|opcode: u8| {
            let mut octets = [allowed(c), c.payload()].concat();
            octets[2] = opcode << 3 | 1;
            octets
        })
        .collect();
    for (opcode, section) in [(4_u8, 7_usize), (5, 7), (5, 9), (5, 11)] {
        let mut octets = query(ALLOWED, 6);
        octets[2] = opcode << 3;
        octets[section] = 1;
        octets.extend(record(16, 1, &text));
        messages.push(octets);
    }
    ask(c, &messages)
}

/// More questions than the count says, and the other way round.
fn counts(c: &Context) -> io::Result<()> {
    let other = &super::dns::question(c)[12..];
    let with = |count: [u8; 2], parts: &[&[u8]]| {
        let mut octets = parts.concat();
        octets[4..6].copy_from_slice(&count);
        octets
    };
    let allowed = allowed(c);
    let header = allowed[..12].to_vec();
    ask(
        c,
        &[
            with([0, 0], &[&allowed, other]),
            with([0, 1], &[&allowed, other]),
            with([0, 2], &[&header, other, &allowed[12..]]),
            with([0, 3], &[&allowed, other, &allowed[12..]]),
            with([0, 9], &[&allowed, other]),
            with([1, 1], &[&allowed, other]),
            with([0xff, 0xff], &[&allowed, other]),
        ],
    )
}

/// As fast as they are taken.
fn types(c: &Context) -> io::Result<()> {
    let began = Instant::now();
    let mut last = Ok(());
    for port in [c.port, 0] {
        let socket = UdpSocket::bind((any(c.family() == 1), port))?;
        // One that is passed on, within a rate, after one that is not.
        let rare = RARE_TYPES.into_iter().cycle();
        for kind in (1000..).zip(rare).flat_map(|(kind, rare)| [kind, rare]) {
            last = socket
                .send_to(&query(ALLOWED, kind), DNS[c.family()])
                .map(drop);
            let is_long = began.elapsed() > Duration::from_millis(400);
            if last.is_err() || is_long {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        if last.is_ok() {
            break;
        }
    }
    last
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes()[..], message].concat()
}

/// Each on a connection of its own; whatever comes back is waited for.
fn converse(c: &Context, conversations: &[Vec<u8>]) -> io::Result<()> {
    let to = DNS[c.family()];
    let mut last = Ok(());
    for (number, octets) in conversations.iter().enumerate() {
        let socket = c.tcp()?;
        // The first from a port that is known again, where nothing but its first segment leaves.
        if number == 0 {
            set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            let own: (IpAddr, u16) = (any(to.is_ipv6()), c.port);
            calls::bind(&socket, &address(own.into()))?;
        }
        last = speak(socket, to, octets);
    }
    last
}

fn speak(socket: OwnedFd, to: SocketAddr, octets: &[u8]) -> io::Result<()> {
    let copy = socket.try_clone()?;
    super::connect_and_send(socket, &address(to), octets)?;
    let mut stream = TcpStream::from(copy);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    while stream.read(&mut [0; 2048]).is_ok_and(|length| length > 0) {}
    Ok(())
}

fn segment(c: &Context) -> io::Result<()> {
    let other = framed(&super::dns::question(c));
    let allowed = |number| framed(&numbered(c, number));
    let behind = |number| framed(&[numbered(c, number), c.payload()].concat());
    converse(
        c,
        &[
            [allowed(0), other.clone(), allowed(1)].concat(),
            [other.clone(), allowed(2), c.payload()].concat(),
            [behind(3), other.clone(), behind(4)].concat(),
            [allowed(5).repeat(20), other.repeat(20)].concat(),
        ],
    )
}

/// More than there is, less, nothing, and as much as it can say.
fn length(c: &Context) -> io::Result<()> {
    let whole = allowed(c).len();
    let rest = [super::dns::question(c), c.payload()].concat();
    let all = whole + rest.len();
    let lengths = [all + 1, all - 1, whole, whole - 3, 12, 1, 0, 1233, 65535];
    let conversations: Vec<_> = lengths
        .into_iter()
        .zip(0..)
        .map(|(length, number)| {
            let length = u16::try_from(length).unwrap().to_be_bytes();
            [&length[..], &numbered(c, number), &rest].concat()
        })
        .collect();
    converse(c, &conversations)
}
