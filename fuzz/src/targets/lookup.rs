//! What the list says of a name that the command asks for, against all entries one by one: at each
//! port where anything could change, and in whichever order they stand.

use arbitrary::{Result, Unstructured};
use egress_init::{
    allowlist::{self, Accept, Entry, Lookup, Name, Origin, Source, SourceKind, Target},
    service::Protocol,
};

const NAMES: [&str; 9] = [
    "a",
    "b",
    "z.c",
    "a.z.c",
    "b.a.z.c",
    "c.b.a.z.c",
    "x.c",
    "a.x.c",
    "b.x.c",
];
const ZONES: [&str; 5] = ["z.c", "a.z.c", "b.a.z.c", "x.c", "y.x.c"];
const DOMAINS: [&str; 4] = ["x.c", "z.c", "a.z.c", "."];
const PORTS: [&str; 8] = [
    "",
    ":80",
    ":443/any",
    ":*/any",
    ":79-81",
    ":443/udp",
    ":1-65535",
    ":52,54/tcp",
];

pub fn run(data: &[u8]) {
    let mut octets = Unstructured::new(data);
    let Ok((text, search)) = list(&mut octets) else {
        return;
    };
    let source = Source {
        label: "list".to_owned(),
        text: text.clone().into_bytes(),
        kind: SourceKind::Lines,
    };
    let list = allowlist::parse(&[source], Accept { wildcards: true })
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    let lookup = Lookup::new(&list, &search);
    for name in NAMES {
        let name: Name = name.parse().expect("a name");
        let ours = lookup.verdict(&name);
        let mut own = false;
        for protocol in Protocol::ALL {
            for port in [0, 1, 52, 53, 54, 79, 80, 81, 443, 65535] {
                let has = |entry: &&Entry| {
                    entry
                        .services
                        .iter()
                        .any(|s| s.protocol == protocol && s.ports.contains(port))
                };
                let meant = |entry: &Entry| match &entry.target {
                    Target::Name(listed) => is_meant(&name, listed, &search),
                    Target::Wildcard(_) | Target::Network(_) => false,
                };
                let above = |entry: &Entry| match &entry.target {
                    Target::Wildcard(zone) => name.as_str().ends_with(&format!(".{zone}")),
                    Target::Name(_) | Target::Network(_) => false,
                };
                let entries = || list.entries().iter().filter(has);
                let refused = entries().any(|e| e.deny && (meant(e) || above(e)));
                let itself = !refused && entries().any(|e| !e.deny && meant(e));
                let expected = itself || (!refused && entries().any(|e| !e.deny && above(e)));
                own |= itself;
                let open = ours.is_some_and(|allowed| {
                    let mut services = allowed.services.iter();
                    services.any(|s| s.protocol == protocol && s.ports.contains(port))
                });
                assert_eq!(
                    open, expected,
                    "{name} {protocol} {port} of\n{text}{search:?}"
                );
            }
        }
        if let Some(allowed) = ours {
            assert!(!allowed.services.is_empty());
            let by_name = allowed.origin == Origin::Name;
            assert_eq!(by_name, own, "{name} of\n{text}{search:?}");
        }
        let below = search
            .iter()
            .any(|domain| name.as_str().ends_with(&format!(".{domain}")));
        assert_eq!(lookup.below_search(&name), below);
    }
}

/// An entry without a dot is meant below each search domain too.
fn is_meant(name: &Name, listed: &Name, search: &[String]) -> bool {
    name == listed
        || (!listed.has_dot()
            && search
                .iter()
                .any(|domain| name.as_str() == format!("{listed}.{domain}")))
}

fn list(octets: &mut Unstructured) -> Result<(String, Vec<String>)> {
    let mut text = String::new();
    for _ in 0..octets.int_in_range(1..=8)? {
        let refused = if octets.ratio(2, 5)? { "!" } else { "" };
        let ports = octets.choose(&PORTS)?;
        let target = match octets.arbitrary()? {
            true => format!("*.{}", octets.choose(&ZONES)?),
            false => (*octets.choose(&NAMES)?).to_owned(),
        };
        text.push_str(&format!("{refused}{target}{ports}\n"));
    }
    let mut search = Vec::new();
    for _ in 0..octets.int_in_range(0..=2)? {
        search.push((*octets.choose(&DOMAINS)?).to_owned());
    }
    Ok((text, search))
}
