//! One entry: `[!]TARGET[:PORTS[/PROTOCOL]]`, or `[!]@LIST`.

use super::{
    Accept, Place,
    name::{Name, ends_in_number},
    network,
    problem::{Flaw, Piece, Problem},
    services::{self, Services},
};
use ipnet::IpNet;
use std::{fmt, net::Ipv4Addr};

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A name, whose addresses the resolver finds.
    Name(Name),
    /// Every name below this one, at any depth, and not the name itself.
    Wildcard(Name),
    /// The addresses of a network without host bits; of full length for a single address.
    Network(IpNet),
}

/// One line of a list.
///
/// It prints as it would be written, without the ports that are the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub target: Target,
    /// The services of the target that it allows or refuses.
    pub services: Services,
    /// Whether it refuses them.
    pub deny: bool,
    /// Where it stands; for an entry of a shipped list, where the list was asked for.
    pub place: Place,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.deny {
            f.write_str("!")?;
        }
        let implied = self.services == implied(self.deny);
        match &self.target {
            Target::Name(name) => write!(f, "{name}")?,
            Target::Wildcard(zone) => write!(f, "*.{zone}")?,
            Target::Network(network) => {
                let single = network.prefix_len() == network.max_prefix_len();
                let text = if single {
                    network.addr().to_string()
                } else {
                    network.to_string()
                };
                match network {
                    IpNet::V6(_) if !implied => write!(f, "[{text}]")?,
                    _ => f.write_str(&text)?,
                }
            }
        }
        if implied {
            return Ok(());
        }
        write!(f, ":{}", self.services)
    }
}

/// The services of an entry without ports.
fn implied(deny: bool) -> Services {
    if deny { Services::EVERY } else { Services::WEB }
}

/// An entry as read: by itself, or the name of a shipped list.
pub(super) enum Item<'a> {
    One(Target, Services, Verdict),
    List(Piece<'a>, Verdict),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    Allow,
    Deny,
}

/// Reads one entry. `blank` says what is accepted where it has a blank inside.
pub(super) fn parse<'a>(
    text: &'a str,
    accept: Accept,
    blank: &'static str,
) -> Result<Item<'a>, Flaw> {
    let whole = Piece::new(text);
    if let Some(offset) = text.find(char::is_whitespace) {
        return Err(Problem::Blank(blank).at(offset));
    }
    let (body, verdict) = match whole.split_once('!') {
        Some((before, body)) if before.text.is_empty() => (body, Verdict::Deny),
        _ => (whole, Verdict::Allow),
    };
    match body.text.chars().next() {
        None => return Err(whole.flaw(Problem::NothingRefused)),
        Some('!') => return Err(body.flaw(Problem::RefusedTwice)),
        Some('@') => return Ok(Item::List(body.from(1), verdict)),
        Some(_) => refuse_lookalikes(body)?,
    }

    let (target, ports) = divide(body)?;
    let target = parse_target(target, ports.is_some())?;
    let services = match ports {
        None => implied(verdict == Verdict::Deny),
        Some(ports) => {
            let ports = services::parse(ports)?;
            match ports.dns_at {
                Some(at) if verdict == Verdict::Allow => return Err(Problem::Dns.at(at)),
                _ => ports.services,
            }
        }
    };
    if verdict == Verdict::Allow {
        refuse_too_much(body, &target, accept)?;
    }
    Ok(Item::One(target, services, verdict))
}

/// Refuses what people paste from elsewhere before any rule of the grammar trips over its parts.
fn refuse_lookalikes(body: Piece<'_>) -> Result<(), Flaw> {
    if let Some(offset) = body.text.find("://") {
        let host = body.from(offset + "://".len());
        let end = host.text.find(['/', '?']).unwrap_or(host.text.len());
        let host = host.until(end).quoted();
        let host = host.trim_matches('`').to_owned();
        return Err(Problem::Url { host }.at(body.at + offset));
    }
    match body.text.find('@') {
        Some(offset) => Err(Problem::User.at(body.at + offset)),
        None => Ok(()),
    }
}

/// Splits an entry into target and ports, and takes the brackets off.
fn divide(body: Piece<'_>) -> Result<(Piece<'_>, Option<Piece<'_>>), Flaw> {
    if body.text.starts_with('[') {
        return divide_brackets(body);
    }
    let (target, ports) = match body.split_once(':') {
        Some(_) if is_like_ipv6(body.text) => (body, None),
        Some((target, ports)) => (target, Some(ports)),
        None => (body, None),
    };
    if target.text.is_empty() {
        return Err(body.flaw(Problem::TargetMissing));
    }
    if let Some((_, beyond)) = ports.and_then(|ports| ports.split_once(':')) {
        return Err(Problem::SecondColon.at(beyond.at - 1));
    }
    Ok((target, ports))
}

fn divide_brackets(body: Piece<'_>) -> Result<(Piece<'_>, Option<Piece<'_>>), Flaw> {
    let Some((inside, behind)) = body.from(1).split_once(']') else {
        return Err(body.flaw(Problem::BracketOpen));
    };
    if !inside.text.contains(':') {
        return Err(inside.flaw(Problem::NotIpv6(inside.quoted())));
    }
    match behind.split_once(':') {
        Some((between, ports)) if between.text.is_empty() => Ok((inside, Some(ports))),
        None if behind.text.is_empty() => Ok((inside, None)),
        _ => Err(behind.flaw(Problem::AfterBracket)),
    }
}

/// Whether text can only have been meant as an IPv6 address or network.
fn is_like_ipv6(text: &str) -> bool {
    let address = text.split(['/', '%', ',']).next().unwrap_or(text);
    let fits = |octet: u8| octet.is_ascii_hexdigit() || b":.*-".contains(&octet);
    address.matches(':').count() >= 2 && address.bytes().all(fits)
}

fn parse_target(piece: Piece<'_>, has_ports: bool) -> Result<Target, Flaw> {
    if piece.text.contains(':') {
        return network::parse_ipv6(piece)
            .map(Target::Network)
            .map_err(|flaw| match flaw.problem {
                Problem::NotIpv6(_) | Problem::Prefix { .. } if !has_ports => {
                    brackets_missing(piece).unwrap_or(flaw)
                }
                _ => flaw,
            });
    }
    let (address, suffix) = network::split_prefix(piece);
    if let Ok(found) = address.text.parse::<Ipv4Addr>() {
        return match suffix.filter(|suffix| services::protocols(suffix.text).is_some()) {
            Some(protocol) => Err(protocol_alone(protocol)),
            None => network::network(address, found.into(), suffix).map(Target::Network),
        };
    }
    match suffix {
        None => parse_name(piece),
        Some(_) if ends_in_number(address.text) => {
            Err(address.flaw(Problem::Numeric(address.quoted())))
        }
        Some(protocol) if services::protocols(protocol.text).is_some() => {
            Err(protocol_alone(protocol))
        }
        Some(path) => Err(Problem::Path.at(path.at - 1)),
    }
}

/// The flaw of `2001:db8::/32:443`: an address without brackets, and ports behind it.
fn brackets_missing(piece: Piece<'_>) -> Option<Flaw> {
    let (address, ports) = piece.text.rsplit_once(':')?;
    let address = piece.until(address.len());
    let ambiguous = ports.is_empty() || address.text.ends_with(':');
    if ambiguous || network::parse_ipv6(address).is_err() {
        return None;
    }
    let problem = Problem::Brackets {
        address: address.text.to_owned(),
        ports: ports.to_owned(),
    };
    Some(problem.at(address.at + address.text.len()))
}

fn protocol_alone(protocol: Piece<'_>) -> Flaw {
    Problem::PortsMissing(format!("/{}", protocol.text)).at(protocol.at - 1)
}

fn parse_name(piece: Piece<'_>) -> Result<Target, Flaw> {
    if piece.text == "*" {
        return Err(piece.flaw(Problem::WildcardTooBroad));
    }
    if !piece.text.starts_with("*.") {
        return Name::parse(piece).map(Target::Name);
    }
    let zone = Name::parse(piece.from(2))?;
    if zone.has_dot() {
        Ok(Target::Wildcard(zone))
    } else {
        Err(piece.flaw(Problem::WildcardTooBroad))
    }
}

/// Refuses what may be denied but not allowed.
fn refuse_too_much(body: Piece<'_>, target: &Target, accept: Accept) -> Result<(), Flaw> {
    match target {
        Target::Network(network) if network.prefix_len() == 0 => {
            Err(body.flaw(Problem::Everything(*network)))
        }
        Target::Wildcard(zone) if !accept.wildcards => Err(body.flaw(Problem::Wildcard {
            zone: zone.to_string(),
        })),
        _ => Ok(()),
    }
}
