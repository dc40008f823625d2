//! doctor: what it sees before a start and after one, that it changes nothing, and that it needs no
//! privilege. Its judgements over all other facts are unit tests.

use std::{fs, os::unix::fs::PermissionsExt, thread};

use serde_json::Value;

use crate::{
    cases,
    support::{
        dns::Behaviour,
        harness::{has_second_uid, needs_second_uid},
        probe::Step,
        world::{
            API, BINARY, Ran, Run, SENTINEL, World, file, ip_batch, nft, reaches, table,
            user_options, zone,
        },
    },
};

cases!(doctor:
    before_a_start_all_that_it_needs_is_there,
    the_kernel_is_asked_without_a_trace,
    a_kernel_that_refuses_is_seen,
    net_admin_is_named_with_its_remedy,
    what_dropping_takes_is_named_with_its_remedy,
    it_needs_no_privilege,
    silent_nameservers_fail,
    a_host_is_no_place_for_a_start,
    what_cannot_be_written_is_named,
    a_folder_of_the_users_is_named,
    as_the_command_everything_holds,
    beside_the_command_it_says_what_is_too_much,
    rules_that_are_gone_fail,
    secrets_are_shown_by_name_alone,
    the_screen_and_the_json_say_the_same,
    wrong_options_are_errors,
);

fn doctor(prefix: &[&str], options: &[&str]) -> Ran {
    let words: Vec<&str> = prefix.iter().copied().chain([BINARY, "doctor"]).collect();
    Run::new(words[0]).args(&words[1..]).args(options).run()
}

fn report(ran: &Ran) -> Value {
    let report: Value =
        serde_json::from_str(&ran.stdout()).unwrap_or_else(|e| panic!("{e}\n{ran}"));
    let checks = report["checks"].as_array().unwrap();
    let fails = checks.iter().any(|check| check["status"] == "fail");
    assert_eq!(report["ok"], !fails, "{ran}");
    assert_eq!(ran.code(), Some(i32::from(fails)), "{ran}");
    for check in checks {
        let is_wrong = check["status"] == "fail" || check["status"] == "warn";
        assert_eq!(check["remedy"].is_string(), is_wrong, "{check}");
    }
    report
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().unwrap().iter();
    checks
        .find(|check| check["id"] == id)
        .unwrap_or_else(|| panic!("{id} in {report:#}"))
}

#[track_caller]
fn is(report: &Value, id: &str, status: &str) {
    assert_eq!(check(report, id)["status"], status, "{id} in {report:#}");
}

fn asked(options: &[&str]) -> Value {
    let usual = ["--json", "--allow", "api.example.org"];
    report(&doctor(&[], &[&usual, user_options(), options].concat()))
}

fn before_a_start_all_that_it_needs_is_there() {
    let _world = World::new();
    let report = asked(&[]);
    assert_eq!(report["situation"], "before");
    let expected = if has_second_uid() { "pass" } else { "warn" };
    is(&report, "start.user", expected);
    for id in [
        "start.network",
        "start.kernel",
        "start.net_admin",
        "start.drop",
        "start.list",
        "start.nameservers",
        "start.hosts",
        "start.sentinel_folder",
    ] {
        is(&report, id, "pass");
    }
    is(&report, "live.sentinel", "skip");
    let few = "-all,+net_admin,+setuid,+setgid,+setpcap";
    let sets = [format!("--bounding-set={few}"), format!("--inh-caps={few}")];
    let few = doctor(&["setpriv", &sets[0], &sets[1]], &["--json"]);
    is(&self::report(&few), "start.excess", "pass");
    is(&report, "start.excess", "fail");
}

/// Neither tables nor flows: not even a locked network is opened for a moment.
fn the_kernel_is_asked_without_a_trace() {
    let world = World::new();
    is(&asked(&[]), "start.kernel", "pass");
    assert_eq!(table("egress_init"), None);
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
    assert!(!std::path::Path::new(SENTINEL).exists());
    // A start that has failed leaves its lock; no question opens it.
    world.fails(&["--allow", "bad..name"], &[]);
    let locked = table("egress_init").unwrap();
    let ((), frames) = world.arrived(|| {
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                for _ in 0..10 {
                    is(
                        &asked(&["--dns-upstream", "127.0.0.1"]),
                        "start.kernel",
                        "pass",
                    );
                }
            });
            while !asking.is_finished() {
                for step in API.map(|address| Step::Udp((address, 443).into())) {
                    assert!(!step.run().is_ok(), "{step:?}");
                }
            }
        });
    });
    let frames: Vec<_> = frames.iter().filter(|f| !f.is_neighbour_talk()).collect();
    assert!(frames.is_empty(), "{frames:#?}");
    assert_eq!(table("egress_init").unwrap(), locked);
    world.is_locked();
}

/// The capability is there, and yet the kernel refuses: in a user namespace that does not own the
/// network namespace.
fn a_kernel_that_refuses_is_seen() {
    let _world = World::new();
    let ran = doctor(&["unshare", "--user", "--map-root-user"], &["--json"]);
    let report = report(&ran);
    is(&report, "start.net_admin", "pass");
    is(&report, "start.kernel", "fail");
    let remedy = check(&report, "start.kernel")["remedy"].as_str().unwrap();
    assert!(remedy.contains("user namespace"), "{remedy}");
}

fn without(capability: &str) -> Value {
    let sets = [
        format!("--bounding-set=-{capability}"),
        format!("--inh-caps=-{capability}"),
    ];
    let options = [&["--json"], user_options()].concat();
    report(&doctor(&["setpriv", &sets[0], &sets[1]], &options))
}

fn remedy<'a>(report: &'a Value, id: &str) -> &'a str {
    check(report, id)["remedy"].as_str().unwrap()
}

fn net_admin_is_named_with_its_remedy() {
    let _world = World::new();
    let report = without("net_admin");
    is(&report, "start.net_admin", "fail");
    is(&report, "start.kernel", "skip");
    let remedy = remedy(&report, "start.net_admin");
    assert!(remedy.contains("--cap-add=NET_ADMIN"), "{remedy}");
}

fn what_dropping_takes_is_named_with_its_remedy() {
    needs_second_uid();
    let _world = World::new();
    for capability in ["setuid", "setgid", "setpcap"] {
        let report = without(capability);
        is(&report, "start.drop", "fail");
        let option = format!("--cap-add={}", capability.to_uppercase());
        let remedy = remedy(&report, "start.drop");
        assert!(remedy.contains(&option), "{remedy}");
    }
}

fn it_needs_no_privilege() {
    needs_second_uid();
    let _world = World::new();
    let node = [
        "setpriv",
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    let report = report(&doctor(&node, &["--json"]));
    is(&report, "start.net_admin", "fail");
    is(&report, "start.kernel", "skip");
    is(&report, "start.hosts", "fail");
    is(&report, "start.sentinel_folder", "fail");
    is(&report, "start.nameservers", "pass");
    is(&report, "start.user", "pass");
}

fn silent_nameservers_fail() {
    let world = World::with_zone(zone().everything(Behaviour::Drop));
    let report = asked(&[]);
    is(&report, "start.nameservers", "fail");
    let one = asked(&["--dns-upstream", "127.0.0.1:1"]);
    is(&one, "start.nameservers", "fail");
    file("/etc/resolv.conf", "");
    is(&asked(&[]), "start.nameservers", "warn");
    drop(world);
}

fn a_host_is_no_place_for_a_start() {
    let _world = World::new();
    ip_batch("link add docker0 type bridge");
    let report = asked(&[]);
    is(&report, "start.network", "fail");
    is(&report, "start.kernel", "skip");
    is(&asked(&["--allow-host-network"]), "start.network", "pass");
}

fn what_cannot_be_written_is_named() {
    let _world = World::new();
    Run::new("mount")
        .args(["-o", "remount,bind,ro", "/etc/hosts"])
        .run()
        .exits(0);
    is(&asked(&[]), "start.hosts", "fail");
    is(&asked(&["--dns", "system"]), "start.hosts", "skip");
    // Nothing to write, and nobody to ask.
    let addresses = report(&doctor(&[], &["--json", "--allow", "192.0.2.7"]));
    is(&addresses, "start.hosts", "skip");
    is(&addresses, "start.nameservers", "skip");
    // A folder that is missing is made by a start, not by a question.
    let missing = "/etc/world/missing/deep/firewall.ready";
    is(
        &asked(&["--sentinel", missing]),
        "start.sentinel_folder",
        "pass",
    );
    assert!(!std::path::Path::new("/etc/world/missing").exists());
    fs::create_dir("/etc/world/closed").unwrap();
    let mount = ["-t", "tmpfs", "-o", "ro", "tmpfs", "/etc/world/closed"];
    Run::new("mount").args(mount).run().exits(0);
    let closed = asked(&["--sentinel", "/etc/world/closed/firewall.ready"]);
    is(&closed, "start.sentinel_folder", "fail");
}

fn a_folder_of_the_users_is_named() {
    needs_second_uid();
    let _world = World::new();
    fs::create_dir("/etc/world/open").unwrap();
    fs::set_permissions("/etc/world/open", fs::Permissions::from_mode(0o777)).unwrap();
    let open = asked(&["--sentinel", "/etc/world/open/firewall.ready"]);
    is(&open, "start.sentinel_folder", "fail");
}

fn as_the_command_everything_holds() {
    let world = World::new();
    let state = "/etc/world/state";
    let run = world
        .egress()
        .args(user_options())
        .args([
            "--allow",
            "192.0.2.7",
            "--state-dir",
            state,
            "--fix-state-dir",
        ])
        .env("EGRESS_INIT_STATE_DIR", state)
        .command(&[BINARY, "doctor", "--json"]);
    let ran = run.run();
    let report = report(&ran);
    assert_eq!(report["situation"], "after");
    is(
        &report,
        "live.uid",
        if has_second_uid() { "pass" } else { "warn" },
    );
    for id in [
        "live.sentinel",
        "live.canary",
        "live.ipv6",
        "live.capabilities",
        "live.no_new_privs",
        "live.socket_filter",
        "around.state_dir",
    ] {
        is(&report, id, "pass");
    }
    let ipv6 = check(&report, "live.ipv6")["summary"].as_str().unwrap();
    assert!(ipv6.contains("answer"), "{ipv6}");
    is(&report, "start.kernel", "skip");
    // Through check, in a container that runs.
    let guarded = Run::new(BINARY)
        .arg("check")
        .args(user_options())
        .command(&[BINARY, "doctor", "--json"])
        .run();
    is(&self::report(&guarded), "live.capabilities", "pass");
}

fn beside_the_command_it_says_what_is_too_much() {
    let world = World::new();
    world.enforce(&["--allow", "192.0.2.7"]);
    let report = asked(&[]);
    is(&report, "live.canary", "pass");
    is(&report, "live.capabilities", "fail");
    is(&report, "live.uid", "warn");
    is(&report, "live.no_new_privs", "warn");
    let remedy = check(&report, "live.capabilities")["remedy"]
        .as_str()
        .unwrap();
    assert!(remedy.contains("egress-init check"), "{remedy}");
}

fn rules_that_are_gone_fail() {
    let world = World::new();
    world.enforce(&["--allow", "192.0.2.7"]);
    is(&asked(&[]), "live.canary", "pass");
    nft("flush table inet egress_init");
    let report = asked(&[]);
    is(&report, "live.sentinel", "pass");
    is(&report, "live.canary", "fail");
    is(&report, "live.ipv6", "fail");
    fs::remove_file(SENTINEL).unwrap();
    fs::write(SENTINEL, "{}").unwrap();
    is(&asked(&[]), "live.sentinel", "fail");
}

fn secrets_are_shown_by_name_alone() {
    let _world = World::new();
    let ran = Run::new(BINARY)
        .args(["doctor", "--json"])
        .env("OPENAI_API_KEY", "sk-not-for-screens")
        .env("DB_PASSWORD_FILE", "/run/secrets/db")
        .run();
    let report = report(&ran);
    is(&report, "around.secrets", "warn");
    let summary = check(&report, "around.secrets")["summary"]
        .as_str()
        .unwrap();
    assert!(
        summary.contains("OPENAI_API_KEY") && !summary.contains("DB_PASSWORD"),
        "{summary}"
    );
    assert!(
        !format!("{ran}")
            .replace(r#"OPENAI_API_KEY="sk-not-for-screens""#, "")
            .contains("sk-not"),
        "{ran}"
    );
    is(&asked(&[]), "around.secrets", "pass");
}

fn the_screen_and_the_json_say_the_same() {
    let _world = World::new();
    let report = asked(&[]);
    let options = [user_options(), &["--allow", "api.example.org"]].concat();
    let screen = doctor(&[], &options);
    let text = screen.stdout();
    for found in report["checks"].as_array().unwrap() {
        let id = found["id"].as_str().unwrap();
        let line = text.lines().find(|line| line.contains(id));
        match line {
            Some(line) => {
                assert!(
                    line.starts_with(found["status"].as_str().unwrap()),
                    "{line}"
                );
                assert!(line.ends_with(found["summary"].as_str().unwrap()), "{line}");
            }
            None => assert!(id.starts_with("live."), "{id}\n{screen}"),
        }
    }
    assert!(text.lines().count() <= 50, "one screen\n{screen}");
    assert_eq!(screen.stderr(), "");
}

fn wrong_options_are_errors() {
    let _world = World::new();
    doctor(&[], &["--dns", "magic"])
        .exits(125)
        .says(&["--dns", "magic"]);
    let report = report(&doctor(&[], &["--json", "--user", "nobody-here"]));
    is(&report, "start.user", "fail");
    is(&report, "start.drop", "skip");
    doctor(&[], &["--", "/bin/true"]).exits(2);
    let bad = asked(&["--allow", "bad..name", "--allow", "::/0"]);
    is(&bad, "start.list", "fail");
    let summary = check(&bad, "start.list")["summary"].as_str().unwrap();
    assert!(
        summary.contains("--allow:2:") && summary.ends_with("(and 1 more)"),
        "{summary}"
    );
}
