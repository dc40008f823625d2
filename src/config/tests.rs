//! What options and variables mean together.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    cli::Cli,
    supervise::{DEFAULT_KILL_AFTER, ForwardTo},
};
use clap::Parser;
use std::collections::HashMap;

fn parsed(options: &[&str], variables: &[(&str, &str)]) -> Result<StartConfig, InvalidSettings> {
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
