//! A policy that lives: starts that stay, what they say of themselves, and clients that go on and
//! on while it changes.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    probe::Step,
    world::{BINARY, PROBE, Ran, Run, SENTINEL, Started, World, table, user_options},
};

/// The shortest lives that there are: an address is gone two seconds after its answer.
pub const SHORT: [&str; 4] = ["--dns-min-ttl", "1s", "--dns-grace", "1s"];

/// Longer than anything takes here on a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// `--supervise` above a command that lives until it is told.
pub fn supervised(world: &World, options: &[&str]) -> Started {
    supervised_above(world, options, &["/bin/sleep", "1000"])
}

/// The same above another command.
pub fn supervised_above(world: &World, options: &[&str], command: &[&str]) -> Started {
    let run = world.egress().args(user_options()).arg("--supervise");
    ready(run.args(options).command(command).start())
}

/// `apply --watch`.
pub fn sidecar(options: &[&str]) -> Started {
    let run = Run::new(BINARY).args(["apply", "--watch"]);
    ready(run.args(options).start())
}

/// Waits until it is ready, which its status says.
pub fn ready(mut started: Started) -> Started {
    let since = Instant::now();
    while !Path::new(SENTINEL).exists() || try_status().is_none() {
        assert!(
            since.elapsed() < LONG,
            "no keeper: {:?}",
            table("egress_init")
        );
        assert!(started.is_running(), "it ended\n{}", started.finish());
        sleep(Duration::from_millis(10));
    }
    started
}

/// Ends it, and says what it said.
pub fn end(started: Started) -> Ran {
    started.signal(Signal::SIGTERM);
    started.finish()
}

fn try_status() -> Option<Value> {
    let ran = Run::new(BINARY).args(["status", "--json"]).run();
    (ran.code() == Some(0)).then(|| serde_json::from_str(&ran.stdout()).expect("JSON"))
}

/// What `egress-init status --json` says.
pub fn status() -> Value {
    try_status().expect("a keeper that answers")
}

/// What the status says of one name.
pub fn status_of(name: &str) -> Value {
    let status = status();
    let names = status["names"].as_array().expect("names");
    let found = names.iter().find(|found| found["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .clone()
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(
            since.elapsed() < LONG,
            "never: {what}\n{}",
            table("egress_init").unwrap_or_default()
        );
        sleep(Duration::from_millis(20));
    }
}

/// Whether a new connection succeeds, from here.
pub fn is_open(address: IpAddr) -> bool {
    Step::Tcp((address, 443).into()).run().is_ok()
}

/// Asks a server for records; nothing where it does not answer.
pub fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Option<Message> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{name}.")).expect("a name");
    message.add_query(Query::query(name, kind));
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(server).unwrap();
    socket.send(&message.to_vec().unwrap()).ok()?;
    let mut octets = [0; 4096];
    let length = socket.recv(&mut octets).ok()?;
    Some(Message::from_vec(&octets[..length]).expect("a DNS message"))
}

/// The addresses in an answer.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    let of = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    message
        .answers
        .iter()
        .filter_map(|record| of(&record.data))
        .collect()
}

/// These attempts as the unprivileged user of another container in this network namespace.
pub fn as_node(steps: &[Step]) -> Run {
    let steps = serde_json::to_string(steps).unwrap();
    Run::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .args([PROBE, "__probe", &steps])
}

/// What went on in the background.
#[derive(Debug, Default)]
pub struct Report {
    /// Round trips, or connections.
    pub done: u64,
    /// The longest time that one took.
    pub longest: Duration,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// Something that goes on in the background until it is stopped.
pub struct Going {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Report>,
}

impl Going {
    fn start(
        pause: Duration,
        mut once: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            let mut report = Report::default();
            while !stopped.load(Ordering::SeqCst) && report.errors.len() < 10 {
                let since = Instant::now();
                match once() {
                    Ok(()) => report.done = counter.fetch_add(1, Ordering::SeqCst) + 1,
                    Err(error) => {
                        eprintln!("after {}: {error}", report.done);
                        report.errors.push(error);
                    }
                }
                report.longest = report.longest.max(since.elapsed());
                sleep(pause);
            }
            report
        });
        Self { stop, done, thread }
    }

    /// One connection on which octets go to and fro all the time; over with its first error.
    pub fn flow(to: SocketAddr) -> Self {
        let mut stream = TcpStream::connect_timeout(&to, LONG).expect("it is allowed");
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut broken = None;
        let going = Self::start(Duration::from_millis(2), move || {
            if let Some(error) = &broken {
                return Err(String::clone(error));
            }
            let done = stream
                .write_all(b"to and fro")
                .and_then(|()| stream.read_exact(&mut [0; 10]));
            done.map_err(|error| {
                broken = Some(error.to_string());
                error.to_string()
            })
        });
        going.goes_on();
        going
    }

    /// One connection on which the other side talks and this one listens.
    pub fn listening(to: SocketAddr) -> Self {
        let mut stream = TcpStream::connect_timeout(&to, LONG).expect("it is allowed");
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let going = Self::start(Duration::ZERO, move || {
            stream
                .read_exact(&mut [0; 4])
                .map_err(|error| error.to_string())
        });
        going.goes_on();
        going
    }

    /// One connection after the other.
    pub fn connections(to: SocketAddr) -> Self {
        Self::start(Duration::from_millis(5), move || {
            let outcome = Step::Tcp(to).run();
            if outcome.is_ok() {
                Ok(())
            } else {
                Err(format!("{to}: {outcome:?}"))
            }
        })
    }

    /// One lookup and connection after the other.
    pub fn lookups(name: &'static str, port: u16) -> Self {
        Self::start(Duration::from_millis(20), move || {
            let outcome = Step::TcpName(name.into(), port, false).run();
            if outcome.is_ok() {
                Ok(())
            } else {
                Err(format!("{name}: {outcome:?}"))
            }
        })
    }

    /// One attempt after the other that must not succeed.
    pub fn forbidden(steps: Vec<Step>) -> Self {
        Self::start(Duration::from_millis(20), move || {
            for step in &steps {
                if step.run().is_ok() {
                    return Err(format!("{step:?} succeeded"));
                }
            }
            Ok(())
        })
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// That it does: some more of it succeeds.
    #[track_caller]
    pub fn goes_on(&self) {
        let before = self.done();
        eventually("it goes on", || {
            self.done() > before + 3 || self.thread.is_finished()
        });
        assert!(self.done() > before + 3, "it does not go on");
    }

    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }

    /// Stops it; nothing may have gone wrong.
    #[track_caller]
    pub fn never_failed(self) -> Report {
        let report = self.stop();
        assert!(report.errors.is_empty() && report.done > 0, "{report:#?}");
        report
    }

    /// That it has stopped by itself: nothing succeeds any more.
    #[track_caller]
    pub fn gets_cut(self) {
        let before = self.done();
        sleep(Duration::from_millis(300));
        let after = self.done();
        let report = self.stop();
        assert!(
            before == after && !report.errors.is_empty(),
            "{before} {after} {report:#?}"
        );
    }
}

/// What a process takes, in KiB.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap()
}
