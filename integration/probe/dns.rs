//! A DNS server with a zone from its arguments, and a question to ask one.
//!
//! `NAME=ADDRESS[,ADDRESS]...` are A and AAAA records; every other name gets NXDOMAIN. With the
//! argument `silent` it answers nobody. It prints `asked PROTOCOL NAME TYPE from ADDRESS` for each
//! question, before it answers, and echoes TCP, which is enough to see whether it can be reached.

use crate::serve;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket},
    thread,
};

const A: u16 = 1;
const AAAA: u16 = 28;
const NXDOMAIN: u8 = 3;

pub fn serve(arguments: impl Iterator<Item = String>) -> ! {
    let mut zone = HashMap::new();
    let mut silent = false;
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, addresses)) => {
                let addresses: Vec<IpAddr> = addresses
                    .split(',')
                    .map(|address| address.parse().expect("an address"))
                    .collect();
                zone.insert(name.to_owned(), addresses);
            }
            None if argument == "silent" => silent = true,
            None => panic!("{argument} is no NAME=ADDRESS"),
        }
    }
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 53)).expect("port 53");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(from) = stream.peer_addr() {
                println!("arrived tcp 53 from {}", serve::plain(from));
            }
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)).expect("port 53");
    println!("serving");
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let from_address = serve::plain(from);
        let Some((name, kind, end)) = asked(&buffer[..length]) else {
            let text = String::from_utf8_lossy(&buffer[..length]);
            println!(
                "arrived udp 53 from {from_address} {}",
                text.trim_end().escape_debug()
            );
            continue;
        };
        let type_name = match kind {
            A => "A".to_owned(),
            AAAA => "AAAA".to_owned(),
            other => other.to_string(),
        };
        println!("asked udp {name} {type_name} from {from_address}");
        if !silent {
            let answer = answer(&buffer[..end], kind, zone.get(&name).map(Vec::as_slice));
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The name in lower case, the type, and where the question ends (RFC 1035, 4.1).
fn asked(message: &[u8]) -> Option<(String, u16, usize)> {
    let is_query = message.get(2)? & 0x80 == 0 && message.get(4..6)? == [0, 1];
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_lowercase());
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    (is_query && message.len() >= at + 4).then(|| (labels.join("."), kind, at + 4))
}

fn answer(question: &[u8], kind: u16, addresses: Option<&[IpAddr]>) -> Vec<u8> {
    let records: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut message = question.to_vec();
    message[2] = 0x80 | message[2] & 0x01; // an answer, recursion desired as asked
    message[3] = 0x80 | if addresses.is_none() { NXDOMAIN } else { 0 }; // recursion available
    message[6..12].copy_from_slice(&[0, records.len() as u8, 0, 0, 0, 0]);
    for record in records {
        message.extend([0xc0, 12]); // the name of the question
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 60, 0, record.len() as u8]);
        message.extend(record);
    }
    message
}

/// A question for the A records of a name.
pub fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// How many records an answer brought, or its response code.
pub fn verdict(answer: &[u8]) -> io::Result<String> {
    match answer {
        [_, _, _, flags, _, _, _, records, ..] if flags & 0x0f == 0 => {
            Ok(format!("{records} records"))
        }
        [_, _, _, flags, ..] => Ok(format!("response code {}", flags & 0x0f)),
        _ => Err(io::Error::other("no answer to a question")),
    }
}
