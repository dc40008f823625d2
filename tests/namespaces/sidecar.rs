//! `apply --watch`: a keeper beside the processes that it keeps, which come and go by themselves;
//! and what is left when a keeper is gone.

use std::{fs, path::Path, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    cases,
    support::{
        capture::Frame,
        harness::needs_second_uid,
        live::{
            Going, as_node, end, eventually, is_open, ready, sidecar, status, status_of, supervised,
        },
        probe::{Outcome, Step},
        world::{
            API, BINARY, DNS, ELSEWHERE, FOREIGN_DNS, GIT, Run, SENTINEL, World, allowlist,
            reaches, rejects, user_options, zone,
        },
    },
};

cases!(sidecar:
    it_keeps_what_runs_beside_it,
    the_rules_and_the_redirect_outlive_it,
    killed_it_leaves_everything_locked,
    another_one_takes_over_without_a_gap,
    another_one_takes_over_with_another_list,
    a_second_start_changes_nothing_until_it_is_gone,
    with_the_supervisor_the_command_dies_and_the_rules_stay,
    a_hangup_during_its_start_is_a_reload,
    as_process_1_too,
);

fn lookup(name: &str) -> Step {
    Step::Lookup(name.into())
}

/// No DNS, no new address; what was open is still open, and nothing else.
#[track_caller]
fn is_shut(world: &World) {
    let (asked, frames) = world.arrived(|| {
        let before = world.outside.queries();
        for server in DNS.into_iter().chain(FOREIGN_DNS) {
            let steps = [
                Step::Dns(server, "git.example.org".into()),
                Step::DnsTcp(server, "git.example.org".into()),
            ];
            for outcome in as_node(&steps).outcomes() {
                assert!(!outcome.is_ok(), "{outcome:?}");
            }
        }
        rejects(&[
            Step::Tcp((GIT[0], 443).into()),
            Step::Tcp((ELSEWHERE[0], 443).into()),
            Step::Tcp((ELSEWHERE[1], 443).into()),
        ]);
        let after = world.outside.queries();
        (
            before.0.len() + before.1.len(),
            after.0.len() + after.1.len(),
        )
    });
    assert_eq!(asked.0, asked.1);
    // A flow to what is allowed goes on.
    let is_of_others = |frame: &&Frame| !frame.is_neighbour_talk() && !frame.to(API[0]);
    let left: Vec<&Frame> = frames.iter().filter(is_of_others).collect();
    assert!(left.is_empty(), "{left:#?}");
    reaches(&[
        Step::Tcp((API[0], 443).into()),
        Step::Tcp((API[1], 443).into()),
    ]);
}

fn it_keeps_what_runs_beside_it() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = sidecar(&[]);
    let outcomes = as_node(&[
        lookup("api.example.org"),
        Step::TcpName("api.example.org".into(), 443, false),
        Step::TcpName("api.example.org".into(), 443, true),
        lookup("git.example.org"),
        Step::Tcp((GIT[0], 443).into()),
    ])
    .outcomes();
    let ok: Vec<bool> = outcomes.iter().map(Outcome::is_ok).collect();
    assert_eq!(ok, [true, true, true, false, false], "{outcomes:#?}");
    assert!(
        world
            .queries()
            .iter()
            .all(|query| query.name == "api.example.org")
    );
    allowlist("git.example.org\n");
    eventually("it was reloaded", || is_open(GIT[0]) && !is_open(API[0]));
    world.egress().arg("check").run().exits(0);
    end(started).exits(0);
}

fn the_rules_and_the_redirect_outlive_it() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    end(sidecar(&[])).exits(0).says(&["the rules stay"]);
    is_shut(&world);
    assert!(Path::new(SENTINEL).exists());
    world.egress().arg("check").run().exits(0);
    Run::new(BINARY).arg("status").run().exits(125);
}

fn killed_it_leaves_everything_locked() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = sidecar(&[]);
    let flow = Going::flow((API[0], 443).into());
    started.signal(Signal::SIGKILL);
    started.finish();
    is_shut(&world);
    flow.goes_on();
    flow.never_failed();
}

fn another_one_takes_over_without_a_gap() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n*.example.org\n203.0.113.7\n");
    let mut started = sidecar(&[]);
    // An address that only the first keeper was told of.
    assert!(lookup("git.example.org").run().is_ok());
    let going = [
        Going::connections((API[0], 443).into()),
        Going::connections((API[1], 443).into()),
        Going::connections(([203, 0, 113, 7], 443).into()),
        Going::connections((GIT[0], 443).into()),
        Going::flow((API[0], 443).into()),
        Going::flow((GIT[1], 443).into()),
    ];
    let forbidden = Going::forbidden(vec![
        Step::Tcp((ELSEWHERE[0], 443).into()),
        Step::Tcp((API[0], 444).into()),
        Step::Udp((ELSEWHERE[1], 443).into()),
    ]);
    for turn in 0..4 {
        let before = fs::read_to_string(SENTINEL).unwrap();
        let signal = if turn % 2 == 0 {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        started.signal(signal);
        started.finish();
        assert_eq!(
            fs::read_to_string(SENTINEL).unwrap(),
            before,
            "it stays true"
        );
        started = sidecar(&[]);
        for going in &going {
            going.goes_on();
        }
        assert!(as_node(&[lookup("api.example.org")]).outcomes()[0].is_ok());
        world.egress().arg("check").run().exits(0);
    }
    for going in going {
        going.never_failed();
    }
    forbidden.never_failed();
    let frames = world.frames();
    assert!(
        !frames
            .iter()
            .any(|frame| ELSEWHERE.iter().any(|address| frame.to(*address)))
    );
    assert!(
        !status_of("api.example.org")["addresses"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    end(started).exits(0);
}

fn another_one_takes_over_with_another_list() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\ngit.example.org\n");
    let started = sidecar(&[]);
    let (stays, goes) = (
        Going::flow((API[0], 443).into()),
        Going::flow((GIT[0], 443).into()),
    );
    let clients = Going::connections((API[0], 443).into());
    started.signal(Signal::SIGKILL);
    started.finish();
    allowlist("api.example.org\n203.0.113.7\n");
    let started = sidecar(&[]);
    goes.gets_cut();
    reaches(&[Step::Tcp(([203, 0, 113, 7], 443).into())]);
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    for going in [stays, clients] {
        going.goes_on();
        going.never_failed();
    }
    world.egress().arg("check").run().exits(0);
    assert_eq!(status()["policy"]["generation"], 1);
    end(started).exits(0);
}

fn a_second_start_changes_nothing_until_it_is_gone() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = sidecar(&[]);
    let clients = Going::connections((API[0], 443).into());
    let sentinel = fs::read_to_string(SENTINEL).unwrap();
    let second = || {
        let run = world.egress().args(user_options());
        run.args(["--allow", "git.example.org"])
            .command(&["/bin/true"])
            .run()
    };
    let held = "keeps the rules of this network namespace";
    assert!(second().exits(125).says(&[held]).elapsed < Duration::from_secs(10));
    let another = Run::new(BINARY).args(["apply", "--watch"]).run();
    another.exits(125).says(&[held]);
    assert_eq!(fs::read_to_string(SENTINEL).unwrap(), sentinel);
    world.egress().arg("check").run().exits(0);
    assert!(lookup("api.example.org").run().is_ok());
    rejects(&[Step::Tcp((GIT[0], 443).into())]);
    clients.never_failed();
    end(started).exits(0);
    second().exits(0);
    reaches(&[Step::Tcp((GIT[0], 443).into())]);
    rejects(&[Step::Tcp((API[0], 443).into())]);
}

fn with_the_supervisor_the_command_dies_and_the_rules_stay() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    let id = started.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let command = format!("/proc/{}", children.trim());
    assert!(Path::new(&command).exists());
    started.signal(Signal::SIGKILL);
    started.finish();
    let state = || fs::read_to_string(format!("{command}/stat")).unwrap_or_default();
    eventually("the command dies", || {
        state().is_empty() || state().contains(") Z ")
    });
    is_shut(&world);
}

/// It ended the start, or came after the lists were read and was lost.
fn a_hangup_during_its_start_is_a_reload() {
    needs_second_uid();
    let world = World::with_zone(zone().delay(Duration::from_millis(700)));
    allowlist("api.example.org\n");
    let started = Run::new(BINARY).args(["apply", "--watch"]).start();
    eventually("it asks", || {
        let queries = world.queries();
        queries.iter().any(|query| query.name == "api.example.org")
    });
    started.signal(Signal::SIGHUP);
    let started = ready(started);
    eventually("it was reloaded", || status()["policy"]["generation"] == 2);
    end(started).exits(0);
}

fn as_process_1_too() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = Run::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", BINARY])
        .args(user_options())
        .args([
            "--supervise",
            "--",
            "/bin/sh",
            "-c",
            "echo up; sleep 1000 & sleep 1000",
        ])
        .start();
    eventually("the sentinel is there", || Path::new(SENTINEL).exists());
    eventually("it answers", || lookup("api.example.org").run().is_ok());
    let id = started.id();
    let read = |path: String| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let keeper = read(format!("/proc/{id}/task/{id}/children"));
    let children = || read(format!("/proc/{keeper}/task/{keeper}/children"));
    eventually("it has a command", || !children().is_empty());
    let command = children();
    let pid = nix::unistd::Pid::from_raw(keeper.parse().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    eventually("the command dies", || {
        !Path::new(&format!("/proc/{command}")).exists()
    });
    started.finish();
    is_shut(&world);
}
