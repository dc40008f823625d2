//! The ground that the other cases stand on: the world reaches and is reached, and its judge sees
//! both what arrives and what does not.

use crate::{
    cases,
    support::{
        outside::at,
        probe::Step,
        world::{API, DNS, ELSEWHERE, FOREIGN_DNS, INSIDE, World, nft, reaches, rejects},
    },
};

cases!(ground: everything_is_reached_without_a_firewall, the_capture_sees_what_arrives, rejects_are_told_from_drops);

fn everything_is_reached_without_a_firewall() {
    let _world = World::new();
    for family in 0..2 {
        reaches(&[
            Step::Tcp((API[family], 443).into()),
            Step::Tcp((ELSEWHERE[family], 9000).into()),
            Step::Udp((API[family], 443).into()),
            Step::Ping(API[family]),
            Step::Dns(DNS[family], "api.example.org".into()),
            Step::DnsTcp(DNS[family], "api.example.org".into()),
            Step::Dns(FOREIGN_DNS[family], "secret.tunnel.example.net".into()),
            Step::DnsTcp(FOREIGN_DNS[family], "secret.tunnel.example.net".into()),
            Step::Lookup("api.example.org".into()),
            Step::Raw(API[family], 47),
        ]);
    }
    let lookup = Step::Lookup("api.example.org".into()).run();
    assert_eq!(lookup.detail, serde_json::json!(API));
}

fn the_capture_sees_what_arrives() {
    let world = World::new();
    let (first, end) = (at("2001:db8::10", 443), "2001:db8::1166".parse().unwrap());
    let ((), frames) = world.arrived(|| {
        reaches(&[
            Step::Udp((API[0], 9000).into()),
            Step::RoutingHeader { first, end },
            Step::SourceRoute {
                first: at("198.51.100.10", 443),
                end: "203.0.113.66".parse().unwrap(),
            },
            Step::Ping(API[1]),
        ]);
    });
    let frames: Vec<_> = frames
        .iter()
        .filter(|frame| !frame.is_neighbour_talk())
        .collect();
    assert_eq!(frames.len(), 4, "{frames:#?}");
    assert!(frames[0].to_port((API[0], 9000).into()));
    assert_eq!(frames[0].addresses.unwrap().0, INSIDE[0]);
    assert!(frames[1].to_port(first) && frames[1].source_routed);
    assert!(frames[2].to(API[0]) && frames[2].source_routed);
    assert_eq!((frames[3].to(API[1]), frames[3].icmp), (true, Some(128)));

    nft("table inet closed { chain out { type filter hook output priority 0; policy drop; }; }");
    let (outcomes, frames) = world.arrived(|| {
        [
            Step::Tcp((API[0], 443).into()).run(),
            Step::Udp((API[1], 9000).into()).run(),
        ]
    });
    assert_eq!(outcomes[0].result, "timeout");
    assert_eq!(outcomes[1].result, "EPERM");
    assert_eq!(frames, []);
}

/// What `rejects` demands is what the kernel does with rejects of the right kind.
fn rejects_are_told_from_drops() {
    let world = World::new();
    nft("table inet closed { chain out {
        type filter hook output priority 0; policy drop;
        oif lo accept
        meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        meta l4proto tcp reject with tcp reset
        reject with icmpx admin-prohibited
    }; }");
    world.is_locked();
    for address in API {
        rejects(&[
            Step::Ping(address),
            Step::Raw(address, 47),
            Step::Udp((address, 443).into()),
        ]);
    }
}
