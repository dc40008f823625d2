//! Arguments + environment → configuration: every string gets its meaning, and everything that is
//! wrong with them is reported at once, by the name of the option or of the variable.
//!
//! Pure: the environment comes as a function, files are named here and read elsewhere. What there is
//! to configure is here, and how it is read from words in [`reader`].

mod reader;
#[cfg(test)]
mod tests;

use crate::{
    accounts::UserSpec,
    allowlist::Source,
    cli::{LogArgs, RunArgs, StartArgs, SuperviseArgs},
    log,
    policy::{self, Element, Lifetimes},
    privileges::KeptCapability,
    proxy::Limits,
    resolve::nameservers::parse_upstream,
    sentinel,
    socket_filter::Family,
    state_dir::StateDir,
    supervise::Options,
};
use reader::{Reader, duration, parse, with_remedy};
use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use thiserror::Error;
use tracing_subscriber::filter::Targets;

/// The list that is read where none is named.
pub const DEFAULT_ALLOWLIST: &str = "/etc/beacon-code/allowed_domains.txt";
/// The list where none is named and that file does not exist.
pub const FALLBACK_ENTRY: &str = "api.openai.com";
const DEFAULT_RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is longer is a slip of the pen.
const LONGEST_TIME: Duration = Duration::from_secs(60 * 60);

/// Queries that may come at once below a wildcard, in seconds of its rate.
const BURST: u32 = 5;

/// The variables of this program's prefix that mean something.
const VARIABLES: [&str; 20] = [
    "EGRESS_INIT_ALLOW",
    "EGRESS_INIT_ALLOWLIST",
    "EGRESS_INIT_CORRELATION_ID",
    "EGRESS_INIT_DNS",
    "EGRESS_INIT_DNS_GRACE",
    "EGRESS_INIT_DNS_MIN_TTL",
    "EGRESS_INIT_DNS_UPSTREAM",
    "EGRESS_INIT_DNS_WILDCARD_LENGTH",
    "EGRESS_INIT_DNS_WILDCARD_RATE",
    "EGRESS_INIT_FORWARD_TO",
    "EGRESS_INIT_INBOUND",
    "EGRESS_INIT_KILL_AFTER",
    "EGRESS_INIT_LOG",
    "EGRESS_INIT_LOG_FORMAT",
    "EGRESS_INIT_ON_UNRESOLVED",
    "EGRESS_INIT_RESOLVE_TIMEOUT",
    "EGRESS_INIT_SENTINEL",
    "EGRESS_INIT_STATE_DIR",
    "EGRESS_INIT_SUPERVISE",
    "EGRESS_INIT_USER",
];

/// Where the state directory is, unless the option says it: this program's own variable before the
/// one of the predecessor's CLI.
const STATE_DIR_VARIABLES: [&str; 2] = ["EGRESS_INIT_STATE_DIR", "CODE_HOME"];

/// The value of a variable: `std::env::var_os` in the program.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// How the command resolves names after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dns {
    /// From /etc/hosts alone; port 53 is closed.
    Pinned,
    /// From the configured nameservers, to which port 53 stays open.
    System,
    /// From a resolver of our own, which answers for the list and puts the addresses in the sets.
    Proxy,
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::System => "system",
            Self::Proxy => "proxy",
        })
    }
}

impl FromStr for Dns {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pinned" => Ok(Self::Pinned),
            "system" => Ok(Self::System),
            "proxy" => Ok(Self::Proxy),
            _ => Err("is neither pinned, system nor proxy"),
        }
    }
}

/// Who asks for a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// The entrypoint.
    Run,
    /// `apply`, which stays with `--watch`.
    Apply {
        /// Whether it stays.
        watch: bool,
    },
    /// `plan` and `doctor`: what the entrypoint would do.
    Look,
}

impl Job {
    /// The DNS mode where none is named (section 4 of the contract).
    fn default_dns(self, supervise: bool) -> Dns {
        match self {
            Self::Apply { watch: false } => Dns::System,
            Self::Apply { watch: true } => Dns::Proxy,
            Self::Run | Self::Look if supervise => Dns::Proxy,
            Self::Run | Self::Look => Dns::Pinned,
        }
    }

    /// What is wrong with a mode here.
    fn refuses(self, dns: Dns, supervise: bool) -> Option<&'static str> {
        match (self, dns) {
            (Self::Run, Dns::Proxy) if !supervise => {
                Some("`proxy` needs a process that stays: add --supervise")
            }
            (Self::Apply { watch: false }, Dns::Proxy) => {
                Some("`proxy` needs a process that stays: add --watch")
            }
            (Self::Apply { watch: true }, Dns::Pinned | Dns::System) => {
                Some("--watch is for `proxy` alone: leave out --watch, or --dns")
            }
            _ => None,
        }
    }
}

/// What to do about a name without an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnresolved {
    /// End the start.
    Fail,
    /// Go on without it.
    Skip,
}

impl FromStr for OnUnresolved {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            _ => Err("is neither fail nor skip"),
        }
    }
}

/// Where the entries come from.
#[derive(Clone, Debug, Default)]
pub enum Lists {
    /// From what was named, all of it.
    Given(Vec<List>),
    /// From [`DEFAULT_ALLOWLIST`], or from [`FALLBACK_ENTRY`] where that does not exist.
    #[default]
    Default,
}

impl Lists {
    /// The files among them, whether they exist or not.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Default => vec![DEFAULT_ALLOWLIST.into()],
            Self::Given(lists) => lists
                .iter()
                .filter_map(|list| match list {
                    List::File(path) => Some(path.clone()),
                    List::Text(_) => None,
                })
                .collect(),
        }
    }
}

/// One source of entries.
#[derive(Clone, Debug)]
pub enum List {
    /// A file to read.
    File(PathBuf),
    /// Text that is here already.
    Text(Source),
}

/// Everything that decides the rules.
#[derive(Debug)]
pub struct StartConfig {
    /// Where the entries come from.
    pub lists: Lists,
    /// How the command resolves names.
    pub dns: Dns,
    /// Nameservers to ask instead of those of /etc/resolv.conf.
    pub upstreams: Vec<SocketAddr>,
    /// The time for resolving the whole list.
    pub resolve_timeout: Duration,
    /// What to do about a name without an address.
    pub on_unresolved: OnUnresolved,
    /// Connections to let in.
    pub inbound: Vec<Element>,
    /// How long answers count in mode `proxy`.
    pub lifetimes: Lifetimes,
    /// What one command can make the resolver of mode `proxy` do.
    pub limits: Limits,
    /// How to stay above the command, if at all.
    pub supervise: Option<Options>,
    /// What the command may keep.
    pub run: RunConfig,
}

/// What the command may keep.
#[derive(Debug)]
pub struct RunConfig {
    /// Whom the command runs as; none for whoever started this.
    pub user: Option<UserSpec>,
    /// Capabilities that it keeps.
    pub keep_caps: Vec<KeptCapability>,
    /// Whether `no_new_privs` stays unset.
    pub allow_new_privs: bool,
    /// Socket families beside the usual ones.
    pub socket_families: Vec<Family>,
    /// What the command is to have for itself.
    pub state_dir: Option<StateDir>,
}

/// How to log.
#[derive(Debug)]
pub struct LogConfig {
    /// Lines or objects.
    pub format: log::Format,
    /// What is let through.
    pub filter: Targets,
    /// What each object carries, where the user chose it.
    pub correlation_id: Option<String>,
}

/// An option or a variable whose value has no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `--option` or the name of the variable.
    pub name: &'static str,
    /// What is wrong, the value included.
    pub problem: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.problem)
    }
}

/// Everything that is wrong with the options and the environment, one a line.
#[derive(Debug, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InvalidSettings(pub Vec<Setting>);

/// The path of the sentinel: known before anything can be wrong with the rest.
#[must_use]
pub fn sentinel(option: Option<&Path>, environment: Environment) -> PathBuf {
    let reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    let path = option.map(Path::to_owned);
    path.or_else(|| reader.variable("EGRESS_INIT_SENTINEL").map(PathBuf::from))
        .unwrap_or_else(|| sentinel::DEFAULT_PATH.into())
}

/// Whether to stay above the command: known before anything can be wrong with the rest, because
/// signals are blocked first.
#[must_use]
pub fn is_supervised(args: &SuperviseArgs, environment: Environment) -> bool {
    let mut reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    reader.supervise(args).is_some()
}

/// That a subcommand without a command is not to supervise one. The variables may be those of an
/// image that has both.
pub fn unsupervised(args: &SuperviseArgs) -> Result<(), InvalidSettings> {
    let wrong: Vec<_> = given(args)
        .into_iter()
        .map(|name| Setting {
            name,
            problem: "there is no command here".into(),
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(InvalidSettings(wrong))
}

/// The options of supervising that are there.
fn given(args: &SuperviseArgs) -> Vec<&'static str> {
    [
        ("--supervise", args.supervise),
        ("--forward-to", args.forward_to.is_some()),
        ("--kill-after", args.kill_after.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

/// The configuration of a start, or of what looks like one.
pub fn start(
    args: &StartArgs,
    environment: Environment,
    job: Job,
) -> Result<StartConfig, InvalidSettings> {
    let mut reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    let mut supervise = reader.supervise(&args.supervise);
    let dns = reader.dns(args, job, supervise.is_some());
    if let Some(options) = &mut supervise {
        // A policy that can be read again; else the signal is the command's.
        options.reload_on_hangup = dns == Dns::Proxy;
    }
    let timeout = reader.one(
        args.resolve_timeout.as_deref(),
        "--resolve-timeout",
        Some("EGRESS_INIT_RESOLVE_TIMEOUT"),
        |text| match duration(text)? {
            time if time.is_zero() => Err(format!("`{text}` leaves no time")),
            time => Ok(time),
        },
    );
    let on_unresolved = reader.one(
        args.on_unresolved.as_deref(),
        "--on-unresolved",
        Some("EGRESS_INIT_ON_UNRESOLVED"),
        parse,
    );
    let upstreams = reader.many(
        &args.dns_upstream,
        "--dns-upstream",
        Some("EGRESS_INIT_DNS_UPSTREAM"),
        |text| parse_upstream(text).map_err(|error| error.to_string()),
    );
    let inbound = reader.many(
        &args.inbound,
        "--inbound",
        Some("EGRESS_INIT_INBOUND"),
        |text| policy::parse_inbound(text).map_err(|e| with_remedy(&e, e.remedy())),
    );
    let lists = reader.lists(args);
    let (lifetimes, limits) = reader.proxy(&args.proxy);
    let run = reader.run(&args.run, &STATE_DIR_VARIABLES);
    reader.finish(StartConfig {
        lists,
        dns,
        upstreams,
        resolve_timeout: timeout.unwrap_or(DEFAULT_RESOLVE_TIMEOUT),
        on_unresolved: on_unresolved.unwrap_or(OnUnresolved::Fail),
        inbound: policy::disjoint(inbound.into_iter().flatten()),
        lifetimes,
        limits,
        supervise,
        run,
    })
}

/// The configuration of `check`: the state directory is the option's alone. The variables are those
/// of the container, and what is checked there is mostly a tool beside the command that holds it.
pub fn run(args: &RunArgs, environment: Environment) -> Result<RunConfig, InvalidSettings> {
    let mut reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    let run = reader.run(args, &[]);
    reader.finish(run)
}

/// How to log: read first, so that everything else that is wrong can be logged.
pub fn logging(args: &LogArgs, environment: Environment) -> Result<LogConfig, InvalidSettings> {
    let mut reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    let format = reader.one(
        args.log_format.as_deref(),
        "--log-format",
        Some("EGRESS_INIT_LOG_FORMAT"),
        |text| match text {
            "text" => Ok(log::Format::Text),
            "json" => Ok(log::Format::Json),
            _ => Err(format!("`{text}` is neither text nor json")),
        },
    );
    let level = args.log_level.as_deref();
    let filter = reader
        .one(
            level,
            "--log-level",
            Some("EGRESS_INIT_LOG"),
            log::parse_filter,
        )
        // Meant for the command too, whose syntax may be another: no reason not to start.
        .or_else(|| log::parse_filter(environment("RUST_LOG")?.to_str()?).ok())
        .unwrap_or_else(log::default_filter);
    let correlation_id = reader
        .variable("EGRESS_INIT_CORRELATION_ID")
        .map(|id| id.to_string_lossy().into_owned());
    reader.finish(LogConfig {
        format: format.unwrap_or_default(),
        filter,
        correlation_id,
    })
}

/// Variables of this program's prefix that it does not know: a slip of the pen, mostly. Not an
/// error, because Kubernetes makes such names from those of services.
#[must_use]
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut unknown: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("EGRESS_INIT_") && !VARIABLES.contains(&name.as_str()))
        .collect();
    unknown.sort_unstable();
    unknown
}
