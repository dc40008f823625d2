//! /etc/resolv.conf with Docker's comments, and `--dns-upstream`: who is asked is who the text
//! names, and what the lock leaves open for it is never loopback.

use super::{fields, text};
use egress_init::resolve::nameservers::{Embedded, ResolvConf, Upstreams, parse_upstream};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

pub fn run(data: &[u8]) {
    let mut parts = fields(data);
    let file = parts.next().unwrap_or_default();
    let value = text(&mut parts);

    let conf = ResolvConf::parse(file);
    let file = String::from_utf8_lossy(file);
    let named = named(&file);
    let mut seen = BTreeSet::new();
    for server in &conf.nameservers {
        assert!(seen.insert(*server), "{server} twice");
        assert_eq!(server.port(), 53);
        assert!(named.contains(&server.ip()), "{server} is not in the text");
    }
    for domain in &conf.search {
        assert!(
            file.to_ascii_lowercase().contains(domain.as_str()),
            "{domain}"
        );
        assert!(
            !domain.is_empty() && !domain.contains(char::is_whitespace),
            "{domain:?}"
        );
    }
    if let Embedded::Forwards(servers) = &conf.embedded {
        assert!(file.contains("ExtServers:") || file.contains("NO EXTERNAL NAMESERVERS DEFINED"));
        assert!(servers.iter().all(|server| server.port() == 53));
    }
    holes(&Upstreams::new(conf.clone(), &[]), &conf);

    if let Ok(server) = parse_upstream(&value) {
        assert!(
            server.port() != 0 && !server.ip().is_unspecified(),
            "{server}"
        );
        assert_eq!(parse_upstream(&server.to_string()), Ok(server));
        let upstreams = Upstreams::new(conf.clone(), &[server]);
        assert_eq!(upstreams.servers, [server]);
        holes(&upstreams, &conf);
    } else {
        let plain: Result<SocketAddr, _> = value.parse();
        let refused = |server: &SocketAddr| {
            let ip = server.ip();
            server.port() == 0 || ip.is_unspecified() || ip.is_multicast()
        };
        assert!(plain.as_ref().map_or(true, refused), "{value} is refused");
    }
}

/// What the lock leaves open is for the servers outside, and for all of them.
fn holes(upstreams: &Upstreams, conf: &ResolvConf) {
    let docker = IpAddr::from([127, 0, 0, 11]);
    let open = upstreams.nameservers();
    let forwarded: &[SocketAddr] = match &conf.embedded {
        Embedded::Forwards(servers) => servers,
        Embedded::Unknown => &[],
    };
    for server in &open.servers {
        let asked = upstreams
            .servers
            .iter()
            .any(|asked| asked.port() == server.port() && asked.ip().to_canonical() == server.ip());
        assert!(
            asked || forwarded.contains(server),
            "{server} is open for nobody"
        );
        assert!(
            !server.ip().is_loopback() || forwarded.contains(server),
            "{server}"
        );
    }
    for server in &upstreams.servers {
        let address = server.ip().to_canonical();
        let outside = !address.is_loopback() && !address.is_unspecified();
        let is_open = open
            .servers
            .contains(&SocketAddr::new(address, server.port()));
        assert!(!outside || is_open, "{server} cannot be asked");
    }
    let asks_docker = upstreams
        .servers
        .iter()
        .any(|s| s.ip().to_canonical() == docker);
    assert_eq!(
        open.unknown,
        asks_docker && conf.embedded == Embedded::Unknown
    );
}

/// Every address of the lines that name a server. A carriage return is a blank.
fn named(file: &str) -> BTreeSet<IpAddr> {
    file.split('\n')
        .filter(|line| line.trim_start().starts_with("nameserver"))
        .flat_map(|line| line.split(|c: char| c.is_whitespace() || "#;".contains(c)))
        .filter_map(|word| word.split('%').next()?.parse().ok())
        .collect()
}
