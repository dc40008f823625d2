//! Is the firewall of this network namespace enforced, now? What `egress-init check` asks, and
//! what a CLI written in Rust asks before it starts.
//!
//! Two halves: the sentinel says that a firewall was enforced here since boot, the canary that its
//! rules are live. Neither takes a privilege.

use crate::canary::{self, Alive, Dead};
use crate::port::Closed;
use crate::sentinel::{self, NotVerified, Sentinel};
use serde::Serialize;
use std::error::Error as _;
use std::path::Path;
use thiserror::Error;

/// Set to `1` it lets `egress-init check` pass with a warning: the emergency bypass.
pub const BYPASS_VARIABLE: &str = "BEACON_ALLOW_UNSAFE_NO_FIREWALL";

/// A firewall that is enforced.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What is enforced.
    pub sentinel: Sentinel,
    /// How the rules showed that they are live.
    pub canary: Alive,
}

/// Why it is not, or not known to be.
#[derive(Debug, Error)]
pub enum NotReady {
    /// The sentinel is absent or does not verify.
    #[error(transparent)]
    Sentinel(#[from] NotVerified),
    /// The sentinel verifies, and yet the rules do not answer.
    #[error(transparent)]
    Canary(#[from] Dead),
}

impl NotReady {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Sentinel(error) => error.remedy(),
            Self::Canary(error) => error.remedy(),
        }
    }
}

/// Verifies the sentinel at `path` (`sentinel::DEFAULT_PATH` by default) and asks the rules, for
/// a quarter of a second at most, usually well under a millisecond.
///
/// The bypass is not looked at: who wants it asks `is_bypassed`.
pub fn firewall_ready(path: &Path) -> Result<Verified, NotReady> {
    let sentinel = sentinel::verify(path)?;
    let canary = canary::probe(canary::DEADLINE)?;
    Ok(Verified { sentinel, canary })
}

/// Whether the environment asks for the emergency bypass. Who honours it must say so to the user.
#[must_use]
pub fn is_bypassed() -> bool {
    std::env::var_os(BYPASS_VARIABLE).is_some_and(|value| value == "1")
}

/// What `check --json` prints.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// Whether the command may start.
    pub ok: bool,
    /// Why not, or why although.
    pub reason: Option<String>,
    /// The content of the sentinel, where it verifies.
    pub sentinel: Option<&'a Sentinel>,
}

impl<'a> Report<'a> {
    /// And of the port that was asked for; no bypass is about that.
    #[must_use]
    pub fn with_port(mut self, port: &Result<(), Closed>) -> Self {
        if let Err(closed) = port {
            self.ok = false;
            let reason = self.reason.into_iter().chain([closed.to_string()]);
            self.reason = Some(reason.collect::<Vec<_>>().join("; "));
        }
        self
    }

    /// Of a check, and of the bypass that was asked for or not.
    #[must_use]
    pub fn new(result: &'a Result<Verified, NotReady>, is_bypassed: bool) -> Self {
        match result {
            Ok(verified) => Self {
                ok: true,
                reason: None,
                sentinel: Some(&verified.sentinel),
            },
            Err(error) => {
                let reason = in_one_line(error);
                let reason = if is_bypassed {
                    format!("{BYPASS_VARIABLE}=1 although {reason}")
                } else {
                    reason
                };
                Self {
                    ok: is_bypassed,
                    reason: Some(reason),
                    sentinel: None,
                }
            }
        }
    }
}

fn in_one_line(error: &NotReady) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line = format!("{line}: {error}");
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_report_has_the_three_documented_keys() {
        let missing = firewall_ready(Path::new("/nonexistent/firewall.ready"));
        let json = |is_bypassed| serde_json::to_value(Report::new(&missing, is_bypassed)).unwrap();
        assert_eq!(
            json(false),
            serde_json::json!({
                "ok": false,
                "reason": "there is no sentinel /nonexistent/firewall.ready",
                "sentinel": null,
            })
        );
        assert_eq!(json(true)["ok"], true);
        assert_eq!(
            json(true)["reason"],
            "BEACON_ALLOW_UNSAFE_NO_FIREWALL=1 although there is no sentinel /nonexistent/firewall.ready"
        );
    }

    #[test]
    fn a_reason_has_its_source_once() {
        let error = NotReady::from(Dead::OtherAnswer(std::io::Error::from_raw_os_error(
            libc::ECONNREFUSED,
        )));
        let line = in_one_line(&error);
        assert_eq!(line.matches("Connection refused").count(), 1, "{line}");
    }
}
