//! Arguments + environment → configuration: every string gets its meaning, and everything that is
//! wrong with them is reported at once, by the name of the option or of the variable.
//!
//! Pure: the environment comes as a function, files are named here and read elsewhere.

use crate::{
    accounts::UserSpec,
    allowlist::{Source, SourceKind},
    cli::{LogArgs, RunArgs, StartArgs},
    log,
    policy::{self, Element},
    privileges::KeptCapability,
    resolve::nameservers::parse_upstream,
    socket_filter::Family,
};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    net::SocketAddr,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};
use thiserror::Error;
use tracing_subscriber::filter::Targets;

/// The list that is read where none is named.
pub const DEFAULT_ALLOWLIST: &str = "/etc/beacon-code/allowed_domains.txt";
/// The list where none is named and that file does not exist.
pub const FALLBACK_ENTRY: &str = "api.openai.com";
/// The sentinel where none is named.
pub const DEFAULT_SENTINEL: &str = "/etc/beacon-code/firewall.ready";
const DEFAULT_RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A variable that is not empty: `std::env::var_os` in the program.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// How the command resolves names after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dns {
    /// From /etc/hosts alone; port 53 is closed.
    Pinned,
    /// From the configured nameservers, to which port 53 stays open.
    System,
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::System => "system",
        })
    }
}

impl FromStr for Dns {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pinned" => Ok(Self::Pinned),
            "system" => Ok(Self::System),
            _ => Err("is neither pinned nor system"),
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
#[derive(Clone, Debug)]
pub enum Lists {
    /// From what was named, all of it.
    Given(Vec<List>),
    /// From [`DEFAULT_ALLOWLIST`], or from [`FALLBACK_ENTRY`] where that does not exist.
    Default,
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
}

/// How to log.
#[derive(Debug)]
pub struct LogConfig {
    /// Lines or objects.
    pub format: log::Format,
    /// What is let through.
    pub filter: Targets,
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
pub fn sentinel(args: &RunArgs, environment: Environment) -> PathBuf {
    let path = args
        .sentinel
        .clone()
        .or_else(|| environment("EGRESS_INIT_SENTINEL").map(PathBuf::from));
    path.unwrap_or_else(|| DEFAULT_SENTINEL.into())
}

/// The configuration of the entrypoint, `apply` (with `default_dns` system) and `plan`.
pub fn start(
    args: &StartArgs,
    environment: Environment,
    default_dns: Dns,
) -> Result<StartConfig, InvalidSettings> {
    let mut reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    let dns = reader.one(args.dns.as_deref(), "--dns", Some("EGRESS_INIT_DNS"), parse);
    let timeout = reader.one(
        args.resolve_timeout.as_deref(),
        "--resolve-timeout",
        Some("EGRESS_INIT_RESOLVE_TIMEOUT"),
        |text| match humantime::parse_duration(text) {
            Ok(time) if time.is_zero() => Err("must be more than 0".into()),
            Ok(time) => Ok(time),
            Err(error) => Err(format!("is no duration such as 10s or 500ms: {error}")),
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
        |text| policy::parse_inbound(text).map_err(|error| error.to_string()),
    );
    let lists = reader.lists(args);
    let run = reader.run(&args.run);
    reader.finish(StartConfig {
        lists,
        dns: dns.unwrap_or(default_dns),
        upstreams,
        resolve_timeout: timeout.unwrap_or(DEFAULT_RESOLVE_TIMEOUT),
        on_unresolved: on_unresolved.unwrap_or(OnUnresolved::Fail),
        inbound: policy::disjoint(inbound.into_iter().flatten()),
        run,
    })
}

/// The configuration of `check`.
pub fn run(args: &RunArgs, environment: Environment) -> Result<RunConfig, InvalidSettings> {
    let mut reader = Reader {
        environment,
        wrong: Vec::new(),
    };
    let run = reader.run(args);
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
            _ => Err("is neither text nor json".into()),
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
        .or_else(|| reader.one(None, "--log-level", Some("RUST_LOG"), log::parse_filter));
    let filter = filter.unwrap_or_else(log::default_filter);
    reader.finish(LogConfig {
        format: format.unwrap_or_default(),
        filter,
    })
}

/// Variables of this program's prefix that it does not know: a slip of the pen, mostly. Not an
/// error, because Kubernetes makes such names from those of services.
#[must_use]
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    const KNOWN: [&str; 10] = [
        "EGRESS_INIT_ALLOW",
        "EGRESS_INIT_ALLOWLIST",
        "EGRESS_INIT_DNS",
        "EGRESS_INIT_DNS_UPSTREAM",
        "EGRESS_INIT_INBOUND",
        "EGRESS_INIT_LOG",
        "EGRESS_INIT_LOG_FORMAT",
        "EGRESS_INIT_ON_UNRESOLVED",
        "EGRESS_INIT_RESOLVE_TIMEOUT",
        "EGRESS_INIT_SENTINEL",
    ];
    let mut unknown: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("EGRESS_INIT_") && name != "EGRESS_INIT_USER")
        .filter(|name| !KNOWN.contains(&name.as_str()))
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
                Err(problem) => self.wrong.push(Setting {
                    name,
                    problem: quoted(&value, &problem),
                }),
            }
        }
        parsed
    }

    fn lists(&mut self, args: &StartArgs) -> Lists {
        let text = |label: &str, kind, text: &OsStr| {
            List::Text(Source {
                label: label.to_owned(),
                text: text.as_bytes().to_vec(),
                kind,
            })
        };
        let mut lists: Vec<List> = args.allowlist.iter().cloned().map(List::File).collect();
        lists.extend(
            args.allow
                .iter()
                .map(|entry| text("--allow", SourceKind::Entry, entry)),
        );
        if lists.is_empty() {
            if let Some(paths) = self.variable("EGRESS_INIT_ALLOWLIST") {
                lists.extend(self.paths(&paths));
            }
            for name in ["EGRESS_INIT_ALLOW", "OPENAI_ALLOWED_DOMAINS"] {
                if let (true, Some(entries)) = (
                    name == "EGRESS_INIT_ALLOW" || lists.is_empty(),
                    self.variable(name),
                ) {
                    lists.push(text(name, SourceKind::Words, &entries));
                }
            }
        }
        if lists.is_empty() {
            Lists::Default
        } else {
            Lists::Given(lists)
        }
    }

    fn paths(&mut self, value: &OsStr) -> Vec<List> {
        let paths: Vec<&[u8]> = value.as_bytes().split(|&octet| octet == b':').collect();
        if paths.iter().any(|path| path.is_empty()) {
            let problem = quoted(
                &value.to_string_lossy(),
                "has an empty path; write files with `:` between them",
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

    fn run(&mut self, args: &RunArgs) -> RunConfig {
        RunConfig {
            user: self.one(
                args.user.as_deref(),
                "--user",
                Some("EGRESS_INIT_USER"),
                |text| text.parse::<UserSpec>().map_err(|error| error.to_string()),
            ),
            keep_caps: self.many(&args.keep_cap, "--keep-cap", None, |text| {
                text.parse::<KeptCapability>()
                    .map_err(|error| error.to_string())
            }),
            allow_new_privs: args.allow_new_privs,
            socket_families: self.many(
                &args.allow_socket_family,
                "--allow-socket-family",
                None,
                |text| text.parse::<Family>().map_err(|error| error.to_string()),
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

fn parse<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse().map_err(str::to_owned)
}

fn quoted(value: &str, problem: &str) -> String {
    format!("`{value}` {problem}")
}
