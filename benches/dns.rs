//! Answers a second and latency of the DNS proxy, side by side with dnsmasq: the same names, the
//! same upstream, the same load, in turns. Both answer from their cache.
//!
//! The load comes from the same machine: with two cores, the generator takes one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    cell::RefCell,
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use egress_init::{
    allowlist::Name,
    proxy::{Gate, Limits, Listeners, NotAdmitted, Proxy, Verdict},
    resolve::nameservers::{ResolvConf, Upstreams},
};
use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name as DnsName, RecordType},
};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use support::dns::{DnsServer, ZoneSpec};

const NAMES: u16 = 1000;
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;

/// Queries that are under way at once, where throughput is measured.
const WINDOW: usize = 64;

/// Allows everything and takes everything: the cost of the policy and of the kernel's sets is not
/// in an answer from the cache, here and in dnsmasq.
struct Open;

impl Gate for Open {
    fn verdict(&self, _: &Name) -> Verdict {
        Verdict::Allowed { wildcard: None }
    }

    fn admit(
        &mut self,
        _: &Name,
        addresses: &[IpAddr],
        _: Duration,
    ) -> Result<Vec<IpAddr>, NotAdmitted> {
        Ok(addresses.to_vec())
    }

    fn known(&self, _: &Name) -> Option<&[IpAddr]> {
        None
    }

    fn name_of(&self, _: IpAddr) -> Option<Name> {
        None
    }
}

fn main() {
    let mut zone = ZoneSpec::new();
    for i in 0..NAMES {
        let [high, low] = i.to_be_bytes();
        let name = name(i);
        zone = zone.addresses(&name, &[&format!("198.51.{high}.{low}")]);
        zone = zone.ttl(&name, 3600);
    }
    let upstream = DnsServer::start(zone, &["127.0.0.1:0".parse().unwrap()]).unwrap();
    let rival = dnsmasq(upstream.addresses()[0]);
    let servers = [
        ("egress-init", proxy(upstream.addresses()[0])),
        ("dnsmasq", rival.1),
    ];
    let queries: Vec<_> = (0..NAMES).map(query).collect();
    for (_, server) in &servers {
        // Into the cache; and again, for what was lost.
        load(*server, &queries, 8, Duration::from_secs(1));
    }
    let asked = upstream.queries().len();
    let mut rates = [Vec::new(), Vec::new()];
    let mut latencies = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (index, (_, server)) in servers.iter().enumerate() {
            rates[index].push(load(*server, &queries, WINDOW, ROUND).0);
            latencies[index].extend(load(*server, &queries, 1, ROUND / 2).1);
        }
    }
    assert_eq!(
        upstream.queries().len(),
        asked,
        "all of it came from the caches"
    );
    for (index, (who, _)) in servers.iter().enumerate() {
        rates[index].sort_unstable();
        latencies[index].sort_unstable();
        let at = |percent: usize| {
            let list = &latencies[index];
            list[(list.len() - 1) * percent / 100].as_secs_f64() * 1e6
        };
        println!(
            "{:<58} {:>10} /s   p50 {:.1} us, p99 {:.1} us",
            format!("DNS answers from the cache, {who}"),
            rates[index][ROUNDS / 2],
            at(50),
            at(99),
        );
    }
}

fn name(i: u16) -> String {
    format!("name{i}.bench.example.org")
}

fn query(i: u16) -> Vec<u8> {
    let mut message = Message::new(i, MessageType::Query, OpCode::Query);
    let name = DnsName::from_ascii(format!("{}.", name(i))).unwrap();
    message.add_query(Query::query(name, RecordType::A));
    message.metadata.recursion_desired = true;
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

/// The proxy in a thread of its own; it ends with the process.
fn proxy(upstream: SocketAddr) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
            sender.send(listeners.addresses().unwrap()[0]).unwrap();
            let upstreams = Upstreams::new(ResolvConf::parse(b""), &[upstream]);
            let gate = RefCell::new(Open);
            let limits = Limits::default();
            let proxy = Proxy::new(listeners, upstreams, limits, Duration::from_secs(5), &gate);
            proxy.serve().await
        });
    });
    receiver.recv().unwrap()
}

/// A child that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dnsmasq(upstream: SocketAddr) -> (Running, SocketAddr) {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let child = Command::new("/usr/sbin/dnsmasq")
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ])
        .args([
            "--pid-file=",
            "--user=root",
            "--bind-interfaces",
            "--cache-size=10000",
        ])
        .arg(format!("--listen-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .arg(format!("--server={}#{}", upstream.ip(), upstream.port()))
        .stderr(Stdio::null())
        .spawn()
        .expect("dnsmasq of Debian's dnsmasq-base");
    thread::sleep(Duration::from_millis(500));
    (Running(child), address)
}

/// Keeps so many queries under way; answers a second, and where it is one at a time, how long each
/// took. What is lost is made up for after a pause.
fn load(
    server: SocketAddr,
    queries: &[Vec<u8>],
    window: usize,
    time: Duration,
) -> (u64, Vec<Duration>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut buffers = vec![vec![0; 512]; window];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(window, None);
    let mut outgoing = MultiHeaders::<SockaddrStorage>::preallocate(window, None);
    let mut latencies = Vec::new();
    let mut next = queries.iter().cycle();
    let mut free = window;
    let mut answers = 0_u64;
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        let batch: Vec<_> = next
            .by_ref()
            .take(free)
            .map(|query| [IoSlice::new(query)])
            .collect();
        let targets = vec![None; batch.len()];
        let flags = MsgFlags::empty();
        let fd = socket.as_raw_fd();
        let _ = sendmmsg(fd, &mut outgoing, &batch, &targets, [], flags).unwrap();
        let mut slices: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None);
        free = match received {
            Ok(received) => received.count(),
            Err(_) => window,
        };
        answers += free as u64;
        if window == 1 {
            latencies.push(sent.elapsed());
        }
    }
    let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap();
    (answers * 1000 / elapsed, latencies)
}
