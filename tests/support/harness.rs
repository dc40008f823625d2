//! Starts each case in a process and in namespaces of its own, and this executable in its other
//! roles.
//!
//! `unshare` makes the namespaces: pid, mount and network, and for a plain user a user namespace
//! around them. The case is process 1 of its pid namespace, so that everything it started ends
//! with it; and it ends when the pipe on its standard input closes, so also when the test process
//! is killed.

use std::{
    env, fs,
    io::{self, Read},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::{outside, probe};

/// How a case says that it cannot run here, with the reason on its standard output.
const IGNORED: i32 = 77;
/// How many seconds a case may take that is started with this variable.
pub const LIMIT_VARIABLE: &str = "TEST_CASE_LIMIT";

/// A case that takes longer has hung; the one that soaks takes as long as it is told.
fn limit() -> Duration {
    let seconds = |variable| env::var(variable).ok().and_then(|text| text.parse().ok());
    let soak: u64 = seconds("SOAK_SECONDS").unwrap_or(0);
    Duration::from_secs(seconds(LIMIT_VARIABLE).unwrap_or(120) + soak)
}

/// One test case: a name and what it does, in namespaces of its own.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub body: fn(),
}

/// The cases of a file: its functions by name.
#[macro_export]
macro_rules! cases {
    ($theme:ident: $($function:ident),+ $(,)?) => {
        pub fn cases() -> Vec<$crate::support::harness::Case> {
            vec![$($crate::support::harness::Case {
                name: concat!(stringify!($theme), "::", stringify!($function)),
                body: $function,
            }),+]
        }
    };
}

/// The `main` of an executable that has cases.
pub fn main(cases: &[Case]) -> ExitCode {
    if dispatch(cases) {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // A case waits more than it works.
    let processors = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(3 * processors);
    let trials = cases
        .iter()
        .map(|case| {
            let name = case.name;
            Trial::ignorable_test(name, move || in_namespaces(name))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Plays the role that the first argument names, if it names one.
pub fn dispatch(cases: &[Case]) -> bool {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["__outside"] => outside::main(true),
        ["__probe", steps] => probe::main(steps),
        ["__untidy", ..] => untidy(&words[1..]),
        ["__case", name] => {
            let case = cases
                .iter()
                .find(|case| case.name == name)
                .expect("the name of a case");
            end_with_the_parent();
            (case.body)();
        }
        _ => return false,
    }
    true
}

/// `unshare`, as far as this user needs it.
pub fn namespaces() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
        if can_map_more() {
            command.arg("--map-auto");
        }
    }
    command.args(["--pid", "--net", "--mount", "--fork", "--kill-child"]);
    command
}

/// Whether this plain user has a range of subordinate uids and the programs that map it.
fn can_map_more() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Runs one case in the open: what it prints is seen, how it ends is returned. For programs that
/// are no tests and have one case.
pub fn run_in_the_open(case: &Case) -> io::Result<ExitCode> {
    let mut child = namespaces()
        .arg(env::current_exe()?)
        .args(["__case", case.name])
        .stdin(Stdio::piped())
        .spawn()?;
    let lifeline = child.stdin.take();
    let status = child.wait()?;
    drop(lifeline);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

fn in_namespaces(name: &str) -> Result<Completion, Failed> {
    let mut child = namespaces()
        .arg(env::current_exe()?)
        .args(["__case", name])
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    // Held until the case has ended: this is its lifeline.
    let lifeline = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(lifeline);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(Completion::Completed),
        Some(IGNORED) => Ok(Completion::ignored_with(stdout.trim())),
        _ => Err(format!("{}\n{stdout}{stderr}", output.status).into()),
    }
}

/// Ends this process, and its pid namespace with it, when the lifeline is cut or time is up.
pub fn end_with_the_parent() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    thread::spawn(|| {
        thread::sleep(limit());
        eprintln!("not done after {:?}", limit());
        std::process::exit(1);
    });
    mount_proc();
}

/// A /proc of this pid namespace.
pub fn mount_proc() {
    let _ = nix::mount::mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    );
}

/// The static or the debug binary: what the scripts say, else what cargo built for this test.
pub fn binary_under_test() -> PathBuf {
    env::var_os("EGRESS_INIT_BIN")
        .map(PathBuf::from)
        .or_else(|| option_env!("CARGO_BIN_EXE_egress-init").map(PathBuf::from))
        .expect("EGRESS_INIT_BIN names the binary under test")
}

/// Whether there is a uid beside root's in this user namespace.
pub fn has_second_uid() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum::<u64>()
        > 1
}

/// Whether the namespaces that this process starts will have one.
pub fn will_have_second_uid() -> bool {
    if nix::unistd::geteuid().is_root() {
        has_second_uid()
    } else {
        can_map_more()
    }
}

/// For cases that mean nothing without another user: says so, visibly, where there is none.
pub fn needs_second_uid() {
    if !has_second_uid() {
        println!("needs a second uid: run it as root, or with uidmap and a range in /etc/subuid");
        std::process::exit(IGNORED);
    }
}

/// The entry of `__untidy COMMAND ARGS`: executes it with signals blocked and ignored, and with
/// descriptors that it should not have.
fn untidy(words: &[&str]) -> ! {
    use nix::sys::signal::{SigSet, Signal};
    use std::os::{fd::AsRawFd, unix::process::CommandExt};

    for signal in [
        Signal::SIGPIPE,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGCHLD,
    ] {
        super::sys::ignore_signal(signal);
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.add(Signal::SIGUSR2);
    blocked.thread_block().unwrap();
    let file = fs::File::open("/etc/passwd").unwrap();
    for number in [3, 7, 40] {
        super::sys::leak_descriptor(file.as_raw_fd(), number);
    }
    panic!("{}", Command::new(words[0]).args(&words[1..]).exec());
}
