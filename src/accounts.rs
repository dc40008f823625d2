//! `--user USER[:GROUP]`: from what is typed to the ids that the kernel takes.
//!
//! /etc/passwd and /etc/group are read as files (passwd(5), group(5)): a static binary cannot load
//! the C library's name services, and a container has no other accounts anyway.

use std::{fmt, fs, io, str::FromStr};
use thiserror::Error;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// -1 to the kernel: "leave this id as it is".
const NO_ID: u32 = u32::MAX;

/// `USER` or `USER:GROUP` as typed, each a name or a number. Digits are always a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    user: Account,
    group: Option<Account>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Account {
    Number(u32),
    Name(String),
}

/// Who a process is: the ids that setresuid(2), setresgid(2) and setgroups(2) take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The supplementary groups, sorted, the primary one among them, as initgroups(3) sets them.
    pub groups: Vec<u32>,
}

/// Why `--user` does not name an identity.
#[derive(Debug, Error)]
pub enum AccountError {
    /// Nothing where a user or group belongs.
    #[error("`{spec}` names no {what}")]
    Empty {
        /// The text as typed.
        spec: String,
        /// `user` or `group`.
        what: &'static str,
    },
    /// A number that is no id.
    #[error("{number} is not an id; ids go from 0 to 4294967294")]
    OutOfRange {
        /// The number as typed.
        number: String,
    },
    /// A name that its file does not have.
    #[error("there is no {what} `{name}` in {file}")]
    Unknown {
        /// `user` or `group`.
        what: &'static str,
        /// The name as typed.
        name: String,
        /// The file looked into.
        file: &'static str,
    },
    /// A file that exists and cannot be read.
    #[error("cannot read {file}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl AccountError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Empty { .. } | Self::OutOfRange { .. } => {
                "write --user USER or --user USER:GROUP, with names or numbers".to_owned()
            }
            Self::Unknown { what, file, .. } => {
                format!("add the {what} to {file} in the image, or give a number")
            }
            Self::Unreadable { file, .. } => format!("make {file} readable for root"),
        })
    }
}

impl UserSpec {
    /// Looks the names up in /etc/passwd and /etc/group. A file that does not exist is an empty
    /// one: numbers need neither.
    pub fn look_up(&self) -> Result<Identity, AccountError> {
        self.resolve(&read_if_there(PASSWD)?, &read_if_there(GROUP)?)
    }

    /// The same over the text of both files.
    pub fn resolve(&self, passwd: &str, group: &str) -> Result<Identity, AccountError> {
        let user = passwd_entries(passwd).find(|entry| match &self.user {
            Account::Number(uid) => entry.uid == *uid,
            Account::Name(name) => entry.name == name,
        });
        let uid = match (&user, &self.user) {
            (Some(entry), _) => entry.uid,
            (None, Account::Number(uid)) => *uid,
            (None, Account::Name(name)) => return Err(unknown("user", name, PASSWD)),
        };
        let gid = match &self.group {
            None => user.as_ref().map_or(uid, |entry| entry.gid),
            Some(Account::Number(gid)) => *gid,
            Some(Account::Name(name)) => group_entries(group)
                .find(|entry| entry.name == name)
                .map(|entry| entry.gid)
                .ok_or_else(|| unknown("group", name, GROUP))?,
        };
        let mut groups = vec![gid];
        if let Some(user) = user {
            groups.extend(
                group_entries(group)
                    .filter(|entry| entry.has_member(user.name))
                    .map(|entry| entry.gid),
            );
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(Identity { uid, gid, groups })
    }
}

impl Identity {
    /// The identity of this process.
    pub fn current() -> io::Result<Self> {
        let mut groups: Vec<u32> = nix::unistd::getgroups()?
            .iter()
            .map(|gid| gid.as_raw())
            .collect();
        groups.sort_unstable();
        Ok(Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups,
        })
    }

    /// Whether files of group `gid` are this identity's to use as a member.
    #[must_use]
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

impl FromStr for UserSpec {
    type Err = AccountError;

    fn from_str(spec: &str) -> Result<Self, AccountError> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let account = |text: &str, what| match text {
            "" => Err(AccountError::Empty {
                spec: spec.to_owned(),
                what,
            }),
            _ => text.parse(),
        };
        Ok(Self {
            user: account(user, "user")?,
            group: group.map(|group| account(group, "group")).transpose()?,
        })
    }
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        match text.parse() {
            Ok(NO_ID) | Err(_) => Err(AccountError::OutOfRange {
                number: text.to_owned(),
            }),
            Ok(id) => Ok(Self::Number(id)),
        }
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl GroupEntry<'_> {
    fn has_member(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// The lines of passwd(5). A line that is none, a comment for example, names nobody.
fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some(PasswdEntry {
            name: fields.next()?,
            uid: fields.nth(1)?.parse().ok().filter(|id| *id != NO_ID)?,
            gid: fields.next()?.parse().ok().filter(|id| *id != NO_ID)?,
        })
    })
}

/// The lines of group(5), in the same way.
fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some(GroupEntry {
            name: fields.next()?,
            gid: fields.nth(1)?.parse().ok().filter(|id| *id != NO_ID)?,
            members: fields.next().unwrap_or_default(),
        })
    })
}

fn unknown(what: &'static str, name: &str, file: &'static str) -> AccountError {
    AccountError::Unknown {
        what,
        name: name.to_owned(),
        file,
    }
}

fn read_if_there(file: &'static str) -> Result<String, AccountError> {
    match fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(AccountError::Unreadable { file, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const PASSWD_TEXT: &str = "\
root:x:0:0:root:/root:/bin/bash
# a comment: with colons: 7: 7
broken:x:notanumber:5::/:
minus:x:4294967295:5::/:
node:x:1000:1001:,,,:/home/node:/bin/bash
twin:x:1000:1002::/:
+nis::::::
";
    const GROUP_TEXT: &str = "\
root:x:0:
audio:x:29:node,other
node:x:1001:
docker:x:998:other, node
nodes:x:50:anode,node2
short:x:77
";

    fn identity(spec: &str) -> Result<Identity, AccountError> {
        spec.parse::<UserSpec>()?.resolve(PASSWD_TEXT, GROUP_TEXT)
    }

    fn ids(spec: &str) -> (u32, u32, Vec<u32>) {
        let Identity { uid, gid, groups } = identity(spec).unwrap();
        (uid, gid, groups)
    }

    #[test]
    fn names_and_numbers_find_the_same_account() {
        let node = (1000, 1001, vec![29, 998, 1001]);
        assert_eq!(ids("node"), node);
        assert_eq!(ids("1000"), node, "the first line with the number counts");
        assert_eq!(ids("root"), (0, 0, vec![0]));
    }

    #[test]
    fn a_group_replaces_the_primary_one_and_only_it() {
        assert_eq!(ids("node:audio"), (1000, 29, vec![29, 998]));
        assert_eq!(ids("node:4242"), (1000, 4242, vec![29, 998, 4242]));
        assert_eq!(ids("node:short"), (1000, 77, vec![29, 77, 998]));
    }

    #[test]
    fn a_number_without_account_is_its_own_group() {
        assert_eq!(ids("4242"), (4242, 4242, vec![4242]));
        assert_eq!(ids("4242:7"), (4242, 7, vec![7]));
        let nobody = "65534"
            .parse::<UserSpec>()
            .unwrap()
            .resolve("", "")
            .unwrap();
        assert_eq!(nobody.groups, [65534]);
    }

    #[test]
    fn what_names_nobody_is_named() {
        for (spec, message) in [
            ("", "`` names no user"),
            (":5", "`:5` names no user"),
            ("node:", "`node:` names no group"),
            (
                "4294967295",
                "4294967295 is not an id; ids go from 0 to 4294967294",
            ),
            (
                "0:99999999999",
                "99999999999 is not an id; ids go from 0 to 4294967294",
            ),
            ("-1", "there is no user `-1` in /etc/passwd"),
            ("nodes", "there is no user `nodes` in /etc/passwd"),
            ("broken", "there is no user `broken` in /etc/passwd"),
            ("minus", "there is no user `minus` in /etc/passwd"),
            ("+nis", "there is no user `+nis` in /etc/passwd"),
            ("node:wheel", "there is no group `wheel` in /etc/group"),
            ("node:1:2", "there is no group `1:2` in /etc/group"),
        ] {
            let error = identity(spec).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.remedy().is_some());
        }
    }

    #[test]
    fn prints_as_typed() {
        for spec in ["node", "1000", "node:audio", "1000:1001"] {
            assert_eq!(spec.parse::<UserSpec>().unwrap().to_string(), spec);
        }
    }
}
