//! What the command may do: a plan as data, the way down to it, and the proof (I4).
//!
//! Everything here acts on the calling thread alone. The way has two parts, because the sentinel
//! is published as root between them: `confine` leaves only what changing user takes,
//! `drop_all` does the rest and reads the result back from the kernel. Each of the five capability
//! sets ends up with the kept capabilities and nothing else. Securebits are left alone: they
//! change how capabilities pass between sets, and a set that is empty has nothing to pass.

mod capability;
mod error;
mod keeper;
mod status;

pub use capability::{KeptCapability, names};
pub use error::PrivilegeError;
pub use keeper::Keeper;
pub use status::{Status, StatusError};

use crate::accounts::Identity;
use crate::file;
use crate::socket_filter::{Family, SocketFilter};
use crate::sys::process;
use caps::{CapSet, Capability, CapsHashSet};

/// Whose user id is saved beside the command's (credentials(7)), until exec saves the effective one:
/// execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The command's too: there is no way back.
    Command,
    /// That of before: what [`come_back`] takes on where exec fails.
    Former,
}

/// What the command starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// `--user`; without it the command stays who started egress-init.
    pub identity: Option<Identity>,
    /// `--keep-cap`.
    pub keep_caps: Vec<KeptCapability>,
    /// Off with `--allow-new-privs`.
    pub no_new_privs: bool,
    /// Families that sockets may have: `Family::DEFAULT` and `--allow-socket-family`.
    pub socket_families: Vec<Family>,
}

impl Privileges {
    /// Whether this process has what the plan takes, without changing anything: to be asked
    /// early, so that a start that cannot end well ends at once (I5).
    pub fn check_attainable(&self) -> Result<(), PrivilegeError> {
        self.check_attainable_from(&Status::read()?, setgroups_denied())
    }

    fn check_attainable_from(
        &self,
        status: &Status,
        setgroups_denied: bool,
    ) -> Result<(), PrivilegeError> {
        check_permitted(&self.takes(status), status)?;
        let groups_change = self
            .identity
            .as_ref()
            .is_some_and(|wanted| wanted.groups != status.groups);
        if groups_change && setgroups_denied {
            return Err(PrivilegeError::SetgroupsDenied);
        }
        Ok(())
    }

    /// The capabilities that the way from `status` to the plan takes, each with its step. What is
    /// already as planned takes none.
    fn takes(&self, status: &Status) -> Vec<(Capability, &'static str)> {
        let mut takes = Vec::new();
        if status.bounding & !self.kept_mask() != 0 {
            takes.push((Capability::CAP_SETPCAP, "to empty the bounding set"));
        }
        if let Some(wanted) = &self.identity {
            if wanted.groups != status.groups || [wanted.gid; 4] != status.gid {
                takes.push((Capability::CAP_SETGID, "to set the groups of --user"));
            }
            if [wanted.uid; 4] != status.uid {
                takes.push((Capability::CAP_SETUID, "to become --user"));
            }
        }
        if !self.no_new_privs && !status.no_new_privs {
            takes.push((
                Capability::CAP_SYS_ADMIN,
                "to install the socket filter with --allow-new-privs",
            ));
        }
        for KeptCapability(capability) in &self.keep_caps {
            takes.push((*capability, "to be kept by --keep-cap"));
        }
        takes
    }

    /// Leaves the calling thread, and what it starts, only what `drop_all` takes, and of `beside`
    /// what is there: a process that stays above the command takes steps of its own. Returns what
    /// the thread was before.
    pub fn confine(&self, beside: &CapsHashSet) -> Result<Status, PrivilegeError> {
        let status = Status::read()?;
        self.check_attainable_from(&status, setgroups_denied())?;
        // What a root without effective capabilities may still raise.
        set_capabilities(status.permitted, status.permitted, status.inheritable)?;
        let kept = self.kept_mask();
        reduce_bounding(status.bounding, kept)?;
        let takes = self.takes(&status).into_iter();
        let takes = takes
            .map(|(capability, _)| capability)
            .filter(|capability| *capability != Capability::CAP_SETPCAP || self.keeps(*capability));
        let remaining = mask(takes) | mask(beside.iter().copied()) & status.permitted;
        set_ambient(&CapsHashSet::new())?;
        set_capabilities(remaining, remaining, kept)?;
        Ok(status)
    }

    /// After `confine`, which says what the thread was `before`: groups, gid, uid, the rest of the
    /// capabilities, `no_new_privs`, the socket filter, and then the look at what the kernel made
    /// of it.
    pub fn drop_all(&self, saved: Saved, before: &Status) -> Result<Status, PrivilegeError> {
        let saved = match (&self.identity, saved) {
            (Some(wanted), Saved::Command) => wanted.uid,
            (Some(_), Saved::Former) => before.uid[1],
            (None, _) => before.uid[2],
        };
        let filter = SocketFilter::compile(&self.socket_families)?;
        if !self.no_new_privs {
            // Without no_new_privs the filter takes a capability, so it goes on while there is one.
            filter.install()?;
        }
        if let Some(identity) = &self.identity {
            self.become_identity(identity, saved, before)?;
        }
        self.reduce_capabilities()?;
        if self.no_new_privs {
            nix::sys::prctl::set_no_new_privs().map_err(|errno| PrivilegeError::Prctl {
                what: "PR_SET_NO_NEW_PRIVS",
                source: errno.into(),
            })?;
            filter.install()?;
        }
        let status = Status::read()?;
        self.verify(saved, &status)?;
        Ok(status)
    }

    fn become_identity(
        &self,
        wanted: &Identity,
        saved: u32,
        status: &Status,
    ) -> Result<(), PrivilegeError> {
        if [wanted.uid; 4] != status.uid && !self.keep_caps.is_empty() {
            // Else the kernel empties the permitted set when uid 0 is left behind. Exec ends it.
            nix::sys::prctl::set_keepcaps(true).map_err(|errno| PrivilegeError::Prctl {
                what: "PR_SET_KEEPCAPS",
                source: errno.into(),
            })?;
        }
        change_ids(wanted, saved, status)
    }

    fn reduce_capabilities(&self) -> Result<(), PrivilegeError> {
        let kept = self.kept_mask();
        set_capabilities(kept, kept, kept)?;
        set_ambient(&self.keep_caps.iter().map(|kept| kept.0).collect())
    }

    fn verify(&self, saved: u32, status: &Status) -> Result<(), PrivilegeError> {
        expect_sets(status, [self.kept_mask(); 5])?;
        if let Some(wanted) = &self.identity {
            let uids = [wanted.uid, wanted.uid, saved, wanted.uid];
            expect("Uid", list(&status.uid), list(&uids))?;
            expect("Gid", list(&status.gid), list(&[wanted.gid; 4]))?;
            expect("Groups", list(&status.groups), list(&wanted.groups))?;
        }
        if self.no_new_privs {
            expect(
                "NoNewPrivs",
                status.no_new_privs.to_string(),
                true.to_string(),
            )?;
        }
        expect(
            "Seccomp",
            status.seccomp.to_string(),
            libc::SECCOMP_MODE_FILTER.to_string(),
        )
    }

    fn kept_mask(&self) -> u64 {
        mask(self.keep_caps.iter().map(|kept| kept.0))
    }

    /// Whether the command keeps this one.
    pub(crate) fn keeps(&self, capability: Capability) -> bool {
        self.keep_caps.contains(&KeptCapability(capability))
    }
}

/// Gives the calling thread the ids of `identity`, for work that is to be done with its rights and
/// no others; there is no way back.
pub(crate) fn take_on(identity: &Identity) -> Result<(), PrivilegeError> {
    change_ids(identity, identity.uid, &Status::read()?)
}

/// Takes on the user id that is saved, if it is `former`: without its capabilities, which are gone.
pub(crate) fn come_back(former: u32) -> Result<(), PrivilegeError> {
    process::set_uids(process::UNCHANGED, former, process::UNCHANGED).map_err(|source| {
        PrivilegeError::Id {
            what: "user",
            id: former.to_string(),
            source,
        }
    })
}

fn change_ids(wanted: &Identity, saved: u32, status: &Status) -> Result<(), PrivilegeError> {
    let failed = |what, id: String| move |source| PrivilegeError::Id { what, id, source };
    if wanted.groups != status.groups {
        process::set_groups(&wanted.groups).map_err(failed("groups", list(&wanted.groups)))?;
    }
    if [wanted.gid; 4] != status.gid {
        process::set_gid(wanted.gid).map_err(failed("group", wanted.gid.to_string()))?;
    }
    if [wanted.uid, wanted.uid, saved, wanted.uid] != status.uid {
        process::set_uids(wanted.uid, wanted.uid, saved)
            .map_err(failed("user", wanted.uid.to_string()))?;
    }
    Ok(())
}

/// Whether the user namespace forbids to change the groups: setgroups(2), `user_namespaces(7)`.
fn setgroups_denied() -> bool {
    file::of_proc("/proc/thread-self/setgroups").is_ok_and(|text| text.trim_end() == "deny")
}

/// Each of these is permitted, or which one is missing and for what.
fn check_permitted(
    takes: &[(Capability, &'static str)],
    status: &Status,
) -> Result<(), PrivilegeError> {
    let missing = takes
        .iter()
        .find(|(capability, _)| status.permitted & capability.bitmask() == 0);
    missing.map_or(Ok(()), |(capability, purpose)| {
        Err(PrivilegeError::Missing {
            capability: *capability,
            purpose,
            started_as: status.uid[1],
        })
    })
}

/// Takes from the bounding set what `kept` has not. By number, not by name: a kernel newer than this
/// program may have more of them.
fn reduce_bounding(bounding: u64, kept: u64) -> Result<(), PrivilegeError> {
    for number in (0..64).filter(|number| bounding & !kept & (1 << number) != 0) {
        process::bounding_drop(number)
            .map_err(|source| PrivilegeError::Bounding { number, source })?;
    }
    Ok(())
}

/// Each of the five capability sets, inheritable, permitted, effective, bounding and ambient, is as
/// planned.
fn expect_sets(status: &Status, expected: [u64; 5]) -> Result<(), PrivilegeError> {
    let found = [
        ("CapInh", status.inheritable),
        ("CapPrm", status.permitted),
        ("CapEff", status.effective),
        ("CapBnd", status.bounding),
        ("CapAmb", status.ambient),
    ];
    for ((field, found), expected) in found.into_iter().zip(expected) {
        expect(field, format!("{found:016x}"), format!("{expected:016x}"))?;
    }
    Ok(())
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn expect(field: &'static str, found: String, expected: String) -> Result<(), PrivilegeError> {
    if found == expected {
        return Ok(());
    }
    Err(PrivilegeError::Differs {
        field,
        found,
        expected,
    })
}

fn set_capabilities(
    effective: u64,
    permitted: u64,
    inheritable: u64,
) -> Result<(), PrivilegeError> {
    process::set_capabilities(effective, permitted, inheritable)
        .map_err(PrivilegeError::Capabilities)
}

fn set_ambient(value: &CapsHashSet) -> Result<(), PrivilegeError> {
    let done = if value.is_empty() {
        // One call for all, instead of one for each and one to learn whether there is another.
        caps::clear(None, CapSet::Ambient)
    } else {
        caps::set(None, CapSet::Ambient, value)
    };
    done.map_err(PrivilegeError::Ambient)
}

/// Bit n for capability n.
fn mask(capabilities: impl IntoIterator<Item = Capability>) -> u64 {
    let capabilities = capabilities.into_iter();
    capabilities.fold(0, |set, capability| set | capability.bitmask())
}

#[cfg(test)]
mod tests;
