//! `egress-init status`: that it is true, whose it is, and that nobody holds it up.

use std::{
    fmt::Write as _,
    fs,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::RecordType;
use serde_json::Value;

use crate::{
    cases,
    support::{
        harness::needs_second_uid,
        live::{ask, end, eventually, status, status_of, supervised},
        probe::Step,
        world::{
            API, BINARY, DNS, ELSEWHERE, GIT, Run, World, allowlist, reaches, rejects, table, zone,
        },
    },
};

cases!(status:
    what_it_says_is_so,
    it_is_roots_alone,
    who_does_not_read_holds_nobody_up,
);

const SOCKET: &str = "/etc/beacon-code/egress-init.sock";

fn number(status: &Value, path: &str) -> u64 {
    status
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {path} in {status}"))
}

fn what_it_says_is_so() {
    needs_second_uid();
    let world = World::with_zone(zone().ttl("api.example.org", 300));
    allowlist("api.example.org\n*.example.org\n");
    let started = supervised(&world, &[]);
    let before = status();
    assert_eq!(before["pid"], started.id());
    assert_eq!(number(&before, "/policy/generation"), 1);
    assert_eq!(before["schema"], 1);
    let mark = before["policy"]["mark"].as_str().unwrap().to_owned();
    assert!(table("egress_init").unwrap().contains(&mark), "{mark}");
    let api = status_of("api.example.org");
    let lives = api["addresses"].as_array().unwrap();
    let known: Vec<_> = lives
        .iter()
        .map(|lives| lives["address"].as_str().unwrap())
        .collect();
    assert_eq!(known.len(), 2);
    assert!(
        API.iter()
            .all(|api| known.contains(&api.to_string().as_str())),
        "{known:?}"
    );
    for lives in lives {
        let life = lives["expires_in"].as_u64().unwrap();
        assert!((330..=360).contains(&life), "{life}");
    }
    assert_eq!(
        (&api["wildcard"], &api["error"]),
        (&false.into(), &Value::Null)
    );
    let ask = |name| ask(DNS[0], name, RecordType::A).unwrap();
    ask("git.example.org");
    ask("git.example.org");
    ask("tunnel.example.net");
    assert_eq!(status_of("git.example.org")["wildcard"], true);
    reaches(&[
        Step::Tcp((GIT[0], 443).into()),
        Step::Tcp((API[0], 443).into()),
    ]);
    rejects(&[Step::Tcp((ELSEWHERE[0], 443).into())]);
    let after = status();
    let grew = |path: &str| number(&after, path) - number(&before, path);
    assert_eq!(grew("/counters/let_out/packets"), 2);
    assert_eq!(grew("/counters/refused/packets"), 1);
    assert!(grew("/counters/refused/octets") > 20);
    assert_eq!(grew("/counters/dns/answered"), 2);
    assert_eq!(grew("/counters/dns/cached"), 1);
    assert_eq!(grew("/counters/dns/refused"), 1);
    assert_eq!(grew("/counters/dns/failed"), 0);
    let text = Run::new(BINARY).arg("status").run().exits(0);
    text.has_on_stdout("generation 1")
        .has_on_stdout("git.example.org");
    sleep(Duration::from_millis(2100));
    let later = status_of("api.example.org")["addresses"][0]["expires_in"].as_u64();
    let life = lives
        .iter()
        .filter_map(|lives| lives["expires_in"].as_u64())
        .max();
    assert!(later < life, "{later:?} {life:?}");
    end(started);
    assert!(!Path::new(SOCKET).exists());
    Run::new(BINARY)
        .arg("status")
        .run()
        .exits(125)
        .says(&["no keeper answers"]);
}

fn it_is_roots_alone() {
    needs_second_uid();
    let world = World::new();
    allowlist("api.example.org\n");
    let started = supervised(&world, &[]);
    let socket = fs::metadata(SOCKET).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o7777), (0, 0o600));
    let ran = Run::new("setpriv")
        .args([
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            BINARY,
            "status",
            "--json",
        ])
        .run()
        .exits(125)
        .says(&["ask as root"]);
    assert_eq!(ran.stdout(), "");
    end(started);
}

fn who_does_not_read_holds_nobody_up() {
    needs_second_uid();
    let world = World::new();
    // As much to say as no socket has room for.
    let name = |n| format!("n{n}.a-rather-long-name-of-a-host.example.org");
    let mut hosts = fs::read_to_string("/etc/hosts").unwrap();
    let mut list = "api.example.org\n".to_owned();
    for n in 0..3000 {
        writeln!(hosts, "198.51.100.{} {}", n % 250, name(n)).unwrap();
        writeln!(list, "{}", name(n)).unwrap();
    }
    fs::write("/etc/hosts", hosts).unwrap();
    allowlist(&list);
    let started = supervised(&world, &[]);
    let silent: Vec<UnixStream> = (0..3)
        .map(|_| UnixStream::connect(SOCKET).unwrap())
        .collect();
    let since = Instant::now();
    // Meanwhile everything else goes on.
    let asked = Instant::now();
    assert!(ask(DNS[0], "api.example.org", RecordType::A).is_some());
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "{:?}",
        asked.elapsed()
    );
    eventually("it answers", || {
        let ran = Run::new(BINARY).args(["status", "--json"]).run();
        ran.code() == Some(0) && ran.stdout().contains("n2999.")
    });
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );
    drop(silent);
    end(started);
}
