//! What is started, from which state, and what it is like when it went well. A scenario more is a
//! value more here.

use std::{fs, path::Path, process::Command};

use serde::{Deserialize, Serialize};

use crate::{
    gate::{Gate, Observer, PORT},
    support::{
        probe::Step,
        world::{
            ALLOWLIST, API, BINARY, DNS, ELSEWHERE, FOREIGN_DNS, GIT, PROBE, Run, SENTINEL, World,
            file, nft, user_options,
        },
    },
};

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scenario {
    /// The entrypoint in a namespace without rules, with a sentinel that an earlier one left.
    Start,
    /// The entrypoint where another policy is in force.
    Rerun,
    /// `apply`, in its own default DNS mode.
    Apply,
    /// The entrypoint of a command that stays root, whose capabilities no change of user takes.
    Root,
}

pub const ALL: [Scenario; 4] = [
    Scenario::Start,
    Scenario::Rerun,
    Scenario::Apply,
    Scenario::Root,
];

const OLD_LIST: &str = "/etc/world/old";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n10.77.0.2\tinside\n";

impl Scenario {
    pub fn title(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Rerun => "re-run",
            Self::Apply => "apply",
            Self::Root => "root",
        }
    }

    /// What leaves before.
    pub fn before(self) -> Gate {
        match self {
            Self::Start | Self::Apply | Self::Root => Gate::Open,
            Self::Rerun => Gate::Old,
        }
    }

    /// What leaves after a good start.
    pub fn after(self) -> Gate {
        match self {
            Self::Start | Self::Rerun | Self::Root => Gate::Policy,
            Self::Apply => Gate::PolicyDns,
        }
    }

    /// Whether a good start becomes the command.
    pub fn executes(self) -> bool {
        self != Self::Apply
    }

    /// Makes the state before, from whatever state there is.
    pub fn prepare(self, world: &World) -> Observer {
        nft("add table inet egress_init; delete table inet egress_init");
        fs::write("/etc/hosts", HOSTS).unwrap();
        let folder = Path::new(SENTINEL).parent().unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        file(
            ALLOWLIST,
            &list("api.example.org", API.map(|a| a.to_string())),
        );
        file(
            OLD_LIST,
            &list("git.example.org", GIT.map(|a| a.to_string())),
        );
        world
            .egress()
            .args(user_options())
            .args(["--allowlist", OLD_LIST])
            .command(&["/bin/true"])
            .run()
            .exits(0);
        if self.before() == Gate::Open {
            // As after `docker restart`: the file is still there, the rules are not.
            nft("delete table inet egress_init");
        }
        let mut observer = Observer::new();
        let seen = observer.look();
        assert_eq!(
            seen.gate,
            self.before(),
            "the state before is not as it should be"
        );
        observer
    }

    /// The program to be traced.
    pub fn command(self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/");
        if self == Self::Apply {
            command.arg("apply");
        }
        if self != Self::Root {
            command.args(user_options());
        }
        // As short as it can be without a good start coming near it.
        command.args(["--resolve-timeout", "1s"]);
        if self.executes() {
            command.args([
                "--",
                PROBE,
                "__probe",
                &serde_json::to_string(&attempts()).unwrap(),
            ]);
        }
        command
    }
}

/// What the command tries: first what is forbidden, then what is allowed, then what it is.
pub fn attempts() -> Vec<Step> {
    let mut steps = Vec::new();
    for family in 0..2 {
        let name = || "tunnel.example.net".to_owned();
        steps.extend([
            Step::Tcp((ELSEWHERE[family], 9000).into()),
            Step::Udp((ELSEWHERE[family], 9000).into()),
            Step::DnsTcp(FOREIGN_DNS[family], name()),
            Step::Dns(FOREIGN_DNS[family], name()),
            Step::Dns(DNS[family], name()),
        ]);
    }
    steps.extend(API.map(|address| Step::Tcp((address, 443).into())));
    steps.push(Step::Status);
    steps
}

fn list(name: &str, [ipv4, ipv6]: [String; 2]) -> String {
    format!("{name}\n{ipv4}:{PORT}/udp\n[{ipv6}]:{PORT}/udp\n")
}

/// What `check` says of the sentinel that is there.
pub fn verifies() -> bool {
    Run::new(BINARY).arg("check").run().code() == Some(0)
}
