//! Connections that outlive a change of rules, and those that come from outside (section 6, I2,
//! I9).

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    cases,
    support::{
        capture::Frame,
        dns::Behaviour,
        outside::{at, echo},
        probe::{Outcome, Step},
        world::{
            API, ELSEWHERE, GIT, INSIDE, PROBE, Run, SENTINEL, World, ip_batch, reaches, rejects,
            sysctl, user_options, zone,
        },
    },
};

cases!(flows:
    a_connection_from_before_the_lock_gets_cut,
    a_rerun_keeps_what_both_policies_allow_and_cuts_the_rest,
    the_lock_of_a_rerun_resets_nothing,
    a_rerun_keeps_what_was_invited,
    nothing_comes_in_uninvited,
    an_invited_service_is_reached_and_answers,
    an_invitation_can_be_for_some,
    a_connection_from_outside_from_before_the_lock_gets_cut,
    an_answer_in_an_allowed_hosts_name_reaches_no_stranger,
    a_strangers_visit_over_loopback_is_not_answered,
    nothing_is_forwarded,
    a_start_closes_once_and_for_all,
    a_rerun_leaves_no_window,
);

/// A connection that was tried out.
fn connect(address: IpAddr, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect((address, port)).expect("the path is open");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    talk(&mut stream).expect("the echo");
    stream
}

fn talk(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"still there?")?;
    stream.read_exact(&mut [0; 12])
}

/// Nothing of these destinations arrived.
#[track_caller]
fn none_to(frames: &[Frame], addresses: [IpAddr; 2]) {
    let strays: Vec<_> = frames
        .iter()
        .filter(|frame| addresses.iter().any(|address| frame.to(*address)))
        .collect();
    assert!(strays.is_empty(), "these got out: {strays:#?}");
}

fn a_connection_from_before_the_lock_gets_cut() {
    let world = World::new();
    let mut open = ELSEWHERE.map(|address| connect(address, 9000));
    let sockets = ELSEWHERE.map(|address| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let to = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        socket.connect((to, 9000)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        socket.send(b"before").unwrap();
        socket.recv(&mut [0; 8]).expect("the echo");
        socket
    });
    world.enforce(&["--allow", "api.example.org"]);
    let ((), frames) = world.arrived(|| {
        for stream in &mut open {
            talk(stream).expect_err("the connection is older than the lock");
        }
        for socket in &sockets {
            socket.send(b"after").expect_err("so is this flow");
        }
    });
    none_to(&frames, ELSEWHERE);
}

fn a_rerun_keeps_what_both_policies_allow_and_cuts_the_rest() {
    let world = World::new();
    world.enforce(&[
        "--allow",
        "api.example.org:9000",
        "--allow",
        "git.example.org:9000",
    ]);
    let mut kept = API.map(|address| connect(address, 9000));
    let mut cut = GIT.map(|address| connect(address, 9000));
    // The same policy: both stay.
    world.enforce(&[
        "--allow",
        "api.example.org:9000",
        "--allow",
        "git.example.org:9000",
    ]);
    for stream in kept.iter_mut().chain(&mut cut) {
        talk(stream).expect("still allowed");
    }
    world.enforce(&["--allow", "api.example.org:9000"]);
    for stream in &mut kept {
        talk(stream).expect("allowed by both policies");
    }
    let ((), frames) = world.arrived(|| {
        for stream in &mut cut {
            talk(stream).expect_err("only the old policy allowed it");
        }
    });
    none_to(&frames, GIT);
}

/// What is sent while a second start is at work waits, and goes on when that is over.
fn the_lock_of_a_rerun_resets_nothing() {
    let world = World::with_zone(zone().on("silent.example.org", Behaviour::Drop));
    let list = ["--allow", "api.example.org:9000"];
    world.enforce(&list);
    let mut kept = API.map(|address| connect(address, 9000));
    let asked = world.queries().len();
    let rerun = world
        .egress()
        .args(user_options())
        .args(list)
        .args(["--allow", "silent.example.org", "--on-unresolved", "skip"])
        .args(["--resolve-timeout", "1s"])
        .command(&["/bin/true"])
        .start();
    while world.queries().len() == asked {
        thread::sleep(Duration::from_millis(5));
    }
    let ((), frames) = world.arrived(|| {
        for stream in &mut kept {
            stream.write_all(b"still there?").expect("no reset");
        }
        thread::sleep(Duration::from_millis(100));
    });
    none_to(&frames, API);
    rerun.finish().exits(0);
    for stream in &mut kept {
        // TCP sends it again by itself.
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.read_exact(&mut [0; 12]).expect("the echo, late");
    }
}

/// It is the inside that talks first after the second start.
fn a_rerun_keeps_what_was_invited() {
    let world = World::new();
    let inbound = ["--inbound", "8080", "--allow"];
    let listeners = INSIDE.map(|address| TcpListener::bind((address, 8080)).unwrap());
    world.enforce(&[&inbound[..], &["api.example.org"]].concat());
    let steps = INSIDE.map(|address| Step::Hold(SocketAddr::new(address, 8080)));
    let accepting: Vec<_> = listeners
        .map(|listener| thread::spawn(move || listener.accept().unwrap().0))
        .into();
    assert_eq!(results(&world.outside.probe(&steps)), ["ok"; 2]);
    let mut streams: Vec<_> = accepting
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    for stream in &mut streams {
        stream
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        talk(stream).expect("the far end echoes");
    }
    world.enforce(&[&inbound[..], &["git.example.org"]].concat());
    for stream in &mut streams {
        talk(stream).expect("invited by both policies");
    }
    world.enforce(&["--allow", "git.example.org"]);
    for stream in &mut streams {
        talk(stream).expect_err("no longer invited");
    }
}

/// An echo server for TCP and UDP on every address of the inside.
fn serve(port: u16) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

fn inward(port: u16) -> Vec<Step> {
    let to = INSIDE.map(|address| SocketAddr::new(address, port));
    [to.map(Step::Tcp), to.map(Step::Udp)].concat()
}

fn results(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes
        .iter()
        .map(|outcome| outcome.result.as_str())
        .collect()
}

fn nothing_comes_in_uninvited() {
    let world = World::new();
    serve(8080);
    let attempts = [inward(8080), INSIDE.map(Step::Ping).to_vec()].concat();
    assert_eq!(results(&world.outside.probe(&attempts)), ["ok"; 6]);
    world.enforce(&["--allow", "api.example.org"]);
    assert_eq!(results(&world.outside.probe(&attempts)), ["timeout"; 6]);
}

fn an_invited_service_is_reached_and_answers() {
    let world = World::new();
    serve(8080);
    serve(8081);
    assert_eq!(results(&world.outside.probe(&inward(8081))), ["ok"; 4]);
    world.enforce(&["--allow", "api.example.org", "--inbound", "8080"]);
    let tcp_only = ["ok", "ok", "timeout", "timeout"];
    assert_eq!(results(&world.outside.probe(&inward(8080))), tcp_only);
    assert_eq!(results(&world.outside.probe(&inward(8081))), ["timeout"; 4]);
    world.enforce(&["--allow", "api.example.org", "--inbound", "8081/udp"]);
    let udp_only = ["timeout", "timeout", "ok", "ok"];
    assert_eq!(results(&world.outside.probe(&inward(8081))), udp_only);
    // An open door lets nothing out.
    rejects(&ELSEWHERE.map(|address| Step::Tcp((address, 9000).into())));
}

fn an_invitation_can_be_for_some() {
    let world = World::new();
    serve(8080);
    let attempts = inward(8080);
    assert_eq!(results(&world.outside.probe(&attempts)), ["ok"; 4]);
    world.enforce(&[
        "--allow",
        "api.example.org",
        "--inbound",
        "8080/any@10.77.0.0/24",
    ]);
    let outcomes = world.outside.probe(&attempts);
    assert_eq!(results(&outcomes), ["ok", "timeout", "ok", "timeout"]);
    world.enforce(&[
        "--allow",
        "api.example.org",
        "--inbound",
        "8080/any@10.99.0.0/16",
    ]);
    assert_eq!(results(&world.outside.probe(&attempts)), ["timeout"; 4]);
}

/// The reverse of a shell: somebody outside holds a connection to the inside when the lock falls.
fn a_connection_from_outside_from_before_the_lock_gets_cut() {
    let world = World::new();
    let listener = TcpListener::bind("10.77.0.2:8080").unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(listener.accept().unwrap().0));
    let outcomes = world.outside.probe(&[Step::Hold(at("10.77.0.2", 8080))]);
    assert_eq!(results(&outcomes), ["ok"]);
    let mut stream = receiver.recv().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    talk(&mut stream).expect("the far end echoes");
    world.enforce(&["--allow", "api.example.org"]);
    let (_, frames) = world.arrived(|| talk(&mut stream).expect_err("older than the lock"));
    let strays: Vec<_> = frames
        .iter()
        .filter(|frame| frame.ports.is_some_and(|(from, _)| from == 8080))
        .collect();
    assert!(strays.is_empty(), "{strays:#?}");
}

/// IPv6 lets an unprivileged process take any source (`IPV6_FREEBIND`): a stranger's, to ask an
/// allowed host, and then the host's, to answer the stranger.
fn an_answer_in_an_allowed_hosts_name_reaches_no_stranger() {
    let world = World::new();
    let stranger = SocketAddr::new(ELSEWHERE[1], 4040);
    let host = SocketAddr::new(API[1], 123);
    let steps = [Step::Forged(stranger, host), Step::Forged(host, stranger)];
    let to_stranger = |frames: Vec<Frame>| frames.iter().any(|frame| frame.to(ELSEWHERE[1]));
    let (outcomes, frames) = world.arrived(|| steps.each_ref().map(Step::run));
    assert_eq!(results(&outcomes), ["ok"; 2], "control");
    assert!(to_stranger(frames), "control");
    let options = ["--allow", "api.example.org:123/udp"];
    let (outcomes, frames) = world.arrived(|| world.behind(&options, &steps));
    assert!(outcomes[0].is_ok(), "to the allowed host");
    assert!(!to_stranger(frames), "{outcomes:#?}");
}

/// The same where a service is invited: the stranger seems to come in, over loopback.
fn a_strangers_visit_over_loopback_is_not_answered() {
    let world = World::new();
    let stranger = SocketAddr::new(ELSEWHERE[1], 4041);
    let door = SocketAddr::new(INSIDE[1], 8080);
    let steps = [Step::Forged(stranger, door), Step::Forged(door, stranger)];
    let to_stranger = |frames: Vec<Frame>| frames.iter().any(|frame| frame.to(ELSEWHERE[1]));
    let (outcomes, frames) = world.arrived(|| steps.each_ref().map(Step::run));
    assert_eq!(results(&outcomes), ["ok"; 2], "control");
    assert!(to_stranger(frames), "control");
    let options = ["--allow", "api.example.org", "--inbound", "8080/any"];
    let (outcomes, frames) = world.arrived(|| world.behind(&options, &steps));
    assert!(outcomes[0].is_ok(), "over loopback");
    assert!(!to_stranger(frames), "{outcomes:#?}");
}

fn nothing_is_forwarded() {
    let world = World::new();
    let mut guest = Run::new("unshare").args(["--net", "sleep", "60"]).start();
    // A guest behind the inside, as a container within the container.
    thread::sleep(Duration::from_millis(50));
    let id = guest.id();
    ip_batch(&format!(
        "link add guest0 type veth peer name eth0 netns {id}
         addr add 10.88.0.1/24 dev guest0
         addr add fd88::1/64 dev guest0 nodad
         link set guest0 up"
    ));
    let target = id.to_string();
    let within = ["--target", target.as_str(), "--net"];
    Run::new("nsenter")
        .args(within)
        .args(["ip", "-batch", "-"])
        .run_with_input(
            "addr add 10.88.0.2/24 dev eth0\n\
             addr add fd88::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.88.0.1\n\
             route add default via fd88::1\n",
        )
        .exits(0);
    sysctl("ipv4/ip_forward", "1");
    sysctl("ipv6/conf/all/forwarding", "1");
    // IPv6 neighbours take a moment to find each other.
    thread::sleep(Duration::from_millis(1200));
    let steps = [
        Step::Udp((API[0], 443).into()),
        Step::Udp((API[1], 443).into()),
        Step::Udp((ELSEWHERE[0], 9000).into()),
        Step::Udp((ELSEWHERE[1], 9000).into()),
    ];
    let from_guest = || {
        Run::new("nsenter")
            .args(within)
            .arg(PROBE)
            .args(["__probe", &serde_json::to_string(&steps).unwrap()])
            .outcomes()
    };
    assert_eq!(results(&from_guest()), ["ok"; 4]);
    world.enforce(&["--allow", "api.example.org:443/udp"]);
    let (outcomes, frames) = world.arrived(from_guest);
    assert_eq!(results(&outcomes), ["timeout"; 4]);
    none_to(&frames, API);
    none_to(&frames, ELSEWHERE);
    assert!(guest.is_running(), "the guest is to live until here");
}

/// Sends numbered datagrams to [`ELSEWHERE`] without a pause, in both families, and notes the
/// first that was refused.
struct Sender {
    stop: Arc<AtomicBool>,
    refused: [Arc<AtomicU64>; 2],
    threads: Vec<thread::JoinHandle<()>>,
}

impl Sender {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let refused = [(); 2].map(|()| Arc::new(AtomicU64::new(u64::MAX)));
        let threads = ELSEWHERE
            .into_iter()
            .zip(&refused)
            .map(|(address, refused)| {
                let (stop, refused) = (Arc::clone(&stop), Arc::clone(refused));
                thread::spawn(move || {
                    let any = if address.is_ipv4() {
                        "0.0.0.0:0"
                    } else {
                        "[::]:0"
                    };
                    // Not 9000: an echo for each would crowd the link.
                    let to = SocketAddr::new(address, 7);
                    for number in 1.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        // A socket each, so that an ICMP answer to one is not the next one's error.
                        let socket = UdpSocket::bind(any).unwrap();
                        let sent = socket.send_to(&u64::to_be_bytes(number), to);
                        if sent.is_err() {
                            refused.fetch_min(number, Ordering::SeqCst);
                        }
                        thread::sleep(Duration::from_micros(60));
                    }
                })
            })
            .collect();
        Self {
            stop,
            refused,
            threads,
        }
    }

    /// The number of the first datagram that was refused, each family.
    fn first_refused(&self) -> [u64; 2] {
        [0, 1].map(|family| self.refused[family].load(Ordering::SeqCst))
    }

    fn stop(self) -> [u64; 2] {
        self.stop.store(true, Ordering::SeqCst);
        let refused = self.first_refused();
        for thread in self.threads {
            thread.join().unwrap();
        }
        refused
    }
}

/// The numbers of those that arrived.
fn numbers(frames: &[Frame], family: usize) -> Vec<u64> {
    frames
        .iter()
        .filter(|frame| frame.to_port(SocketAddr::new(ELSEWHERE[family], 7)))
        .filter_map(|frame| frame.sequence)
        .collect()
}

/// I1, I2: once a datagram was refused, no later one leaves, whatever the start still does.
fn a_start_closes_once_and_for_all() {
    let world = World::new();
    for _ in 0..3 {
        let (refused, frames) = world.arrived(|| {
            let sender = Sender::start();
            thread::sleep(Duration::from_millis(20));
            world.enforce(&["--allow", "api.example.org"]);
            thread::sleep(Duration::from_millis(20));
            sender.stop()
        });
        for (family, refused) in refused.into_iter().enumerate() {
            let arrived = numbers(&frames, family);
            assert!(!arrived.is_empty(), "control: it was open before");
            assert_ne!(refused, u64::MAX, "the lock came");
            let late: Vec<_> = arrived.iter().filter(|number| **number > refused).collect();
            assert!(late.is_empty(), "{refused} was refused, yet {late:?} left");
        }
        crate::support::world::nft("delete table inet egress_init");
    }
}

/// I2: neither a re-run with the same policy, nor with another, nor one that fails opens anything.
fn a_rerun_leaves_no_window() {
    let world = World::new();
    reaches(&ELSEWHERE.map(|address| Step::Tcp((address, 9000).into())));
    world.enforce(&["--allow", "api.example.org"]);
    let ((), frames) = world.arrived(|| {
        let sender = Sender::start();
        for list in ["api.example.org", "git.example.org", "api.example.org"] {
            world.enforce(&["--allow", list]);
            world.fails(
                &["--allow", "missing.example.org"],
                &["missing.example.org"],
            );
            world.fails(&["--allow", "not a name:"], &["--allow:1:"]);
        }
        world.enforce(&["--allow", "api.example.org"]);
        assert_eq!(sender.stop(), [1, 1], "refused from the first on");
    });
    none_to(&frames, ELSEWHERE);
    assert!(std::path::Path::new(SENTINEL).exists());
}
