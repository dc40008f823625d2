//! Stays in charge of the policy after the start: `--supervise` and `apply --watch` in mode `proxy`.
//!
//! One task, in which everything is a future of one loop; whatever comes first has its turn, and
//! none works longer than a moment, so that a flood of queries delays neither signals nor refreshes.
//!
//! | part | what it waits for | what it does |
//! | --- | --- | --- |
//! | [`Outside`] | signals, the end of the command | reload, or the end |
//! | [`watch`] | a changed list file | reload |
//! | [`schedule`] | names that are due | asks, puts the answers in the sets |
//! | [`crate::proxy`] | queries of the command | asks, puts the answers in the sets, answers |
//! | [`status_socket`] | `egress-init status` | answers |
//!
//! They share the [`Charge`], borrowed between two awaits only: the ledger, the table in the kernel
//! and the words about them.

mod charge;
mod outside;
mod schedule;
pub mod status_socket;
mod watch;

pub use charge::{Charge, Found, Reading, Terms};
pub use outside::{Outside, Signals, Wish};
pub use status_socket::NoStatus;
pub use watch::ListWatch;

use crate::{
    allowlist::Name,
    config::Lists,
    error::Error,
    proxy::{Limits, Listeners, Proxy},
    resolve::{Answer, nameservers::Upstreams},
    status::{DnsCounters, Status},
    sys::{allocator, process},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use status_socket::StatusSocket;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    convert::Infallible,
    future,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::yield_now, time::timeout};
use tracing::{debug, error, warn};

/// Names that are refreshed at once.
const REFRESHES: usize = 64;
/// The shortest time between two looks at lookups that take long.
const LOOK: Duration = Duration::from_millis(100);
/// How often the lists are read while nobody says whether they changed.
const UNWATCHED: Duration = Duration::from_secs(1);
/// How often the ledger forgets what was over long ago.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// What a start hands over to a keeper.
pub struct Handover {
    /// The policy and the table in the kernel.
    pub charge: Charge,
    /// Where the command's queries arrive.
    pub listeners: Listeners,
    /// The files of the lists, watched since before they were read.
    pub watch: Option<ListWatch>,
    /// Whom to ask.
    pub upstreams: Upstreams,
    /// What one command can make the resolver do.
    pub limits: Limits,
    /// The time for one lookup.
    pub deadline: Duration,
    /// Where the socket of `egress-init status` is to be.
    pub status_path: PathBuf,
}

/// Keeps the policy until the end, whose exit code it returns.
pub async fn keep(handover: Handover, mut outside: impl Outside) -> Result<u8, Error> {
    let Handover {
        charge,
        listeners,
        watch,
        upstreams,
        limits,
        deadline,
        status_path,
    } = handover;
    process::raise_descriptor_limit().unwrap_or_else(|error| {
        debug!("the limit of open descriptors stays as it is: {error}");
    });
    let status_socket = StatusSocket::bind(status_path.clone())
        .inspect_err(|error| {
            warn!(
                "egress-init status will not answer: cannot listen at {}: {error}",
                status_path.display()
            );
        })
        .ok();
    let charge = RefCell::new(charge);
    let proxy = Proxy::new(listeners, upstreams, limits, deadline, &charge);
    let keeper = Keeper {
        charge: &charge,
        proxy: &proxy,
        rescheduled: Notify::new(),
        reload: Notify::new(),
        reload_asked: Cell::new(false),
    };
    let answer_status = async {
        match &status_socket {
            Some(socket) => socket.serve(|| keeper.status()).await,
            None => future::pending().await,
        }
    };
    // None of them is ever dropped and begun again, so that none loses what it has heard.
    let mut parts = pin!(async {
        tokio::select! {
            biased;
            never = keeper.watch(watch.as_ref()) => match never {},
            never = keeper.reloads() => match never {},
            never = keeper.refresh() => match never {},
            never = keeper.sweep() => match never {},
            never = answer_status => match never {},
            never = proxy.serve() => match never {},
        }
    });
    let broken = charge.borrow().broken();
    allocator::give_memory_back();
    loop {
        tokio::select! {
            biased;
            wish = outside.wish() => match wish.map_err(|error| Error::Process("wait for signals", error))? {
                Wish::Reload => keeper.wants_reload(true),
                Wish::End(code) => return Ok(code),
            },
            () = broken.notified() => {
                return Err(match charge.borrow_mut().take_fault() {
                    Some(fault) => fault.into(),
                    None => continue,
                });
            }
            never = &mut parts => match never {},
        }
    }
}

/// Watching is a comfort: where it cannot be had, SIGHUP does the same. To be begun before the lists
/// are read, so that no change is missed between the two. Within a tokio runtime.
#[must_use]
pub fn watch_lists(lists: &Lists) -> Option<ListWatch> {
    let files = lists.files();
    if files.is_empty() {
        return None;
    }
    ListWatch::new(files)
        .inspect_err(|error| {
            warn!("changes of the list files will not be noticed: {error}; send SIGHUP after one");
        })
        .ok()
}

struct Keeper<'a> {
    charge: &'a RefCell<Charge>,
    proxy: &'a Proxy<'a, Charge>,
    /// A reload added names.
    rescheduled: Notify,
    /// The lists are to be read again.
    reload: Notify,
    /// By the wish of somebody, who wants to know that it was done.
    reload_asked: Cell<bool>,
}

impl Keeper<'_> {
    async fn watch(&self, watch: Option<&ListWatch>) -> Infallible {
        let Some(watch) = watch else {
            return future::pending().await;
        };
        loop {
            if let Err(error) = watch.changed().await {
                warn!(
                    "changes of the list files may not be noticed: {error}; send SIGHUP after one"
                );
                tokio::time::sleep(UNWATCHED).await;
                while watch.arm().is_err() {
                    self.wants_reload(false);
                    tokio::time::sleep(UNWATCHED).await;
                }
            }
            self.wants_reload(false);
        }
    }

    fn wants_reload(&self, asked: bool) {
        self.reload_asked.set(asked || self.reload_asked.get());
        self.reload.notify_one();
    }

    /// One after the other, beside everything else: one that has to wait for DNS delays neither
    /// signals nor answers.
    async fn reloads(&self) -> Infallible {
        loop {
            self.reload.notified().await;
            self.reload(self.reload_asked.take()).await;
        }
    }

    /// Asks for each name when it is due, or as soon as those before it leave room.
    async fn refresh(&self) -> Infallible {
        let mut asking = FuturesUnordered::new();
        let mut waiting = VecDeque::new();
        let mut patience = Instant::now();
        loop {
            while asking.len() < REFRESHES
                && let Some(name) = waiting.pop_front()
            {
                asking.push(self.ask(name));
            }
            let due = self.charge.borrow().next_refresh();
            tokio::select! {
                Some((name, answer)) = asking.next() => {
                    self.charge.borrow_mut().refreshed(&name, answer);
                }
                () = sleep_until(due) => {
                    if waiting.is_empty() {
                        patience = Instant::now() + self.patience();
                    }
                    waiting.extend(self.charge.borrow_mut().due(Instant::now()));
                }
                () = sleep_until(Some(patience)), if !waiting.is_empty() => {
                    for name in &waiting {
                        self.charge.borrow_mut().awaits(name);
                        yield_now().await;
                    }
                    patience = Instant::now() + self.patience();
                }
                () = self.rescheduled.notified() => {}
            }
        }
    }

    /// How long a name may wait, and then once more be asked for, before its last good answer is
    /// made to last longer: it is due a grace before that ends.
    fn patience(&self) -> Duration {
        let grace = self.charge.borrow().terms().lifetimes.grace;
        LOOK.max(grace / 4)
    }

    async fn ask(&self, name: Name) -> (Name, Answer) {
        let known = self.charge.borrow().known(&name);
        let answer = match known {
            Some(known) => Ok(known),
            None => self.ask_upstream(&name).await,
        };
        (name, answer)
    }

    /// However long the nameservers take, the last good answer does not end meanwhile.
    async fn ask_upstream(&self, name: &Name) -> Answer {
        let mut lookup = pin!(self.proxy.refresh(name));
        loop {
            match timeout(self.patience(), &mut lookup).await {
                Ok(answer) => return answer,
                Err(_) => self.charge.borrow_mut().awaits(name),
            }
        }
    }

    async fn sweep(&self) -> Infallible {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.charge.borrow_mut().sweep(Instant::now());
        }
    }

    /// Reads the lists again and puts what they say in force; where they are wrong, all stays as it
    /// is.
    async fn reload(&self, asked: bool) {
        let next = self.charge.borrow_mut().read_again(asked);
        let next = match next {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(error) => {
                for line in error.report().lines() {
                    error!(
                        event = "not-reloaded",
                        "the lists were not reloaded: {line}"
                    );
                }
                return;
            }
        };
        // What is to be refused inside a network has to be known before the network is opened.
        let mut refused = Vec::new();
        let anew = self.charge.borrow().refused_anew(&next);
        let mut asking: FuturesUnordered<_> = anew.into_iter().map(|name| self.ask(name)).collect();
        while let Some(answer) = asking.next().await {
            refused.push(answer);
        }
        let mut charge = self.charge.borrow_mut();
        match charge.reload(next, refused) {
            Ok(()) => {
                drop(charge);
                self.proxy.policy_changed();
                self.rescheduled.notify_one();
            }
            Err(error) => {
                error!(
                    event = "not-reloaded",
                    "the lists were not reloaded: {}",
                    error.report()
                );
            }
        }
    }

    fn status(&self) -> Status {
        let dns = self.proxy.counters();
        let dns = DnsCounters {
            answered: dns.cached + dns.looked_up + dns.stale,
            cached: dns.cached,
            refused: dns.blocked + dns.limited,
            failed: dns.failed,
            dropped: dns.overloaded + dns.malformed + dns.oversized + dns.unsupported + dns.unsent,
        };
        self.charge.borrow_mut().status(dns)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => future::pending().await,
    }
}
