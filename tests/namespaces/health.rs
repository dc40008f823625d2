//! `check` as a health check: the rules are live, and the command's own port accepts connections.

use std::net::TcpListener;

use serde_json::Value;

use crate::{
    cases,
    support::world::{BINARY, Ran, Run, World, nft},
};

cases!(health:
    an_open_port_is_healthy_in_either_family,
    a_closed_port_is_not,
    no_bypass_is_about_the_port,
    a_command_has_no_port_yet,
);

fn check(options: &[&str]) -> Ran {
    Run::new(BINARY).arg("check").args(options).run()
}

fn enforced() -> World {
    let world = World::new();
    world.enforce(&["--allow", "192.0.2.7"]);
    world
}

fn an_open_port_is_healthy_in_either_family() {
    let _world = enforced();
    for address in ["127.0.0.1:8001", "[::1]:8001", "0.0.0.0:8001", "[::]:8001"] {
        check(&["--tcp", "8001"]).exits(1);
        let listener = TcpListener::bind(address).unwrap();
        check(&["--tcp", "8001"]).exits(0);
        drop(listener);
    }
}

fn a_closed_port_is_not() {
    let _world = enforced();
    check(&[]).exits(0);
    let ran = check(&["--tcp", "8001"])
        .exits(1)
        .says(&["port 8001 accepts no connection"]);
    assert!(ran.elapsed.as_millis() < 1500, "{ran}");
    let json = check(&["--json", "--tcp", "8001"]).exits(1);
    let answer: Value = serde_json::from_str(&json.stdout()).unwrap();
    assert_eq!(answer["ok"], false);
    assert!(
        answer["reason"].as_str().unwrap().contains("port 8001"),
        "{answer}"
    );
    assert!(answer["sentinel"].is_object(), "{answer}");
    assert_eq!(answer.as_object().unwrap().len(), 3, "{answer}");
    // An open port does not make up for a firewall that is gone.
    let _listener = TcpListener::bind("127.0.0.1:8001").unwrap();
    check(&["--tcp", "8001"]).exits(0);
    nft("flush table inet egress_init");
    check(&["--tcp", "8001"]).exits(1).says(&["not live"]);
}

fn no_bypass_is_about_the_port() {
    let _world = World::new();
    let bypassed = |options: &[&str]| {
        Run::new(BINARY)
            .arg("check")
            .env("BEACON_ALLOW_UNSAFE_NO_FIREWALL", "1")
            .args(options)
            .run()
    };
    bypassed(&[]).exits(0);
    bypassed(&["--tcp", "8001"]).exits(1).says(&["port 8001"]);
    let _listener = TcpListener::bind("127.0.0.1:8001").unwrap();
    bypassed(&["--tcp", "8001"]).exits(0);
}

fn a_command_has_no_port_yet() {
    let _world = enforced();
    check(&["--tcp", "8001", "--", "/bin/true"]).exits(2);
    check(&["--tcp", "0"]).exits(2);
}
