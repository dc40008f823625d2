//! What a keeper is doing: the answer of `egress-init status`, as data and as text.
//!
//! The keeper writes it as one JSON object to whoever connects to its socket, and ends the
//! connection; there is no request. Durations are whole seconds.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, time::Duration};

/// The format that this version writes and reads.
pub const SCHEMA: u32 = 1;

/// The whole answer. Fields that a later version adds are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The format, 1.
    pub schema: u32,
    /// The version of the keeper.
    pub version: String,
    /// `exec` or `apply`, as in the sentinel.
    pub mode: String,
    /// The keeper's process id, in its own pid namespace.
    pub pid: u32,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// Why the last attempt to read the lists anew changed nothing; none where it did, or where
    /// there was none.
    pub reload_error: Option<String>,
    /// The names that have addresses now or should have.
    pub names: Vec<NameStatus>,
    /// What the rules and the resolver did since they were loaded.
    pub counters: Counters,
}

/// Which policy is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// 1 for the policy of the start, one more for each reload.
    pub generation: u64,
    /// When it came into force, RFC 3339.
    pub since: String,
    /// The mark of its flows, as nft prints it.
    pub mark: String,
}

/// A name and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// Whether only a wildcard allows it.
    pub wildcard: bool,
    /// Where new connections may go.
    pub addresses: Vec<AddressStatus>,
    /// Why it could not be refreshed, last time.
    pub error: Option<String>,
}

/// An address and its remaining life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address.
    pub address: IpAddr,
    /// Seconds until it leaves the sets, unless an answer brings it in again.
    pub expires_in: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// First packets of flows that the list let out.
    pub let_out: Traffic,
    /// The same of what `--inbound` let in.
    pub let_in: Traffic,
    /// Packets refused on the way out.
    pub refused: Traffic,
    /// Packets dropped on the way in.
    pub uninvited: Traffic,
    /// Queries.
    pub dns: DnsCounters,
}

/// Packets and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Their octets.
    pub octets: u64,
}

/// What became of the queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// Answered, negative answers included.
    pub answered: u64,
    /// Of those, without asking upstream.
    pub cached: u64,
    /// Refused: the list does not allow the name, or a limit was reached.
    pub refused: u64,
    /// Allowed, but upstream failed.
    pub failed: u64,
    /// Malformed, or more than can be served: no response.
    pub dropped: u64,
}

/// For a person. A name a line, the soonest end of its addresses behind it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy, counters, ..
        } = self;
        writeln!(
            f,
            "policy    generation {}, since {}, mark {}",
            policy.generation, policy.since, policy.mark
        )?;
        if let Some(error) = &self.reload_error {
            for line in error.lines() {
                writeln!(f, "          not reloaded: {line}")?;
            }
        }
        writeln!(
            f,
            "flows     {} let out, {} let in; packets: {} refused, {} dropped on the way in",
            counters.let_out.packets,
            counters.let_in.packets,
            counters.refused.packets,
            counters.uninvited.packets
        )?;
        let dns = counters.dns;
        writeln!(
            f,
            "queries   {} answered ({} from the cache), {} refused, {} failed, {} dropped",
            dns.answered, dns.cached, dns.refused, dns.failed, dns.dropped
        )?;
        writeln!(f, "names     {}", self.names.len())?;
        let width = self.names.iter().map(|name| name.name.len()).max();
        for name in &self.names {
            write!(f, "  {:1$}  ", name.name, width.unwrap_or_default())?;
            let addresses: Vec<String> = name
                .addresses
                .iter()
                .map(|known| known.address.to_string())
                .collect();
            match name.addresses.iter().map(|known| known.expires_in).min() {
                None => f.write_str("no address")?,
                Some(life) => write!(
                    f,
                    "{} for {}",
                    addresses.join(" "),
                    humantime::format_duration(Duration::from_secs(life))
                )?,
            }
            if name.wildcard {
                f.write_str(", by a wildcard")?;
            }
            if let Some(error) = &name.error {
                write!(f, ", not refreshed: {error}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::keeper::status_socket::parse;

    fn status() -> Status {
        Status {
            schema: SCHEMA,
            version: "1.0.0".to_owned(),
            mode: "exec".to_owned(),
            pid: 1,
            policy: PolicyStatus {
                generation: 2,
                since: "2026-01-02T03:04:05Z".to_owned(),
                mark: "0x00c0ffee".to_owned(),
            },
            reload_error: Some("list:1:1: no".to_owned()),
            names: vec![
                NameStatus {
                    name: "api.example.org".to_owned(),
                    wildcard: false,
                    addresses: ["192.0.2.7", "2001:db8::7"]
                        .map(|address| AddressStatus {
                            address: address.parse().unwrap(),
                            expires_in: 90,
                        })
                        .into(),
                    error: None,
                },
                NameStatus {
                    name: "a.example".to_owned(),
                    wildcard: true,
                    addresses: Vec::new(),
                    error: Some("no answer from 192.0.2.53:53".to_owned()),
                },
            ],
            counters: Counters::default(),
        }
    }

    #[test]
    fn a_status_is_utf_8_wherever_one_looks() {
        let json = serde_json::to_vec(&status()).unwrap();
        let with = |octet: u8| [b"{\"other\":\"", &[octet][..], b"\",", &json[1..]].concat();
        assert_eq!(parse(&with(b'x')).unwrap(), status());
        assert!(parse(&with(0xff)).is_err());
    }

    #[test]
    fn it_reads_what_it_writes() {
        let json = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let mut json: serde_json::Value = serde_json::to_value(status()).unwrap();
        json["weather"] = "fine".into();
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
    }

    #[test]
    fn a_person_reads_names_in_a_column() {
        let text = status().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "policy    generation 2, since 2026-01-02T03:04:05Z, mark 0x00c0ffee"
        );
        assert_eq!(lines[1], "          not reloaded: list:1:1: no");
        assert_eq!(
            lines[5..],
            [
                "  api.example.org  192.0.2.7 2001:db8::7 for 1m 30s",
                "  a.example        no address, by a wildcard, not refreshed: no answer from 192.0.2.53:53",
            ]
        );
    }
}
