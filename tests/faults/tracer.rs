//! Runs a program call by call: each system call stops at its entry and at its exit, where it can
//! be recorded, made to fail, cut short, or be the last that the program ever makes (ptrace(2)).
//!
//! A call has a name that outlives the run: its thread, its system call, and the how-manieth of
//! that thread it is. So what one run has recorded can be the target of the next.
//!
//! A program is followed from its first call, with the thread or the child that becomes the command
//! ([`run`]); or one that goes on for ever is followed through a window of time, from an event on
//! until it has come to rest ([`window`]).

use std::{
    collections::BTreeMap,
    fmt, fs,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    process::{Child, Command, Stdio},
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

/// A program that waits for so long, and has done what it is to do, has come to rest. Longer than
/// it waits by itself for a change of a list to become whole.
const REST: Duration = Duration::from_millis(150);

/// So long after the beginning it need not have come to rest.
const RESTLESS: Duration = Duration::from_secs(4);

/// What was started by a program that has ended may go on for so long.
const LEFT: Duration = Duration::from_secs(5);

/// Which call of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// The thread: 0 is the first, another one becomes the command.
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
            " of what becomes the command"
        };
        write!(f, "{} #{}{thread}", self.call, self.occurrence)
    }
}

/// What is done to a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// It is not made, and returns this error number. (close(2) is made.)
    Error(i32),
    /// The same, from this occurrence on, for every later one of any thread.
    ErrorFromNow(i32),
    /// It is made with half of its length.
    Short,
    /// It is made later, while the other thread goes on.
    Late,
    /// The process is killed before it is made.
    Kill,
    /// The process above the one that makes it is.
    KillAbove,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(errno) => write!(f, "{:?}", Errno::from_raw(*errno)),
            Self::ErrorFromNow(errno) => write!(f, "{:?} for ever", Errno::from_raw(*errno)),
            Self::Short => f.write_str("short"),
            Self::Late => f.write_str("late"),
            Self::Kill => f.write_str("SIGKILL"),
            Self::KillAbove => f.write_str("SIGKILL of the process above"),
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
    /// It has come to rest, and stays.
    Stays,
}

/// A run.
#[derive(Debug)]
pub struct Traced {
    /// Whether the fault was done.
    pub reached: bool,
    /// The process that has become the command.
    pub command: Option<Pid>,
    pub end: End,
}

/// Starts a program that is to be traced. It stands still before its first call.
pub fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::traced(command);
    command.spawn().expect("the program can be started")
}

/// What a program that has ended had printed.
pub fn said(child: &mut Child) -> (String, String) {
    let text = |stream: Option<&mut dyn Read>| {
        let mut octets = Vec::new();
        stream
            .expect("a pipe")
            .read_to_end(&mut octets)
            .expect("the pipe can be read");
        String::from_utf8_lossy(&octets).into_owned()
    };
    let stdout = text(child.stdout.as_mut().map(|pipe| pipe as _));
    (stdout, text(child.stderr.as_mut().map(|pipe| pipe as _)))
}

/// A fault, where, and how long to wait for the end of it all.
pub type Plan<'a> = (Option<(&'a Point, &'a Fault)>, Duration);

/// Follows a program that was started so, with at most one fault in it, until it has ended, or
/// rests and has `settled`. `at_boundary` is called while it stands still: after each of its calls,
/// and once where it has become the other program.
pub fn run(
    child: &Child,
    plan: Plan,
    settled: impl FnMut() -> bool,
    at_boundary: impl FnMut(Option<&Call>),
) -> Traced {
    let leader = pid(child);
    waitpid(leader, None).expect("it stops once it has executed");
    ptrace::setoptions(leader, options()).expect("it is traced");
    Tracer::new(leader, plan.0).follow(plan.1, settled, at_boundary)
}

/// The same for a program of one thread that has been running for long, from `event` on.
pub fn window(
    leader: Pid,
    plan: Plan,
    event: impl FnOnce(),
    settled: impl FnMut() -> bool,
    at_boundary: impl FnMut(Option<&Call>),
) -> Traced {
    ptrace::seize(leader, options()).expect("it can be traced");
    ptrace::interrupt(leader).expect("it is traced");
    waitpid(leader, Some(WaitPidFlag::__WALL)).expect("it stops");
    event();
    Tracer::new(leader, plan.0).follow(plan.1, settled, at_boundary)
}

fn options() -> ptrace::Options {
    ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_EXITKILL
}

pub fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// One thread of the program.
#[derive(Default)]
struct Thread {
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
    /// The first argument of the call that was reached.
    file: Option<u64>,
    /// The thread that is kept, and until when.
    late: Option<(Pid, Instant)>,
    /// Since when the first thread waits for something to happen.
    waits: Option<Instant>,
    began: Instant,
    /// When the first process ended.
    ended: Option<Instant>,
}

impl<'a> Tracer<'a> {
    fn new(leader: Pid, fault: Option<(&'a Point, &'a Fault)>) -> Self {
        Self {
            leader,
            fault,
            threads: BTreeMap::from([(leader, Thread::default())]),
            calls: Vec::new(),
            reached: false,
            file: None,
            late: None,
            waits: None,
            began: Instant::now(),
            ended: None,
        }
    }

    /// To the end of the program, or until it rests. What has become the command runs freely.
    fn follow(
        mut self,
        patience: Duration,
        mut settled: impl FnMut() -> bool,
        mut at_boundary: impl FnMut(Option<&Call>),
    ) -> Traced {
        let watchdog = Watchdog::start(self.leader, patience);
        resume(self.leader, None);
        let mut command = None;
        let mut end = None;
        // What was started by a process that has ended is followed to its own end.
        while end.is_none() || !self.threads.is_empty() {
            let Some(stopped) = self.next_stop(&mut settled) else {
                self.let_go();
                end = Some(End::Stays);
                break;
            };
            match stopped {
                WaitStatus::Exited(pid, code) if pid == self.leader => {
                    self.first_ended();
                    end = Some(End::Exited(code));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => {
                    self.first_ended();
                    end = Some(End::Killed(signal as i32));
                }
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.threads.remove(&pid);
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
                WaitStatus::PtraceEvent(process, _, libc::PTRACE_EVENT_EXEC) => {
                    if let Some(index) = self.executed(process) {
                        at_boundary(Some(&self.calls[index]));
                    }
                    at_boundary(None);
                    // It may have been killed meanwhile, with the process above it.
                    let _ = ptrace::detach(process, None);
                    command = Some(process);
                    self.threads.remove(&process);
                    if process == self.leader {
                        self.threads.clear();
                        end = Some(match waitpid(process, None) {
                            Ok(WaitStatus::Exited(_, code)) => End::Exited(code),
                            Ok(WaitStatus::Signaled(_, signal, _)) => End::Killed(signal as i32),
                            other => panic!("{other:?} is no end"),
                        });
                    }
                }
                WaitStatus::PtraceEvent(
                    thread,
                    _,
                    libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE,
                ) => {
                    if let Ok(new) = ptrace::getevent(thread) {
                        let new = Pid::from_raw(i32::try_from(new).expect("a process id"));
                        self.threads.entry(new).or_default();
                    }
                    resume(thread, None);
                }
                // A new thread begins with a stop.
                WaitStatus::PtraceEvent(thread, ..)
                | WaitStatus::Stopped(thread, Signal::SIGSTOP) => resume(thread, None),
                WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal)),
                _ => {}
            }
        }
        let hung = watchdog.stop() || self.ended.is_some_and(|ended| ended.elapsed() > LEFT);
        Traced {
            reached: self.reached,
            command,
            end: end.filter(|_| !hung).unwrap_or(End::Hung),
        }
    }

    /// The call by which it has become the command: it never returns where it was made.
    fn executed(&mut self, process: Pid) -> Option<usize> {
        // Whichever thread makes it goes on with the id of the first.
        let thread = Pid::from_raw(i32::try_from(ptrace::getevent(process).ok()?).ok()?);
        let index = self.threads.get_mut(&thread)?.current.take()?;
        self.calls[index].returned = Some(0);
        Some(index)
    }

    fn first_ended(&mut self) {
        self.threads.remove(&self.leader);
        self.waits = None;
        self.ended = Some(Instant::now());
    }

    /// What happens next, a late thread that goes on included; nothing where the program rests.
    fn next_stop(&mut self, settled: &mut impl FnMut() -> bool) -> Option<WaitStatus> {
        while self.late.is_some() || self.waits.is_some() || self.ended.is_some() {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            match waitpid(None, Some(flags)).expect("there is a tracee") {
                WaitStatus::StillAlive => {}
                stopped => return Some(stopped),
            }
            if let Some((thread, until)) = self.late
                && Instant::now() >= until
            {
                self.late = None;
                resume(thread, None);
            }
            // What tries again and again never rests.
            let rests = self.waits.is_some_and(|since| since.elapsed() >= REST)
                || self.waits.is_some() && self.began.elapsed() > RESTLESS;
            if rests && settled() {
                return None;
            }
            if self.ended.is_some_and(|ended| ended.elapsed() > LEFT) {
                for left in self.threads.keys() {
                    let _ = kill(*left, Signal::SIGKILL);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        Some(waitpid(None, Some(WaitPidFlag::__WALL)).expect("there is a tracee"))
    }

    /// It goes on as if it had never been traced.
    fn let_go(&self) {
        let _ = kill(self.leader, Signal::SIGSTOP);
        loop {
            match waitpid(self.leader, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => {
                    let _ = ptrace::detach(self.leader, None);
                    return;
                }
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => return,
                Ok(_) => resume(self.leader, None),
            }
        }
    }

    /// An entry, or an exit: then the index of the call that is over.
    fn syscall_stop(&mut self, thread: Pid) -> Option<usize> {
        // It may have been killed meanwhile, by the watchdog or by another thread's exec.
        let info = ptrace::syscall_info(thread).ok()?;
        let state = self.threads.entry(thread).or_default();
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: the kernel says that it filled in this member.
            #[allow(unsafe_code)]
            let entry = unsafe { info.u.entry };
            let name = calls::name(entry.nr);
            let occurrence = state.made.entry(name.clone()).or_default();
            *occurrence += 1;
            let point = Point {
                thread: u8::from(thread != self.leader),
                call: name,
                occurrence: *occurrence,
            };
            state.current = Some(self.calls.len());
            if thread == self.leader && matches!(point.call.as_str(), "epoll_wait" | "epoll_pwait")
            {
                self.waits = Some(Instant::now());
            }
            let subject = calls::subject(&point.call, &entry.args, &Process(thread));
            self.calls.push(Call {
                point,
                arguments: entry.args,
                subject,
                returned: None,
            });
            self.do_fault(thread);
            if self.reached && matches!(self.fault, Some((_, Fault::Kill | Fault::KillAbove))) {
                // It ends: that is no rest.
                self.waits = None;
            }
            return None;
        }
        if info.op != libc::PTRACE_SYSCALL_INFO_EXIT {
            return None;
        }
        // SAFETY: the kernel says that it filled in this member.
        #[allow(unsafe_code)]
        let exit = unsafe { info.u.exit };
        if thread == self.leader {
            self.waits = None;
        }
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
        // A file that cannot be written to is one file: not the runtime's own eventfd too, by which
        // it wakes itself.
        let is_of_it = call.point.call != "write" || self.file == Some(call.arguments[0]);
        let later = matches!(fault, Fault::ErrorFromNow(_)) && self.reached && is_of_it;
        if call.point != *point && !(later && call.point.call == point.call) {
            return;
        }
        self.reached = true;
        self.file.get_or_insert(call.arguments[0]);
        match fault {
            Fault::Kill => kill(process_of(thread), Signal::SIGKILL).expect("it stands still"),
            Fault::KillAbove => kill(self.leader, Signal::SIGKILL).expect("it is a child"),
            Fault::Error(errno) | Fault::ErrorFromNow(errno) => {
                // A descriptor is closed whatever close(2) returns.
                if call.point.call != "close" {
                    registers::skip_call(thread);
                }
                let state = self.threads.get_mut(&thread).expect("it is known");
                state.instead = Some(-i64::from(*errno));
            }
            Fault::Late => self.late = Some((thread, Instant::now() + DELAY)),
            Fault::Short => registers::set_length(thread, call.arguments[2] / 2),
        }
    }
}

/// The process of a thread: `proc_pid_status(5)`.
fn process_of(thread: Pid) -> Pid {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let process = lines.find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    process.map_or(thread, Pid::from_raw)
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
    #[cfg(target_arch = "aarch64")]
    pub use aarch64::skip_call;
    use nix::{libc::user_regs_struct, sys::ptrace, unistd::Pid};

    /// The call is none: the kernel returns from it without doing anything.
    #[cfg(target_arch = "x86_64")]
    pub fn skip_call(thread: Pid) {
        change(thread, |registers| registers.orig_rax = u64::MAX);
    }

    pub fn set_result(thread: Pid, value: i64) {
        change(thread, |registers| {
            *result(registers) = value.cast_unsigned();
        });
    }

    /// The third argument.
    pub fn set_length(thread: Pid, length: u64) {
        change(thread, |registers| *third(registers) = length);
    }

    fn change(thread: Pid, change: impl FnOnce(&mut user_regs_struct)) {
        // The watchdog may have killed it meanwhile.
        if let Ok(mut registers) = ptrace::getregs(thread) {
            change(&mut registers);
            let _ = ptrace::setregs(thread, registers);
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn result(registers: &mut user_regs_struct) -> &mut u64 {
        &mut registers.rax
    }

    #[cfg(target_arch = "x86_64")]
    fn third(registers: &mut user_regs_struct) -> &mut u64 {
        &mut registers.rdx
    }

    #[cfg(target_arch = "aarch64")]
    fn result(registers: &mut user_regs_struct) -> &mut u64 {
        &mut registers.regs[0]
    }

    #[cfg(target_arch = "aarch64")]
    fn third(registers: &mut user_regs_struct) -> &mut u64 {
        &mut registers.regs[2]
    }

    #[cfg(target_arch = "aarch64")]
    mod aarch64 {
        use nix::{libc, unistd::Pid};

        /// The number of the call is in a set of registers of its own: `NT_ARM_SYSTEM_CALL` of
        /// include/uapi/linux/elf.h.
        #[allow(unsafe_code)]
        pub fn skip_call(thread: Pid) {
            const NT_ARM_SYSTEM_CALL: usize = 0x404;
            let mut none = -1_i32;
            let set = libc::iovec {
                iov_base: (&raw mut none).cast(),
                iov_len: size_of_val(&none),
            };
            // SAFETY: the kernel reads as many octets as the vector says, which are there.
            unsafe {
                libc::ptrace(
                    libc::PTRACE_SETREGSET,
                    thread.as_raw(),
                    NT_ARM_SYSTEM_CALL,
                    &raw const set,
                )
            };
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
