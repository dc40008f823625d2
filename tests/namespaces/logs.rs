//! `--log-format json`: one object a line, the documented fields, a correlation id, no secret.

use serde_json::Value;

use crate::{
    cases,
    support::world::{BINARY, Ran, Run, World, user_options},
};

cases!(logs:
    a_good_start_is_one_event_with_its_figures,
    a_failure_is_an_event_a_line,
    every_line_has_the_correlation_id,
    what_a_terminal_would_obey_is_escaped,
    no_secret_is_logged,
);

fn objects(ran: &Ran) -> Vec<Value> {
    ran.stderr()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}\n{ran}")))
        .inspect(|object: &Value| {
            for field in ["timestamp", "level", "message"] {
                assert!(object[field].is_string(), "{field}\n{ran}");
            }
        })
        .collect()
}

fn json(world: &World, options: &[&str]) -> Run {
    let run = world.egress().args(user_options());
    run.args(["--log-format", "json"]).args(options)
}

fn a_good_start_is_one_event_with_its_figures() {
    let world = World::new();
    let ran = json(
        &world,
        &["--allow", "api.example.org", "--allow", "192.0.2.7"],
    )
    .command(&["/bin/true"])
    .run()
    .exits(0);
    let objects = objects(&ran);
    let ready: Vec<_> = objects.iter().filter(|o| o["event"] == "ready").collect();
    let [ready] = ready[..] else { panic!("{ran}") };
    assert_eq!(ready["level"], "info");
    assert_eq!(
        (&ready["names"], &ready["ipv4"], &ready["ipv6"]),
        (&1.into(), &2.into(), &1.into())
    );
    assert_eq!(ready["dns"], "pinned");
    assert!(ready["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{ran}");
    // The sentence is the one that text has, and text has nothing else.
    let message = ready["message"].as_str().unwrap();
    assert!(
        message.starts_with("firewall ready: 1 name, 2 IPv4 + 1 IPv6 addresses, dns pinned, "),
        "{message}"
    );
    let text = world.enforce(&["--allow", "api.example.org", "--allow", "192.0.2.7"]);
    let stderr = text.stderr();
    let line = stderr.lines().find(|line| line.contains("ready")).unwrap();
    assert!(
        line.starts_with("egress-init: firewall ready: 1 name, 2 IPv4 +") && line.ends_with(" ms"),
        "{text}"
    );
}

fn a_failure_is_an_event_a_line() {
    let world = World::new();
    let ran = json(&world, &["--allow", "bad..name", "--allow", "::/0"])
        .command(&["/bin/true"])
        .run()
        .exits(125);
    let objects = objects(&ran);
    let failed: Vec<_> = objects.iter().filter(|o| o["event"] == "failed").collect();
    assert_eq!(failed.len(), 2, "{ran}");
    for object in failed {
        assert_eq!(object["level"], "error");
        assert_eq!(object["exit_code"], 125);
    }
}

fn every_line_has_the_correlation_id() {
    let world = World::new();
    let ids = |id: Option<&str>| -> Vec<Value> {
        let run = json(&world, &["--dns", "system", "--allow", "192.0.2.7"]);
        let run = match id {
            Some(id) => run.env("EGRESS_INIT_CORRELATION_ID", id),
            None => run,
        };
        let ran = run.command(&["/bin/true"]).run().exits(0);
        let ids: Vec<_> = objects(&ran)
            .iter()
            .map(|object| object["correlation_id"].clone())
            .collect();
        assert!(ids.len() > 1, "more than one line\n{ran}");
        ids
    };
    assert!(ids(Some("job 7")).iter().all(|id| id == "job 7"));
    // Without it the container's, as far as it can be known; the test is in none of its own.
    Run::new("unshare")
        .args(["--uts", "sh", "-c"])
        .arg(format!(
            "hostname 0aa20b05a40a && {BINARY} check --sentinel /nowhere --log-format json 2>&1"
        ))
        .run()
        .exits(1)
        .has_on_stdout("\"correlation_id\":\"");
}

fn what_a_terminal_would_obey_is_escaped() {
    let world = World::new();
    let ran = world
        .egress()
        .env("EGRESS_INIT_ALLOW", "a\u{1b}[2Jb")
        .command(&["/bin/true"])
        .run()
        .exits(125);
    assert!(!ran.stderr().contains('\u{1b}'), "{ran}");
}

/// At the chattiest level, in both formats, good start and bad.
fn no_secret_is_logged() {
    let world = World::new();
    let secret = "c0ffee-not-for-logs";
    for format in ["text", "json"] {
        for (entry, code) in [("api.example.org", 0), ("bad..name", 125)] {
            let ran = world
                .egress()
                .args(user_options())
                .args([
                    "--log-format",
                    format,
                    "--log-level",
                    "trace",
                    "--allow",
                    entry,
                ])
                .env("OPENAI_API_KEY", secret)
                .env("EGRESS_INIT_TOKEN", secret)
                .command(&["/bin/true", secret])
                .run()
                .exits(code);
            assert!(
                ran.stderr().contains("EGRESS_INIT_TOKEN"),
                "control: names are\n{ran}"
            );
            assert!(!ran.stderr().contains(secret), "{ran}");
        }
    }
}
