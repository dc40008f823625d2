//! From "enforced" to "exec", seen from inside the command.
//!
//! A launch replaces its process, so each case starts this executable once more, as a stand-in
//! for the entrypoint (`stand_in` below); what the command then sees is asked of cat, sh and perl,
//! which every Debian and Ubuntu has. Uids are changed and namespaces made: it takes root.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use egress_init::canary::{self, Alive, Dead, Family};
use egress_init::check::{self, NotReady};
use egress_init::command::Command;
use egress_init::launch::launch;
use egress_init::privileges::Privileges;
use egress_init::sentinel::{self, Enforced, NotVerified, Place, Sentinel};
use egress_init::socket_filter;
use libtest_mimic::{Arguments, Completion, Trial};
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

/// A user that no account names.
const UID: u32 = 4242;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next().as_ref().and_then(|word| word.to_str()) {
        Some("stand-in") => return stand_in(words),
        Some("ask") => return ask(words),
        _ => {}
    }
    let cases: [(&str, fn()); 18] = [
        ("the_command_keeps_nothing", the_command_keeps_nothing),
        ("the_process_stays_the_same", the_process_stays_the_same),
        ("pid_1_becomes_the_command", pid_1_becomes_the_command),
        (
            "a_command_that_stays_root_has_no_capability",
            a_command_that_stays_root_has_no_capability,
        ),
        (
            "a_kept_capability_is_all_there_is",
            a_kept_capability_is_all_there_is,
        ),
        (
            "new_privileges_are_let_through_on_request",
            new_privileges_are_let_through_on_request,
        ),
        (
            "only_the_three_standard_descriptors_pass",
            only_the_three_standard_descriptors_pass,
        ),
        (
            "signals_are_as_in_a_new_process",
            signals_are_as_in_a_new_process,
        ),
        (
            "words_environment_and_directory_pass_untouched",
            words_environment_and_directory_pass_untouched,
        ),
        (
            "sockets_that_the_firewall_cannot_see_are_refused",
            sockets_that_the_firewall_cannot_see_are_refused,
        ),
        (
            "the_sentinel_is_there_for_the_command",
            the_sentinel_is_there_for_the_command,
        ),
        (
            "what_cannot_be_executed_leaves_no_sentinel",
            what_cannot_be_executed_leaves_no_sentinel,
        ),
        (
            "what_the_user_may_not_execute_yields_to_what_it_may",
            what_the_user_may_not_execute_yields_to_what_it_may,
        ),
        (
            "a_missing_capability_is_named",
            a_missing_capability_is_named,
        ),
        (
            "a_signal_before_exec_stops_it",
            a_signal_before_exec_stops_it,
        ),
        (
            "a_sentinel_verifies_where_root_published_it",
            a_sentinel_verifies_where_root_published_it,
        ),
        (
            "a_user_namespace_with_one_user_is_enough",
            a_user_namespace_with_one_user_is_enough,
        ),
        (
            "the_canary_tells_live_rules_from_dead_ones",
            the_canary_tells_live_rules_from_dead_ones,
        ),
    ];
    let root = nix::unistd::geteuid().is_root();
    let trials = cases.map(|(name, case)| {
        Trial::ignorable_test(name, move || {
            if !root {
                return Ok(Completion::ignored_with(
                    "needs root: it changes uids and makes network namespaces",
                ));
            }
            case();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

// The stand-in for the entrypoint.

/// `stand-in SENTINEL USER KEEP NEW_PRIVS COMMAND [ARG]...`, where `-` means not given.
fn stand_in(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut option =
        || Some(words.next().unwrap().into_string().unwrap()).filter(|word| word != "-");
    let path = option();
    let privileges = Privileges {
        identity: option().map(|user| {
            user.parse::<egress_init::accounts::UserSpec>()
                .unwrap()
                .look_up()
                .unwrap()
        }),
        keep_caps: option()
            .map(|cap| cap.parse().unwrap())
            .into_iter()
            .collect(),
        no_new_privs: option().is_none(),
        socket_families: socket_filter::Family::DEFAULT.to_vec(),
    };
    let words: Vec<_> = words.collect();
    let command = Command::look_up(&words, std::env::var_os("PATH").as_deref()).unwrap();
    let sentinel = sentinel_here();
    let place = path.map(|path| {
        let identity = egress_init::accounts::Identity::current().unwrap();
        Place::prepare(
            Path::new(&path),
            privileges.identity.as_ref().unwrap_or(&identity),
        )
        .unwrap()
    });
    let error = launch(
        &command,
        &privileges,
        place.as_ref().map(|place| (place, &sentinel)),
        None,
        || {},
    );
    eprint!("{error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprint!(": {error}");
        source = error.source();
    }
    eprintln!("; {}", error.remedy().unwrap_or_default());
    ExitCode::from(error.exit_code())
}

/// `ask SENTINEL`, or `ask -` for the canary alone.
fn ask(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let path = words.next().unwrap();
    let start = Instant::now();
    if path == "-" {
        print!("{:?}", canary::probe(canary::DEADLINE));
    } else {
        print!(
            "{:?}",
            check::firewall_ready(Path::new(&path)).map(|verified| verified.canary)
        );
    }
    println!(" {}", start.elapsed().as_micros());
    ExitCode::SUCCESS
}

fn sentinel_here() -> Sentinel {
    Sentinel::here(Enforced {
        mode: "exec".to_owned(),
        dns: "pinned".to_owned(),
        ruleset_sha256: "0".repeat(64),
        names: 1,
        ipv4: 1,
        ipv6: 1,
    })
    .unwrap()
}

/// How the stand-in is started: by `before`, another program's words, where that is needed.
struct Launch<'a> {
    before: &'a [&'a str],
    sentinel: Option<&'a Path>,
    user: &'a str,
    keep: &'a str,
    new_privs: &'a str,
}

const AS_USER: Launch = Launch {
    before: &[],
    sentinel: None,
    user: "4242:4243",
    keep: "-",
    new_privs: "-",
};

impl Launch<'_> {
    fn process(&self, command: &[&str]) -> process::Command {
        let this = std::env::current_exe().unwrap().into_os_string();
        let mut words: Vec<OsString> = self.before.iter().map(OsString::from).collect();
        words.extend([this, "stand-in".into()]);
        words.push(
            self.sentinel
                .map_or("-".into(), |path| path.as_os_str().to_owned()),
        );
        words.extend([self.user, self.keep, self.new_privs].map(OsString::from));
        words.extend(command.iter().map(OsString::from));
        let mut process = process::Command::new(&words[0]);
        process.args(&words[1..]).stdin(Stdio::null());
        process
    }

    fn run(&self, command: &[&str]) -> Output {
        self.process(command).output().unwrap()
    }

    fn stdout(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self) -> Status {
        Status(self.stdout(&["cat", "/proc/self/status"]))
    }
}

/// `/proc/self/status` of the command itself.
struct Status(String);

impl Status {
    fn get(&self, key: &str) -> &str {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {}", self.0))
            .trim()
    }

    fn assert_capabilities(&self, mask: u64) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(self.get(set), format!("{mask:016x}"), "{set}");
        }
    }
}

fn assert_fails(output: &Output, code: i32, messages: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for message in messages {
        assert!(stderr.contains(message), "{stderr}");
    }
}

/// A folder that is root's and that everybody may enter.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn file(folder: &tempfile::TempDir, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    set_mode(&path, mode);
    path
}

// I4.

fn the_command_keeps_nothing() {
    let status = AS_USER.status();
    status.assert_capabilities(0);
    assert_eq!(status.get("NoNewPrivs"), "1");
    assert_eq!(status.get("Seccomp"), "2");
    assert_eq!(status.get("Uid"), "4242\t4242\t4242\t4242");
    assert_eq!(status.get("Gid"), "4243\t4243\t4243\t4243");
    assert_eq!(status.get("Groups"), "4243");
}

fn the_process_stays_the_same() {
    let child = AS_USER
        .process(&["cat", "/proc/self/status"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    let status = Status(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap());
    assert_eq!(status.get("Pid"), pid);
    assert_eq!(status.get("Tgid"), pid);
    assert_eq!(status.get("Threads"), "1");
    assert_eq!(status.get("Name"), "cat");
}

fn pid_1_becomes_the_command() {
    let status = Launch {
        before: &["unshare", "--pid", "--fork", "--mount-proc"],
        ..AS_USER
    }
    .status();
    assert_eq!(status.get("Pid"), "1");
    assert_eq!(status.get("Threads"), "1");
    status.assert_capabilities(0);
}

fn a_command_that_stays_root_has_no_capability() {
    let as_root = Launch {
        user: "-",
        ..AS_USER
    };
    let status = as_root.status();
    assert_eq!(status.get("Uid"), "0\t0\t0\t0");
    status.assert_capabilities(0);
    // What a root with capabilities does, this one cannot.
    let folder = folder();
    let path = file(&folder, "theirs", "", 0o600);
    chown(&path, Some(UID), None).unwrap();
    let path = path.to_str().unwrap();
    assert!(
        process::Command::new("cat")
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
    assert!(!as_root.run(&["cat", path]).status.success());
}

fn a_kept_capability_is_all_there_is() {
    const NET_BIND_SERVICE: u64 = 1 << 10;
    for user in ["4242", "-"] {
        let launch = Launch {
            user,
            keep: "NET_BIND_SERVICE",
            ..AS_USER
        };
        launch.status().assert_capabilities(NET_BIND_SERVICE);
        // It survives another exec, and it works.
        let sh = Status(launch.stdout(&["sh", "-c", "cat /proc/self/status"]));
        sh.assert_capabilities(NET_BIND_SERVICE);
    }
    let bind = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0); print bind(S, sockaddr_in(1, INADDR_LOOPBACK)) ? 'bound' : $!";
    let namespace = [
        "unshare",
        "--net",
        "sh",
        "-c",
        "ip link set lo up; exec \"$@\"",
        "sh",
    ];
    let kept = Launch {
        before: &namespace,
        keep: "cap_net_bind_service",
        ..AS_USER
    };
    let without = Launch {
        before: &namespace,
        ..AS_USER
    };
    assert_eq!(without.stdout(&["perl", "-e", bind]), "Permission denied");
    assert_eq!(kept.stdout(&["perl", "-e", bind]), "bound");
}

fn new_privileges_are_let_through_on_request() {
    let status = Launch {
        new_privs: "yes",
        ..AS_USER
    }
    .status();
    assert_eq!(status.get("NoNewPrivs"), "0");
    assert_eq!(status.get("Seccomp"), "2");
    status.assert_capabilities(0);
    let without = ["setpriv", "--bounding-set", "-sys_admin"];
    let output = Launch {
        before: &without,
        new_privs: "yes",
        ..AS_USER
    }
    .run(&["true"]);
    assert_fails(
        &output,
        125,
        &["CAP_SYS_ADMIN", "leave --allow-new-privs out"],
    );
}

fn only_the_three_standard_descriptors_pass() {
    let leaking = [
        "sh",
        "-c",
        r#"exec 7</dev/null 9</etc/passwd 8</dev/null; exec "$@""#,
        "sh",
    ];
    let list = [
        "perl",
        "-e",
        r#"opendir D, "/proc/self/fd"; print join " ", map { "$_=" . readlink "/proc/self/fd/$_" } sort grep /\d/, readdir D"#,
    ];
    let open = |output: &str| -> Vec<String> {
        let entries = output.split(' ').filter(|entry| !entry.contains("=/proc/"));
        entries
            .map(|entry| entry.split('=').next().unwrap().to_owned())
            .collect()
    };
    let control = process::Command::new(leaking[0])
        .args(&leaking[1..])
        .args(list)
        .output()
        .unwrap();
    assert!(open(&String::from_utf8(control.stdout).unwrap()).contains(&"8".to_owned()));
    let launched = Launch {
        before: &leaking,
        ..AS_USER
    }
    .stdout(&list);
    assert_eq!(open(&launched), ["0", "1", "2"], "{launched}");
}

fn signals_are_as_in_a_new_process() {
    let before = [
        "env",
        "--block-signal=USR1,CHLD",
        "--ignore-signal=HUP,PIPE,USR2,RTMAX",
    ];
    let control = process::Command::new(before[0])
        .args(&before[1..])
        .args(["cat", "/proc/self/status"])
        .output()
        .unwrap();
    let control = Status(String::from_utf8(control.stdout).unwrap());
    assert_ne!(control.get("SigBlk"), "0000000000000000");
    assert_ne!(control.get("SigIgn"), "0000000000000000");
    let status = Launch {
        before: &before,
        ..AS_USER
    }
    .status();
    for set in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(status.get(set), "0000000000000000", "{set}");
    }
}

fn words_environment_and_directory_pass_untouched() {
    let folder = folder();
    let script =
        "printf '%s|' \"$0\" \"$@\"; pwd; tr '\\0' '\\n' </proc/$$/environ | grep -a ^EGRESS_TEST";
    let mut process = AS_USER.process(&[
        "sh",
        "-c",
        script,
        "zero",
        "",
        "two words",
        "--",
        "-x",
        "$HOME",
    ]);
    process.current_dir(folder.path());
    process
        .env("EGRESS_TEST", "a=b\nEGRESS_TEST2 c")
        .env("EGRESS_TEST3", "");
    let output = process.output().unwrap();
    let expected = format!(
        "zero||two words|--|-x|$HOME|{}\nEGRESS_TEST=a=b\nEGRESS_TEST2 c\nEGRESS_TEST3=\n",
        folder.path().display()
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    // argv[0] is the word as typed, not the file that was found.
    let cmdline = AS_USER.stdout(&["cat", "/proc/self/cmdline"]);
    assert_eq!(cmdline, "cat\0/proc/self/cmdline\0");
}

// Section 6: sockets.

fn sockets_that_the_firewall_cannot_see_are_refused() {
    // Family, type, protocol: UNIX, INET, INET6, NETLINK, then PACKET, VSOCK, ALG, BLUETOOTH.
    let (socket, socketpair) = if cfg!(target_arch = "x86_64") {
        (41, 53)
    } else {
        (198, 199)
    };
    let sockets = r#"
        use Errno;
        use constant { SOCKET => shift, SOCKETPAIR => shift };
        sub try { my ($name, $result) = @_; print "$name ", $result >= 0 ? "ok" : (grep { $!{$_} } keys %!)[0], "\n" }
        try("family $$_[0]", syscall(SOCKET, @$_)) for [1,1,0],[2,1,0],[10,2,0],[16,3,0],[17,3,0],[40,1,0],[38,5,0],[31,3,0];
        my $pair = "\0" x 8;
        try("pair", syscall(SOCKETPAIR, 1, 1, 0, $pair));
        try("io_uring", syscall(425, 1, 0));
        try("x32", syscall(0x40000000 + SOCKET, 2, 1, 0));
    "#;
    let results = |output: Output| -> Vec<(String, String)> {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let line = |line: &str| {
            line.rsplit_once(' ')
                .map(|(name, result)| (name.into(), result.into()))
        };
        text.lines().filter_map(line).collect()
    };
    let control = results(
        process::Command::new("perl")
            .args(["-e", sockets, &socket.to_string(), &socketpair.to_string()])
            .output()
            .unwrap(),
    );
    let launched = results(
        Launch {
            user: "-",
            ..AS_USER
        }
        .run(&[
            "perl",
            "-e",
            sockets,
            &socket.to_string(),
            &socketpair.to_string(),
        ]),
    );
    let of = |results: &[(String, String)], name: &str| {
        results
            .iter()
            .find(|(found, _)| found == name)
            .unwrap()
            .1
            .clone()
    };
    for allowed in ["family 1", "family 2", "family 10", "family 16", "pair"] {
        assert_eq!(of(&launched, allowed), "ok", "{allowed}");
    }
    assert_eq!(
        of(&control, "family 17"),
        "ok",
        "AF_PACKET works without the filter"
    );
    for refused in ["family 17", "family 40", "family 38", "family 31"] {
        assert_eq!(of(&launched, refused), "EAFNOSUPPORT", "{refused}");
    }
    assert_ne!(
        of(&control, "io_uring"),
        "ENOSYS",
        "io_uring is there without the filter"
    );
    for absent in ["io_uring", "x32"] {
        assert_eq!(of(&launched, absent), "ENOSYS", "{absent}");
    }
}

// Section 4: the order of the end; section 8: the sentinel.

fn the_sentinel_is_there_for_the_command() {
    let folder = folder();
    let path = folder.path().join("run/firewall.ready");
    let umask = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
    let launch = Launch {
        before: &umask,
        sentinel: Some(&path),
        ..AS_USER
    };
    let output = launch.run(&["cat", path.to_str().unwrap()]);
    let seen: Sentinel = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen, sentinel::verify(&path).unwrap());
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o444, 0));
    assert_eq!(
        fs::metadata(folder.path().join("run")).unwrap().mode() & 0o7777,
        0o755
    );
    // Nor can the command take it away.
    assert!(
        !launch
            .run(&["rm", "-f", path.to_str().unwrap()])
            .status
            .success()
    );
    sentinel::verify(&path).unwrap();
}

fn what_cannot_be_executed_leaves_no_sentinel() {
    let folder = folder();
    let path = folder.path().join("firewall.ready");
    let launch = Launch {
        sentinel: Some(&path),
        ..AS_USER
    };
    launch.stdout(&["test", "-f", path.to_str().unwrap()]);
    for (name, content, mode, message) in [
        ("no-interpreter-line", "echo hello", 0o755, "#! line"),
        (
            "no-interpreter",
            "#!/nonexistent/sh\n",
            0o755,
            "interpreter",
        ),
        (
            "not-for-this-user",
            "#!/bin/sh\n",
            0o700,
            "let the command's user execute",
        ),
    ] {
        let command = file(&folder, name, content, mode);
        let command = command.to_str().unwrap();
        let output = launch.run(&[command]);
        assert_fails(&output, 126, &["cannot execute ", command, message]);
        assert!(
            matches!(sentinel::verify(&path), Err(NotVerified::Missing(_))),
            "{name}"
        );
    }
}

fn what_the_user_may_not_execute_yields_to_what_it_may() {
    let folder = folder();
    for (directory, mode, says) in [
        ("roots", 0o700, "roots"),
        ("everybodys", 0o755, "everybodys"),
    ] {
        fs::create_dir(folder.path().join(directory)).unwrap();
        file(
            &folder,
            &format!("{directory}/tool"),
            &format!("#!/bin/sh\necho {says}\n"),
            0o755,
        );
        set_mode(&folder.path().join(directory), mode);
    }
    let path = format!("{0}/roots:{0}/everybodys:/bin", folder.path().display());
    for (user, says) in [("-", "roots\n"), ("4242", "everybodys\n")] {
        let output = Launch { user, ..AS_USER }
            .process(&["tool"])
            .env("PATH", &path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), says);
    }
}

fn a_missing_capability_is_named() {
    let folder = folder();
    let path = folder.path().join("firewall.ready");
    for capability in ["setpcap", "setuid", "setgid"] {
        let without = format!("-{capability}");
        let before = ["setpriv", "--bounding-set", &without];
        let output = Launch {
            before: &before,
            sentinel: Some(&path),
            ..AS_USER
        }
        .run(&["true"]);
        let upper = capability.to_uppercase();
        assert_fails(
            &output,
            125,
            &[
                &format!("CAP_{upper} is missing"),
                &format!("--cap-add={upper}"),
            ],
        );
        assert!(!path.exists());
    }
}

fn a_signal_before_exec_stops_it() {
    let folder = folder();
    let path = folder.path().join("firewall.ready");
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let pending = format!(
            "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIG{signal})); kill {signal} => $$; exec @ARGV"
        );
        let before = ["perl", "-e", &pending];
        let output = Launch {
            before: &before,
            sentinel: Some(&path),
            ..AS_USER
        }
        .run(&["echo", "started"]);
        assert_fails(&output, code, &[&format!("stopped by SIG{signal}")]);
        assert!(output.stdout.is_empty());
        assert!(!path.exists());
    }
}

fn a_sentinel_verifies_where_root_published_it() {
    let folder = folder();
    let path = folder.path().join("firewall.ready");
    let user = egress_init::accounts::Identity {
        uid: UID,
        gid: UID,
        groups: vec![UID],
    };
    let place = Place::prepare(&path, &user).unwrap();
    let beside = file(
        &folder,
        ".firewall.ready.new",
        "left by a start that was killed",
        0o600,
    );
    let precious = file(&folder, "precious", "precious", 0o644);
    symlink(&precious, &path).unwrap();
    place.publish(&sentinel_here()).unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!beside.exists());
    sentinel::verify(&path).unwrap();
    let elsewhere = process::Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["ask".as_ref(), path.as_os_str()])
        .output()
        .unwrap();
    assert!(
        String::from_utf8(elsewhere.stdout)
            .unwrap()
            .contains("OtherNamespace")
    );
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    sentinel::verify(&copy).unwrap();
    chown(&copy, Some(UID), None).unwrap();
    assert!(matches!(
        sentinel::verify(&copy),
        Err(NotVerified::Owner { uid: UID, .. })
    ));
    symlink(&path, folder.path().join("link")).unwrap();
    assert!(matches!(
        sentinel::verify(&folder.path().join("link")),
        Err(NotVerified::NotRegular { .. })
    ));
    set_mode(&path, 0o464);
    assert!(matches!(
        sentinel::verify(&path),
        Err(NotVerified::Writable { mode: 0o464, .. })
    ));
    place.remove().unwrap();
    assert!(matches!(
        check::firewall_ready(&path),
        Err(NotReady::Sentinel(NotVerified::Missing(_)))
    ));
}

fn a_user_namespace_with_one_user_is_enough() {
    let folder = folder();
    chown(folder.path(), Some(UID), Some(UID)).unwrap();
    let path = folder.path().join("firewall.ready");
    let before = [
        "setpriv",
        "--reuid=4242",
        "--regid=4242",
        "--clear-groups",
        "unshare",
        "--user",
        "--map-root-user",
    ];
    let rootless = Launch {
        before: &before,
        sentinel: Some(&path),
        user: "-",
        ..AS_USER
    };
    let status = rootless.status();
    status.assert_capabilities(0);
    assert_eq!(status.get("Uid"), "0\t0\t0\t0");
    assert!(path.exists());
    let output = Launch {
        user: "1000",
        ..rootless
    }
    .run(&["true"]);
    assert_fails(&output, 125, &["denies setgroups", "leave --user out"]);
}

// Section 6, rule 1: the canary.

const RULES: &str = r"
table inet egress_init {
    chain output {
        type filter hook output priority 0; policy drop;
        ip daddr 192.0.2.1 tcp dport 1 reject with icmp prot-unreachable
        ip6 daddr 100::1 udp dport 1 reject with icmpv6 policy-fail
        oif lo accept
    }
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
    }
}
";

/// What an unprivileged process in a namespace set up by `script` learns, and how long it takes.
fn asked(script: &str) -> (String, Duration) {
    let ask = r#"set -e; ip link set lo up; eval "$1"; exec setpriv --reuid=4242 --regid=4242 --clear-groups "$2" ask -"#;
    let output = process::Command::new("unshare")
        .args(["--net", "sh", "-c", ask, "sh", script])
        .arg(std::env::current_exe().unwrap())
        .env("RULES", RULES)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (answer, micros) = stdout.trim().rsplit_once(' ').unwrap();
    (
        answer.to_owned(),
        Duration::from_micros(micros.parse().unwrap()),
    )
}

fn the_canary_tells_live_rules_from_dead_ones() {
    let rules = r#"printf %s "$RULES" | nft -f -; "#;
    let link = "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; ";
    let ipv4 = "ip address add 10.9.0.1/24 dev v0; ";
    let route4 = "ip route add default via 10.9.0.2; ";
    let ipv6 = "ip address add fd00:9::1/64 dev v0 nodad; ip route add default via fd00:9::2; ";
    let answered = |family| format!("{:?}", Ok::<_, Dead>(Alive::Answered(family)));
    let silent = |family| format!("{:?}", Err::<Alive, _>(Dead::Silent(family)));
    let cases = [
        (vec![rules, link, ipv4, route4], answered(Family::Ipv4)),
        (
            vec![rules, link, ipv4, route4, ipv6],
            answered(Family::Ipv4),
        ),
        (vec![rules, link, ipv6], answered(Family::Ipv6)),
        (vec![rules, link, ipv4], answered(Family::Ipv4)),
        (vec![rules], format!("{:?}", Ok::<_, Dead>(Alive::NoRoute))),
        (vec![link, ipv4, route4], silent(Family::Ipv4)),
        (vec![link, ipv6], silent(Family::Ipv6)),
        (vec![link, ipv4], silent(Family::Ipv4)),
        (
            vec![
                rules,
                link,
                ipv4,
                route4,
                "nft flush table inet egress_init; ",
            ],
            silent(Family::Ipv4),
        ),
        (
            vec![rules, link, ipv6, "nft flush table inet egress_init; "],
            silent(Family::Ipv6),
        ),
    ];
    for (script, expected) in cases {
        let (answer, took) = asked(&script.concat());
        assert_eq!(answer, expected, "{script:?}");
        // By its own deadline, not by TCP's, which is two minutes.
        assert!(took < Duration::from_secs(3), "{answer} took {took:?}");
    }
    let (answer, _) = asked(&[link, ipv4, route4, "nft add table inet t; nft add chain inet t o '{ type filter hook output priority 0; }'; nft add rule inet t o tcp dport 1 reject with tcp reset"].concat());
    assert!(answer.contains("OtherAnswer"), "{answer}");
    let (answer, _) = asked(&[link, ipv6, "nft add table inet t; nft add chain inet t o '{ type filter hook output priority 0; }'; nft add rule inet t o udp dport 1 reject with icmpv6 admin-prohibited"].concat());
    assert!(
        answer.contains("OtherIcmp { kind: 1, code: 1 }"),
        "{answer}"
    );
}
