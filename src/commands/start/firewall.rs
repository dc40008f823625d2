//! What is in the kernel, from the lock to the policy: each step in one transaction, and the lock again
//! after a failure.

use super::{LISTEN, Prepared};
use crate::{
    config::{Dns, StartConfig},
    error::Error,
    inputs::Questions,
    keeper::Terms,
    nft::{self, NftError, Nftables},
    policy::{Change, Decision, Ledger, Nameservers, Policy},
    privileges::Keeper,
    resolve::nameservers::Upstreams,
    ruleset::{self, Ruleset, SocketOwner},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};
use tracing::{debug, warn};

/// Whom the resolver's sockets are of.
pub(super) fn resolver(gid: Option<u32>) -> SocketOwner {
    SocketOwner {
        uid: nix::unistd::geteuid().as_raw(),
        gid: Some(gid.unwrap_or_else(|| nix::unistd::getegid().as_raw())),
    }
}

/// A server on loopback, which may forward from inside this namespace.
pub(super) fn forwarder(upstreams: &Upstreams) -> Option<IpAddr> {
    let mut servers = upstreams.servers.iter().map(SocketAddr::ip);
    servers.find(IpAddr::is_loopback)
}

/// All of them, but for those that would be the resolver itself.
pub(super) fn local(upstreams: &Upstreams) -> Vec<SocketAddr> {
    let servers = upstreams.servers.iter().copied();
    servers
        .filter(|server| server.ip().is_loopback() && !LISTEN.contains(server))
        .collect()
}

/// The firewall and what it is at the moment.
pub(super) struct Firewall {
    pub kernel: Nftables,
    pub current: Table,
    /// Whether the sets of names may hold more: what another keeper of this list let in.
    continues: bool,
    pub nameservers: Nameservers,
}

/// What is in the kernel.
pub(super) enum Table {
    /// What this start put there.
    Ours(Ruleset),
    /// What a keeper left that is gone, with this mark: default-deny, and as good as a lock.
    Adopted(u32),
}

impl Table {
    /// What this start put in place last.
    pub fn ours(&self) -> Result<&Ruleset, Error> {
        match self {
            Self::Ours(table) => Ok(table),
            Self::Adopted(_) => {
                Err(NftError::Different("the table of an earlier start".to_owned()).into())
            }
        }
    }
}

impl Firewall {
    /// Default-deny before anything else is even read (I1).
    pub fn lock() -> Result<Self, Error> {
        let mut kernel = Nftables::open()?;
        let current = ruleset::locked(None);
        kernel.replace(&current)?;
        debug!("the network is locked");
        Ok(Self::of(kernel, Table::Ours(current)))
    }

    /// The table that another keeper left in force, so that nothing of it is shut while this one
    /// starts. Default-deny is in place then (I1), and stays whatever becomes of this start.
    pub fn adopt() -> Result<Option<Self>, Error> {
        let Some((kernel, mark, gid)) = Self::left_by_another()? else {
            return Ok(None);
        };
        if let Some(gid) = gid {
            // As its rules know the resolver.
            Keeper::take_group(gid)?;
        }
        debug!("taking over the table of a keeper that is gone, mark {mark:#010x}");
        Ok(Some(Self::of(kernel, Table::Adopted(mark))))
    }

    /// Whether there is such a table: its mark, and the group of its resolver.
    pub fn left_by_another() -> Result<Option<(Nftables, u32, Option<u32>)>, Error> {
        let gid = Keeper::own_group(None)?;
        let mut kernel = Nftables::open()?;
        for (unknown, forwarder) in [(false, false), (false, true), (true, true)] {
            let nameservers = Nameservers {
                unknown,
                ..Nameservers::default()
            };
            let shape = ruleset::Proxy {
                nameservers: &nameservers,
                resolver: resolver(gid),
                forwarder,
                local: &[],
                generation: [0; 32],
                names: &[],
                past: &[],
            };
            let shape = ruleset::enforced(&Policy::default(), ruleset::Dns::Proxy(&shape));
            if let nft::Found::Alike { mark } = kernel.adopt(&shape)? {
                return Ok(Some((kernel, mark, gid)));
            }
        }
        Ok(None)
    }

    fn of(kernel: Nftables, current: Table) -> Self {
        Self {
            kernel,
            current,
            continues: false,
            nameservers: Nameservers::default(),
        }
    }

    /// Lets this process, and a resolver that forwards for it as uid 0, reach the nameservers,
    /// if there is anything to ask them, now or later.
    pub fn open_dns<T>(
        &mut self,
        questions: &Questions,
        config: &StartConfig,
        prepared: &Prepared<T>,
    ) -> Result<(), Error> {
        if config.dns == Dns::Pinned && questions.names.is_empty() {
            return Ok(());
        }
        self.nameservers = questions.upstreams.nameservers();
        match config.dns {
            Dns::Pinned => {}
            Dns::System => {
                let uid = prepared.command.as_ref().map(|command| command.uid);
                warn_of_open_dns(&self.nameservers, uid)?;
            }
            Dns::Proxy => check_apart(&questions.upstreams, &self.nameservers, prepared)?,
        }
        if matches!(self.current, Table::Adopted(_)) {
            // Its rules have the resolver's way out.
            return Ok(());
        }
        let mut owners = [nix::unistd::geteuid().as_raw(), 0]
            .map(SocketOwner::user)
            .to_vec();
        owners.dedup();
        self.change_to(ruleset::locked(Some((&self.nameservers, &owners))))
    }

    pub fn enforce(&mut self, config: &StartConfig, decision: &Decision) -> Result<(), Error> {
        let dns = if config.dns == Dns::System {
            ruleset::Dns::Servers(&self.nameservers)
        } else {
            ruleset::Dns::Closed
        };
        self.change_to(ruleset::enforced(&decision.policy, dns))
    }

    /// Mode `proxy`: the table for what the ledger says.
    ///
    /// A table that was left by a keeper of the same list is good as it is, its flows and its
    /// addresses, and the answers of this start come to them. Any other is replaced, by one
    /// transaction too, and everything is judged anew.
    pub fn resolve_by(&mut self, terms: &Terms, ledger: &Ledger) -> Result<(), Error> {
        let next = terms.table(ledger);
        if let Table::Adopted(mark) = self.current
            && next.mark() == Some(mark)
        {
            let names = ledger.names(Instant::now()).into_iter();
            let changes: Vec<Change> = names
                .map(|timed| Change::Admit(timed.element, timed.life))
                .collect();
            let updated = self.kernel.update(&changes);
            if updated
                .and_then(|()| self.kernel.verify_at_least(&next))
                .is_ok()
            {
                self.current = Table::Ours(next);
                self.continues = true;
                return Ok(());
            }
        }
        self.change_to(next)
    }

    pub fn verify(&mut self) -> Result<(), Error> {
        let table = self.current.ours()?;
        let verified = if self.continues {
            self.kernel.verify_at_least(table)
        } else {
            self.kernel.verify(table)
        };
        Ok(verified?)
    }

    fn change_to(&mut self, next: Ruleset) -> Result<(), Error> {
        let changed = match &self.current {
            Table::Ours(current) => self.kernel.transition(current, &next),
            Table::Adopted(_) => self.kernel.replace(&next),
        };
        // A transaction whose acknowledgement was lost may be done all the same, and what is not
        // known to be locked has to be sealed (I5).
        if matches!(changed, Ok(()) | Err(NftError::Acknowledge(_))) {
            self.current = Table::Ours(next);
        }
        Ok(changed?)
    }

    /// Whether what is in force is not to stay after a failure: the lock is, and the table that
    /// another keeper of this list left, with what this start added to it.
    pub fn is_to_be_sealed(&self) -> bool {
        let Table::Ours(current) = &self.current else {
            return false;
        };
        !self.continues && *current != ruleset::locked(None)
    }

    /// After a failure: the lock, with nothing open.
    pub fn seal(&mut self) {
        if let Err(error) = self.kernel.replace(&ruleset::locked(None)) {
            warn!(
                "could not close the lock's way to the nameservers: {}",
                Error::from(error).report()
            );
        }
    }
}

/// In mode `proxy` the resolver's queries leave and the command's do not, so they have to be told
/// apart by the socket's owner.
fn check_apart<T>(
    upstreams: &Upstreams,
    nameservers: &Nameservers,
    prepared: &Prepared<T>,
) -> Result<(), Error> {
    let own = resolver(prepared.resolver_gid);
    let forwarder =
        forwarder(upstreams).filter(|_| !nameservers.servers.is_empty() || nameservers.unknown);
    let Some(command) = &prepared.command else {
        if prepared.resolver_gid.is_none() {
            warn!(
                "dns proxy: whatever runs as uid {} and gid {} in this network namespace can query the nameservers itself; run with --cap-add=SETGID, which gives the resolver a group of its own",
                own.uid,
                nix::unistd::getegid()
            );
        }
        return Ok(());
    };
    if (command.uid, Some(command.gid)) == (own.uid, own.gid) {
        return Err(Error::SharesResolver {
            uid: command.uid,
            gid: command.gid,
        });
    }
    match forwarder {
        Some(server) if (command.uid, command.gid) == (0, 0) => Err(Error::SharesForwarder(server)),
        _ => Ok(()),
    }
}

/// Mode `system` leaves a way out (section 7): it is said, and refused where uid 0 would have all
/// of it.
fn warn_of_open_dns(nameservers: &Nameservers, command: Option<u32>) -> Result<(), Error> {
    if nameservers.unknown && command == Some(0) {
        return Err(Error::RootWithOpenDns);
    }
    if nameservers.unknown {
        warn!(
            "dns system: port 53 of any server stays open to uid 0, because it is not known where the resolver on loopback forwards to; name the servers with --dns-upstream"
        );
    }
    warn!(
        "dns system: queries to the nameservers can carry data out (a DNS tunnel); --dns pinned closes that"
    );
    Ok(())
}
