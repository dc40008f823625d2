//! The life of starts in one network namespace, as a machine of a few states: what each step of
//! a start does to the rules, the sentinel and the lock for starts, with a failure or a crash at
//! any point, other starts at any moment, and the restart of the container.
//!
//! A step here is a function there; [`Step::code`] names it. What the steps of a start are, in
//! which order, and what they do when they fail is [`Protocol`]; the mutated ones of it are the
//! mistakes that the invariants are to catch (`mutants.rs`).

#![allow(dead_code)] // two test targets use different parts

use std::fmt;

/// One step of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    RemoveSentinel,
    AskWhoseNetwork,
    TakeTurn,
    RemoveAgain,
    Lock,
    Read,
    OpenDns,
    Resolve,
    Pin,
    Enforce,
    ReadBack,
    Confine,
    Publish,
    Drop,
    Exec,
}

impl Step {
    /// What it is in src/.
    pub fn code(self) -> &'static str {
        match self {
            Self::RemoveSentinel => "commands::start::begin → sentinel::remove",
            Self::AskWhoseNetwork => "host_network::check",
            Self::TakeTurn => "start_lock::StartLock::acquire",
            Self::RemoveAgain => "commands::start::enforce → sentinel::remove",
            Self::Lock => "commands::start::Firewall::lock → nft::Nftables::replace",
            Self::Read => "config::start, commands::run::prepare, inputs::allowlist",
            Self::OpenDns => "commands::start::Firewall::open_dns → Nftables::transition",
            Self::Resolve => "commands::start::answers → resolve::resolve",
            Self::Pin => "commands::start::pin → resolve::hosts::write",
            Self::Enforce => "commands::start::Firewall::enforce → Nftables::transition",
            Self::ReadBack => "nft::Nftables::verify → read_back::compare",
            Self::Confine => "launch::get_ready → Privileges::confine",
            Self::Publish => "sentinel::Place::publish",
            Self::Drop => "launch::become_command → Privileges::drop_all",
            Self::Exec => "launch::execute",
        }
    }
}

/// What one family's packets may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gate {
    /// All leave.
    Open,
    /// None leaves.
    Locked,
    /// None but DNS of uid 0; which start wants to ask.
    Dns(u8),
    /// What the list of this start allows; `intended` unless something else changed the table.
    Rules { of: u8, intended: bool },
}

/// The file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sentinel {
    Missing,
    /// One that names another namespace or another boot.
    Foreign,
    /// One of this namespace, which therefore verifies.
    Of(u8),
}

/// Where a start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// It has done so many steps.
    Going(u8),
    /// A step failed: what was open is to be closed.
    Sealing,
    /// The command could not be started: the sentinel is to go.
    Unpublishing,
    /// It ended with an error.
    Failed,
    /// It was killed.
    Dead,
    /// `apply` is done.
    Done,
    /// It is the command.
    Command,
    /// It stands above the command, or beside it, and keeps the rules.
    Keeping,
}

/// The ways to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Exec,
    Apply,
    /// `--supervise`: keeps the turn for its life, refreshes and reloads.
    Supervise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Start {
    pub mode: Mode,
    pub phase: Phase,
    /// Whether its command has lost all privileges.
    pub dropped: bool,
    /// Whether its command runs.
    pub runs: bool,
    /// It could not remove the old sentinel: it will lock, and then fail.
    pub doomed: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// IPv4 and IPv6.
    pub gates: [Gate; 2],
    /// Whether this namespace was ever locked.
    pub was_locked: bool,
    pub sentinel: Sentinel,
    /// Who has the lock for starts.
    pub turn: Option<u8>,
    pub starts: Vec<Start>,
    pub restarts_left: u8,
    /// What the last action broke that no state shows.
    pub broken: Option<&'static str>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Does(u8, Step),
    /// The step did what it does, and something else changed the table at once.
    IsDisturbed(u8, Step),
    Fails(u8, Step),
    /// It fails when its effect is there already: published, and then not synced.
    FailsLate(u8, Step),
    Seals(u8),
    Unpublishes(u8),
    Dies(u8),
    /// Half of a change that is not one transaction.
    Tears(u8),
    Refreshes(u8),
    Reloads(u8),
    RestartsContainer,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Does(start, step) => write!(f, "{start}: {step:?}"),
            Self::IsDisturbed(start, step) => write!(f, "{start}: {step:?}, disturbed"),
            Self::Fails(start, step) => write!(f, "{start}: {step:?} fails"),
            Self::FailsLate(start, step) => write!(f, "{start}: {step:?} fails late"),
            Self::Seals(start) => write!(f, "{start}: Seal"),
            Self::Unpublishes(start) => write!(f, "{start}: Unpublish"),
            Self::Dies(start) => write!(f, "{start}: killed"),
            Self::Tears(start) => write!(f, "{start}: half a change"),
            Self::Refreshes(start) => write!(f, "{start}: Refresh"),
            Self::Reloads(start) => write!(f, "{start}: Reload"),
            Self::RestartsContainer => f.write_str("restart of the container"),
        }
    }
}

/// How starts behave: the real one is [`Protocol::real`].
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct Protocol {
    pub steps: Vec<Step>,
    pub seals: bool,
    pub unpublishes: bool,
    pub reads_back: bool,
    pub takes_turns: bool,
    pub both_families: bool,
    pub binds_sentinel: bool,
    pub one_transaction: bool,
    pub fails_closed: bool,
    pub reload_keeps_old: bool,
}

impl Protocol {
    pub fn real() -> Self {
        use Step::{
            AskWhoseNetwork, Confine, Drop, Enforce, Exec, Lock, OpenDns, Pin, Publish, Read,
            ReadBack, RemoveAgain, RemoveSentinel, Resolve, TakeTurn,
        };
        Self {
            steps: vec![
                RemoveSentinel,
                AskWhoseNetwork,
                TakeTurn,
                RemoveAgain,
                Lock,
                Read,
                OpenDns,
                Resolve,
                Pin,
                Enforce,
                ReadBack,
                Confine,
                Publish,
                Drop,
                Exec,
            ],
            seals: true,
            unpublishes: true,
            reads_back: true,
            takes_turns: true,
            both_families: true,
            binds_sentinel: true,
            one_transaction: true,
            fails_closed: true,
            reload_keeps_old: true,
        }
    }

    fn position(&self, step: Step) -> Option<usize> {
        self.steps.iter().position(|other| *other == step)
    }

    /// Whether a start that has done so many steps has done this one.
    fn has_done(&self, done: u8, step: Step) -> bool {
        self.position(step)
            .is_some_and(|position| position < usize::from(done))
    }

    pub fn moved(mut self, step: Step, before: Step) -> Self {
        self.steps.retain(|other| *other != step);
        let at = self.position(before).expect("a step of it");
        self.steps.insert(at, step);
        self
    }

    pub fn without(mut self, step: Step) -> Self {
        self.steps.retain(|other| *other != step);
        self
    }
}

impl State {
    /// A namespace in which nothing has started, and a sentinel from elsewhere.
    pub fn initial(modes: &[Mode], restarts: u8) -> Self {
        let start = |mode: &Mode| Start {
            mode: *mode,
            phase: Phase::Going(0),
            dropped: false,
            runs: false,
            doomed: false,
        };
        Self {
            gates: [Gate::Open; 2],
            was_locked: false,
            sentinel: Sentinel::Foreign,
            turn: None,
            starts: modes.iter().map(start).collect(),
            restarts_left: restarts,
            broken: None,
        }
    }

    /// The invariants that do not hold here.
    pub fn violated(&self, protocol: &Protocol) -> Option<&'static str> {
        let [ipv4, ipv6] = self.gates;
        let going = |start: u8| matches!(self.starts[usize::from(start)].phase, Phase::Going(_));
        let right = |gate: Gate| matches!(gate, Gate::Rules { intended: true, .. });
        // Who changes the rules, or is about to.
        let at_work = self.starts.iter().filter(|start| match start.phase {
            Phase::Going(done) => {
                protocol.has_done(done, Step::Lock) || protocol.has_done(done, Step::OpenDns)
            }
            Phase::Sealing | Phase::Unpublishing | Phase::Keeping => true,
            _ => false,
        });
        // A file that could not be removed, and that start has failed or will: what looks only for
        // the file is fooled, `check` is not, because the lock has no canary; nothing leaves.
        let shut = self.gates == [Gate::Locked; 2] && self.starts.iter().any(|start| start.doomed);
        let checks = [
            // What one family does, the other one does.
            ("I6", ipv4 == ipv6),
            // Once closed, never open again.
            ("I2", !self.was_locked || !self.gates.contains(&Gate::Open)),
            // A sentinel that verifies: exactly the intended rules are in the kernel.
            (
                "I3",
                !matches!(self.sentinel, Sentinel::Of(_))
                    || self.gates.into_iter().all(right)
                    || shut,
            ),
            // A command that runs has nothing left.
            (
                "I4",
                self.starts.iter().all(|start| !start.runs || start.dropped),
            ),
            // Only a start that goes on, or was killed, leaves DNS open.
            (
                "I5",
                self.gates.into_iter().all(|gate| match gate {
                    Gate::Dns(of) => {
                        let phase = self.starts[usize::from(of)].phase;
                        going(of) || matches!(phase, Phase::Sealing | Phase::Dead)
                    }
                    _ => true,
                }),
            ),
            // A failed start leaves no sentinel and no command.
            (
                "I5",
                self.starts.iter().zip(0..).all(|(start, number)| {
                    start.phase != Phase::Failed
                        || !start.runs && self.sentinel != Sentinel::Of(number)
                }),
            ),
            ("I9", at_work.count() <= 1),
        ];
        let state = checks
            .iter()
            .find(|(_, holds)| !holds)
            .map(|(name, _)| *name);
        self.broken.or(state)
    }

    /// Everything that can happen next.
    pub fn successors(&self, protocol: &Protocol) -> Vec<(Action, Self)> {
        let mut next = Vec::new();
        for (index, start) in (0..).zip(&self.starts) {
            match start.phase {
                Phase::Going(done) => self.goes_on(protocol, index, done, &mut next),
                Phase::Sealing => {
                    let mut state = self.clone();
                    if protocol.seals {
                        state.set_gates(protocol, Gate::Locked);
                    }
                    state.ends(index, Phase::Failed);
                    next.push((Action::Seals(index), state));
                }
                Phase::Unpublishing => {
                    let mut state = self.clone();
                    if protocol.unpublishes {
                        state.sentinel = Sentinel::Missing;
                    }
                    state.ends(index, Phase::Failed);
                    next.push((Action::Unpublishes(index), state));
                }
                Phase::Keeping => self.keeps(protocol, index, &mut next),
                Phase::Failed | Phase::Dead | Phase::Done | Phase::Command => {}
            }
            if self.is_alive(index) && start.phase != Phase::Going(0) {
                let mut state = self.clone();
                state.ends(index, Phase::Dead);
                next.push((Action::Dies(index), state));
            }
        }
        if self.restarts_left > 0 {
            next.push((Action::RestartsContainer, self.restarted(protocol)));
        }
        next
    }

    fn is_alive(&self, index: u8) -> bool {
        matches!(
            self.starts[usize::from(index)].phase,
            Phase::Going(_)
                | Phase::Sealing
                | Phase::Unpublishing
                | Phase::Keeping
                | Phase::Command
        )
    }

    fn goes_on(&self, protocol: &Protocol, index: u8, done: u8, next: &mut Vec<(Action, Self)>) {
        let mode = self.starts[usize::from(index)].mode;
        let Some(&step) = protocol.steps.get(usize::from(done)) else {
            return;
        };
        if step == Step::TakeTurn && protocol.takes_turns && self.turn.is_some() {
            // It waits, at most a minute.
            next.push((
                Action::Fails(index, step),
                self.failed(protocol, index, done),
            ));
            return;
        }
        if self.starts[usize::from(index)].doomed && protocol.has_done(done, Step::Lock) {
            next.push((
                Action::Fails(index, step),
                self.failed(protocol, index, done),
            ));
            return;
        }
        let mut state = self.clone();
        state.starts[usize::from(index)].phase = Phase::Going(done + 1);
        if state.does(protocol, index, step) {
            state.comes_to_its_end(protocol, index, mode);
            if step == Step::Enforce {
                let mut disturbed = state.clone();
                disturbed.gates = [Gate::Rules {
                    of: index,
                    intended: false,
                }; 2];
                next.push((Action::IsDisturbed(index, step), disturbed));
            }
            next.push((Action::Does(index, step), state));
        }
        let changes = matches!(step, Step::Lock | Step::OpenDns | Step::Enforce);
        if changes && !protocol.one_transaction && self.was_locked {
            let mut torn = self.clone();
            torn.gates = [Gate::Open; 2];
            next.push((Action::Tears(index), torn));
        }
        match step {
            // A removal that fails does not keep a start from locking; the second one decides.
            Step::RemoveSentinel | Step::RemoveAgain => {
                let mut state = self.clone();
                let start = &mut state.starts[usize::from(index)];
                start.phase = Phase::Going(done + 1);
                start.doomed |= step == Step::RemoveAgain;
                next.push((Action::Fails(index, step), state));
            }
            Step::Publish => {
                let mut state = self.clone();
                state.sentinel = Sentinel::Of(index);
                state.starts[usize::from(index)].phase = Phase::Unpublishing;
                next.push((Action::FailsLate(index, step), state));
                next.push((
                    Action::Fails(index, step),
                    self.failed(protocol, index, done),
                ));
            }
            _ => next.push((
                Action::Fails(index, step),
                self.failed(protocol, index, done),
            )),
        }
    }

    /// The effect of a step; whether it came to anything.
    fn does(&mut self, protocol: &Protocol, index: u8, step: Step) -> bool {
        let is_closed = !self.gates.contains(&Gate::Open);
        match step {
            Step::RemoveSentinel | Step::RemoveAgain => self.sentinel = Sentinel::Missing,
            Step::TakeTurn => self.turn = Some(index),
            Step::Lock => {
                self.set_gates(protocol, Gate::Locked);
                self.was_locked = true;
            }
            Step::Read | Step::Resolve => {
                if !is_closed {
                    // With one family left open it is that which is wrong.
                    self.broken = Some(if protocol.both_families { "I1" } else { "I6" });
                }
            }
            Step::OpenDns => self.set_gates(protocol, Gate::Dns(index)),
            Step::Enforce => {
                self.set_gates(
                    protocol,
                    Gate::Rules {
                        of: index,
                        intended: true,
                    },
                );
                self.was_locked = true;
            }
            Step::ReadBack => {
                let intended = Gate::Rules {
                    of: index,
                    intended: true,
                };
                if protocol.reads_back && self.gates[0] != intended {
                    return false;
                }
            }
            Step::Publish => self.sentinel = Sentinel::Of(index),
            Step::Drop => self.starts[usize::from(index)].dropped = true,
            Step::Exec => {
                let Phase::Going(done) = self.starts[usize::from(index)].phase else {
                    return false;
                };
                self.starts[usize::from(index)].runs = true;
                // Whether the file is still there is not for this start alone to say: one that
                // waits for its turn takes it away.
                if !protocol.has_done(done, Step::Publish) {
                    self.broken = Some("I5");
                }
            }
            Step::AskWhoseNetwork | Step::Pin | Step::Confine => {}
        }
        true
    }

    fn comes_to_its_end(&mut self, protocol: &Protocol, index: u8, mode: Mode) {
        let Phase::Going(done) = self.starts[usize::from(index)].phase else {
            return;
        };
        if usize::from(done) == protocol.steps.len() {
            match mode {
                // Exec closes the lock's socket.
                Mode::Exec => self.ends(index, Phase::Command),
                Mode::Supervise => self.starts[usize::from(index)].phase = Phase::Keeping,
                Mode::Apply => self.ends(index, Phase::Done),
            }
        } else if mode == Mode::Apply {
            // It keeps what it may do, until it ends.
            let next = protocol.steps[usize::from(done)];
            if protocol.steps[usize::from(done) - 1] == Step::Publish {
                self.ends(index, Phase::Done);
            } else if next == Step::Confine {
                self.starts[usize::from(index)].phase = Phase::Going(done + 1);
            }
        }
    }

    fn failed(&self, protocol: &Protocol, index: u8, done: u8) -> Self {
        let mut state = self.clone();
        if !protocol.fails_closed {
            let start = &mut state.starts[usize::from(index)];
            start.runs = true;
            start.dropped = true;
            state.ends(index, Phase::Failed);
            state.starts[usize::from(index)].runs = true;
            return state;
        }
        let published = protocol.has_done(done, Step::Publish);
        let enforced = protocol.has_done(done, Step::ReadBack)
            || !protocol.steps.contains(&Step::ReadBack) && protocol.has_done(done, Step::Enforce);
        let touched = protocol.has_done(done, Step::Lock) || protocol.has_done(done, Step::OpenDns);
        if published {
            state.starts[usize::from(index)].phase = Phase::Unpublishing;
        } else if touched && !enforced {
            state.starts[usize::from(index)].phase = Phase::Sealing;
        } else {
            state.ends(index, Phase::Failed);
        }
        state
    }

    /// Refresh and reload: each one transaction that goes from a policy to a policy, or nothing.
    fn keeps(&self, protocol: &Protocol, index: u8, next: &mut Vec<(Action, Self)>) {
        let rules = Gate::Rules {
            of: index,
            intended: true,
        };
        for action in [Action::Refreshes(index), Action::Reloads(index)] {
            let mut state = self.clone();
            state.set_gates(protocol, rules);
            next.push((action, state));
        }
        if !protocol.reload_keeps_old {
            let mut state = self.clone();
            state.gates = [Gate::Open; 2];
            next.push((Action::Reloads(index), state));
        }
        if !protocol.one_transaction {
            let mut state = self.clone();
            state.gates = [Gate::Open; 2];
            next.push((Action::Tears(index), state));
        }
    }

    fn set_gates(&mut self, protocol: &Protocol, gate: Gate) {
        self.gates[0] = gate;
        if protocol.both_families {
            self.gates[1] = gate;
        }
    }

    /// What a process has ends with it.
    fn ends(&mut self, index: u8, phase: Phase) {
        let start = &mut self.starts[usize::from(index)];
        start.phase = phase;
        start.runs &= phase == Phase::Command;
        if self.turn == Some(index) {
            self.turn = None;
        }
    }

    /// A new network namespace, without rules; the file stays. Starts that did not begin yet
    /// begin in it.
    fn restarted(&self, protocol: &Protocol) -> Self {
        let mut state = self.clone();
        for index in 0..u8::try_from(self.starts.len()).expect("few starts") {
            if self.is_alive(index) && self.starts[usize::from(index)].phase != Phase::Going(0) {
                state.ends(index, Phase::Dead);
            }
        }
        state.gates = [Gate::Open; 2];
        state.was_locked = false;
        state.restarts_left -= 1;
        if protocol.binds_sentinel && state.sentinel != Sentinel::Missing {
            state.sentinel = Sentinel::Foreign;
        }
        state
    }
}
