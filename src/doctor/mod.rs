//! Is this container ready for production? Pure checks over facts; [`gather`] looks for these and
//! judges nothing.
//!
//! Two situations. Before a start, where no sentinel is: what a start needs. After one: whether it
//! holds, and what the process that asks is left with. Around both: what the container's own walls
//! are like. Nothing is changed, and no privilege is needed: what cannot be seen is skipped, with
//! the reason.

mod around;
pub mod facts;
pub mod gather;
mod limits;
mod live;
mod mounts;
mod start;
mod walls;

use facts::{Facts, Look};
use serde::Serialize;
use std::fmt;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Pass,
    /// Weaker than it could be.
    Warn,
    /// A start fails, or does not protect.
    Fail,
    /// Not asked, or not to be seen.
    Skip,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        })
    }
}

/// One check: `docs/doctor.md` lists the ids, which do not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, group and subject.
    pub id: &'static str,
    /// What came of it.
    pub status: Status,
    /// What was found.
    pub summary: String,
    /// What to do about it, where something is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn pass(id: &'static str, summary: impl Into<String>) -> Self {
        Self::new(id, Status::Pass, summary, None)
    }

    fn skip(id: &'static str, reason: impl Into<String>) -> Self {
        Self::new(id, Status::Skip, reason, None)
    }

    fn warn(id: &'static str, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Status::Warn, summary, Some(remedy.into()))
    }

    fn fail(id: &'static str, summary: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Status::Fail, summary, Some(remedy.into()))
    }

    fn new(
        id: &'static str,
        status: Status,
        summary: impl Into<String>,
        remedy: Option<String>,
    ) -> Self {
        Self {
            id,
            status,
            summary: summary.into(),
            remedy,
        }
    }

    /// Of something that is as it should be, is not, or cannot be seen.
    fn of<T>(id: &'static str, look: &Look<T>, pass: impl FnOnce(&T) -> String) -> Self {
        match look {
            Look::Seen(value) => Self::pass(id, pass(value)),
            Look::Wrong(problem) => {
                Self::new(id, Status::Fail, &problem.what, problem.remedy.clone())
            }
            Look::Hidden(reason) => Self::skip(id, reason),
        }
    }
}

/// Whether a start has been made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Situation {
    /// There is no sentinel.
    Before,
    /// There is one, which may or may not verify.
    After,
}

/// All checks: what `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// No check failed.
    pub ok: bool,
    /// Which of the first two groups counts.
    pub situation: Situation,
    /// Every check, in a fixed order; those of the other situation are skipped.
    pub checks: Vec<Finding>,
}

/// Judges the facts.
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    let mut checks = match &facts.start {
        Some(start) => start::examine(start, facts.own.as_ref()),
        None => skipped(&start::IDS, "a start has been made"),
    };
    checks.extend(match &facts.live {
        Some(live) => live::examine(live, facts.own.as_ref()),
        None => skipped(&live::IDS, "no start has been made"),
    });
    checks.extend(around::examine(&facts.around));
    Report {
        ok: checks.iter().all(|check| check.status != Status::Fail),
        situation: if facts.start.is_some() {
            Situation::Before
        } else {
            Situation::After
        },
        checks,
    }
}

fn skipped(ids: &[&'static str], reason: &str) -> Vec<Finding> {
    ids.iter().map(|id| Finding::skip(id, reason)).collect()
}

/// One screen: the checks of the situation that is not are left out.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = match self.situation {
            Situation::Before => {
                writeln!(f, "before a start: there is no sentinel")?;
                "live."
            }
            Situation::After => {
                writeln!(f, "after a start: there is a sentinel")?;
                "start."
            }
        };
        let shown = || {
            self.checks
                .iter()
                .filter(|check| !check.id.starts_with(other))
        };
        for Finding {
            id,
            status,
            summary,
            remedy,
        } in shown()
        {
            writeln!(f, "{status}  {id:<23} {summary}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "      {:<23} -> {remedy}", "")?;
            }
        }
        let count = |status| shown().filter(|check| check.status == status).count();
        writeln!(
            f,
            "{} pass, {} warn, {} fail, {} skip",
            count(Status::Pass),
            count(Status::Warn),
            count(Status::Fail),
            count(Status::Skip)
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use facts::tests::{hardened_after, hardened_before};

    fn documented() -> Vec<String> {
        let page = include_str!("../../docs/doctor.md");
        page.lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(id, _)| id.to_owned())
            .filter(|id| id.contains('.'))
            .collect()
    }

    #[test]
    fn the_ids_are_those_of_the_documentation_in_both_situations() {
        for facts in [hardened_before(), hardened_after()] {
            let report = examine(&facts);
            let ids: Vec<_> = report.checks.iter().map(|check| check.id).collect();
            assert_eq!(ids, documented());
        }
    }

    #[test]
    fn the_hardened_recipe_has_nothing_to_say_against_it() {
        for facts in [hardened_before(), hardened_after()] {
            let report = examine(&facts);
            assert!(report.ok);
            for check in &report.checks {
                assert!(
                    matches!(check.status, Status::Pass | Status::Skip),
                    "{check:?}"
                );
            }
        }
    }

    #[test]
    fn whatever_is_wrong_has_a_remedy_and_the_screen_shows_it() {
        let mut facts = hardened_before();
        facts.around.secrets = vec!["OPENAI_API_KEY".into()];
        facts.around.runtime_sockets = vec!["/run/docker.sock".into()];
        let report = examine(&facts);
        assert!(!report.ok);
        let screen = report.to_string();
        for check in &report.checks {
            let is_wrong = matches!(check.status, Status::Warn | Status::Fail);
            assert_eq!(check.remedy.is_some(), is_wrong, "{check:?}");
            assert_eq!(screen.contains(check.id), !check.id.starts_with("live."));
        }
        assert!(screen.lines().count() <= 40, "one screen\n{screen}");
        assert!(screen.contains("1 warn, 1 fail"), "{screen}");
    }

    #[test]
    fn json_has_the_documented_members() {
        let value = serde_json::to_value(examine(&hardened_before())).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(value["situation"], "before");
        let first = &value["checks"][0];
        assert_eq!(first.as_object().unwrap().len(), 4);
        assert_eq!(first["status"], "pass");
        assert!(first["remedy"].is_null());
    }
}
