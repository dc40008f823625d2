//! Addresses and networks, against `ipnet` and the standard library: what we take they read in the
//! same way, and what we refuse and they take could be meant in two ways.

use egress_init::{
    allowlist::{self, Accept, Source, SourceKind, Target},
    policy,
};
use ipnet::IpNet;
use std::net::IpAddr;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let theirs = opinion(text);
    let inbound = policy::parse_inbound(&format!("80@{text}")).ok();
    let ours = inbound.map(|elements| {
        let [element] = elements[..] else {
            panic!("{text:?} is one network: {elements:?}");
        };
        element.network
    });
    assert_eq!(ours, theirs, "{text:?}");

    // The same in a list, where 0.0.0.0/0 is too much and other things may stand.
    let listed = entry(text);
    let expected = theirs.filter(|network| network.prefix_len() > 0);
    // An IPv4 address or network with its ports, or an IPv6 one in brackets, is an entry, and the
    // target `list`'s.
    let is_entry = text.starts_with(['!', '['])
        || text
            .split_once(':')
            .is_some_and(|(before, _)| opinion(before).is_some());
    if text.trim() == text && !text.contains('#') && !is_entry {
        match (&listed, expected) {
            (Some(Target::Network(listed)), expected) => assert_eq!(Some(*listed), expected),
            (other, expected) => assert_eq!(expected, None, "{text:?}: {other:?}"),
        }
        if let Some(IpNet::V6(_)) = expected {
            let bracketed = entry(&format!("[{text}]:443"));
            assert_eq!(bracketed, expected.map(Target::Network), "{text:?}");
        }
    }
}

fn entry(text: &str) -> Option<Target> {
    let source = Source {
        label: String::new(),
        text: text.as_bytes().to_vec(),
        kind: SourceKind::Entry,
    };
    let list = allowlist::parse(&[source], Accept { wildcards: true }).ok()?;
    match list.entries() {
        [entry] => Some(entry.target.clone()),
        _ => None,
    }
}

/// What the standard library and `ipnet` read, where it can be meant in one way only.
fn opinion(text: &str) -> Option<IpNet> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().ok()?,
    };
    if network.trunc() != network {
        return None;
    }
    // `ipnet` takes leading zeros in octets and lengths; to others they are octal.
    let is_v4 = network.addr().is_ipv4();
    for part in text.split(['.', '/', ':']) {
        let length = text.ends_with(&format!("/{part}"));
        if (is_v4 || length) && part.len() > 1 && part.starts_with('0') && !part.contains('x') {
            return None;
        }
    }
    let address = text.split('/').next()?;
    address.parse::<IpAddr>().ok()?;
    match network {
        // What is sent to a mapped address leaves as IPv4.
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96 => None,
        _ => Some(network),
    }
}
