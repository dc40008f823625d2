//! Names, against what the crate `idna` makes of them with its most lenient settings and rules of
//! the contract that are put in other words here.

use egress_init::allowlist::Name;
use idna::{
    AsciiDenyList,
    uts46::{DnsLength, Hyphens, Uts46},
};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let ours = text.parse::<Name>();
    let theirs = expected(text);
    match (&ours, &theirs) {
        (Ok(ours), Some(theirs)) => {
            assert_eq!(ours.as_str(), theirs);
            is_valid(theirs);
            assert_eq!(theirs.parse::<Name>().as_ref(), Ok(ours));
            let above: Vec<&str> = ours.zones().collect();
            let labels: Vec<&str> = theirs.split('.').collect();
            let expected: Vec<String> = (1..labels.len()).map(|i| labels[i..].join(".")).collect();
            assert_eq!(above, expected);
        }
        (Err(_), None) => {}
        _ => panic!("{text:?}: we say {ours:?}, they say {theirs:?}"),
    }
}

/// The name as DNS carries it, or nothing where the contract has none.
fn expected(text: &str) -> Option<String> {
    // Longer than any name in any form.
    if text.chars().count() > 254 {
        return None;
    }
    let typed = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.chars().all(typed) {
        return None;
    }
    let uts46 = Uts46::new();
    let ascii = uts46
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::EMPTY,
            Hyphens::Allow,
            DnsLength::Ignore,
        )
        .ok()?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    let fits = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    for label in name.split('.') {
        let length = label.len();
        if !(1..=63).contains(&length) || !label.bytes().all(fits) {
            return None;
        }
        // RFC 5891 section 4.2.3.1: of the U-label too.
        let (unicode, _) = uts46.to_unicode(label.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow);
        for form in [label, &*unicode] {
            if form.starts_with('-') || form.ends_with('-') {
                return None;
            }
        }
    }
    (name.len() <= 253 && !is_number(name.rsplit('.').next()?)).then(|| name.to_owned())
}

/// The last label of an IPv4 address, as <https://url.spec.whatwg.org/#ends-in-a-number-checker>.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x");
    label.chars().all(|c| c.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))
}

/// What holds of each name that was accepted (RFC 1035 section 2.3.4, RFC 1123 section 2.1).
pub fn is_valid(name: &str) {
    assert!((1..=253).contains(&name.len()), "{name}");
    for label in name.split('.') {
        assert!((1..=63).contains(&label.len()), "{name}");
        assert!(!label.starts_with('-') && !label.ends_with('-'), "{name}");
        let fits = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        assert!(label.bytes().all(fits), "{name}");
    }
    assert!(name.parse::<std::net::IpAddr>().is_err(), "{name}");
}
