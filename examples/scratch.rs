#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
use egress_init::{nft::Nftables, policy::{Element, Policy}, ruleset::{self, Nameservers}, service::*};
fn el(n: &str, p: Protocol, a: u16, b: u16) -> Element { Element { network: n.parse().unwrap(), service: Service { protocol: p, ports: PortRange::new(a,b).unwrap() } } }
fn main() {
    let n: u32 = std::env::args().nth(1).map(|s| s.parse().unwrap()).unwrap_or(0);
    let ns = Nameservers { servers: vec!["10.0.0.2:53".parse().unwrap(), "[2001:db8::53]:5353".parse().unwrap()], unknown: true };
    let mut p = Policy::default();
    p.allow = vec![el("192.0.2.7/32", Protocol::Tcp, 443, 443), el("192.0.2.7/32", Protocol::Tcp, 80, 80), el("10.0.0.0/8", Protocol::Tcp, 80, 443), el("192.0.2.9/32", Protocol::Udp, 0, 65535), el("2001:db8::1/128", Protocol::Tcp, 443,443), el("2001:db8:1::/48", Protocol::Tcp, 443,443)];
    for i in 0..n { let a = (11u32<<24) + i*512; let a = std::net::Ipv4Addr::from(a); p.allow.push(el(&format!("{a}/24"), Protocol::Tcp, 443, 443)); }
    p.deny = vec![el("10.1.0.0/16", Protocol::Tcp, 0, 65535)];
    p.inbound = vec![el("0.0.0.0/0", Protocol::Tcp, 8001, 8001), el("::/0", Protocol::Tcp, 8001, 8001)];
    let mut k = Nftables::open().unwrap();
    let t = std::time::Instant::now();
    let lock = ruleset::locked(None);
    k.replace(&lock).unwrap_or_else(|e| panic!("{e}: {:?} {:?}", std::error::Error::source(&e), e.remedy())); eprintln!("lock {:?}", t.elapsed());
    k.verify(&lock).unwrap(); eprintln!("verified {:?}", t.elapsed());
    check(&lock);
    let t = std::time::Instant::now();
    let hole = ruleset::locked(Some((&ns, &[0])));
    k.transition(&lock, &hole).unwrap_or_else(|e| panic!("{e}: {:?} {:?}", std::error::Error::source(&e), e.remedy())); eprintln!("hole {:?}", t.elapsed());
    k.verify(&hole).unwrap(); check(&hole);
    let t = std::time::Instant::now();
    let e = ruleset::enforced(&p, None); eprintln!("built {:?}", t.elapsed());
    k.transition(&hole, &e).unwrap_or_else(|e| panic!("{e}: {:?} {:?}", std::error::Error::source(&e), e.remedy())); eprintln!("enforced {:?}", t.elapsed());
    k.verify(&e).unwrap(); eprintln!("verified {:?}", t.elapsed());
    if n == 0 { check(&e); println!("{e}"); println!("{}", e.digest()); }
    let sys = ruleset::enforced(&p, Some(&ns));
    k.replace(&sys).unwrap(); k.verify(&sys).unwrap(); if n == 0 { check(&sys); }
}
fn check(r: &ruleset::Ruleset) {
    let out = std::process::Command::new("nft").args(["-s","-t","list","table","inet","egress_init"]).output().unwrap();
    let listed = String::from_utf8(out.stdout).unwrap();
    let ours = r.structure().to_string();
    if listed != ours { std::fs::write("/tmp/listed", &listed).unwrap(); std::fs::write("/tmp/ours", &ours).unwrap(); let _ = std::process::Command::new("diff").args(["/tmp/ours","/tmp/listed"]).status(); }
}
