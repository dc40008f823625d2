//! Who is asked: /etc/resolv.conf, Docker's embedded DNS behind it, and `--dns-upstream`.
//!
//! From the same text comes what the lock has to leave open while names are resolved: the
//! [`Nameservers`].

use std::{
    borrow::Cow,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
};

use resolv_conf::{Config, ScopedIp};
use tracing::warn;

use crate::{file, policy::Nameservers};

/// Where the configuration of the C library's resolver is (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

const LIMIT: u64 = 1024 * 1024;
const DNS_PORT: u16 = 53;

/// Where Docker's embedded DNS listens on user-defined networks.
const EMBEDDED_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The nameservers in their order, without repetitions, all on port 53.
    pub nameservers: Vec<SocketAddr>,
    /// The search list, for names without a dot.
    pub search: Vec<String>,
    /// What Docker's comments say of the servers behind 127.0.0.11.
    pub embedded: Embedded,
}

/// The servers that Docker's embedded DNS forwards to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Embedded {
    /// The file does not say.
    #[default]
    Unknown,
    /// From inside the container's network namespace, these and no others. Those marked
    /// `host(...)` are asked from the host's namespace and are not among them.
    Forwards(Vec<SocketAddr>),
}

/// A resolv.conf that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolvConfError {
    /// It exists and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ResolvConfError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Read { .. } => Some("name the servers with --dns-upstream IP".into()),
        }
    }
}

impl ResolvConf {
    /// Reads a file; one that does not exist says nothing.
    pub fn read(path: &Path) -> Result<Self, ResolvConfError> {
        match file::read(path, LIMIT) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ResolvConfError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Understands the text as the C library does: a line that it cannot use is skipped, here
    /// with a warning.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let (config, errors) = Config::parse_with_errors(text);
        for error in errors {
            warn!("resolv.conf: {error} (lines count from 0)");
        }
        let mut nameservers = Vec::new();
        for server in &config.nameservers {
            match socket_address(server, DNS_PORT) {
                Some(address) if !nameservers.contains(&address) => nameservers.push(address),
                Some(_) => {}
                None => warn!("resolv.conf: no interface for nameserver {server}; skipped"),
            }
        }
        let search = config.get_last_search_or_domain();
        Self {
            nameservers,
            search: search.map(|domain| domain.to_ascii_lowercase()).collect(),
            embedded: Embedded::from_comments(text),
        }
    }
}

impl Embedded {
    /// Docker writes `# ExtServers: [192.0.2.1 host(127.0.0.53)]` into the files it generates, or
    /// that there are none (moby, daemon/libnetwork/internal/resolvconf). An entry that is no
    /// address makes the whole of it unknown.
    fn from_comments(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut embedded = Self::Unknown;
        for line in text.lines() {
            let Some(comment) = line.trim().strip_prefix('#').map(str::trim) else {
                continue;
            };
            if comment == "NO EXTERNAL NAMESERVERS DEFINED" {
                embedded = Self::Forwards(Vec::new());
            }
            let list = comment
                .strip_prefix("ExtServers:")
                .and_then(|rest| rest.trim().strip_prefix('[')?.strip_suffix(']'));
            if let Some(list) = list {
                let servers: Option<Vec<_>> = list
                    .split_whitespace()
                    .filter(|entry| !entry.starts_with("host("))
                    .map(|entry| socket_address(&entry.parse().ok()?, DNS_PORT))
                    .collect();
                embedded = servers.map_or(Self::Unknown, Self::Forwards);
            }
        }
        embedded
    }
}

/// The scope of a link-local address is an interface, by name or by number; nothing where there
/// is no such interface.
fn socket_address(server: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match server {
        ScopedIp::V4(address) => Some(SocketAddr::from((*address, port))),
        ScopedIp::V6(address, None) => Some(SocketAddr::from((*address, port))),
        ScopedIp::V6(address, Some(scope)) => {
            let index = match scope.parse() {
                Ok(index) => index,
                Err(_) => nix::net::if_::if_nametoindex(scope.as_str()).ok()?,
            };
            Some(SocketAddrV6::new(*address, port, 0, index).into())
        }
    }
}

/// Whom to ask, and for names without a dot, where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// The servers in the order in which they are asked; none where none is configured.
    pub servers: Vec<SocketAddr>,
    /// The search list.
    pub search: Vec<String>,
    embedded: Embedded,
}

impl Upstreams {
    /// The nameservers of the file, or those of `--dns-upstream` where there are any.
    #[must_use]
    pub fn new(conf: ResolvConf, overrides: &[SocketAddr]) -> Self {
        let servers = if overrides.is_empty() {
            conf.nameservers
        } else {
            overrides.to_vec()
        };
        Self {
            servers,
            search: conf.search,
            embedded: conf.embedded,
        }
    }

    /// What has to be open for the servers to be reached. Loopback is open anyway, and a query
    /// to 0.0.0.0 goes to loopback too.
    #[must_use]
    pub fn nameservers(&self) -> Nameservers {
        let mut nameservers = Nameservers::default();
        for server in &self.servers {
            let address = server.ip().to_canonical();
            if address == EMBEDDED_DNS {
                match &self.embedded {
                    Embedded::Forwards(servers) => nameservers.servers.extend(servers),
                    Embedded::Unknown => nameservers.unknown = true,
                }
            } else if !address.is_loopback() && !address.is_unspecified() {
                nameservers
                    .servers
                    .insert(SocketAddr::new(address, server.port()));
            }
        }
        nameservers
    }
}

/// A value of `--dns-upstream` that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not the address of a DNS server; accepted are IP, IP:PORT and [IPv6]:PORT")]
pub struct UpstreamError {
    value: String,
}

/// The value of `--dns-upstream`: `IP`, `IP:PORT`, `[IPv6]` or `[IPv6]:PORT`, the port 53 where
/// there is none; an IPv6 address may have a `%scope`.
pub fn parse_upstream(value: &str) -> Result<SocketAddr, UpstreamError> {
    let error = || UpstreamError {
        value: value.to_owned(),
    };
    let (address, port) = if let Some(rest) = value.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(error)?;
        if !address.contains(':') {
            return Err(error());
        }
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':').ok_or_else(error)?),
        };
        (address, port)
    } else {
        match value.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (value, None),
        }
    };
    let port = match port {
        None => DNS_PORT,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| error())?
        }
        Some(_) => return Err(error()),
    };
    address
        .parse()
        .ok()
        .and_then(|address| socket_address(&address, port))
        .filter(|server| port != 0 && !server.ip().is_multicast() && !server.ip().is_unspecified())
        .ok_or_else(error)
}

/// A server as messages name it: the port only where it is not 53.
#[derive(Clone, Copy)]
pub(super) struct Server(pub SocketAddr);

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => v6.fmt(f),
            server if server.port() == DNS_PORT => server.ip().fmt(f),
            server => server.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn servers(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|server| server.parse().unwrap()).collect()
    }

    fn nameservers(text: &str, overrides: &[&str]) -> Nameservers {
        Upstreams::new(ResolvConf::parse(text.as_bytes()), &servers(overrides)).nameservers()
    }

    #[test]
    fn kubernetes() {
        let conf = ResolvConf::parse(
            b"search shop.svc.cluster.local svc.cluster.local Cluster.Local\n\
              nameserver 10.96.0.10\noptions ndots:5\n",
        );
        assert_eq!(conf.nameservers, servers(&["10.96.0.10:53"]));
        assert_eq!(
            conf.search,
            [
                "shop.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local"
            ]
        );
    }

    #[test]
    fn both_families_in_order_without_repetition() {
        let conf = ResolvConf::parse(
            b"nameserver 2001:db8::53 # ours\nnameserver 192.0.2.53\nnameserver 192.0.2.53\n\
              nameserver fe80::1%lo\nnameserver fe80::2%7\n",
        );
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected = [
            "[2001:db8::53]:53".parse().unwrap(),
            "192.0.2.53:53".parse().unwrap(),
            SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, lo).into(),
            SocketAddrV6::new("fe80::2".parse().unwrap(), 53, 0, 7).into(),
        ];
        assert_eq!(conf.nameservers, expected);
    }

    #[test]
    fn lines_of_no_use_are_skipped() {
        let conf = ResolvConf::parse(
            b"nameserver\nnameserver nowhere\nnameserver fe80::1%absent0\n\xff\xfe\n\
              options ndots:many\r\nnameserver 192.0.2.53\r\ndomain example.org\r\n",
        );
        assert_eq!(conf.nameservers, servers(&["192.0.2.53:53"]));
        assert_eq!(conf.search, ["example.org"]);
    }

    #[test]
    fn the_last_of_search_and_domain_counts() {
        let conf = ResolvConf::parse(b"search a.example b.example\ndomain c.example\n");
        assert_eq!(conf.search, ["c.example"]);
    }

    #[test]
    fn an_absent_file_has_no_servers() {
        let dir = tempfile::tempdir().unwrap();
        let conf = ResolvConf::read(&dir.path().join("absent")).unwrap();
        assert_eq!(conf, ResolvConf::default());
        assert_eq!(ResolvConf::parse(b""), conf);
        let error = ResolvConf::read(dir.path()).unwrap_err();
        assert!(error.remedy().unwrap().contains("--dns-upstream"));
    }

    #[test]
    fn the_nameservers_is_the_nameservers_but_those_on_loopback() {
        let nameservers = nameservers(
            "nameserver 10.0.0.2\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::53\n\
             nameserver 0.0.0.0\nnameserver ::ffff:10.0.0.3\n",
            &[],
        );
        let expected = servers(&["10.0.0.2:53", "10.0.0.3:53", "[2001:db8::53]:53"]);
        assert_eq!(
            nameservers.servers.into_iter().collect::<Vec<_>>(),
            expected
        );
        assert!(!nameservers.unknown);
    }

    #[test]
    fn behind_the_embedded_dns_are_its_external_servers() {
        let known = nameservers(
            "# Generated by Docker Engine.\n\nnameserver 127.0.0.11\noptions ndots:0\n\n\
             # ExtServers: [8.8.8.8 host(192.168.65.7) 2001:db8::53]\n# Overrides: [nameservers]\n",
            &[],
        );
        let expected = servers(&["8.8.8.8:53", "[2001:db8::53]:53"]);
        assert_eq!(known.servers.into_iter().collect::<Vec<_>>(), expected);
        assert!(!known.unknown);
    }

    #[test]
    fn behind_the_embedded_dns_on_the_host_needs_no_nameservers() {
        let on_host = "nameserver 127.0.0.11\n# ExtServers: [host(127.0.0.53)]\n";
        assert_eq!(nameservers(on_host, &[]), Nameservers::default());
        let none = "nameserver 127.0.0.11\n# NO EXTERNAL NAMESERVERS DEFINED\n";
        assert_eq!(nameservers(none, &[]), Nameservers::default());
    }

    #[test]
    fn behind_the_embedded_dns_may_be_anything() {
        for text in [
            "nameserver 127.0.0.11\n",
            "nameserver 127.0.0.11\n# ExtServers: [8.8.8.8 something]\n",
            "nameserver 127.0.0.11\n# ExtServers: 8.8.8.8\n",
        ] {
            let nameservers = nameservers(text, &[]);
            assert!(nameservers.unknown, "{text}");
            assert!(nameservers.servers.is_empty(), "{text}");
        }
    }

    #[test]
    fn the_override_is_all_that_is_opened() {
        let nameservers = nameservers(
            "nameserver 127.0.0.11\nnameserver 10.0.0.2\n",
            &["192.0.2.9:5353"],
        );
        let expected = servers(&["192.0.2.9:5353"]);
        assert_eq!(
            nameservers.servers.into_iter().collect::<Vec<_>>(),
            expected
        );
        assert!(!nameservers.unknown);
    }

    #[test]
    fn upstreams_on_the_command_line() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("::1", "[::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("fe80::1%3", "[fe80::1%3]:53"),
            ("[fe80::1%3]:54", "[fe80::1%3]:54"),
        ] {
            assert_eq!(
                parse_upstream(value),
                Ok(expected.parse().unwrap()),
                "{value}"
            );
        }
        for value in [
            "",
            ":53",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1:+53",
            "one.one",
            "192.0.2.256",
            "[192.0.2.1]:53",
            "[::1",
            "[::1]53",
            "[::1]:",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "192.0.2.1 ",
            "fe80::1%absent0",
        ] {
            let error = parse_upstream(value).unwrap_err().to_string();
            assert!(error.contains("[IPv6]:PORT"), "{value}: {error}");
        }
    }

    #[test]
    fn servers_are_named_with_their_port_where_it_matters() {
        for (server, name) in [
            ("10.0.0.2:53", "10.0.0.2"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("[2001:db8::1]:53", "2001:db8::1"),
            ("[fe80::1%3]:53", "[fe80::1%3]:53"),
        ] {
            assert_eq!(Server(server.parse().unwrap()).to_string(), name);
        }
    }
}
