//! Weaknesses planted on purpose, one at a time: each of them some attempt has to find.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use crate::{
    stage::{Configuration, Runner, Stage, Way},
    support::world::{SENTINEL, file, forget, nft},
};

/// One weakness.
pub struct Plant {
    pub name: &'static str,
    /// The attempt that has to get through, whatever else does.
    pub catcher: &'static str,
    /// What is different from a good start.
    pub what: &'static str,
    pub weakness: Weakness,
    /// Whether it means nothing where root is the only uid.
    pub needs_user: bool,
}

/// How it is planted.
pub enum Weakness {
    /// These rules are put in after each start.
    Rules(&'static str),
    /// The same where egress-init stays and answers DNS.
    ProxyRules(&'static str),
    /// The command is started by something else, after a start.
    Launch {
        /// What setpriv(1) is told beside the user.
        options: &'static [&'static str],
        leaks: bool,
    },
    /// This is done after each start.
    Files(fn()),
    /// The neighbour with the packet socket has the command's own uid.
    Neighbour,
    /// This is done before each start of a race, or while it runs.
    Race(fn()),
}

const NOTHING: [&str; 3] = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];

const fn rules(
    name: &'static str,
    catcher: &'static str,
    what: &'static str,
    script: &'static str,
) -> Plant {
    Plant {
        name,
        catcher,
        what,
        weakness: Weakness::Rules(script),
        needs_user: false,
    }
}

const fn launch(
    name: &'static str,
    catcher: &'static str,
    what: &'static str,
    options: &'static [&'static str],
    leaks: bool,
) -> Plant {
    Plant {
        name,
        catcher,
        what,
        weakness: Weakness::Launch { options, leaks },
        needs_user: true,
    }
}

/// No weakness at all.
pub const NONE: Plant = rules("none", "", "nothing is weak", "");

pub const PLANTS: [Plant; 31] = [
    rules(
        "rule-removed",
        "transport: UDP, sendto, IPv4",
        "the rule that refuses what is left is empty, and the chain's policy accepts",
        "flush chain inet egress_init refuse
         add chain inet egress_init output { policy accept; }",
    ),
    rules(
        "ipv6-left-out",
        "transport: TCP, IPv6",
        "the rules are for IPv4 alone",
        "insert rule inet egress_init output meta nfproto ipv6 accept",
    ),
    rules(
        "established-any",
        "inherited: a connection from before the start, as standard input, IPv4",
        "established flows pass whatever their mark",
        "insert rule inet egress_init output ct state established,related accept",
    ),
    rules(
        "related-any",
        "related flows: an error about a datagram over loopback, as if from elsewhere, IPv6",
        "what is related to a flow passes whatever its mark",
        "insert rule inet egress_init output ct state related accept",
    ),
    rules(
        "dns-open",
        "DNS: a foreign server, UDP, IPv4",
        "UDP to port 53 of any server passes",
        "insert rule inet egress_init output oif != lo udp dport 53 accept",
    ),
    rules(
        "dns-over-tcp-open",
        "DNS: a foreign server, TCP, IPv4",
        "TCP to port 53 of any server passes",
        "insert rule inet egress_init output oif != lo tcp dport 53 accept",
    ),
    rules(
        "dns-on-loopback-open",
        "DNS: a resolver on loopback, UDP, IPv4",
        "loopback passes before port 53 is looked at",
        "insert rule inet egress_init output oif lo accept",
    ),
    rules(
        "routing-header",
        "headers: segment routing by way of an allowed host, IPv6",
        "IPv6 routing headers are not looked for",
        "insert rule inet egress_init output exthdr rt exists accept",
    ),
    rules(
        "ipv4-options",
        "headers: record route, IPv4",
        "IPv4 options are not looked for",
        "insert rule inet egress_init output ip hdrlength > 5 accept",
    ),
    rules(
        "echo-open",
        "transport: ICMP echo (ping socket), IPv4",
        "ICMP echo passes",
        "insert rule inet egress_init output icmp type echo-request accept
         insert rule inet egress_init output icmpv6 type echo-request accept",
    ),
    rules(
        "ports-ignored",
        "transport: TCP to a port of an allowed host that is not listed, IPv4",
        "an allowed address passes with every port",
        "insert rule inet egress_init output ip daddr 198.51.100.10 tcp dport 1-65535 accept",
    ),
    rules(
        "protocol-ignored",
        "transport: UDP to an allowed host's TCP port, IPv4",
        "an allowed address and port pass with every protocol",
        "insert rule inet egress_init output ip daddr 198.51.100.10 th dport { 21, 80, 123, 443 } accept",
    ),
    rules(
        "mapped-address",
        "headers: IPv4 address mapped into IPv6, UDP, IPv6",
        "the network of the documentation passes, IPv4 only",
        "insert rule inet egress_init output ip daddr 203.0.113.0/24 udp dport 1024-65535 accept",
    ),
    rules(
        "neighbours-unlimited",
        "link: groups as the message, for three seconds (MLD)",
        "neighbour discovery and listener reports have no rate",
        "insert rule inet egress_init output icmpv6 type { 131, 132, 133, 135, 136, 143 } accept",
    ),
    rules(
        "multicast-open",
        "link: multicast, link scope, IPv4",
        "multicast and broadcast pass",
        "insert rule inet egress_init output ip daddr { 224.0.0.0/4, 255.255.255.255, 10.77.0.255 } accept
         insert rule inet egress_init output ip6 daddr ff00::/8 udp dport 1-65535 accept",
    ),
    rules(
        "link-local-open",
        "headers: link-local address of the gateway, IPv6",
        "link-local addresses pass",
        "insert rule inet egress_init output ip6 daddr fe80::/10 udp dport 1-65535 accept",
    ),
    rules(
        "invited-port-leads-out",
        "binding: from an invited port, IPv4",
        "whatever comes from the port of --inbound passes",
        "insert rule inet egress_init output udp sport 8080 accept
         insert rule inet egress_init output tcp sport 8080 accept",
    ),
    rules(
        "answers-of-what-was-let-out",
        "forged flows: both ends, an answer of an allowed host to elsewhere, IPv6",
        "established flows pass in both directions",
        "insert rule inet egress_init output ct state established ct mark != 0 accept",
    ),
    rules(
        "visitors-over-loopback",
        "forged flows: a visitor from elsewhere at an invited port, then an answer, IPv6",
        "the answers of invited services pass, whoever began the flow",
        "insert rule inet egress_init output ct direction reply udp sport 8080 accept
         insert rule inet egress_init output ct direction reply tcp sport 8080 accept",
    ),
    Plant {
        name: "redirected-by-the-link",
        catcher: "forged flows: DNS, bound to eth0, UDP, IPv4",
        what: "in mode proxy, nobody asks by which interface a redirected query leaves",
        weakness: Weakness::ProxyRules("flush chain inet egress_init depart"),
        needs_user: false,
    },
    Plant {
        name: "answers-of-anybody",
        catcher: "standing in: beside a nameserver on loopback, its answers, IPv4",
        what: "in mode proxy, nobody asks who answers on loopback in place of a nameserver",
        weakness: Weakness::ProxyRules("insert rule inet egress_init output oif lo accept"),
        needs_user: true,
    },
    launch("capability-kept-raw",
        "privileges: every capability, then a packet socket", "the command keeps CAP_NET_RAW", &[
        "--inh-caps=-all,+net_raw",
        "--ambient-caps=+net_raw",
        "--bounding-set=-all,+net_raw",
        "--no-new-privs",
    ], false),
    launch("capability-kept-admin",
        "privileges: the table deleted", "the command keeps CAP_NET_ADMIN", &[
        "--inh-caps=-all,+net_admin",
        "--ambient-caps=+net_admin",
        "--bounding-set=-all,+net_admin",
        "--no-new-privs",
    ], false),
    launch("filter-skipped",
        "io_uring: a ring at all", "the command has no socket filter", &NOTHING, false),
    launch(
        "new-privileges",
        "privileges: a setuid program",
        "no_new_privs is off, and the bounding set is full",
        &["--inh-caps=-all"],
        false,
    ),
    launch("descriptor-kept",
        "inherited: a packet socket left open", "a packet socket stays open", &NOTHING, true),
    Plant {
        name: "sentinel-writable",
        catcher: "files: the sentinel written",
        what: "everyone may write the sentinel",
        weakness: Weakness::Files(|| {
            fs::set_permissions(SENTINEL, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        needs_user: true,
    },
    Plant {
        name: "folder-writable",
        catcher: "files: the sentinel removed",
        what: "everyone may write the sentinel's folder",
        weakness: Weakness::Files(|| {
            let folder = Path::new(SENTINEL).parent().unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        }),
        needs_user: true,
    },
    Plant {
        name: "neighbour-of-the-same-user",
        catcher: "privileges: a privileged neighbour's packet socket, by pidfd",
        what: "a process with a packet socket has the command's uid",
        weakness: Weakness::Neighbour,
        needs_user: true,
    },
    Plant {
        name: "open-window",
        catcher: "races: a second start, UDP, IPv4",
        what: "a second start deletes the old table before it locks",
        weakness: Weakness::Race(forget),
        needs_user: false,
    },
    Plant {
        name: "sentinel-early",
        catcher: "races: the sentinel, the moment it is there",
        what: "the sentinel is there before the names are resolved",
        weakness: Weakness::Race(|| {
            thread::sleep(Duration::from_millis(12));
            file(SENTINEL, "{}");
        }),
        needs_user: false,
    },
];

impl Plant {
    pub fn named(name: &str) -> Option<&'static Self> {
        // A constant has no address; the table is read once a run.
        static TABLE: [Plant; 31] = PLANTS;
        TABLE.iter().find(|plant| plant.name == name)
    }

    /// How the command is started.
    pub fn way(&self, configuration: &Configuration) -> Way {
        let Weakness::Launch { options, leaks } = &self.weakness else {
            return Way::Fenced(configuration.clone());
        };
        // The one descriptor that the stage leaves open is closed unless it is the weakness.
        let close = if *leaks { ":" } else { "exec 55>&-" };
        let mut words = vec!["bash", "-c"];
        let script = format!("{close}; exec \"$@\"");
        words.extend([
            script.as_str(),
            "bash",
            "setpriv",
            "--reuid=1000",
            "--regid=1000",
        ]);
        words.push("--clear-groups");
        words.extend(*options);
        Way::Instead(words.into_iter().map(str::to_owned).collect())
    }

    /// After each start.
    pub fn apply(&self, runner: &mut Option<Runner>) {
        match &self.weakness {
            Weakness::Rules(script) | Weakness::ProxyRules(script) => nft(script),
            Weakness::Files(change) => change(),
            Weakness::Neighbour => {
                if let Some(runner) = runner {
                    runner.neighbour_of_the_command();
                }
            }
            Weakness::Launch { .. } | Weakness::Race(_) => {}
        }
    }

    /// Whether it is one of mode `proxy`.
    pub fn is_proxied(&self) -> bool {
        matches!(self.weakness, Weakness::ProxyRules(_))
    }

    /// In a race.
    pub fn race(&self) -> Option<fn()> {
        match self.weakness {
            Weakness::Race(between) => Some(between),
            _ => None,
        }
    }
}

/// That the stage is as a plant needs it.
pub fn fits(plant: &Plant, stage: &Stage) -> bool {
    stage.has_user || !plant.needs_user
}
