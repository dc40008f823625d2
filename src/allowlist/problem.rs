//! What can be wrong with a list, in words: every text that names a flaw and what is accepted
//! instead. Invariant I8 of the contract.

use super::shipped;
use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// How many flaws are kept and printed; the rest is only counted, so that a large file of garbage
/// costs neither memory nor a screen.
pub(super) const KEPT: usize = 20;

/// How many characters of the input a text quotes at most.
const QUOTED: usize = 40;

/// One flaw of an entry: what is wrong, and after a semicolon what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Bytes that are no text.
    #[error("this is not UTF-8; lists are UTF-8 text")]
    NotUtf8,
    /// A source without any entry.
    #[error("there is no entry in it; give at least one, or do not give this source")]
    Empty,
    /// Two words where one was expected.
    #[error("a blank inside an entry; {0}")]
    Blank(&'static str),
    /// `!` alone.
    #[error("`!` refuses nothing; an entry follows it at once, as in `!gist.github.com`")]
    NothingRefused,
    /// `!!name`.
    #[error("a second `!`; one refuses an entry, and no `!` allows it")]
    RefusedTwice,
    /// `https://name/`.
    #[error("a URL is not an entry; write the name alone: `{host}`")]
    Url {
        /// What of the URL would be accepted.
        host: String,
    },
    /// `user@name`.
    #[error("a user is not part of an entry; write the name alone, without `user@`")]
    User,
    /// `name/path`.
    #[error(
        "a path is not part of an entry; write the name alone: addresses and ports are all that is filtered"
    )]
    Path,
    /// `:443`.
    #[error(
        "a name, an address or a network is missing before `:`; `api.openai.com:443`, for example"
    )]
    TargetMissing,

    /// A character that no name has.
    #[error("`{}` cannot be in a name; letters, digits, `-`, `_` and dots can", .0.escape_debug())]
    Character(char),
    /// `a.com,b.com`.
    #[error("a comma separates ports, as in `github.com:22,443`; one entry a line")]
    Comma,
    /// `a..b`.
    #[error("an empty label; one dot between labels, as in `api.openai.com`")]
    EmptyLabel,
    /// `.example.com`.
    #[error(
        "a name does not start with a dot; `example.com` is that name, `*.example.com` every name below it"
    )]
    LeadingDot,
    /// A label longer than DNS can carry.
    #[error("a label of {0} characters; at most 63 between two dots")]
    LabelTooLong(usize),
    /// A name longer than DNS can carry.
    #[error("a name of {0} characters; at most 253")]
    NameTooLong(usize),
    /// `-name`, `name-`.
    #[error("a label starts or ends with `-`; letters, digits and `_` may stand there")]
    Hyphen,
    /// A label that UTS 46 refuses.
    #[error(
        "{0} is not a valid internationalised label (UTS 46); use the name as the vendor registered it, or its `xn--` form"
    )]
    Idn(String),
    /// `1.2.3`, `010.1.1.1`, `0x7f.1`.
    #[error(
        "{0} ends in a number, so it is no name, and it is no IPv4 address either; four decimal numbers of 0 to 255 without leading zeros, as in `192.0.2.7`"
    )]
    Numeric(String),

    /// `a.*.com`, `foo*`.
    #[error("`*` stands only for whole first labels, as in `*.example.com`")]
    WildcardPlace,
    /// `*`, `*.com`.
    #[error("this wildcard is too broad; at least two labels follow `*.`, as in `*.example.com`")]
    WildcardTooBroad,
    /// A wildcard where no resolver of ours answers the command.
    #[error(
        "`*.{zone}` needs a resolver in the path of every query; choose `--supervise` or `apply --watch`, or list the exact names"
    )]
    Wildcard {
        /// The name after `*.`.
        zone: String,
    },

    /// Text that has the shape of an IPv6 address.
    #[error(
        "{0} is not an IPv6 address; `2001:db8::1`, for example, and `[2001:db8::1]:443` with a port"
    )]
    NotIpv6(String),
    /// `host:80:90`.
    #[error(
        "a second `:`; ports follow one colon, with commas between them, as in `github.com:22,443`"
    )]
    SecondColon,
    /// `2001:db8::/32:443`.
    #[error("ports after an IPv6 address need brackets around it; write `[{address}]:{ports}`")]
    Brackets {
        /// What belongs between the brackets.
        address: String,
        /// What follows them.
        ports: String,
    },
    /// `[2001:db8::1`.
    #[error("`[` without `]`; `[2001:db8::1]:443`, for example")]
    BracketOpen,
    /// `[2001:db8::1]443`, `[2001:db8::]/32`.
    #[error(
        "only `:` and ports follow `]`; a prefix length stands before it: `[2001:db8::/32]:443`"
    )]
    AfterBracket,
    /// `fe80::1%eth0`.
    #[error("an address with a zone (`%`) is not accepted; leave the zone away")]
    Zone,
    /// `::ffff:192.0.2.7`.
    #[error("an IPv4-mapped IPv6 address never leaves the machine; write `{0}`")]
    Mapped(Ipv4Addr),
    /// `::ffff:0:0/96`.
    #[error(
        "a network of IPv4-mapped IPv6 addresses never leaves the machine; write the IPv4 network"
    )]
    MappedNetwork,
    /// Neither an address nor a network, where nothing else can stand.
    #[error("{0} is no address and no network; `10.0.0.0/8` or `2001:db8::/32`, for example")]
    NotNetwork(String),
    /// `10.0.0.0/33`, `10.0.0.0/255.0.0.0`.
    #[error("{found} is no prefix length; a number from 0 to {max} follows `/`")]
    Prefix {
        /// What was found.
        found: String,
        /// The longest prefix of the family.
        max: u8,
    },
    /// `10.20.0.1/16`.
    #[error(
        "`{address}` lies inside the network; `{network}` is the network, `{address}` alone is the address"
    )]
    HostBits {
        /// The address as written.
        address: IpAddr,
        /// The network that it lies in.
        network: IpNet,
    },
    /// `0.0.0.0/0`, `::/0`.
    #[error("`{0}` is every address; name the networks that are needed")]
    Everything(IpNet),

    /// `name:`, `name:80,`, `name:80-`.
    #[error("a port is missing; {accepted}", accepted = ACCEPTED_PORTS)]
    PortMissing,
    /// Text that is no port.
    #[error("{0} is not a port; {accepted}", accepted = ACCEPTED_PORTS)]
    Port(String),
    /// Port 0.
    #[error("port 0 cannot be connected to; {accepted}", accepted = ACCEPTED_PORTS)]
    PortZero,
    /// `443-80`.
    #[error(
        "the range {first}-{last} runs downwards; the lower port comes first: `{last}-{first}`"
    )]
    RangeDown {
        /// The port before `-`.
        first: u16,
        /// The port after it.
        last: u16,
    },
    /// `name:53`.
    #[error(
        "port 53 is opened by `--dns`, never by a list; use `--dns system` with `--dns-upstream ADDRESS`"
    )]
    Dns,
    /// `name:443/sctp`.
    #[error("{0} is not a protocol; `/tcp`, `/udp` or `/any` (both) may follow the ports")]
    Protocol(String),
    /// `name:443/tcp,22`.
    #[error(
        "the protocol comes last and counts for every port of the entry; write `:22,443/tcp`, or two entries"
    )]
    AfterProtocol,
    /// `name/udp`.
    #[error("a protocol follows ports; write `:443{0}` or `:*{0}`")]
    PortsMissing(String),

    /// `@nothing`. Holds what was asked for, with its `@`.
    #[error("no list {0} ships with this version; there are {known}", known = shipped::known())]
    UnknownList(String),
    /// `@github:22`.
    #[error(
        "a shipped list has its own ports; write `{0}` alone, and another port with its name: `github.com:22`"
    )]
    ListPorts(String),
}

const ACCEPTED_PORTS: &str =
    "a number from 1 to 65535, a range such as `8000-8100`, or `*` for every port";

impl Problem {
    /// This flaw at an octet of the entry.
    pub(crate) fn at(self, at: usize) -> Flaw {
        Flaw { at, problem: self }
    }
}

/// A flaw and the octet of the entry where it lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub at: usize,
    pub problem: Problem,
}

/// Part of an entry that knows where in the entry it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub text: &'a str,
    pub at: usize,
}

impl<'a> Piece<'a> {
    /// A whole entry.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// From an octet on. It must be the first one of a character, as for [`Self::until`].
    pub fn from(self, offset: usize) -> Self {
        Self {
            text: &self.text[offset..],
            at: self.at + offset,
        }
    }

    /// Up to an octet.
    pub fn until(self, offset: usize) -> Self {
        Self {
            text: &self.text[..offset],
            at: self.at,
        }
    }

    /// Before and after the first `separator`.
    pub fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let offset = self.text.find(separator)?;
        Some((self.until(offset), self.from(offset + separator.len_utf8())))
    }

    /// What lies between separators, each with its place.
    pub fn split(self, separator: impl Fn(char) -> bool) -> impl Iterator<Item = Self> {
        let start = self.text.as_ptr().addr();
        self.text.split(separator).map(move |text| Self {
            text,
            at: self.at + (text.as_ptr().addr() - start),
        })
    }

    /// A flaw of this piece as a whole: it lies at its start.
    pub fn flaw(self, problem: Problem) -> Flaw {
        problem.at(self.at)
    }

    /// The piece as an error text quotes it: between backquotes, short, and without characters
    /// that a terminal would act upon.
    pub fn quoted(self) -> String {
        let mut quoted = String::from("`");
        let mut rest = self.text.chars();
        for character in rest.by_ref().take(QUOTED) {
            match character {
                '"' | '\'' | '\\' => quoted.push(character),
                _ => quoted.extend(character.escape_debug()),
            }
        }
        if rest.next().is_some() {
            quoted.push('…');
        }
        quoted.push('`');
        quoted
    }
}

/// A flaw with its place, as it is printed: `FILE:LINE:COLUMN: what is wrong; what is accepted`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{label}:{line}:{column}: {problem}")]
pub struct Mistake {
    /// The file's path as it was given, `--allow`, or the name of the variable.
    pub label: String,
    /// Counted from 1; for `--allow` which of these flags it is.
    pub line: u32,
    /// In characters from 1; for `--allow` within the flag's value.
    pub column: u32,
    /// What is wrong.
    pub problem: Problem,
}

/// Everything that is wrong with the lists that were given. It prints one flaw a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidAllowlist {
    /// The first flaws, in the order in which the lists were given.
    pub mistakes: Vec<Mistake>,
    /// How many there are beyond these.
    pub more: usize,
}

impl InvalidAllowlist {
    /// None: every flaw says itself what is accepted.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        None
    }
}

impl fmt::Display for InvalidAllowlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{mistake}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n{more} more like these"),
        }
    }
}
