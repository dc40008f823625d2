//! The attempts: what each sends, and what makes it count as an escape.

mod binding;
mod dns;
mod dns_names;
mod dns_shapes;
mod families;
mod files;
mod forged;
mod headers;
mod inherited;
mod link;
mod namespaces;
mod privileges;
mod related;
mod resources;
mod reuse;
mod standing_in;
mod supervisor;
mod transport;
mod uring;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::{
    support::{
        sys,
        world::{API, ELSEWHERE},
    },
    token::Token,
};

pub use families::{SCAN, heading, is_beyond_the_rules, scan, stays_here};
pub use privileges::{NO_SUPERVISOR, undo};
pub use standing_in::{SHARED, serve};
pub use supervisor::leave_objects;

/// What stands in the way of an attempt, and so what its positive control goes without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The rules: the control runs without a firewall.
    Rules,
    /// What the command was stripped of: the control runs behind the rules, with privileges.
    Privileges,
}

/// Who says that an attempt got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A frame on the other side.
    Frame,
    /// A file of the start is not as the start left it.
    State,
    /// The attempt holds something that by itself leads past the rules, such as a socket that
    /// they never see: it says so. For what has no other side within reach.
    Hold,
}

/// How the command gets to run the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// Among others, by the command that runs all along.
    Shared,
    /// As the command of a start of its own, with this inherited.
    Own(Heirloom),
}

/// What the parent of a start leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heirloom {
    /// As standard input, a TCP connection from before the start.
    Connection,
    /// As standard input, a connected UDP socket that has talked.
    Datagrams,
    /// As standard input, a Unix socket through which a neighbour without privileges passes a
    /// UDP socket and a connection, both from before the start.
    Neighbour,
    /// Nothing; but the start asks a nameserver on loopback, whose port others may share.
    Nameserver,
    /// Above standard error, a packet socket.
    PacketSocket,
    /// As standard input, a TCP socket that is bound and has not connected yet.
    Unconnected,
}

/// One attempt.
#[derive(Clone)]
pub struct Attempt {
    pub theme: &'static str,
    pub name: String,
    pub ground: Ground,
    pub evidence: Evidence,
    pub launch: Launch,
    /// For its time and room: the short form leaves it out.
    pub is_long: bool,
    /// Whether the contract leaves it to `--user`: uid 0 owns what it goes for.
    pub needs_user: bool,
    pub family: usize,
    body: fn(&Context) -> io::Result<()>,
}

/// What an attempt is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Context {
    pub name: String,
    /// The token's text.
    pub token: String,
    /// A port that no other attempt uses.
    pub port: u16,
}

/// What came of it, in the attempt's own words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Said {
    pub name: String,
    pub ok: bool,
    pub said: String,
}

impl Attempt {
    fn new(theme: &'static str, name: &str, body: fn(&Context) -> io::Result<()>) -> Self {
        Self {
            theme,
            name: format!("{theme}: {name}"),
            ground: Ground::Rules,
            evidence: Evidence::Frame,
            launch: Launch::Shared,
            is_long: false,
            needs_user: false,
            family: 0,
            body,
        }
    }

    fn privileged(self) -> Self {
        let ground = Ground::Privileges;
        Self { ground, ..self }
    }

    fn evidence(self, evidence: Evidence) -> Self {
        Self { evidence, ..self }
    }

    fn long(self) -> Self {
        Self {
            is_long: true,
            ..self
        }
    }

    fn of_user(self) -> Self {
        Self {
            needs_user: true,
            ..self
        }
    }

    fn own(self, heirloom: Heirloom) -> Self {
        let launch = Launch::Own(heirloom);
        Self { launch, ..self }
    }

    /// The attempt in each family.
    fn both(self) -> [Self; 2] {
        [0, 1].map(|family| Self {
            name: format!("{}, IPv{}", self.name, [4, 6][family]),
            family,
            ..self.clone()
        })
    }
}

/// Not an attempt: what is allowed, which has to work.
pub const GROUND: &str = "ground";

fn ground(c: &Context) -> io::Result<()> {
    for host in API {
        let mut stream =
            TcpStream::connect_timeout(&(host, c.port).into(), Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"ground")?;
        stream.read_exact(&mut [0; 6])?;
        let socket = UdpSocket::bind((any(host.is_ipv6()), 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(b"ground", (host, 123))?;
        socket.recv(&mut [0; 16])?;
    }
    Ok(())
}

/// An attempt with one kind of socket that the kernel was found to make.
pub fn enumerated(name: String) -> Attempt {
    let evidence = if is_beyond_the_rules(&name) {
        Evidence::Hold
    } else {
        Evidence::Frame
    };
    let attempt = Attempt::new("sockets", "", families::attempt);
    Attempt {
        name,
        evidence,
        ..attempt
    }
}

/// All of them, but for those that are enumerated from what the kernel offers.
pub fn all() -> Vec<Attempt> {
    [
        transport::attempts(),
        headers::attempts(),
        binding::attempts(),
        reuse::attempts(),
        forged::attempts(),
        related::attempts(),
        dns::attempts(),
        dns_names::attempts(),
        dns_shapes::attempts(),
        standing_in::attempts(),
        link::attempts(),
        uring::attempts(),
        families::foreign(),
        inherited::attempts(),
        namespaces::attempts(),
        privileges::attempts(),
        supervisor::attempts(),
        files::attempts(),
        resources::attempts(),
    ]
    .concat()
}

/// The entry of an attempt: `__attempt CONTEXTS`, one line of JSON for each.
pub fn main(contexts: &str) {
    let contexts: Vec<Context> = serde_json::from_str(contexts).expect("contexts in JSON");
    let all = all();
    for context in contexts {
        let result = if context.name == GROUND {
            ground(&context)
        } else if context.name.starts_with(SCAN) {
            families::attempt(&context)
        } else {
            let attempt = all
                .iter()
                .find(|attempt| attempt.name == context.name)
                .expect("the name of an attempt");
            context.check_family(attempt.family);
            (attempt.body)(&context)
        };
        let said = Said {
            name: context.name,
            ok: result.is_ok(),
            said: result.map_or_else(|error| describe(&error), |()| "sent".to_owned()),
        };
        println!("{}", serde_json::to_string(&said).unwrap());
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None if error.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        None => error.to_string(),
    }
}

impl Context {
    /// The family is the end of the name: one place less that could disagree.
    fn check_family(&self, family: usize) {
        assert_eq!(self.family(), family, "{}", self.name);
    }

    fn family(&self) -> usize {
        usize::from(self.name.ends_with("IPv6"))
    }

    fn token(&self) -> Token {
        Token::from_text(&self.token).expect("a token")
    }

    /// What is to get out.
    fn payload(&self) -> Vec<u8> {
        format!("escape {}", self.token).into_bytes()
    }

    /// Where no list leads, at a port of this attempt's own.
    fn to(&self) -> SocketAddr {
        SocketAddr::new(ELSEWHERE[self.family()], self.port)
    }

    /// An allowed host, at a port that is not.
    fn beside(&self) -> SocketAddr {
        SocketAddr::new(API[self.family()], self.port)
    }

    /// An allowed host, protocol and port: TCP.
    fn allowed_tcp(&self) -> SocketAddr {
        SocketAddr::new(API[self.family()], 443)
    }

    /// An allowed host, protocol and port: UDP.
    fn allowed_udp(&self) -> SocketAddr {
        SocketAddr::new(API[self.family()], 123)
    }

    /// A multicast group of IPv4 that carries three octets of the token.
    pub fn group(&self) -> Ipv4Addr {
        let [a, b, c, ..] = self.token().0;
        Ipv4Addr::new(239, a, b, c)
    }

    /// Addresses of IPv4 beside the own one that nobody has, on the link and off it.
    pub fn neighbours(&self) -> [Ipv4Addr; 2] {
        let last = 100 + self.token().0[0] % 100;
        [0, 1].map(|third| Ipv4Addr::new(10, 77, third, last))
    }

    fn domain(&self) -> i32 {
        [libc::AF_INET, libc::AF_INET6][self.family()]
    }

    fn socket(&self, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
        sys::socket(self.domain(), kind, protocol)
    }

    fn udp(&self) -> io::Result<UdpSocket> {
        Ok(self.socket(libc::SOCK_DGRAM, 0)?.into())
    }

    fn tcp(&self) -> io::Result<OwnedFd> {
        self.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)
    }
}

/// The octets of a socket address.
pub fn address(to: SocketAddr) -> Vec<u8> {
    scoped(to, 0)
}

fn scoped(to: SocketAddr, scope: u32) -> Vec<u8> {
    let family = |family: i32| u16::try_from(family).unwrap().to_ne_bytes();
    let port = to.port().to_be_bytes();
    match to.ip() {
        IpAddr::V4(ip) => [&family(libc::AF_INET)[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [
            &family(libc::AF_INET6)[..],
            &port,
            &[0; 4],
            &ip.octets(),
            &scope.to_ne_bytes(),
        ]
        .concat(),
    }
}

/// No address at all: dissolves a connection.
fn unspecified() -> Vec<u8> {
    vec![0; 16]
}

fn any(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

const SHORTLY: Duration = Duration::from_millis(150);

/// Connects a socket, which does not block, and waits a moment for the answer.
fn connect_and_send(socket: OwnedFd, to: &[u8], octets: &[u8]) -> io::Result<()> {
    match crate::sys::connect(&socket, to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => other?,
    }
    let mut poll = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&socket),
        nix::poll::PollFlags::POLLOUT,
    )];
    let ready = nix::poll::poll(&mut poll, 150_u16)?;
    if ready == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let stream = TcpStream::from(socket);
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    crate::sys::send(&stream, octets, 0, &[], &[]).map(drop)
}

/// Gives the capture of a plain user, whose buffer is small, time to keep up.
fn pace(number: usize) {
    if number.is_multiple_of(40) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An option that is an integer.
fn set(socket: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    sys::set_option(socket, level, option, &value.to_ne_bytes())
}

/// Runs a program of this machine and takes its failure for one's own.
fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().next().unwrap_or("failed").to_owned();
    Err(io::Error::other(line))
}

/// The plain attempt: a datagram and a connection to where nothing leads, in both families.
fn send_anything(context: &Context) -> io::Result<()> {
    let mut result = Err(io::Error::other("nothing was tried"));
    for target in ELSEWHERE {
        let to = SocketAddr::new(target, context.port);
        let socket = UdpSocket::bind((any(target.is_ipv6()), 0))?;
        match socket.send_to(&context.payload(), to) {
            Ok(_) => result = Ok(()),
            Err(error) if result.is_err() => result = Err(error),
            Err(_) => {}
        }
        let _ = TcpStream::connect_timeout(&to, SHORTLY);
    }
    result
}
