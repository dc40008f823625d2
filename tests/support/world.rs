//! A small internet for one test case.
//!
//! A case runs in a process of its own, in fresh pid, mount and network namespaces (and a user
//! namespace for a plain user): see [`super::harness`]. So the test body *is* the inside, where
//! egress-init is to run: it starts commands, probes and reads files directly, and whatever it
//! leaves behind goes with its namespaces. [`World::new`] adds the rest: a private /etc as a
//! container has it, a link, and the outside.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::OwnedFd, unix::fs::PermissionsExt, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    net::if_::InterfaceFlags,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    capture::{self, Frame},
    dns::{Query, ZoneSpec},
    harness,
    outside::Outside,
    probe::{Outcome, Status, Step},
    sys,
};

/// The inside's own addresses.
pub const INSIDE: [IpAddr; 2] = [v4(10, 77, 0, 2), v6(0xfd77, 0, 2)];
/// Its gateway, which is the outside.
pub const GATEWAY: [IpAddr; 2] = [v4(10, 77, 0, 1), v6(0xfd77, 0, 1)];
/// The name servers of the inside's /etc/resolv.conf.
pub const DNS: [SocketAddr; 2] = [
    SocketAddr::new(v4(192, 0, 2, 53), 53),
    SocketAddr::new(v6(0x2001, 0xdb8, 0x53), 53),
];
/// DNS servers that nobody configured: the far end of a tunnel. The same zone.
pub const FOREIGN_DNS: [SocketAddr; 2] = [
    SocketAddr::new(v4(203, 0, 113, 53), 53),
    SocketAddr::new(v6(0x2001, 0xdb8, 0x1153), 53),
];
/// What `api.example.org` resolves to in [`zone`].
pub const API: [IpAddr; 2] = [v4(198, 51, 100, 10), v6(0x2001, 0xdb8, 0x10)];
/// What `git.example.org` resolves to.
pub const GIT: [IpAddr; 2] = [v4(198, 51, 100, 20), v6(0x2001, 0xdb8, 0x20)];
/// What no name resolves to and no list names.
pub const ELSEWHERE: [IpAddr; 2] = [v4(203, 0, 113, 66), v6(0x2001, 0xdb8, 0x1166)];
/// Where the echo servers listen, TCP and UDP, on each address that is the outside's.
pub const PORTS: [u16; 12] = [
    22, 80, 123, 443, 444, 5432, 7999, 8000, 8050, 8100, 8101, 9000,
];

/// Where a server outside talks all the time and listens to nobody, TCP.
pub const TICKER: u16 = 1900;

/// Where the world keeps its own files, in the private /etc.
const FILES: &str = "/etc/world";
/// The binary under test, as the inside sees it: the build directory may be closed to the
/// command's user.
pub const BINARY: &str = "/etc/world/egress-init";
/// This test executable, for `__probe`.
pub const PROBE: &str = "/etc/world/probe";
pub const SENTINEL: &str = "/etc/beacon-code/firewall.ready";
pub const ALLOWLIST: &str = "/etc/beacon-code/allowed_domains.txt";

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(a: u16, b: u16, z: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, z))
}

/// The zone that most cases use.
pub fn zone() -> ZoneSpec {
    let texts = |addresses: [IpAddr; 2]| addresses.map(|address| address.to_string());
    let [api, git] = [texts(API), texts(GIT)];
    ZoneSpec::new()
        .addresses("api.example.org", &[&api[0], &api[1]])
        .addresses("git.example.org", &[&git[0], &git[1]])
        .cname("www.example.org", "api.example.org")
        .addresses("tunnel.example.net", &["203.0.113.99"])
}

/// A small internet, until it is dropped.
pub struct World {
    pub outside: Outside,
    markers: OwnedFd,
    marker: AtomicU64,
}

impl World {
    /// With [`zone`] in its DNS.
    pub fn new() -> Self {
        Self::with_zone(zone())
    }

    /// Where nobody looks at what arrives: it would cost more than some of what is measured.
    #[allow(dead_code)] // it is for benchmarks
    pub fn unwatched() -> Self {
        Self::linked(zone(), Outside::start_unwatched)
    }

    pub fn with_zone(zone: ZoneSpec) -> Self {
        Self::linked(zone, Outside::start)
    }

    fn linked(zone: ZoneSpec, outside: fn() -> Outside) -> Self {
        let world = Self::with_outside(outside);
        ip_batch(&format!(
            "link add eth0 index 77 address {} type veth peer name world address {} netns {}",
            MAC[0],
            MAC[1],
            world.outside.id()
        ));
        world.outside.link();
        ip_batch(&inside_link());
        // Until its carrier was noticed, an interface that is up drops what it is to send.
        wait_until_running("eth0");
        world.outside.settle();
        world.outside.zone(zone);
        world
    }

    /// The inside has nothing but loopback: `docker run --network none`.
    pub fn without_link() -> Self {
        Self::with_outside(Outside::start)
    }

    fn with_outside(outside: fn() -> Outside) -> Self {
        private_etc();
        prepare_interfaces();
        Self {
            outside: outside(),
            markers: sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).expect("a packet socket"),
            marker: AtomicU64::new(0),
        }
    }

    /// egress-init, with an environment that has a PATH and nothing else.
    #[allow(clippy::unused_self)] // it is started in a world, not before there is one
    pub fn egress(&self) -> Run {
        Run::new(BINARY)
    }

    /// egress-init as the entrypoint of these probes, as the unprivileged user where there is
    /// one; they must all have been made.
    pub fn behind(&self, options: &[&str], steps: &[Step]) -> Vec<Outcome> {
        self.egress()
            .args(user_options())
            .args(options)
            .probe(steps)
            .outcomes()
    }

    /// Starts egress-init with these options and a command that does nothing, so that its rules
    /// are in force for what the case itself does next.
    #[track_caller]
    pub fn enforce(&self, options: &[&str]) -> Ran {
        self.egress()
            .args(user_options())
            .args(options)
            .command(&["/bin/true"])
            .run()
            .exits(0)
    }

    /// The same, expecting that it fails as it does on any error: exit 125, one line that says
    /// all of this, no sentinel.
    #[track_caller]
    pub fn fails(&self, options: &[&str], says: &[&str]) -> Ran {
        let ran = self
            .egress()
            .args(user_options())
            .args(options)
            .command(&["/bin/sh", "-c", "echo the command ran"])
            .run()
            .exits(125)
            .says(says);
        assert_eq!(ran.stdout(), "", "the command must not run\n{ran}");
        assert!(!Path::new(SENTINEL).exists(), "no sentinel after\n{ran}");
        ran
    }

    /// That the lock holds: neither family gets out, to names or to DNS.
    #[track_caller]
    pub fn is_locked(&self) {
        let ((), frames) = self.arrived(|| {
            for family in 0..2 {
                rejects(&[
                    Step::Tcp((API[family], 443).into()),
                    Step::Udp((ELSEWHERE[family], 9000).into()),
                    Step::Dns(DNS[family], "tunnel.example.net".into()),
                    Step::DnsTcp(DNS[family], "tunnel.example.net".into()),
                ]);
            }
        });
        let frames: Vec<_> = frames.iter().filter(|f| !f.is_neighbour_talk()).collect();
        assert!(frames.is_empty(), "something left: {frames:#?}");
    }

    /// Everything that has arrived outside so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.outside.frames(self.mark())
    }

    /// Everything that has arrived outside since this was last asked.
    pub fn take_frames(&self) -> Vec<Frame> {
        self.outside.take_frames(self.mark())
    }

    /// Sends the next marker.
    fn mark(&self) -> u64 {
        let number = self.marker.fetch_add(1, Ordering::SeqCst) + 1;
        let interface = nix::net::if_::if_nametoindex("eth0").expect("the link");
        sys::send_frame(&self.markers, interface, &capture::marker(number))
            .expect("the marker can be sent");
        number
    }

    /// Runs `attempts` and returns what arrived outside meanwhile.
    pub fn arrived<T>(&self, attempts: impl FnOnce() -> T) -> (T, Vec<Frame>) {
        // The last acknowledgements of earlier connections are not of this.
        wait_until_closed();
        sleep(Duration::from_millis(20));
        let before = self.frames().len();
        let result = attempts();
        let mut frames = self.frames();
        (result, frames.split_off(before))
    }

    /// What the configured DNS servers were asked.
    pub fn queries(&self) -> Vec<Query> {
        self.outside.queries().0
    }
}

/// Until no connection of the inside is half closed: the other side may be slow to close its half,
/// which is acknowledged then. Not for ever, since some cases hold one.
fn wait_until_closed() {
    // FIN_WAIT1, FIN_WAIT2, LAST_ACK and CLOSING (include/net/tcp_states.h), in proc_net_tcp(5).
    let is_half = |line: &str| {
        let state = line.split_whitespace().nth(3);
        matches!(state, Some("04" | "05" | "09" | "0B"))
    };
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
        let mut lines = tables.iter().flatten().flat_map(|table| table.lines());
        if !lines.any(is_half) {
            return;
        }
        sleep(Duration::from_millis(5));
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The positive control: each of these attempts succeeds, made from the inside as root.
#[track_caller]
pub fn reaches(steps: &[Step]) {
    for step in steps {
        let outcome = step.run();
        assert!(outcome.is_ok(), "{step:?} has to succeed: {outcome:?}");
    }
}

/// Each of these attempts is rejected, made from the inside as root: what nobody's privileges
/// can change.
#[track_caller]
pub fn rejects(steps: &[Step]) {
    for step in steps {
        rejected(step, &step.run());
    }
}

/// An attempt was rejected, with the error that belongs to it and at once.
#[track_caller]
pub fn rejected(step: &Step, outcome: &Outcome) {
    let expected: &[&str] = match step {
        Step::Tcp(_) | Step::DnsTcp(..) => &["ECONNREFUSED"],
        // The verdict itself, or the ICMP message that it sent, whichever is seen first.
        _ => &["EPERM", "EHOSTUNREACH", "EACCES"],
    };
    assert!(
        expected.contains(&outcome.result.as_str()),
        "{step:?} has to end in {expected:?}: {outcome:?}"
    );
    // Sooner than TCP sends a lost packet again, the first time; on a busy machine no less would do.
    assert!(
        outcome.ms < 900.0,
        "{step:?} is rejected too late: {outcome:?}"
    );
}

/// `--user node` where the namespace has a second uid. As its only uid the command stays root,
/// which the rules bind all the same.
pub fn user_options() -> &'static [&'static str] {
    if harness::has_second_uid() {
        &["--user", "node"]
    } else {
        &[]
    }
}

/// One command to run: a builder over [`Command`] that keeps what it printed.
pub struct Run {
    command: Command,
}

impl Run {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null());
        Self { command }
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// `-- COMMAND ARGS`
    #[must_use]
    pub fn command(self, words: &[&str]) -> Self {
        self.arg("--").args(words)
    }

    /// These attempts as the command.
    #[must_use]
    pub fn probe(self, steps: &[Step]) -> Self {
        let steps = serde_json::to_string(steps).unwrap();
        self.command(&[PROBE, "__probe", &steps])
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Ran {
        let described = format!("{:?}", self.command);
        let started = Instant::now();
        let output = self
            .command
            .output()
            .unwrap_or_else(|error| panic!("{described}: {error}"));
        Ran {
            described,
            elapsed: started.elapsed(),
            output,
        }
    }

    /// Runs it with this as its input.
    pub fn run_with_input(mut self, input: &str) -> Ran {
        self.command.stdin(Stdio::piped());
        let mut started = self.start();
        let mut stdin = started.child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        started.finish()
    }

    /// Starts it and goes on.
    pub fn start(mut self) -> Started {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let described = format!("{:?}", self.command);
        let child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{described}: {error}"));
        Started {
            described,
            since: Instant::now(),
            child,
        }
    }

    /// Runs it and takes the outcomes of its probes.
    pub fn outcomes(self) -> Vec<Outcome> {
        self.run().outcomes()
    }
}

/// A command that runs.
pub struct Started {
    described: String,
    since: Instant,
    child: Child,
}

impl Started {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).unwrap();
        kill(Pid::from_raw(pid), signal).expect("it has not been waited for");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn finish(self) -> Ran {
        let output = self.child.wait_with_output().unwrap();
        Ran {
            described: self.described,
            elapsed: self.since.elapsed(),
            output,
        }
    }
}

/// A command that ran.
pub struct Ran {
    described: String,
    pub elapsed: Duration,
    output: Output,
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub fn signal(&self) -> Option<i32> {
        self.output.status.signal()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Fails the case, with all that it said, unless it exited so.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code() == Some(code), "expected exit {code}\n{self}");
        self
    }

    /// Fails the case unless stderr has all of these.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        let stderr = self.stderr();
        for part in parts {
            assert!(stderr.contains(part), "expected {part:?} on stderr\n{self}");
        }
        self
    }

    /// Fails the case unless stdout has this.
    #[track_caller]
    pub fn has_on_stdout(self, part: &str) -> Self {
        assert!(
            self.stdout().contains(part),
            "expected {part:?} on stdout\n{self}"
        );
        self
    }

    /// What the probes found.
    #[track_caller]
    pub fn outcomes(self) -> Vec<Outcome> {
        let ran = self.exits(0);
        serde_json::from_str(&ran.stdout()).unwrap_or_else(|e| panic!("no outcomes: {e}\n{ran}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "  ran     {}\n  ended   {} after {:.1} ms\n  stdout  {}\n  stderr  {}",
            self.described,
            self.output.status,
            self.elapsed.as_secs_f64() * 1000.0,
            self.stdout().trim_end(),
            self.stderr().trim_end().replace('\n', "\n          "),
        )
    }
}

/// The status that the last of these outcomes carries.
pub fn status(outcomes: &[Outcome]) -> Status {
    serde_json::from_value(outcomes.last().unwrap().detail.clone()).expect("a status")
}

/// Writes the default allowlist.
pub fn allowlist(lines: &str) {
    file(ALLOWLIST, lines);
}

/// Writes a file, readable by all.
pub fn file(path: impl AsRef<Path>, content: &str) -> PathBuf {
    let path = path.as_ref();
    fs::write(path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    path.to_owned()
}

/// What nft shows of a table, or nothing where it does not exist.
pub fn table(name: &str) -> Option<String> {
    let ran = Run::new("nft")
        .args(["-s", "list", "table", "inet", name])
        .run();
    (ran.code() == Some(0)).then(|| ran.stdout())
}

/// As if egress-init had never run here: no table, no sentinel.
pub fn forget() {
    nft("add table inet egress_init; delete table inet egress_init");
    let _ = fs::remove_file(SENTINEL);
}

/// Runs an nft script.
pub fn nft(script: &str) {
    Run::new("nft")
        .args(["-f", "-"])
        .run_with_input(script)
        .exits(0);
}

/// An /etc of its own, as a container's: hosts and resolv.conf are bind mounts, and nothing is
/// read from the machine that the test runs on.
fn private_etc() {
    let binary = harness::binary_under_test();
    let probe = std::env::current_exe().expect("the path of this test");
    let etc = "/etc";
    mount(
        Some("tmpfs"),
        etc,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .expect("a tmpfs over /etc");
    for folder in [FILES, "/etc/beacon-code"] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    file(
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n",
    );
    file(
        "/etc/group",
        "root:x:0:\nnode:x:1000:\ntools:x:2000:node\nusers:x:100:\n",
    );
    file("/etc/nsswitch.conf", "hosts: files dns\n");
    // Without it glibc takes one line of /etc/hosts for a name and leaves the others.
    file("/etc/host.conf", "multi on\n");
    let resolv = format!("nameserver {}\nnameserver {}\n", DNS[0].ip(), DNS[1].ip());
    let hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n10.77.0.2\tinside\n";
    for (name, content) in [("hosts", hosts), ("resolv.conf", &resolv)] {
        let source = file(Path::new(FILES).join(name), content);
        bind(&source, &Path::new(etc).join(name));
    }
    bind(&binary, Path::new(BINARY));
    bind(&probe, Path::new(PROBE));
}

fn bind(source: &Path, target: &Path) {
    fs::write(target, "").unwrap();
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap_or_else(|error| panic!("{} on {}: {error}", source.display(), target.display()));
}

/// Interfaces of this namespace are to have IPv6, at once and without asking the neighbours
/// whether an address is taken; and everyone may ping, as in a container.
pub fn prepare_interfaces() {
    for which in ["all", "default"] {
        sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "0");
        sysctl(&format!("ipv6/conf/{which}/accept_dad"), "0");
    }
    let groups = if harness::has_second_uid() {
        "0 65535"
    } else {
        "0 0"
    };
    sysctl("ipv4/ping_group_range", groups);
}

/// Sets a variable below net/ for this network namespace.
pub fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// The link's two ends, inside and outside. They know each other from the start: a question that
/// is lost while an interface comes up costs a second. The entries go stale as others do.
const MAC: [&str; 2] = ["02:00:00:00:00:02", "02:00:00:00:00:01"];

fn inside_link() -> String {
    format!(
        "link set lo up
         addr add 10.77.0.2/24 dev eth0
         addr add fd77::2/64 dev eth0 nodad
         link set eth0 up
         neigh add 10.77.0.1 lladdr {outside} dev eth0 nud reachable
         neigh add fd77::1 lladdr {outside} dev eth0 nud reachable
         route add default via 10.77.0.1
         route add default via fd77::1",
        outside = MAC[1]
    )
}

/// Waits for the kernel to have noticed the carrier of an interface.
pub fn wait_until_running(name: &str) {
    let started = Instant::now();
    let running = || {
        let mut addresses = nix::ifaddrs::getifaddrs().expect("the interfaces");
        addresses.any(|a| a.interface_name == name && a.flags.contains(InterfaceFlags::IFF_RUNNING))
    };
    while !running() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{name} does not come up"
        );
        sleep(Duration::from_millis(1));
    }
}

/// Whole networks are local to the outside, but for 192.0.2.1, which is the canary's; two more
/// are behind the inside, for the case that has a guest there.
pub fn outside_addresses() -> String {
    let mut lines = format!(
        "link set lo up
         addr add 10.77.0.1/24 dev world
         addr add fd77::1/64 dev world nodad
         link set world up
         neigh add 10.77.0.2 lladdr {inside} dev world nud reachable
         neigh add fd77::2 lladdr {inside} dev world nud reachable
         route add 10.88.0.0/24 via 10.77.0.2
         route add fd88::/64 via fd77::2
         route add local 2001:db8::/32 dev lo\n",
        inside = MAC[0]
    );
    for network in [
        "198.51.100.0/24",
        "203.0.113.0/24",
        "192.0.2.2/31",
        "192.0.2.4/30",
        "192.0.2.8/29",
        "192.0.2.16/28",
        "192.0.2.32/27",
        "192.0.2.64/26",
        "192.0.2.128/25",
    ] {
        lines.extend(["route add local ", network, " dev lo\n"]);
    }
    lines
}

pub fn ip_batch(lines: &str) {
    let lines: Vec<_> = lines.lines().map(str::trim).collect();
    Run::new("ip")
        .args(["-batch", "-"])
        .run_with_input(&lines.join("\n"))
        .exits(0);
}
