//! Where the sentinel is published: only root may put a file there, and only atomically.
//!
//! A verified sentinel is owned by root, so nobody forges one. A folder that the command's user
//! can write to would still let that user take it away or hold its place, and what looks only
//! whether the file exists would be fooled.

use super::{Sentinel, folder};
use crate::accounts::Identity;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A folder that was looked at, and the name of the sentinel in it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Absolute and without symbolic links.
    folder: PathBuf,
    name: OsString,
    command_is_root: bool,
}

/// The command stays root, so it can write to the folder.
#[derive(Debug)]
pub struct RootWarning<'a>(&'a Place);

impl fmt::Display for RootWarning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the command runs as root and can replace the sentinel in {}",
            self.0.folder.display()
        )
    }
}

impl RootWarning<'_> {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        "name another user with --user".to_owned()
    }
}

/// Why the sentinel cannot be published, or an old one not be removed.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// A path that ends in no name.
    #[error("the sentinel's path {} names no file", .0.display())]
    NoName(PathBuf),
    /// The folder belongs to the command's user, in one way or another.
    #[error("the sentinel's folder {} is writable by the command's user (uid {uid})", .folder.display())]
    Writable {
        /// The folder.
        folder: PathBuf,
        /// The command's user.
        uid: u32,
    },
    /// A directory above the folder lets the command's user put another one in its place.
    #[error(
        "the command's user (uid {uid}) can replace {}, which leads to the sentinel",
        .replaceable.display()
    )]
    Replaceable {
        /// The directory or symbolic link.
        replaceable: PathBuf,
        /// The command's user.
        uid: u32,
    },
    /// Something on the way is no directory.
    #[error("{}, which leads to the sentinel, is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// Symbolic links in a circle.
    #[error("the sentinel's path {} has too many symbolic links", .0.display())]
    TooManyLinks(PathBuf),
    /// A file of this process is not root's.
    #[error("the sentinel would be owned by uid {0}, not by root")]
    NotRoot(u32),
    /// The folder is missing and cannot be made.
    #[error("cannot create the sentinel's folder {}", .path.display())]
    Folder {
        /// The first directory that is missing.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file system says no.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried, a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl PlaceError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Writable { folder, .. } => {
                format!(
                    "run chown root {0} and chmod 755 {0} in the image, or name a path in a \
                     folder of root's with --sentinel",
                    folder.display()
                )
            }
            Self::Replaceable { .. }
            | Self::NoName(_)
            | Self::NotDirectory(_)
            | Self::TooManyLinks(_) => {
                "choose a path in a folder of root's with --sentinel".to_owned()
            }
            Self::NotRoot(_) => {
                "start egress-init as root and name the user with --user".to_owned()
            }
            Self::Folder { path, source } if is_read_only(source) => writable_folder(path),
            Self::Io { path, source, .. } if is_read_only(source) => {
                writable_folder(path.parent().unwrap_or(path))
            }
            Self::Folder { .. } | Self::Io { .. } => {
                "choose another path with --sentinel".to_owned()
            }
        })
    }
}

impl Place {
    /// Walks to the folder of `path`, makes what is missing of it (mode 0755), and refuses it
    /// where `command`, the identity of the command, could write to it or replace it.
    pub fn prepare(path: &Path, command: &Identity) -> Result<Self, PlaceError> {
        let path = std::path::absolute(path).map_err(failed("find", path))?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(PlaceError::NoName(path));
        };
        Ok(Self {
            folder: folder::walk(folder, command)?,
            name: name.to_owned(),
            command_is_root: command.uid == 0,
        })
    }

    /// What is not as it should be, though no reason to stop.
    #[must_use]
    pub fn warning(&self) -> Option<RootWarning<'_>> {
        self.command_is_root.then_some(RootWarning(self))
    }

    /// Writes the sentinel beside its place, mode 0444 whatever the umask, and moves it there: at
    /// no instant is there half a sentinel. Where that fails there is what was there before: none
    /// after a start, and after a reload the one that is still true.
    pub fn publish(&self, sentinel: &Sentinel) -> Result<(), PlaceError> {
        let beside = self.beside();
        // Left by a start that was killed. Starts are serialised (I9), so it is nobody's.
        remove(&beside)?;
        self.write_and_move(sentinel, &beside).inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
    }

    /// Takes the sentinel away again.
    pub fn remove(&self) -> Result<(), PlaceError> {
        remove(&self.path())
    }

    /// The sentinel's path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn beside(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".new");
        self.folder.join(name)
    }

    fn write_and_move(&self, sentinel: &Sentinel, beside: &Path) -> Result<(), PlaceError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(beside)
            .map_err(failed("create", beside))?;
        let owner = file.metadata().map_err(failed("look at", beside))?.uid();
        if owner != 0 {
            return Err(PlaceError::NotRoot(owner));
        }
        write(&mut file, sentinel).map_err(failed("write", beside))?;
        let path = self.path();
        fs::rename(beside, &path).map_err(failed("publish", &path))
    }
}

/// Not synced: a sentinel is of one boot, so that one which a crash of the machine leaves, whole or
/// not, does not verify.
fn write(file: &mut File, sentinel: &Sentinel) -> io::Result<()> {
    let mut text = serde_json::to_vec(sentinel)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.set_permissions(Permissions::from_mode(0o444))
}

/// Removes the sentinel at `path`; it may be absent. A symbolic link is removed, not followed.
pub fn remove(path: &Path) -> Result<(), PlaceError> {
    match fs::remove_file(path) {
        Err(source) if !matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Err(failed("remove", path)(source))
        }
        _ => Ok(()),
    }
}

fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Docker's own default for a tmpfs is mode 1777, which the command's user could write to.
fn writable_folder(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "mount a tmpfs there (docker run --tmpfs {folder}:mode=0755), or choose a folder on one \
         with --sentinel"
    )
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn removing_takes_a_link_and_not_what_it_points_at() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &link).unwrap();
        remove(&link).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn removing_tells_absent_from_impossible() {
        let folder = tempfile::tempdir().unwrap();
        remove(&folder.path().join("none")).unwrap();
        remove(&folder.path().join("none/deeper")).unwrap();
        let error = remove(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot remove /"), "{error}");
    }

    #[test]
    fn a_command_that_stays_root_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("firewall.ready");
        let identity = |id| Identity {
            uid: id,
            gid: id,
            groups: vec![id],
        };
        let place = Place::prepare(&path, &identity(0)).unwrap();
        assert!(place.warning().unwrap().remedy().contains("--user"));
        let place = Place::prepare(&path, &identity(4242)).unwrap();
        assert!(place.warning().is_none());
        assert_eq!(place.path(), path);
    }

    #[test]
    fn a_path_without_name_is_refused() {
        let root = Identity {
            uid: 0,
            gid: 0,
            groups: vec![0],
        };
        for path in ["/", "/etc/.."] {
            let error = Place::prepare(Path::new(path), &root).unwrap_err();
            assert!(matches!(error, PlaceError::NoName(_)));
        }
    }

    #[test]
    fn a_read_only_file_system_gets_a_tmpfs_that_docker_mounts_right() {
        let error = PlaceError::Io {
            what: "create",
            path: "/etc/beacon-code/.firewall.ready.new".into(),
            source: io::Error::from_raw_os_error(libc::EROFS),
        };
        assert!(
            error
                .remedy()
                .unwrap()
                .contains("--tmpfs /etc/beacon-code:mode=0755")
        );
    }
}
