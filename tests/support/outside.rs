//! The world outside, as one process in a network namespace of its own: a router that has every
//! address of the documentation networks, DNS servers, echo servers, and the capture.
//!
//! The test talks to it in lines of JSON over a pair of pipes ([`Outside`]); it ends when the
//! pipe does.

use std::{
    io::{self, BufRead, BufReader, IoSliceMut, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    capture::{Capture, Frame},
    dns::{DnsServer, Query, ZoneSpec},
    probe::{self, Outcome, Step},
    world,
};

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// The far end of the link is here: give it addresses.
    Link,
    /// Wait until the link carries what is sent here.
    Settle,
    /// Run the DNS servers with this zone.
    Zone(Box<ZoneSpec>),
    /// Answer from this zone from now on; the log goes on.
    Change(Box<ZoneSpec>),
    /// What the configured and what the foreign DNS server was asked.
    Queries,
    /// Everything captured before the marker with this number.
    Frames(u64),
    /// The same, and forget it.
    TakeFrames(u64),
    /// Forget who the neighbours are.
    ForgetNeighbours,
    /// Attempts from here to the inside.
    Probe(Vec<Step>),
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Done,
    Queries(Vec<Query>, Vec<Query>),
    Frames(Vec<Frame>),
    Outcomes(Vec<Outcome>),
    Failed(String),
}

/// The test's end of the pipes.
pub struct Outside {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Outside {
    /// Starts the process; it has its namespace when this returns.
    pub fn start() -> Self {
        Self::in_role("__outside")
    }

    /// The same without the capture, which has its share in the time of each packet.
    #[allow(dead_code)] // it is for benchmarks
    pub fn start_unwatched() -> Self {
        Self::in_role(UNWATCHED)
    }

    fn in_role(role: &str) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test starts itself again");
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the outside did not start");
        Self {
            child,
            pipes: Mutex::new((stdin, stdout)),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn link(&self) {
        self.ask(&Request::Link);
    }

    pub fn settle(&self) {
        self.ask(&Request::Settle);
    }

    pub fn forget_neighbours(&self) {
        self.ask(&Request::ForgetNeighbours);
    }

    pub fn zone(&self, zone: ZoneSpec) {
        self.ask(&Request::Zone(Box::new(zone)));
    }

    /// The DNS servers answer from another zone from now on.
    pub fn change(&self, zone: ZoneSpec) {
        self.ask(&Request::Change(Box::new(zone)));
    }

    /// What the configured and what the foreign DNS server was asked.
    pub fn queries(&self) -> (Vec<Query>, Vec<Query>) {
        match self.ask(&Request::Queries) {
            Reply::Queries(configured, foreign) => (configured, foreign),
            other => panic!("{other:?} is no answer"),
        }
    }

    pub fn frames(&self, marker: u64) -> Vec<Frame> {
        self.ask_frames(&Request::Frames(marker))
    }

    pub fn take_frames(&self, marker: u64) -> Vec<Frame> {
        self.ask_frames(&Request::TakeFrames(marker))
    }

    fn ask_frames(&self, request: &Request) -> Vec<Frame> {
        match self.ask(request) {
            Reply::Frames(frames) => frames,
            other => panic!("{other:?} is no answer"),
        }
    }

    pub fn probe(&self, steps: &[Step]) -> Vec<Outcome> {
        match self.ask(&Request::Probe(steps.to_vec())) {
            Reply::Outcomes(outcomes) => outcomes,
            other => panic!("{other:?} is no answer"),
        }
    }

    fn ask(&self, request: &Request) -> Reply {
        let (stdin, stdout) = &mut *self.pipes.lock().unwrap();
        writeln!(stdin, "{}", serde_json::to_string(request).unwrap())
            .expect("the outside listens");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the outside answers");
        match serde_json::from_str(&line).expect("the outside answers in JSON") {
            Reply::Failed(reason) => panic!("outside: {reason}"),
            reply => reply,
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The role of an outside without a capture.
pub const UNWATCHED: &str = "__unwatched";

/// The entry of `__outside`, and of [`UNWATCHED`].
pub fn main(is_watched: bool) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the outside");
    world::prepare_interfaces();
    // Addresses of a network that is local as a whole may be bound, of IPv6 too.
    world::sysctl("ipv6/ip_nonlocal_bind", "1");
    let capture = is_watched.then(|| Capture::start().expect("a capture"));
    println!("ready");
    let mut dns = None;
    for line in io::stdin().lines() {
        let line = line.expect("the test speaks in lines");
        let request = serde_json::from_str(&line).expect("the test speaks JSON");
        let reply = answer(request, capture.as_ref(), &mut dns).unwrap_or_else(Reply::Failed);
        println!("{}", serde_json::to_string(&reply).unwrap());
    }
}

fn answer(
    request: Request,
    capture: Option<&Capture>,
    dns: &mut Option<(DnsServer, DnsServer)>,
) -> Result<Reply, String> {
    let text = |error: io::Error| error.to_string();
    let captured = || capture.ok_or("nothing is captured");
    Ok(match request {
        Request::Link => {
            world::ip_batch(&world::outside_addresses());
            serve_echo().map_err(text)?;
            Reply::Done
        }
        Request::Zone(zone) => {
            *dns = None;
            *dns = Some((
                DnsServer::start(*zone.clone(), &world::DNS).map_err(text)?,
                DnsServer::start(*zone, &world::FOREIGN_DNS).map_err(text)?,
            ));
            Reply::Done
        }
        Request::Change(zone) => {
            let (configured, foreign) = dns.as_ref().ok_or("there is no DNS server yet")?;
            configured.change(*zone.clone());
            foreign.change(*zone);
            Reply::Done
        }
        Request::Settle => {
            world::wait_until_running("world");
            Reply::Done
        }
        Request::ForgetNeighbours => {
            world::ip_batch("neigh flush dev world");
            Reply::Done
        }
        Request::Queries => {
            let (configured, foreign) = dns.as_ref().ok_or("there is no DNS server yet")?;
            Reply::Queries(configured.queries(), foreign.queries())
        }
        Request::Frames(marker) => Reply::Frames(captured()?.frames(marker)?),
        Request::TakeFrames(marker) => Reply::Frames(captured()?.take_frames(marker)?),
        Request::Probe(steps) => Reply::Outcomes(probe::run(&steps)),
    })
}

/// Echo servers for TCP and UDP, on every address, both families.
fn serve_echo() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, world::TICKER))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || tick(stream));
        }
    });
    for port in world::PORTS {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        });
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
        // The answer has to leave from the address that was asked, one of very many.
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        thread::spawn(move || {
            loop {
                let _ = echo_datagram(&socket);
            }
        });
    }
    Ok(())
}

/// Talks without being talked to.
fn tick(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.write_all(b"tick")?;
        thread::sleep(Duration::from_millis(10));
    }
}

/// Echoes until the other side closes.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn echo_datagram(socket: &UdpSocket) -> nix::Result<()> {
    let mut buffer = [0; 2048];
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let (length, from) = (received.bytes, received.address);
    let mut asked = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
            asked = Some(info);
        }
    }
    if let Some(info) = &mut asked {
        // Which interface it leaves by is for the routes to say.
        info.ipi6_ifindex = 0;
    }
    let messages: Vec<_> = asked.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    sendmsg(
        socket.as_raw_fd(),
        &[io::IoSlice::new(&buffer[..length])],
        &messages,
        MsgFlags::empty(),
        from.as_ref(),
    )
    .map(drop)
}

/// The address and the port, for short.
pub fn at(address: &str, port: u16) -> SocketAddr {
    let address: IpAddr = address.parse().expect("an IP address");
    SocketAddr::new(address, port)
}
