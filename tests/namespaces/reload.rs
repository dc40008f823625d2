//! Another list while the command runs: what it revokes is cut at once, what it keeps never
//! notices, and one that is wrong changes nothing.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cases,
    support::{
        dns::ZoneSpec,
        harness::needs_second_uid,
        live::{Going, SHORT, end, eventually, is_open, ready, status, supervised},
        probe::Step,
        world::{
            ALLOWLIST, API, GIT, SENTINEL, TICKER, World, allowlist, file, reaches, rejects,
            user_options, zone,
        },
    },
};

cases!(reload:
    however_a_file_is_changed_it_is_noticed,
    the_directory_behind_a_config_map_is_swapped,
    a_list_that_changes_during_the_start_is_read_again,
    a_list_that_cannot_be_read_ends_nothing,
    a_default_list_that_goes_is_a_mistake,
    a_hangup_reads_lists_and_hosts_again,
    a_list_that_is_wrong_changes_nothing,
    what_is_revoked_gets_cut_and_what_stays_never_notices,
    an_address_of_long_ago_still_serves_the_flows_to_it,
    a_refused_name_gets_cut_out_of_a_network,
    the_sentinel_tells_of_the_new_list,
    a_reload_that_waits_for_dns_delays_nothing,
);

fn generation() -> u64 {
    status()["policy"]["generation"].as_u64().unwrap()
}

fn sentinel() -> Value {
    serde_json::from_slice(&fs::read(SENTINEL).unwrap()).unwrap()
}

fn is(api: bool, git: bool) {
    eventually("the list is in force", || {
        is_open(API[0]) == api && is_open(GIT[0]) == git
    });
}

fn however_a_file_is_changed_it_is_noticed() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    is(true, false);
    // In place, first empty and then with something in it.
    fs::write(ALLOWLIST, "git.example.org\n").unwrap();
    is(false, true);
    // In place of the old one.
    let next = file("/etc/beacon-code/next", "api.example.org\n");
    fs::rename(next, ALLOWLIST).unwrap();
    is(true, false);
    // Away, and there again.
    fs::rename(ALLOWLIST, "/etc/beacon-code/next").unwrap();
    sleep(Duration::from_millis(300));
    allowlist("api.example.org\ngit.example.org\n");
    is(true, true);
    // What says the same is no change.
    let before = generation();
    allowlist("api.example.org\ngit.example.org\n");
    sleep(Duration::from_millis(500));
    assert_eq!(generation(), before);
    end(started);
}

fn the_directory_behind_a_config_map_is_swapped() {
    needs_second_uid();
    let world = World::new();
    let at = |name: &str| Path::new("/etc/mounted").join(name);
    for (version, name) in [("..1", "api"), ("..2", "git"), ("..3", "api")] {
        fs::create_dir_all(at(version)).unwrap();
        file(
            at(version).join("allowed.txt"),
            &format!("{name}.example.org\n"),
        );
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/allowed.txt", at("allowed.txt")).unwrap();
    let started = supervised(&world, &["--allowlist", "/etc/mounted/allowed.txt"]);
    is(true, false);
    for (version, api) in [("..2", false), ("..3", true)] {
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        is(api, !api);
    }
    end(started);
}

/// While its names are resolved: it was read before, and its file was watched afterwards. Not in
/// the folder of the sentinel, where the start itself makes the watch look.
fn a_list_that_changes_during_the_start_is_read_again() {
    needs_second_uid();
    let world = World::with_zone(zone().delay(Duration::from_millis(700)));
    fs::create_dir("/etc/mounted").unwrap();
    let list = file("/etc/mounted/allowed.txt", "api.example.org\n");
    let run = world.egress().args(user_options());
    let run = run.args(["--supervise", "--allowlist", "/etc/mounted/allowed.txt"]);
    let started = run.command(&["/bin/sleep", "1000"]).start();
    eventually("it asks", || {
        let queries = world.queries();
        queries.iter().any(|query| query.name == "api.example.org")
    });
    file(list, "git.example.org\n");
    let started = ready(started);
    is(false, true);
    end(started);
}

/// A link that leads to itself ended the supervisor, and with it the command.
fn a_list_that_cannot_be_read_ends_nothing() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let mut started = supervised(&world, &["--allowlist", ALLOWLIST]);
    let wrong: [(&str, &dyn Fn()); 5] = [
        // As glibc says it, or musl.
        ("Too many levels|Symbolic link loop", &|| {
            symlink(ALLOWLIST, ALLOWLIST).unwrap();
        }),
        ("No such file", &|| symlink("/no/where", ALLOWLIST).unwrap()),
        ("not a regular file", &|| fs::create_dir(ALLOWLIST).unwrap()),
        ("not a regular file", &|| {
            symlink("/dev/zero", ALLOWLIST).unwrap();
        }),
        ("larger than", &|| {
            let file = fs::File::create(ALLOWLIST).unwrap();
            file.set_len(1 << 30).unwrap();
        }),
    ];
    for (reason, put) in wrong {
        fs::remove_file(ALLOWLIST).unwrap();
        put();
        eventually(reason, || {
            let said = status()["reload_error"].clone();
            let said = said.as_str().unwrap_or_default();
            reason.split('|').any(|reason| said.contains(reason))
        });
        is(true, false);
        assert!(started.is_running(), "{reason}");
        fs::remove_file(ALLOWLIST)
            .or_else(|_| fs::remove_dir(ALLOWLIST))
            .unwrap();
        allowlist("api.example.org\n");
        eventually(reason, || status()["reload_error"].is_null());
    }
    allowlist("git.example.org\n");
    is(false, true);
    end(started);
}

fn a_default_list_that_goes_is_a_mistake() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    is(true, false);
    fs::remove_file(ALLOWLIST).unwrap();
    eventually("it is gone", || {
        let said = status()["reload_error"].clone();
        said.as_str()
            .is_some_and(|said| said.contains("No such file"))
    });
    is(true, false);
    assert_eq!(generation(), 1);
    allowlist("git.example.org\n");
    eventually("it is back", || generation() == 2);
    is(false, true);
    end(started);
}

fn a_hangup_reads_lists_and_hosts_again() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    is(true, false);
    assert_eq!(generation(), 1);
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    fs::write("/etc/hosts", format!("{hosts}{} api.example.org\n", GIT[0])).unwrap();
    started.signal(Signal::SIGHUP);
    eventually("it was reloaded", || generation() == 2);
    let asked = world.queries().len();
    // The operator's word, and nobody is asked.
    let outcome = Step::Lookup("api.example.org".into()).run();
    assert_eq!(outcome.detail, serde_json::json!([GIT[0].to_string()]));
    reaches(&[Step::Tcp((GIT[0], 443).into())]);
    assert_eq!(world.queries().len(), asked);
    end(started).says(&["generation 2"]);
}

fn a_list_that_is_wrong_changes_nothing() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    let flow = Going::flow((API[0], 443).into());
    allowlist("git.example.org\napi..example.org\n");
    eventually("it is said", || status()["reload_error"].is_string());
    let said = status()["reload_error"].as_str().unwrap().to_owned();
    let place = format!("{ALLOWLIST}:2:5");
    assert!(said.contains(&place), "{said}");
    assert_eq!(generation(), 1);
    is(true, false);
    // A file that is gone is wrong too, where it is named; the default list has a default.
    allowlist("");
    eventually("it is said", || {
        let status = status();
        status["reload_error"]
            .as_str()
            .is_some_and(|now| now != said)
    });
    is(true, false);
    allowlist("api.example.org\ngit.example.org\n");
    is(true, true);
    assert!(status()["reload_error"].is_null());
    flow.goes_on();
    flow.never_failed();
    end(started).says(&["the lists were not reloaded", &place]);
}

fn what_is_revoked_gets_cut_and_what_stays_never_notices() {
    needs_second_uid();
    let world = World::new();
    let api = "api.example.org:443,1900\n198.51.100.77\n";
    allowlist(&format!("{api}git.example.org:443,1900\n198.51.100.78\n"));
    let started = supervised(&world, &[]);
    let literal = |last: u8| ([198, 51, 100, last], 443).into();
    let stay = [
        Going::flow((API[0], 443).into()),
        Going::flow((API[1], 443).into()),
        Going::flow(literal(77)),
        Going::listening((API[0], TICKER).into()),
    ];
    let go = [
        Going::flow((GIT[0], 443).into()),
        Going::flow((GIT[1], 443).into()),
        Going::flow(literal(78)),
        Going::listening((GIT[0], TICKER).into()),
        Going::listening((GIT[1], TICKER).into()),
    ];
    let ((), frames) = world.arrived(|| {
        fs::write(ALLOWLIST, api).unwrap();
        eventually("it was reloaded", || generation() == 2);
    });
    let to_api = |frames: &[crate::support::capture::Frame]| {
        frames
            .iter()
            .filter(|frame| frame.to_port((API[0], 443).into()))
            .count()
    };
    assert!(to_api(&frames) > 0, "the flow is seen outside");
    // From now on.
    let before = stay.each_ref().map(Going::done);
    let ((), frames) = world.arrived(|| {
        for flow in go {
            flow.gets_cut();
        }
    });
    let late: Vec<_> = frames
        .iter()
        .filter(|frame| GIT.iter().any(|git| frame.to(*git)))
        .collect();
    assert!(late.is_empty(), "{late:#?}");
    assert!(to_api(&frames) > 0);
    for (flow, before) in stay.into_iter().zip(before) {
        flow.goes_on();
        assert!(flow.done() > before);
        let report = flow.never_failed();
        // Not even one packet was lost: TCP would have waited 200 ms to send it again, and more
        // each time.
        assert!(report.longest < Duration::from_secs(2), "{report:#?}");
    }
    rejects(&[Step::Tcp((GIT[0], 443).into()), Step::Tcp(literal(78))]);
    end(started);
}

fn an_address_of_long_ago_still_serves_the_flows_to_it() {
    needs_second_uid();
    let at = |last: u8| {
        let address = format!("198.51.100.{last}");
        ZoneSpec::new()
            .addresses("api.example.org", &[&address])
            .ttl("api.example.org", 1)
            .addresses("git.example.org", &["198.51.100.20"])
    };
    let world = World::with_zone(at(10));
    allowlist("api.example.org\n");
    let started = supervised(&world, &SHORT);
    let (old, new) = ([198, 51, 100, 10].into(), [198, 51, 100, 11].into());
    let flow = Going::flow((old, 443).into());
    world.outside.change(at(11));
    eventually("the old one ends", || is_open(new) && !is_open(old));
    allowlist("api.example.org\ngit.example.org\n");
    eventually("it was reloaded", || generation() == 2);
    flow.goes_on();
    rejects(&[Step::Tcp((old, 443).into())]);
    // Until the list has the name no more.
    allowlist("git.example.org\n");
    eventually("it was reloaded", || generation() == 3);
    flow.gets_cut();
    end(started);
}

fn a_refused_name_gets_cut_out_of_a_network() {
    needs_second_uid();
    let world = World::new();
    allowlist("198.51.100.0/24\n");
    let started = supervised(&world, &[]);
    is(true, true);
    let (stays, goes) = (
        Going::flow((API[0], 443).into()),
        Going::flow((GIT[0], 443).into()),
    );
    allowlist("198.51.100.0/24\n!git.example.org\n");
    is(true, false);
    goes.gets_cut();
    allowlist("198.51.100.0/24\n!git.example.org\n203.0.113.66\n");
    eventually("it was reloaded", || generation() == 3);
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    allowlist("198.51.100.0/24\n");
    is(true, true);
    stays.goes_on();
    stays.never_failed();
    end(started);
}

fn the_sentinel_tells_of_the_new_list() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    let before = sentinel();
    assert_eq!(
        (&before["names"], &before["dns"]),
        (&1.into(), &"proxy".into())
    );
    world.egress().arg("check").run().exits(0);
    allowlist("api.example.org\ngit.example.org\n192.0.2.7\n");
    eventually("it was published", || sentinel() != before);
    let after = sentinel();
    assert_eq!(after["mode"], before["mode"]);
    world.egress().arg("check").run().exits(0);
    end(started);
}

fn a_reload_that_waits_for_dns_delays_nothing() {
    needs_second_uid();
    let world = World::new();
    allowlist("198.51.100.0/24\napi.example.org\n");
    let options = ["--resolve-timeout", "8s"];
    let mut started = supervised(&world, &options);
    // A refused name has to be known before it is in force; nobody answers for this one.
    let silent = crate::support::world::zone()
        .addresses("slow.example.org", &["198.51.100.30"])
        .on("slow.example.org", crate::support::dns::Behaviour::Drop);
    world.outside.change(silent);
    allowlist("198.51.100.0/24\napi.example.org\n!slow.example.org\n");
    eventually("it is asked for", || {
        world
            .queries()
            .iter()
            .any(|query| query.name == "slow.example.org")
    });
    let since = Instant::now();
    assert!(Step::Lookup("api.example.org".into()).run().is_ok());
    assert_eq!(generation(), 1);
    started.signal(Signal::SIGTERM);
    while started.is_running() {
        assert!(since.elapsed() < Duration::from_secs(5), "the signal waits");
        sleep(Duration::from_millis(20));
    }
    started.finish();
}
