//! What is started, from which state, and what it is like when it went well. A scenario more is a
//! value more here.

use std::{fs, path::Path, process::Command};

use nix::sys::signal::Signal;

use serde::{Deserialize, Serialize};

use crate::{
    gate::{Gate, Observer, PORT},
    support::{
        harness,
        live::sidecar,
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
    /// `--supervise`, mode `proxy`: a child becomes the command.
    Supervise,
    /// `apply --watch`, until it rests.
    Watch,
    /// The same where another one was killed and has left its table.
    TakeOver,
    /// Above a command: a name is due, and has another address.
    Refresh,
    /// Another list, which adds and revokes.
    Reload,
    /// Another /etc/hosts, and SIGHUP.
    Hangup,
    /// The command asks for a name below a wildcard.
    Query,
}

const ALL: [Scenario; 11] = [
    Scenario::Start,
    Scenario::Rerun,
    Scenario::Apply,
    Scenario::Root,
    Scenario::Supervise,
    Scenario::Watch,
    Scenario::TakeOver,
    Scenario::Refresh,
    Scenario::Reload,
    Scenario::Hangup,
    Scenario::Query,
];

/// Those that are possible here. In mode `proxy` the command has to be another user than the
/// resolver.
pub fn possible() -> Vec<Scenario> {
    let (possible, others): (Vec<_>, Vec<_>) = ALL
        .into_iter()
        .partition(|scenario| harness::will_have_second_uid() || !scenario.is_proxy());
    if !others.is_empty() {
        println!(
            "{} need a second uid: run them as root, or with uidmap and a range in /etc/subuid",
            others
                .iter()
                .map(|s| s.title())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    possible
}

const OLD_LIST: &str = "/etc/world/old";
pub const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n10.77.0.2\tinside\n";

impl Scenario {
    pub fn title(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Rerun => "re-run",
            Self::Apply => "apply",
            Self::Root => "root",
            Self::Supervise => "supervise",
            Self::Watch => "watch",
            Self::TakeOver => "take-over",
            Self::Refresh => "refresh",
            Self::Reload => "reload",
            Self::Hangup => "hangup",
            Self::Query => "query",
        }
    }

    /// Whether names are asked for as long as it lives.
    pub fn is_proxy(self) -> bool {
        !matches!(self, Self::Start | Self::Rerun | Self::Apply | Self::Root)
    }

    /// Whether the start is over, and a policy is kept: what [`crate::keeping`] judges.
    pub fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Refresh | Self::Reload | Self::Hangup | Self::Query
        )
    }

    /// What leaves before.
    pub fn before(self) -> Gate {
        match self {
            Self::Start | Self::Apply | Self::Root | Self::Supervise | Self::Watch => Gate::Open,
            Self::Rerun | Self::Refresh | Self::Reload | Self::Hangup | Self::Query => Gate::Old,
            Self::TakeOver => Gate::Policy,
        }
    }

    /// What leaves after a good start.
    pub fn after(self) -> Gate {
        match self {
            Self::Apply => Gate::PolicyDns,
            _ => Gate::Policy,
        }
    }

    /// Whether a good start becomes the command.
    pub fn executes(self) -> bool {
        !matches!(self, Self::Apply | Self::Watch | Self::TakeOver)
    }

    /// Makes the state before, from whatever state there is.
    pub fn prepare(self, world: &World) -> Observer {
        forget();
        let list_of_api = if self.is_proxy() {
            names("api.example.org")
        } else {
            list("api.example.org", API.map(|a| a.to_string()))
        };
        file(ALLOWLIST, &list_of_api);
        if self == Self::TakeOver {
            let earlier = sidecar(user_options());
            earlier.signal(Signal::SIGKILL);
            earlier.finish();
            return self.observe();
        }
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
        self.observe()
    }

    fn observe(self) -> Observer {
        let mut observer = Observer::new(self.is_proxy());
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
        match self {
            Self::Apply => drop(command.arg("apply")),
            Self::Watch | Self::TakeOver => drop(command.args(["apply", "--watch"])),
            _ if self.is_proxy() => drop(command.arg("--supervise")),
            _ => {}
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
                &serde_json::to_string(&self.attempts()).unwrap(),
            ]);
        }
        command
    }

    /// What the command tries: first what is forbidden, then what is allowed, then what it is.
    pub fn attempts(self) -> Vec<Step> {
        let mut steps = Vec::new();
        for family in 0..2 {
            let name = || "tunnel.example.net".to_owned();
            steps.extend([
                Step::Tcp((ELSEWHERE[family], 9000).into()),
                Step::Udp((ELSEWHERE[family], 9000).into()),
            ]);
            // In mode proxy each is answered, by egress-init: see [`Self::Query`].
            if !self.is_proxy() {
                steps.extend([
                    Step::DnsTcp(FOREIGN_DNS[family], name()),
                    Step::Dns(FOREIGN_DNS[family], name()),
                    Step::Dns(DNS[family], name()),
                ]);
            }
        }
        steps.extend(API.map(|address| Step::Tcp((address, 443).into())));
        steps.push(Step::Status);
        steps
    }
}

/// As if nothing had ever run here.
pub fn forget() {
    nft("add table inet egress_init; delete table inet egress_init");
    fs::write("/etc/hosts", HOSTS).unwrap();
    let folder = Path::new(SENTINEL).parent().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

fn list(name: &str, [ipv4, ipv6]: [String; 2]) -> String {
    format!("{name}\n{ipv4}:{PORT}/udp\n[{ipv6}]:{PORT}/udp\n")
}

/// Entries for a name, at the port that is looked at and at those of the web.
pub fn names(name: &str) -> String {
    format!("{name}\n{name}:{PORT}/udp\n")
}

/// What `check` says of the sentinel that is there.
pub fn verifies() -> bool {
    Run::new(BINARY).arg("check").run().code() == Some(0)
}
