//! Racing the start: a process that was there before, without privileges, sends numbered packets
//! all along, and the judge holds the numbers that arrived against the first that was refused.

use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::libc;

use crate::{
    campaign::{Outcome, Row},
    sniffer::Frame,
    stage::{Configuration, Stage, Way},
    support::{
        dns::ZoneSpec,
        sys,
        world::{BINARY, DNS, ELSEWHERE, PROBE, SENTINEL, World, file, forget, zone},
    },
};

/// What the hammer sends: one thread each. The port tells the streams apart on the link.
const STREAMS: [(&str, usize, Kind); 6] = [
    ("UDP, IPv4", 0, Kind::Udp),
    ("UDP, IPv6", 1, Kind::Udp),
    ("TCP, IPv4", 0, Kind::Tcp),
    ("TCP, IPv6", 1, Kind::Tcp),
    ("DNS to the nameserver, IPv4", 0, Kind::Dns),
    ("DNS to the nameserver, IPv6", 1, Kind::Dns),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Udp,
    Tcp,
    Dns,
}

/// Where the numbered datagrams go.
const PORT: u16 = 7;
/// From here on, and this many for each hammer, the own port of a TCP connection is its number.
const FIRST_TCP: u16 = 12_000;
const ROOM: u16 = 1_000;
/// The own ports of queries; in the range of nobody else who binds to any.
const FIRST_DNS: u16 = 9_800;
/// As many hammers until their ports come again, towards another host then: to the far end the
/// connections of an earlier round may not be over.
const HAMMERS: u16 = 50;

/// In place of a number: a busy machine took so long that every port of the stream was used before
/// anything was refused, and the round says nothing of it.
const OUT_OF_PORTS: u64 = u64::MAX - 1;

/// The entry of `__hammer NUMBER`: sends until its input ends, then says what was refused first.
pub fn hammer_main(hammer: &str) {
    let hammer: u16 = hammer.parse().expect("a number");
    let stop = Arc::new(AtomicBool::new(false));
    let refused: Vec<_> = STREAMS
        .iter()
        .map(|_| Arc::new(AtomicU64::new(u64::MAX)))
        .collect();
    let threads: Vec<_> = STREAMS
        .into_iter()
        .zip(&refused)
        .map(|((_, family, kind), refused)| {
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(refused));
            thread::spawn(move || {
                let mut patience = 1_500;
                for number in 1.. {
                    // On a busy machine it may not have had its turn since the rules came.
                    if stop.load(Ordering::SeqCst) {
                        patience -= 1;
                        if patience == 0 || refused.load(Ordering::SeqCst) < u64::MAX {
                            break;
                        }
                    }
                    if kind == Kind::Tcp && number >= u64::from(ROOM) {
                        refused.fetch_min(OUT_OF_PORTS, Ordering::SeqCst);
                        break;
                    }
                    if send(hammer, family, kind, number).is_err_and(|error| is_refusal(&error)) {
                        refused.fetch_min(number, Ordering::SeqCst);
                    }
                    thread::sleep(Duration::from_micros(400));
                }
            })
        })
        .collect();
    println!("ready");
    let _ = io::stdin().read(&mut [0]);
    stop.store(true, Ordering::SeqCst);
    for thread in threads {
        let _ = thread.join();
    }
    let refused: Vec<u64> = refused.iter().map(|r| r.load(Ordering::SeqCst)).collect();
    println!("{}", serde_json::to_string(&refused).unwrap());
}

/// What the rules answer, and not that a port is taken.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [
        libc::EPERM,
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::EACCES,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| refusals.contains(&number))
}

/// One numbered packet, from a socket of its own, so that an error of one is not the next one's.
fn send(hammer: u16, family: usize, kind: Kind, number: u64) -> io::Result<()> {
    let any: IpAddr = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()][family];
    let to = match kind {
        Kind::Udp => SocketAddr::new(ELSEWHERE[family], PORT),
        Kind::Dns => DNS[family],
        Kind::Tcp => {
            let own = FIRST_TCP + hammer % HAMMERS * ROOM + u16::try_from(number).unwrap();
            let domain = [libc::AF_INET, libc::AF_INET6][family];
            let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
            let socket = sys::socket(domain, flags, 0)?;
            let yes = 1_i32.to_ne_bytes();
            sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &yes)?;
            crate::sys::bind(&socket, &crate::attempts::address((any, own).into()))?;
            let to = crate::attempts::address((host(family, hammer / HAMMERS), 9000).into());
            return match crate::sys::connect(&socket, &to) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    // The answer is there at once, or when the machine gets to it.
                    let mut poll = [nix::poll::PollFd::new(
                        std::os::fd::AsFd::as_fd(&socket),
                        nix::poll::PollFlags::POLLOUT,
                    )];
                    nix::poll::poll(&mut poll, 10_u16)?;
                    let stream = std::net::TcpStream::from(socket);
                    stream.take_error()?.map_or(Ok(()), Err)
                }
                other => other,
            };
        }
    };
    let own = match kind {
        // From few ports: whichever it has asked from, a resolver cannot ask from until the kernel
        // forgets the flow, and there are to be starts that succeed.
        Kind::Dns => FIRST_DNS + u16::try_from(number % 100).unwrap(),
        _ => 0,
    };
    let socket = UdpSocket::bind((any, own))?;
    socket.send_to(&number.to_be_bytes(), to).map(drop)
}

/// One of many hosts that no list names.
fn host(family: usize, number: u16) -> IpAddr {
    match ELSEWHERE[family] {
        IpAddr::V4(_) => {
            Ipv4Addr::new(203, 0, 113, 70 + u8::try_from(number % 100).unwrap()).into()
        }
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x1167, number).into(),
    }
}

struct Hammer {
    child: Child,
    number: u16,
}

impl Hammer {
    fn start(stage: &Stage) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = u16::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).unwrap();
        // As in the controls, but without a privileged process above it.
        let words = stage.words(&Way::Open { root: false })[2..].to_vec();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args([PROBE, "__hammer", &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv");
        let mut ready = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        Self { child, number }
    }

    /// The number of the first packet that was refused, each stream.
    fn stop(mut self) -> Vec<u64> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(&said).expect("numbers")
    }
}

/// The numbers of a stream that arrived, of this hammer and not of an earlier one, whose
/// connections may still want to end.
fn numbers(frames: &[Frame], stream: usize, hammer: u16) -> Vec<u64> {
    let first = FIRST_TCP + hammer % HAMMERS * ROOM;
    let (_, family, kind) = STREAMS[stream];
    frames
        .iter()
        .filter(|frame| !frame.outgoing)
        .filter_map(|frame| {
            let octets = &frame.octets;
            let (kinds, at, header) = match family {
                0 => ([0x08, 0x00], 14 + 9, 34),
                _ => ([0x86, 0xdd], 14 + 6, 54),
            };
            let protocol = if kind == Kind::Tcp { 6 } else { 17 };
            if octets.get(12..14)? != kinds || *octets.get(at)? != protocol {
                return None;
            }
            let port =
                |at: usize| Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?));
            let (own, port) = (port(header)?, port(header + 2)?);
            let payload = octets.get(header + 8..header + 16)?;
            let number = u64::from_be_bytes(payload.try_into().ok()?);
            match kind {
                Kind::Udp if port == PORT => Some(number),
                // What egress-init itself asks is no small number.
                Kind::Dns if port == 53 && number < 1 << 32 => Some(number),
                Kind::Tcp if port == 9000 && (first..first + ROOM).contains(&own) => {
                    Some(u64::from(own - first))
                }
                _ => None,
            }
        })
        .collect()
}

/// How a race goes: what is done while the hammer runs.
struct Race {
    name: &'static str,
    /// Whether the rules are in force before it begins, so that nothing at all may arrive.
    is_closed: bool,
    body: fn(&Stage, &Configuration, u64),
}

const RACES: [Race; 4] = [
    Race {
        name: "a start",
        is_closed: false,
        body: |stage, configuration, _| start(stage, configuration),
    },
    Race {
        name: "a start that is killed, then another",
        is_closed: false,
        body: |stage, configuration, round| {
            let mut child = begin(stage, configuration);
            thread::sleep(Duration::from_micros(700 * (round % 24)));
            let _ = child.kill();
            let _ = child.wait();
            start(stage, configuration);
        },
    },
    Race {
        name: "a second start",
        is_closed: true,
        body: |stage, configuration, _| start(stage, configuration),
    },
    Race {
        name: "a second start that is killed",
        is_closed: true,
        body: |stage, configuration, round| {
            let mut child = begin(stage, configuration);
            thread::sleep(Duration::from_micros(700 * (round % 24)));
            let _ = child.kill();
            let _ = child.wait();
        },
    },
];

/// The list changes under a keeper that runs, again and again.
const RELOAD: Race = Race {
    name: "a reload",
    is_closed: true,
    body: |stage, configuration, _| {
        file(RELOADED, "git.example.org\n");
        let mut child = stage
            .supervisor(configuration, RELOADED)
            .args(["/bin/sleep", "5"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("egress-init");
        thread::sleep(Duration::from_millis(60));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        for number in 0..6 {
            let list = ["git.example.org\n", "www.example.org:8443\n"][number % 2];
            file(RELOADED, list);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
            thread::sleep(Duration::from_millis(15));
        }
        let _ = child.kill();
        let _ = child.wait();
    },
};
const RELOADED: &str = "/etc/world/reloaded";

fn begin(stage: &Stage, configuration: &Configuration) -> Child {
    stage
        .egress(configuration)
        .arg("/bin/true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("egress-init")
}

fn start(stage: &Stage, configuration: &Configuration) {
    let ran = begin(stage, configuration).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "a start of the race failed: {said}");
}

/// All races in this configuration; `between` is what a plant does before each start.
pub fn run(
    stage: &Stage,
    configuration: &Configuration,
    rounds: u64,
    between: Option<&dyn Fn()>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for race in RACES {
        rows.extend(hammered(stage, configuration, &race, rounds, between));
    }
    if configuration.is_proxy {
        rows.extend(hammered(stage, configuration, &RELOAD, rounds, between));
    }
    rows.push(sentinel(stage, configuration, rounds, between));
    stage.world.outside.zone(zone());
    rows
}

/// Every other round the nameservers take their time, so that the lock lasts.
fn slow(world: &World, milliseconds: u64) {
    let delay = Duration::from_millis(milliseconds);
    world.outside.zone(ZoneSpec::delay(zone(), delay));
}

fn hammered(
    stage: &Stage,
    configuration: &Configuration,
    race: &Race,
    rounds: u64,
    between: Option<&dyn Fn()>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = STREAMS
        .map(|(stream, ..)| Row {
            theme: "races".to_owned(),
            name: format!("races: {}, {stream}", race.name),
            control: Err("nothing arrived before the start".to_owned()),
            results: [(configuration.name.to_owned(), Outcome::default())].into(),
        })
        .into();
    let mut told = [false; STREAMS.len()];
    for round in 0..rounds {
        slow(&stage.world, (round % 2) * 10);
        forget();
        let _ = stage.sniffer.take();
        let hammer = Hammer::start(stage);
        let number = hammer.number;
        thread::sleep(Duration::from_millis(15));
        if race.is_closed {
            let open = stage.sniffer.take();
            note_controls(&mut rows, &open, number);
            start(stage, configuration);
            thread::sleep(Duration::from_millis(5));
            let _ = stage.sniffer.take();
        }
        if race.is_closed
            && let Some(between) = between
        {
            between();
        }
        (race.body)(stage, configuration, round);
        thread::sleep(Duration::from_millis(15));
        let refused = hammer.stop();
        let frames = stage.sniffer.take();
        if !race.is_closed {
            note_controls(&mut rows, &frames, number);
        }
        for (stream, row) in rows.iter_mut().enumerate() {
            let first = if race.is_closed { 0 } else { refused[stream] };
            let late: Vec<u64> = numbers(&frames, stream, number)
                .into_iter()
                .filter(|number| *number > first)
                .collect();
            let outcome = row.results.get_mut(configuration.name).unwrap();
            outcome.said = format!("{} rounds", round + 1);
            if !late.is_empty() {
                outcome.escaped.push(format!(
                    "round {round}: {} packets after number {first}, the first that was refused",
                    late.len()
                ));
            }
            // What the resolver answers is refused during the lock alone, for a few milliseconds
            // in which a busy machine may do something else.
            let is_answered = configuration.is_proxy && STREAMS[stream].2 == Kind::Dns;
            let is_mute = first == OUT_OF_PORTS || first == u64::MAX && is_answered;
            told[stream] |= !is_mute;
            let is_last = round + 1 == rounds;
            if first == u64::MAX && !is_mute || is_last && !told[stream] {
                outcome
                    .escaped
                    .push(format!("round {round}: nothing was ever refused"));
            }
            outcome.escaped.truncate(4);
        }
    }
    rows
}

fn note_controls(rows: &mut [Row], frames: &[Frame], hammer: u16) {
    for (stream, row) in rows.iter_mut().enumerate() {
        if !numbers(frames, stream, hammer).is_empty() {
            row.control = Ok("before the start, user".to_owned());
        }
    }
}

/// I3: the moment there is a sentinel, the rules are those that it speaks of.
fn sentinel(
    stage: &Stage,
    configuration: &Configuration,
    rounds: u64,
    between: Option<&dyn Fn()>,
) -> Row {
    let mut outcome = Outcome::default();
    let mut control = Err("an old sentinel passes for a new one".to_owned());
    for round in 0..rounds {
        // An old one, which a start has to take away before it does anything else.
        let old = fs::read(SENTINEL).ok();
        forget();
        if let Some(old) = old {
            file(SENTINEL, std::str::from_utf8(&old).unwrap());
            if !verifies() {
                control = Ok("an old sentinel without rules, judged by check".to_owned());
            }
        }
        slow(&stage.world, 30);
        let done = Arc::new(AtomicBool::new(false));
        let seen_early = {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let began = Instant::now();
                // Away first, then back.
                while std::path::Path::new(SENTINEL).exists() && !done.load(Ordering::SeqCst) {}
                while !std::path::Path::new(SENTINEL).exists()
                    && began.elapsed() < Duration::from_secs(5)
                {}
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"early", (ELSEWHERE[0], PORT)).is_ok() || !verifies()
            })
        };
        let child = begin(stage, configuration);
        if let Some(between) = between {
            between();
        }
        let ran = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        // What a plant does meanwhile may end it.
        let is_good = ran.status.success() || between.is_some();
        assert!(is_good, "a start of the race failed: {said}");
        done.store(true, Ordering::SeqCst);
        if seen_early.join().unwrap() {
            outcome
                .escaped
                .push(format!("round {round}: a sentinel that does not verify"));
        }
        outcome.said = format!("{} rounds", round + 1);
    }
    outcome.escaped.truncate(4);
    Row {
        theme: "races".to_owned(),
        name: "races: the sentinel, the moment it is there".to_owned(),
        control,
        results: [(configuration.name.to_owned(), outcome)].into(),
    }
}

/// What `egress-init check` says.
fn verifies() -> bool {
    Command::new(BINARY)
        .arg("check")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
