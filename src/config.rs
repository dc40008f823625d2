//! Arguments + environment → configuration: every string gets its meaning, and everything that is
//! wrong with them is reported at once, by the name of the option or of the variable.
//!
//! Pure: the environment comes as a function, files are named here and read elsewhere.

use crate::{
    accounts::{AccountError, UserSpec},
    allowlist::{Source, SourceKind},
    cli::{LogArgs, ProxyArgs, RunArgs, StartArgs, SuperviseArgs},
    log,
    policy::{self, Element, Lifetimes},
    privileges::{KeptCapability, PrivilegeError},
    proxy::Limits,
    resolve::nameservers::parse_upstream,
    sentinel,
    socket_filter::{Family, SocketFilterError},
    state_dir::StateDir,
    supervise::{DEFAULT_KILL_AFTER, Options},
};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    net::SocketAddr,
    os::unix::ffi::{OsStrExt, OsStringExt},
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

struct Reader<'a> {
    environment: Environment<'a>,
    wrong: Vec<Setting>,
}

impl Reader<'_> {
    /// A variable that is set to something.
    fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// An option of one value, else its variable.
    fn one<T>(
        &mut self,
        option: Option<&str>,
        name: &'static str,
        variable: Option<&'static str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let values: Vec<String> = option.map(str::to_owned).into_iter().collect();
        self.parsed(
            &values,
            name,
            variable,
            |text| vec![text.trim().to_owned()],
            parse,
        )
        .pop()
    }

    /// A repeatable option, else its variable with the values separated as entries are.
    fn many<T>(
        &mut self,
        options: &[String],
        name: &'static str,
        variable: Option<&'static str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let split = |text: &str| {
            text.split([' ', '\t', '\n', '\r', ','])
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .collect()
        };
        self.parsed(options, name, variable, split, parse)
    }

    fn parsed<T>(
        &mut self,
        options: &[String],
        option: &'static str,
        variable: Option<&'static str>,
        split: impl Fn(&str) -> Vec<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let (name, values) = if options.is_empty() {
            let Some((name, value)) = variable.and_then(|name| Some((name, self.variable(name)?)))
            else {
                return Vec::new();
            };
            let Ok(value) = value.into_string() else {
                self.wrong.push(Setting {
                    name,
                    problem: "is not UTF-8".into(),
                });
                return Vec::new();
            };
            (name, split(&value))
        } else {
            (option, options.to_vec())
        };
        let mut parsed = Vec::new();
        for value in values {
            match parse(&value) {
                Ok(value) => parsed.push(value),
                Err(problem) => self.wrong.push(Setting { name, problem }),
            }
        }
        parsed
    }

    /// The first of three that names anything: the options, this program's variables, the
    /// predecessor's.
    fn lists(&mut self, args: &StartArgs) -> Lists {
        let files = args.allowlist.iter().cloned().map(List::File);
        let entries = args
            .allow
            .iter()
            .map(|entry| text("--allow", SourceKind::Entry, entry));
        let options: Vec<List> = files.chain(entries).collect();
        if !options.is_empty() {
            return Lists::Given(options);
        }
        let paths = self.variable("EGRESS_INIT_ALLOWLIST");
        let mut lists = paths.map_or_else(Vec::new, |paths| self.paths(&paths));
        lists.extend(self.words("EGRESS_INIT_ALLOW"));
        if lists.is_empty() {
            lists.extend(self.words("OPENAI_ALLOWED_DOMAINS"));
        }
        if lists.is_empty() {
            Lists::Default
        } else {
            Lists::Given(lists)
        }
    }

    fn words(&self, name: &str) -> Option<List> {
        self.variable(name)
            .map(|entries| text(name, SourceKind::Words, &entries))
    }

    fn paths(&mut self, value: &OsStr) -> Vec<List> {
        let paths: Vec<&[u8]> = value.as_bytes().split(|&octet| octet == b':').collect();
        if paths.iter().any(|path| path.is_empty()) {
            let problem = format!(
                "`{}` has an empty path; write files with `:` between them",
                value.display()
            );
            self.wrong.push(Setting {
                name: "EGRESS_INIT_ALLOWLIST",
                problem,
            });
        }
        paths
            .into_iter()
            .map(|path| List::File(OsString::from_vec(path.to_vec()).into()))
            .collect()
    }

    fn state_dir(&mut self, args: &RunArgs, variables: &[&'static str]) -> Option<StateDir> {
        let option = args.state_dir.clone().map(|path| ("--state-dir", path));
        let named = option.or_else(|| {
            let mut values = variables.iter();
            values.find_map(|&name| Some((name, self.variable(name)?.into())))
        });
        let problem = match &named {
            None if args.fix_state_dir => ("--fix-state-dir", "no state directory is named"),
            Some((name, path)) if path.file_name().is_none() => (*name, "names no directory"),
            _ => {
                let fix = args.fix_state_dir;
                return named.map(|(_, path)| StateDir { path, fix });
            }
        };
        self.wrong.push(Setting {
            name: problem.0,
            problem: problem.1.into(),
        });
        None
    }

    fn dns(&mut self, args: &StartArgs, job: Job, supervise: bool) -> Dns {
        let option = args.dns.as_deref();
        let variable = "EGRESS_INIT_DNS";
        let named = self.one(option, "--dns", Some(variable), parse);
        let dns = named.unwrap_or_else(|| job.default_dns(supervise));
        if let Some(problem) = job.refuses(dns, supervise) {
            self.wrong.push(Setting {
                name: if option.is_some() { "--dns" } else { variable },
                problem: problem.to_owned(),
            });
        }
        dns
    }

    fn proxy(&mut self, args: &ProxyArgs) -> (Lifetimes, Limits) {
        let mut lifetimes = Lifetimes::default();
        let mut limits = Limits::default();
        for (option, name, variable, value) in [
            (
                &args.dns_min_ttl,
                "--dns-min-ttl",
                "EGRESS_INIT_DNS_MIN_TTL",
                &mut lifetimes.floor,
            ),
            (
                &args.dns_grace,
                "--dns-grace",
                "EGRESS_INIT_DNS_GRACE",
                &mut lifetimes.grace,
            ),
        ] {
            let given = self.one(option.as_deref(), name, Some(variable), lifetime);
            *value = given.unwrap_or(*value);
        }
        let number = |text: &str| match text.parse::<u32>() {
            Ok(number @ 1..=100_000) => Ok(number),
            _ => Err(format!("`{text}` is no number from 1 to 100000")),
        };
        let rate = self.one(
            args.dns_wildcard_rate.as_deref(),
            "--dns-wildcard-rate",
            Some("EGRESS_INIT_DNS_WILDCARD_RATE"),
            number,
        );
        if let Some(rate) = rate {
            limits.wildcard_rate = rate;
            limits.wildcard_burst = rate.saturating_mul(BURST);
        }
        let length = self.one(
            args.dns_wildcard_length.as_deref(),
            "--dns-wildcard-length",
            Some("EGRESS_INIT_DNS_WILDCARD_LENGTH"),
            |text| match text.parse::<usize>() {
                Ok(length @ 1..=253) => Ok(length),
                _ => Err(format!("`{text}` is no number from 1 to 253")),
            },
        );
        limits.wildcard_length = length.unwrap_or(limits.wildcard_length);
        (lifetimes, limits)
    }

    fn supervise(&mut self, args: &SuperviseArgs) -> Option<Options> {
        let option = args.supervise.then_some("1");
        let name = "--supervise";
        let stays = self.one(
            option,
            name,
            Some("EGRESS_INIT_SUPERVISE"),
            |text| match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err(format!("`{text}` is neither 1 nor 0")),
            },
        );
        let forward_to = self.one(
            args.forward_to.as_deref(),
            "--forward-to",
            Some("EGRESS_INIT_FORWARD_TO"),
            parse,
        );
        let kill_after = self.one(
            args.kill_after.as_deref(),
            "--kill-after",
            Some("EGRESS_INIT_KILL_AFTER"),
            duration,
        );
        if !stays.unwrap_or(false) {
            self.wrong
                .extend(given(args).into_iter().map(|name| Setting {
                    name,
                    problem: "means nothing without --supervise".into(),
                }));
            return None;
        }
        Some(Options {
            forward_to: forward_to.unwrap_or_default(),
            kill_after: kill_after.unwrap_or(DEFAULT_KILL_AFTER),
            reload_on_hangup: false,
        })
    }

    fn run(&mut self, args: &RunArgs, state_dir_variables: &[&'static str]) -> RunConfig {
        RunConfig {
            state_dir: self.state_dir(args, state_dir_variables),
            user: self.one(
                args.user.as_deref(),
                "--user",
                Some("EGRESS_INIT_USER"),
                |text| {
                    text.parse()
                        .map_err(|e: AccountError| with_remedy(&e, e.remedy()))
                },
            ),
            keep_caps: self.many(&args.keep_cap, "--keep-cap", None, |text| {
                text.parse()
                    .map_err(|e: PrivilegeError| with_remedy(&e, e.remedy()))
            }),
            allow_new_privs: args.allow_new_privs,
            socket_families: self.many(
                &args.allow_socket_family,
                "--allow-socket-family",
                None,
                |text| {
                    text.parse()
                        .map_err(|e: SocketFilterError| with_remedy(&e, e.remedy()))
                },
            ),
        }
    }

    fn finish<T>(self, value: T) -> Result<T, InvalidSettings> {
        if self.wrong.is_empty() {
            Ok(value)
        } else {
            Err(InvalidSettings(self.wrong))
        }
    }
}

fn text(label: &str, kind: SourceKind, text: &OsStr) -> List {
    List::Text(Source {
        label: label.to_owned(),
        text: text.as_bytes().to_vec(),
        kind,
    })
}

fn parse<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|problem| format!("`{text}` {problem}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST_TIME => Err(format!("`{text}` is longer than an hour")),
        Ok(time) => Ok(time),
        Err(error) => Err(format!(
            "`{text}` is no duration such as 10s or 500ms: {error}"
        )),
    }
}

/// Less than a second would have names without a TTL asked for without end, or closed before their
/// next answer.
fn lifetime(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_secs(1) => Err(format!("`{text}` is shorter than a second")),
        time => Ok(time),
    }
}

fn with_remedy(error: &dyn std::error::Error, remedy: Option<String>) -> String {
    match remedy {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{cli::Cli, supervise::ForwardTo};
    use clap::Parser;
    use std::collections::HashMap;

    fn parsed(
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<StartConfig, InvalidSettings> {
        let words = ["egress-init"].iter().chain(options).chain(&["--", "true"]);
        let cli = Cli::try_parse_from(words).unwrap();
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        start(
            &cli.start,
            &|name| variables.get(name).map(Into::into),
            Job::Run,
        )
    }

    /// The labels of the lists, in order.
    fn labels(options: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
        match parsed(options, variables).unwrap().lists {
            Lists::Default => vec!["default".to_owned()],
            Lists::Given(lists) => lists
                .into_iter()
                .map(|list| match list {
                    List::File(path) => path.display().to_string(),
                    List::Text(source) => source.label,
                })
                .collect(),
        }
    }

    #[test]
    fn each_kind_of_source_hides_the_next() {
        let openai = ("OPENAI_ALLOWED_DOMAINS", "a.example");
        let allow = ("EGRESS_INIT_ALLOW", "b.example");
        let files = ("EGRESS_INIT_ALLOWLIST", "/one:/two");
        assert_eq!(labels(&[], &[]), ["default"]);
        assert_eq!(labels(&[], &[openai]), ["OPENAI_ALLOWED_DOMAINS"]);
        assert_eq!(labels(&[], &[openai, allow]), ["EGRESS_INIT_ALLOW"]);
        assert_eq!(
            labels(&[], &[openai, allow, files]),
            ["/one", "/two", "EGRESS_INIT_ALLOW"]
        );
        let options = ["--allow", "c.example", "--allowlist", "/three"];
        assert_eq!(
            labels(&options, &[openai, allow, files]),
            ["/three", "--allow"]
        );
    }

    #[test]
    fn an_empty_variable_is_absent() {
        let empty = [
            ("EGRESS_INIT_ALLOW", ""),
            ("EGRESS_INIT_DNS", ""),
            ("EGRESS_INIT_USER", ""),
        ];
        assert_eq!(labels(&[], &empty), ["default"]);
        let cli = Cli::try_parse_from(["egress-init", "--", "true"]).unwrap();
        let path = super::sentinel(
            cli.start.run.sentinel.as_deref(),
            &|_| Some(OsString::new()),
        );
        assert_eq!(path.to_str(), Some(sentinel::DEFAULT_PATH));
    }

    #[test]
    fn an_option_wins_over_its_variable() {
        let config = parsed(&["--dns", "pinned"], &[("EGRESS_INIT_DNS", "system")]).unwrap();
        assert_eq!(config.dns, Dns::Pinned);
        let config = parsed(&[], &[("EGRESS_INIT_DNS", "system")]).unwrap();
        assert_eq!(config.dns, Dns::System);
    }

    #[test]
    fn a_variable_holds_many_values() {
        let config = parsed(
            &[],
            &[
                ("EGRESS_INIT_DNS_UPSTREAM", "10.0.0.1, 10.0.0.2:5353\n[::1]"),
                ("EGRESS_INIT_INBOUND", "8001@10.0.0.0/8 9000-9001/udp"),
            ],
        )
        .unwrap();
        assert_eq!(config.upstreams.len(), 3);
        let inbound: Vec<String> = config.inbound.iter().map(ToString::to_string).collect();
        assert_eq!(
            inbound,
            [
                "0.0.0.0/0 . udp . 9000-9001",
                "10.0.0.0/8 . tcp . 8001",
                "::/0 . udp . 9000-9001"
            ]
        );
    }

    #[test]
    fn everything_wrong_is_named_at_once_by_option_or_variable() {
        let options = ["--dns", "prxy", "--keep-cap", "CAP_NET_RAW", "--user", ":1"];
        let variables = [
            ("EGRESS_INIT_RESOLVE_TIMEOUT", "18446744073709551615s"),
            ("EGRESS_INIT_INBOUND", "99999"),
            ("EGRESS_INIT_ON_UNRESOLVED", "skip"),
            ("EGRESS_INIT_ALLOWLIST", "/a::/b"),
        ];
        let InvalidSettings(wrong) = parsed(&options, &variables).unwrap_err();
        let names: Vec<&str> = wrong.iter().map(|setting| setting.name).collect();
        assert_eq!(
            names,
            [
                "--dns",
                "EGRESS_INIT_RESOLVE_TIMEOUT",
                "EGRESS_INIT_INBOUND",
                "EGRESS_INIT_ALLOWLIST",
                "--user",
                "--keep-cap"
            ]
        );
        assert_eq!(
            wrong[0].to_string(),
            "--dns: `prxy` is neither pinned, system nor proxy"
        );
    }

    #[test]
    fn each_job_has_its_dns_mode() {
        let dns = |options: &[&str], job| {
            let words = ["egress-init"].iter().chain(options).chain(&["--", "true"]);
            let cli = Cli::try_parse_from(words).unwrap();
            start(&cli.start, &|_| None, job).map(|config| config.dns)
        };
        let [once, watch] = [false, true].map(|watch| Job::Apply { watch });
        for (options, job, expected) in [
            (&[][..], Job::Run, Some(Dns::Pinned)),
            (&["--supervise"], Job::Run, Some(Dns::Proxy)),
            (
                &["--supervise", "--dns", "pinned"],
                Job::Run,
                Some(Dns::Pinned),
            ),
            (&["--dns", "proxy"], Job::Run, None),
            (&["--dns", "proxy"], Job::Look, Some(Dns::Proxy)),
            (&[], once, Some(Dns::System)),
            (&["--dns", "proxy"], once, None),
            (&[], watch, Some(Dns::Proxy)),
            (&["--dns", "pinned"], watch, None),
        ] {
            assert_eq!(dns(options, job).ok(), expected, "{options:?} {job:?}");
        }
    }

    #[test]
    fn lifetimes_and_limits_are_numbers_within_bounds() {
        let config = parsed(
            &[
                "--supervise",
                "--dns-min-ttl",
                "5s",
                "--dns-wildcard-rate",
                "7",
            ],
            &[
                ("EGRESS_INIT_DNS_GRACE", "1s"),
                ("EGRESS_INIT_DNS_WILDCARD_LENGTH", "63"),
            ],
        )
        .unwrap();
        assert_eq!(config.lifetimes.floor, Duration::from_secs(5));
        assert_eq!(config.lifetimes.grace, Duration::from_secs(1));
        assert_eq!(config.limits.wildcard_rate, 7);
        assert_eq!(config.limits.wildcard_burst, 35);
        assert_eq!(config.limits.wildcard_length, 63);
        for option in [
            "--dns-wildcard-rate",
            "--dns-wildcard-length",
            "--dns-grace",
        ] {
            for value in ["0x", "-1", "999999"] {
                let given = ["--supervise", &format!("{option}={value}")];
                assert!(parsed(&given, &[]).is_err(), "{option} {value}");
            }
        }
    }

    #[test]
    fn a_lifetime_is_a_second_at_least() {
        for option in ["--dns-min-ttl", "--dns-grace"] {
            for value in ["0s", "999ms"] {
                let error = parsed(&["--supervise", option, value], &[]).unwrap_err();
                let said = error.to_string();
                assert!(said.contains(option), "{said}");
                assert!(said.contains("is shorter than a second"), "{said}");
            }
            parsed(&["--supervise", option, "1s"], &[]).unwrap();
        }
    }

    #[test]
    fn supervising_is_asked_for_by_option_or_variable() {
        let stays = |options: &[&str], variables: &[(&str, &str)]| {
            parsed(options, variables).unwrap().supervise
        };
        assert_eq!(stays(&[], &[]), None);
        assert_eq!(stays(&[], &[("EGRESS_INIT_SUPERVISE", "0")]), None);
        let default = Options {
            forward_to: ForwardTo::Group,
            kill_after: DEFAULT_KILL_AFTER,
            reload_on_hangup: true,
        };
        assert_eq!(stays(&["--supervise"], &[]), Some(default));
        assert_eq!(stays(&[], &[("EGRESS_INIT_SUPERVISE", "1")]), Some(default));
        let variables = [
            ("EGRESS_INIT_SUPERVISE", "true"),
            ("EGRESS_INIT_FORWARD_TO", "group"),
            ("EGRESS_INIT_KILL_AFTER", "0s"),
        ];
        let all = Options {
            forward_to: ForwardTo::Child,
            kill_after: Duration::ZERO,
            ..default
        };
        assert_eq!(stays(&["--forward-to", "child"], &variables), Some(all));
        // The variables of an image that is run without it.
        assert_eq!(stays(&[], &variables[1..]), None);
    }

    #[test]
    fn what_needs_supervising_says_so() {
        for (options, variables, name) in [
            (&["--kill-after", "1s"][..], &[][..], "--kill-after"),
            (&["--forward-to", "child"], &[], "--forward-to"),
            (
                &[],
                &[("EGRESS_INIT_SUPERVISE", "maybe")],
                "EGRESS_INIT_SUPERVISE",
            ),
            (&["--supervise", "--kill-after", "2h"], &[], "--kill-after"),
        ] {
            let InvalidSettings(wrong) = parsed(options, variables).unwrap_err();
            assert_eq!(wrong.first().map(|setting| setting.name), Some(name));
        }
    }

    #[test]
    fn misspelt_variables_are_found() {
        let names = ["PATH", "EGRESS_INIT_ALLOWLST", "EGRESS_INIT_ALLOW"];
        let unknown = unknown_variables(names.into_iter().map(OsString::from));
        assert_eq!(unknown, ["EGRESS_INIT_ALLOWLST"]);
    }

    #[test]
    fn every_variable_that_the_help_names_is_known() {
        use clap::CommandFactory;
        let help = Cli::command().render_long_help().to_string();
        let named: Vec<&str> = help
            .split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
            .filter(|word| word.starts_with("EGRESS_INIT_"))
            .collect();
        assert!(
            named.iter().all(|name| VARIABLES.contains(name)),
            "{named:?}"
        );
        assert!(
            VARIABLES.iter().all(|name| named.contains(name)),
            "{named:?}"
        );
    }

    #[test]
    fn a_level_is_a_level() {
        assert!(log::parse_filter("debug").is_ok());
        assert!(log::parse_filter("egress_init=trace,hickory_net=debug").is_ok());
        assert!(log::parse_filter("loud").is_err());
        assert!(log::parse_filter("off").is_err());
    }

    #[test]
    fn no_filter_silences_errors() {
        let targets = log::parse_filter("hickory_net=trace").unwrap();
        assert!(targets.would_enable("egress_init", &tracing::Level::ERROR));
    }
}
