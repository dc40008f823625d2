//! A network that is not the container's is not locked, unless that is asked for.
//!
//! The host's own network cannot be locked by a test. There the binary runs without `NET_ADMIN`,
//! so that all it could do wrong is to say another sentence than it should: see
//! `tests/host_network.rs`. Here is the other half: hosts that are containers themselves.

use std::{fs, path::Path};

use crate::{
    cases,
    support::{
        probe::Step,
        world::{API, SENTINEL, World, ip_batch, reaches, rejects, table, user_options},
    },
};

cases!(host_network:
    a_network_with_a_bridge_is_not_locked,
    apply_refuses_it_too,
    it_can_be_locked_on_demand,
);

const ALLOW: [&str; 2] = ["--allow", "git.example.org"];

fn world_with_a_bridge() -> World {
    let world = World::new();
    ip_batch("link add docker0 type bridge");
    fs::write(SENTINEL, "left by an earlier start").unwrap();
    world
}

fn is_open() {
    assert_eq!(table("egress_init"), None, "nothing was installed");
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
    assert!(!Path::new(SENTINEL).exists(), "a stale sentinel goes first");
}

fn a_network_with_a_bridge_is_not_locked() {
    let world = world_with_a_bridge();
    world.fails(&ALLOW, &["the bridge docker0", "--allow-host-network"]);
    is_open();
    ip_batch("link delete docker0");
    world.enforce(&ALLOW);
}

fn apply_refuses_it_too() {
    let world = world_with_a_bridge();
    world
        .egress()
        .arg("apply")
        .args(ALLOW)
        .run()
        .exits(125)
        .says(&["the bridge docker0", "--allow-host-network"]);
    is_open();
    // What locks nothing does not mind.
    world.egress().arg("plan").args(ALLOW).run().exits(0);
}

fn it_can_be_locked_on_demand() {
    let world = world_with_a_bridge();
    world
        .egress()
        .args(user_options())
        .args(ALLOW)
        .arg("--allow-host-network")
        .command(&["/bin/true"])
        .run()
        .exits(0);
    rejects(&API.map(|address| Step::Tcp((address, 443).into())));
}
