//! Host names as DNS carries them.

use super::problem::{Flaw, Piece, Problem};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use std::{
    borrow::{Borrow, Cow},
    fmt,
    str::FromStr,
    sync::Arc,
};

/// The most octets between two dots, and in a whole name without its last dot (RFC 1035 section
/// 2.3.4).
const LABEL: usize = 63;
const NAME: usize = 253;

/// What of ASCII cannot be in a name: all but letters, digits, `-` and `_`.
const REFUSED: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// A host name: lower-case A-labels joined by dots, no trailing dot, at most 253 octets
/// (RFC 1035 section 2.3.4, RFC 5890). Made by the list grammar only, so holding one means that
/// it is valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has a dot, and so is absolute whatever `ndots` says.
    #[must_use]
    pub fn has_dot(&self) -> bool {
        self.0.contains('.')
    }

    /// The zones that it lies below, the nearest first: `b.c` and `c` for `a.b.c`.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(above(&self.0), |zone| above(zone))
    }

    /// Reads a name: any case, one trailing dot, and labels beyond ASCII by UTS 46.
    pub(super) fn parse(piece: Piece<'_>) -> Result<Self, Flaw> {
        if let Some((offset, character)) = piece.text.char_indices().find(|&(_, c)| !may_hold(c)) {
            return Err(stray(character).at(piece.at + offset));
        }
        // An A-label takes at least an octet for every character: this is longer in any form, and
        // the conversion, quadratic in its worst case, is spared.
        let characters = piece.text.chars().count();
        if characters > NAME + 1 {
            return Err(piece.flaw(Problem::NameTooLong(characters)));
        }
        let ascii =
            to_ascii(piece.text, Hyphens::CheckFirstLast).map_err(|_| invalid_label(piece))?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_labels(piece, name)?;
        Ok(Self(name.into()))
    }
}

/// The name without its first label.
fn above(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, zone)| zone)
}

/// Whether a name as typed may have this character. What is not ASCII is left to UTS 46.
fn may_hold(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.".contains(character) || !character.is_ascii()
}

fn stray(character: char) -> Problem {
    match character {
        '*' => Problem::WildcardPlace,
        ',' => Problem::Comma,
        '/' => Problem::Path,
        '@' => Problem::User,
        other => Problem::Character(other),
    }
}

/// The dots of UTS 46 section 2.3.
fn is_dot(character: char) -> bool {
    matches!(character, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}')
}

/// To A-labels, non-transitionally. A hyphen in the third and fourth place is common, at an end of
/// a label RFC 1123 section 2.1 refuses it, and resolvers do.
fn to_ascii(text: &str, hyphens: Hyphens) -> Result<Cow<'_, str>, idna::Errors> {
    Uts46::new().to_ascii(text.as_bytes(), REFUSED, hyphens, DnsLength::Ignore)
}

/// The flaw of a name that cannot be converted: at the label at fault, or at the start where only
/// the whole is (RFC 5893 on right-to-left names).
fn invalid_label(piece: Piece<'_>) -> Flaw {
    let label = piece
        .split(is_dot)
        .find(|label| to_ascii(label.text, Hyphens::CheckFirstLast).is_err())
        .unwrap_or(piece);
    if to_ascii(label.text, Hyphens::Allow).is_ok() {
        label.flaw(Problem::Hyphen)
    } else {
        label.flaw(Problem::Idn(label.quoted()))
    }
}

/// Checks the converted `name`; a flaw is reported at the label of `typed` that it comes from.
fn check_labels(typed: Piece<'_>, name: &str) -> Result<(), Flaw> {
    let flaw = |index, problem: Problem| {
        let place = typed.split(is_dot).nth(index).unwrap_or(typed);
        Err(place.flaw(problem))
    };
    for (index, label) in name.split('.').enumerate() {
        if label.is_empty() {
            let leading = index == 0 && !name.is_empty() && !name.starts_with("..");
            let problem = if leading {
                Problem::LeadingDot
            } else {
                Problem::EmptyLabel
            };
            return flaw(index, problem);
        }
        if label.len() > LABEL {
            return flaw(index, Problem::LabelTooLong(label.len()));
        }
    }
    if name.len() > NAME {
        return flaw(0, Problem::NameTooLong(name.len()));
    }
    if ends_in_number(name) {
        return Err(typed.flaw(Problem::Numeric(typed.quoted())));
    }
    Ok(())
}

/// Whether the last label is a number, decimal or hexadecimal. Such text is an IPv4 address to
/// many programs and a name to none (the URL standard's "ends in a number" check).
pub(super) fn ends_in_number(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|octet| octet.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|octet| octet.is_ascii_digit()),
    }
}

/// It hashes and compares as its text, so that a map of names can be asked for a part of one.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::parse(Piece::new(text)).map_err(|flaw| flaw.problem)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_brought_to_one_form() {
        for (typed, name) in [
            ("API.OpenAI.com", "api.openai.com"),
            ("api.openai.com.", "api.openai.com"),
            ("_dmarc.example_1.org", "_dmarc.example_1.org"),
            (
                "r3---sn-4g5e6nz7.example.com",
                "r3---sn-4g5e6nz7.example.com",
            ),
            ("localhost", "localhost"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            // Non-transitional: sharp s stays a letter of its own.
            ("straße.example", "xn--strae-oqa.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("ａｐｉ．ｏｐｅｎａｉ．ｃｏｍ", "api.openai.com"),
            ("1.2.3.example", "1.2.3.example"),
            ("0x7f.example", "0x7f.example"),
        ] {
            assert_eq!(typed.parse::<Name>().unwrap().as_str(), name, "{typed}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_where_it_fails() {
        let long = "a".repeat(64);
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
        for (typed, at, part) in [
            ("a..b", 2, "empty label"),
            (".", 0, "empty label"),
            ("a.b..", 4, "empty label"),
            (".example.com", 0, "`*.example.com`"),
            ("a b.com", 1, "` ` cannot be"),
            ("a.b!c", 3, "`!` cannot be"),
            ("a.b\u{7}c", 3, "`\\u{7}` cannot be"),
            ("a.*.com", 2, "`*.example.com`"),
            ("foo*", 3, "`*.example.com`"),
            ("a,b", 1, "one entry a line"),
            ("-a.com", 0, "`-`"),
            ("www.a-.com", 4, "`-`"),
            (&format!("x.{long}"), 2, "64 characters"),
            (&longest, 0, "254 characters"),
            (&"a.".repeat(5_000_000), 0, "10000000 characters"),
            ("1.2.3", 0, "`1.2.3` ends in a number"),
            ("010.1.1.1", 0, "IPv4"),
            ("256.0.0.1", 0, "IPv4"),
            ("0x7f.1", 0, "IPv4"),
            ("127.0.0.0x1", 0, "IPv4"),
            ("2130706433", 0, "IPv4"),
            ("0x", 0, "IPv4"),
            ("1.2.3.4.", 0, "IPv4"),
            ("１２７.0.0.１", 0, "IPv4"),
            ("www.xn--a.com", 4, "UTS 46"),
            ("www.a\u{2028}b.com", 4, "UTS 46"),
        ] {
            let flaw = Name::parse(Piece::new(typed)).unwrap_err();
            let printed = flaw.problem.to_string();
            assert!(
                flaw.at == at && printed.contains(part),
                "{typed:.99}: {flaw:?}"
            );
        }
    }

    #[test]
    fn the_longest_name_is_accepted() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert_eq!(longest.len(), 253);
        assert_eq!(longest.parse::<Name>().unwrap().as_str(), longest);
        assert!(format!("{longest}.").parse::<Name>().is_ok());
    }

    #[test]
    fn zones_are_the_names_above() {
        let name: Name = "a.b.example".parse().unwrap();
        assert_eq!(name.zones().collect::<Vec<_>>(), ["b.example", "example"]);
        assert_eq!("localhost".parse::<Name>().unwrap().zones().count(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_idna(typed in "\\PC{0,12}|[a-zA-Z0-9ßäöé例の.-]{1,20}|xn--[a-z0-9-]{1,12}") {
            let theirs = Uts46::new().to_ascii(
                typed.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::VerifyAllowRootDot,
            );
            match (Name::parse(Piece::new(&typed)), theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.as_str(), theirs.trim_end_matches('.')),
                (Ok(ours), Err(_)) => prop_assert!(ours.as_str().contains('_'), "{} is accepted", typed),
                (Err(flaw), Ok(_)) => {
                    prop_assert!(matches!(flaw.problem, Problem::Numeric(_)), "{} is refused: {}", typed, flaw.problem);
                }
                (Err(_), Err(_)) => {}
            }
        }

        #[test]
        fn a_name_reads_back_as_itself(typed in "\\PC{1,20}|[a-zé_.-]{1,20}") {
            if let Ok(name) = typed.parse::<Name>() {
                prop_assert_eq!(name.as_str().parse::<Name>(), Ok(name.clone()));
            }
        }
    }
}
