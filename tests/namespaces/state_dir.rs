//! The state directory: whose it is, that one command at a time has it, and that nothing on the way
//! to it can turn root's rights against another file.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    cases,
    support::{
        harness::{has_second_uid, needs_second_uid},
        world::{BINARY, PROBE, Ran, Run, Started, World, user_options},
    },
};

cases!(state_dir:
    the_command_holds_it_and_nothing_else,
    a_second_command_is_told_who_has_it,
    the_lock_ends_with_the_command,
    what_is_deleted_in_it_ends_no_lock,
    children_hold_it_too,
    it_is_found_in_variables,
    what_is_no_directory_closed_to_others_is_named,
    another_owner_is_named,
    what_is_wrong_can_be_fixed,
    a_directory_can_be_made,
    no_symbolic_link_is_followed,
    nothing_below_it_is_changed,
    few_capabilities_are_enough,
    check_holds_it_only_where_it_is_told_to,
    apply_prepares_it,
);

const STATE: &str = "/etc/world/state";
const ALLOW: [&str; 2] = ["--allow", "192.0.2.7"];

/// Of the user that the command is started as.
fn uid() -> u32 {
    if has_second_uid() { 1000 } else { 0 }
}

/// A directory of the command's, as it should be.
fn state_at(path: &str) {
    fs::create_dir(path).unwrap();
    set(path, uid(), 0o700);
}

fn set(path: &str, uid: u32, mode: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn owner_and_mode(path: &str) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.mode() & 0o7777)
}

fn on(world: &World, directory: &str, options: &[&str]) -> Run {
    world
        .egress()
        .args(user_options())
        .args(ALLOW)
        .args(["--state-dir", directory])
        .args(options)
}

/// A command that has started, and runs until it is told to end.
fn holder(run: Run) -> Started {
    let ready = Path::new("/etc/world/tmp/ready");
    let _ = fs::create_dir(ready.parent().unwrap());
    fs::set_permissions(ready.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    let _ = fs::remove_file(ready);
    let mut started = run
        .command(&[
            "/bin/sh",
            "-c",
            "echo > /etc/world/tmp/ready; exec sleep 60",
        ])
        .start();
    let patience = Instant::now();
    while !ready.exists() {
        assert!(started.is_running() && patience.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(5));
    }
    started
}

/// One more start on the directory: it fails, fast, and names whoever has it.
#[track_caller]
fn is_held(world: &World, directory: &str) -> Ran {
    let ran = on(world, directory, &[])
        .command(&["/bin/echo", "the command ran"])
        .run()
        .exits(125)
        .says(&[directory, "is in use by"]);
    assert_eq!(ran.stdout(), "", "{ran}");
    assert!(ran.elapsed < Duration::from_secs(2), "{ran}");
    ran
}

#[track_caller]
fn is_free(world: &World, directory: &str) {
    on(world, directory, &[])
        .command(&["/bin/true"])
        .run()
        .exits(0);
}

fn the_command_holds_it_and_nothing_else() {
    let world = World::new();
    state_at(STATE);
    // Each descriptor with what it is: the one exception to I4 is the directory itself.
    let script = "for fd in /proc/self/fd/*; do printf '%s ' \"${fd##*/}=$(readlink $fd)\"; done";
    let seen = |run: Run| {
        run.command(&["/bin/sh", "-c", script])
            .run()
            .exits(0)
            .stdout()
    };
    let above_2 = |seen: &str| -> Vec<String> {
        seen.split_whitespace()
            .filter(|fd| !["0=", "1=", "2="].iter().any(|low| fd.starts_with(low)))
            .map(|fd| fd.split_once('=').unwrap().1.to_owned())
            .filter(|target| !target.is_empty() && !target.starts_with("/proc/"))
            .collect()
    };
    let without = seen(world.egress().args(user_options()).args(ALLOW));
    assert_eq!(
        above_2(&without),
        Vec::<String>::new(),
        "control: {without}"
    );
    let untidy = Run::new(PROBE)
        .args(["__untidy", BINARY])
        .args(user_options())
        .args(ALLOW)
        .args(["--state-dir", STATE]);
    let with = seen(untidy);
    assert_eq!(above_2(&with), [STATE], "{with}");
}

fn a_second_command_is_told_who_has_it() {
    let world = World::new();
    state_at(STATE);
    let first = holder(on(&world, STATE, &[]));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let pid = format!("pid {}", first.id());
    is_held(&world, STATE).says(&[&pid, &host, ", since 20"]);
    // Another one is nobody's.
    state_at("/etc/world/other");
    is_free(&world, "/etc/world/other");
    // A record that cannot be read changes nothing but the message.
    fs::write(format!("{STATE}/.egress-init.lock"), "\u{1b}[2J").unwrap();
    let ran = is_held(&world, STATE).says(&["a process that left no record"]);
    assert!(!ran.stderr().contains('\u{1b}'), "{ran}");
    first.signal(Signal::SIGKILL);
    first.finish();
}

fn the_lock_ends_with_the_command() {
    let world = World::new();
    state_at(STATE);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let first = holder(on(&world, STATE, &[]));
        is_held(&world, STATE);
        first.signal(signal);
        first.finish();
        is_free(&world, STATE);
    }
    // A start that fails after it has taken the lock leaves none.
    on(&world, STATE, &["--allow", "no-such.example.org"])
        .command(&["/bin/true"])
        .run()
        .exits(125);
    is_free(&world, STATE);
}

fn what_is_deleted_in_it_ends_no_lock() {
    let world = World::new();
    state_at(STATE);
    let first = holder(on(&world, STATE, &[]));
    for entry in fs::read_dir(STATE).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    is_held(&world, STATE).says(&["a process that left no record"]);
    first.signal(Signal::SIGKILL);
    first.finish();
}

fn children_hold_it_too() {
    let world = World::new();
    state_at(STATE);
    let script = "sleep 60 >&- 2>&- & echo $!";
    let ran = on(&world, STATE, &[])
        .command(&["/bin/sh", "-c", script])
        .run()
        .exits(0);
    is_held(&world, STATE);
    let child = nix::unistd::Pid::from_raw(ran.stdout().trim().parse().unwrap());
    nix::sys::signal::kill(child, Signal::SIGKILL).unwrap();
    thread::sleep(Duration::from_millis(50));
    is_free(&world, STATE);
}

fn it_is_found_in_variables() {
    let world = World::new();
    for name in ["option", "own", "beacon"] {
        state_at(&format!("/etc/world/{name}"));
    }
    let with = |run: Run| {
        let ran = run
            .command(&["/bin/sh", "-c", "readlink /proc/$$/fd/* | grep /etc/world"])
            .run()
            .exits(0);
        ran.stdout().trim().to_owned()
    };
    let plain = || world.egress().args(user_options()).args(ALLOW);
    let beacon = || plain().env("CODE_HOME", "/etc/world/beacon");
    let own = || beacon().env("EGRESS_INIT_STATE_DIR", "/etc/world/own");
    assert_eq!(with(beacon()), "/etc/world/beacon");
    assert_eq!(with(own()), "/etc/world/own");
    assert_eq!(
        with(own().args(["--state-dir", "/etc/world/option"])),
        "/etc/world/option"
    );
    assert_eq!(
        with(beacon().env("EGRESS_INIT_STATE_DIR", "")),
        "/etc/world/beacon",
        "set to nothing is not set"
    );
    world.fails(
        &["--fix-state-dir"],
        &["--fix-state-dir: no state directory is named"],
    );
}

/// A start that is refused for the directory, with this on stderr.
#[track_caller]
fn is_refused(world: &World, says: &[&str]) {
    let ran = on(world, STATE, &[])
        .command(&["/bin/echo", "the command ran"])
        .run()
        .exits(125)
        .says(says);
    assert_eq!(ran.stdout(), "", "{ran}");
}

fn what_is_no_directory_closed_to_others_is_named() {
    let world = World::new();
    state_at(STATE);
    is_free(&world, STATE);
    for mode in [0o755, 0o750, 0o701, 0o500] {
        set(STATE, uid(), mode);
        let says = format!("has mode {mode:04o}, not 0700");
        is_refused(&world, &[STATE, &says, "--fix-state-dir"]);
    }
    set(STATE, uid(), 0o1700);
    is_free(&world, STATE);
    fs::remove_dir_all(STATE).unwrap();
    is_refused(
        &world,
        &["there is no state directory", STATE, "--fix-state-dir"],
    );
    assert!(!Path::new(STATE).exists());
    fs::write(STATE, "").unwrap();
    is_refused(&world, &[STATE, "not a directory"]);
}

fn another_owner_is_named() {
    needs_second_uid();
    let world = World::new();
    state_at(STATE);
    is_free(&world, STATE);
    set(STATE, 0, 0o700);
    let says = "is owned by uid 0, not by the command's user (uid 1000)";
    is_refused(&world, &[says, "chown 1000"]);
    assert_eq!(owner_and_mode(STATE), (0, 0o700), "only looked at");
}

fn what_is_wrong_can_be_fixed() {
    needs_second_uid();
    let world = World::new();
    fs::create_dir(STATE).unwrap();
    for (owner, mode) in [
        (0, 0o755),
        (0, 0o700),
        (4321, 0o777),
        (1000, 0o755),
        (1000, 0),
    ] {
        set(STATE, owner, mode);
        let ran = on(&world, STATE, &["--fix-state-dir"])
            .command(&["/bin/sh", "-c", "echo mine > /etc/world/state/file"])
            .run()
            .exits(0);
        assert_eq!(
            owner_and_mode(STATE),
            (1000, 0o700),
            "{owner} {mode:o}\n{ran}"
        );
    }
}

fn a_directory_can_be_made() {
    let world = World::new();
    on(&world, STATE, &["--fix-state-dir"])
        .command(&["/bin/true"])
        .run()
        .exits(0);
    assert_eq!(owner_and_mode(STATE), (uid(), 0o700));
    // One, not a whole path: that is a volume which is not there.
    let deep = "/etc/world/none/state";
    on(&world, deep, &["--fix-state-dir"])
        .command(&["/bin/true"])
        .run()
        .exits(125)
        .says(&["there is no state directory", deep]);
}

/// A user that owns a directory on the way would have root change another one's owner.
fn no_symbolic_link_is_followed() {
    let world = World::new();
    let victim = "/etc/world/victim";
    fs::create_dir_all(format!("{victim}/below")).unwrap();
    set(victim, 0, 0o755);
    set(&format!("{victim}/below"), 0, 0o755);
    fs::create_dir("/etc/world/home").unwrap();
    set("/etc/world/home", uid(), 0o755);
    symlink(victim, "/etc/world/home/link").unwrap();
    for path in [
        "/etc/world/home/link",
        "/etc/world/home/link/",
        "/etc/world/home/link/below",
    ] {
        for options in [&[][..], &["--fix-state-dir"]] {
            on(&world, path, options)
                .command(&["/bin/true"])
                .run()
                .exits(125)
                .says(&["/etc/world/home/link", "a symbolic link"]);
        }
    }
    assert_eq!(owner_and_mode(victim), (0, 0o755));
    assert_eq!(owner_and_mode(&format!("{victim}/below")), (0, 0o755));
}

fn nothing_below_it_is_changed() {
    needs_second_uid();
    let world = World::new();
    fs::create_dir(STATE).unwrap();
    let below = format!("{STATE}/below");
    fs::write(&below, "").unwrap();
    set(&below, 0, 0o644);
    on(&world, STATE, &["--fix-state-dir"])
        .command(&["/bin/true"])
        .run()
        .exits(0);
    assert_eq!(owner_and_mode(&below), (0, 0o644));
}

/// `--cap-drop=ALL` and back what a start takes: root without `DAC_OVERRIDE` cannot even look into
/// a directory of another user's.
fn few_capabilities_are_enough() {
    needs_second_uid();
    let world = World::new();
    let home = "/etc/world/home";
    let state = "/etc/world/home/state";
    fs::create_dir(home).unwrap();
    set(home, 1000, 0o700);
    state_at(state);
    let with = |capabilities: &str, options: &[&str]| {
        let sets = format!("-all,{capabilities}");
        Run::new("setpriv")
            .args([
                &format!("--bounding-set={sets}"),
                &format!("--inh-caps={sets}"),
            ])
            .arg(BINARY)
            .args(["--user", "node"])
            .args(ALLOW)
            .args(["--state-dir", state])
            .args(options)
            .command(&["/bin/true"])
            .run()
    };
    let few = "+net_admin,+setuid,+setgid,+setpcap";
    with(few, &[]).exits(0);
    set(state, 1000, 0o755);
    with(few, &["--fix-state-dir"]).exits(0);
    assert_eq!(owner_and_mode(state), (1000, 0o700));
    fs::remove_dir_all(state).unwrap();
    with(few, &["--fix-state-dir"]).exits(0);
    assert_eq!(owner_and_mode(state), (1000, 0o700));
    set(state, 0, 0o700);
    with(few, &["--fix-state-dir"])
        .exits(125)
        .says(&["--cap-add=CHOWN"]);
    with(&format!("{few},+chown"), &["--fix-state-dir"]).exits(0);
    assert_eq!(owner_and_mode(state), (1000, 0o700));
    drop(world);
}

fn check_holds_it_only_where_it_is_told_to() {
    let world = World::new();
    state_at(STATE);
    let first = holder(on(&world, STATE, &[]));
    let check = || {
        Run::new(BINARY)
            .arg("check")
            .env("EGRESS_INIT_STATE_DIR", STATE)
    };
    // The health check, and a tool beside the command that holds it.
    check().run().exits(0);
    check()
        .args(user_options())
        .command(&["/bin/true"])
        .run()
        .exits(0);
    let told = || check().args(user_options()).args(["--state-dir", STATE]);
    told()
        .command(&["/bin/echo", "the command ran"])
        .run()
        .exits(125)
        .says(&["is in use by"]);
    first.signal(Signal::SIGKILL);
    first.finish();
    // A container that starts through check.
    let second = holder(told());
    is_held(&world, STATE);
    second.signal(Signal::SIGKILL);
    second.finish();
}

fn apply_prepares_it() {
    needs_second_uid();
    let world = World::new();
    let apply = |options: &[&str]| {
        let run = world
            .egress()
            .arg("apply")
            .args(ALLOW)
            .args(["--user", "node"]);
        run.env("CODE_HOME", "/nowhere").args(options).run()
    };
    apply(&[]).exits(0);
    apply(&["--state-dir", STATE])
        .exits(125)
        .says(&["there is no state directory"]);
    apply(&["--state-dir", STATE, "--fix-state-dir"]).exits(0);
    assert_eq!(owner_and_mode(STATE), (1000, 0o700));
    is_free(&world, STATE);
}
