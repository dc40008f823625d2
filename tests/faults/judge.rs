//! One case from its beginning to the verdict. What counts is what can be seen from outside of
//! the program: what leaves, between any two of its calls and afterwards; the sentinel; whether
//! the command ran, and as what; the exit code and the line on stderr.

use std::{
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use serde::{Deserialize, Serialize};

use crate::{
    conformance,
    gate::{self, Gate, Mark, Observation, PORT},
    keeping,
    regressions::Regression,
    scenario::{self, Scenario},
    support::{
        capture::Frame,
        harness,
        probe::{Outcome, Status, Step},
        world::{ELSEWHERE, FOREIGN_DNS, World, status},
    },
    tracer::{self, Call, End, Fault, Point},
};

/// Longer than any start takes that goes on at all: the kernel has 30 seconds for a transaction.
const PATIENCE: Duration = Duration::from_secs(35);

/// A command may go on for so long when its supervisor is dead.
const DEATH: Duration = Duration::from_secs(2);

/// Far more calls than any start makes.
const LONGEST: usize = 5000;

/// A fault and where.
#[derive(Clone, Debug)]
pub struct Case {
    pub scenario: Scenario,
    pub point: Point,
    pub fault: Fault,
    pub regression: Option<Regression>,
}

/// What came of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The command ran, fenced; or `apply` was done; or what was new is in force.
    Enforced,
    /// It goes on with what was in force before.
    Kept,
    /// It did not, and nothing leaves.
    Locked,
    /// It did not, and nothing leaves but DNS of uid 0.
    LockedWithDns,
    /// It did not, and what the list allows leaves.
    Policy,
    /// It did not, and what leaves is what left before.
    Untouched,
}

/// A case and all that is to be said of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judged {
    pub verdict: Verdict,
    /// Whether the call was made at all.
    pub reached: bool,
    pub end: End,
    pub stderr: String,
    /// What is not as it must be.
    pub wrong: Vec<String>,
    pub milliseconds: u64,
    /// The calls and what was seen after them, where that was asked for.
    pub calls: Vec<(Option<Call>, Observation)>,
}

impl Judged {
    /// A case that took its judge along.
    pub fn lost() -> Self {
        Self {
            verdict: Verdict::Untouched,
            reached: true,
            end: End::Hung,
            stderr: String::new(),
            wrong: vec!["the judge failed: see above".to_owned()],
            milliseconds: 0,
            calls: Vec::new(),
        }
    }
}

/// Runs a scenario with a fault in it, or without one: then with every call recorded.
pub fn judge(world: &World, scenario: Scenario, fault: Option<(&Point, &Fault)>) -> Judged {
    if scenario.is_kept() {
        return keeping::judge(world, scenario, fault);
    }
    let mut observer = scenario.prepare(world);
    world.take_frames();
    observer.escaped = 0;
    let mut seen = Vec::new();
    let mut last = observer.look();
    let began = std::time::Instant::now();
    let mut child = tracer::start(&mut scenario.command());
    // `apply --watch` rests when it has published.
    let stale = gate::inode();
    let stays = matches!(scenario, Scenario::Watch | Scenario::TakeOver);
    let settled = || stays && gate::inode().is_some_and(|inode| Some(inode) != stale);
    let traced = tracer::run(&child, (fault, PATIENCE), settled, |call| {
        // A program that goes round in a circle shall not flood the outside.
        if seen.len() > LONGEST {
            return;
        }
        // What changes only the process itself changes nothing here.
        if fault.is_none() || call.is_none_or(|call| !is_of_the_process(&call.point.call)) {
            last = observer.look();
        }
        seen.push((call.cloned(), last));
    });
    let took = began.elapsed();
    let after = observer.look();
    let mut wrong = Vec::new();
    let (ends_well, executed) = (traced.end == End::Exited(0), traced.command.is_some());
    let done = match scenario {
        Scenario::Supervise => executed && ends_well,
        Scenario::Watch | Scenario::TakeOver => traced.end == End::Stays,
        _ if scenario.executes() => executed,
        _ => ends_well,
    };
    if scenario == Scenario::Supervise {
        wrong.extend(traced.command.and_then(outlives));
    }
    if traced.end == End::Stays {
        wrong.extend(ends(&mut child));
        let left = observer.look();
        if left != after {
            wrong.push(format!("it was ended, and what is left is {left}"));
        }
    }
    let (stdout, stderr) = tracer::said(&mut child);
    let traced = Run {
        stdout,
        stderr,
        executed,
        reached: traced.reached,
        end: traced.end,
    };
    wrong.extend(on_the_way(scenario, &seen, fault));
    let verdict = at_the_end(scenario, done, &traced, &seen, after, fault, &mut wrong);
    if matches!(fault, Some((_, Fault::Late))) && verdict != Verdict::Enforced {
        wrong.push("no call may be late".to_owned());
    }
    if traced.executed && (done || scenario != Scenario::Supervise) {
        wrong.extend(of_the_command(scenario, &traced));
    }
    if matches!(traced.end, End::Exited(_)) && !done && !is_the_command(&traced, fault) {
        wrong.extend(of_the_message(&traced));
    }
    // The model has one fault at a time.
    let lasts = fault.is_some_and(|(_, fault)| matches!(fault, Fault::ErrorFromNow(_)));
    // It has neither a resolver that stays nor a table that is taken over.
    if !scenario.is_proxy() && !lasts && traced.end != End::Hung && seen.len() <= LONGEST {
        wrong.extend(conformance::check(scenario, &seen, traced.end, traced.executed).err());
    }
    wrong.extend(outside(&world.take_frames(), observer.escaped));
    Judged {
        verdict,
        reached: traced.reached,
        end: traced.end,
        stderr: traced.stderr,
        wrong,
        milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        calls: if fault.is_none() { seen } else { Vec::new() },
    }
}

/// A run that is over, and what it said.
struct Run {
    reached: bool,
    executed: bool,
    end: End,
    stdout: String,
    stderr: String,
}

/// What is wrong with a command whose supervisor has ended, if it goes on all the same.
pub fn outlives(command: Pid) -> Option<String> {
    let since = Instant::now();
    while since.elapsed() < DEATH {
        // Here it is the child of whoever reaps orphans, this process.
        let reaped = waitpid(command, Some(WaitPidFlag::WNOHANG));
        if matches!(
            reaped,
            Err(_) | Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
        ) {
            return None;
        }
        sleep(Duration::from_millis(2));
    }
    let _ = kill(command, Signal::SIGKILL);
    let _ = waitpid(command, None);
    Some("the supervisor is gone, and the command goes on".to_owned())
}

/// Ends what rests; what is wrong with the way it does.
fn ends(child: &mut Child) -> Option<String> {
    kill(tracer::pid(child), Signal::SIGTERM).expect("it is a child");
    let status = child.wait().expect("it is a child");
    (status.code() != Some(0)).then(|| format!("at SIGTERM it ended with {status}"))
}

/// Whether a call changes nothing but the process that makes it.
pub fn is_of_the_process(call: &str) -> bool {
    matches!(
        call,
        "brk"
            | "mmap"
            | "mprotect"
            | "munmap"
            | "prctl"
            | "rt_sigaction"
            | "rt_sigprocmask"
            | "sigaltstack"
    )
}

/// I2 and I3 between any two calls.
fn on_the_way(
    scenario: Scenario,
    seen: &[(Option<Call>, Observation)],
    fault: Option<(&Point, &Fault)>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut before = true;
    let stale_stays = fault.is_some_and(|(point, _)| point.call == "unlink");
    for (call, Observation { gate, mark }) in seen {
        let at = call
            .as_ref()
            .map_or("exec".to_owned(), |call| call.point.to_string());
        before &= *gate == scenario.before();
        let allowed = match gate {
            Gate::Open | Gate::Old => before,
            Gate::Locked | Gate::Dns | Gate::Policy => true,
            Gate::PolicyDns => scenario.after() == Gate::PolicyDns,
            Gate::Partly | Gate::Other => false,
        };
        // What another one has left in force is neither opened nor closed.
        let allowed = allowed && (scenario != Scenario::TakeOver || *gate == Gate::Policy);
        if !allowed {
            wrong.push(format!("I2: after {at} what leaves is {gate}"));
        }
        if *mark == Mark::New && *gate != scenario.after() {
            wrong.push(format!(
                "I3: after {at} there is a sentinel, and what leaves is {gate}"
            ));
        }
        if *mark == Mark::Stale && !before && !stale_stays {
            wrong.push(format!("I3: after {at} the old sentinel is still there"));
        }
    }
    wrong.truncate(3);
    wrong
}

fn at_the_end(
    scenario: Scenario,
    done: bool,
    traced: &Run,
    seen: &[(Option<Call>, Observation)],
    after: Observation,
    fault: Option<(&Point, &Fault)>,
    wrong: &mut Vec<String>,
) -> Verdict {
    let killed = matches!(traced.end, End::Killed(_));
    if traced.end == End::Hung {
        wrong.push(format!(
            "it hung, {after}; its last calls: {}",
            last_calls(seen)
        ));
    }
    if after.mark == Mark::New {
        if !scenario::verifies() {
            wrong.push("I3: the sentinel does not verify".to_owned());
        }
        // What failed with a command below it has left true rules.
        let has_run =
            is_the_command(traced, fault) || scenario == Scenario::Supervise && traced.executed;
        if !(done || killed || has_run) {
            wrong.push("I5: it failed and left a sentinel".to_owned());
        }
    }
    if done {
        if after
            != (Observation {
                gate: scenario.after(),
                mark: Mark::New,
            })
        {
            wrong.push(format!("I3: it is done, and there is {after}"));
        }
        return Verdict::Enforced;
    }
    if after.mark == Mark::Stale && !killed && scenario != Scenario::TakeOver {
        // Nobody can take away a file that the file system does not let go, but then it says so.
        let about = fault.is_some_and(|(point, _)| point.call == "unlink");
        if !about || !traced.stderr.contains("sentinel") && !traced.stderr.contains(".ready") {
            wrong.push("I3: the old sentinel is still there".to_owned());
        }
    }
    if let End::Exited(code) = traced.end
        && ![125, 126, 127].contains(&code)
        && !is_the_command(traced, fault)
    {
        wrong.push(format!("I5: exit {code}"));
    }
    match after.gate {
        Gate::Locked => Verdict::Locked,
        Gate::Dns => {
            let said = traced.stderr.contains("could not close the lock's way");
            if !killed && !said {
                wrong.push("I5: the lock's way to the nameservers is still open".to_owned());
            }
            Verdict::LockedWithDns
        }
        gate if gate == scenario.after() => Verdict::Policy,
        gate if gate == scenario.before() => Verdict::Untouched,
        gate => {
            wrong.push(format!("I2: at the end what leaves is {gate}"));
            Verdict::Untouched
        }
    }
}

/// The child was killed when it had told the process above that nothing was left but exec: that
/// cannot tell it from a command that was killed, whose end it reports.
fn is_the_command(traced: &Run, fault: Option<(&Point, &Fault)>) -> bool {
    let of_the_child = |(point, fault): (&Point, &Fault)| point.thread > 0 && *fault == Fault::Kill;
    traced.end == End::Exited(128 + Signal::SIGKILL as i32) && fault.is_some_and(of_the_child)
}

fn last_calls(seen: &[(Option<Call>, Observation)]) -> String {
    let last = &seen[seen.len().saturating_sub(8)..];
    let calls = last.iter().filter_map(|(call, _)| call.as_ref());
    let told = calls.map(|call| format!("{} = {}", call.point, call.returned.unwrap_or_default()));
    told.collect::<Vec<_>>().join(", ")
}

/// I4, and what it could reach.
fn of_the_command(scenario: Scenario, traced: &Run) -> Vec<String> {
    let Ok(outcomes) = serde_json::from_str::<Vec<Outcome>>(&traced.stdout) else {
        return vec![format!(
            "the command said {:?}, {:?}",
            traced.stdout, traced.end
        )];
    };
    let mut wrong = Vec::new();
    let steps = scenario.attempts();
    for (step, outcome) in steps.iter().zip(&outcomes) {
        let allowed = match step {
            Step::Status => continue,
            Step::Tcp(to) => to.port() == 443,
            _ => false,
        };
        if outcome.is_ok() != allowed {
            wrong.push(format!("the command: {step:?} was {}", outcome.result));
        }
    }
    wrong.extend(kept(scenario, &status(&outcomes)));
    wrong
}

fn kept(scenario: Scenario, status: &Status) -> Vec<String> {
    let none = "0000000000000000";
    let mut expected = vec![
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("SigBlk", none),
        // Rust's own runtime ignores SIGPIPE in every program, so in this one too.
        ("SigIgn", "0000000000001000"),
    ];
    if harness::has_second_uid() && scenario != Scenario::Root {
        expected.extend([
            ("Uid", "1000\t1000\t1000\t1000"),
            ("Gid", "1000\t1000\t1000\t1000"),
            ("Groups", "1000 2000"),
        ]);
    }
    let mut wrong: Vec<_> = expected
        .into_iter()
        .filter(|(key, value)| status.lines.get(*key).map(String::as_str) != Some(*value))
        .map(|(key, _)| format!("I4: the command has {key} {:?}", status.lines.get(key)))
        .collect();
    if status.descriptors != [0, 1, 2] {
        wrong.push(format!(
            "I4: the command has the descriptors {:?}",
            status.descriptors
        ));
    }
    wrong
}

/// I5: what failed, on what, and what to do about it.
fn of_the_message(traced: &Run) -> Vec<String> {
    let lines: Vec<_> = traced.stderr.lines().collect();
    let mut wrong = Vec::new();
    if !lines.iter().all(|line| line.starts_with("egress-init: ")) {
        wrong.push("I5: stderr has lines that are nobody's".to_owned());
    }
    let errors = lines
        .iter()
        .filter(|line| !line.starts_with("egress-init: warning: "));
    match errors.collect::<Vec<_>>()[..] {
        [] => wrong.push("I5: it does not say why".to_owned()),
        [line] if !line.contains("; ") => wrong.push("I5: no remedy".to_owned()),
        _ => {}
    }
    wrong
}

/// The judge over the judge: what arrived is what was let through knowingly, nothing else.
pub fn outside(frames: &[Frame], let_through: usize) -> Vec<String> {
    let elsewhere = |frame: &&Frame| ELSEWHERE.iter().any(|address| frame.to(*address));
    let own = |frame: &&Frame| frame.ports.is_some_and(|(_, port)| port == PORT);
    let mut wrong = Vec::new();
    let arrived = frames.iter().filter(elsewhere).filter(own).count();
    if arrived != let_through {
        wrong.push(format!(
            "{let_through} datagrams were let through, {arrived} arrived"
        ));
    }
    let strays = frames
        .iter()
        .filter(|frame| {
            elsewhere(frame) && !own(frame)
                || FOREIGN_DNS.iter().any(|server| frame.to_port(*server))
        })
        .count();
    if strays > 0 {
        wrong.push(format!("{strays} packets of the command arrived outside"));
    }
    wrong
}
