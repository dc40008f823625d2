//! `--supervise` at a real terminal: as `docker run -it` has it, where PID 1 leads the session, and
//! under a shell with job control.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
    pty::openpty,
};

use crate::{
    cases,
    support::{
        sys,
        world::{BINARY, World, user_options},
    },
};

cases!(terminal:
    keys_reach_the_command_of_pid_1,
    a_stop_that_nobody_could_end_is_none,
    a_new_window_size_reaches_the_command,
    a_hangup_reaches_the_command,
    the_terminal_comes_back_to_a_command_that_reads,
    a_shell_can_stop_and_resume_the_job,
    a_job_in_the_background_takes_nothing,
    a_script_has_its_terminal_back,
);

/// A terminal, seen from the side of whoever sits at it.
struct Terminal {
    keyboard: Option<fs::File>,
    /// Reads the screen until it is told to stop.
    reader: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<String>>,
    read: usize,
    child: Child,
}

impl Terminal {
    /// These words in a session of their own, which the terminal controls.
    fn start(words: &[&str]) -> Self {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        // Whoever holds it keeps the terminal from hanging up.
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let slave = |end: &OwnedFd| Stdio::from(end.try_clone().unwrap());
        let child = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("PS1", "prompt> ")
            .env("TERM", "dumb")
            .current_dir("/")
            .stdin(slave(&pty.slave))
            .stdout(slave(&pty.slave))
            .stderr(slave(&pty.slave))
            .spawn()
            .unwrap();
        drop(pty.slave);
        let seen = Arc::new(Mutex::new(String::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut master = fs::File::from(pty.master);
        let keyboard = master.try_clone().unwrap();
        let (screen, is_over) = (seen.clone(), stop.clone());
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !is_over.load(Ordering::SeqCst) {
                let mut ready = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
                if poll(&mut ready, 20_u16) == Ok(0) {
                    continue;
                }
                // EIO when nobody has the other end any more.
                let Ok(length @ 1..) = master.read(&mut buffer) else {
                    return;
                };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                screen.lock().unwrap().push_str(&text);
            }
        });
        Self {
            keyboard: Some(keyboard),
            reader: Some(reader),
            stop,
            seen,
            read: 0,
            child,
        }
    }

    fn keyboard(&mut self) -> &mut fs::File {
        self.keyboard.as_mut().unwrap()
    }

    /// Closes this end of the terminal.
    fn hang_up(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.reader.take().unwrap().join().unwrap();
        self.keyboard = None;
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for this to appear after what was last waited for.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let since = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if let Some(at) = seen[self.read..].find(text) {
                self.read += at + text.len();
                return;
            }
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "expected {text:?} after byte {} of:\n{seen}",
                self.read
            );
            sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn exits(&mut self, code: i32) {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let seen = self.seen.lock().unwrap().clone();
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "it goes on:\n{seen}"
            );
            sleep(Duration::from_millis(5));
        };
        let seen = self.seen.lock().unwrap().clone();
        assert_eq!(status.code(), Some(code), "{seen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn world() -> World {
    let world = World::without_link();
    // A terminal belongs to whoever opened it.
    fs::write(
        "/etc/world/command",
        r#"
        $| = 1;
        for my $name (qw(INT QUIT HUP)) { $SIG{$name} = sub { print "got $name\n"; exit 9 if $name eq 'QUIT' } }
        $SIG{CONT} = sub { print "goes on\n" };
        $SIG{WINCH} = sub { my $size = `stty size`; print "window $size" };
        print "ready to run\n";
        if (@ARGV) { print "read ", scalar <STDIN>; exit 0 }
        sleep 1 while 1;
        "#,
    )
    .unwrap();
    fs::set_permissions("/etc/world/command", fs::Permissions::from_mode(0o644)).unwrap();
    world
}

fn words<'a>(before: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let options = [
        BINARY,
        "--supervise",
        "--dns",
        "pinned",
        "--allow",
        "192.0.2.7",
    ];
    [before, &options, user_options(), &["--"], command].concat()
}

/// As the container's first process, with a terminal of its own.
fn container(command: &[&str]) -> Terminal {
    let before = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "setsid",
        "--ctty",
    ];
    Terminal::start(&words(&before, command))
}

const LISTENER: [&str; 2] = ["perl", "/etc/world/command"];

fn keys_reach_the_command_of_pid_1() {
    let _world = world();
    let mut terminal = container(&LISTENER);
    terminal.shows("ready to run");
    terminal.type_in("\x03");
    terminal.shows("got INT");
    terminal.type_in("\x03");
    terminal.shows("got INT");
    terminal.type_in("\x1c");
    terminal.shows("got QUIT");
    terminal.exits(9);

    let mut reader = container(&["perl", "/etc/world/command", "read"]);
    reader.shows("ready to run");
    reader.type_in("a line\n");
    reader.shows("read a line");
    reader.exits(0);
}

fn a_stop_that_nobody_could_end_is_none() {
    let _world = world();
    let mut terminal = container(&LISTENER);
    terminal.shows("ready to run");
    for _ in 0..3 {
        terminal.type_in("\x1a");
        terminal.shows("goes on");
    }
    terminal.type_in("\x03");
    terminal.shows("got INT");
    terminal.type_in("\x1c");
    terminal.exits(9);
}

fn a_new_window_size_reaches_the_command() {
    let _world = world();
    let mut terminal = container(&LISTENER);
    terminal.shows("ready to run");
    for (rows, columns) in [(31, 97), (50, 132)] {
        sys::set_window_size(terminal.keyboard(), rows, columns).unwrap();
        terminal.shows(&format!("window {rows} {columns}"));
    }
    terminal.type_in("\x1c");
    terminal.exits(9);
}

fn a_hangup_reaches_the_command() {
    let _world = world();
    fs::create_dir("/etc/world/open").unwrap();
    fs::set_permissions("/etc/world/open", fs::Permissions::from_mode(0o777)).unwrap();
    let script = "trap 'echo hung up > /etc/world/open/log; exit 3' HUP; echo ready to run; \
                  while :; do sleep 0.1; done";
    let mut terminal = container(&["/bin/sh", "-c", script]);
    terminal.shows("ready to run");
    terminal.hang_up();
    terminal.exits(3);
    assert_eq!(
        fs::read_to_string("/etc/world/open/log").unwrap(),
        "hung up\n"
    );
}

fn the_terminal_comes_back_to_a_command_that_reads() {
    let _world = world();
    // It gave the foreground to a job, as shells do, and the job ended.
    let script = r#"
        use POSIX; $| = 1; $SIG{TTOU} = 'IGNORE';
        my $job = fork; if (!$job) { setpgrp 0, 0; sleep 60 }
        setpgrp $job, $job; POSIX::tcsetpgrp(0, $job) or die;
        kill 'KILL', $job; waitpid $job, 0;
        print "ready to run\n";
        print "read ", scalar <STDIN>;
    "#;
    let mut terminal = container(&["perl", "-e", script]);
    terminal.shows("ready to run");
    terminal.type_in("a line\n");
    terminal.shows("read a line");
    terminal.exits(0);
}

fn shell() -> Terminal {
    let mut terminal = Terminal::start(&[
        "setsid",
        "--ctty",
        "bash",
        "--norc",
        "--noprofile",
        "--noediting",
        "-i",
    ]);
    terminal.shows("prompt> ");
    terminal
}

fn line(command: &[&str]) -> String {
    words(&[], command).join(" ")
}

fn a_shell_can_stop_and_resume_the_job() {
    let _world = world();
    let mut terminal = shell();
    terminal.type_in(&(line(&LISTENER) + "\n"));
    terminal.shows("ready to run");
    for _ in 0..2 {
        terminal.type_in("\x1a");
        terminal.shows("Stopped");
        terminal.type_in("echo shell-$((40 + 2))\n");
        terminal.shows("shell-42");
        terminal.type_in("fg\n");
        terminal.shows("goes on");
        terminal.type_in("\x03");
        terminal.shows("got INT");
    }
    // Into the background and back.
    terminal.type_in("\x1a");
    terminal.shows("Stopped");
    terminal.type_in("bg\n");
    terminal.shows("goes on");
    terminal.type_in("echo shell-$((40 + 3))\n");
    terminal.shows("shell-43");
    // A job that runs is told nothing when it comes back; what the keys send comes through.
    terminal.type_in("fg\n");
    terminal.shows("perl /etc/world/command\r\n");
    terminal.type_in("\x03");
    terminal.shows("got INT");
    terminal.type_in("\x1a");
    terminal.shows("Stopped");
    terminal.type_in("fg\n");
    terminal.shows("goes on");
    terminal.type_in("\x1c");
    terminal.shows("got QUIT");
    terminal.type_in("echo code-$?\n");
    terminal.shows("code-9");
    terminal.type_in("exit 0\n");
    terminal.exits(0);
}

fn a_job_in_the_background_takes_nothing() {
    let _world = world();
    let mut terminal = shell();
    let reader = line(&["perl", "/etc/world/command", "read"]);
    terminal.type_in(&(reader + " &\n"));
    terminal.shows("ready to run");
    // The shell still reads; the job, which would, is stopped for it.
    terminal.type_in("echo shell-$((40 + 2))\n");
    terminal.shows("shell-42");
    terminal.type_in("sleep 0.5; jobs\n");
    terminal.shows("Stopped");
    terminal.type_in("fg\n");
    terminal.shows("goes on");
    terminal.type_in("a line\n");
    terminal.shows("read a line");
    terminal.shows("prompt> ");
    terminal.type_in("exit 4\n");
    terminal.exits(4);
}

fn a_script_has_its_terminal_back() {
    let _world = world();
    let mut terminal = shell();
    let script = format!(
        "bash -c '{}; read line; echo script-read-$line'\n",
        line(&["/bin/echo", "the command ran"])
    );
    terminal.type_in(&script);
    terminal.shows("the command ran\r\n");
    terminal.type_in("this\n");
    terminal.shows("script-read-this\r\n");
    terminal.type_in("exit 0\n");
    terminal.exits(0);
}
