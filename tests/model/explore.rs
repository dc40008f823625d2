//! Every state that can be reached, breadth first, so that what leads to a violation is as short
//! as it can be.

use std::collections::{HashMap, VecDeque};

use crate::lifecycle::{Action, Phase, Protocol, State};

/// What was found.
#[derive(Default)]
pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// The first invariant that does not hold, and what led there.
    pub violation: Option<(&'static str, Vec<Action>)>,
    /// Whether each start has come to a good end in some state: else the rest proves little.
    pub all_well: bool,
}

/// Goes through all states; stops at the first violation.
pub fn explore(protocol: &Protocol, initial: State) -> Explored {
    let mut explored = Explored::default();
    let mut numbers = HashMap::from([(initial.clone(), 0)]);
    // For each state the one it was reached from, and how.
    let mut origins: Vec<Option<(usize, Action)>> = vec![None];
    let mut queue = VecDeque::from([(0, initial)]);
    while let Some((number, state)) = queue.pop_front() {
        explored.states += 1;
        if let Some(name) = state.violated(protocol) {
            explored.violation = Some((name, path(&origins, number)));
            return explored;
        }
        explored.all_well |= state
            .starts
            .iter()
            .all(|start| matches!(start.phase, Phase::Command | Phase::Done | Phase::Keeping));
        for (action, next) in state.successors(protocol) {
            explored.transitions += 1;
            if !numbers.contains_key(&next) {
                let fresh = origins.len();
                numbers.insert(next.clone(), fresh);
                origins.push(Some((number, action)));
                queue.push_back((fresh, next));
            }
        }
    }
    explored
}

fn path(origins: &[Option<(usize, Action)>], mut number: usize) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some((from, action)) = origins[number] {
        actions.push(action);
        number = from;
    }
    actions.reverse();
    actions
}
