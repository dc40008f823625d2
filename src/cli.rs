//! The command line as typed: strings, no meaning yet and no I/O.
//!
//! [`crate::config`] gives the strings their meaning, together with the environment, and reports
//! everything that is wrong with them at once.

// The documentation of the fields is the help text, which has no markup. That of the structures
// would be taken for the description of a subcommand, so that they have comments instead.
#![allow(clippy::doc_markdown, missing_docs)]

use clap::{Args, Parser, Subcommand};
use std::{ffi::OsString, path::PathBuf};

/// Locks the network to an allowlist, drops all privileges and becomes the command.
///
/// As the entrypoint of a container: deny everything, resolve the allowed names, install IPv4 and
/// IPv6 rules, drop every capability, publish the sentinel, execute COMMAND. Any failure on the
/// way leaves the network locked and the command not started.
#[derive(Debug, Parser)]
#[command(
    name = "egress-init",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "egress-init [OPTIONS] -- COMMAND [ARG]...\n       egress-init apply [--watch] [OPTIONS]\n       egress-init check [--json] [OPTIONS] [-- COMMAND [ARG]...]\n       egress-init status [--json]\n       egress-init plan [--json] [OPTIONS]\n       egress-init doctor [--json] [OPTIONS]",
    after_help = "Exit status: that of COMMAND; 125 egress-init failed; 126 COMMAND cannot be executed; 127 it was not found; 2 wrong usage.\n\nNeeds CAP_NET_ADMIN to install rules: docker run --cap-add=NET_ADMIN ..."
)]
pub struct Cli {
    /// Another job than that of the entrypoint.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Options of the entrypoint.
    #[command(flatten)]
    pub start: StartArgs,
    /// The command to become, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The subcommands, whose arguments are put together only where one of them is typed: the
/// entrypoint, which starts every container, has no use for them.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Action {
    /// Lock, resolve, enforce and publish without a command, then exit 0 (Kubernetes init container)
    Apply {
        /// Stay: answer DNS, refresh addresses, read changed lists again (a sidecar)
        #[arg(long)]
        watch: bool,
        /// Options shared with the entrypoint.
        #[command(flatten)]
        start: StartArgs,
    },
    /// Verify that the firewall is live; with a command, drop privileges and execute it only then
    #[command(after_help = "Exit status: 0 verified, 1 not; with a command, as the entrypoint.")]
    Check(CheckArgs),
    /// Say whether this container is ready for production: pass, warn, fail or skip, with a remedy each
    #[command(after_help = "Exit status: 0 no check failed, 1 one did.")]
    Doctor {
        /// Print one JSON object instead
        #[arg(long)]
        json: bool,
        /// Options shared with the entrypoint.
        #[command(flatten)]
        start: StartArgs,
    },
    /// Say what the process of --supervise or apply --watch is doing: names, addresses, counters
    #[command(after_help = "Needs root. Exit status: 0, or 125 where no such process answers.")]
    Status(StatusArgs),
    /// Resolve and print what would be installed, as text for `nft -f`; needs no privilege
    Plan {
        /// Print one JSON object instead
        #[arg(long)]
        json: bool,
        /// Options shared with the entrypoint.
        #[command(flatten)]
        start: StartArgs,
    },
}

// What `status` takes.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
    /// The sentinel, beside which the process listens [env: EGRESS_INIT_SENTINEL] [default: /etc/beacon-code/firewall.ready]
    #[arg(long, value_name = "PATH")]
    pub sentinel: Option<PathBuf>,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

// What `check` takes.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print {"ok", "reason", "sentinel"} to standard output
    #[arg(long)]
    pub json: bool,
    /// Verify too that the command's own port accepts connections, on loopback in either family
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "command")]
    pub tcp: Option<u16>,
    /// The sentinel and the privileges of a command.
    #[command(flatten)]
    pub run: RunArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
    /// The command to execute if the check passes
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

// What the entrypoint, `apply` and `plan` take. Where an option names a variable, the option
// wins over it; a variable set to the empty string counts as absent.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// File of allowed destinations, one entry a line; repeatable [env: EGRESS_INIT_ALLOWLIST, `:` between files] [default: /etc/beacon-code/allowed_domains.txt]
    #[arg(long, value_name = "FILE")]
    pub allowlist: Vec<PathBuf>,
    /// Allowed destination, such as github.com:22,443 or @github; repeatable [env: EGRESS_INIT_ALLOW, OPENAI_ALLOWED_DOMAINS]
    #[arg(long, value_name = "ENTRY")]
    pub allow: Vec<OsString>,
    /// How the command resolves names: pinned (from /etc/hosts, port 53 closed), proxy (answered here, for the list alone) or system (port 53 open to the nameservers: a tunnel) [env: EGRESS_INIT_DNS] [default: pinned; with --supervise or --watch: proxy; apply: system]
    #[arg(long, value_name = "MODE")]
    pub dns: Option<String>,
    /// Nameserver to ask; repeatable [env: EGRESS_INIT_DNS_UPSTREAM] [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]")]
    pub dns_upstream: Vec<String>,
    /// Time for resolving the whole list, retries included [env: EGRESS_INIT_RESOLVE_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub resolve_timeout: Option<String>,
    /// What to do about a name without an address: fail or skip [env: EGRESS_INIT_ON_UNRESOLVED] [default: fail]
    #[arg(long, value_name = "ACTION")]
    pub on_unresolved: Option<String>,
    /// Connections to let in; repeatable; all others are dropped [env: EGRESS_INIT_INBOUND]
    #[arg(long, value_name = "PORT[/PROTO][@CIDR]")]
    pub inbound: Vec<String>,
    /// Lock the network even where it is the host's (docker run --network host): all of the host's
    #[arg(long)]
    pub allow_host_network: bool,
    /// Mode proxy.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// The process above the command.
    #[command(flatten)]
    pub supervise: SuperviseArgs,
    /// The sentinel and the privileges of a command.
    #[command(flatten)]
    pub run: RunArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

// What mode `proxy` can be told.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Shortest TTL that is believed [env: EGRESS_INIT_DNS_MIN_TTL] [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub dns_min_ttl: Option<String>,
    /// How much longer than its TTL an address may be reached [env: EGRESS_INIT_DNS_GRACE] [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub dns_grace: Option<String>,
    /// Queries a second that go out for names which only a wildcard allows, or for rare types [env: EGRESS_INIT_DNS_WILDCARD_RATE] [default: 20]
    #[arg(long, value_name = "NUMBER")]
    pub dns_wildcard_rate: Option<String>,
    /// Octets that may stand in place of a wildcard's * [env: EGRESS_INIT_DNS_WILDCARD_LENGTH] [default: 100]
    #[arg(long, value_name = "OCTETS")]
    pub dns_wildcard_length: Option<String>,
}

// Whether to stay above the command, and how.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// Stay as PID 1 above the command: pass signals on, reap orphans [env: EGRESS_INIT_SUPERVISE=1]
    #[arg(long)]
    pub supervise: bool,
    /// Who gets the signals: group (the command's process group) or child (the command alone) [env: EGRESS_INIT_FORWARD_TO] [default: group]
    #[arg(long, value_name = "WHO")]
    pub forward_to: Option<String>,
    /// Time from SIGTERM to SIGKILL for processes that outlive the command [env: EGRESS_INIT_KILL_AFTER] [default: 3s]
    #[arg(long, value_name = "DURATION")]
    pub kill_after: Option<String>,
}

// The sentinel, and what the command may keep.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run the command as this user; names from /etc/passwd and /etc/group, or numbers [env: EGRESS_INIT_USER] [default: stay as started]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Capability that the command keeps; repeatable; those that undo the firewall are refused
    #[arg(long, value_name = "CAP")]
    pub keep_cap: Vec<String>,
    /// Leave no_new_privs unset, so that setuid programs work in the command
    #[arg(long)]
    pub allow_new_privs: bool,
    /// Socket family that the command may use beside UNIX, INET, INET6 and NETLINK; repeatable
    #[arg(long, value_name = "FAMILY")]
    pub allow_socket_family: Vec<String>,
    /// The file that says that the firewall is enforced [env: EGRESS_INIT_SENTINEL] [default: /etc/beacon-code/firewall.ready]
    #[arg(long, value_name = "PATH")]
    pub sentinel: Option<PathBuf>,
    /// Directory that the command's user alone may use, and one command at a time; held by a lock that the command inherits [env: EGRESS_INIT_STATE_DIR, CODE_HOME; apply and check go by the option alone]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Make the state directory where it is missing, and give it owner and mode 0700 where it has others
    #[arg(long)]
    pub fix_state_dir: bool,
}

// Logging, to standard error only.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// text, or json with EGRESS_INIT_CORRELATION_ID or the container's id in each line [env: EGRESS_INIT_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// error, warn, info, debug or trace [env: EGRESS_INIT_LOG, RUST_LOG] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_subcommand_is_described_in_its_own_help_as_in_the_list() {
        let listed = Cli::command();
        let mut built = Cli::command();
        built.build();
        for listed in listed.get_subcommands() {
            let own = built.find_subcommand(listed.get_name()).unwrap();
            let words = |command: &clap::Command| {
                let about = [command.get_about(), command.get_long_about()];
                about.map(|text| text.map(ToString::to_string))
            };
            assert_eq!(words(own), words(listed));
        }
    }

    #[test]
    fn a_command_after_the_dashes_is_never_a_subcommand() {
        let cli = Cli::try_parse_from(["egress-init", "--user", "node", "--", "check", "--json"])
            .unwrap();
        assert!(cli.action.is_none());
        assert_eq!(cli.command, ["check", "--json"]);
    }

    #[test]
    fn the_entrypoint_needs_a_command() {
        assert!(Cli::try_parse_from(["egress-init"]).is_err());
        assert!(Cli::try_parse_from(["egress-init", "apply"]).is_ok());
        assert!(Cli::try_parse_from(["egress-init", "apply", "--", "x"]).is_err());
    }

    #[test]
    fn the_grace_period_is_said_as_it_is() {
        let help = Cli::command().render_long_help().to_string();
        let grace = crate::supervise::DEFAULT_KILL_AFTER.as_secs();
        let said = format!("EGRESS_INIT_KILL_AFTER] [default: {grace}s]");
        assert!(help.contains(&said), "{help}");
    }
}
