//! The stage of the attempts: the small internet of the tests, made as hostile as a container's
//! network can be, and the programs and neighbours that an adversary may find in one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
};

use crate::{
    attempts::{Context, Heirloom, Said},
    resolvers::{ASKS_IT, docker_rules, nameserver, resolvers},
    sniffer::{Sniffer, in_network_of},
    support::{
        harness::has_second_uid,
        outside::echo,
        sys,
        world::{
            ALLOWLIST, BINARY, ELSEWHERE, PROBE, SENTINEL, World, file, forget, sysctl, table,
        },
    },
};

/// What every start of the suite allows; the judge knows the same by heart.
pub const LIST: [&str; 5] = [
    "--allow=api.example.org",
    "--allow=api.example.org:21",
    "--allow=api.example.org:123/udp",
    "--inbound=8080/any",
    "--resolve-timeout=5s",
];
/// The port of `--inbound` above.
pub const INVITED: u16 = 8080;
/// An attempt that waits for the end of a start finds its token here.
pub const GO: &str = "/etc/world/go";
/// The network namespace of the outside, as a file that somebody left lying about.
pub const OUTSIDE_NETWORK: &str = "/etc/world/outside.network";
/// A copy of this program that is setuid root.
pub const SETUID: &str = "/etc/world/setuid";
/// A copy of this program with `CAP_NET_ADMIN` and `CAP_NET_RAW` in its file.
pub const FILE_CAPABILITIES: &str = "/etc/world/capable";
/// A program that root runs.
pub const TOOL: &str = "/etc/world/tool";
/// Where `egress-init status` asks.
pub const STATUS_SOCKET: &str = "/etc/beacon-code/egress-init.sock";
/// Where the message queues of the command's namespace are seen.
pub const QUEUES: &str = "/etc/world/queues";
/// The role of a process with every capability in the pid namespace of the command.
pub const BYSTANDER: &str = "__bystander";

/// The process id of the neighbour with capabilities, as the command sees it.
pub fn bystander() -> io::Result<i32> {
    let mut pids = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let mut words = line.split(|octet| *octet == 0);
            words.next() == Some(PROBE.as_bytes()) && words.next() == Some(BYSTANDER.as_bytes())
        })
    })
    .ok_or_else(|| io::Error::other("there is no privileged neighbour"))
}

/// The entry of `__bystander`: holds a packet socket and waits.
pub fn bystander_main(is_plain: bool) {
    use nix::unistd::{Gid, Uid, setresgid, setresuid};
    let _socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).expect("it has capabilities");
    if is_plain {
        let (group, user) = (Gid::from_raw(1000), Uid::from_raw(1000));
        setresgid(group, group, group).expect("it has capabilities");
        setresuid(user, user, user).expect("it has capabilities");
        // PR_SET_DUMPABLE, as after any exec.
        crate::sys::numbers(libc::SYS_prctl, [4, 1, 0, 0, 0]).expect("nothing forbids it");
    }
    println!("ready");
    loop {
        thread::park();
    }
}

/// The entry of `__init`: a process 1 with every capability above the command, as a supervisor.
pub fn init_main(words: &[&str]) -> std::process::ExitCode {
    let _socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).expect("it has capabilities");
    crate::attempts::leave_objects();
    let status = Command::new(words[0]).args(&words[1..]).status();
    let code = status.ok().and_then(|status| status.code()).unwrap_or(1);
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The stage, for one run of the suite.
pub struct Stage {
    pub world: World,
    pub sniffer: Sniffer,
    /// Whether there is another uid than root's here.
    pub has_user: bool,
    files: BTreeMap<&'static str, Vec<u8>>,
}

/// How a command is started.
#[derive(Clone, Debug)]
pub enum Way {
    /// As if there were no egress-init: as the user or as root, with all that root has.
    Open { root: bool },
    /// Behind egress-init.
    Fenced(Configuration),
    /// By something else than egress-init, after a start: a plant.
    Instead(Vec<String>),
}

/// One way to use egress-init.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub name: &'static str,
    pub options: Vec<&'static str>,
    pub as_user: bool,
    /// Whether egress-init stays and answers DNS, so that it asks its nameservers at any time.
    pub is_proxy: bool,
    /// How the command comes to be behind the rules.
    pub by: Entry,
}

/// Who starts the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// egress-init, as the entrypoint.
    Itself,
    /// `check`, after `apply`, which leaves DNS to the nameservers open.
    Apply,
    /// `check`, beside `apply --watch`.
    Watch,
}

/// The sentinel's folder as before any start, whatever was planted after the last one.
fn mend_folder() {
    if let Some(folder) = Path::new(SENTINEL).parent() {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    }
}

impl Stage {
    pub fn new(has_resolvers: bool) -> Self {
        let world = World::new();
        let sniffer = Sniffer::start(world.outside.id());
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/route_localnet", "1"),
            ("ipv4/conf/all/accept_local", "1"),
            ("ipv4/conf/lo/accept_local", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
            ("ipv4/ip_unprivileged_port_start", "0"),
            ("ipv4/tcp_fastopen", "5"),
            ("ipv6/conf/all/seg6_enabled", "1"),
            ("ipv6/conf/eth0/seg6_enabled", "1"),
            // The kernel's errors may leave whenever there is one.
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv4/icmp_ratelimit", "0"),
        ] {
            // Not every kernel has all of them.
            let _ = fs::write(format!("/proc/sys/net/{name}"), value);
        }
        // Forwarding takes the learnt router away, never the configured one.
        sysctl("ipv6/conf/eth0/accept_ra", "0");
        programs(world.outside.id());
        fs::create_dir_all(QUEUES).unwrap();
        resolvers(has_resolvers);
        in_network_of(world.outside.id(), || {
            let ftp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 21)).expect("port 21 is free");
            thread::spawn(move || {
                for stream in ftp.incoming().flatten() {
                    thread::spawn(move || echo(stream));
                }
            });
        });
        let mut stage = Self {
            world,
            sniffer,
            has_user: has_second_uid(),
            files: BTreeMap::new(),
        };
        file(ALLOWLIST, "api.example.org\n");
        for path in [
            ALLOWLIST,
            "/etc/resolv.conf",
            "/etc/passwd",
            TOOL,
            "/etc/hosts",
        ] {
            stage.files.insert(path, fs::read(path).unwrap());
        }
        stage
    }

    /// As if egress-init had never run, and the files as they were made.
    pub fn clear(&self) {
        forget();
        if Path::new("/etc/beacon-code.old").exists() {
            let _ = fs::remove_dir_all("/etc/beacon-code");
            fs::rename("/etc/beacon-code.old", "/etc/beacon-code").unwrap();
        }
        for entry in fs::read_dir("/etc/beacon-code").unwrap().flatten() {
            if entry.path() != Path::new(ALLOWLIST) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for (path, content) in &self.files {
            if fs::read(path).ok().as_ref() != Some(content) {
                fs::write(path, content).unwrap();
            }
            fs::set_permissions(
                path,
                fs::Permissions::from_mode(if *path == TOOL { 0o755 } else { 0o644 }),
            )
            .unwrap();
        }
        for table in ["inet", "ip", "ip6", "arp", "bridge", "netdev"] {
            let _ = Command::new("nft")
                .args(["delete", "table", table, "escape"])
                .stderr(Stdio::null())
                .status();
        }
        docker_rules();
    }

    /// What a start of egress-init leaves behind: nothing of it may change under the attempts.
    pub fn snapshot(&self) -> Snapshot {
        let paths = [
            SENTINEL,
            ALLOWLIST,
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/passwd",
            TOOL,
        ];
        let files = paths.map(|path| {
            let state = fs::metadata(path).ok().map(|metadata| {
                let content = fs::read(path).unwrap_or_default();
                (content, metadata.mode(), metadata.uid(), metadata.ino())
            });
            (path, state)
        });
        let mut folder: Vec<_> = fs::read_dir("/etc/beacon-code")
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        folder.sort();
        Snapshot {
            files: files.to_vec(),
            folder,
            rules: table("egress_init").map(without_timed),
        }
    }

    /// egress-init, in this configuration, as a [`Command`].
    pub fn egress(&self, configuration: &Configuration) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(&configuration.options)
            .args(LIST)
            .args(if configuration.as_user {
                &["--user", "node"][..]
            } else {
                &[]
            })
            .arg("--");
        command
    }

    /// The same, with a file of entries as well.
    pub fn supervisor(&self, configuration: &Configuration, list: &str) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(&configuration.options)
            .args(LIST)
            .args(["--allowlist", list])
            .args(if configuration.as_user {
                &["--user", "node"][..]
            } else {
                &[]
            })
            .arg("--");
        command
    }

    /// A start whose command does nothing.
    pub fn enforce(&self) {
        let output = Command::new(BINARY)
            .args(LIST)
            .args(["--", "/bin/true"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The words that start a program in this way.
    pub fn words(&self, way: &Way) -> Vec<String> {
        self.words_with(way, &[])
    }

    /// The same, with more options for egress-init.
    fn words_with(&self, way: &Way, more: &[&str]) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match way {
            Way::Open { root: true } => words(&[PROBE, "__init"]),
            Way::Open { root: false } if self.has_user => words(&[
                PROBE,
                "__init",
                "setpriv",
                "--reuid=1000",
                "--regid=1000",
                "--clear-groups",
            ]),
            Way::Open { root: false } => words(&[
                PROBE,
                "__init",
                "setpriv",
                "--bounding-set=-all",
                "--inh-caps=-all",
            ]),
            Way::Fenced(configuration) if configuration.by != Entry::Itself => {
                let list = [&LIST[..], more].concat().join(" ");
                let enforced = match configuration.by {
                    Entry::Watch => format!(
                        "{BINARY} apply --watch {list} >/dev/null & \
                         until {BINARY} check 2>/dev/null; do sleep 0.02; done"
                    ),
                    _ => format!("{BINARY} apply {list} >/dev/null"),
                };
                let script = format!("{enforced}; exec {BINARY} check --user node -- \"$@\"");
                words(&["bash", "-c", &script, "bash"])
            }
            Way::Fenced(configuration) => {
                let command = self.egress(configuration);
                let mut words: Vec<_> = std::iter::once(command.get_program())
                    .chain(command.get_args())
                    .map(|word| word.to_str().unwrap().to_owned())
                    .collect();
                words.splice(1..1, more.iter().map(|word| (*word).to_owned()));
                words
            }
            Way::Instead(words) => words.clone(),
        }
    }

    /// Starts a runner of attempts in this way, as process 1 of a pid namespace of its own.
    pub fn runner(&self, way: &Way) -> Runner {
        mend_folder();
        let mut child = contained()
            .args(self.words(way))
            .args([PROBE, "__runner"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the runner did not start: {way:?}");
        if matches!(way, Way::Fenced(configuration) if configuration.is_proxy) {
            // The last of the files of a start, which comes when the command may run already.
            let began = Instant::now();
            while !Path::new(STATUS_SOCKET).exists() && began.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let neighbour = neighbour_in(child.id(), &[]);
        Runner {
            child,
            stdin,
            stdout,
            neighbour,
        }
    }

    /// Runs one attempt as the command of a start of its own, with an heirloom; `then` is called
    /// when the start is over and before the attempt goes on.
    pub fn own(
        &self,
        way: &Way,
        heirloom: Heirloom,
        context: &Context,
        then: impl FnOnce(),
    ) -> Option<Said> {
        let _ = fs::remove_file(GO);
        forget();
        mend_folder();
        let v6 = usize::from(context.name.ends_with("IPv6"));
        let heir = Heir::new(heirloom, v6);
        let mut command = contained();
        command
            .args(self.words_with(way, heir.options))
            .args([PROBE, "__attempt"])
            .arg(serde_json::to_string(&[context]).unwrap())
            .stdin(heir.stdin())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let leaked = heir.leak();
        let mut child = command.spawn().expect("unshare");
        if let Some(fd) = leaked {
            let _ = nix::unistd::close(fd);
        }
        drop(command);
        if matches!(way, Way::Fenced(_)) {
            let began = Instant::now();
            while !Path::new(SENTINEL).exists() && began.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(1));
            }
            // From publishing to exec.
            thread::sleep(Duration::from_millis(30));
        } else if matches!(way, Way::Instead(_)) {
            self.enforce();
        }
        then();
        let _ = self.sniffer.take();
        file(GO, &context.token);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let _ = stdout.read_line(&mut line);
        let mut errors = String::new();
        let _ = child.stderr.take().unwrap().read_to_string(&mut errors);
        let _ = child.wait();
        drop(heir);
        let said = serde_json::from_str(&line).ok();
        assert!(
            said.is_some(),
            "the attempt of a start of its own said nothing: {errors}"
        );
        said
    }
}

/// Rules without the elements that come and go with the answers of DNS.
fn without_timed(text: String) -> String {
    let lines = text.lines().filter(|line| !line.contains("timeout"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What must not change.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    files: Vec<(&'static str, Option<(Vec<u8>, u32, u32, u64)>)>,
    folder: Vec<std::ffi::OsString>,
    rules: Option<String>,
}

impl Snapshot {
    /// What is different now, if anything.
    pub fn differs(&self, now: &Self) -> Option<String> {
        let files = self.files.iter().zip(&now.files);
        for ((path, before), (_, after)) in files {
            if before != after {
                return Some(format!("{path} has changed"));
            }
        }
        if self.folder != now.folder {
            return Some("the sentinel's folder has changed".to_owned());
        }
        (self.rules != now.rules).then(|| "the rules have changed".to_owned())
    }
}

/// A pid namespace of its own, and /proc of it; one of System V objects and message queues too,
/// so that what is in it is of one start.
fn contained() -> Command {
    let mount = format!("mount -t mqueue queues {QUEUES} 2>/dev/null; exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", &mount, "sh"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/");
    command
}

/// A process with every capability beside the command; with the word `plain`, of its user.
fn neighbour_in(unshare: u32, words: &[&str]) -> Option<Child> {
    let first = child_of(unshare)?.to_string();
    let mut child = Command::new("nsenter")
        .args(["--target", &first, "--pid", "--mount"])
        .args([PROBE, BYSTANDER])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?)
        .read_line(&mut line)
        .ok()?;
    (line == "ready\n").then_some(child)
}

fn child_of(parent: u32) -> Option<i32> {
    let pids = fs::read_dir("/proc").ok()?;
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name is in parentheses and may have spaces; then come the state and the parent.
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.split_whitespace().nth(1) == Some(&parent.to_string())
        })
}

/// A command that runs attempts, one after the other, each in a process of its own.
pub struct Runner {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    neighbour: Option<Child>,
}

impl Runner {
    /// Runs these in one process. Nothing where the runner did not outlive it.
    pub fn run(&mut self, contexts: &[Context]) -> Option<Vec<Said>> {
        writeln!(self.stdin, "{}", serde_json::to_string(contexts).unwrap()).ok()?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// The enumeration of sockets, from where the runner stands.
    pub fn scan(&mut self) -> Vec<String> {
        writeln!(self.stdin, "scan").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("a list of names")
    }

    /// Replaces the neighbour by one with the command's own identity: a plant.
    pub fn neighbour_of_the_command(&mut self) {
        self.end_neighbour();
        self.neighbour = neighbour_in(self.child.id(), &["plain"]);
        assert!(self.neighbour.is_some(), "the neighbour did not start");
    }

    fn end_neighbour(&mut self) {
        use nix::sys::{signal, wait};
        use nix::unistd::Pid;
        let Some(mut neighbour) = self.neighbour.take() else {
            return;
        };
        // What is started here is nsenter; the neighbour is its child, and an orphan of ours after
        // it, which its namespace waits for.
        let beside = child_of(neighbour.id()).map(Pid::from_raw);
        if let Some(beside) = beside {
            let _ = signal::kill(beside, signal::Signal::SIGKILL);
        }
        let _ = neighbour.kill();
        let _ = neighbour.wait();
        if let Some(beside) = beside {
            let _ = wait::waitpid(beside, None);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        use nix::sys::signal;
        use nix::unistd::Pid;
        // Process 1 of its namespace, which takes all others with it. It has to be over before
        // the next start: a keeper holds the lock for starts until then.
        let first = child_of(self.child.id());
        let watched = first.and_then(crate::sys::watch_process);
        if let Some(first) = first {
            let _ = signal::kill(Pid::from_raw(first), signal::Signal::SIGKILL);
        }
        self.end_neighbour();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(first) = watched {
            crate::sys::wait_readable(&first, Duration::from_secs(10));
        }
    }
}

/// The entry of `__runner`: lines of contexts in, lines of outcomes out.
pub fn runner_main() {
    println!("ready");
    for line in io::stdin().lines() {
        let line = line.expect("the case speaks in lines");
        if line == "scan" {
            println!(
                "{}",
                serde_json::to_string(&crate::attempts::scan()).unwrap()
            );
            continue;
        }
        let said = run_one(&line);
        end_the_rest();
        println!("{}", serde_json::to_string(&said).unwrap());
    }
}

/// A process that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(20);

fn run_one(contexts: &str) -> Vec<Said> {
    let mut child = Command::new(PROBE)
        .args(["__attempt", contexts])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the runner starts itself again");
    let pid = child.id();
    let (sender, done) = std::sync::mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if done.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect();
    let _ = child.wait();
    drop(sender);
    let _ = watch.join();
    said
}

/// Whatever an attempt left running, but for the neighbour.
fn end_the_rest() {
    let neighbour = bystander().unwrap_or(0);
    let own = i32::try_from(std::process::id()).unwrap();
    let Ok(pids) = fs::read_dir("/proc") else {
        return;
    };
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| ![1, own, neighbour].contains(pid)) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let any = nix::unistd::Pid::from_raw(-1);
    let flags = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
    while nix::sys::wait::waitpid(any, flags)
        .is_ok_and(|status| status != nix::sys::wait::WaitStatus::StillAlive)
    {}
}

/// What a parent holds open while a start inherits it.
struct Heir {
    stdin: Option<OwnedFd>,
    leaked: Option<OwnedFd>,
    /// What the start is told.
    options: &'static [&'static str],
    /// What has to live as long as the attempt.
    _kept: Vec<OwnedFd>,
}

impl Heir {
    fn new(heirloom: Heirloom, family: usize) -> Self {
        let to = SocketAddr::new(ELSEWHERE[family], 9000);
        let any: IpAddr = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()][family];
        let connection = || -> OwnedFd {
            let mut stream = TcpStream::connect(to).expect("nothing is locked yet");
            stream.write_all(b"before").unwrap();
            stream.read_exact(&mut [0; 6]).unwrap();
            stream.into()
        };
        let datagrams = |connected: bool| -> OwnedFd {
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.send_to(b"before", to).unwrap();
            socket.recv(&mut [0; 16]).unwrap();
            if connected {
                socket.connect(to).unwrap();
            }
            socket.into()
        };
        let (stdin, leaked, kept) = match heirloom {
            Heirloom::Nameserver => (None, None, Vec::new()),
            Heirloom::Connection => (Some(connection()), None, Vec::new()),
            Heirloom::Datagrams => (Some(datagrams(true)), None, Vec::new()),
            Heirloom::Unconnected => {
                let family = [libc::AF_INET, libc::AF_INET6][family];
                let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
                (
                    Some(sys::socket(family, kind, 0).unwrap()),
                    None,
                    Vec::new(),
                )
            }
            Heirloom::PacketSocket => {
                let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).unwrap();
                (None, Some(socket), Vec::new())
            }
            Heirloom::Neighbour => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                let passed = [connection(), datagrams(false)];
                let numbers = [passed[0].as_raw_fd(), passed[1].as_raw_fd()];
                sendmsg::<()>(
                    ours.as_raw_fd(),
                    &[io::IoSlice::new(b"take these")],
                    &[ControlMessage::ScmRights(&numbers)],
                    MsgFlags::empty(),
                    None,
                )
                .unwrap();
                let [first, second] = passed;
                (Some(theirs.into()), None, vec![ours.into(), first, second])
            }
        };
        let options = if heirloom == Heirloom::Nameserver {
            nameserver(any);
            ASKS_IT[usize::from(any.is_ipv6())]
        } else {
            &[]
        };
        Self {
            stdin,
            leaked,
            options,
            _kept: kept,
        }
    }

    fn stdin(&self) -> Stdio {
        match &self.stdin {
            Some(fd) => fd.as_fd().try_clone_to_owned().unwrap().into(),
            None => Stdio::null(),
        }
    }

    /// Puts it where what is started next inherits it.
    fn leak(&self) -> Option<i32> {
        let fd = self.leaked.as_ref()?;
        // High, where nothing of this process is.
        sys::leak_descriptor(fd.as_raw_fd(), 55);
        Some(55)
    }
}

/// Copies of this program that have privileges by their file, and the namespace as a file.
fn programs(outside: u32) {
    let own = std::env::current_exe().unwrap();
    for (path, mode) in [(SETUID, 0o4755), (FILE_CAPABILITIES, 0o755)] {
        fs::copy(&own, path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // struct vfs_cap_data (linux/capability.h), version 2: NET_ADMIN and NET_RAW, effective.
    let mut capabilities = 0x0200_0001_u32.to_le_bytes().to_vec();
    capabilities.extend((1_u32 << 12 | 1 << 13).to_le_bytes());
    capabilities.extend([0; 12]);
    crate::sys::set_attribute(FILE_CAPABILITIES, c"security.capability", &capabilities);
    file(TOOL, "#!/bin/sh\n");
    fs::set_permissions(TOOL, fs::Permissions::from_mode(0o755)).unwrap();
    File::create(OUTSIDE_NETWORK).unwrap();
    mount(
        Some(format!("/proc/{outside}/ns/net").as_str()),
        OUTSIDE_NETWORK,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("the namespace as a file");
}
