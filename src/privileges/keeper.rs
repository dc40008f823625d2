//! What the process above the command keeps: as little as it can do its work with.
//!
//! It stays as long as the command lives, beside whatever the command starts, so it is to be worth
//! nothing to them: they can neither trace nor signal it, and it holds little that could be abused.
//!
//! | capability | why |
//! | --- | --- |
//! | what the caller names | `CAP_NET_ADMIN` where rules are changed later, and nowhere else |
//! | `CAP_KILL` | the command has, or can take, another uid than this process: without it no signal could be passed on, nothing ended that outlives the command, and the kernel would not deliver the parent-death signal either, which it checks against the parent that dies |
//!
//! The bounding, inheritable and ambient sets are empty and `no_new_privs` is on. Port 53 takes no
//! capability: a socket is bound before the step down. The process is not dumpable, so that nobody
//! without `CAP_SYS_PTRACE`, which no command keeps, traces it or opens its memory, environment or
//! files, not even its own uid (ptrace(2), "access mode checking").

use super::{
    PrivilegeError, Privileges, Status, StatusError, check_permitted, expect, expect_sets, list,
    mask, reduce_bounding, set_ambient, set_capabilities,
};
use crate::accounts::Identity;
use crate::file;
use crate::sys::process;
use caps::{Capability, CapsHashSet};
use std::io;

/// Real and saved uid of the process above the command, the first that the user namespace maps.
///
/// A process may signal another whose real or saved uid is one of its own (kill(2)); the effective
/// one does not count. So with a number there that nobody has, root among them cannot signal this
/// process, while it keeps the files and the signals of its effective uid. The first is no account's
/// anywhere, the second is within the 65,536 ids of a usual user namespace.
const UIDS: [u32; 2] = [0x6567_7201, 65_533];
/// Its group where it is told from the command by that, the first that the user namespace maps. The
/// kernel keeps the group with every socket, whoever uses it later, so the rules can let through
/// what the process above opened and nobody else: no command has the group, and taking it takes
/// `CAP_SETGID`.
const GIDS: [u32; 2] = [0x6567_7201, 65_533];

/// What the process above the command keeps, as a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    capabilities: CapsHashSet,
    gid: Option<u32>,
    /// Its real and saved uid, where it can have one of its own.
    uid: Option<u32>,
    /// Whether the command could signal it without that.
    shares_uid: bool,
    /// Whether the command keeps something in the bounding set, which is to be taken there.
    shares_bounding: bool,
}

impl Keeper {
    /// The plan for the calling process above a command with these privileges: it keeps
    /// `capabilities`, and takes the group id `gid` where one is given.
    pub fn above(
        command: &Privileges,
        capabilities: &[Capability],
        gid: Option<u32>,
    ) -> Result<Self, PrivilegeError> {
        let map = id_map("/proc/self/uid_map")?;
        Ok(Self::from(
            command,
            capabilities,
            gid,
            &Status::read()?,
            &map,
        ))
    }

    fn from(
        command: &Privileges,
        capabilities: &[Capability],
        gid: Option<u32>,
        status: &Status,
        uid_map: &str,
    ) -> Self {
        let may = |capability: Capability| status.permitted & capability.bitmask() != 0;
        let own = status.uid[1];
        let uid = command.identity.as_ref().map_or(own, |wanted| wanted.uid);
        let moves = command.keeps(Capability::CAP_SETUID) || !command.no_new_privs;
        let mut capabilities: CapsHashSet = capabilities.iter().copied().collect();
        if uid != own || (moves && may(Capability::CAP_KILL)) {
            capabilities.insert(Capability::CAP_KILL);
        }
        let mapped = UIDS
            .into_iter()
            .find(|id| *id != uid && maps(uid_map, *id))
            .filter(|_| may(Capability::CAP_SETUID));
        Self {
            capabilities,
            gid,
            uid: mapped,
            shares_uid: uid == own,
            shares_bounding: !command.keep_caps.is_empty(),
        }
    }

    /// The plan for a process that has no command below it.
    #[must_use]
    pub fn alone(capabilities: &[Capability], gid: Option<u32>) -> Self {
        Self {
            capabilities: capabilities.iter().copied().collect(),
            gid,
            uid: None,
            shares_uid: false,
            shares_bounding: false,
        }
    }

    /// A group that the command does not have, where the user namespace has one.
    pub fn free_group(command: Option<&Identity>) -> Result<Option<u32>, PrivilegeError> {
        let map = id_map("/proc/self/gid_map")?;
        let has = |gid: u32| {
            command.is_some_and(|command| command.gid == gid || command.groups.contains(&gid))
        };
        Ok(GIDS.into_iter().find(|&gid| maps(&map, gid) && !has(gid)))
    }

    /// The same, where this process can take it.
    pub fn own_group(command: Option<&Identity>) -> Result<Option<u32>, PrivilegeError> {
        let may = Status::read()?.permitted & Capability::CAP_SETGID.bitmask() != 0;
        Ok(Self::free_group(command)?.filter(|_| may))
    }

    /// Takes the group at once, for sockets that are opened before [`Self::step_down`].
    pub fn take_group(gid: u32) -> Result<(), PrivilegeError> {
        process::set_gid(gid).map_err(|source| PrivilegeError::OwnId {
            what: "group",
            id: gid,
            source,
        })
    }

    /// Whether this process has what the plan takes, without changing anything (I5).
    pub fn check_attainable(&self) -> Result<(), PrivilegeError> {
        let status = Status::read()?;
        check_permitted(&self.takes(&status), &status)
    }

    fn takes(&self, status: &Status) -> Vec<(Capability, &'static str)> {
        let purpose = |capability: &Capability| match capability {
            Capability::CAP_KILL => "to pass signals on to a command of another user",
            _ => "to change the rules while the command runs",
        };
        let mut takes: Vec<_> = self
            .capabilities
            .iter()
            .map(|capability| (*capability, purpose(capability)))
            .collect();
        if self.gid.is_some_and(|gid| [gid; 4] != status.gid) {
            takes.push((
                Capability::CAP_SETGID,
                "to give the supervisor a group of its own",
            ));
        }
        if status.bounding != 0 {
            takes.push((Capability::CAP_SETPCAP, "to empty the bounding set"));
        }
        takes
    }

    /// The command runs as this process's own user, and no other uid is to be had here.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        (self.shares_uid && self.uid.is_none()).then_some(
            "the command runs as the supervisor's own user and can signal it; name another user with --user, or run with --cap-add=SETUID",
        )
    }

    /// What [`Privileges::confine`] is to leave for [`Keeper::step_down`].
    pub(crate) fn needs(&self) -> CapsHashSet {
        let mut needs = self.capabilities.clone();
        let steps = [
            (self.uid.is_some(), Capability::CAP_SETUID),
            (self.gid.is_some(), Capability::CAP_SETGID),
            (self.shares_bounding, Capability::CAP_SETPCAP),
        ];
        needs.extend(steps.iter().filter(|(takes, _)| *takes).map(|(_, c)| *c));
        needs
    }

    /// Leaves the calling thread what the plan says, and looks at what the kernel made of it. The
    /// process must have one thread.
    pub fn step_down(&self) -> Result<(), PrivilegeError> {
        let failed = |what, id: u32| move |source| PrivilegeError::OwnId { what, id, source };
        let before = Status::read()?;
        if let Some(gid) = self.gid.filter(|gid| [*gid; 4] != before.gid) {
            process::set_gid(gid).map_err(failed("group", gid))?;
        }
        let own = before.uid[1];
        if let Some(uid) = self.uid {
            // The effective uid stays root's, so the kernel takes no capability away here.
            process::set_uids(uid, own, uid).map_err(failed("user", uid))?;
        }
        reduce_bounding(before.bounding, 0)?;
        set_ambient(&CapsHashSet::new())?;
        let kept = mask(self.capabilities.iter().copied());
        set_capabilities(kept, kept, 0)?;
        let prctl = |what| {
            move |errno: nix::errno::Errno| PrivilegeError::Prctl {
                what,
                source: errno.into(),
            }
        };
        nix::sys::prctl::set_no_new_privs().map_err(prctl("PR_SET_NO_NEW_PRIVS"))?;
        // Last: a change of ids sets it anew.
        nix::sys::prctl::set_dumpable(false).map_err(prctl("PR_SET_DUMPABLE"))?;
        let dumpable = nix::sys::prctl::get_dumpable().map_err(prctl("PR_GET_DUMPABLE"))?;
        expect("PR_GET_DUMPABLE", dumpable.to_string(), false.to_string())?;
        self.verify(&before, &Status::read()?)
    }

    fn verify(&self, before: &Status, status: &Status) -> Result<(), PrivilegeError> {
        let kept = mask(self.capabilities.iter().copied());
        expect_sets(status, [0, kept, kept, 0, 0])?;
        let own = before.uid[1];
        let uids = self.uid.map_or(before.uid, |uid| [uid, own, uid, own]);
        expect("Uid", list(&status.uid), list(&uids))?;
        let gids = self.gid.map_or(before.gid, |gid| [gid; 4]);
        expect("Gid", list(&status.gid), list(&gids))?;
        expect(
            "NoNewPrivs",
            status.no_new_privs.to_string(),
            true.to_string(),
        )
    }
}

/// A map of user namespaces; none in a kernel that has none. Without it the process would share ids
/// with the command that it could have for itself, so that one which cannot be read is an error.
fn id_map(path: &'static str) -> Result<String, PrivilegeError> {
    match file::of_proc(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => Ok(read.map_err(|error| StatusError::IdMap(path, error))?),
    }
}

/// Whether a uid or gid map of a user namespace has an id (`user_namespaces(7)`).
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        id.checked_sub(first).is_some_and(|offset| offset < count)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::socket_filter::Family;

    const ALL: &str = "         0          0 4294967295\n";
    const RANGE: &str = "         0     100000      65536\n";
    const ONE: &str = "         0       1000          1\n";

    fn root() -> Status {
        Status {
            uid: [0; 4],
            gid: [0; 4],
            groups: vec![],
            inheritable: 0,
            permitted: u64::MAX,
            effective: u64::MAX,
            bounding: u64::MAX,
            ambient: 0,
            no_new_privs: false,
            seccomp: 0,
            ignored: 0,
        }
    }

    fn command(uid: Option<u32>) -> Privileges {
        Privileges {
            identity: uid.map(|uid| Identity {
                uid,
                gid: uid,
                groups: vec![],
            }),
            keep_caps: vec![],
            no_new_privs: true,
            socket_families: Family::DEFAULT.to_vec(),
        }
    }

    fn keeper(command: &Privileges, status: &Status, map: &str) -> Keeper {
        Keeper::from(command, &[], None, status, map)
    }

    #[test]
    fn kill_is_kept_for_a_command_of_another_uid() {
        let kill: CapsHashSet = [Capability::CAP_KILL].into();
        let other = keeper(&command(Some(1000)), &root(), ALL);
        assert_eq!(other.capabilities, kill);
        for same in [command(None), command(Some(0))] {
            assert_eq!(keeper(&same, &root(), ALL).capabilities, CapsHashSet::new());
        }
        let moving = Privileges {
            no_new_privs: false,
            ..command(None)
        };
        assert_eq!(keeper(&moving, &root(), ALL).capabilities, kill);
        let weak = Status {
            permitted: 0,
            ..root()
        };
        assert_eq!(keeper(&moving, &weak, ALL).capabilities, CapsHashSet::new());
        let error = check_permitted(&other.takes(&weak), &weak).unwrap_err();
        assert!(
            error.remedy().unwrap().contains("--cap-add=KILL"),
            "{error}"
        );
    }

    #[test]
    fn one_without_a_command_is_told_what_it_lacks() {
        let plan = Keeper::alone(&[Capability::CAP_NET_ADMIN], None);
        let pod = Status {
            permitted: Capability::CAP_NET_ADMIN.bitmask(),
            ..root()
        };
        let error = check_permitted(&plan.takes(&pod), &pod).unwrap_err();
        assert!(
            error.remedy().unwrap().contains("--cap-add=SETPCAP"),
            "{error}"
        );
        let empty = Status { bounding: 0, ..pod };
        check_permitted(&plan.takes(&empty), &empty).unwrap();
    }

    #[test]
    fn its_uid_is_one_that_is_mapped_and_not_the_commands() {
        assert_eq!(keeper(&command(None), &root(), ALL).uid, Some(UIDS[0]));
        assert_eq!(keeper(&command(None), &root(), RANGE).uid, Some(UIDS[1]));
        assert_eq!(
            keeper(&command(Some(UIDS[0])), &root(), ALL).uid,
            Some(UIDS[1])
        );
        let alone = keeper(&command(None), &root(), ONE);
        assert_eq!(alone.uid, None);
        assert!(alone.warning().is_some());
        assert_eq!(keeper(&command(Some(1000)), &root(), ONE).warning(), None);
        let weak = Status {
            permitted: 0,
            ..root()
        };
        assert!(keeper(&command(None), &weak, ALL).warning().is_some());
    }

    #[test]
    fn what_stays_is_what_its_steps_take() {
        let plan = Keeper::from(
            &command(Some(1000)),
            &[Capability::CAP_NET_ADMIN],
            Some(77),
            &root(),
            ALL,
        );
        let expected: CapsHashSet = [
            Capability::CAP_NET_ADMIN,
            Capability::CAP_KILL,
            Capability::CAP_SETUID,
            Capability::CAP_SETGID,
        ]
        .into();
        assert_eq!(plan.needs(), expected);
    }

    #[test]
    fn any_difference_is_an_error() {
        let plan = keeper(&command(Some(1000)), &root(), ALL);
        let kill = Capability::CAP_KILL.bitmask();
        let good = Status {
            uid: [UIDS[0], 0, UIDS[0], 0],
            permitted: kill,
            effective: kill,
            bounding: 0,
            no_new_privs: true,
            ..root()
        };
        plan.verify(&root(), &good).unwrap();
        let saved = [UIDS[0], 0, 0, 0];
        for bad in [
            Status {
                uid: saved,
                ..good.clone()
            },
            Status {
                gid: [0, 0, 5, 0],
                ..good.clone()
            },
            Status {
                permitted: kill | 1 << 12,
                ..good.clone()
            },
            Status {
                bounding: kill,
                ..good.clone()
            },
            Status {
                no_new_privs: false,
                ..good.clone()
            },
        ] {
            plan.verify(&root(), &bad).unwrap_err();
        }
    }

    #[test]
    fn a_map_has_ranges() {
        let map = "0 1000 1\n1 100000 65536\n";
        assert!(maps(map, 0) && maps(map, 1) && maps(map, 65_536));
        assert!(!maps(map, 65_537) && !maps("", 0) && !maps("x y z", 0));
    }
}
