//! One case while a policy is kept: a name is refreshed, the lists or /etc/hosts are read again, or
//! the command asks for a name, and a call of the supervisor fails in it. At any moment what leaves is what left
//! before or what is to leave afterwards, and whoever has an answer can connect. A supervisor that
//! lives goes on with its work; one that does not takes the command with it, and the rules stay.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    gate::{self, Gate, KEPT, Mark, Observation, Observer, Open, PORT},
    judge::{self, Judged, Verdict},
    scenario::{self, Scenario},
    support::{
        dns::ZoneSpec,
        live,
        world::{ALLOWLIST, BINARY, DNS, GIT, SENTINEL, World, file, user_options, zone},
    },
    tracer::{self, Call, End, Fault, Point, Traced},
};

/// Longer than anything here takes, three tries of a refresh included.
const PATIENCE: Duration = Duration::from_secs(12);

/// A client asks again after so long.
const RESEND: Duration = Duration::from_millis(1200);

/// After so long it has looked at the list once more, and waits.
const SETTLING: Duration = Duration::from_millis(160);

/// Where the supervisor's stderr goes: it is read while that goes on.
const LOG: &str = "/etc/world/log";

/// What it says of a reload.
const RELOADED: &str = "the lists are in force as they are now";
const NOT_RELOADED: &str = "the lists were not reloaded";

/// What is asked for.
const GIT_NAME: &str = "git.example.org";

impl Scenario {
    /// What of [`API`] and [`GIT`] may be reached before, and when it is done.
    fn changes(self) -> (Open, Open) {
        match self {
            Self::Reload => ([true, false], [false, true]),
            Self::Query => ([false, false], [false, true]),
            // The old address lives to its end.
            _ => ([true, false], [true, true]),
        }
    }

    fn lists(self) -> [String; 2] {
        let literal =
            |[ipv4, ipv6]: [IpAddr; 2]| format!("{ipv4}:{PORT}/udp\n[{ipv6}]:{PORT}/udp\n");
        let kept = literal(KEPT);
        let api = scenario::names("api.example.org");
        match self {
            Self::Query => [scenario::names("*.example.org") + &kept, String::new()],
            _ => [api + &kept, format!("{GIT_NAME}\n{}{kept}", literal(GIT))],
        }
    }
}

/// The supervisor, and what is seen of it.
struct Kept {
    scenario: Scenario,
    supervisor: Child,
    command: Pid,
    observer: Observer,
    client: Client,
    began: Instant,
}

/// Runs a scenario with a fault in it, or without one: then with every call recorded.
pub fn judge(world: &World, scenario: Scenario, fault: Option<(&Point, &Fault)>) -> Judged {
    let ttl = if scenario == Scenario::Refresh {
        1
    } else {
        600
    };
    world.outside.change(zone().ttl("api.example.org", ttl));
    let mut kept = Kept::start(scenario);
    world.take_frames();
    kept.observer.escaped = 0;
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    let traced = kept.trace(world, fault, &mut seen, &mut wrong);
    let milliseconds = u64::try_from(kept.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let log = log();
    let came = seen
        .last()
        .is_some_and(|(_, last)| last.gate == Gate::Policy);
    let verdict = kept.at_the_end(&traced, came, &log, &mut wrong);
    if traced.end == End::Stays {
        // The fault is over, and everything is as if it had not been.
        wrong.extend(kept.recovers());
        wrong.extend(kept.ends());
    }
    wrong.extend(judge::outside(&world.take_frames(), kept.observer.escaped));
    world.outside.change(zone());
    wrong.dedup();
    wrong.truncate(5);
    Judged {
        verdict,
        reached: traced.reached,
        end: traced.end,
        stderr: log,
        wrong,
        milliseconds,
        calls: if fault.is_none() { seen } else { Vec::new() },
    }
}

impl Kept {
    fn start(scenario: Scenario) -> Self {
        scenario::forget();
        file(ALLOWLIST, &scenario.lists()[0]);
        let log = File::create(LOG).unwrap();
        let mut command = std::process::Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .arg("--supervise")
            .args(user_options())
            .args(["--dns-min-ttl", "1s", "--dns-grace", "1m"])
            .args(["--resolve-timeout", "1s", "--", "/bin/sleep", "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let supervisor = command.spawn().expect("it can be started");
        let socket = Path::new(SENTINEL).with_file_name("egress-init.sock");
        let since = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(
                since.elapsed() < PATIENCE,
                "it does not start: {}",
                self::log()
            );
            sleep(Duration::from_millis(2));
        }
        // Its own socket beside the list is a change, as far as it knows.
        sleep(SETTLING);
        let id = supervisor.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let mut kept = Self {
            scenario,
            supervisor,
            command: Pid::from_raw(children.trim().parse().expect("one child")),
            observer: Observer::new(true),
            client: Client::default(),
            began: Instant::now(),
        };
        assert_eq!(kept.look().gate, Gate::Old, "before: {}", self::log());
        kept
    }

    fn look(&mut self) -> Observation {
        Observation {
            gate: gate::of_both(self.families()),
            mark: self.observer.mark(),
        }
    }

    fn families(&mut self) -> [Gate; 2] {
        let (before, after) = self.scenario.changes();
        self.observer.look_at_kept(before, after)
    }

    fn trace(
        &mut self,
        world: &World,
        fault: Option<(&Point, &Fault)>,
        seen: &mut Vec<(Option<Call>, Observation)>,
        wrong: &mut Vec<String>,
    ) -> Traced {
        let (scenario, began) = (self.scenario, Instant::now());
        let leader = tracer::pid(&self.supervisor);
        let kept = std::cell::RefCell::new(self);
        let event = || match scenario {
            Scenario::Refresh => world.outside.change(moved()),
            Scenario::Reload => drop(file(ALLOWLIST, &scenario.lists()[1])),
            Scenario::Hangup => {
                let texts = GIT.map(|address| format!("{address} api.example.org\n"));
                fs::write("/etc/hosts", scenario::HOSTS.to_owned() + &texts.concat()).unwrap();
                kill(leader, Signal::SIGHUP).expect("it is a child");
            }
            _ => kept.borrow_mut().client.ask(),
        };
        let settled = || {
            let mut kept = kept.borrow_mut();
            match scenario {
                Scenario::Query => {
                    kept.client.listen();
                    kept.client.is_answered() || began.elapsed() > RESEND
                }
                _ => kept.look().gate == Gate::Policy || is_said(&log()),
            }
        };
        tracer::window(leader, (fault, PATIENCE), event, settled, |call| {
            let point = call.map_or("exec".to_owned(), |call| call.point.to_string());
            let of_the_process =
                call.is_some_and(|call| judge::is_of_the_process(&call.point.call));
            if fault.is_some() && of_the_process || seen.len() > LONGEST {
                return;
            }
            let mut kept = kept.borrow_mut();
            let observation = kept.look();
            wrong.extend(
                kept.is_wrong(observation)
                    .map(|what| format!("after {point} {what}")),
            );
            wrong.extend(kept.is_answered_too_early());
            seen.push((call.cloned(), observation));
        })
    }

    /// I2 and I3 at any moment.
    fn is_wrong(&self, seen: Observation) -> Option<String> {
        let may_differ = self.scenario == Scenario::Query;
        match seen.gate {
            Gate::Old | Gate::Policy => {}
            Gate::Partly if may_differ => {}
            gate => return Some(format!("I2: what leaves is {gate}")),
        }
        (seen.mark == Mark::Missing).then(|| "I3: the sentinel is gone".to_owned())
    }

    /// Whoever has an answer can connect.
    fn is_answered_too_early(&mut self) -> Option<String> {
        if self.scenario != Scenario::Query {
            return None;
        }
        self.client.listen();
        let families = self.families();
        let early = (0..2).find(|&family| {
            self.client.addresses[family] == Some(vec![GIT[family]])
                && families[family] != Gate::Policy
        });
        early.map(|family| format!("{} was given out and cannot be reached", GIT[family]))
    }

    /// What was to come has come, or has not, while the fault was there.
    fn at_the_end(
        &mut self,
        traced: &Traced,
        came: bool,
        log: &str,
        wrong: &mut Vec<String>,
    ) -> Verdict {
        let seen = self.look();
        wrong.extend(self.is_wrong(seen).map(|what| format!("at the end {what}")));
        if !scenario::verifies() {
            wrong.push("I3: the sentinel does not verify".to_owned());
        }
        match traced.end {
            End::Stays => {
                if !came && self.scenario != Scenario::Query && !is_said(log) {
                    wrong.push("nothing came of it, and nothing was said".to_owned());
                }
                if came && log.contains(NOT_RELOADED) && !log.contains(RELOADED) {
                    wrong.push("it says that it was not reloaded, and it was".to_owned());
                }
                return if came {
                    Verdict::Enforced
                } else {
                    Verdict::Kept
                };
            }
            End::Hung => wrong.push(format!("it hung, or said nothing: {seen}")),
            End::Exited(125) if !log.contains("; ") => wrong.push("I5: no remedy".to_owned()),
            End::Exited(125) | End::Killed(_) => {}
            End::Exited(code) => wrong.push(format!("I5: exit {code}")),
        }
        let _ = self.supervisor.wait();
        wrong.extend(judge::outlives(self.command));
        Verdict::Policy
    }

    /// What is wrong with a supervisor that a fault has hit and not ended.
    fn recovers(&mut self) -> Option<String> {
        let since = Instant::now();
        let reloads = matches!(self.scenario, Scenario::Reload | Scenario::Hangup);
        if reloads && !log().contains(RELOADED) {
            kill(tracer::pid(&self.supervisor), Signal::SIGHUP).expect("it is a child");
        }
        while since.elapsed() < PATIENCE {
            let reloaded = !reloads || log().contains(RELOADED);
            let done = self.look().gate == Gate::Policy && reloaded;
            if self.scenario == Scenario::Query && (!done || !self.client.is_answered()) {
                self.client = Client::default();
                self.client.ask();
                sleep(Duration::from_millis(100));
                if let Some(wrong) = self.is_answered_too_early() {
                    return Some(wrong);
                }
            } else if done {
                return None;
            }
            sleep(Duration::from_millis(20));
        }
        Some(format!("it does not recover: {}\n{}", self.look(), log()))
    }

    /// The command ends by the signal that is passed on to it, and it with the command.
    fn ends(&mut self) -> Option<String> {
        kill(tracer::pid(&self.supervisor), Signal::SIGTERM).expect("it is a child");
        let status = self.supervisor.wait().expect("it is a child");
        let seen = self.look();
        let is_well =
            status.code() == Some(128 + Signal::SIGTERM as i32) && status.signal().is_none();
        if !is_well {
            return Some(format!("at SIGTERM it ended with {status}"));
        }
        (seen.gate != Gate::Policy).then(|| format!("it has ended, and what is left is {seen}"))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

/// The name has moved.
fn moved() -> ZoneSpec {
    let texts = GIT.map(|address| address.to_string());
    ZoneSpec::new()
        .addresses("api.example.org", &[&texts[0], &texts[1]])
        .addresses(GIT_NAME, &[&texts[0], &texts[1]])
        .ttl("api.example.org", 1)
}

fn log() -> String {
    fs::read_to_string(LOG).unwrap_or_default()
}

/// Whether it was said that something failed.
fn is_said(log: &str) -> bool {
    let words = [
        NOT_RELOADED,
        "could not refresh",
        "made anew",
        "may not be noticed",
    ];
    words.iter().any(|words| log.contains(words))
}

/// Far more calls than a window has.
const LONGEST: usize = 2000;

/// What the command would do: asks for A over UDP, for AAAA over TCP.
#[derive(Default)]
struct Client {
    udp: Option<UdpSocket>,
    tcp: Option<TcpStream>,
    octets: Vec<u8>,
    /// What came, of each family; empty for an answer without an address.
    addresses: [Option<Vec<IpAddr>>; 2],
}

impl Client {
    fn ask(&mut self) {
        let any: SocketAddr = ([0, 0, 0, 0], 0).into();
        let udp = UdpSocket::bind(any).unwrap();
        udp.set_nonblocking(true).unwrap();
        udp.connect(DNS[0]).unwrap();
        let _ = udp.send(&question(RecordType::A));
        self.udp = Some(udp);
        self.tcp = TcpStream::connect_timeout(&DNS[1], RESEND).ok();
        if let Some(tcp) = &mut self.tcp {
            let message = question(RecordType::AAAA);
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            let _ = tcp.write_all(&[&length[..], &message].concat());
            tcp.set_nonblocking(true).unwrap();
        }
    }

    /// Takes what has come.
    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(Ok(length)) = self.udp.as_ref().map(|udp| udp.recv(&mut buffer)) {
            self.addresses[0] = read(&buffer[..length]);
        }
        if let Some(Ok(length)) = self.tcp.as_mut().map(|tcp| tcp.read(&mut buffer)) {
            self.octets.extend(&buffer[..length]);
        }
        if let Some((length, message)) = self.octets.split_first_chunk::<2>()
            && let Some(message) = message.get(..usize::from(u16::from_be_bytes(*length)))
        {
            self.addresses[1] = read(message);
        }
    }

    fn is_answered(&self) -> bool {
        [0, 1].map(|family| self.addresses[family] == Some(vec![GIT[family]])) == [true; 2]
    }
}

fn question(kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{GIT_NAME}.")).expect("a name");
    message.add_query(Query::query(name, kind));
    message.to_vec().unwrap()
}

fn read(octets: &[u8]) -> Option<Vec<IpAddr>> {
    let message = Message::from_vec(octets).ok()?;
    Some(live::addresses(&message))
}
