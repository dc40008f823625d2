//! Gathers the facts, thinly: it looks and judges nothing, and has no effect on anything.

use super::{
    facts::{Facts, LiveFacts, Look, StartFacts},
    walls,
};
use crate::{
    accounts::Identity,
    canary,
    check::NotReady,
    config::{Dns, StartConfig},
    error::Error,
    host_network::{self, HostNetwork},
    nft::Nftables,
    policy::{self, Nameservers, Policy},
    privileges::{Keeper, Privileges, Status},
    resolve::{
        hosts::HOSTS,
        nameservers::{ResolvConf, Upstreams},
    },
    ruleset::{self, SocketOwner},
    sentinel::{self, Place},
    state_dir::{self, StateDir, StateDirError},
};
use caps::Capability;
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};
use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a nameserver may take; all are asked at the same time.
const DNS_PATIENCE: Duration = Duration::from_secs(2);

/// What is asked about.
pub struct Subject {
    /// As a start would have it.
    pub config: StartConfig,
    /// Where the sentinel is, if there is one.
    pub sentinel: PathBuf,
    /// `--allow-host-network`.
    pub allow_host_network: bool,
}

/// Looks at everything that counts in this situation. Within a tokio runtime.
pub fn gather(
    subject: &Subject,
    privileges: Result<Privileges, Error>,
    names: impl FnOnce() -> Result<usize, Error>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Facts {
    let run = &subject.config.run;
    let own = Status::read().ok();
    let kept = run
        .keep_caps
        .iter()
        .fold(0, |mask, kept| mask | kept.mask());
    let is_after = fs::symlink_metadata(&subject.sentinel).is_ok();
    // After a start this process is one of the command's equals, or meant to be.
    let identity = match &privileges {
        Ok(Privileges {
            identity: Some(identity),
            ..
        }) if !is_after => Some(identity.clone()),
        Err(_) if !is_after => None,
        _ => Identity::current().ok(),
    };
    let state_dir = run.state_dir.as_ref();
    let state_dir =
        state_dir.map(|state| (state.path.clone(), look_at_state(state, identity.as_ref())));
    let (start, live) = if is_after {
        (None, Some(live(&subject.sentinel, kept)))
    } else {
        let network = if subject.allow_host_network {
            Ok(())
        } else {
            host_network::check().map(drop)
        };
        let look = Start {
            subject,
            own: own.as_ref(),
            identity: identity.as_ref(),
            kept,
        };
        let start = look.facts(privileges, names(), network);
        (Some(start), None)
    };
    Facts {
        own,
        start,
        live,
        around: walls::around(state_dir, variables),
    }
}

/// Looks at what a start needs.
struct Start<'a> {
    subject: &'a Subject,
    own: Option<&'a Status>,
    identity: Option<&'a Identity>,
    kept: u64,
}

impl Start<'_> {
    /// What the command is left with, and what stays above it.
    fn attainable(&self, command: &Privileges) -> Result<(), Error> {
        command.check_attainable()?;
        let config = &self.subject.config;
        if config.supervise.is_some() {
            let capabilities: &[_] = if config.dns == Dns::Proxy {
                &[Capability::CAP_NET_ADMIN]
            } else {
                &[]
            };
            let gid = Keeper::own_group(self.identity)?;
            Keeper::above(command, capabilities, gid)?.check_attainable()?;
        }
        Ok(())
    }

    fn facts(
        &self,
        privileges: Result<Privileges, Error>,
        names: Result<usize, Error>,
        network: Result<(), HostNetwork>,
    ) -> StartFacts {
        let config = &self.subject.config;
        let run = &config.run;
        let fixes = run.state_dir.as_ref().is_some_and(|state| state.fix);
        let chown = if fixes {
            Capability::CAP_CHOWN.bitmask()
        } else {
            0
        };
        let nobody = || "--user names nobody".to_owned();
        let name = run.user.as_ref().map(ToString::to_string);
        let no_names = names.as_ref().is_ok_and(|names| *names == 0);
        StartFacts {
            kernel: kernel(network.is_ok(), self.own, config.dns),
            network: Look::of(network),
            drop: match &privileges {
                Ok(privileges) => Look::of(self.attainable(privileges)),
                Err(_) => Look::Hidden(nobody()),
            },
            kept: self.kept | chown,
            user: Look::of(privileges.map(|privileges| name.zip(privileges.identity))),
            list: Look::of(names),
            nameservers: if no_names {
                Look::Hidden("no name is to be resolved".into())
            } else {
                nameservers(&config.upstreams)
            },
            hosts: if no_names {
                Look::Hidden("no name is to be pinned".into())
            } else {
                hosts(config.dns)
            },
            folder: match self.identity {
                Some(identity) => folder(&self.subject.sentinel, identity),
                None => Look::Hidden(nobody()),
            },
        }
    }
}

/// The rules are tried, and not installed. Not in the host's network, where not even that is to be
/// done, and not without the capability, because the kernel asks for that first.
fn kernel(is_own: bool, own: Option<&Status>, dns: Dns) -> Look<()> {
    if !is_own {
        return Look::Hidden("not tried in a network that is not the container's".into());
    }
    if own.is_none_or(|own| own.effective & Capability::CAP_NET_ADMIN.bitmask() == 0) {
        return Look::Hidden("the kernel can be asked with NET_ADMIN only".into());
    }
    let tried = Nftables::open().and_then(|mut kernel| {
        kernel.try_out(&ruleset::locked(None))?;
        let nameservers = Nameservers {
            servers: [
                (Ipv4Addr::LOCALHOST, 53).into(),
                (Ipv6Addr::LOCALHOST, 53).into(),
            ]
            .into(),
            unknown: false,
        };
        kernel.try_out(&ruleset::locked(Some((
            &nameservers,
            &[SocketOwner::user(0)],
        ))))?;
        let enforced = match dns {
            Dns::Pinned => ruleset::Dns::Closed,
            Dns::System => ruleset::Dns::Servers(&nameservers),
            Dns::Proxy => ruleset::Dns::Proxy(&ruleset::Proxy {
                nameservers: &nameservers,
                resolver: SocketOwner::user(0),
                forwarder: true,
                local: &[(Ipv4Addr::LOCALHOST, 5353).into()],
                generation: [0; 32],
                names: &[],
                past: &[],
            }),
        };
        kernel.try_out(&ruleset::enforced(&sample(), enforced))
    });
    Look::of(tried)
}

/// Something for each set: networks and hosts, both families.
fn sample() -> Policy {
    let elements = [
        "443/tcp@192.0.2.0/24",
        "80/tcp@192.0.2.7",
        "1-9/udp@2001:db8::/32",
        "80/tcp@2001:db8::7",
    ];
    let elements = elements.iter().flat_map(|text| policy::parse_inbound(text));
    let elements = policy::disjoint(elements.flatten());
    Policy {
        allow: elements.clone(),
        deny: elements.clone(),
        inbound: elements,
    }
}

fn nameservers(overrides: &[SocketAddr]) -> Look<Vec<(SocketAddr, Result<(), String>)>> {
    let conf = match ResolvConf::read(Path::new(RESOLV_CONF)) {
        Ok(conf) => conf,
        Err(error) => return Look::of(Err(error)),
    };
    let servers = Upstreams::new(conf, overrides).servers;
    let answers = thread::scope(|scope| {
        let asked: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| ask(*server)))
            .collect();
        let answers = asked.into_iter().map(|asked| match asked.join() {
            Ok(answer) => answer.map_err(|error| describe(&error)),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        servers.iter().copied().zip(answers).collect()
    });
    Look::Seen(answers)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("silent for {}", humantime::format_duration(DNS_PATIENCE))
        }
        _ => error.to_string(),
    }
}

/// Any response to a query for the root's name servers: even a refusal is a sign of life.
fn ask(server: SocketAddr) -> io::Result<()> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    let id = std::process::id().to_ne_bytes();
    // RFC 1035, section 4: id, recursion desired, one question: the root, NS, IN.
    let query = [id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    socket.send(&query)?;
    let until = Instant::now() + DNS_PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        if length >= 12 && answer[..2] == id[..2] && answer[2] & 0x80 != 0 {
            return Ok(());
        }
    }
}

fn hosts(dns: Dns) -> Look<()> {
    if dns != Dns::Pinned {
        return Look::Hidden(format!("dns {dns} does not write /etc/hosts"));
    }
    match OpenOptions::new().append(true).open(HOSTS) {
        Ok(_) => Look::Seen(()),
        Err(error) => Look::wrong(
            format!("/etc/hosts cannot be written: {error}"),
            "start as root; with --read-only mount a file of the container's own over /etc/hosts, or have the addresses in it (--add-host, extra_hosts); or --supervise, whose resolver needs no such file; or choose --dns system, which leaves a tunnel",
        ),
    }
}

fn folder(sentinel: &Path, command: &Identity) -> Look<PathBuf> {
    let Ok(path) = std::path::absolute(sentinel) else {
        return Look::Hidden("the working directory is gone".into());
    };
    let folder = path.parent().unwrap_or(&path);
    let Some(existing) = folder.ancestors().find(|folder| folder.exists()) else {
        return Look::Hidden("the root directory cannot be looked at".into());
    };
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    if let Err(errno) = faccessat(AT_FDCWD, existing, access, AtFlags::AT_EACCESS) {
        return Look::wrong(
            format!("{} cannot be written: {}", existing.display(), errno.desc()),
            format!(
                "start as root; on a read-only file system mount a tmpfs: --tmpfs {}:mode=0755",
                folder.display()
            ),
        );
    }
    // Makes what is missing, so it is asked only where nothing is.
    if existing == folder {
        return Look::of(Place::prepare(&path, command).map(|_| folder.to_owned()));
    }
    Look::Seen(folder.to_owned())
}

fn live(sentinel: &Path, kept: u64) -> LiveFacts {
    let ipv6 = canary::answers_over_ipv6(canary::DEADLINE);
    LiveFacts {
        sentinel: Look::of(sentinel::verify(sentinel).map_err(NotReady::from)),
        canary: Look::of(canary::probe(canary::DEADLINE).map_err(NotReady::from)),
        ipv6: Look::of(ipv6.map_err(NotReady::from)),
        kept,
    }
}

fn look_at_state(state: &StateDir, identity: Option<&Identity>) -> Look<()> {
    let Some(identity) = identity else {
        return Look::Hidden("--user names nobody".into());
    };
    let state = StateDir {
        fix: false,
        ..state.clone()
    };
    match state_dir::prepare(&state, identity) {
        Err(StateDirError::Identity(_)) => Look::Hidden(format!(
            "{} cannot be looked at with the rights of --user",
            state.path.display()
        )),
        result => Look::of(result),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_nameserver_that_answers_anything_answers() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let answering = thread::spawn(move || {
            let mut query = [0; 512];
            let (length, from) = server.recv_from(&mut query).unwrap();
            assert_eq!(length, 17);
            // Another's answer first, then a refusal.
            server
                .send_to(&[query[0] ^ 1, 0, 0x80, 5, 0, 0, 0, 0, 0, 0, 0, 0], from)
                .unwrap();
            server
                .send_to(&[query[0], query[1], 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0], from)
                .unwrap();
        });
        ask(address).unwrap();
        answering.join().unwrap();
        // The port is closed now.
        ask(address).unwrap_err();
    }

    #[test]
    fn the_rules_that_are_tried_have_something_in_each_set() {
        let Policy {
            allow,
            deny,
            inbound,
        } = sample();
        assert!(!allow.is_empty() && allow == deny && deny == inbound);
        assert!(allow.iter().any(|element| element.network.addr().is_ipv6()));
        assert!(allow.iter().any(|element| element.network.addr().is_ipv4()));
    }
}
