//! The other side, and the command, of the tests in Docker: std alone, so that `rustc` makes a
//! static program of it that runs in an image without anything else.
//!
//! `probe serve PORT...` echoes TCP and UDP on these ports, in both families, and prints what
//! arrives. Anything else is a list of attempts, each answered by one line:
//! `tcp ADDRESS:PORT`, `udp ADDRESS:PORT`, `name NAME` (from /etc/hosts), `cat FILE`, `wait`.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("an argument");
        match word.as_str() {
            "serve" => serve(words.by_ref().map(|port| port.parse().expect("a port"))),
            "wait" => wait(),
            "tcp" => report("tcp", &next(), tcp),
            "udp" => report("udp", &next(), udp),
            "name" => report("name", &next(), name),
            "cat" => report("cat", &next(), |path| fs::read_to_string(path)),
            _ => panic!("{word} is no attempt"),
        }
    }
}

fn report(kind: &str, what: &str, attempt: impl Fn(&str) -> io::Result<String>) {
    match attempt(what) {
        Ok(detail) => println!("{kind} {what} ok {}", detail.trim_end()),
        Err(error) => println!("{kind} {what} failed {error}"),
    }
}

fn wait() {
    loop {
        thread::sleep(PATIENCE);
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("ADDRESS:PORT")
}

fn tcp(to: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address(to), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(String::new())
}

fn udp(to: &str) -> io::Result<String> {
    let to = address(to);
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"x")?;
    socket.recv(&mut [0; 8])?;
    Ok(String::new())
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

fn serve(ports: impl Iterator<Item = u16>) {
    for port in ports {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                println!("tcp {port} arrived");
                thread::spawn(move || echo(stream));
            }
        });
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port");
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                println!("udp {port} arrived");
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
    println!("serving");
    wait();
}

fn echo(mut stream: TcpStream) {
    let mut octet = [0];
    while stream.read_exact(&mut octet).is_ok() && stream.write_all(&octet).is_ok() {}
}
