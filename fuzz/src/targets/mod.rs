//! What is tried. Each target takes any octets, and panics where the code under test, or the
//! second opinion on it, says that something is wrong.

mod accounts;
mod dns;
mod hosts;
mod kernel;
mod list;
mod lookup;
mod messages;
mod name;
mod network;
mod policy;
mod proxy;
mod resolv_conf;
mod ruleset;
mod sentinel;
mod settings;
mod status;

/// The targets by name. `scripts/fuzz` reads this list: one a line.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("list", list::run),
    ("name", name::run),
    ("network", network::run),
    ("policy", policy::run),
    ("lookup", lookup::run),
    ("ruleset", ruleset::run),
    ("messages", messages::run),
    ("kernel", kernel::run),
    ("dns", dns::run),
    ("proxy", proxy::run),
    ("resolv_conf", resolv_conf::run),
    ("hosts", hosts::run),
    ("accounts", accounts::run),
    ("settings", settings::run),
    ("sentinel", sentinel::run),
    ("status", status::run),
];

/// The octet between the fields of an input that has several: no part of any UTF-8 text.
const BETWEEN: u8 = 0xff;

/// The fields of an input.
fn fields(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|octet| *octet == BETWEEN)
}

/// The next field, as text.
fn text<'a>(fields: &mut impl Iterator<Item = &'a [u8]>) -> String {
    String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned()
}
