//! Around a start: the walls of the container itself, which egress-init does not build.

use super::{
    Finding,
    facts::{AroundFacts, Tmp},
    limits::Limit,
};
use std::path::Path;

pub fn examine(facts: &AroundFacts) -> Vec<Finding> {
    vec![
        root(facts.root_read_only),
        tmp(facts.tmp),
        limit(
            "around.memory",
            "memory",
            &facts.limits.memory,
            "--memory=1g (mem_limit, resources.limits.memory)",
        ),
        limit(
            "around.cpu",
            "processors",
            &facts.limits.cpu,
            "--cpus=2 (cpus, resources.limits.cpu)",
        ),
        limit(
            "around.pids",
            "processes",
            &facts.limits.pids,
            "--pids-limit=512 (pids_limit, podPidsLimit of the kubelet)",
        ),
        none_of(
            "around.runtime_sockets",
            "no socket of a container runtime is to be seen",
            "whoever can talk to it owns the host: ",
            facts
                .runtime_sockets
                .iter()
                .map(|path| path.display().to_string()),
            "do not mount it into this container",
        ),
        none_of(
            "around.host_mounts",
            "no folder of the host's system is mounted",
            "the host's own files: ",
            facts.host_mounts.iter().cloned(),
            "mount only the folder that the command needs",
        ),
        none_of(
            "around.devices",
            "no disk and no memory device of the host",
            "devices of the host: ",
            facts.devices.iter().map(|path| path.display().to_string()),
            "leave --privileged and --device out",
        ),
        kernel(facts),
        secrets(&facts.secrets),
        state_dir(facts),
    ]
}

fn root(read_only: Option<bool>) -> Finding {
    let id = "around.root";
    match read_only {
        Some(true) => Finding::pass(id, "the root file system is read-only"),
        Some(false) => Finding::warn(
            id,
            "the root file system can be written",
            "run with --read-only (read_only, readOnlyRootFilesystem) and a tmpfs where something is written: for egress-init --tmpfs /etc/beacon-code:mode=0755",
        ),
        None => Finding::skip(id, "the root file system cannot be asked"),
    }
}

fn tmp(tmp: Tmp) -> Finding {
    let id = "around.tmp";
    match tmp {
        Tmp::Absent => Finding::pass(id, "there is no /tmp"),
        Tmp::ReadOnly => Finding::pass(id, "/tmp is read-only"),
        Tmp::NoExec => Finding::pass(id, "nothing in /tmp can be executed"),
        Tmp::Executable => Finding::warn(
            id,
            "what is written to /tmp can be executed",
            "mount a tmpfs there: --tmpfs /tmp:rw,noexec,nosuid,nodev,size=64m",
        ),
    }
}

fn limit(id: &'static str, what: &str, limit: &Limit, option: &str) -> Finding {
    match limit {
        Limit::Set(value) => Finding::pass(id, format!("{what}: at most {value}")),
        Limit::None => Finding::warn(
            id,
            format!("{what}: no limit"),
            format!("run with {option}"),
        ),
        Limit::Unknown => Finding::skip(
            id,
            format!("{what}: no control group with limits is to be seen"),
        ),
    }
}

fn none_of(
    id: &'static str,
    none: &str,
    some: &str,
    found: impl Iterator<Item = String>,
    remedy: &str,
) -> Finding {
    let found: Vec<String> = found.collect();
    if found.is_empty() {
        return Finding::pass(id, none);
    }
    Finding::fail(id, format!("{some}{}", listed(&found)), remedy)
}

fn kernel(facts: &AroundFacts) -> Finding {
    let id = "around.kernel";
    if facts.host_pids {
        return Finding::fail(
            id,
            "the processes of the host are to be seen",
            "leave --pid host (hostPID: true) out",
        );
    }
    if facts.writable_kernel.is_empty() {
        return Finding::pass(
            id,
            "/proc/sys and /sys are read-only, the processes are the container's",
        );
    }
    Finding::fail(
        id,
        format!(
            "the kernel's settings can be written: {}",
            listed(&facts.writable_kernel)
        ),
        "leave --privileged and security options that unmask /proc out",
    )
}

fn secrets(names: &[String]) -> Finding {
    let id = "around.secrets";
    if names.is_empty() {
        return Finding::pass(id, "no variable is named like a secret");
    }
    Finding::warn(
        id,
        format!("variables named like secrets: {}", listed(names)),
        "hand them over as files (secrets of Compose, Swarm and Kubernetes), readable for the command's user alone: docker inspect shows variables, and every child process has them",
    )
}

fn state_dir(facts: &AroundFacts) -> Finding {
    let id = "around.state_dir";
    match &facts.state_dir {
        None => Finding::skip(
            id,
            "none of --state-dir, EGRESS_INIT_STATE_DIR and CODE_HOME is set",
        ),
        Some((path, look)) => Finding::of(id, look, |()| {
            format!("{} is the command's alone", Path::display(path))
        }),
    }
}

/// As many as fit on a line.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::{
        Status,
        facts::{Look, Problem, tests::hardened_before},
    };

    fn finding(id: &str, change: impl FnOnce(&mut AroundFacts)) -> Finding {
        let mut facts = hardened_before().around;
        change(&mut facts);
        let mut findings = examine(&facts).into_iter();
        findings.find(|finding| finding.id == id).unwrap()
    }

    #[test]
    fn each_hole_in_the_walls_is_named() {
        type Change = fn(&mut AroundFacts);
        let cases: [(&str, Status, &str, Change); 11] = [
            ("around.root", Status::Warn, "can be written", |f| {
                f.root_read_only = Some(false);
            }),
            ("around.tmp", Status::Warn, "/tmp", |f| {
                f.tmp = Tmp::Executable;
            }),
            ("around.memory", Status::Warn, "no limit", |f| {
                f.limits.memory = Limit::None;
            }),
            ("around.cpu", Status::Warn, "no limit", |f| {
                f.limits.cpu = Limit::None;
            }),
            ("around.pids", Status::Warn, "no limit", |f| {
                f.limits.pids = Limit::None;
            }),
            (
                "around.runtime_sockets",
                Status::Fail,
                "/run/docker.sock",
                |f| {
                    f.runtime_sockets = vec!["/run/docker.sock".into()];
                },
            ),
            ("around.host_mounts", Status::Fail, "/host", |f| {
                f.host_mounts = vec!["/host".into()];
            }),
            ("around.devices", Status::Fail, "/dev/sda", |f| {
                f.devices = vec!["/dev/sda".into()];
            }),
            ("around.kernel", Status::Fail, "/proc/sys", |f| {
                f.writable_kernel = vec!["/proc/sys".into()];
            }),
            (
                "around.kernel",
                Status::Fail,
                "processes of the host",
                |f| f.host_pids = true,
            ),
            ("around.secrets", Status::Warn, "DB_PASSWORD", |f| {
                f.secrets = vec!["DB_PASSWORD".into()];
            }),
        ];
        for (id, status, says, change) in cases {
            let found = finding(id, change);
            assert_eq!(found.status, status, "{id}");
            assert!(found.summary.contains(says), "{found:?}");
            assert!(found.remedy.is_some(), "{id}");
            assert_eq!(finding(id, |_| {}).status, Status::Pass, "{id}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_skipped() {
        assert_eq!(
            finding("around.root", |f| f.root_read_only = None).status,
            Status::Skip
        );
        assert_eq!(
            finding("around.pids", |f| f.limits.pids = Limit::Unknown).status,
            Status::Skip
        );
        assert_eq!(
            finding("around.state_dir", |f| f.state_dir = None).status,
            Status::Skip
        );
    }

    #[test]
    fn a_state_directory_that_is_open_to_others_fails() {
        let open = finding("around.state_dir", |f| {
            let problem = Problem {
                what: "has mode 0755".into(),
                remedy: Some("chmod".into()),
            };
            f.state_dir = Some(("/state".into(), Look::Wrong(problem)));
        });
        assert_eq!(open.status, Status::Fail);
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(listed(&names), "0, 1, 2, 3, 4, 5 and 3 more");
    }
}
