//! Before a start: would it succeed, and with no more than it needs?

use super::{
    Finding,
    facts::{Look, StartFacts},
};
use crate::privileges::{self, Status};
use caps::Capability;

pub const IDS: [&str; 10] = [
    "start.network",
    "start.kernel",
    "start.net_admin",
    "start.drop",
    "start.excess",
    "start.user",
    "start.list",
    "start.nameservers",
    "start.hosts",
    "start.sentinel_folder",
];

/// What no container should have: each is a way out of it.
const DANGEROUS: [Capability; 7] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RAWIO,
    Capability::CAP_SYS_BOOT,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_BPF,
];

pub fn examine(facts: &StartFacts, own: Option<&Status>) -> Vec<Finding> {
    vec![
        Finding::of(IDS[0], &facts.network, |()| {
            "a network namespace of its own".into()
        }),
        Finding::of(IDS[1], &facts.kernel, |()| {
            "the kernel accepts the rules (tried, not installed)".into()
        }),
        net_admin(IDS[2], own),
        Finding::of(IDS[3], &facts.drop, |()| {
            "the capabilities that dropping privileges takes are there".into()
        }),
        excess(IDS[4], facts, own),
        user(IDS[5], facts, own),
        Finding::of(IDS[6], &facts.list, |names| match names {
            0 => "the list is valid, no name is to be resolved".into(),
            1 => "the list is valid, 1 name is to be resolved".into(),
            _ => format!("the list is valid, {names} names are to be resolved"),
        }),
        nameservers(IDS[7], facts),
        Finding::of(IDS[8], &facts.hosts, |()| {
            "/etc/hosts can be written".into()
        }),
        Finding::of(IDS[9], &facts.folder, |folder| {
            format!(
                "{} can be written by this process and not by the command",
                folder.display()
            )
        }),
    ]
}

fn net_admin(id: &'static str, own: Option<&Status>) -> Finding {
    let Some(own) = own else {
        return no_status(id);
    };
    if own.effective & Capability::CAP_NET_ADMIN.bitmask() != 0 {
        return Finding::pass(id, "NET_ADMIN is there");
    }
    let remedy = if own.uid[1] == 0 {
        "run the container with --cap-add=NET_ADMIN; the command does not get it"
    } else {
        "start as root, without USER in the image and without docker run --user, with --cap-add=NET_ADMIN, and name the command's user with egress-init --user"
    };
    Finding::fail(id, "NET_ADMIN is missing", remedy)
}

/// The command gets none of them; what `docker exec` starts beside it does.
fn excess(id: &'static str, facts: &StartFacts, own: Option<&Status>) -> Finding {
    let Some(own) = own else {
        return no_status(id);
    };
    let needed = [
        Capability::CAP_NET_ADMIN,
        Capability::CAP_SETPCAP,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        // With `docker run --init` it passes signals on to a command of another user.
        Capability::CAP_KILL,
    ];
    let needed = needed
        .iter()
        .fold(facts.kept, |mask, capability| mask | capability.bitmask());
    let excess = own.permitted & !needed;
    if excess == 0 {
        return Finding::pass(id, "no capability that a start does not take");
    }
    let remedy = "run with --cap-drop=ALL --cap-add=NET_ADMIN --cap-add=SETPCAP --cap-add=SETUID --cap-add=SETGID: docker exec gives all of the container's capabilities to what it starts";
    let dangerous = DANGEROUS
        .iter()
        .fold(0, |mask, capability| mask | capability.bitmask());
    if excess & dangerous == 0 {
        let names = privileges::names(excess);
        Finding::warn(id, format!("more than a start takes: {names}"), remedy)
    } else {
        let names = privileges::names(excess & dangerous);
        Finding::fail(id, format!("ways out of the container: {names}"), remedy)
    }
}

fn user(id: &'static str, facts: &StartFacts, own: Option<&Status>) -> Finding {
    match &facts.user {
        Look::Seen(None) if own.is_some_and(|own| own.uid[1] == 0) => Finding::warn(
            id,
            "no --user: the command would stay root",
            "name the command's user with --user or EGRESS_INIT_USER",
        ),
        Look::Seen(Some((name, user))) if user.uid == 0 => Finding::warn(
            id,
            format!("--user {name} is root"),
            "name another user with --user or EGRESS_INIT_USER",
        ),
        look => Finding::of(id, look, |user| match user {
            Some((name, user)) => format!(
                "--user {name} is uid {}, gid {}, groups {}",
                user.uid,
                user.gid,
                user.groups
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
            None => "the command stays this process's user, which is not root".into(),
        }),
    }
}

fn nameservers(id: &'static str, facts: &StartFacts) -> Finding {
    let answers = match &facts.nameservers {
        Look::Seen(answers) if answers.is_empty() => {
            return Finding::warn(
                id,
                "no nameserver is known: a list with names cannot be resolved",
                "connect the container to a network, or name servers with --dns-upstream",
            );
        }
        Look::Seen(answers) => answers,
        look => return Finding::of(id, look, |_| String::new()),
    };
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(server, answer)| Some(format!("{server} ({})", answer.as_ref().err()?)))
        .collect();
    let remedy = "check the container's network, or name other servers with --dns-upstream";
    if silent.is_empty() {
        let servers: Vec<_> = answers
            .iter()
            .map(|(server, _)| server.to_string())
            .collect();
        Finding::pass(id, format!("answers from {}", servers.join(", ")))
    } else if silent.len() < answers.len() {
        Finding::warn(id, format!("no answer from {}", silent.join(", ")), remedy)
    } else {
        Finding::fail(id, format!("no answer from {}", silent.join(", ")), remedy)
    }
}

fn no_status(id: &'static str) -> Finding {
    Finding::skip(id, "/proc/thread-self/status cannot be read")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::{
        Status as Outcome,
        facts::{Problem, tests::hardened_before},
    };

    fn finding(id: &str, change: impl FnOnce(&mut StartFacts, &mut Status)) -> Finding {
        let mut facts = hardened_before();
        let (mut start, mut own) = (facts.start.take().unwrap(), facts.own.take().unwrap());
        change(&mut start, &mut own);
        let mut findings = examine(&start, Some(&own)).into_iter();
        findings.find(|finding| finding.id == id).unwrap()
    }

    #[test]
    fn what_docker_gives_by_default_is_said_exactly() {
        // CHOWN to SETFCAP as Docker has them: without NET_ADMIN.
        let docker = |_: &mut StartFacts, own: &mut Status| {
            own.permitted = 0xa804_25fb;
            own.effective = 0xa804_25fb;
        };
        let missing = finding("start.net_admin", docker);
        assert_eq!(missing.status, Outcome::Fail);
        assert!(missing.remedy.unwrap().contains("--cap-add=NET_ADMIN"));
        let excess = finding("start.excess", docker);
        assert_eq!(excess.status, Outcome::Warn);
        assert!(excess.summary.contains("CHOWN") && excess.summary.contains("NET_RAW"));
        assert!(!excess.summary.contains("SETUID"), "{}", excess.summary);
        let root = finding("start.user", |facts, _| facts.user = Look::Seen(None));
        assert_eq!(root.status, Outcome::Warn);
    }

    #[test]
    fn ways_out_fail() {
        let privileged = finding("start.excess", |_, own| own.permitted = u64::MAX >> 23);
        assert_eq!(privileged.status, Outcome::Fail);
        assert!(
            privileged.summary.contains("SYS_ADMIN"),
            "{}",
            privileged.summary
        );
    }

    #[test]
    fn one_silent_nameserver_warns_and_all_fail() {
        let server = |last: u8| std::net::SocketAddr::from(([192, 0, 2, last], 53));
        let silent = || Err("timed out".to_owned());
        let with = |answers| {
            finding("start.nameservers", |facts, _| {
                facts.nameservers = Look::Seen(answers);
            })
        };
        assert_eq!(with(vec![(server(1), Ok(()))]).status, Outcome::Pass);
        let some = with(vec![(server(1), Ok(())), (server(2), silent())]);
        assert_eq!(some.status, Outcome::Warn);
        assert_eq!(some.summary, "no answer from 192.0.2.2:53 (timed out)");
        assert_eq!(with(vec![(server(1), silent())]).status, Outcome::Fail);
        assert_eq!(with(Vec::new()).status, Outcome::Warn);
    }

    #[test]
    fn what_is_wrong_fails_and_what_is_hidden_is_skipped() {
        let wrong = || {
            Look::Wrong(Problem {
                what: "it is wrong".into(),
                remedy: Some("mend it".into()),
            })
        };
        let finding_of = |look| finding("start.kernel", |facts, _| facts.kernel = look);
        assert_eq!(finding_of(wrong()).status, Outcome::Fail);
        assert_eq!(finding_of(wrong()).remedy.unwrap(), "mend it");
        let hidden = finding_of(Look::Hidden("needs NET_ADMIN".into()));
        assert_eq!(
            (hidden.status, hidden.summary.as_str()),
            (Outcome::Skip, "needs NET_ADMIN")
        );
    }
}
