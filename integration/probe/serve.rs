//! The other side: echoes, and prints `arrived PROTOCOL PORT from ADDRESS`, and for UDP what.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

/// Serves TCP and UDP on a port of all addresses, in the background.
pub fn listen(port: u16) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(from) = stream.peer_addr() {
                println!("arrived tcp {port} from {}", plain(from));
            }
            thread::spawn(move || echo(stream));
        }
    });
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            println!(
                "arrived udp {port} from {} {}",
                plain(from),
                text.trim_end().escape_debug()
            );
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// Without the port, and IPv4 as such.
pub fn plain(from: SocketAddr) -> String {
    from.ip().to_canonical().to_string()
}

fn echo(mut stream: TcpStream) {
    let mut octet = [0];
    while stream.read_exact(&mut octet).is_ok() && stream.write_all(&octet).is_ok() {}
}
