//! The nameservers on loopback that an adversary may find in a container, and its nat rules.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use crate::{
    attempts::{SHARED, serve},
    sniffer::forwarded,
    support::world::{API, nft},
};

/// Of a start that asks the nameserver of [`nameserver`], and soon again.
pub const ASKS_IT: [&[&str]; 2] = [
    &[
        "--dns-upstream=127.0.0.1:5300",
        "--dns-min-ttl=1s",
        "--dns-grace=1s",
    ],
    &[
        "--dns-upstream=[::1]:5300",
        "--dns-min-ttl=1s",
        "--dns-grace=1s",
    ],
];

/// A nameserver of root's on loopback, once for each family.
pub fn nameserver(any: IpAddr) {
    static THERE: [std::sync::Once; 2] = [const { std::sync::Once::new() }; 2];
    let loopback: IpAddr = if any.is_ipv4() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        Ipv6Addr::LOCALHOST.into()
    };
    THERE[usize::from(any.is_ipv6())].call_once(|| {
        let socket = shared_port((loopback, SHARED).into());
        thread::spawn(move || serve(&socket, API));
    });
}

/// Resolvers on loopback that forward from elsewhere, as Docker's and others do: whatever
/// reaches one is seen outside.
pub fn resolvers(on_port_53: bool) {
    for address in [
        "127.0.0.1:53",
        "[::1]:53",
        "127.0.0.53:53",
        "10.77.0.2:53",
        "[fd77::2]:53",
        "127.0.0.11:4053",
    ] {
        let address: SocketAddr = address.parse().unwrap();
        // Where egress-init is the resolver, it needs the port.
        if address.port() == 53 && !on_port_53 {
            continue;
        }
        let socket = shared_port(address);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(length) = socket.recv(&mut buffer) {
                forwarded(&buffer[..length]);
            }
        });
        let listener = shared_listener(address);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut buffer = [0; 2048];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        forwarded(&buffer[..length]);
                    }
                });
            }
        });
    }
    docker_rules();
}

/// A UDP socket whose port others may have too, at the same address or at other ones.
fn shared_port(address: SocketAddr) -> UdpSocket {
    shared(address, false).into()
}

/// A TCP socket that listens, and beside which others of its user may.
fn shared_listener(address: SocketAddr) -> TcpListener {
    use nix::sys::socket::{Backlog, listen};
    let socket = shared(address, true);
    listen(&socket, Backlog::new(128).unwrap()).expect("the port is free");
    socket.into()
}

fn shared(address: SocketAddr, is_stream: bool) -> OwnedFd {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
    };
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = if is_stream {
        SockType::Stream
    } else {
        SockType::Datagram
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    if is_stream {
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("the port is free");
    socket
}

/// Docker's nat rules for its resolver, as they are in the namespace of a container.
pub fn docker_rules() {
    nft("add table ip docker_like
         delete table ip docker_like
         table ip docker_like {
             chain output {
                 type nat hook output priority -100; policy accept;
                 ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:4053
                 ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:4053
             }
             chain postrouting {
                 type nat hook postrouting priority 100; policy accept;
                 ip saddr 127.0.0.11 tcp sport 4053 snat to 127.0.0.11:53
                 ip saddr 127.0.0.11 udp sport 4053 snat to 127.0.0.11:53
             }
         }");
}
