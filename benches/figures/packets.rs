//! What a packet costs: connections, requests and bulk over a veth link, with nothing in the way,
//! with conntrack alone, behind egress-init and behind iptables.
//!
//! Each wall stands in a network namespace of its own, all at the same time, and they are measured
//! in turn, some milliseconds each: a machine that is busy for a while is so for all of them. What
//! is compared are the ratios within one turn.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::{
        resource::{UsageWho, getrusage},
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{
    Form,
    chart::{Bar, Bars},
    load::Kind,
    measure::{Sample, count, digits, thousands},
    network::Namespace,
    report::{Section, Table},
    start::{EMPTY, copy_tools},
    support::world::{BINARY, Run, World, ip_batch, nft},
};

/// What everybody connects to.
const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)), 443);
/// What no wall lets anybody connect to.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 443);
/// How long a wall of iptables may take to build.
const PATIENCE: &str = "120";

/// What stands between the two ends.
#[derive(Clone, Copy)]
enum Wall {
    Nothing,
    /// A rule that asks for the connection's state makes the kernel track connections, wherever
    /// the rule stands; here no packet comes by it.
    Conntrack,
    /// The least that a stateful firewall has: established flows pass, in both directions.
    OneRule,
    EgressInit(Kind, u32),
    Iptables(u32),
    /// iptables with one rule that asks an ipset, as the script has it.
    Ipset(u32),
}

impl Wall {
    fn name(self) -> String {
        match self {
            Self::Nothing => "no firewall".into(),
            Self::Conntrack => "conntrack alone".into(),
            Self::OneRule => "conntrack and one rule".into(),
            Self::EgressInit(_, 0) => "egress-init, the target alone".into(),
            Self::EgressInit(kind, entries) => {
                format!("egress-init, {} {}", count(entries), kind.name())
            }
            Self::Iptables(rules) => format!("iptables, {} rules", count(rules)),
            Self::Ipset(entries) => format!("iptables + ipset of {}", count(entries)),
        }
    }

    fn colour(self) -> usize {
        match self {
            Self::Nothing | Self::Conntrack | Self::OneRule => 2,
            Self::EgressInit(..) => 0,
            Self::Iptables(_) | Self::Ipset(_) => 1,
        }
    }

    fn is_firewall(self) -> bool {
        matches!(
            self,
            Self::EgressInit(..) | Self::Iptables(_) | Self::Ipset(_)
        )
    }

    /// Builds it in this namespace, or says why not.
    fn build(self) -> Result<(), String> {
        match self {
            Self::Nothing => {}
            Self::Conntrack => nft("table inet bench { chain nowhere { ct state new accept; }; }"),
            Self::OneRule => nft("table inet bench {
                chain in { type filter hook input priority 0; ct state established accept; }
                chain out { type filter hook output priority 0; ct state established accept; }
            }"),
            Self::EgressInit(kind, entries) => {
                let target = match kind {
                    Kind::Networks => "198.51.100.0/26:443\n",
                    Kind::Addresses => "198.51.100.10:443\n",
                };
                let list = kind.list(entries) + target;
                crate::support::world::allowlist(&list);
                Run::new(BINARY).command(&[EMPTY]).run().exits(0);
            }
            Self::Iptables(rules) => {
                let list = Kind::Networks.list(rules);
                let mut rules: Vec<String> = list
                    .lines()
                    .map(|line| line.trim_end_matches(":443"))
                    .map(|network| format!("-A OUTPUT -d {network} -p tcp --dport 443 -j ACCEPT"))
                    .collect();
                let target = "-A OUTPUT -d 198.51.100.0/26 -p tcp --dport 443 -j ACCEPT";
                rules.insert(rules.len() / 2, target.into());
                return iptables(&rules.join("\n"));
            }
            Self::Ipset(entries) => {
                let mut text = "create allowed hash:ip,port maxelem 1000000\n".to_owned();
                for line in Kind::Addresses.list(entries).lines() {
                    let address = line.trim_end_matches(":443");
                    writeln!(text, "add allowed {address},tcp:443").unwrap();
                }
                text += "add allowed 198.51.100.10,tcp:443\n";
                Run::new("ipset")
                    .arg("restore")
                    .run_with_input(&text)
                    .exits(0);
                return iptables("-A OUTPUT -m set --match-set allowed dst,dst -j ACCEPT");
            }
        }
        Ok(())
    }
}

/// These rules as such scripts frame them: established flows first, everything else refused.
fn iptables(rules: &str) -> Result<(), String> {
    let text = format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n\
         -A INPUT -i lo -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         {rules}\n-A OUTPUT -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"
    );
    let ran = Run::new("timeout")
        .args([PATIENCE, "iptables-restore"])
        .run_with_input(&text);
    if ran.code() == Some(124) {
        return Err(format!("iptables-restore was not done after {PATIENCE} s"));
    }
    drop(ran.exits(0));
    Ok(())
}

/// A wall that stands, and what was measured behind it, a value a turn.
struct Measured {
    wall: Wall,
    namespace: Namespace,
    /// How long it took to build, in seconds.
    built: f64,
    /// Microseconds, median of the turn.
    connect: Vec<f64>,
    /// Microseconds, all of them.
    connects: Vec<f64>,
    /// A second.
    exchanges: Vec<f64>,
    requests: Vec<f64>,
    /// Gbit/s.
    bulk: Vec<f64>,
}

pub fn section(form: Form) -> Section {
    let _world = World::without_link();
    copy_tools();
    let mut section = Section::new("Packets");
    section.paragraph(
        "Over a veth link, both ends on one processor, so that every instruction of the path is in \
         the time and nothing else is: no wire, no other machine. `connect` is a TCP handshake, in \
         wall time, which is all in one system call. An exchange is connect, one octet there and \
         one back, close; a request is one octet there and one back on an open connection; bulk is \
         32 MiB in one connection: these three by the processor time of both ends. Medians; the \
         percentages are medians of the ratio to `no firewall` (for connect also to `conntrack \
         alone`) within a turn. iptables finds the target after half of its rules.",
    );
    let far = far_end();
    let mut walls = Vec::new();
    for (index, wall) in walls_of(form).into_iter().enumerate() {
        match stand_up(&far, index, wall) {
            Ok(measured) => walls.push(measured),
            Err(reason) => section.paragraph(&format!("{}: {reason}.", wall.name())),
        }
    }
    let turns = form.pick(60, 3);
    for turn in 0..turns {
        for index in 0..walls.len() {
            // Nobody is always right behind the same neighbour.
            let index = (index + turn) % walls.len();
            walls[index].measure();
        }
    }
    section.table(&table(&walls));
    chart(&mut section, &walls);
    targets(&mut section, &walls, form);
    section
}

fn walls_of(form: Form) -> Vec<Wall> {
    let mut walls = vec![Wall::Nothing, Wall::Conntrack, Wall::OneRule];
    if form == Form::Short {
        walls.extend([
            Wall::EgressInit(Kind::Networks, 100),
            Wall::EgressInit(Kind::Addresses, 100),
            Wall::Iptables(100),
            Wall::Ipset(100),
        ]);
        return walls;
    }
    walls.push(Wall::EgressInit(Kind::Networks, 0));
    for entries in [100, 10_000, 100_000] {
        walls.push(Wall::EgressInit(Kind::Networks, entries));
    }
    for entries in [100, 10_000, 100_000] {
        walls.push(Wall::EgressInit(Kind::Addresses, entries));
    }
    for rules in [0, 100, 10_000, 100_000] {
        walls.push(Wall::Iptables(rules));
    }
    walls.push(Wall::Ipset(100_000));
    walls
}

/// The namespace that the connections go to, with its server.
fn far_end() -> Namespace {
    let far = Namespace::new();
    far.run(|| {
        ip_batch(
            "link set lo up
             route add local 198.51.100.0/24 dev lo
             route add local 203.0.113.0/24 dev lo",
        );
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET.port())).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream);
            }
        });
    });
    far
}

/// The first octet says what the connection is for. A client that goes away is none of our
/// business.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut octet = [0];
    stream.read_exact(&mut octet)?;
    match octet[0] {
        b'x' => stream.write_all(&octet)?,
        b'r' => {
            stream.set_nodelay(true)?;
            thread::spawn(move || {
                while stream.read_exact(&mut octet).is_ok() && stream.write_all(&octet).is_ok() {}
            });
        }
        _ => {
            thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                let mut left = BULK;
                while left > 0 {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(length) => left -= length,
                    }
                }
                let _ = stream.write_all(b"b");
            });
        }
    }
    Ok(())
}

/// A namespace with a link to the far end, and the wall in it.
fn stand_up(far: &Namespace, index: usize, wall: Wall) -> Result<Measured, String> {
    let near = Namespace::new();
    ip_batch(&format!(
        "link add near netns {} type veth peer name far{index} netns {}",
        near.id, far.id
    ));
    far.run(move || {
        ip_batch(&format!(
            "addr add 172.20.{index}.1/24 dev far{index}
             link set far{index} up"
        ));
    });
    let (result, built) = near.run(move || {
        ip_batch(&format!(
            "link set lo up
             addr add 172.20.{index}.2/24 dev near
             link set near up
             route add default via 172.20.{index}.1"
        ));
        let reached = || TcpStream::connect_timeout(&TARGET, Duration::from_secs(3));
        reached().expect("the target answers before there is a wall");
        let started = Instant::now();
        let result = wall.build();
        let built = started.elapsed().as_secs_f64();
        if result.is_ok() {
            reached().expect("the wall lets the target through");
            let elsewhere = TcpStream::connect_timeout(&ELSEWHERE, Duration::from_secs(3));
            assert_eq!(
                elsewhere.is_err(),
                wall.is_firewall(),
                "{}: {elsewhere:?}",
                wall.name()
            );
        }
        (result, built)
    });
    result?;
    eprintln!("   {} stands after {built:.2} s", wall.name());
    Ok(Measured {
        wall,
        namespace: near,
        built,
        connect: Vec::new(),
        connects: Vec::new(),
        exchanges: Vec::new(),
        requests: Vec::new(),
        bulk: Vec::new(),
    })
}

const CONNECTS: usize = 200;
const EXCHANGES: u32 = 100;
const REQUESTS: u32 = 400;
const BULK: usize = 32 * 1024 * 1024;

impl Measured {
    /// One turn.
    fn measure(&mut self) {
        let (connects, exchanges, requests, bulk) = self
            .namespace
            .run(|| (connects(), exchanges(), requests(), bulk()));
        self.connect.push(Sample::new(connects.clone()).median());
        self.connects.extend(connects);
        self.exchanges.push(exchanges);
        self.requests.push(requests);
        self.bulk.push(bulk);
    }
}

/// Handshakes, each cut by a reset so that no port is kept.
fn connects() -> Vec<f64> {
    (0..CONNECTS)
        .map(|_| {
            let started = Instant::now();
            let stream = TcpStream::connect(TARGET).expect("the target is allowed");
            let took = started.elapsed();
            let at_once = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream.as_fd(), sockopt::Linger, &at_once).unwrap();
            took.as_secs_f64() * 1e6
        })
        .collect()
}

fn exchanges() -> f64 {
    rate(EXCHANGES, || {
        let mut stream = TcpStream::connect(TARGET).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    })
}

fn requests() -> f64 {
    let mut stream = TcpStream::connect(TARGET).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"r").unwrap();
    rate(REQUESTS, || {
        stream.write_all(b".").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    })
}

fn bulk() -> f64 {
    let mut stream = TcpStream::connect(TARGET).unwrap();
    stream.write_all(b"b").unwrap();
    let block = vec![0; 256 * 1024];
    let turns = rate(1, || {
        for _ in 0..BULK / block.len() {
            stream.write_all(&block).unwrap();
        }
        stream.read_exact(&mut [0]).unwrap();
    });
    #[allow(clippy::cast_precision_loss)] // a few megabytes
    let bits = 8.0 * BULK as f64;
    turns * bits / 1e9
}

/// How often it can be done in a second of processor time.
fn rate(count: u32, mut work: impl FnMut()) -> f64 {
    let started = processor_time();
    for _ in 0..count {
        work();
    }
    f64::from(count) / (processor_time() - started)
}

/// What this process has used so far, in seconds: both ends, and the packets between them, which
/// the kernel handles on behalf of whoever sends.
fn processor_time() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage(2) knows us");
    let seconds = |time: TimeVal| {
        let microseconds = time.num_microseconds().try_into().unwrap_or(0);
        Duration::from_micros(microseconds).as_secs_f64()
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// The median of the ratios of two rows, turn by turn.
fn ratio(values: &[f64], base: &[f64]) -> f64 {
    Sample::new(values.iter().zip(base).map(|(value, base)| value / base)).median()
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

fn table(walls: &[Measured]) -> Table {
    let mut table = Table::new(&[
        "",
        "connect",
        "p99",
        "to none",
        "to conntrack",
        "exchanges/s",
        "to none",
        "requests/s",
        "to none",
        "bulk, Gbit/s",
        "to none",
        "built in",
    ]);
    let (none, conntrack) = (&walls[0], &walls[1]);
    for one in walls {
        let median = |values: &[f64]| Sample::new(values.iter().copied()).median();
        let p99 = Sample::new(one.connects.iter().copied()).quantile(0.99);
        table.row(vec![
            one.wall.name(),
            format!("{} µs", digits(median(&one.connect))),
            format!("{} µs", digits(p99)),
            percent(ratio(&one.connect, &none.connect)),
            percent(ratio(&one.connect, &conntrack.connect)),
            thousands(median(&one.exchanges)),
            percent(ratio(&one.exchanges, &none.exchanges)),
            thousands(median(&one.requests)),
            percent(ratio(&one.requests, &none.requests)),
            digits(median(&one.bulk)),
            percent(ratio(&one.bulk, &none.bulk)),
            format!("{} s", digits(one.built)),
        ]);
    }
    table
}

fn chart(section: &mut Section, walls: &[Measured]) {
    let mut bars = Vec::new();
    for one in walls {
        let value = Sample::new(one.connect.iter().copied()).median();
        bars.push(Bar::Value {
            name: one.wall.name(),
            value,
            colour: one.wall.colour(),
        });
    }
    let title = "TCP connect over a veth link, both ends on one processor";
    let chart = Bars {
        title,
        unit: "µs",
        rows: bars,
    };
    section.chart("connect", title, chart.svg());
}

fn targets(section: &mut Section, walls: &[Measured], form: Form) {
    if form == Form::Short {
        return;
    }
    let (none, conntrack) = (&walls[0], &walls[1]);
    let full = |wall: Wall| matches!(wall, Wall::EgressInit(_, 100_000));
    for one in walls.iter().filter(|one| full(one.wall)) {
        let name = one.wall.name();
        let mut within = |what: &str, ratio: f64, holds: bool| {
            section.target(
                &format!("{name}: {what}"),
                "within 5 %",
                &percent(ratio),
                holds,
            );
        };
        let connect = ratio(&one.connect, &none.connect);
        within("TCP connect, to no firewall", connect, connect <= 1.05);
        let connect = ratio(&one.connect, &conntrack.connect);
        within("TCP connect, to conntrack alone", connect, connect <= 1.05);
        let bulk = ratio(&one.bulk, &none.bulk);
        within("throughput, to no firewall", bulk, bulk >= 0.95);
    }
}
