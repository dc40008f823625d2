//! One option after the other, else its variable: what each means, and what is wrong with it.

use super::{
    BURST, Dns, Environment, InvalidSettings, Job, LONGEST_TIME, List, Lists, RunConfig, Setting,
    given,
};
use crate::{
    accounts::AccountError,
    allowlist::{Source, SourceKind},
    cli::{ProxyArgs, RunArgs, StartArgs, SuperviseArgs},
    policy::Lifetimes,
    privileges::PrivilegeError,
    proxy::Limits,
    socket_filter::SocketFilterError,
    state_dir::StateDir,
    supervise::{DEFAULT_KILL_AFTER, Options},
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    str::FromStr,
    time::Duration,
};

pub(super) struct Reader<'a> {
    pub environment: Environment<'a>,
    pub wrong: Vec<Setting>,
}

impl Reader<'_> {
    /// A variable that is set to something.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// An option of one value, else its variable.
    pub fn one<T>(
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
    pub fn many<T>(
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
    pub fn lists(&mut self, args: &StartArgs) -> Lists {
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

    pub fn dns(&mut self, args: &StartArgs, job: Job, supervise: bool) -> Dns {
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

    pub fn proxy(&mut self, args: &ProxyArgs) -> (Lifetimes, Limits) {
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

    pub fn supervise(&mut self, args: &SuperviseArgs) -> Option<Options> {
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

    pub fn run(&mut self, args: &RunArgs, state_dir_variables: &[&'static str]) -> RunConfig {
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

    pub fn finish<T>(self, value: T) -> Result<T, InvalidSettings> {
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

pub(super) fn parse<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|problem| format!("`{text}` {problem}"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
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

pub(super) fn with_remedy(error: &dyn std::error::Error, remedy: Option<String>) -> String {
    match remedy {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}
