//! Names in odd shapes that are asked for, most of them about an allowed one: whatever of them is the
//! command's choice must not reach a server (I7).

use std::io;

use super::{
    Attempt, Context,
    dns::query,
    dns_shapes::{ALLOWED, ask, asking, name, own_type},
};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("DNS", name, body).both();
    [
        attempt(
            "an allowed name, the case of its letters as the message",
            case,
        ),
        attempt("an allowed name, by pointers", pointers),
        attempt("pointers that lead nowhere, and round", loops),
        attempt(
            "an allowed name, dots, blanks and zeros in its labels",
            labels,
        ),
        attempt("names of 255 octets, labels of 63, and longer", long),
        attempt("a zone walked below an allowed name", walk),
        attempt(
            "names that are answered here, with a message in them",
            local,
        ),
    ]
    .concat()
}

/// A bit for each letter, thirteen in a query. Of every type some resolver passes on: those that
/// any program asks for, and one of which nothing can be known here.
fn case(c: &Context) -> io::Result<()> {
    let mut bits = u64::from_be_bytes(c.token().0) | 1;
    let mut messages = Vec::new();
    for kind in [own_type(c), 65, 64, 16, 1, 28] {
        let mixed: String = ALLOWED
            .chars()
            .map(|letter| {
                let upper = letter.is_ascii_alphabetic() && bits & 1 == 1;
                bits = bits.rotate_right(1);
                if upper {
                    letter.to_ascii_uppercase()
                } else {
                    letter
                }
            })
            .collect();
        messages.push(query(&mixed, kind));
    }
    // However the bits fell.
    messages.push(query(&ALLOWED.to_ascii_uppercase(), own_type(c)));
    ask(c, &messages)
}

/// The question's name ends in a pointer to where the allowed one is, or is nothing else.
fn pointers(c: &Context) -> io::Result<()> {
    let token = c.token.as_bytes();
    let allowed = name(&[b"api", b"example", b"org"]);
    let kind = own_type(c);
    let at = |offset: usize| u16::try_from(0xc000 | offset).unwrap().to_be_bytes();
    let pointer = |offset| at(offset).to_vec();
    // Behind the question, as data or as the name of a record.
    let forward = [asking(&pointer(18), kind), allowed.clone(), c.payload()].concat();
    let mut named = asking(&pointer(18), kind);
    named[11] = 1;
    named.extend([&allowed[..], &[0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]].concat());
    named.extend(c.payload());
    // A label, then the pointer: the name is below the allowed one.
    let below = [&[16][..], token, &at(12 + 19 + 4)].concat();
    let below = [asking(&below, kind), allowed.clone()].concat();
    // A pointer to a pointer to the name.
    let chain = [
        asking(&pointer(18), kind),
        pointer(20),
        allowed.clone(),
        c.payload(),
    ]
    .concat();
    // The allowed name as it is, its last label by a pointer to the octets of the token.
    let tail = [name(&[b"api", b"example"])[..12].to_vec(), pointer(12 + 18)].concat();
    let tail = [asking(&tail, kind), name(&[token])].concat();
    ask(c, &[forward, named, below, chain, tail])
}

/// To itself, to each other, into the header, behind the end; the two kinds of labels that there
/// are none of.
fn loops(c: &Context) -> io::Result<()> {
    let token = c.token.as_bytes();
    let kind = own_type(c);
    let label = [&[16][..], token].concat();
    let with = |end: &[u8]| [asking(&[&label[..], end].concat(), kind), c.payload()].concat();
    ask(
        c,
        &[
            with(&[0xc0, 12]),
            with(&[0xc0, 29]),
            with(&[0xc0, 31, 0xc0, 29]),
            with(&[0xc0, 0]),
            with(&[0xff, 0xff]),
            with(&[0xc0]),
            with(&[0x40, 0]),
            with(&[0x80, 0]),
            // A bit string (RFC 2673).
            with(&[0x41, 64, 1, 2, 3, 4, 5, 6, 7, 8, 0]),
        ],
    )
}

/// What is the allowed name as text, and another one as labels.
fn labels(c: &Context) -> io::Result<()> {
    let token = c.token.as_bytes();
    let kind = own_type(c);
    let join = |parts: &[&[u8]]| parts.concat();
    let messages: Vec<_> = [
        name(&[b"api.example.org", token]),
        name(&[token, b"api.example.org"]),
        name(&[&join(&[b"api.example.org.", token])]),
        name(&[&join(&[token, b".api"]), b"example", b"org"]),
        name(&[&join(&[b"api\0", token]), b"example", b"org"]),
        name(&[b"api", b"example", &join(&[b"org\0", token])]),
        name(&[&join(&[b" api ", token]), b"example", b"org"]),
        name(&[b"api", b"example", b"org", token]),
        name(&[&join(&[b"\xe1\xba\x9epi", token]), b"example", b"org"]),
        name(&[b"*", token, b"api", b"example", b"org"]),
    ]
    .iter()
    .map(|name| asking(name, kind))
    .collect();
    ask(c, &messages)
}

fn long(c: &Context) -> io::Result<()> {
    let label = c.token.repeat(4);
    let label = &label.as_bytes()[..63];
    let end: [&[u8]; 3] = [b"api", b"example", b"org"];
    // 17 octets are the allowed name's; 3 labels of 64 and one of 46 make it 255.
    let below = |last: usize| [&[label; 3][..], &[&label[..last]], &end].concat();
    let kind = own_type(c);
    let mut messages: Vec<_> = [45, 46, 62]
        .into_iter()
        .map(|last| asking(&name(&below(last)), kind))
        .collect();
    messages.push(asking(&name(&[&[label; 18][..], &end].concat()), kind));
    // A hundred and more labels, and one of 64 octets, whose length is no length.
    let single = [label.chunks(1).take(60).collect::<Vec<_>>(), end.to_vec()].concat();
    messages.push([asking(&name(&single), kind), c.payload()].concat());
    messages.push(asking(
        &name(&[&c.token.repeat(4).as_bytes()[..64], b"org"]),
        kind,
    ));
    ask(c, &messages)
}

/// As who looks for what is there: A to NULL, NSEC and NSEC3, keys, services, transfers, ANY.
fn walk(c: &Context) -> io::Result<()> {
    let messages: Vec<_> = [
        1, 2, 5, 6, 10, 12, 16, 28, 33, 35, 43, 47, 48, 50, 64, 65, 251, 252, 255,
    ]
    .into_iter()
    .flat_map(|kind| {
        let services = format!("_{}._tcp.{ALLOWED}", c.token);
        [
            query(&format!("{}.{ALLOWED}", c.token), kind),
            query(&services, kind),
        ]
    })
    .collect();
    ask(c, &messages)
}

/// `localhost`, and what addresses are called.
fn local(c: &Context) -> io::Result<()> {
    let nibbles: String = c.token.chars().flat_map(|digit| [digit, '.']).collect();
    let [a, b, d, e, ..] = c.token().0;
    let names = [
        format!("{}.localhost", c.token),
        format!("{}.10.51.198.in-addr.arpa", c.token),
        format!("{a}.{b}.{d}.{e}.in-addr.arpa"),
        format!("{nibbles}{nibbles}ip6.arpa"),
        format!("{}.ip6.arpa", c.token),
        format!("{}.home.arpa", c.token),
        format!("{}.local", c.token),
        format!("{}.invalid", c.token),
        format!("{}.onion", c.token),
        c.token.clone(),
    ];
    let messages: Vec<_> = names
        .iter()
        .flat_map(|name| [query(name, 12), query(name, 1), query(name, 255)])
        .collect();
    ask(c, &messages)
}
