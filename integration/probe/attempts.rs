//! What the command tries. Each attempt prints `KIND WHAT ok DETAIL` or
//! `KIND WHAT failed MILLISECONDS ms: ERROR`.
//!
//! - `tcp ADDRESS:PORT`, `udp ADDRESS:PORT`: an octet there and back; `get NAME:PORT` the same over
//!   TCP with the C library's resolver, any of the addresses
//! - `dns-query SERVER NAME`: over UDP to port 53
//! - `name NAME`: its addresses in /etc/hosts
//! - `cat FILE`, `write FILE TEXT`
//! - `status KEY`: a line of /proc/self/status
//! - `socket packet`, `socket raw`, `socket vsock`, `socket netlink`

use crate::dns;
use std::{
    env,
    ffi::c_int,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(2);

pub fn make(attempt: &str, words: &mut impl Iterator<Item = String>) {
    let what = words.next().expect("something to attempt");
    match attempt {
        "tcp" => report(attempt, &what, |what| tcp(address(what))),
        "udp" => report(attempt, &what, udp),
        "get" => report(attempt, &what, get),
        "dns-query" => {
            let name = words.next().expect("a name");
            report(attempt, &format!("{what} {name}"), |_| query(&what, &name));
        }
        "name" => report(attempt, &what, name),
        "cat" => report(attempt, &what, |path| fs::read_to_string(path)),
        "write" => {
            let text = words.next().expect("a text");
            report(attempt, &what, |path| {
                fs::write(path, &text).map(|()| String::new())
            });
        }
        "status" => report(attempt, &what, status),
        "socket" => report(attempt, &what, socket),
        _ => panic!("{attempt} is no attempt"),
    }
}

fn report(kind: &str, what: &str, attempt: impl Fn(&str) -> io::Result<String>) {
    let began = Instant::now();
    match attempt(what) {
        Ok(detail) => println!("{kind} {what} ok {}", detail.trim_end()),
        Err(error) => {
            let took = began.elapsed().as_millis();
            println!("{kind} {what} failed {took} ms: {error}");
        }
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("ADDRESS:PORT")
}

fn tcp(to: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(String::new())
}

/// An octet there and back, ten times a second, over one connection for as long as it lives.
pub fn hold(what: String) {
    thread::spawn(move || {
        let ended = (|| {
            let mut stream = TcpStream::connect_timeout(&address(&what), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            for round in 0.. {
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0])?;
                if round == 0 {
                    println!("hold {what} up");
                }
                thread::sleep(Duration::from_millis(100));
            }
            io::Result::Ok(())
        })();
        if let Err(error) = ended {
            println!("hold {what} cut: {error}");
        }
    });
}

fn udp(to: &str) -> io::Result<String> {
    let socket = connected(address(to))?;
    let token = env::var("PROBE_TOKEN").unwrap_or("x".to_owned());
    socket.send(token.as_bytes())?;
    socket.recv(&mut [0; 512])?;
    Ok(String::new())
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn get(what: &str) -> io::Result<String> {
    let mut result = Err(io::Error::other("no address"));
    for address in what.to_socket_addrs()? {
        result = tcp(address).map(|_| address.to_string());
        if result.is_ok() {
            break;
        }
    }
    result
}

fn query(server: &str, name: &str) -> io::Result<String> {
    let socket = connected((server.parse::<IpAddr>().expect("an address"), 53).into())?;
    socket.send(&dns::question(name))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    dns::verdict(&answer[..length])
}

fn name(name: &str) -> io::Result<String> {
    let hosts = fs::read_to_string("/etc/hosts")?;
    let addresses: Vec<_> = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.iter().skip(1).any(|word| *word == name))
        .map(|words| words[0])
        .collect();
    if addresses.is_empty() {
        return Err(io::Error::other("not in /etc/hosts"));
    }
    Ok(addresses.join(" "))
}

fn status(key: &str) -> io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let words: Option<Vec<_>> = line.map(|line| line.split_whitespace().collect());
    words
        .map(|words| words.join(" "))
        .ok_or_else(|| io::Error::other("no such line"))
}

fn socket(kind: &str) -> io::Result<String> {
    const SOCK_STREAM: c_int = 1;
    const SOCK_DGRAM: c_int = 2;
    const SOCK_RAW: c_int = 3;
    const AF_INET: c_int = 2;
    const AF_NETLINK: c_int = 16;
    const AF_PACKET: c_int = 17;
    const AF_VSOCK: c_int = 40;
    const IPPROTO_ICMP: c_int = 1;
    unsafe extern "C" {
        fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        fn close(fd: c_int) -> c_int;
    }
    let (domain, kind, protocol) = match kind {
        "packet" => (AF_PACKET, SOCK_DGRAM, 0),
        "raw" => (AF_INET, SOCK_RAW, IPPROTO_ICMP),
        "vsock" => (AF_VSOCK, SOCK_STREAM, 0),
        "netlink" => (AF_NETLINK, SOCK_RAW, 0),
        _ => panic!("{kind} is no socket"),
    };
    // SAFETY: numbers in, a number out.
    match unsafe { socket(domain, kind, protocol) } {
        -1 => Err(io::Error::last_os_error()),
        fd => {
            // SAFETY: the descriptor is this function's own.
            unsafe { close(fd) };
            Ok(String::new())
        }
    }
}
