//! The sentinel: one file that says "the firewall of this network namespace is enforced" (I3).
//!
//! Here is what it says and how it is verified; `place` and `folder` are where it is published. That the rules
//! are live at this moment is for the canary to prove, not for a file.

mod folder;
mod namespace;
mod place;

pub use namespace::{Namespace, NamespaceError};
pub use place::{Place, PlaceError, RootWarning, remove};

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;

/// Where the sentinel is unless `--sentinel` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/beacon-code/firewall.ready";

/// The format that this version writes and reads.
const SCHEMA: u32 = 1;
/// Far more than a sentinel takes; what is larger is none.
const MAX_SIZE: u64 = 64 * 1024;

/// What the file holds. Fields that a later version adds are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentinel {
    /// The format, 1.
    pub schema: u32,
    /// The boot that the ruleset was loaded in.
    pub boot_id: String,
    /// The network namespace that it was loaded in: its cookie, 0 where the kernel has none.
    pub netns_cookie: u64,
    /// The same: its inode.
    pub netns_inode: u64,
    /// When, RFC 3339.
    pub created: String,
    /// What was enforced.
    #[serde(flatten)]
    pub enforced: Enforced,
    /// The version of egress-init.
    pub version: String,
}

/// The part of a sentinel that tells a person, or a program, what is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The way it was started: `exec` or `apply`.
    pub mode: String,
    /// The DNS mode: `pinned` or `system`.
    pub dns: String,
    /// SHA-256 of the ruleset text without the elements, hexadecimal.
    pub ruleset_sha256: String,
    /// How many names were resolved.
    pub names: u64,
    /// How many IPv4 addresses and networks are allowed.
    pub ipv4: u64,
    /// The same for IPv6.
    pub ipv6: u64,
}

impl Sentinel {
    /// A sentinel for the network namespace of the calling thread, as of now.
    pub fn here(enforced: Enforced) -> Result<Self, NamespaceError> {
        let Namespace {
            boot_id,
            netns_cookie,
            netns_inode,
        } = Namespace::current()?;
        Ok(Self {
            schema: SCHEMA,
            boot_id,
            netns_cookie,
            netns_inode,
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            enforced,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn is_of(&self, path: &Path, here: &Namespace) -> Result<(), NotVerified> {
        if self.boot_id != here.boot_id {
            return Err(NotVerified::OtherBoot(path.to_owned()));
        }
        if (self.netns_cookie, self.netns_inode) != (here.netns_cookie, here.netns_inode) {
            return Err(NotVerified::OtherNamespace(path.to_owned()));
        }
        Ok(())
    }
}

/// Why a sentinel proves nothing.
#[derive(Debug, Error)]
pub enum NotVerified {
    /// No file.
    #[error("there is no sentinel {}", .0.display())]
    Missing(PathBuf),
    /// A file that cannot be opened or read.
    #[error("cannot read the sentinel {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A symbolic link, a directory, a FIFO and the like.
    #[error("the sentinel {} is {what}, not a regular file", .path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that somebody else could have made.
    #[error("the sentinel {} is owned by uid {uid}, not by root", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner as this process sees it.
        uid: u32,
    },
    /// A file that somebody else could have changed.
    #[error("the sentinel {} is writable by others than root (mode {mode:04o})", .path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// More than a sentinel ever takes.
    #[error("the sentinel {} is larger than {MAX_SIZE} octets", .0.display())]
    TooLarge(PathBuf),
    /// Not the JSON object that a sentinel is.
    #[error("the sentinel {} is not valid", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The reason, with its place.
        source: serde_json::Error,
    },
    /// A format that this version does not know.
    #[error("the sentinel {} has schema {schema}, this version knows {SCHEMA}", .path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        schema: u32,
    },
    /// The namespace of this process is unknown.
    #[error(transparent)]
    Here(#[from] NamespaceError),
    /// Left from before a reboot.
    #[error("the sentinel {} is from another boot", .0.display())]
    OtherBoot(PathBuf),
    /// Left from an earlier start, or copied from another container.
    #[error("the sentinel {} is from another network namespace", .0.display())]
    OtherNamespace(PathBuf),
}

impl NotVerified {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            // The kernel's default overflow uid: user_namespaces(7).
            Self::Owner { uid: 65534, .. } => {
                "check outside of a user namespace that does not map root".to_owned()
            }
            Self::Schema { .. } => "use the same version of egress-init for both".to_owned(),
            Self::Here(error) => return error.remedy(),
            _ => "start the container with egress-init as its entrypoint".to_owned(),
        })
    }
}

/// Reads the sentinel at `path` and checks all but the canary: a regular file that only root can
/// have written, for this boot and this network namespace. Takes no privilege.
pub fn verify(path: &Path) -> Result<Sentinel, NotVerified> {
    let unreadable = |source| NotVerified::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = open_regular(path)?;
    let metadata = file.metadata().map_err(unreadable)?;
    only_root_writes(path, metadata.uid(), metadata.mode())?;
    let mut text = Vec::new();
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    let sentinel = parse(path, &text)?;
    sentinel.is_of(path, &Namespace::current()?)?;
    Ok(sentinel)
}

fn open_regular(path: &Path) -> Result<File, NotVerified> {
    let not_regular = |what| NotVerified::NotRegular {
        path: path.to_owned(),
        what,
    };
    let unreadable = |source| NotVerified::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        // A FIFO must not make the check wait.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => NotVerified::Missing(path.to_owned()),
            Some(libc::ELOOP) => not_regular("a symbolic link"),
            Some(libc::ENXIO) => not_regular("a socket"),
            _ => unreadable(source),
        })?;
    let kind = file.metadata().map_err(unreadable)?.file_type();
    match kind {
        _ if kind.is_file() => Ok(file),
        _ if kind.is_dir() => Err(not_regular("a directory")),
        _ if kind.is_fifo() => Err(not_regular("a FIFO")),
        _ => Err(not_regular("a device")),
    }
}

fn only_root_writes(path: &Path, uid: u32, mode: u32) -> Result<(), NotVerified> {
    if uid != 0 {
        return Err(NotVerified::Owner {
            path: path.to_owned(),
            uid,
        });
    }
    if mode & 0o022 != 0 {
        return Err(NotVerified::Writable {
            path: path.to_owned(),
            mode: mode & 0o7777,
        });
    }
    Ok(())
}

/// The sentinel in the text of the file `path`.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Sentinel, NotVerified> {
    if text.len() as u64 > MAX_SIZE {
        return Err(NotVerified::TooLarge(path.to_owned()));
    }
    let sentinel: Sentinel =
        serde_json::from_slice(text).map_err(|source| NotVerified::Malformed {
            path: path.to_owned(),
            source,
        })?;
    if sentinel.schema != SCHEMA {
        return Err(NotVerified::Schema {
            path: path.to_owned(),
            schema: sentinel.schema,
        });
    }
    Ok(sentinel)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn sentinel() -> Sentinel {
        Sentinel::here(Enforced {
            mode: "exec".to_owned(),
            dns: "pinned".to_owned(),
            ruleset_sha256: "0".repeat(64),
            names: 12,
            ipv4: 31,
            ipv6: 22,
        })
        .unwrap()
    }

    fn parse_json(value: &serde_json::Value) -> Result<Sentinel, NotVerified> {
        parse(Path::new("s"), value.to_string().as_bytes())
    }

    #[test]
    fn it_has_the_documented_fields_and_reads_back() {
        let sentinel = sentinel();
        let mut value = serde_json::to_value(&sentinel).unwrap();
        let mut keys: Vec<_> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        let documented = [
            "boot_id",
            "created",
            "dns",
            "ipv4",
            "ipv6",
            "mode",
            "names",
            "netns_cookie",
            "netns_inode",
            "ruleset_sha256",
            "schema",
            "version",
        ];
        assert_eq!(keys, documented);
        humantime::parse_rfc3339(&sentinel.created).unwrap();
        value["later"] = 1.into();
        assert_eq!(parse_json(&value).unwrap(), sentinel);
    }

    #[test]
    fn another_boot_or_namespace_does_not_verify() {
        let (sentinel, here) = (sentinel(), Namespace::current().unwrap());
        let path = Path::new("s");
        sentinel.is_of(path, &here).unwrap();
        let boot = Namespace {
            boot_id: String::new(),
            ..here.clone()
        };
        assert!(matches!(
            sentinel.is_of(path, &boot),
            Err(NotVerified::OtherBoot(_))
        ));
        for elsewhere in [
            Namespace {
                netns_cookie: 0,
                ..here.clone()
            },
            Namespace {
                netns_inode: 1,
                ..here
            },
        ] {
            let error = sentinel.is_of(path, &elsewhere).unwrap_err();
            assert!(matches!(error, NotVerified::OtherNamespace(_)));
        }
    }

    #[test]
    fn what_others_could_have_made_does_not_verify() {
        let path = Path::new("s");
        only_root_writes(path, 0, 0o100_444).unwrap();
        only_root_writes(path, 0, 0o100_644).unwrap();
        for mode in [0o100_464, 0o100_446, 0o100_666] {
            let error = only_root_writes(path, 0, mode).unwrap_err();
            assert!(matches!(error, NotVerified::Writable { .. }), "{mode:o}");
        }
        let error = only_root_writes(path, 65534, 0o100_444).unwrap_err();
        assert!(
            error.remedy().unwrap().contains("user namespace"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_regular_file_does_not_verify_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        open_regular(&at("file")).unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (path, expected) in [
            (folder.path().to_owned(), "a directory"),
            (at("link"), "a symbolic link"),
            (at("fifo"), "a FIFO"),
            (at("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
        ] {
            match open_regular(&path).unwrap_err() {
                NotVerified::NotRegular { what, .. } => assert_eq!(what, expected),
                other => panic!("{other}"),
            }
        }
        assert!(matches!(verify(&at("none")), Err(NotVerified::Missing(_))));
        assert!(matches!(
            verify(&at("file/none")),
            Err(NotVerified::Missing(_))
        ));
    }

    #[test]
    fn what_is_no_sentinel_does_not_verify() {
        for (key, value, expected) in [
            ("schema", 2.into(), "has schema 2"),
            ("netns_cookie", "1".into(), "is not valid"),
            ("netns_cookie", (-1).into(), "is not valid"),
            ("dns", serde_json::Value::Null, "is not valid"),
        ] {
            let mut changed = serde_json::to_value(sentinel()).unwrap();
            changed[key] = value;
            let error = parse_json(&changed).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        for text in ["", "{}", "[]", "null", "{\"schema\":1}"] {
            let error = parse(Path::new("s"), text.as_bytes()).unwrap_err();
            assert!(matches!(error, NotVerified::Malformed { .. }), "{text}");
        }
        let error = parse(Path::new("s"), &vec![b' '; 70_000]).unwrap_err();
        assert!(matches!(error, NotVerified::TooLarge(_)));
    }
}
