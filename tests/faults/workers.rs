//! Processes that judge cases, each in namespaces and a world of its own. They get cases as lines
//! of JSON and answer in the same way; they end when the pipe does.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::Mutex,
    thread,
};

use serde::{Deserialize, Serialize};

use crate::{
    judge::{self, Case, Judged},
    report,
    scenario::Scenario,
    support::{harness, world::World},
    tracer::{Call, Fault, Point},
};

/// A clean run: nothing was made to fail.
pub struct Recording {
    pub scenario: Scenario,
    pub clean: Judged,
}

impl Recording {
    pub fn calls(&self) -> Vec<&Call> {
        self.clean
            .calls
            .iter()
            .filter_map(|(call, _)| call.as_ref())
            .collect()
    }
}

#[derive(Serialize, Deserialize)]
struct Job {
    scenario: Scenario,
    fault: Option<(Point, Fault)>,
}

/// The entry of `__worker`.
pub fn main() {
    harness::mount_proc();
    let world = World::new();
    for line in io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line.unwrap()).unwrap();
        let fault = job.fault.as_ref().map(|(point, fault)| (point, fault));
        let judged = judge::judge(&world, job.scenario, fault);
        let answer = serde_json::to_string(&judged).unwrap();
        if writeln!(io::stdout(), "{answer}").is_err() {
            // Nobody waits for it any more.
            return;
        }
    }
}

struct Worker {
    child: Child,
    jobs: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start() -> Self {
        let mut child = harness::namespaces()
            .arg(env::current_exe().unwrap())
            .arg("__worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be started");
        let jobs = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            jobs,
            answers,
        }
    }

    /// Nothing where the worker has come to an end: it said why on stderr.
    fn ask(&mut self, scenario: Scenario, fault: Option<(Point, Fault)>) -> Option<Judged> {
        let asked = serde_json::to_string(&Job { scenario, fault }).unwrap();
        writeln!(self.jobs, "{asked}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    fn end(mut self) {
        drop(self.jobs);
        let _ = self.child.wait();
    }
}

/// A clean run of each scenario, the second one: the first one warms up.
pub fn record(scenarios: &[Scenario]) -> Vec<Recording> {
    let mut worker = Worker::start();
    let recordings = scenarios
        .iter()
        .map(|&scenario| {
            let mut clean = || worker.ask(scenario, None).expect("the worker goes on");
            clean();
            let clean = clean();
            Recording { scenario, clean }
        })
        .collect();
    worker.end();
    recordings
}

/// All cases, in their order.
pub fn judge_all(cases: Vec<Case>, jobs: usize) -> Vec<(Case, Judged)> {
    let queue = Mutex::new(cases.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut worker = Worker::start();
                loop {
                    let Some((index, case)) = queue.lock().unwrap().next() else {
                        break;
                    };
                    let fault = Some((case.point.clone(), case.fault.clone()));
                    let mut judged = worker.ask(case.scenario, fault).unwrap_or_else(|| {
                        worker = Worker::start();
                        Judged::lost()
                    });
                    if let Some(regression) = case.regression
                        && judged.verdict != regression.verdict
                    {
                        judged
                            .wrong
                            .push(format!("it has to be {:?}", regression.verdict));
                    }
                    report::wrong(&case, &judged);
                    results.lock().unwrap().push((index, case, judged));
                }
                worker.end();
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, ..)| *index);
    results
        .into_iter()
        .map(|(_, case, judged)| (case, judged))
        .collect()
}
