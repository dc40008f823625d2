#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::service::{Protocol, Service};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn file(text: impl Into<Vec<u8>>) -> Source {
    Source {
        label: "list.txt".to_owned(),
        text: text.into(),
        kind: SourceKind::Lines,
    }
}

fn flag(text: &str) -> Source {
    Source {
        label: "--allow".to_owned(),
        text: text.into(),
        kind: SourceKind::Entry,
    }
}

fn variable(text: &str) -> Source {
    Source {
        label: "EGRESS_INIT_ALLOW".to_owned(),
        text: text.into(),
        kind: SourceKind::Words,
    }
}

const PINNED: Accept = Accept { wildcards: false };
const PROXY: Accept = Accept { wildcards: true };

/// The entries as they print.
fn printed(sources: &[Source], accept: Accept) -> Vec<String> {
    let list = parse(sources, accept).unwrap_or_else(|error| panic!("{error}"));
    list.entries().iter().map(Entry::to_string).collect()
}

/// The only mistake of a file of one line, as `COLUMN: TEXT`.
fn mistake(line: &str) -> String {
    let error = parse(&[file(line)], PINNED).expect_err(line);
    assert_eq!(
        (error.mistakes.len(), error.more),
        (1, 0),
        "{line}: {error}"
    );
    let mistake = &error.mistakes[0];
    assert_eq!(mistake.line, 1);
    format!("{}: {}", mistake.column, mistake.problem)
}

#[test]
fn the_example_of_the_contract_is_accepted() {
    let text = "\
api.openai.com              # tcp ports 80 and 443
github.com:22,443           # these tcp ports
db.internal:5432/tcp        # /tcp, /udp or /any
ntp.example.org:123/udp
mirror.example.org:8000-8100
cache.example.org:*/any     # every port, both protocols
*.pypi.org                  # every name below
10.20.0.0/16:5432           # a network
[2001:db8::/32]:443         # brackets where a port follows
192.0.2.7
!gist.github.com            # never
";
    assert_eq!(
        printed(&[file(text)], PROXY),
        [
            "api.openai.com",
            "github.com:22,443",
            "db.internal:5432",
            "ntp.example.org:123/udp",
            "mirror.example.org:8000-8100",
            "cache.example.org:*/any",
            "*.pypi.org",
            "10.20.0.0/16:5432",
            "[2001:db8::/32]:443",
            "192.0.2.7",
            "!gist.github.com",
        ]
    );
}

#[test]
fn entries_without_ports_have_the_usual_ones() {
    let list = parse(&[file("a.com\n!b.com\n!c.com:80\nd.com:80,443")], PINNED).unwrap();
    let services: Vec<&Services> = list.entries().iter().map(|entry| &entry.services).collect();
    let http: Services = [Service {
        protocol: Protocol::Tcp,
        ports: crate::service::PortRange::single(80),
    }]
    .into_iter()
    .collect();
    assert_eq!(
        services,
        [&Services::WEB, &Services::EVERY, &http, &Services::WEB]
    );
}

#[test]
fn every_spelling_has_one_form() {
    for (typed, form) in [
        ("API.OpenAI.Com.", "api.openai.com"),
        ("bücher.example:443", "xn--bcher-kva.example:443"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::/32]", "2001:db8::/32"),
        ("2001:db8::1:443", "2001:db8::1:443"),
        ("[2001:db8::1]:80,443", "2001:db8::1"),
        ("2001:db8::192.0.2.7", "2001:db8::c000:207"),
        ("!0.0.0.0/0", "!0.0.0.0/0"),
        ("!::/0", "!::/0"),
        ("!*.example.com:80", "!*.example.com:80"),
        ("!ns.example.com:53/any", "!ns.example.com:53/any"),
        ("![2001:db8::/32]:22", "![2001:db8::/32]:22"),
        ("!a.example:*/any", "!a.example"),
        ("a.example:50-60/udp", "a.example:50-60/udp"),
        ("a.example:*/udp", "a.example:*/udp"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("cafe", "cafe"),
        ("cafe:80", "cafe:80"),
    ] {
        assert_eq!(printed(&[file(typed)], PROXY), [form], "{typed}");
    }
}

/// A line, the column of its flaw, and what the text says is wrong and accepted.
const MISTAKES: &[(&str, u32, [&str; 2])] = &[
    // From elsewhere.
    ("https://api.openai.com/v1", 6, ["URL", "`api.openai.com`"]),
    ("https://x:8443/", 6, ["URL", "`x:8443`"]),
    ("git@github.com:22", 4, ["user", "without `user@`"]),
    ("github.com/openai", 11, ["path", "the name alone"]),
    (
        "github.com:443/openai",
        16,
        ["`openai` is not a protocol", "`/udp`"],
    ),
    ("a.com b.com", 6, ["blank", "one entry a line"]),
    ("a.com\u{a0}b.com", 6, ["blank", "one entry a line"]),
    ("! a.com", 2, ["blank", "one entry a line"]),
    ("a.com,b.com", 6, ["comma", "one entry a line"]),
    ("a.com?x", 6, ["`?` cannot", "letters"]),
    (".example.com", 1, ["dot", "`*.example.com`"]),
    // Refusals.
    ("!", 1, ["refuses nothing", "`!gist.github.com`"]),
    ("!!a.com", 2, ["second `!`", "one refuses"]),
    ("a!b", 2, ["`!` cannot", "letters"]),
    // Wildcards.
    ("*", 1, ["too broad", "`*.example.com`"]),
    ("*.com", 1, ["too broad", "two labels"]),
    ("!*.com", 2, ["too broad", "two labels"]),
    ("*.", 3, ["empty label", "one dot"]),
    (
        "*.pypi.org",
        1,
        ["`*.pypi.org` needs a resolver", "exact names"],
    ),
    ("a.*.com", 3, ["`*` stands only", "`*.example.com`"]),
    ("foo*", 4, ["`*` stands only", "`*.example.com`"]),
    ("**.foo.com", 1, ["`*` stands only", "`*.example.com`"]),
    (
        "*foo.example.com",
        1,
        ["`*` stands only", "`*.example.com`"],
    ),
    // IPv4.
    ("1.2.3", 1, ["`1.2.3` ends in a number", "192.0.2.7"]),
    ("010.1.1.1", 1, ["no IPv4 address", "leading zeros"]),
    ("0x7f.1", 1, ["no IPv4 address", "leading zeros"]),
    ("010.1.1.0/24", 1, ["no IPv4 address", "leading zeros"]),
    ("10.0.0/8", 1, ["no IPv4 address", "four decimal"]),
    ("300.1.1.1:443", 1, ["no IPv4 address", "0 to 255"]),
    (
        "10.20.0.1/16",
        1,
        ["inside the network", "`10.20.0.0/16` is the network"],
    ),
    ("10.20.0.0/33", 11, ["`33` is no prefix", "0 to 32"]),
    ("10.20.0.0/16/tcp", 11, ["`16/tcp` is no prefix", "0 to 32"]),
    ("0.0.0.0/0", 1, ["every address", "the networks"]),
    ("192.0.2.7/udp", 10, ["follows ports", "`:443/udp`"]),
    ("ntp.example.org/udp", 16, ["follows ports", "`:*/udp`"]),
    // IPv6.
    ("::/0:443", 5, ["need brackets", "`[::/0]:443`"]),
    ("[::/0]:443", 1, ["every address", "the networks"]),
    (
        "2001:db8::/32:443",
        14,
        ["need brackets", "`[2001:db8::/32]:443`"],
    ),
    (
        "2001:db8::1:80,443",
        12,
        ["need brackets", "`[2001:db8::1]:80,443`"],
    ),
    ("2001:db8::1:*", 12, ["need brackets", "`[2001:db8::1]:*`"]),
    ("2001:db8:::1", 1, ["not an IPv6 address", "`2001:db8::1`"]),
    ("fe80::1%eth0", 8, ["zone", "leave"]),
    ("[fe80::1%eth0]:443", 9, ["zone", "leave"]),
    ("::ffff:192.0.2.7", 1, ["IPv4-mapped", "`192.0.2.7`"]),
    (
        "[::ffff:0:0/96]:443",
        2,
        ["IPv4-mapped", "the IPv4 network"],
    ),
    ("[2001:db8::1", 1, ["without `]`", "`[2001:db8::1]:443`"]),
    (
        "[2001:db8::1]443",
        14,
        ["follow `]`", "`[2001:db8::/32]:443`"],
    ),
    (
        "[2001:db8::]/32:443",
        13,
        ["follow `]`", "`[2001:db8::/32]:443`"],
    ),
    ("[192.0.2.7]:443", 2, ["not an IPv6", "`2001:db8::1`"]),
    ("[]:443", 2, ["not an IPv6", "`2001:db8::1`"]),
    // Ports.
    (":443", 1, ["missing before `:`", "api.openai.com:443"]),
    ("a.com:", 7, ["port is missing", "1 to 65535"]),
    ("a.com:443,", 11, ["port is missing", "1 to 65535"]),
    ("a.com:0", 7, ["port 0", "1 to 65535"]),
    ("a.com:65536", 7, ["`65536` is not a port", "`8000-8100`"]),
    ("a.com:https", 7, ["`https` is not a port", "1 to 65535"]),
    ("a.com:443-80", 7, ["downwards", "`80-443`"]),
    ("a.com:80:443", 9, ["second `:`", "commas"]),
    ("a.com:443/sctp", 11, ["`sctp` is not a protocol", "`/any`"]),
    ("a.com:443/tcp,22", 14, ["comes last", "two entries"]),
    (
        "a.com:443,53/udp",
        11,
        ["port 53", "`--dns system` with `--dns-upstream ADDRESS`"],
    ),
    ("8.8.8.8:53-53", 9, ["port 53", "`--dns system`"]),
    // Shipped lists.
    ("@nothing", 2, ["no list `@nothing`", "@github, "]),
    ("@", 2, ["no list `@`", "@github, "]),
    ("@github:22", 8, ["own ports", "`@github` alone"]),
    ("!@github:22", 9, ["own ports", "`@github` alone"]),
    // Wide characters count once, control characters do not reach the terminal.
    ("例え.テスト/x", 7, ["path", "the name alone"]),
    ("  ünï\u{1b}[31m.com", 6, ["`\\u{1b}` cannot", "letters"]),
    (
        "a.com:\u{1b}[31m",
        7,
        ["`\\u{1b}[31m` is not a port", "1 to"],
    ),
];

#[test]
fn each_mistake_says_where_and_what_is_accepted() {
    for &(line, column, parts) in MISTAKES {
        let printed = mistake(line);
        assert!(
            printed.starts_with(&format!("{column}: ")),
            "{line}: {printed}"
        );
        for part in parts {
            assert!(printed.contains(part), "{line}: {printed} lacks {part}");
        }
    }
}

#[test]
fn all_mistakes_of_all_sources_are_reported_at_once() {
    let error = parse(
        &[
            file("\u{feff}a..com\r\n# fine\r\nok.com\r\n  b_c.com:x # why\r\n"),
            file(b"good.com\n\xff\xfe\n".to_vec()),
            variable("ok.com,a..b  c:0"),
            flag("ok.com"),
            flag("ok.com other.com"),
            flag("a.com\nb.com"),
        ],
        PINNED,
    )
    .unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    let starts = [
        "list.txt:1:3: an empty label",
        "list.txt:4:11: `x` is not a port",
        "list.txt:2:1: this is not UTF-8",
        "EGRESS_INIT_ALLOW:1:10: an empty label",
        "EGRESS_INIT_ALLOW:1:16: port 0",
        "--allow:2:7: a blank inside an entry; each `--allow` takes one entry",
        "--allow:3:6: a blank inside an entry; each `--allow` takes one entry",
    ];
    assert_eq!(lines.len(), starts.len(), "{error}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
        assert!(!line.ends_with('.'), "{line}");
    }
}

#[test]
fn an_empty_source_is_an_error_that_names_it() {
    let error = parse(
        &[
            file("# nothing\n\n"),
            file(""),
            variable(" \n, "),
            flag("a.com"),
            flag(""),
            flag("# a.com"),
        ],
        PINNED,
    )
    .unwrap_err();
    let printed = error.to_string();
    let places: Vec<&str> = printed
        .lines()
        .map(|line| line.split_once(": there is no entry in it").unwrap().0)
        .collect();
    assert_eq!(
        places,
        [
            "list.txt:1:1",
            "list.txt:1:1",
            "EGRESS_INIT_ALLOW:1:1",
            "--allow:2:1",
            "--allow:3:1",
        ]
    );
    // A list with nothing but mistakes is not called empty too.
    assert_eq!(
        parse(&[file("a..b")], PINNED).unwrap_err().mistakes.len(),
        1
    );
}

#[test]
fn a_flood_of_mistakes_is_counted_not_kept() {
    let error = parse(&[file("a..b\n".repeat(1_000))], PINNED).unwrap_err();
    assert_eq!((error.mistakes.len(), error.more), (KEPT, 1_000 - KEPT));
    let printed = error.to_string();
    assert_eq!(printed.lines().count(), KEPT + 1);
    assert!(printed.ends_with("\n980 more like these"), "{printed}");
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let started = std::time::Instant::now();
    let error = parse(&[file(noise.take(10_000_000).collect::<Vec<u8>>())], PINNED).unwrap_err();
    assert_eq!(error.mistakes.len(), KEPT);
    // Within a second in a release build; this is for a debug build on a busy machine.
    assert!(started.elapsed().as_secs() < 10);
    // What is quoted is short.
    let long = mistake(&format!("a.com:{}", "x".repeat(100_000)));
    assert!(long.len() < 300, "{long}");
}

#[test]
fn an_entry_knows_its_place() {
    let sources = [
        file("a.com\n\n  b.com"),
        variable("ü.com, d.com"),
        flag(" e.com"),
    ];
    let list = parse(&sources, PINNED).unwrap();
    let places: Vec<String> = list
        .entries()
        .iter()
        .map(|entry| list.locate(entry.place).to_string())
        .collect();
    assert_eq!(
        places,
        [
            "list.txt:1:1",
            "list.txt:3:3",
            "EGRESS_INIT_ALLOW:1:1",
            "EGRESS_INIT_ALLOW:1:8",
            "--allow:1:2",
        ]
    );
}

#[test]
fn names_of_several_entries_are_united() {
    let text = "b.com:22\na.com\nB.com.:80-90/udp\nb.com:443\n!c.com\n10.0.0.0/8\n!*.z.com\n";
    let list = parse(&[file(text)], PINNED).unwrap();
    let allowed: Vec<String> = list
        .allowed()
        .iter()
        .map(|(name, services)| format!("{name}:{services}"))
        .collect();
    assert_eq!(allowed, ["a.com:80,443", "b.com:22,443 80-90/udp"]);
    let names: Vec<String> = list.names().iter().map(Name::to_string).collect();
    assert_eq!(names, ["a.com", "b.com", "c.com"]);
}

#[test]
fn a_refusal_takes_names_and_ports_away() {
    let text = "\
a.com
!a.com
b.com
!b.com:80
c.zone.com:22,443
!*.zone.com:443
zone.com
d.e.gone.com
!*.gone.com
f.com:22
!f.com:443
";
    let list = parse(&[file(text)], PINNED).unwrap();
    let allowed: Vec<String> = list
        .allowed()
        .iter()
        .map(|(name, services)| format!("{name}:{services}"))
        .collect();
    assert_eq!(
        allowed,
        ["b.com:443", "c.zone.com:22", "f.com:22", "zone.com:80,443"]
    );
    let refused: Vec<String> = list
        .refused()
        .iter()
        .map(|(name, services)| format!("{name}:{services}"))
        .collect();
    assert_eq!(refused, ["a.com:*/any", "b.com:80", "f.com:443"]);
}

#[test]
fn shipped_lists_are_valid_and_hold_exact_names() {
    assert!(shipped().is_sorted_by_key(|(name, _)| *name));
    for (name, text) in shipped() {
        let list = parse(&[file(*text)], PROXY).unwrap_or_else(|error| panic!("@{name}: {error}"));
        let wildcards = name.ends_with("-wildcards");
        for entry in list.entries() {
            let fits = match entry.target {
                Target::Name(_) => !wildcards,
                Target::Wildcard(_) => wildcards,
                Target::Network(_) => false,
            };
            assert!(fits && !entry.deny, "@{name}: {entry}");
        }
        let sorted: BTreeSet<String> = list.entries().iter().map(Entry::to_string).collect();
        assert_eq!(sorted.len(), list.entries().len(), "@{name} repeats itself");
        // Whom it serves and where its names are documented, and why each of them.
        assert!(text.starts_with("# "), "@{name}");
        assert!(text.contains("https://"), "@{name}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.is_empty() || line.contains(" # "), "@{name}: {line}");
        }
    }
}

#[test]
fn every_file_of_a_list_is_compiled_in() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/allowlists");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<String> = shipped()
        .iter()
        .map(|(name, _)| format!("{name}.txt"))
        .collect();
    assert_eq!(files, names);
}

#[test]
fn a_shipped_list_stands_for_its_entries() {
    let (_, text) = shipped::find("npm").unwrap();
    let alone = printed(&[file(text)], PINNED);
    let list = parse(&[file("a.com\n@NPM\n@npm\nb.com")], PINNED).unwrap();
    let expected: Vec<String> = [
        vec!["a.com".to_owned()],
        alone.clone(),
        vec!["b.com".to_owned()],
    ]
    .concat();
    let found: Vec<String> = list.entries().iter().map(Entry::to_string).collect();
    assert_eq!(found, expected);
    assert_eq!(
        list.locate(list.entries()[1].place).to_string(),
        "list.txt:2:1"
    );

    // Refused are the names, whatever the port.
    let names = alone.iter().map(|entry| entry.split(':').next().unwrap());
    let refused: Vec<String> = names.map(|name| format!("!{name}")).collect();
    assert_eq!(printed(&[file("!@npm")], PINNED), refused);
    let list = parse(&[file("@npm\n!@npm")], PINNED).unwrap();
    assert!(list.allowed().is_empty());
}

#[test]
fn a_shipped_list_of_wildcards_is_refused_where_they_are() {
    let printed = mistake("@github-wildcards");
    assert!(
        printed.starts_with("1: ") && printed.contains("exact names"),
        "{printed}"
    );
    assert!(parse(&[file("@github-wildcards")], PROXY).is_ok());
    assert!(parse(&[file("@github\n!@github-wildcards")], PINNED).is_ok());
}

/// Text near the grammar: most of it is wrong somewhere.
fn near_entry() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("!"),
        Just("@"),
        Just("*"),
        Just("*."),
        Just("."),
        Just(":"),
        Just("/"),
        Just(","),
        Just("-"),
        Just("["),
        Just("]"),
        Just("%"),
        Just("#"),
        Just(" "),
        Just("\n"),
        Just("\r"),
        Just("a"),
        Just("xn--"),
        Just("ü"),
        Just("例"),
        Just("\u{200d}"),
        Just("\u{feff}"),
        Just("github"),
        Just("example.com"),
        Just("10.0.0.0/8"),
        Just("2001:db8::"),
        Just("::1"),
        Just("ffff"),
        Just("443"),
        Just("53"),
        Just("0"),
        Just("65536"),
        Just("8000-8100"),
        Just("/tcp"),
        Just("/any"),
        Just("https://"),
        Just("0x7f"),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Text of the grammar.
fn entry_text() -> impl Strategy<Value = String> {
    let label = "[a-z][a-z0-9_]{0,5}(-[a-z0-9]{1,3})?|ü[a-zß]{1,4}|例え";
    let name = prop::collection::vec(label, 1..4).prop_map(|labels| labels.join("."));
    let name = (name, any::<bool>()).prop_map(|(name, dot)| if dot { name + "." } else { name });
    let wildcard =
        prop::collection::vec(label, 2..4).prop_map(|labels| format!("*.{}", labels.join(".")));
    let v4 = (any::<[u8; 4]>(), 1_u8..=32).prop_map(|(octets, length)| {
        ipnet::IpNet::new(std::net::IpAddr::from(octets), length)
            .unwrap()
            .trunc()
            .to_string()
    });
    let v6 = (any::<u128>(), 1_u8..=128).prop_map(|(bits, length)| {
        let address = std::net::Ipv6Addr::from(bits | 1 << 127);
        format!(
            "[{}]",
            ipnet::IpNet::new(address.into(), length).unwrap().trunc()
        )
    });
    let range = prop_oneof![
        (1_u16..=u16::MAX).prop_map(|port| if port == 53 {
            "54".to_owned()
        } else {
            port.to_string()
        }),
        (1_u16..=u16::MAX, 1_u16..=u16::MAX).prop_filter_map("53", |(one, other)| {
            (one != other).then(|| format!("{}-{}", one.min(other), one.max(other)))
        }),
        Just("*".to_owned()),
    ];
    let protocol = prop_oneof![
        Just(""),
        Just("/tcp"),
        Just("/udp"),
        Just("/any"),
        Just("/ANY")
    ];
    let ports = (prop::collection::vec(range, 1..5), protocol)
        .prop_map(|(ranges, protocol)| format!(":{}{protocol}", ranges.join(",")));
    let deny = prop_oneof![Just(""), Just("!")];
    (
        deny,
        prop_oneof![name, wildcard, v4, v6],
        prop::option::of(ports),
    )
        .prop_map(|(deny, target, ports)| format!("{deny}{target}{}", ports.unwrap_or_default()))
}

proptest! {
    #[test]
    fn parse_of_print_is_identity(text in entry_text()) {
        let first = parse(&[file(&*text)], PROXY).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let printed = first.entries()[0].to_string();
        let second = parse(&[file(&*printed)], PROXY).unwrap();
        prop_assert_eq!(first.entries(), second.entries(), "{} prints as {}", text, printed);
    }

    #[test]
    fn anything_accepted_prints_as_itself(text in near_entry()) {
        if let Ok(list) = parse(&[flag(&text)], PROXY) {
            for entry in list.entries() {
                let again = parse(&[file(entry.to_string())], PROXY).unwrap();
                prop_assert_eq!(&again.entries()[0].target, &entry.target);
                prop_assert_eq!(&again.entries()[0].services, &entry.services);
                prop_assert_eq!(again.entries()[0].deny, entry.deny);
            }
        }
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in near_entry()) {
        for kind in [SourceKind::Lines, SourceKind::Words, SourceKind::Entry] {
            for text in [bytes.clone(), text.clone().into_bytes(), [text.as_bytes(), &bytes].concat()] {
                let source = Source { label: "x".to_owned(), text, kind };
                if let Err(error) = parse(&[source], PINNED) {
                    prop_assert!(error.mistakes.iter().all(|mistake| mistake.column > 0 && mistake.line > 0));
                    prop_assert!(!error.to_string().chars().any(|c| c.is_control() && c != '\n'));
                }
            }
        }
    }
}
