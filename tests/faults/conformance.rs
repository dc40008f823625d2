//! The model against the program: what a traced start did, call by call, has to be a way through
//! the state machine of tests/model, from its first state to one that ends as the start ended.
//!
//! Not every step of the model is one call: some cannot be seen, some are many calls. So this is
//! a nondeterministic automaton: after each call there is a set of states in which the model may
//! be, and it must not be empty. What leaves and which sentinel there is was observed after each
//! call, and every state of the set has to agree with it.

use std::collections::BTreeSet;

use crate::{
    gate::{self, Mark, Observation},
    lifecycle::{Action, Gate, Mode, Phase, Protocol, Sentinel, State, Step},
    scenario::Scenario,
    support::world::{ALLOWLIST, SENTINEL},
    tracer::{Call, End},
};

/// The start that is traced; the other one, where there is one, has ended before.
const THIS: u8 = 0;
const EARLIER: u8 = 1;

/// Why it is no way through the model.
pub fn check(
    scenario: Scenario,
    seen: &[(Option<Call>, Observation)],
    end: End,
    executed: bool,
) -> Result<(), String> {
    let protocol = Protocol::real();
    let agrees = |state: &State, seen: Observation| {
        marked(state.sentinel) == seen.mark
            && state
                .gates
                .iter()
                .all(|gate| left(*gate, scenario) == seen.gate)
    };
    let mut states = BTreeSet::from([initial(scenario)]);
    let mut last = None;
    for (call, observation) in seen {
        let event = Event::of(call.as_ref());
        if event == Event::None && last == Some(*observation) {
            continue;
        }
        last = Some(*observation);
        let before = in_silence(&protocol, states, |_| true);
        let mut after = BTreeSet::new();
        if event.may_be_nothing() {
            after.extend(before.iter().cloned());
        }
        for state in &before {
            if event.goes_on_in(&protocol, state) {
                after.insert(state.clone());
            }
            let next = state.successors(&protocol).into_iter();
            after.extend(
                next.filter(|(action, _)| event.is(*action))
                    .map(|(_, next)| next),
            );
        }
        states = in_silence(&protocol, after, |state| agrees(state, *observation));
        if states.is_empty() {
            let at = call
                .as_ref()
                .map_or("exec".to_owned(), |call| call.point.to_string());
            return Err(format!(
                "the model has no way to {at} ({event:?}), {observation}"
            ));
        }
    }
    let ended = |state: &State| match (end, state.starts[0].phase) {
        (End::Exited(_), phase) if executed => phase == Phase::Command,
        (End::Exited(0), phase) => phase == Phase::Done,
        (End::Exited(_), phase) => phase == Phase::Failed,
        _ => true,
    };
    if in_silence(&protocol, states, |_| true).iter().any(ended) {
        Ok(())
    } else {
        Err(format!("the model does not end so: {end:?}"))
    }
}

fn initial(scenario: Scenario) -> State {
    let mode = if scenario.executes() {
        Mode::Exec
    } else {
        Mode::Apply
    };
    let mut state = State::initial(&[mode, Mode::Exec], 0);
    // Nothing comes of the other one any more.
    state.starts[usize::from(EARLIER)].phase = Phase::Dead;
    if scenario.before() == gate::Gate::Old {
        state.gates = [Gate::Rules {
            of: EARLIER,
            intended: true,
        }; 2];
        state.was_locked = true;
        state.sentinel = Sentinel::Of(EARLIER);
    }
    state
}

fn marked(sentinel: Sentinel) -> Mark {
    match sentinel {
        Sentinel::Missing => Mark::Missing,
        Sentinel::Of(THIS) => Mark::New,
        Sentinel::Foreign | Sentinel::Of(_) => Mark::Stale,
    }
}

fn left(gate: Gate, scenario: Scenario) -> gate::Gate {
    match gate {
        Gate::Open => gate::Gate::Open,
        Gate::Locked => gate::Gate::Locked,
        Gate::Dns(_) => gate::Gate::Dns,
        Gate::Rules { of: THIS, .. } => scenario.after(),
        Gate::Rules { .. } => gate::Gate::Old,
    }
}

/// With every state that is reached without a call that would have been seen; of all of them
/// those that are wanted.
fn in_silence(
    protocol: &Protocol,
    states: BTreeSet<State>,
    wanted: impl Fn(&State) -> bool,
) -> BTreeSet<State> {
    let mut all = BTreeSet::new();
    let mut open: Vec<State> = states.into_iter().filter(|state| wanted(state)).collect();
    while let Some(state) = open.pop() {
        let silent = state
            .successors(protocol)
            .into_iter()
            .filter(|(action, next)| is_silent(*action, &state) && wanted(next));
        open.extend(
            silent
                .map(|(_, next)| next)
                .filter(|next| !all.contains(next)),
        );
        all.insert(state);
    }
    all
}

fn is_silent(action: Action, from: &State) -> bool {
    match action {
        Action::Does(THIS, step) => matches!(step, Step::AskWhoseNetwork | Step::Pin),
        Action::Fails(THIS, _) => true,
        // What is locked already is not sealed once more.
        Action::Seals(THIS) => from.gates == [Gate::Locked; 2],
        _ => false,
    }
}

/// What a call tells of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    None,
    Removes { was_there: bool },
    TakesTurn,
    Replaces,
    Reads,
    Changes,
    Asks,
    ReadsBack,
    Publishes,
    Lowers,
    Executes,
}

impl Event {
    fn of(call: Option<&Call>) -> Self {
        let Some(call) = call else {
            return Self::Executes;
        };
        let name = call.point.call.as_str();
        let subject = call.subject.as_deref().unwrap_or_default();
        let returned = call.returned.unwrap_or(-1);
        if returned < 0 {
            let absent = name == "unlink" && subject == SENTINEL && returned == -2;
            return if absent {
                Self::Removes { was_there: false }
            } else {
                Self::None
            };
        }
        match (name, subject) {
            ("unlink", SENTINEL) => Self::Removes { was_there: true },
            ("listen", _) => Self::TakesTurn,
            ("open" | "openat", ALLOWLIST) => Self::Reads,
            (_, "replaces the table") => Self::Replaces,
            (_, "changes the table") => Self::Changes,
            (_, "reads the table back") => Self::ReadsBack,
            ("connect", "a nameserver") => Self::Asks,
            ("rename", _) => Self::Publishes,
            // The way back changes no step's end: what it is there for is to remove the sentinel.
            ("setresuid", "the way back") => Self::None,
            ("capset" | "setgroups" | "setresgid" | "setresuid" | "seccomp", _) => Self::Lowers,
            _ => Self::None,
        }
    }

    /// Whether the model may stay where it is.
    fn may_be_nothing(self) -> bool {
        // A file that was not there need not have been meant by any step.
        matches!(self, Self::None | Self::Removes { was_there: false })
    }

    fn is(self, action: Action) -> bool {
        match action {
            Action::Does(THIS, step) | Action::FailsLate(THIS, step) => self.is_step(step),
            Action::Seals(THIS) => self == Self::Replaces,
            Action::Unpublishes(THIS) => matches!(self, Self::Removes { .. }),
            _ => false,
        }
    }

    fn is_step(self, step: Step) -> bool {
        match self {
            Self::None => false,
            Self::Removes { .. } => matches!(step, Step::RemoveSentinel | Step::RemoveAgain),
            Self::TakesTurn => step == Step::TakeTurn,
            Self::Replaces => step == Step::Lock,
            Self::Reads => step == Step::Read,
            Self::Changes => matches!(step, Step::OpenDns | Step::Enforce),
            Self::Asks => step == Step::Resolve,
            Self::ReadsBack => step == Step::ReadBack,
            Self::Publishes => step == Step::Publish,
            // Before the sentinel is published, and after it.
            Self::Lowers => matches!(step, Step::Confine | Step::Drop),
            Self::Executes => step == Step::Exec,
        }
    }

    /// Whether the step that this call belongs to has only begun, or takes one call more.
    fn goes_on_in(self, protocol: &Protocol, state: &State) -> bool {
        let Phase::Going(done) = state.starts[usize::from(THIS)].phase else {
            return false;
        };
        let done = usize::from(done);
        let many = matches!(self, Self::Asks | Self::ReadsBack | Self::Lowers);
        let near = [done.checked_sub(1), Some(done)];
        let mut steps = near
            .iter()
            .flatten()
            .filter_map(|index| protocol.steps.get(*index));
        many && steps.any(|step| self.is_step(*step))
    }
}
