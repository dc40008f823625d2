//! Nothing left of something: descriptors, memory, flows, ports.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::{
    libc,
    sys::resource::{Resource, getrlimit, setrlimit},
};

use super::{Attempt, Context, send_anything, set};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("resources", name, body);
    vec![
        attempt("no descriptor left", descriptors),
        attempt("no memory left", memory),
        attempt("socket buffers full", buffers),
        attempt("from every second port of a thousand", source_ports),
        attempt("fifty processes at once", processes),
        // Last, because what it fills stays full for half a minute.
        attempt("the table of flows full", flows).long(),
    ]
}

fn descriptors(c: &Context) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard)?;
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let to = (crate::support::world::ELSEWHERE[0], c.port);
    let sent = socket.send_to(&c.payload(), to).map(drop);
    drop(files);
    sent.or_else(|_| send_anything(c))
}

fn memory(c: &Context) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let payload = c.payload();
    // Room for nothing more than what is there.
    setrlimit(Resource::RLIMIT_AS, 1 << 20, 1 << 20)?;
    let to = (crate::support::world::ELSEWHERE[0], c.port);
    socket.send_to(&payload, to).map(drop)
}

/// Sockets that nobody reads, filled to the brim over loopback; then the attempt.
fn buffers(c: &Context) -> io::Result<()> {
    let mut full = Vec::new();
    for _ in 0..32 {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.connect(receiver.local_addr()?)?;
        set(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 20)?;
        for _ in 0..64 {
            let _ = sender.send(&[0; 8192]);
        }
        full.push((receiver, sender));
    }
    let sent = send_anything(c);
    assert!(full.iter().all(|(receiver, _)| receiver.as_raw_fd() > 0));
    sent
}

fn source_ports(c: &Context) -> io::Result<()> {
    let to = (crate::support::world::ELSEWHERE[0], c.port);
    let mut last = Ok(());
    for port in (2000..4000).step_by(2) {
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
            last = socket.send_to(&c.payload(), to).map(drop);
        }
        super::pace(port.into());
    }
    last
}

fn processes(c: &Context) -> io::Result<()> {
    let threads: Vec<_> = (0..50)
        .map(|_| {
            let c = c.clone();
            std::thread::spawn(move || send_anything(&c))
        })
        .collect();
    let mut last = Ok(());
    for thread in threads {
        last = thread.join().unwrap();
    }
    last
}

/// Flows over loopback are allowed, and each takes a place in the table.
fn flows(c: &Context) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut last = Ok(());
    for number in 0..300_000_u32 {
        let [_, a, b, d] = number.to_be_bytes();
        let to = (Ipv4Addr::new(127, 1 + a, b, d), 9);
        let _ = socket.send_to(b".", to);
        if number % 5_000 == 0 {
            last = send_anything(c);
        }
    }
    send_anything(c).or(last)
}
