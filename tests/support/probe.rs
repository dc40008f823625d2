//! Attempts to reach something, each with what came of it. They run in the test process, as the
//! command behind the firewall (`__probe`), or outside against the inside.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{errno::Errno, libc};
use serde::{Deserialize, Serialize};

use super::{
    dns::{DnsServer, ZoneSpec},
    sys,
};

/// How long an attempt waits before it counts as a timeout: longer than TCP takes to send a lost
/// packet again. Rejects have to be quicker.
const PATIENCE: Duration = Duration::from_secs(3);
/// When a datagram without an answer is sent again.
const RESEND: Duration = Duration::from_secs(1);

/// One attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Connect, send, read the echo.
    Tcp(SocketAddr),
    /// The same to a name: to its first address of IPv4 or, if so, of IPv6.
    TcpName(String, u16, bool),
    /// Connect, and go on echoing what comes back for as long as this process lives.
    Hold(SocketAddr),
    /// Send, read the echo.
    Udp(SocketAddr),
    /// An ICMP echo through a ping socket.
    Ping(IpAddr),
    /// A query for an A record, over UDP.
    Dns(SocketAddr, String),
    /// The same over TCP.
    DnsTcp(SocketAddr, String),
    /// The addresses that the C library has for a name.
    Lookup(String),
    /// A socket of this family, type and protocol.
    Socket(i32, i32, i32),
    /// A datagram whose IPv6 routing header names another end than its first hop.
    RoutingHeader { first: SocketAddr, end: Ipv6Addr },
    /// A datagram whose IPv4 source route names another end than its first hop.
    SourceRoute { first: SocketAddr, end: Ipv4Addr },
    /// A packet of another protocol, through a raw socket.
    Raw(IpAddr, u8),
    /// `io_uring_setup(2)`.
    IoUring,
    /// A system call of another ABI than this program's own.
    ForeignAbi,
    /// A datagram with this packet mark.
    Marked(SocketAddr, u32),
    /// A signal to the parent of this process, by number.
    SignalParent(i32),
    /// To trace the parent of this process.
    TraceParent,
    /// To open a file below /proc of the parent of this process, and to read it or, if so, to have
    /// it open to be written.
    ParentFile(String, bool),
    /// Answers DNS queries at this address for as long as this process lives.
    ServeDns(SocketAddr, Box<ZoneSpec>),
    /// A datagram from this address, which need not be this namespace's own.
    Forged(SocketAddr, SocketAddr),
    /// Queries for different names below this one, as fast as can be, for so many milliseconds;
    /// nobody reads the answers. How many there were.
    Flood(SocketAddr, String, u64),
    /// What this process is: see [`Status`].
    Status,
}

/// What came of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// `ok`, `timeout`, or the name of the error (`ECONNREFUSED`).
    pub result: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// What was learned beside that: addresses, or a [`Status`].
    #[serde(default)]
    pub detail: serde_json::Value,
}

impl Outcome {
    pub fn is_ok(&self) -> bool {
        self.result == "ok"
    }
}

/// What a process sees of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The lines of `/proc/self/status`.
    pub lines: BTreeMap<String, String>,
    /// Its open descriptors, but for the one that lists them.
    pub descriptors: Vec<i32>,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub directory: String,
}

/// The entry of `__probe STEPS`: one line of JSON for all outcomes.
pub fn main(steps: &str) {
    let steps: Vec<Step> = serde_json::from_str(steps).expect("the steps are JSON");
    println!("{}", serde_json::to_string(&run(&steps)).unwrap());
}

pub fn run(steps: &[Step]) -> Vec<Outcome> {
    steps.iter().map(Step::run).collect()
}

impl Step {
    pub fn run(&self) -> Outcome {
        let started = Instant::now();
        let outcome = self.attempt();
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        let (result, detail) = match outcome {
            Ok(detail) => ("ok".to_owned(), detail),
            Err(error) => (describe(&error), serde_json::Value::Null),
        };
        Outcome { result, ms, detail }
    }

    fn attempt(&self) -> io::Result<serde_json::Value> {
        match self {
            Self::Tcp(to) => tcp(*to)?,
            Self::TcpName(name, port, ipv6) => tcp((name.as_str(), *port)
                .to_socket_addrs()?
                .find(|address| address.is_ipv6() == *ipv6)
                .ok_or_else(|| io::Error::other("no such address"))?)?,
            Self::Hold(to) => {
                let stream = TcpStream::connect_timeout(to, PATIENCE)?;
                std::thread::spawn(move || super::outside::echo(stream));
            }
            Self::Udp(to) => exchange(*to, b"datagram").map(drop)?,
            Self::Ping(to) => ping(*to)?,
            Self::Dns(server, name) => {
                exchange(*server, &query(name))?;
            }
            Self::DnsTcp(server, name) => dns_over_tcp(*server, name)?,
            Self::Lookup(name) => return lookup(name),
            Self::Socket(family, kind, protocol) => {
                sys::socket(*family, *kind, *protocol).map(drop)?;
            }
            Self::RoutingHeader { first, end } => routing_header(*first, *end)?,
            Self::SourceRoute { first, end } => source_route(*first, *end)?,
            Self::Raw(to, protocol) => raw(*to, *protocol)?,
            Self::IoUring => return Err(sys::io_uring()),
            Self::ForeignAbi => sys::foreign_abi()?,
            Self::Marked(to, mark) => marked(*to, *mark)?,
            Self::SignalParent(signal) => sys::signal(parent(), *signal)?,
            Self::TraceParent => sys::trace(parent())?,
            Self::ParentFile(name, write) => {
                let path = format!("/proc/{}/{name}", parent());
                let mut options = fs::OpenOptions::new();
                let mut file = options.read(!write).write(*write).open(path)?;
                if !write {
                    // Some check only now.
                    file.read_exact(&mut [0])?;
                }
            }
            Self::ServeDns(at, zone) => {
                let server = DnsServer::start(ZoneSpec::clone(zone), &[*at])?;
                std::mem::forget(server);
            }
            Self::Forged(from, to) => {
                let socket = sys::freebound(*from)?;
                socket.send_to(b"forged", to)?;
            }
            Self::Flood(server, name, ms) => {
                return Ok(flood(*server, name, Duration::from_millis(*ms))?.into());
            }
            Self::Status => return Ok(serde_json::to_value(status()?)?),
        }
        Ok(serde_json::Value::Null)
    }
}

fn parent() -> nix::unistd::Pid {
    nix::unistd::getppid()
}

fn describe(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _) => "timeout".to_owned(),
        (_, Some(number)) => format!("{:?}", Errno::from_raw(number)),
        (kind, None) => format!("{kind:?}: {error}"),
    }
}

fn tcp(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn exchange(to: SocketAddr, octets: &[u8]) -> io::Result<Vec<u8>> {
    let socket = udp_socket(to)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(RESEND))?;
    let end = Instant::now() + PATIENCE;
    let mut answer = vec![0; 2048];
    loop {
        socket.send(octets)?;
        match socket.recv(&mut answer) {
            // Lost on a machine that is busy, which is not what is asked for here.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {}
            received => {
                answer.truncate(received?);
                return Ok(answer);
            }
        }
    }
}

fn ping(to: IpAddr) -> io::Result<()> {
    let (family, protocol, kind) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128),
    };
    // A ping socket differs from a UDP socket in how it was made, not in how it is used.
    let socket = UdpSocket::from(sys::socket(family, libc::SOCK_DGRAM, protocol)?);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((to, 0))?;
    socket.send(&[kind, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4])?;
    socket.recv(&mut [0; 64]).map(drop)
}

/// A DNS query for the A record of a name (RFC 1035, section 4).
pub fn query(name: &str) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.extend([0, 0, 1, 0, 1]);
    octets
}

fn dns_over_tcp(server: SocketAddr, name: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let query = query(name);
    let length = u16::try_from(query.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), &query[..]].concat())?;
    stream.read_exact(&mut [0; 14])
}

fn flood(server: SocketAddr, name: &str, time: Duration) -> io::Result<u64> {
    let end = Instant::now() + time;
    let socket = udp_socket(server)?;
    socket.connect(server)?;
    let mut sent = 0;
    while Instant::now() < end {
        let query = query(&format!("x{sent}.{name}"));
        // What the other side has no room for is lost, as it is to be.
        let _ = socket.send(&query);
        sent += 1;
    }
    Ok(sent)
}

fn lookup(name: &str) -> io::Result<serde_json::Value> {
    let mut addresses: Vec<_> = (name, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(serde_json::to_value(addresses)?)
}

/// A segment routing header (RFC 8754): it needs no privilege to set.
fn routing_header(first: SocketAddr, end: Ipv6Addr) -> io::Result<()> {
    let IpAddr::V6(hop) = first.ip() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Next header, length in units of 8 octets, type 4, segments left, last entry, flags, tag; then
    // the segments, last one first, whose place the kernel fills with the destination.
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend(end.octets());
    header.extend(hop.octets());
    let socket = udp_socket(first)?;
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)?;
    socket
        .send_to(b"source routed", (end, first.port()))
        .map(drop)
}

/// A loose source route (RFC 791): nor does this one.
fn source_route(first: SocketAddr, end: Ipv4Addr) -> io::Result<()> {
    let IpAddr::V4(hop) = first.ip() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // The kernel takes the first hop out of the option and puts the destination at its end.
    let mut option = vec![131, 7, 4];
    option.extend(hop.octets());
    option.push(0);
    let socket = udp_socket(first)?;
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option)?;
    socket
        .send_to(b"source routed", (end, first.port()))
        .map(drop)
}

fn marked(to: SocketAddr, mark: u32) -> io::Result<()> {
    let socket = udp_socket(to)?;
    sys::set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_MARK,
        &mark.to_ne_bytes(),
    )?;
    socket.send_to(b"marked", to).map(drop)
}

fn raw(to: IpAddr, protocol: u8) -> io::Result<()> {
    let family = match to {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    let socket = UdpSocket::from(sys::socket(family, libc::SOCK_RAW, protocol.into())?);
    // For IPv6 the port of a raw socket's destination has to be zero.
    socket.send_to(&[0; 16], (to, 0)).map(drop)
}

fn status() -> io::Result<Status> {
    let lines = fs::read_to_string("/proc/self/status")?
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect();
    let listing = fs::File::open("/proc/self/fd")?.as_raw_fd();
    let mut descriptors: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // The number that is free now is the one the listing itself had.
        .filter(|&fd| fd != listing)
        .collect();
    descriptors.sort_unstable();
    Ok(Status {
        lines,
        descriptors,
        arguments: std::env::args().collect(),
        environment: std::env::vars().collect(),
        directory: std::env::current_dir()?.display().to_string(),
    })
}
