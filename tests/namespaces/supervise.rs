//! `--supervise`: what process 1 owes to the command and to its orphans, and what the command
//! cannot do to it. Each case that can be either runs as PID 1 of a pid namespace and beside it, as
//! the subreaper.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cases,
    support::{
        dns::Behaviour,
        harness::{has_second_uid, needs_second_uid},
        probe::{Outcome, Step},
        sys,
        world::{
            API, BINARY, ELSEWHERE, PROBE, Ran, Run, SENTINEL, Started, World, reaches, rejects,
            table, user_options, zone,
        },
    },
};

cases!(supervise:
    the_exit_code_is_the_commands,
    what_cannot_be_executed_leaves_no_sentinel,
    every_signal_reaches_the_command,
    signals_go_to_the_group_or_to_the_child_alone,
    a_command_that_left_its_group_gets_signals_too,
    a_signal_during_the_start_is_not_lost,
    a_termination_during_the_start_ends_it,
    orphans_are_given_to_it,
    a_storm_of_orphans_leaves_none,
    what_outlives_the_command_may_end_in_peace,
    what_ignores_the_end_is_killed,
    what_starts_meanwhile_ends_too,
    a_number_that_is_given_again_is_not_the_commands,
    a_stopped_command_goes_on_when_asked,
    an_ignored_sigchld_changes_nothing,
    if_it_dies_the_command_dies_and_the_rules_stay,
    it_keeps_next_to_nothing,
    the_command_has_nothing,
    the_command_cannot_signal_trace_or_open_it,
    without_kill_there_is_no_start,
    the_state_directory_is_the_commands_alone,
    another_start_is_let_through,
    nobody_waits_for_its_standard_streams,
    apply_has_nothing_to_supervise,
);

const ALLOW: [&str; 2] = ["--allow", "192.0.2.7"];
/// Where the command may write, whoever it is.
const OPEN: &str = "/etc/world/open";

/// How it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    Init,
    Subreaper,
}

const BOTH: [As; 2] = [As::Init, As::Subreaper];

fn world() -> World {
    let world = World::without_link();
    open_folder();
    world
}

fn open_folder() {
    fs::create_dir(OPEN).unwrap();
    fs::set_permissions(OPEN, fs::Permissions::from_mode(0o777)).unwrap();
}

fn supervised(how: As, options: &[&str]) -> Run {
    let run = match how {
        As::Init => {
            Run::new("unshare").args(["--pid", "--fork", "--mount-proc", "--kill-child", BINARY])
        }
        As::Subreaper => Run::new(BINARY),
    };
    let user = if options.contains(&"--user") {
        &[]
    } else {
        user_options()
    };
    // What this file is about is the same in each mode, and this one changes nothing after the start.
    let dns: &[&str] = if options.contains(&"--dns") {
        &[]
    } else {
        &["--dns", "pinned"]
    };
    let run = run.arg("--supervise").args(ALLOW).args(user);
    run.args(dns).args(options)
}

fn shell(how: As, options: &[&str], script: &str) -> Run {
    supervised(how, options).command(&["/bin/sh", "-c", script])
}

fn perl(how: As, options: &[&str], script: &str) -> Run {
    supervised(how, options).command(&["perl", "-e", script])
}

/// The supervisor's process id, as this case sees it.
fn supervisor(how: As, started: &Started) -> Pid {
    let id = i32::try_from(started.id()).unwrap();
    match how {
        As::Init => only_child(id),
        As::Subreaper => Pid::from_raw(id),
    }
}

fn only_child(parent: i32) -> Pid {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let found = eventually(|| {
        let children = fs::read_to_string(&path).unwrap_or_default();
        children.split_whitespace().next().map(str::to_owned)
    });
    Pid::from_raw(found.parse().unwrap())
}

/// Waits for something to be there.
#[track_caller]
fn eventually<T>(look: impl Fn() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "it never was");
        sleep(Duration::from_millis(5));
    }
}

fn said(name: &str) -> String {
    fs::read_to_string(Path::new(OPEN).join(name)).unwrap_or_default()
}

/// Waits for the command to have written this line.
#[track_caller]
fn says(name: &str, line: &str) {
    eventually(|| said(name).lines().any(|found| found == line).then_some(()));
}

fn status(pid: Pid) -> BTreeMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| {
            let words: Vec<_> = value.split_whitespace().collect();
            (key.to_owned(), words.join(" "))
        })
        .collect()
}

fn is_gone(pid: Pid) -> bool {
    // One that nobody has waited for yet has ended all the same.
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().unwrap().trim().starts_with('Z'),
        Err(_) => true,
    }
}

fn the_exit_code_is_the_commands() {
    let _world = world();
    for how in BOTH {
        for code in [0, 1, 7, 125, 255] {
            let ran = shell(how, &[], &format!("exit {code}")).run().exits(code);
            assert!(ran.stderr().contains("firewall ready: "), "{ran}");
        }
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("36", 164)] {
            shell(how, &[], &format!("kill -{signal} $$"))
                .run()
                .exits(code);
        }
        let by_variable = Run::new(BINARY)
            .env("EGRESS_INIT_SUPERVISE", "1")
            .env("EGRESS_INIT_DNS", "pinned")
            .args(ALLOW)
            .command(&["/bin/sh", "-c", "kill -TERM $$"]);
        by_variable.run().exits(143);
    }
    // Control: without it the process is the command.
    let exec = Run::new(BINARY)
        .args(ALLOW)
        .command(&["/bin/sh", "-c", "kill -TERM $$"])
        .run();
    assert_eq!(exec.signal(), Some(15), "{exec}");
    let sentinel = fs::read_to_string(SENTINEL).unwrap();
    assert!(sentinel.contains("\"exec\""), "{sentinel}");
    shell(As::Init, &[], "exit 0").run().exits(0);
    let sentinel = fs::read_to_string(SENTINEL).unwrap();
    assert!(sentinel.contains("\"supervise\""), "{sentinel}");
}

fn what_cannot_be_executed_leaves_no_sentinel() {
    let _world = world();
    let odd = format!("{OPEN}/odd");
    fs::write(&odd, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o755)).unwrap();
    for how in BOTH {
        supervised(how, &[])
            .command(&[&odd])
            .run()
            .exits(126)
            .says(&[
                "cannot execute /etc/world/open/odd",
                "install the interpreter",
            ]);
        assert!(!Path::new(SENTINEL).exists());
        assert!(table("egress_init").is_some(), "the rules stay");
        supervised(how, &[])
            .command(&["no-such-command"])
            .run()
            .exits(127);
        assert!(!Path::new(SENTINEL).exists());
    }
}

/// Says which signals it gets, until it gets the last one.
const LISTENER: &str = r#"
    $| = 1;
    open my $log, '>>', '/etc/world/open/log'; select $log; $| = 1;
    for my $name (qw(HUP INT QUIT USR1 USR2 ALRM WINCH CONT PIPE TERM IO URG TSTP TTIN TTOU NUM37)) {
        $SIG{$name} = sub { print "$name\n"; exit 9 if $name eq 'TERM' };
    }
    print "listening\n";
    sleep 1 while 1;
"#;

fn every_signal_reaches_the_command() {
    let _world = world();
    for how in BOTH {
        let _ = fs::remove_file(format!("{OPEN}/log"));
        let mut started = perl(how, &[], LISTENER).start();
        says("log", "listening");
        let pid = supervisor(how, &started);
        for name in [
            "HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "WINCH", "CONT", "PIPE", "IO", "URG",
            "TSTP", "TTIN", "TTOU",
        ] {
            let signal: Signal = format!("SIG{name}").parse().unwrap();
            kill(pid, signal).unwrap();
            says("log", name);
        }
        // SIGRTMIN+3, which stops some services.
        sys::signal(pid, 37).unwrap();
        says("log", "NUM37");
        assert!(started.is_running());
        kill(pid, Signal::SIGTERM).unwrap();
        started.finish().exits(9);
    }
}

fn signals_go_to_the_group_or_to_the_child_alone() {
    let _world = world();
    let script = r#"
        open my $log, '>>', '/etc/world/open/log'; select $log; $| = 1;
        my $pid = fork;
        my $who = $pid ? 'leader' : 'member';
        $SIG{USR1} = sub { print "$who\n"; };
        $SIG{TERM} = sub { exit 0 };
        print "$who is ready\n";
        sleep 1 while 1;
    "#;
    for (whom, expected) in [
        (&["--forward-to", "group"][..], true),
        (&[], true),
        (&["--forward-to", "child"], false),
    ] {
        for how in BOTH {
            let _ = fs::remove_file(format!("{OPEN}/log"));
            let started = perl(how, whom, script).start();
            says("log", "leader is ready");
            says("log", "member is ready");
            kill(supervisor(how, &started), Signal::SIGUSR1).unwrap();
            says("log", "leader");
            if expected {
                says("log", "member");
            }
            kill(supervisor(how, &started), Signal::SIGTERM).unwrap();
            started.finish().exits(0);
            let heard = said("log").lines().any(|line| line == "member");
            assert_eq!(heard, expected, "{how:?} {whom:?}");
        }
    }
}

fn a_command_that_left_its_group_gets_signals_too() {
    let _world = world();
    // It joins the group of its own child, so that its old one has no member.
    let script = r#"
        open my $log, '>>', '/etc/world/open/log'; select $log; $| = 1;
        my $pid = fork; if (!$pid) { sleep 60 while 1 }
        setpgrp $pid, $pid or die; setpgrp 0, $pid or die;
        $SIG{TERM} = sub { exit 4 };
        print "ready\n";
        sleep 1 while 1;
    "#;
    let started = perl(As::Init, &[], script).start();
    says("log", "ready");
    kill(supervisor(As::Init, &started), Signal::SIGTERM).unwrap();
    started.finish().exits(4);
}

fn a_signal_during_the_start_is_not_lost() {
    let world = World::with_zone(zone().delay(Duration::from_millis(1500)));
    for how in BOTH {
        let started = supervised(how, &["--allow", "api.example.org"])
            .command(&["/bin/sleep", "60"])
            .start();
        let pid = supervisor(how, &started);
        let asked = world.queries().len();
        eventually(|| (world.queries().len() > asked).then_some(()));
        kill(pid, Signal::SIGUSR1).unwrap();
        started.finish().exits(128 + libc::SIGUSR1);
    }
}

fn a_termination_during_the_start_ends_it() {
    let world = World::with_zone(zone().everything(Behaviour::Drop));
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let started = supervised(As::Init, &["--allow", "api.example.org"])
            .command(&["/bin/sleep", "60"])
            .start();
        let pid = supervisor(As::Init, &started);
        let asked = world.queries().len();
        eventually(|| (world.queries().len() > asked).then_some(()));
        kill(pid, signal).unwrap();
        let ran = started.finish().exits(code);
        assert!(ran.elapsed < Duration::from_secs(5), "{ran}");
        assert!(!Path::new(SENTINEL).exists());
        world.is_locked();
    }
}

fn orphans_are_given_to_it() {
    let _world = world();
    let script = r"
        my $above = getppid;
        if (!fork) { if (!fork) { select undef, undef, undef, 0.01 while getppid != $above;
            open my $log, '>', '/etc/world/open/log'; print $log qq(adopted\n); exit } exit }
        wait;
        for (1..1000) { exit 0 if -s '/etc/world/open/log'; select undef, undef, undef, 0.01 }
        exit 1;
    ";
    for how in BOTH {
        let _ = fs::remove_file(format!("{OPEN}/log"));
        perl(how, &[], script).run().exits(0);
        assert_eq!(said("log"), "adopted\n");
    }
}

fn a_storm_of_orphans_leaves_none() {
    let _world = world();
    // 100 processes make 100 orphans each and end before them.
    let script = r#"
        for my $i (1..100) {
            if (!fork) { for (1..100) { exit 0 if !fork } exit 0 }
            if ($i % 10 == 0) { 1 while wait != -1 }
        }
        my $above = getppid;
        sub zombies { my $n = 0; for my $file (glob '/proc/[0-9]*/stat') {
            open my $f, '<', $file or next; my $stat = <$f> // ''; $n++ if $stat =~ /\) Z $above / } $n }
        my $left;
        for (1..500) { $left = zombies; last if !$left; select undef, undef, undef, 0.01 }
        open my $f, '<', "/proc/$above/stat"; my @field = split ' ', (split /\) /, <$f>)[1];
        print "$left zombies, ", $field[11] + $field[12], " ticks\n";
        system 'grep -q . /proc/self/stat';
    "#;
    for how in BOTH {
        let ran = perl(how, &[], script).run().exits(0);
        let out = ran.stdout();
        assert!(out.starts_with("0 zombies, "), "{ran}");
        let ticks: u32 = out.split(' ').nth(2).unwrap().parse().unwrap();
        // A tick is 10 ms; a ten-thousandth of this for each orphan.
        assert!(ticks < 300, "{ran}");
    }
}

/// Leaves a process behind that does this with SIGTERM, in a session of its own, and exits with 7.
fn leaves(on_term: &str) -> String {
    format!(
        r#"
        if (!fork) {{
            require POSIX; POSIX::setsid();
            open my $log, '>>', '/etc/world/open/log'; select $log; $| = 1;
            $SIG{{TERM}} = {on_term};
            print "$$\nready\n";
            sleep 1 while 1;
        }}
        for (1..1000) {{ last if -s '/etc/world/open/log'; select undef, undef, undef, 0.01 }}
        exit 7;
        "#
    )
}

fn what_outlives_the_command_may_end_in_peace() {
    let _world = world();
    for how in BOTH {
        let _ = fs::remove_file(format!("{OPEN}/log"));
        let script = leaves("sub { sleep 1; print qq(in peace\\n); exit 0 }");
        let ran = perl(how, &["--kill-after", "60s"], &script).run().exits(7);
        says("log", "in peace");
        assert!(ran.elapsed > Duration::from_millis(900), "{ran}");
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
        assert!(!ran.stderr().contains("SIGKILL"), "{ran}");
    }
    // Nobody waits where nothing is left.
    let ran = shell(As::Init, &["--kill-after", "20s"], "exit 0")
        .run()
        .exits(0);
    assert!(ran.elapsed < Duration::from_secs(15), "{ran}");
}

fn what_ignores_the_end_is_killed() {
    let _world = world();
    for how in BOTH {
        for (grace, least, most) in [("1s", 900, 30_000), ("0s", 0, 30_000)] {
            let _ = fs::remove_file(format!("{OPEN}/log"));
            let ran = perl(how, &["--kill-after", grace], &leaves("'IGNORE'"))
                .run()
                .exits(7)
                .says(&["SIGKILL ends what outlived the command"]);
            let ms = ran.elapsed.as_millis();
            assert!((least..most).contains(&ms), "{how:?} {grace} {ran}");
            if how == As::Subreaper {
                let pid = said("log").lines().next().unwrap().parse().unwrap();
                assert!(is_gone(Pid::from_raw(pid)), "{ran}");
            }
        }
    }
}

fn what_starts_meanwhile_ends_too() {
    let _world = world();
    // One that starts another one again and again, in sessions of their own.
    let script = r"
        require POSIX;
        if (!fork) {
            $SIG{TERM} = 'IGNORE';
            open my $log, '>', '/etc/world/open/log'; syswrite $log, qq(ready\n);
            for (1..50000) { exit 0 if fork; POSIX::setsid(); select undef, undef, undef, 0.002 }
            exit 0;
        }
        for (1..1000) { last if -s '/etc/world/open/log'; select undef, undef, undef, 0.01 }
        exit 7;
    ";
    for how in BOTH {
        let _ = fs::remove_file(format!("{OPEN}/log"));
        let ran = perl(how, &["--kill-after", "300ms"], script).run().exits(7);
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
        assert!(ran.stderr().contains("SIGKILL"), "{ran}");
        let left = Command::new("pgrep").args(["-x", "perl"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{ran}");
    }
}

/// An orphan that got the number of the command, which had ended, was taken for it: its exit code
/// was told, and the time for what is left began anew.
fn a_number_that_is_given_again_is_not_the_commands() {
    let _world = world();
    let script = r"
        require POSIX;
        my $command = $$;
        if (!fork) {
            POSIX::setsid(); $SIG{TERM} = 'IGNORE';
            open my $log, '>', '/etc/world/open/log'; syswrite $log, qq($command\nready\n);
            # Each of them is an orphan.
            for (1..500) { exit 3 if fork; select undef, undef, undef, 0.004 }
            exit 3;
        }
        for (1..1000) { last if -s '/etc/world/open/log'; select undef, undef, undef, 0.01 }
        exit 7;
    ";
    let mut started = perl(As::Subreaper, &["--kill-after", "60s"], script).start();
    says("log", "ready");
    let command: i32 = said("log").lines().next().unwrap().parse().unwrap();
    let number = format!("/proc/{command}");
    eventually(|| (!Path::new(&number).exists()).then_some(()));
    // The next number is the command's.
    let last = (command - 1).to_string();
    while started.is_running() {
        fs::write("/proc/sys/kernel/ns_last_pid", &last).unwrap();
        sleep(Duration::from_millis(1));
    }
    started.finish().exits(7);
}

fn a_stopped_command_goes_on_when_asked() {
    let _world = world();
    for how in BOTH {
        let _ = fs::remove_file(format!("{OPEN}/log"));
        let mut started = perl(how, &[], LISTENER).start();
        says("log", "listening");
        let pid = supervisor(how, &started);
        let command = only_child(pid.as_raw());
        kill(command, Signal::SIGSTOP).unwrap();
        eventually(|| status(command)["State"].starts_with('T').then_some(()));
        sleep(Duration::from_millis(100));
        assert!(status(command)["State"].starts_with('T'), "it stays so");
        assert!(started.is_running());
        // It may still be looking at what happened to the command.
        eventually(|| status(pid)["State"].starts_with('S').then_some(()));
        kill(pid, Signal::SIGCONT).unwrap();
        says("log", "CONT");
        kill(pid, Signal::SIGTERM).unwrap();
        started.finish().exits(9);
    }
}

fn an_ignored_sigchld_changes_nothing() {
    let _world = world();
    Run::new(PROBE)
        .args(["__untidy", BINARY, "--supervise", "--dns", "pinned"])
        .args(ALLOW)
        .command(&["/bin/sh", "-c", "exit 11"])
        .run()
        .exits(11);
}

fn if_it_dies_the_command_dies_and_the_rules_stay() {
    let world = World::new();
    open_folder();
    let steps = ELSEWHERE.map(|address| Step::Tcp((address, 443).into()));
    reaches(&steps);
    let options = ["--allow", "api.example.org", "--dns", "pinned"];
    for how in BOTH {
        let started = shell(
            how,
            &options,
            "echo $$ > /etc/world/open/log; exec sleep 60",
        )
        .start();
        says_something();
        let pid = supervisor(how, &started);
        let command = only_child(pid.as_raw());
        assert!(!is_gone(command));
        kill(pid, Signal::SIGKILL).unwrap();
        eventually(|| is_gone(command).then_some(()));
        let ran = started.finish();
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
        rejects(&steps);
        reaches(&API.map(|address| Step::Tcp((address, 443).into())));
        let _ = fs::remove_file(format!("{OPEN}/log"));
    }
    drop(world);
}

#[track_caller]
fn says_something() {
    eventually(|| (!said("log").is_empty()).then_some(()));
}

fn sleeping(how: As, options: &[&str]) -> (Started, Pid, Pid) {
    let started = shell(how, options, "echo up > /etc/world/open/log; exec sleep 60").start();
    says("log", "up");
    let pid = supervisor(how, &started);
    let command = only_child(pid.as_raw());
    eventually(|| (status(command)["Name"] == "sleep").then_some(()));
    (started, pid, command)
}

fn end(started: Started, supervisor: Pid) -> Ran {
    kill(supervisor, Signal::SIGTERM).unwrap();
    let ran = started.finish().exits(143);
    fs::remove_file(format!("{OPEN}/log")).unwrap();
    ran
}

const NONE: &str = "0000000000000000";

fn it_keeps_next_to_nothing() {
    let _world = world();
    // In mode proxy it changes rules: CAP_NET_ADMIN.
    let modes = [("pinned", 0), ("proxy", 1 << 12)];
    // Where there is one uid, the resolver of mode proxy cannot be told from the command.
    let modes = if has_second_uid() {
        &modes[..]
    } else {
        &modes[..1]
    };
    let each = BOTH.map(|how| modes.iter().map(move |(dns, admin)| (how, *dns, *admin)));
    for (how, dns, admin) in each.into_iter().flatten() {
        let options = ["--keep-cap", "NET_BIND_SERVICE", "--dns", dns];
        let (started, pid, _) = sleeping(how, &options);
        let seen = status(pid);
        let kill = if has_second_uid() { 1 << 5 } else { 0 };
        let kept = &format!("{:016x}", kill | admin);
        for (set, expected) in [
            ("CapInh", NONE),
            ("CapPrm", kept),
            ("CapEff", kept),
            ("CapBnd", NONE),
            ("CapAmb", NONE),
        ] {
            assert_eq!(seen[set], expected, "{how:?} {set}");
        }
        assert_eq!(seen["NoNewPrivs"], "1");
        assert_eq!(seen["Threads"], "1");
        let uids: Vec<_> = seen["Uid"].split(' ').collect();
        assert_eq!(uids[1], "0");
        if has_second_uid() {
            assert_ne!(uids[0], "0");
            assert_eq!(uids[0], uids[2]);
        }
        // The last that it does before it waits.
        eventually(|| (status(pid)["SigBlk"] == blocked()).then_some(()));
        end(started, pid);
    }
    if has_second_uid() {
        // Of the same uid: no KILL, and a uid of its own all the same.
        let (started, pid, _) = sleeping(As::Init, &["--user", "root"]);
        let seen = status(pid);
        assert_eq!(seen["CapPrm"], NONE);
        assert!(!seen["Uid"].starts_with("0 "), "{}", seen["Uid"]);
        end(started, pid);
    }
}

/// What a mask with every signal but faults and those that nobody can block looks like. The C
/// library keeps two or three of the real-time ones to itself.
fn blocked() -> String {
    let free = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGSEGV,
        libc::SIGSYS,
        libc::SIGTRAP,
    ];
    let mask = free
        .into_iter()
        .fold(u64::MAX, |mask, signal| mask & !(1 << (signal - 1)));
    format!("{mask:016x}")
}

fn the_command_has_nothing() {
    let _world = world();
    for how in BOTH {
        let (started, pid, command) = sleeping(how, &[]);
        let seen = status(command);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(seen[set], NONE, "{set}");
        }
        assert_eq!(seen["NoNewPrivs"], "1");
        assert_eq!(seen["Seccomp"], "2");
        for set in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(seen[set], NONE, "{set}");
        }
        let uid = if has_second_uid() { "1000" } else { "0" };
        assert_eq!(seen["Uid"], [uid; 4].join(" "));
        // Until its libraries are loaded, the command itself has one of them open.
        eventually(|| {
            let mut descriptors: Vec<_> = fs::read_dir(format!("/proc/{command}/fd"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            descriptors.sort();
            (descriptors == ["0", "1", "2"]).then_some(())
        });
        end(started, pid);
    }
}

fn the_command_cannot_signal_trace_or_open_it() {
    let _world = world();
    // All but SIGCONT, which everyone may send within a session (kill(2)); here it is only passed
    // back on to the command. In a user namespace of one uid there is none to hide behind.
    let last = if has_second_uid() { 64 } else { 0 };
    let mut steps: Vec<Step> = (1..=last)
        .filter(|signal| *signal != libc::SIGCONT)
        .map(Step::SignalParent)
        .collect();
    let files_from = steps.len() + 1;
    steps.push(Step::TraceParent);
    for (file, write) in [
        ("mem", false),
        ("mem", true),
        ("environ", false),
        ("maps", false),
        ("auxv", false),
        ("syscall", false),
        ("stack", false),
        ("fd/0", false),
        ("fd/2", true),
        ("root/etc/passwd", false),
        ("cwd/etc/passwd", false),
        ("exe", false),
        ("ns/net", false),
        ("timers", false),
    ] {
        steps.push(Step::ParentFile(file.into(), write));
    }
    // Control: a parent that is no supervisor can be signalled and traced by one of its own uid.
    let control = serde_json::to_string(&[
        Step::SignalParent(0),
        Step::SignalParent(libc::SIGWINCH),
        Step::ParentFile("environ".into(), false),
        Step::ParentFile("exe".into(), false),
    ])
    .unwrap();
    let control = format!("{PROBE} __probe '{control}'; :");
    let control = Run::new("/bin/sh").args(["-c", &control]).outcomes();
    assert!(control.iter().all(Outcome::is_ok), "{control:?}");

    let mut users = vec![user_options()];
    if has_second_uid() {
        users.push(&["--user", "root"]);
    }
    for how in BOTH {
        for user in &users {
            let outcomes = supervised(how, user).probe(&steps).outcomes();
            for (step, outcome) in steps.iter().zip(&outcomes).take(files_from) {
                assert_eq!(outcome.result, "EPERM", "{how:?} {user:?} {step:?}");
            }
            for (step, outcome) in steps.iter().zip(&outcomes).skip(files_from) {
                // Kernels differ on who may read that; there are none to be read of.
                let no_timers = matches!(step, Step::ParentFile(file, _) if file == "timers")
                    && outcome.result.starts_with("UnexpectedEof");
                assert!(
                    ["EACCES", "EPERM"].contains(&outcome.result.as_str()) || no_timers,
                    "{how:?} {user:?} {step:?}: {outcome:?}"
                );
            }
        }
    }
}

fn without_kill_there_is_no_start() {
    needs_second_uid();
    let world = world();
    let without = |options: &[&str]| {
        Run::new("setpriv")
            .args(["--bounding-set=-kill", BINARY])
            .args(ALLOW)
            .args(options)
            .command(&["/bin/sh", "-c", "exit 5"])
            .run()
    };
    without(&["--user", "node"]).exits(5);
    without(&["--supervise"]).exits(5);
    without(&["--supervise", "--user", "node"])
        .exits(125)
        .says(&[
            "CAP_KILL is missing",
            "--cap-add=KILL",
            "without --supervise",
        ]);
    assert!(!Path::new(SENTINEL).exists());
    drop(world);
}

fn the_state_directory_is_the_commands_alone() {
    let _world = world();
    let state = format!("{OPEN}/state");
    let options = ["--state-dir", &state, "--fix-state-dir"];
    for how in BOTH {
        let (started, pid, command) = sleeping(how, &options);
        let opens = |pid: Pid| {
            fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
                .any(|file| file == Path::new(&state))
        };
        assert!(opens(command), "control");
        eventually(|| (!opens(pid)).then_some(()));
        shell(how, &options, "exit 0")
            .run()
            .exits(125)
            .says(&["state directory"]);
        end(started, pid);
        shell(how, &options, "exit 0").run().exits(0);
    }
}

fn another_start_is_let_through() {
    let world = world();
    let (started, pid, _) = sleeping(As::Subreaper, &[]);
    let ran = world.enforce(&["--allow", "192.0.2.9"]);
    assert!(ran.elapsed < Duration::from_secs(10), "{ran}");
    assert!(table("egress_init").unwrap().contains("192.0.2.9"));
    end(started, pid);
}

fn nobody_waits_for_its_standard_streams() {
    let _world = world();
    // The reader has all of it when the command closes its output, though it goes on.
    let script = format!(
        "{} --supervise --dns pinned {} {} -- /bin/sh -c 'echo all; exec >&-; sleep 60' | {{ cat; echo read; }} > {OPEN}/log & wait",
        BINARY,
        ALLOW.join(" "),
        user_options().join(" "),
    );
    let started = Run::new("/bin/sh").args(["-c", &script]).start();
    says("log", "read");
    assert_eq!(said("log"), "all\nread\n");
    started.signal(Signal::SIGKILL);
    drop(started);
}

fn apply_has_nothing_to_supervise() {
    let _world = world();
    Run::new(BINARY)
        .args(["apply", "--supervise"])
        .args(ALLOW)
        .run()
        .exits(125)
        .says(&["--supervise: there is no command here"]);
    Run::new(BINARY)
        .arg("apply")
        .args(ALLOW)
        .env("EGRESS_INIT_SUPERVISE", "1")
        .run()
        .exits(0);
}
