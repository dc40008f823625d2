//! The sentinel means enforced (I3, section 8): what it says, and everything in which it is not
//! to be believed. Each case starts from one that verifies.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
};

use serde_json::Value;

use crate::{
    cases,
    support::{
        harness::{has_second_uid, needs_second_uid},
        probe::Step,
        world::{
            API, BINARY, ELSEWHERE, Ran, Run, SENTINEL, World, ip_batch, nft, rejects, table,
            user_options,
        },
    },
};

cases!(sentinel:
    it_says_what_is_enforced,
    check_needs_no_capability,
    an_unprivileged_user_can_check,
    none_is_no_firewall,
    a_copy_in_another_namespace_does_not_verify,
    another_boot_does_not_verify,
    a_flushed_table_does_not_verify,
    a_deleted_table_does_not_verify,
    an_opened_policy_does_not_verify,
    a_symbolic_link_does_not_verify,
    what_others_can_write_does_not_verify,
    what_is_not_roots_does_not_verify,
    what_does_not_parse_does_not_verify,
    a_lock_alone_does_not_verify,
    a_start_removes_the_one_before,
    a_folder_of_the_users_is_refused,
    a_folder_is_made_where_missing,
    root_is_warned,
    another_path_can_be_named,
    ipv6_alone_verifies,
    no_network_verifies,
    check_runs_a_command_only_if_it_verifies,
    the_bypass_warns_and_passes,
);

fn check(options: &[&str]) -> Ran {
    Run::new(BINARY).arg("check").args(options).run()
}

/// In a world with one allowed name, a sentinel that verifies.
fn verified() -> World {
    let world = World::new();
    assert!(!Path::new(SENTINEL).exists());
    world.enforce(&["--allow", "api.example.org"]);
    check(&[]).exits(0);
    world
}

/// `check` fails and says why, on stderr and in its JSON.
#[track_caller]
fn refused() -> String {
    let ran = check(&[]).exits(1);
    assert_eq!(ran.stdout(), "");
    assert_ne!(ran.stderr().trim(), "", "it has to say why");
    let json = check(&["--json"]).exits(1);
    let answer: Value =
        serde_json::from_str(&json.stdout()).unwrap_or_else(|e| panic!("{e}\n{json}"));
    assert_eq!(answer["ok"], false);
    let reason = answer["reason"].as_str().expect("a reason").to_owned();
    assert_ne!(reason, "");
    reason
}

fn content() -> Value {
    serde_json::from_str(&fs::read_to_string(SENTINEL).unwrap()).unwrap()
}

/// Replaces the sentinel by one that differs in this.
fn forge(key: &str, value: Value) {
    let mut forged = content();
    forged[key] = value;
    fs::remove_file(SENTINEL).unwrap();
    fs::write(SENTINEL, forged.to_string()).unwrap();
    fs::set_permissions(SENTINEL, fs::Permissions::from_mode(0o444)).unwrap();
}

fn it_says_what_is_enforced() {
    let world = World::new();
    world.enforce(&[
        "--allow",
        "api.example.org",
        "--allow",
        "192.0.2.7",
        "--allow",
        "git.example.org",
    ]);
    let sentinel = content();
    assert_eq!(sentinel["schema"], 1);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(sentinel["boot_id"], boot.trim());
    let inode = fs::metadata("/proc/self/ns/net").unwrap().ino();
    assert_eq!(sentinel["netns_inode"], inode);
    assert!(sentinel["netns_cookie"].is_u64());
    let created = sentinel["created"].as_str().unwrap();
    assert!(
        created.len() >= 20 && created.contains('T') && created.ends_with('Z'),
        "{created}"
    );
    assert_eq!(sentinel["dns"], "pinned");
    assert_eq!(sentinel["mode"], "exec");
    let digest = sentinel["ruleset_sha256"].as_str().unwrap();
    assert!(
        digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
        "{digest}"
    );
    assert_eq!(sentinel["names"], 2);
    assert_eq!(sentinel["ipv4"], 3);
    assert_eq!(sentinel["ipv6"], 2);
    assert_eq!(sentinel["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(sentinel.as_object().unwrap().len(), 12, "{sentinel}");

    let metadata = fs::symlink_metadata(SENTINEL).unwrap();
    assert!(metadata.is_file());
    assert_eq!(metadata.mode() & 0o7777, 0o444);
    assert_eq!(metadata.uid(), 0);
    let beside: Vec<_> = fs::read_dir("/etc/beacon-code").unwrap().collect();
    assert_eq!(beside.len(), 1, "no temporary file stays: {beside:?}");

    let json = check(&["--json"]).exits(0);
    let answer: Value = serde_json::from_str(&json.stdout()).unwrap();
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["sentinel"], sentinel);
    assert_eq!(answer.as_object().unwrap().len(), 3, "{answer}");

    // The same policy has the same digest.
    let policy = ["--allow", "api.example.org"];
    world.enforce(&policy);
    let digest = content()["ruleset_sha256"].clone();
    world.enforce(&policy);
    assert_eq!(content()["ruleset_sha256"], digest);
    world.enforce(&["--allow", "api.example.org", "--dns", "system"]);
    assert_ne!(content()["ruleset_sha256"], digest);
    assert_eq!(content()["dns"], "system");
}

const BARE: [&str; 3] = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];

fn check_needs_no_capability() {
    let _world = verified();
    let ran = Run::new("setpriv")
        .args(BARE)
        .args([BINARY, "check"])
        .run()
        .exits(0);
    assert!(ran.elapsed.as_millis() < 250, "{ran}");
}

fn an_unprivileged_user_can_check() {
    needs_second_uid();
    let _world = verified();
    Run::new("setpriv")
        .args(BARE)
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .args([BINARY, "check"])
        .run()
        .exits(0);
}

fn none_is_no_firewall() {
    let _world = verified();
    fs::remove_file(SENTINEL).unwrap();
    refused();
}

fn a_copy_in_another_namespace_does_not_verify() {
    let _world = verified();
    let elsewhere = |script: &str| {
        Run::new("unshare")
            .args(["--net", "sh", "-c", script])
            .run()
    };
    let ran = elsewhere("ip link set lo up; /etc/world/egress-init check");
    ran.exits(1).says(&["namespace"]);
    check(&[]).exits(0);
}

fn another_boot_does_not_verify() {
    let _world = verified();
    forge("netns_inode", content()["netns_inode"].clone());
    check(&[]).exits(0);
    forge("boot_id", "00000000-0000-4000-8000-000000000000".into());
    assert!(refused().contains("boot"));
}

fn a_flushed_table_does_not_verify() {
    let _world = verified();
    nft("flush table inet egress_init");
    refused();
}

fn a_deleted_table_does_not_verify() {
    let _world = verified();
    nft("delete table inet egress_init");
    refused();
}

fn an_opened_policy_does_not_verify() {
    let _world = verified();
    let listing = table("egress_init").unwrap();
    assert!(listing.contains("policy drop"), "{listing}");
    nft("delete table inet egress_init
        table inet egress_init { chain output { type filter hook output priority 0; policy accept; }; }");
    refused();
}

fn a_symbolic_link_does_not_verify() {
    let _world = verified();
    fs::rename(SENTINEL, "/etc/beacon-code/real").unwrap();
    symlink("/etc/beacon-code/real", SENTINEL).unwrap();
    refused();
}

fn what_others_can_write_does_not_verify() {
    let _world = verified();
    for mode in [0o446, 0o666] {
        fs::set_permissions(SENTINEL, fs::Permissions::from_mode(mode)).unwrap();
        refused();
    }
    fs::set_permissions(SENTINEL, fs::Permissions::from_mode(0o444)).unwrap();
    check(&[]).exits(0);
}

fn what_is_not_roots_does_not_verify() {
    needs_second_uid();
    let _world = verified();
    chown(SENTINEL, Some(1000), None).unwrap();
    refused();
}

fn what_does_not_parse_does_not_verify() {
    let _world = verified();
    let whole = fs::read_to_string(SENTINEL).unwrap();
    for text in ["", "enforced\n", "{}", "[]", &whole[..whole.len() / 2]] {
        fs::remove_file(SENTINEL).unwrap();
        fs::write(SENTINEL, text).unwrap();
        refused();
    }
    fs::remove_file(SENTINEL).unwrap();
    fs::write(SENTINEL, &whole).unwrap();
    fs::set_permissions(SENTINEL, fs::Permissions::from_mode(0o444)).unwrap();
    check(&[]).exits(0);
    forge("schema", 2.into());
    refused();
    fs::remove_file(SENTINEL).unwrap();
    fs::create_dir(SENTINEL).unwrap();
    refused();
}

/// After a start that failed its rules are those of the lock: even the right sentinel is a lie.
fn a_lock_alone_does_not_verify() {
    let world = verified();
    let whole = fs::read(SENTINEL).unwrap();
    world.fails(&["--allow", "a..b"], &["--allow:1:"]);
    fs::write(SENTINEL, whole).unwrap();
    fs::set_permissions(SENTINEL, fs::Permissions::from_mode(0o444)).unwrap();
    refused();
}

fn a_start_removes_the_one_before() {
    let world = verified();
    world.fails(&["--allow", "a..b"], &["--allow:1:"]);
    // A link is removed, not what it points at.
    fs::write("/etc/beacon-code/real", "precious").unwrap();
    symlink("/etc/beacon-code/real", SENTINEL).unwrap();
    world.fails(&["--allow", "a..b"], &["--allow:1:"]);
    assert_eq!(
        fs::read_to_string("/etc/beacon-code/real").unwrap(),
        "precious"
    );
    symlink("/etc/beacon-code/real", SENTINEL).unwrap();
    world.enforce(&["--allow", "api.example.org"]);
    assert_eq!(
        fs::read_to_string("/etc/beacon-code/real").unwrap(),
        "precious"
    );
    check(&[]).exits(0);
}

fn a_folder_of_the_users_is_refused() {
    needs_second_uid();
    let world = verified();
    let folder = "/etc/beacon-code";
    chown(folder, Some(1000), None).unwrap();
    world.fails(&["--allow", "api.example.org"], &[folder, "writable"]);
    chown(folder, Some(0), None).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    world.fails(&["--allow", "api.example.org"], &[folder, "writable"]);
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    world.enforce(&["--allow", "api.example.org"]);
}

fn a_folder_is_made_where_missing() {
    let world = World::new();
    let folder = Path::new("/etc/new/deep");
    world.enforce(&[
        "--allow",
        "api.example.org",
        "--sentinel",
        "/etc/new/deep/ready",
    ]);
    assert_eq!(fs::metadata(folder).unwrap().mode() & 0o7777, 0o755);
    check(&["--sentinel", "/etc/new/deep/ready"]).exits(0);
    check(&[]).exits(1);
}

fn root_is_warned() {
    let world = World::new();
    world
        .egress()
        .args(["--allow", "api.example.org"])
        .command(&["/bin/true"])
        .run()
        .exits(0)
        .says(&["--user"]);
    if has_second_uid() {
        let ran = world.enforce(&["--allow", "api.example.org"]);
        assert!(!ran.stderr().contains("--user"), "{ran}");
    }
}

fn another_path_can_be_named() {
    let world = World::new();
    let other = "/etc/world/ready";
    world.enforce(&["--allow", "api.example.org", "--sentinel", other]);
    assert!(!Path::new(SENTINEL).exists());
    check(&["--sentinel", other]).exits(0);
    Run::new(BINARY)
        .arg("check")
        .env("EGRESS_INIT_SENTINEL", other)
        .run()
        .exits(0);
    check(&[]).exits(1);
}

fn ipv6_alone_verifies() {
    let world = World::new();
    ip_batch(
        "addr flush dev eth0 scope global\naddr add fd77::2/64 dev eth0 nodad\nroute replace default via fd77::1",
    );
    let control = Step::Tcp((API[0], 443).into()).run();
    assert!(!control.is_ok(), "IPv4 is meant to be gone: {control:?}");
    world.enforce(&[
        "--dns-upstream",
        "2001:db8::53",
        "--allow",
        "api.example.org",
    ]);
    check(&[]).exits(0);
    nft("flush table inet egress_init");
    refused();
}

fn no_network_verifies() {
    let _world = World::without_link();
    ip_batch("link set lo up");
    let start = || {
        Run::new(BINARY)
            .args(user_options())
            .args(["--allow", "192.0.2.7"])
    };
    start().command(&["/bin/true"]).run().exits(0);
    check(&[]).exits(0);
}

fn check_runs_a_command_only_if_it_verifies() {
    let world = verified();
    let guarded = |options: &[&str]| {
        Run::new(BINARY)
            .arg("check")
            .args(options)
            .command(&["/bin/cat", "/proc/self/status"])
            .run()
    };
    let ran = guarded(user_options()).exits(0);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            ran.stdout().contains(&format!("{set}:\t0000000000000000")),
            "{set}\n{ran}"
        );
    }
    assert!(ran.stdout().contains("NoNewPrivs:\t1"), "{ran}");
    if has_second_uid() {
        assert!(
            ran.stdout().contains("Uid:\t1000\t1000\t1000\t1000"),
            "{ran}"
        );
    }
    let code = Run::new(BINARY)
        .arg("check")
        .command(&["/bin/sh", "-c", "exit 7"])
        .run();
    assert_eq!(code.code(), Some(7), "{code}");
    rejects(&ELSEWHERE.map(|address| Step::Tcp((address, 443).into())));
    nft("flush table inet egress_init");
    let ran = guarded(user_options()).exits(1);
    assert_eq!(ran.stdout(), "", "the command must not run");
    drop(world);
}

fn the_bypass_warns_and_passes() {
    let _world = World::new();
    let with = |value: &str| {
        Run::new(BINARY)
            .arg("check")
            .env("BEACON_ALLOW_UNSAFE_NO_FIREWALL", value)
            .command(&["/bin/echo", "the command ran"])
            .run()
    };
    let ran = with("1")
        .exits(0)
        .says(&["BEACON_ALLOW_UNSAFE_NO_FIREWALL"]);
    assert_eq!(ran.stdout(), "the command ran\n");
    for value in ["", "0", "no", "true "] {
        let ran = with(value).exits(1);
        assert_eq!(ran.stdout(), "", "{value:?} is no bypass");
    }
}
