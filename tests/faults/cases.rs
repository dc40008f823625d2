//! The cases: what can happen to each call of a recorded start; and the sample of them that is
//! short enough for every day.

use std::collections::BTreeMap;

use nix::libc;

use crate::{
    calls,
    judge::{self, Case},
    regressions,
    scenario::Scenario,
    tracer::{Call, Fault},
    workers::Recording,
};

/// Every case, or the sample.
pub fn all(recordings: &[Recording], full: bool) -> Vec<Case> {
    recordings
        .iter()
        .flat_map(|recording| of(recording, full))
        .collect()
}

fn of(recording: &Recording, full: bool) -> Vec<Case> {
    let calls = recording.calls();
    let mut last = BTreeMap::new();
    for call in &calls {
        last.insert((call.point.thread, &call.point.call), call.point.occurrence);
    }
    // The first call of Rust's runtime (`sanitize_standard_fds`). What fails before it, fails in the
    // C library, which ends the program in its own way: nothing of ours has run. It is killed there.
    let begins = calls
        .iter()
        .position(|call| call.point.call == "poll")
        .filter(|_| !recording.scenario.is_kept())
        .unwrap_or(0);
    let mut two_threads = false;
    let mut cases = regressions::of(recording);
    for (index, call) in calls.iter().enumerate() {
        let length = call.arguments[2];
        let is_event = call.point.call == "read" && is_of_the_kernel(call);
        let possible = if is_event {
            calls::faults_of_events
        } else {
            calls::faults
        };
        let mut faults = possible(&call.point.call, length)
            .unwrap_or_else(|| panic!("calls.rs does not know {}", call.point));
        if call.point.call == "close" && is_below_proc(call) {
            // Nothing is written back there.
            faults.retain(|fault| *fault != Fault::Error(libc::EIO));
        }
        if recording.scenario == Scenario::Supervise && call.point.thread > 0 {
            faults.push(Fault::KillAbove);
        }
        // From here on there are two threads.
        two_threads |= matches!(call.point.call.as_str(), "clone" | "clone3" | "fork");
        if two_threads {
            faults.push(Fault::Late);
        }
        if call.point.occurrence == 1 {
            faults.extend(calls::lasting(&call.point.call));
        }
        // Nothing comes between a program and its own counter in the kernel.
        let counts = call.subject.as_deref() == Some("anon_inode:[eventfd]");
        if index < begins || counts {
            faults.retain(|fault| *fault == Fault::Kill);
        }
        let ends = [1, last[&(call.point.thread, &call.point.call)]];
        let again = recording.scenario != Scenario::Start;
        if again && judge::is_of_the_process(&call.point.call) {
            // What they come to does not depend on the scenario: the first one has them all.
            faults.retain(|_| ends.contains(&call.point.occurrence));
        }
        let sample = Sample {
            depth: Depth::of(recording.scenario, full),
            decisive: is_decisive(call),
            at_an_end: ends.contains(&call.point.occurrence),
            index,
        };
        faults = sample.of(faults);
        cases.extend(faults.into_iter().map(|fault| Case {
            scenario: recording.scenario,
            point: call.point.clone(),
            fault,
            regression: None,
        }));
    }
    cases
}

/// Calls that the invariants hang on.
fn is_decisive(call: &Call) -> bool {
    let names = [
        "capset",
        "clone3",
        "fork",
        "execve",
        "rename",
        "seccomp",
        "setgroups",
        "setresgid",
        "setresuid",
        "unlink",
        "bind",
        "close_range",
    ];
    let nftables = call
        .subject
        .as_deref()
        .is_some_and(|about| about.ends_with("the table"));
    names.contains(&call.point.call.as_str()) || nftables
}

/// Whether it is read from an object of the kernel's: a signalfd, an inotify instance.
fn is_of_the_kernel(call: &Call) -> bool {
    call.subject
        .as_deref()
        .is_some_and(|about| about.starts_with("anon_inode:"))
}

fn is_below_proc(call: &Call) -> bool {
    let about = call.subject.as_deref();
    about.is_some_and(|about| about.starts_with("/proc/"))
}

/// How much of a scenario is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Everything,
    /// What another scenario has in common with this one is not tried once more with each error:
    /// each call fails in one way, or in all where it is decisive.
    EachCall,
    /// Of a call that is decisive everything; of the first and the last call of each system call in
    /// each thread two faults; a kill at every ninth call. Of that one in so many.
    Sample(usize),
}

impl Depth {
    fn of(scenario: Scenario, full: bool) -> Self {
        match scenario {
            Scenario::Supervise
            | Scenario::Watch
            | Scenario::TakeOver
            | Scenario::Reload
            | Scenario::Hangup
                if full =>
            {
                Self::EachCall
            }
            _ if full => Self::Everything,
            Scenario::Start => Self::Sample(1),
            Scenario::Rerun | Scenario::Apply | Scenario::Root => Self::Sample(3),
            Scenario::Supervise | Scenario::Watch | Scenario::TakeOver => Self::Sample(8),
            Scenario::Refresh | Scenario::Reload | Scenario::Hangup | Scenario::Query => {
                Self::Sample(4)
            }
        }
    }
}

/// A call, and which of its faults are tried.
struct Sample {
    depth: Depth,
    decisive: bool,
    at_an_end: bool,
    index: usize,
}

impl Sample {
    fn of(&self, faults: Vec<Fault>) -> Vec<Fault> {
        let index = self.index;
        let many = faults.len();
        let chosen = |number: usize, fault: &Fault| match self.depth {
            Depth::Everything => true,
            Depth::EachCall => {
                self.decisive
                    || number == index % many
                    || self.at_an_end && number == (index + many / 2) % many
            }
            Depth::Sample(step) if *fault == Fault::Kill => index.is_multiple_of(9 * step),
            Depth::Sample(step) => {
                let two = [index % many, (index + many / 2) % many];
                let chosen = self.decisive || self.at_an_end && two.contains(&number);
                chosen && (index + number).is_multiple_of(step)
            }
        };
        let numbered = faults.into_iter().enumerate();
        let chosen = numbered.filter(|(number, fault)| chosen(*number, fault));
        chosen.map(|(_, fault)| fault).collect()
    }
}
