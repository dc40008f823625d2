//! Several network namespaces side by side in one process: each is a thread that lives in it and
//! does there what it is asked to.
//!
//! The tests' world is not used for packets: its capture would cost more than what is measured.

use std::{
    sync::mpsc::{self, Sender},
    thread,
};

use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::{Pid, gettid},
};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread in it.
pub struct Namespace {
    jobs: Sender<Job>,
    /// By which `ip` finds the namespace.
    pub id: Pid,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            stay_on_one_processor();
            tell.send(gettid()).unwrap();
            for job in waiting {
                job();
            }
        });
        Self {
            jobs,
            id: told.recv().expect("the thread has its namespace"),
        }
    }

    /// Does something in the namespace and waits for it. Threads and processes that it starts are
    /// in the namespace too.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || drop(tell.send(work())));
        self.jobs.send(job).expect("the thread is there");
        told.recv().expect("the work was done")
    }
}

/// Both ends of a connection on one processor: what a packet costs is then all in the time that
/// is measured, and nothing depends on how quickly another processor wakes up.
fn stay_on_one_processor() {
    let last = thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let mut set = CpuSet::new();
    set.set(last).expect("the number of a processor");
    // In a container it may not be ours: then wherever the kernel puts it.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}
