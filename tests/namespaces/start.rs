//! The start itself: what comes first, what is left when it fails or is killed, who may start
//! when (I1, I3, I5, I8, I9), and that it says why.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use egress_init::{
    nft::{NftError, Nftables},
    policy::{Element, Policy},
    service::{PortRange, Protocol, Service},
};

use crate::{
    cases,
    support::{
        dns::Behaviour,
        harness::has_second_uid,
        probe::Step,
        world::{
            ALLOWLIST, API, BINARY, DNS, ELSEWHERE, PROBE, Run, SENTINEL, World, allowlist, file,
            forget, nft, reaches, rejects, table, user_options, zone,
        },
    },
};

cases!(start:
    a_good_start_says_one_line,
    a_good_start_can_say_it_in_json,
    every_mistake_of_a_list_is_named_with_its_place,
    mistakes_of_options_and_variables_name_their_source,
    sources_replace_each_other_in_order,
    without_any_source_one_name_is_the_list,
    an_empty_source_is_an_error,
    bad_lists_and_options_leave_the_lock,
    garbage_is_answered_at_once,
    the_lock_is_first,
    sigterm_ends_a_start_at_once,
    sigint_ends_a_start_at_once,
    killed_at_any_moment_it_leaves_no_lie,
    killed_at_any_moment_of_a_rerun_it_stays_closed,
    two_starts_take_turns,
    a_waiting_start_has_removed_the_sentinel,
    a_changed_table_is_not_taken_for_the_intended_one,
    loopback_is_brought_up,
    other_tables_are_left_alone,
    without_net_admin_it_says_what_to_do,
    wrong_usage_is_2,
    a_command_that_cannot_run_is_126_or_127,
);

fn blocked() -> Vec<Step> {
    ELSEWHERE
        .map(|address| Step::Tcp((address, 443).into()))
        .to_vec()
}

fn a_good_start_says_one_line() {
    let world = World::new();
    let ran = world.enforce(&["--allow", "api.example.org", "--allow", "192.0.2.7"]);
    let stderr = ran.stderr();
    let ready: Vec<_> = stderr
        .lines()
        .filter(|line| line.contains("firewall ready"))
        .collect();
    assert_eq!(ready.len(), 1, "{ran}");
    assert!(
        ready[0].starts_with(
            "egress-init: firewall ready: 1 name, 2 IPv4 + 1 IPv6 addresses, dns pinned, "
        ) || ready[0].starts_with(
            "egress-init: firewall ready: 1 names, 2 IPv4 + 1 IPv6 addresses, dns pinned, "
        ),
        "{ran}"
    );
    assert!(ready[0].ends_with(" ms"), "{ran}");
    if has_second_uid() {
        assert_eq!(stderr.lines().count(), 1, "nothing else to say\n{ran}");
    }
    assert_eq!(ran.stdout(), "");
}

fn a_good_start_can_say_it_in_json() {
    let world = World::new();
    let ran = world.enforce(&["--log-format", "json", "--allow", "api.example.org"]);
    let lines: Vec<serde_json::Value> = ran
        .stderr()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}\n{ran}")))
        .collect();
    assert!(!lines.is_empty());
    let quiet = world.enforce(&["--log-level", "error", "--allow", "api.example.org"]);
    assert_eq!(quiet.stderr(), "");
}

fn every_mistake_of_a_list_is_named_with_its_place() {
    let world = World::new();
    allowlist(
        "api.example.org\n  https://x.example.org/path # no\n\nexample.org:99999\n0.0.0.0/0\n",
    );
    let second = file("/etc/world/second", "fine.example.org\nbad..example.org\n");
    world.fails(
        &[
            "--allowlist",
            ALLOWLIST,
            "--allowlist",
            second.to_str().unwrap(),
            "--allow",
            "::/0",
        ],
        &[
            &format!("{ALLOWLIST}:2:"),
            &format!("{ALLOWLIST}:4:"),
            &format!("{ALLOWLIST}:5:1: "),
            "/etc/world/second:2:",
            "--allow:1:1: ",
        ],
    );
    assert_eq!(world.queries(), [], "nothing of a bad list is looked up");
    world.is_locked();
}

fn mistakes_of_options_and_variables_name_their_source() {
    let world = World::new();
    world.fails(
        &["--resolve-timeout", "soon", "--allow", "api.example.org"],
        &["--resolve-timeout", "soon"],
    );
    world.fails(
        &["--dns", "magic", "--allow", "api.example.org"],
        &["--dns", "magic"],
    );
    world.fails(
        &["--inbound", "http", "--allow", "api.example.org"],
        &["--inbound", "http"],
    );
    let with = |name: &str, value: &str, says: &[&str]| {
        world
            .egress()
            .args(user_options())
            .env(name, value)
            .command(&["/bin/true"])
            .run()
            .exits(125)
            .says(says);
    };
    with(
        "EGRESS_INIT_ALLOW",
        "api.example.org bad..name",
        &["EGRESS_INIT_ALLOW:1:"],
    );
    with(
        "OPENAI_ALLOWED_DOMAINS",
        "api.example.org\n/",
        &["OPENAI_ALLOWED_DOMAINS:2:1: "],
    );
    with(
        "EGRESS_INIT_ON_UNRESOLVED",
        "pray",
        &["EGRESS_INIT_ON_UNRESOLVED", "pray"],
    );
    with(
        "EGRESS_INIT_ALLOWLIST",
        "/etc/world/none",
        &["/etc/world/none"],
    );
    world.is_locked();
}

fn sources_replace_each_other_in_order() {
    let world = World::new();
    let asked_for = |run: Run| {
        let before = world.queries().len();
        run.args(user_options())
            .command(&["/bin/true"])
            .run()
            .exits(0);
        let mut names: Vec<_> = world.queries()[before..]
            .iter()
            .map(|query| query.name.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    allowlist("git.example.org\n");
    assert_eq!(asked_for(world.egress()), ["git.example.org"]);
    let openai = || {
        world
            .egress()
            .env("OPENAI_ALLOWED_DOMAINS", "api.example.org,www.example.org")
    };
    assert_eq!(asked_for(openai()), ["api.example.org", "www.example.org"]);
    let own = || {
        openai().env(
            "EGRESS_INIT_ALLOW",
            "git.example.org:22,443 tunnel.example.net",
        )
    };
    assert_eq!(asked_for(own()), ["git.example.org", "tunnel.example.net"]);
    assert_eq!(
        asked_for(own().args(["--allow", "api.example.org"])),
        ["api.example.org"]
    );
    let both = own().args(["--allow", "api.example.org", "--allowlist", ALLOWLIST]);
    assert_eq!(asked_for(both), ["api.example.org", "git.example.org"]);
    // Set to nothing is not set.
    let empty = world
        .egress()
        .env("EGRESS_INIT_ALLOW", "")
        .env("OPENAI_ALLOWED_DOMAINS", "");
    assert_eq!(asked_for(empty), ["git.example.org"]);
}

fn without_any_source_one_name_is_the_list() {
    let world = World::with_zone(zone().addresses("api.openai.com", &["198.51.100.10"]));
    world.enforce(&[]).says(&["api.openai.com"]);
    reaches(&[Step::Tcp((API[0], 443).into())]);
    rejects(&blocked());
}

fn an_empty_source_is_an_error() {
    let world = World::new();
    allowlist("# nothing\n\n");
    world.fails(&[], &[ALLOWLIST]);
    world
        .egress()
        .env("EGRESS_INIT_ALLOW", "  ")
        .command(&["/bin/true"])
        .run()
        .exits(125)
        .says(&["EGRESS_INIT_ALLOW"]);
    let empty = file("/etc/world/empty", "");
    world.fails(
        &[
            "--allow",
            "api.example.org",
            "--allowlist",
            empty.to_str().unwrap(),
        ],
        &["/etc/world/empty"],
    );
    world.is_locked();
}

fn bad_lists_and_options_leave_the_lock() {
    let world = World::new();
    reaches(&blocked());
    fs::write(SENTINEL, "left by an earlier start").unwrap();
    world.fails(&["--allow", "api..example.org"], &["--allow:1:"]);
    world.is_locked();
    // The options have the same place: after the lock.
    nft("delete table inet egress_init");
    reaches(&blocked());
    world.fails(&["--dns", "open"], &["--dns: `open` is neither"]);
    world.is_locked();
    // A start after the mistake is mended is like any other.
    world.enforce(&["--allow", "api.example.org"]);
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
    rejects(&blocked());
}

fn garbage_is_answered_at_once() {
    let world = World::new();
    let mut garbage = Vec::with_capacity(10 << 20);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    while garbage.len() < 10 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        garbage.extend(state.to_le_bytes());
    }
    fs::write(ALLOWLIST, garbage).unwrap();
    let ran = world.fails(&[], &[ALLOWLIST]);
    // A second is what the release build has; the tests run a debug build too.
    assert!(ran.elapsed < Duration::from_secs(5), "{:?}", ran.elapsed);
    assert!(
        ran.stderr().len() < 100_000,
        "{} octets of errors",
        ran.stderr().len()
    );
}

/// A start whose DNS never answers, so that it stays between lock and rules.
fn waiting(world: &World) -> crate::support::world::Started {
    let started = world
        .egress()
        .args(user_options())
        .args(["--resolve-timeout", "60s", "--allow", "api.example.org"])
        .command(&["/bin/sh", "-c", "echo the command ran"])
        .start();
    let patience = Instant::now();
    while world.queries().is_empty() {
        assert!(
            patience.elapsed() < Duration::from_secs(5),
            "it never asked"
        );
        thread::sleep(Duration::from_millis(5));
    }
    started
}

/// I1: while names are resolved the lock is there, and its DNS hole is for egress-init alone.
fn the_lock_is_first() {
    let world = World::with_zone(zone().everything(Behaviour::Drop));
    reaches(&blocked());
    fs::write(SENTINEL, "left by an earlier start").unwrap();
    let mut started = waiting(&world);
    assert!(!Path::new(SENTINEL).exists(), "a stale sentinel goes first");
    rejects(&blocked());
    rejects(&API.map(|address| Step::Tcp((address, 443).into())));
    if has_second_uid() {
        let asked = world.queries().len();
        let steps: Vec<_> = [DNS, crate::support::world::FOREIGN_DNS]
            .concat()
            .into_iter()
            .flat_map(|server| {
                let name = || "tunnel.example.net".to_owned();
                [Step::Dns(server, name()), Step::DnsTcp(server, name())]
            })
            .collect();
        let outcomes = Run::new("setpriv")
            .args([
                "--reuid=1000",
                "--regid=1000",
                "--clear-groups",
                PROBE,
                "__probe",
            ])
            .arg(serde_json::to_string(&steps).unwrap())
            .outcomes();
        for (step, outcome) in steps.iter().zip(&outcomes) {
            crate::support::world::rejected(step, outcome);
        }
        let names: Vec<_> = world.queries().split_off(asked);
        assert!(
            names.iter().all(|query| query.name != "tunnel.example.net"),
            "{names:#?}"
        );
    }
    assert!(started.is_running());
    started.signal(Signal::SIGKILL);
    started.finish();
    assert!(!Path::new(SENTINEL).exists());
    rejects(&blocked());
}

fn ends_at_once(signal: Signal, code: i32) {
    let world = World::with_zone(zone().everything(Behaviour::Drop));
    reaches(&blocked());
    let started = waiting(&world);
    let sent = Instant::now();
    started.signal(signal);
    let ran = started.finish().exits(code);
    assert!(sent.elapsed() < Duration::from_millis(500), "{ran}");
    assert_eq!(ran.stdout(), "");
    assert!(!Path::new(SENTINEL).exists());
    world.is_locked();
}

fn sigterm_ends_a_start_at_once() {
    ends_at_once(Signal::SIGTERM, 143);
}

fn sigint_ends_a_start_at_once() {
    ends_at_once(Signal::SIGINT, 130);
}

/// How long a start takes here, from fork to exec.
fn duration_of_a_start(world: &World) -> Duration {
    world.enforce(&["--allow", "api.example.org"]).elapsed
}

fn kill_after(world: &World, delay: Duration) {
    let started = world
        .egress()
        .args(user_options())
        .args(["--allow", "api.example.org"])
        .command(&["/bin/sleep", "5"])
        .start();
    thread::sleep(delay);
    started.signal(Signal::SIGKILL);
    started.finish();
}

/// I3, I5: after a kill at any moment there is the open network of before, or the lock; never a
/// sentinel without rules.
fn killed_at_any_moment_it_leaves_no_lie() {
    let world = World::new();
    let whole = duration_of_a_start(&world) * 3 / 2;
    let (mut open, mut locked, mut ready) = (0, 0, 0);
    for step in 0..60 {
        forget();
        fs::write(SENTINEL, "left by an earlier start").unwrap();
        kill_after(&world, whole * step / 60);
        let stale = fs::read_to_string(SENTINEL).is_ok_and(|text| text.starts_with("left"));
        if Path::new(SENTINEL).exists() && !stale {
            rejects(&blocked());
            world.egress().arg("check").run().exits(0);
            ready += 1;
        } else if table("egress_init").is_some() {
            assert!(!stale, "the stale sentinel goes before the lock");
            rejects(&blocked());
            locked += 1;
        } else {
            world.egress().arg("check").run().exits(1);
            open += 1;
        }
    }
    assert!(
        locked > 0 && ready > 0,
        "{open} open, {locked} locked, {ready} ready: no proof"
    );
    world.enforce(&["--allow", "api.example.org"]);
    world.egress().arg("check").run().exits(0);
}

fn killed_at_any_moment_of_a_rerun_it_stays_closed() {
    let world = World::new();
    reaches(&blocked());
    let whole = duration_of_a_start(&world) * 3 / 2;
    let ((), frames) = world.arrived(|| {
        for step in 0..60 {
            kill_after(&world, whole * step / 60);
            rejects(&blocked());
        }
    });
    let strays: Vec<_> = frames
        .iter()
        .filter(|frame| ELSEWHERE.iter().any(|address| frame.to(*address)))
        .collect();
    assert!(strays.is_empty(), "{strays:#?}");
    world.enforce(&["--allow", "api.example.org"]);
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
}

/// I9.
fn two_starts_take_turns() {
    let delay = Duration::from_millis(400);
    let world = World::with_zone(zone().delay(delay));
    let start = |name: &str| {
        world
            .egress()
            .args(user_options())
            .args(["--allow", name])
            .command(&["/bin/true"])
            .start()
    };
    let both = [start("api.example.org"), start("git.example.org")];
    let [first, second] = both.map(|started| started.finish().exits(0).elapsed);
    let later = first.max(second);
    assert!(later >= 2 * delay, "both at once: {first:?}, {second:?}");
    // The table is of one policy, not of two.
    let reached = [API[0], crate::support::world::GIT[0]]
        .into_iter()
        .filter(|address| Step::Tcp((*address, 443).into()).run().is_ok());
    assert_eq!(reached.count(), 1);
    world.egress().arg("check").run().exits(0);
}

/// I3, "first of all": not only when its turn has come.
fn a_waiting_start_has_removed_the_sentinel() {
    let world = World::with_zone(zone().everything(Behaviour::Drop));
    let mut first = waiting(&world);
    fs::write(SENTINEL, "left by an earlier start").unwrap();
    let mut second = world
        .egress()
        .args(user_options())
        .args(["--allow", "api.example.org"])
        .command(&["/bin/true"])
        .start();
    let patience = Instant::now();
    while Path::new(SENTINEL).exists() {
        assert!(patience.elapsed() < Duration::from_secs(5), "still there");
        thread::sleep(Duration::from_millis(5));
    }
    for start in [&mut first, &mut second] {
        assert!(start.is_running(), "one holds the turn, one waits for it");
        start.signal(Signal::SIGKILL);
    }
    first.finish();
    second.finish();
}

/// I3: whatever is changed in the table, the read-back sees it.
fn a_changed_table_is_not_taken_for_the_intended_one() {
    let _world = World::new();
    let element = |network: &str| Element {
        network: network.parse().unwrap(),
        service: Service {
            protocol: Protocol::Tcp,
            ports: PortRange::single(443),
        },
    };
    let policy = Policy {
        allow: vec![element("192.0.2.7/32"), element("198.51.100.0/24")],
        ..Policy::default()
    };
    let ruleset = egress_init::ruleset::enforced(&policy, egress_init::ruleset::Dns::Closed);
    let mut kernel = Nftables::open().unwrap();
    for change in [
        "insert rule inet egress_init output accept",
        "add rule inet egress_init refuse accept",
        "flush chain inet egress_init forward; add rule inet egress_init forward accept",
        "chain inet egress_init output { policy accept; }",
        "add element inet egress_init allow4 { 203.0.113.66 . tcp . 443 }",
        "delete element inet egress_init allow4 { 192.0.2.7 . tcp . 443 }",
        "add element inet egress_init allow4_ranges { 203.0.113.0/24 . tcp . 443 }",
        "flush set inet egress_init allow4_ranges",
        "add set inet egress_init other { type ipv4_addr; }",
        "add chain inet egress_init other { type filter hook output priority -10; policy accept; }",
        "flush chain inet egress_init output",
        "delete table inet egress_init",
    ] {
        kernel.replace(&ruleset).unwrap();
        kernel.verify(&ruleset).expect("as it was sent");
        nft(change);
        let error = kernel.verify(&ruleset).expect_err(change);
        assert!(
            matches!(error, NftError::Different(_) | NftError::ReadBack(_)),
            "{change}: {error}"
        );
    }
}

/// A bare namespace (`unshare --net`) has it down, and the answers of a rejecting rule come by it.
fn loopback_is_brought_up() {
    let world = World::new();
    crate::support::world::ip_batch("link set lo down");
    world.enforce(&["--allow", "api.example.org"]);
    rejects(&blocked());
    world.egress().arg("check").run().exits(0);
}

fn other_tables_are_left_alone() {
    let world = World::new();
    nft("table ip nat {
            chain DOCKER_OUTPUT { ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:38345; }
            chain out { type nat hook output priority -100; policy accept; ip daddr 127.0.0.11 jump DOCKER_OUTPUT; };
        }
        table inet egress { set s { type ipv4_addr; elements = { 192.0.2.99 }; }
            chain c { type filter hook output priority 10; policy accept; ip daddr @s drop; }; }");
    let dump = || {
        let ruleset = Run::new("nft")
            .args(["-s", "list", "ruleset"])
            .run()
            .exits(0)
            .stdout();
        let own = ruleset
            .find("table inet egress_init")
            .map_or(ruleset.len(), |at| at);
        ruleset[..own].to_owned()
    };
    let before = dump();
    world.enforce(&["--allow", "api.example.org"]);
    assert!(table("egress_init").is_some());
    assert_eq!(dump(), before);
    world.fails(&["--allow", "a..b"], &["--allow:1:"]);
    world.enforce(&["--allow", "git.example.org"]);
    assert_eq!(dump(), before);
    forget();
    assert_eq!(dump(), before);
}

fn without_net_admin_it_says_what_to_do() {
    let world = World::new();
    let ran = Run::new("setpriv")
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", BINARY])
        .args([
            "--allow",
            "api.example.org",
            "--",
            "/bin/sh",
            "-c",
            "echo the command ran",
        ])
        .run()
        .exits(125)
        .says(&["--cap-add=NET_ADMIN"]);
    assert_eq!(ran.stdout(), "");
    assert_eq!(ran.stderr().lines().count(), 1, "{ran}");
    assert!(!Path::new(SENTINEL).exists());
    assert_eq!(
        world.queries(),
        [],
        "nothing is asked where nothing is locked"
    );
}

fn wrong_usage_is_2() {
    let world = World::new();
    reaches(&blocked());
    for arguments in [
        &["--no-such-option", "--", "true"][..],
        &[],
        &["doctor", "--", "true"],
        &["--supervise"],
        &["apply", "--", "true"],
        &["check", "--allow", "x"],
    ] {
        world.egress().args(arguments).run().exits(2);
    }
    world.egress().arg("--help").run().exits(0);
    world.egress().arg("--version").run().exits(0);
}

fn a_command_that_cannot_run_is_126_or_127() {
    let world = World::new();
    let text = file("/etc/world/text", "not a program");
    for (command, code) in [
        ("/etc/world/missing", 127),
        ("no-such-command", 127),
        (text.to_str().unwrap(), 126),
        ("/etc/world", 126),
    ] {
        let ran = world
            .egress()
            .args(user_options())
            .args(["--allow", "api.example.org"])
            .command(&[command])
            .run()
            .exits(code)
            .says(&[command]);
        assert!(!Path::new(SENTINEL).exists(), "no sentinel after\n{ran}");
        rejects(&blocked());
    }
}
