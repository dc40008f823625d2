//! Options and variables: durations, levels, users, ports, capabilities, socket families. What is
//! accepted is within its bounds, what is not is named.

use super::{fields, text};
use egress_init::{
    cli::{LogArgs, ProxyArgs, RunArgs, StartArgs, SuperviseArgs},
    config::{self, Job, List, Lists},
};
use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};
use tracing_core::Level;

const VARIABLES: [&str; 15] = [
    "EGRESS_INIT_RESOLVE_TIMEOUT",
    "EGRESS_INIT_LOG",
    "RUST_LOG",
    "EGRESS_INIT_USER",
    "EGRESS_INIT_DNS_UPSTREAM",
    "EGRESS_INIT_INBOUND",
    "EGRESS_INIT_ALLOW",
    "EGRESS_INIT_ALLOWLIST",
    "EGRESS_INIT_DNS",
    "EGRESS_INIT_CORRELATION_ID",
    "EGRESS_INIT_DNS_GRACE",
    "EGRESS_INIT_DNS_MIN_TTL",
    "EGRESS_INIT_DNS_WILDCARD_RATE",
    "EGRESS_INIT_SUPERVISE",
    "EGRESS_INIT_KILL_AFTER",
];
const JOBS: [Job; 4] = [
    Job::Run,
    Job::Apply { watch: false },
    Job::Apply { watch: true },
    Job::Look,
];
/// NET_ADMIN, NET_RAW, SYS_MODULE, SYS_PTRACE, SYS_ADMIN and BPF by their numbers in
/// include/uapi/linux/capability.h.
const FORBIDDEN: u64 = 1 << 12 | 1 << 13 | 1 << 16 | 1 << 19 | 1 << 21 | 1 << 39;

pub fn run(data: &[u8]) {
    let mut parts = fields(data);
    let values: Vec<&[u8]> = VARIABLES
        .iter()
        .map(|_| parts.next().unwrap_or_default())
        .collect();
    let environment = |name: &str| {
        let index = VARIABLES.iter().position(|known| *known == name)?;
        Some(OsString::from_vec(values[index].to_vec()))
    };
    let mut option = || Some(text(&mut parts)).filter(|text| !text.is_empty());
    let run = RunArgs {
        user: option(),
        keep_cap: option().into_iter().collect(),
        allow_new_privs: false,
        allow_socket_family: option().into_iter().collect(),
        sentinel: None,
        state_dir: option().map(Into::into),
        fix_state_dir: false,
    };
    let log = LogArgs {
        log_format: option(),
        log_level: option(),
    };
    if let Ok(log) = config::logging(&log, &environment) {
        assert!(
            log.filter.would_enable("egress_init", &Level::ERROR),
            "errors are the interface"
        );
    }
    let args = StartArgs {
        allowlist: option().into_iter().map(Into::into).collect(),
        allow: option().into_iter().map(Into::into).collect(),
        dns: option(),
        dns_upstream: option().into_iter().collect(),
        resolve_timeout: option(),
        on_unresolved: option(),
        inbound: option().into_iter().collect(),
        allow_host_network: false,
        proxy: ProxyArgs {
            dns_min_ttl: option(),
            dns_grace: option(),
            dns_wildcard_rate: option(),
            dns_wildcard_length: option(),
        },
        supervise: SuperviseArgs {
            supervise: false,
            forward_to: option(),
            kill_after: option(),
        },
        run,
        log,
    };
    match config::start(&args, &environment, JOBS[data.len() % JOBS.len()]) {
        Err(invalid) => {
            let said = invalid.to_string();
            assert!(
                said.contains("--") || said.contains("EGRESS_INIT_"),
                "{said}"
            );
        }
        Ok(start) => {
            assert!(!start.resolve_timeout.is_zero());
            assert!(start.resolve_timeout <= Duration::from_secs(3600));
            assert!(start.upstreams.iter().all(|server| server.port() != 0));
            let again = egress_init::policy::disjoint(start.inbound.iter().copied());
            assert_eq!(again, start.inbound);
            for kept in &start.run.keep_caps {
                assert_eq!(kept.mask() & FORBIDDEN, 0, "{kept} undoes the firewall");
            }
            if let Some(user) = start.run.user {
                let again = user.to_string().parse();
                assert_eq!(again.ok(), Some(user));
            }
            if let Lists::Given(lists) = start.lists {
                assert!(!lists.is_empty());
                for list in lists {
                    if let List::File(path) = list {
                        assert!(!path.as_os_str().is_empty() || !args.allowlist.is_empty());
                    }
                }
            }
        }
    }
}
