//! What the command starts with, seen from inside of it (I4, section 6 on sockets): nothing.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use nix::libc;

use crate::{
    cases,
    support::{
        harness::needs_second_uid,
        probe::Step,
        world::{BINARY, PROBE, Ran, Run, SENTINEL, World, reaches, rejects, status},
    },
};

cases!(privileges:
    a_user_has_nothing,
    root_has_nothing_either,
    groups_come_from_the_files,
    users_can_be_numbers,
    an_unknown_user_ends_the_start,
    signals_and_descriptors_are_clean,
    environment_arguments_and_directory_pass_through,
    the_exit_code_is_the_commands,
    a_kept_capability_is_kept_and_no_other,
    what_undoes_the_firewall_cannot_be_kept,
    new_privileges_can_be_let_in,
    a_setuid_program_gives_nothing_back,
    sockets_past_the_firewall_are_refused,
    a_family_can_be_let_in,
    the_command_cannot_touch_the_rules,
);

const ALLOW: [&str; 2] = ["--allow", "api.example.org"];

/// What /proc/self/status says in the command; cat has nothing of its own in it.
fn seen(run: Run) -> BTreeMap<String, String> {
    let ran = run
        .command(&["/bin/cat", "/proc/self/status"])
        .run()
        .exits(0);
    parse(&ran)
}

fn parse(ran: &Ran) -> BTreeMap<String, String> {
    ran.stdout()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| {
            (
                key.to_owned(),
                value.split_whitespace().collect::<Vec<_>>().join(" "),
            )
        })
        .collect()
}

#[track_caller]
fn has_no_capability(seen: &BTreeMap<String, String>) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(seen[set], "0000000000000000", "{set}");
    }
}

fn a_user_has_nothing() {
    needs_second_uid();
    let world = World::new();
    let seen = seen(world.egress().args(ALLOW).args(["--user", "node"]));
    has_no_capability(&seen);
    assert_eq!(seen["NoNewPrivs"], "1");
    assert_eq!(seen["Seccomp"], "2");
    assert_eq!(seen["Uid"], "1000 1000 1000 1000");
    assert_eq!(seen["Gid"], "1000 1000 1000 1000");
}

fn root_has_nothing_either() {
    let world = World::new();
    let control = parse(&Run::new("/bin/cat").arg("/proc/self/status").run());
    assert_ne!(
        control["CapEff"], "0000000000000000",
        "control: this is root"
    );
    let seen = seen(world.egress().args(ALLOW));
    has_no_capability(&seen);
    assert_eq!(seen["NoNewPrivs"], "1");
    assert_eq!(seen["Seccomp"], "2");
    assert_eq!(seen["Uid"], "0 0 0 0");
}

fn groups(seen: &BTreeMap<String, String>) -> Vec<u32> {
    let mut groups: Vec<u32> = seen["Groups"]
        .split(' ')
        .filter_map(|gid| gid.parse().ok())
        .collect();
    groups.sort_unstable();
    // That of the gid itself is in it or not: it makes no difference.
    groups.retain(|gid| {
        *gid != seen["Gid"]
            .split(' ')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    });
    groups
}

fn groups_come_from_the_files() {
    needs_second_uid();
    let world = World::new();
    let as_user = |user: &str| {
        let run = Run::new("setpriv")
            .args(["--groups=0,100,3000", BINARY])
            .args(ALLOW);
        seen(run.args(["--user", user]))
    };
    let node = as_user("node");
    assert_eq!(
        (node["Gid"].as_str(), groups(&node)),
        ("1000 1000 1000 1000", vec![2000])
    );
    let tools = as_user("node:tools");
    assert_eq!(tools["Gid"], "2000 2000 2000 2000");
    assert!(
        groups(&tools).iter().all(|gid| [1000, 2000].contains(gid)),
        "{}",
        tools["Groups"]
    );
    drop(world);
}

fn users_can_be_numbers() {
    needs_second_uid();
    let world = World::new();
    for (user, uid, gid) in [
        ("1000", 1000, 1000),
        ("4321", 4321, 4321),
        ("4321:77", 4321, 77),
    ] {
        let seen = seen(world.egress().args(ALLOW).args(["--user", user]));
        assert_eq!(seen["Uid"], format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(seen["Gid"], format!("{gid} {gid} {gid} {gid}"));
        has_no_capability(&seen);
    }
    let by_variable = seen(world.egress().args(ALLOW).env("EGRESS_INIT_USER", "node"));
    assert_eq!(by_variable["Uid"], "1000 1000 1000 1000");
}

fn an_unknown_user_ends_the_start() {
    let world = World::new();
    for user in ["nobody-here", "node:no-such-group"] {
        let ran = world
            .egress()
            .args(ALLOW)
            .args(["--user", user])
            .command(&["/bin/true"])
            .run()
            .exits(125);
        let unknown = user.rsplit(':').next().unwrap();
        assert!(ran.stderr().contains(unknown), "{ran}");
        assert!(!std::path::Path::new(SENTINEL).exists());
    }
    world.is_locked();
}

fn signals_and_descriptors_are_clean() {
    let world = World::new();
    let untidy = || Run::new(PROBE).args(["__untidy"]);
    // Control: what is untidy stays so.
    let control = parse(
        &untidy()
            .args(["/bin/cat", "/proc/self/status"])
            .run()
            .exits(0),
    );
    assert_ne!(control["SigIgn"], "0000000000000000");
    assert_ne!(control["SigBlk"], "0000000000000000");
    let control = untidy().args(["/bin/ls", "/proc/self/fd"]).run().exits(0);
    assert!(control.stdout().lines().any(|fd| fd == "40"), "{control}");

    let seen = seen(untidy().arg(BINARY).args(ALLOW));
    assert_eq!(seen["SigIgn"], "0000000000000000");
    assert_eq!(seen["SigBlk"], "0000000000000000");
    assert_eq!(seen["SigPnd"], "0000000000000000");
    let listed = untidy()
        .arg(BINARY)
        .args(ALLOW)
        .command(&["/bin/ls", "/proc/self/fd"])
        .run()
        .exits(0);
    // 3 is the one that ls lists with.
    let descriptors: Vec<_> = listed.stdout().lines().map(str::to_owned).collect();
    assert_eq!(descriptors, ["0", "1", "2", "3"], "{listed}");
    drop(world);
}

fn environment_arguments_and_directory_pass_through() {
    let world = World::new();
    fs::create_dir("/etc/world/here").unwrap();
    let arguments = ["two words", "", "--user", "*", "\u{e9}\n"];
    let steps = serde_json::to_string(&[Step::Status]).unwrap();
    let environment = [
        ("PATH", "/bin:/usr/bin"),
        ("PLAIN", "a value"),
        ("EMPTY", ""),
        ("EGRESS_INIT_LOG", "info"),
        ("OPENAI_ALLOWED_DOMAINS", "api.example.org"),
    ];
    let mut run = world.egress().directory("/etc/world/here");
    for (name, value) in environment {
        run = run.env(name, value);
    }
    let outcomes = run.command(&[PROBE, "__probe", &steps]).outcomes();
    let status = status(&outcomes);
    let expected: BTreeMap<_, _> = environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    assert_eq!(status.environment, expected);
    assert_eq!(status.directory, "/etc/world/here");

    let ran = world
        .egress()
        .args(ALLOW)
        .command(&["/bin/cat", "/proc/self/cmdline"])
        .run()
        .exits(0);
    assert_eq!(ran.stdout(), "/bin/cat\0/proc/self/cmdline\0");
    let script = "for word; do printf '<%s>' \"$word\"; done";
    let command = [&["/bin/sh", "-c", script, "sh"][..], &arguments].concat();
    let ran = world.egress().args(ALLOW).command(&command).run().exits(0);
    assert_eq!(ran.stdout(), "<two words><><--user><*><\u{e9}\n>");
}

fn the_exit_code_is_the_commands() {
    let world = World::new();
    for code in [0, 1, 7, 125, 255] {
        let script = format!("exit {code}");
        world
            .egress()
            .args(ALLOW)
            .command(&["/bin/sh", "-c", &script])
            .run()
            .exits(code);
    }
    let killed = world
        .egress()
        .args(ALLOW)
        .command(&["/bin/sh", "-c", "kill -9 $$"])
        .run();
    assert_eq!(killed.signal(), Some(9), "it became the command\n{killed}");
    let found = world.egress().args(ALLOW).command(&["true"]).run();
    assert_eq!(found.code(), Some(0), "found along PATH\n{found}");
}

fn a_kept_capability_is_kept_and_no_other() {
    let world = World::new();
    let bit = format!("{:016x}", 1 << 10);
    for name in ["NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE"] {
        let run = world
            .egress()
            .args(crate::support::world::user_options())
            .args(ALLOW);
        let seen = seen(run.args(["--keep-cap", name]));
        for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(seen[set], bit, "{set}");
        }
        assert_eq!(seen["NoNewPrivs"], "1");
    }
}

fn what_undoes_the_firewall_cannot_be_kept() {
    let world = World::new();
    for name in [
        "NET_ADMIN",
        "NET_RAW",
        "SYS_ADMIN",
        "SYS_MODULE",
        "SYS_PTRACE",
        "BPF",
        "cap_net_admin",
    ] {
        let options = [&ALLOW[..], &["--keep-cap", name]].concat();
        let plain = name.trim_start_matches("cap_").to_uppercase();
        world.fails(&options, &["--keep-cap", &plain]);
    }
    world.fails(
        &[&ALLOW[..], &["--keep-cap", "NO_SUCH"]].concat(),
        &["--keep-cap", "NO_SUCH"],
    );
}

fn new_privileges_can_be_let_in() {
    let world = World::new();
    let seen = seen(world.egress().args(ALLOW).args(["--allow-new-privs"]));
    assert_eq!(seen["NoNewPrivs"], "0");
    has_no_capability(&seen);
}

fn a_setuid_program_gives_nothing_back() {
    needs_second_uid();
    let world = World::new();
    let setuid = "/etc/world/setuid";
    fs::copy("/bin/cat", setuid).unwrap();
    fs::set_permissions(setuid, fs::Permissions::from_mode(0o4755)).unwrap();
    let with = |options: &[&str]| {
        let ran = world
            .egress()
            .args(ALLOW)
            .args(["--user", "node"])
            .args(options)
            .command(&[setuid, "/proc/self/status"])
            .run()
            .exits(0);
        parse(&ran)
    };
    let control = with(&["--allow-new-privs"]);
    assert_eq!(control["Uid"], "1000 0 0 0", "the program is setuid");
    // The bounding set is empty all the same: a root without capabilities.
    has_no_capability(&control);
    let tried = with(&[]);
    assert_eq!(tried["Uid"], "1000 1000 1000 1000");
    has_no_capability(&tried);
}

/// Families that nftables never sees, a ring that makes sockets, and another ABI's gate.
fn evasions() -> [(Step, &'static str); 7] {
    [
        (
            Step::Socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
            "EAFNOSUPPORT",
        ),
        (
            Step::Socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0),
            "EAFNOSUPPORT",
        ),
        (
            Step::Socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            "EAFNOSUPPORT",
        ),
        (
            Step::Socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            "EAFNOSUPPORT",
        ),
        (
            Step::Socket(libc::AF_XDP, libc::SOCK_RAW, 0),
            "EAFNOSUPPORT",
        ),
        (Step::IoUring, "ENOSYS"),
        (Step::ForeignAbi, "ENOSYS"),
    ]
}

fn sockets_past_the_firewall_are_refused() {
    let world = World::new();
    let usual = [
        Step::Socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        Step::Socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        Step::Socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
        Step::Socket(libc::AF_INET6, libc::SOCK_STREAM, 0),
        Step::Socket(libc::AF_NETLINK, libc::SOCK_RAW, 0),
    ];
    // Control: what this kernel has at all, root may have.
    reaches(&usual);
    reaches(&[Step::Socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)]);
    let steps: Vec<_> = evasions()
        .map(|(step, _)| step)
        .into_iter()
        .chain(usual)
        .collect();
    let outcomes = world.behind(&ALLOW, &steps);
    for ((step, error), outcome) in evasions().iter().zip(&outcomes) {
        assert_eq!(outcome.result, *error, "{step:?}");
    }
    for (step, outcome) in steps.iter().zip(&outcomes).skip(evasions().len()) {
        assert!(outcome.is_ok(), "{step:?}: {outcome:?}");
    }
}

fn a_family_can_be_let_in() {
    let world = World::new();
    let vsock = Step::Socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    let outside = vsock.run().result;
    let steps = [vsock, Step::Socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)];
    let options = [&ALLOW[..], &["--allow-socket-family", "VSOCK"]].concat();
    let outcomes = world.behind(&options, &steps);
    assert_eq!(outcomes[0].result, outside, "as the kernel has it");
    assert_eq!(outcomes[1].result, "EAFNOSUPPORT");
    world.fails(
        &[&ALLOW[..], &["--allow-socket-family", "TOKENRING"]].concat(),
        &["--allow-socket-family", "TOKENRING"],
    );
}

fn the_command_cannot_touch_the_rules() {
    let world = World::new();
    // Control: whoever has NET_ADMIN can.
    world.enforce(&ALLOW);
    crate::support::world::forget();
    let elsewhere = crate::support::world::ELSEWHERE.map(|a| Step::Tcp((a, 443).into()));
    reaches(&elsewhere);
    let ran = world
        .egress()
        .args(crate::support::world::user_options())
        .args(ALLOW)
        .command(&[
            "/bin/sh",
            "-c",
            "nft flush ruleset || nft delete table inet egress_init || echo refused",
        ])
        .run()
        .exits(0);
    assert_eq!(ran.stdout(), "refused\n", "{ran}");
    rejects(&elsewhere);
}
