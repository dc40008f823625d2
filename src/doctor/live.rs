//! After a start: does it hold, and what is the process that asks left with?

use super::{Finding, facts::LiveFacts};
use crate::{
    canary::{Alive, Family},
    privileges::{self, Status},
};
use caps::Capability;

pub const IDS: [&str; 7] = [
    "live.sentinel",
    "live.canary",
    "live.ipv6",
    "live.uid",
    "live.capabilities",
    "live.no_new_privs",
    "live.socket_filter",
];

/// The process that asks is one that was started beside the command, with all that the container
/// has: what it starts is not the command's equal.
const REMEDY: &str = "start it through egress-init: egress-init check --user USER -- COMMAND";

pub fn examine(facts: &LiveFacts, own: Option<&Status>) -> Vec<Finding> {
    let mut findings = vec![
        Finding::of(IDS[0], &facts.sentinel, |sentinel| {
            format!(
                "of this namespace and this boot, since {}, dns {}",
                sentinel.created, sentinel.enforced.dns
            )
        }),
        Finding::of(IDS[1], &facts.canary, |alive| match alive {
            Alive::Answered(family) => format!("the rules answer, over {family}"),
            Alive::NoRoute => "there is no way out, and so nothing to ask".into(),
        }),
        Finding::of(IDS[2], &facts.ipv6, |answered| {
            if *answered {
                format!("the rules answer over {}", Family::Ipv6)
            } else {
                "no route; the same rules hold where one comes".into()
            }
        }),
    ];
    findings.extend(match own {
        Some(own) => process(facts.kept, own),
        None => super::skipped(&IDS[3..], "/proc/thread-self/status cannot be read"),
    });
    findings
}

fn process(kept: u64, own: &Status) -> Vec<Finding> {
    vec![
        match own.uid[1] {
            0 => Finding::warn(IDS[3], "this process is root", REMEDY),
            uid => Finding::pass(IDS[3], format!("this process is uid {uid}")),
        },
        capabilities(kept, own),
        if own.no_new_privs {
            Finding::pass(IDS[5], "no_new_privs is on")
        } else {
            Finding::warn(
                IDS[5],
                "no_new_privs is off: setuid programs give privileges",
                format!("{REMEDY}; or run with --security-opt no-new-privileges"),
            )
        },
        if own.seccomp == libc::SECCOMP_MODE_FILTER {
            Finding::pass(IDS[6], "a seccomp filter is on")
        } else {
            Finding::warn(
                IDS[6],
                "no seccomp filter: sockets that the firewall does not see can be made",
                REMEDY,
            )
        },
    ]
}

fn capabilities(kept: u64, own: &Status) -> Finding {
    let usable = (own.permitted | own.effective | own.inheritable | own.ambient) & !kept;
    let undoing = Capability::CAP_NET_ADMIN.bitmask() | Capability::CAP_SYS_ADMIN.bitmask();
    if usable & undoing != 0 {
        return Finding::fail(
            IDS[4],
            format!(
                "this process can undo the firewall: {}",
                privileges::names(usable & undoing)
            ),
            REMEDY,
        );
    }
    if usable != 0 {
        let names = privileges::names(usable);
        return Finding::warn(IDS[4], format!("this process has {names}"), REMEDY);
    }
    let reachable = own.bounding & !kept;
    if reachable != 0 {
        let summary = format!(
            "none, but setuid programs could give {}",
            privileges::names(reachable)
        );
        return Finding::warn(IDS[4], summary, REMEDY);
    }
    Finding::pass(IDS[4], "this process has none and can get none")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::{Status as Outcome, facts::tests::hardened_after};

    fn finding(id: &str, change: impl FnOnce(&mut LiveFacts, &mut Status)) -> Finding {
        let mut facts = hardened_after();
        let (mut live, mut own) = (facts.live.take().unwrap(), facts.own.take().unwrap());
        change(&mut live, &mut own);
        let mut findings = examine(&live, Some(&own)).into_iter();
        findings.find(|finding| finding.id == id).unwrap()
    }

    #[test]
    fn what_docker_exec_starts_is_told_from_the_command() {
        let net_admin = Capability::CAP_NET_ADMIN.bitmask();
        let exec = finding("live.capabilities", |_, own| own.effective = net_admin);
        assert_eq!(exec.status, Outcome::Fail);
        assert!(exec.remedy.unwrap().contains("egress-init check"));
        let chown = finding("live.capabilities", |_, own| own.permitted = 1);
        assert_eq!(chown.status, Outcome::Warn);
        let bounding = finding("live.capabilities", |_, own| own.bounding = net_admin);
        assert_eq!(bounding.status, Outcome::Warn);
        let kept = finding("live.capabilities", |live, own| {
            live.kept = 1 << 10;
            own.permitted = 1 << 10;
            own.bounding = 1 << 10;
        });
        assert_eq!(kept.status, Outcome::Pass);
    }

    #[test]
    fn each_of_the_other_walls_is_looked_at() {
        for (id, change) in [
            ("live.uid", (|own| own.uid = [0; 4]) as fn(&mut Status)),
            ("live.no_new_privs", |own| own.no_new_privs = false),
            ("live.socket_filter", |own| own.seccomp = 0),
        ] {
            assert_eq!(
                finding(id, |_, own| change(own)).status,
                Outcome::Warn,
                "{id}"
            );
            assert_eq!(finding(id, |_, _| {}).status, Outcome::Pass, "{id}");
        }
    }
}
