//! What the command leaves behind.
//!
//! As PID 1 that is every other process of the namespace, and kill(2) has a number for it. Else it is
//! every descendant of this process: as the subreaper it is given each orphan below it, so those
//! that are left hang together, and /proc shows how.

use crate::sys::process;
use nix::unistd::Pid;
use std::{collections::HashMap, fs};

/// Everything that a process number can mean to kill(2).
const EVERYTHING: Pid = Pid::from_raw(-1);

/// Whom this process has to end after the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Every other process of the pid namespace.
    Namespace,
    /// The descendants of this process.
    Descendants(Pid),
}

impl Remains {
    pub fn of_this_process() -> Self {
        match Pid::this() {
            pid if pid.as_raw() == 1 => Self::Namespace,
            pid => Self::Descendants(pid),
        }
    }

    /// Whether nothing is left, given whether this process has no children.
    pub fn is_empty(self, childless: bool) -> bool {
        // What `docker exec` starts is in the namespace and nobody's child there.
        childless && (self != Self::Namespace || process::kill(EVERYTHING, 0).is_err())
    }

    /// Sends a signal to all of them; those that are gone by then do not matter.
    pub fn signal(self, signal: i32) {
        match self {
            Self::Namespace => {
                let _ = process::kill(EVERYTHING, signal);
            }
            Self::Descendants(ancestor) => {
                for pid in descendants(ancestor, &parents()) {
                    let _ = process::kill(pid, signal);
                }
            }
        }
    }
}

/// The parent of every process that /proc shows.
fn parents() -> HashMap<Pid, Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid = name.to_str()?.parse().ok()?;
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((Pid::from_raw(pid), parent(&stat)?))
        })
        .collect()
}

/// The fourth field of `proc_pid_stat(5)`. The second is a name in parentheses, which may hold
/// anything, parentheses and octets that are no UTF-8 among it.
fn parent(stat: &[u8]) -> Option<Pid> {
    let name_end = stat.iter().rposition(|octet| *octet == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let number = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Pid::from_raw(number))
}

fn descendants(ancestor: Pid, parents: &HashMap<Pid, Pid>) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        // Taken out, so that a picture that was taken over some time has no circle.
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        next.extend(below);
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        for stat in [
            &b"12 (sh) S 7 12 12 0"[..],
            b"12 (a) R 1 (b) S 7 12 12 0",
            b"12 (\xff) S) S 7 12",
        ] {
            assert_eq!(parent(stat), Some(Pid::from_raw(7)));
        }
        assert_eq!(parent(b"12 (sh"), None);
        assert_eq!(parent(b"12 (sh) S"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_nobody_else() {
        let parents = [
            (2, 1),
            (3, 2),
            (4, 3),
            (5, 2),
            (9, 1),
            (10, 9),
            (7, 8),
            (8, 7),
        ];
        let parents = parents
            .map(|(pid, parent)| (Pid::from_raw(pid), Pid::from_raw(parent)))
            .into();
        let mut found = descendants(Pid::from_raw(2), &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4, 5].map(Pid::from_raw));
        assert_eq!(
            descendants(Pid::from_raw(7), &parents).len(),
            2,
            "a circle ends"
        );
    }

    #[test]
    fn this_process_has_a_parent() {
        assert_eq!(
            parents().get(&Pid::this()).copied(),
            Some(nix::unistd::getppid())
        );
    }
}
