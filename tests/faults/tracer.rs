//! Runs a program call by call: each system call stops at its entry and at its exit, where it can
//! be recorded, made to fail, cut short, or be the last that the program ever makes (ptrace(2)).
//!
//! A call has a name that outlives the run: its thread, its system call, and the how-manieth of
//! that thread it is. So what one run has recorded can be the target of the next.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{calls, support::sys};

/// Long enough for another thread to come to where it waits.
const DELAY: Duration = Duration::from_millis(100);

/// Which call of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// The thread: 0 is the first.
    pub thread: u8,
    /// The system call.
    pub call: String,
    /// Which call of that thread to it, from 1.
    pub occurrence: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = if self.thread == 0 {
            ""
        } else {
            " of the exec thread"
        };
        write!(f, "{} #{}{thread}", self.call, self.occurrence)
    }
}

/// What is done to a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// It is not made, and returns this error number.
    Error(i32),
    /// The same, from this occurrence on, for every later one of any thread.
    ErrorFromNow(i32),
    /// It is made with half of its length.
    Short,
    /// It is made later, while the other thread goes on.
    Late,
    /// The process is killed before it is made.
    Kill,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(errno) => write!(f, "{:?}", Errno::from_raw(*errno)),
            Self::ErrorFromNow(errno) => write!(f, "{:?} for ever", Errno::from_raw(*errno)),
            Self::Short => f.write_str("short"),
            Self::Late => f.write_str("late"),
            Self::Kill => f.write_str("SIGKILL"),
        }
    }
}

/// A call that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    pub point: Point,
    pub arguments: [u64; 6],
    /// The path it names, or what a netlink message of nftables is about.
    pub subject: Option<String>,
    /// What it returned: negative for an error. Nothing where it never did.
    pub returned: Option<i64>,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Exited(i32),
    Killed(i32),
    /// It was still running at the end of all patience.
    Hung,
}

/// A run.
#[derive(Debug)]
pub struct Traced {
    /// Whether the fault was done.
    pub reached: bool,
    /// Whether the program has become another one.
    pub executed: bool,
    pub end: End,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` with at most one fault in it. `at_boundary` is called while the program stands
/// still: after each of its calls, and once where it has become the other program.
pub fn run(
    mut command: Command,
    fault: Option<(&Point, &Fault)>,
    patience: Duration,
    mut at_boundary: impl FnMut(Option<&Call>),
) -> Traced {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::traced(&mut command);
    let mut child = command.spawn().expect("the program can be started");
    let leader = pid(&child);
    let watchdog = Watchdog::start(leader, patience);
    let mut tracer = Tracer {
        leader,
        fault,
        threads: BTreeMap::new(),
        calls: Vec::new(),
        reached: false,
        late: None,
    };
    let (status, executed) = tracer.follow(&mut child, &mut at_boundary);
    let hung = watchdog.stop();
    let text = |stream: Option<&mut dyn Read>| {
        let mut octets = Vec::new();
        stream
            .expect("a pipe")
            .read_to_end(&mut octets)
            .expect("the pipe can be read");
        String::from_utf8_lossy(&octets).into_owned()
    };
    Traced {
        reached: tracer.reached,
        executed,
        end: match (hung, status.code(), status.signal()) {
            (true, ..) => End::Hung,
            (_, Some(code), _) => End::Exited(code),
            (_, None, signal) => End::Killed(signal.unwrap_or_default()),
        },
        stdout: text(child.stdout.as_mut().map(|pipe| pipe as _)),
        stderr: text(child.stderr.as_mut().map(|pipe| pipe as _)),
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// One thread of the program.
#[derive(Default)]
struct Thread {
    /// 0 is the first.
    number: u8,
    /// How often it made each system call.
    made: BTreeMap<String, u32>,
    /// The call it is in, as an index.
    current: Option<usize>,
    /// What that call is to return, having not been made.
    instead: Option<i64>,
}

struct Tracer<'a> {
    leader: Pid,
    fault: Option<(&'a Point, &'a Fault)>,
    threads: BTreeMap<Pid, Thread>,
    calls: Vec<Call>,
    reached: bool,
    /// The thread that is kept, and until when.
    late: Option<(Pid, Instant)>,
}

impl Tracer<'_> {
    /// To the end of the program, or until it has become the other one, which then runs freely to
    /// its end.
    fn follow(
        &mut self,
        child: &mut Child,
        at_boundary: &mut impl FnMut(Option<&Call>),
    ) -> (ExitStatus, bool) {
        waitpid(self.leader, None).expect("it stops once it has executed");
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(self.leader, options).expect("it is traced");
        self.threads.insert(self.leader, Thread::default());
        resume(self.leader, None);
        loop {
            let stopped = self.next_stop();
            match stopped {
                WaitStatus::Exited(pid, code) if pid == self.leader => {
                    return (ExitStatus::from_raw(code << 8), false);
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => {
                    return (ExitStatus::from_raw(signal as i32), false);
                }
                WaitStatus::PtraceSyscall(thread) => {
                    let done = self.syscall_stop(thread);
                    if let Some(index) = done {
                        at_boundary(Some(&self.calls[index]));
                    }
                    if self.late.is_none_or(|(late, _)| late != thread) {
                        resume(thread, None);
                    }
                }
                WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_EXEC) => {
                    at_boundary(None);
                    ptrace::detach(thread, None).expect("it stands still");
                    return (child.wait().expect("it is a child"), true);
                }
                // A new thread begins with a stop.
                WaitStatus::PtraceEvent(thread, ..)
                | WaitStatus::Stopped(thread, Signal::SIGSTOP) => resume(thread, None),
                WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal)),
                _ => {}
            }
        }
    }

    /// What happens next, a late thread that goes on included.
    fn next_stop(&mut self) -> WaitStatus {
        while let Some((thread, until)) = self.late {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            match waitpid(None, Some(flags)).expect("there is a tracee") {
                WaitStatus::StillAlive if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                WaitStatus::StillAlive => {
                    self.late = None;
                    resume(thread, None);
                }
                stopped => return stopped,
            }
        }
        waitpid(None, Some(WaitPidFlag::__WALL)).expect("there is a tracee")
    }

    /// An entry, or an exit: then the index of the call that is over.
    fn syscall_stop(&mut self, thread: Pid) -> Option<usize> {
        // It may have been killed meanwhile, by the watchdog or by another thread's exec.
        let info = ptrace::syscall_info(thread).ok()?;
        let number = u8::try_from(self.threads.len()).unwrap_or(u8::MAX);
        let state = self.threads.entry(thread).or_insert_with(|| Thread {
            number,
            ..Thread::default()
        });
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: the kernel says that it filled in this member.
            #[allow(unsafe_code)]
            let entry = unsafe { info.u.entry };
            let name = calls::name(entry.nr);
            let occurrence = state.made.entry(name.clone()).or_default();
            *occurrence += 1;
            let point = Point {
                thread: state.number,
                call: name,
                occurrence: *occurrence,
            };
            state.current = Some(self.calls.len());
            let subject = calls::subject(&point.call, &entry.args, &Process(self.leader));
            self.calls.push(Call {
                point,
                arguments: entry.args,
                subject,
                returned: None,
            });
            self.do_fault(thread);
            return None;
        }
        if info.op != libc::PTRACE_SYSCALL_INFO_EXIT {
            return None;
        }
        // SAFETY: the kernel says that it filled in this member.
        #[allow(unsafe_code)]
        let exit = unsafe { info.u.exit };
        let index = state.current.take()?;
        let instead = state.instead.take();
        if let Some(value) = instead {
            registers::set_result(thread, value);
        }
        self.calls[index].returned = Some(instead.unwrap_or(exit.sval));
        Some(index)
    }

    fn do_fault(&mut self, thread: Pid) {
        let Some((point, fault)) = self.fault else {
            return;
        };
        let Some(call) = self.calls.last() else {
            return;
        };
        let later = matches!(fault, Fault::ErrorFromNow(_)) && self.reached;
        if call.point != *point && !(later && call.point.call == point.call) {
            return;
        }
        self.reached = true;
        match fault {
            Fault::Kill => kill(self.leader, Signal::SIGKILL).expect("it is a child"),
            Fault::Error(errno) | Fault::ErrorFromNow(errno) => {
                registers::skip_call(thread);
                let state = self.threads.get_mut(&thread).expect("it is known");
                state.instead = Some(-i64::from(*errno));
            }
            Fault::Late => self.late = Some((thread, Instant::now() + DELAY)),
            Fault::Short => registers::set_length(thread, call.arguments[2] / 2),
        }
    }
}

/// Lets it go on, unless it is gone.
fn resume(thread: Pid, signal: Option<Signal>) {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("cannot resume thread {thread}: {errno}"),
    }
}

/// A look into a program that stands still.
pub struct Process(Pid);

impl Process {
    pub fn memory(&self, address: u64, length: usize) -> Vec<u8> {
        let mut octets = vec![0; length];
        let read = File::open(format!("/proc/{}/mem", self.0))
            .and_then(|memory| memory.read_at(&mut octets, address));
        octets.truncate(read.unwrap_or(0));
        octets
    }

    /// What a descriptor is open to.
    pub fn descriptor(&self, number: u64) -> Option<String> {
        let link = std::fs::read_link(format!("/proc/{}/fd/{number}", self.0));
        link.ok().map(|to| to.display().to_string())
    }
}

/// What of it differs between architectures.
mod registers {
    use nix::{sys::ptrace, unistd::Pid};

    /// The call is none: the kernel returns from it without doing anything.
    pub fn skip_call(thread: Pid) {
        change(thread, |registers| registers.orig_rax = u64::MAX);
    }

    pub fn set_result(thread: Pid, value: i64) {
        change(thread, |registers| registers.rax = value.cast_unsigned());
    }

    /// The third argument.
    pub fn set_length(thread: Pid, length: u64) {
        change(thread, |registers| registers.rdx = length);
    }

    fn change(thread: Pid, change: impl FnOnce(&mut nix::libc::user_regs_struct)) {
        // The watchdog may have killed it meanwhile.
        if let Ok(mut registers) = ptrace::getregs(thread) {
            change(&mut registers);
            let _ = ptrace::setregs(thread, registers);
        }
    }
}

/// Kills what hangs.
struct Watchdog {
    stop: mpsc::Sender<()>,
    barked: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Watchdog {
    fn start(process: Pid, patience: Duration) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let barked = Arc::new(AtomicBool::new(false));
        let bark = barked.clone();
        let thread = thread::spawn(move || {
            if stopped.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                bark.store(true, Ordering::SeqCst);
                let _ = kill(process, Signal::SIGKILL);
            }
        });
        Self {
            stop,
            barked,
            thread,
        }
    }

    fn stop(self) -> bool {
        drop(self.stop);
        self.thread.join().expect("it does not panic");
        self.barked.load(Ordering::SeqCst)
    }
}
