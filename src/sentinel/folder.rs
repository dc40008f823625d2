//! The way to the sentinel's folder: made where it is missing, refused where it is not root's.
//!
//! Each directory and each symbolic link on the way is looked at by itself. Whoever can replace one
//! of them decides where the path leads.

use super::place::{PlaceError, failed};
use crate::accounts::Identity;
use crate::file::{MAX_LINKS, steps};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The real path of `folder`, every directory and symbolic link on the way looked at, once.
pub(super) fn walk(folder: &Path, command: &Identity) -> Result<PathBuf, PlaceError> {
    let mut at = Directory::look_at("/".into())?;
    let mut ahead: VecDeque<OsString> = steps(folder).collect();
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        if step == ".." {
            let mut above = at.path;
            above.pop();
            at = Directory::look_at(above)?;
            continue;
        }
        let next = at.path.join(step);
        let metadata = step_into(&at, &next, command)?;
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(PlaceError::TooManyLinks(folder.to_owned()));
            }
            let target = fs::read_link(&next).map_err(failed("follow", &next))?;
            if target.is_absolute() {
                at = Directory::look_at("/".into())?;
            }
            for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front(step);
            }
        } else if metadata.is_dir() {
            at = Directory {
                path: next,
                entry: Entry::from(&metadata),
            };
        } else {
            return Err(PlaceError::NotDirectory(next));
        }
    }
    if at.entry.is_writable_by(command) {
        return Err(PlaceError::Writable {
            folder: at.path,
            uid: command.uid,
        });
    }
    Ok(at.path)
}

/// How far the walk has come.
struct Directory {
    path: PathBuf,
    entry: Entry,
}

impl Directory {
    fn look_at(path: PathBuf) -> Result<Self, PlaceError> {
        let entry = Entry::from(&look_at(&path)?);
        Ok(Self { path, entry })
    }
}

fn look_at(path: &Path) -> Result<Metadata, PlaceError> {
    fs::symlink_metadata(path).map_err(failed("look at", path))
}

/// What `next` in the directory `at` is; a directory where nothing was.
fn step_into(at: &Directory, next: &Path, command: &Identity) -> Result<Metadata, PlaceError> {
    let refuse_if = |replaceable| {
        if replaceable {
            let replaceable = next.to_owned();
            return Err(PlaceError::Replaceable {
                replaceable,
                uid: command.uid,
            });
        }
        Ok(())
    };
    let parent = at.entry;
    let metadata = if let Ok(metadata) = fs::symlink_metadata(next) {
        metadata
    } else {
        refuse_if(parent.is_writable_by(command) && !parent.is_sticky())?;
        make_directory(next).map_err(|source| PlaceError::Folder {
            path: next.to_owned(),
            source,
        })?;
        look_at(next)?
    };
    refuse_if(parent.lets_replace(Entry::from(&metadata), command))?;
    Ok(metadata)
}

/// What decides who may write to a directory or take an entry out of it. POSIX ACLs are not looked
/// at beyond the mask, which the kernel shows as the group's bits.
#[derive(Clone, Copy)]
struct Entry {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl From<&Metadata> for Entry {
    fn from(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode(),
        }
    }
}

impl Entry {
    /// Whether `who` can write to it, or could after chmod(1). Of root everything is: that is for
    /// a warning to say, not for a refusal.
    fn is_writable_by(self, who: &Identity) -> bool {
        who.uid != 0
            && (self.uid == who.uid
                || self.mode & 0o020 != 0 && who.is_member(self.gid)
                || self.mode & 0o002 != 0)
    }

    /// Whether `who` can put something else in the place of `child`. In a sticky directory an
    /// entry is its owner's and the directory's owner's to replace.
    fn lets_replace(self, child: Self, who: &Identity) -> bool {
        let protected = self.is_sticky() && child.uid != who.uid && self.uid != who.uid;
        self.is_writable_by(who) && !protected
    }

    fn is_sticky(self) -> bool {
        self.mode & libc::S_ISVTX != 0
    }
}

/// Mode 0755 whatever the umask: the check is made by users that are not root.
fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    const UID: u32 = 4242;

    fn user() -> Identity {
        Identity {
            uid: UID,
            gid: UID,
            groups: vec![77, UID],
        }
    }

    fn entry(mode: u32, uid: u32, gid: u32) -> Entry {
        Entry { uid, gid, mode }
    }

    fn make(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn owner_group_and_others_count_as_writers() {
        for (entry, writable) in [
            (entry(0o755, 0, 0), false),
            (entry(0o755, 0, UID), false),
            (entry(0o775, 0, 0), false),
            (entry(0o775, 0, UID), true),
            (entry(0o775, 0, 77), true),
            (entry(0o757, 0, 0), true),
            (entry(0o1777, 0, 0), true),
            (entry(0o555, UID, 0), true),
        ] {
            assert_eq!(
                entry.is_writable_by(&user()),
                writable,
                "{:o} {}",
                entry.mode,
                entry.uid
            );
        }
        let root = Identity {
            uid: 0,
            gid: 0,
            groups: vec![0],
        };
        assert!(!entry(0o755, 0, 0).is_writable_by(&root));
    }

    #[test]
    fn a_sticky_directory_protects_what_is_not_the_users() {
        let (roots, users) = (entry(0o755, 0, 0), entry(0o755, UID, UID));
        for (parent, child, replaceable) in [
            (entry(0o755, 0, 0), roots, false),
            (entry(0o777, 0, 0), roots, true),
            (entry(0o1777, 0, 0), roots, false),
            (entry(0o1777, 0, 0), users, true),
            (entry(0o1755, UID, 0), roots, true),
        ] {
            assert_eq!(
                parent.lets_replace(child, &user()),
                replaceable,
                "{:o}",
                parent.mode
            );
        }
    }

    #[test]
    fn a_missing_folder_is_made_for_all_to_enter() {
        let top = tempfile::tempdir().unwrap();
        let folder = walk(&top.path().join("a/b"), &user()).unwrap();
        assert_eq!(folder, top.path().join("a/b"));
        assert_eq!(mode(&top.path().join("a")), 0o755);
        assert_eq!(mode(&folder), 0o755);
    }

    #[test]
    fn the_folder_itself_is_refused_even_if_sticky() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("folder");
        make(&folder, 0o755);
        walk(&folder, &user()).unwrap();
        for mode in [0o777, 0o1777] {
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            let refused = walk(&folder, &user());
            assert!(
                matches!(refused, Err(PlaceError::Writable { uid: UID, .. })),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn nothing_is_made_in_a_directory_that_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let above = top.path().join("above");
        make(&above, 0o777);
        let refused = walk(&above.join("folder"), &user());
        assert!(matches!(refused, Err(PlaceError::Replaceable { .. })));
        assert_eq!(fs::read_dir(&above).unwrap().count(), 0);
        fs::set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
        walk(&above.join("folder"), &user()).unwrap();
    }

    #[test]
    fn symbolic_links_are_walked_one_by_one() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        make(&at("open"), 0o777);
        make(&at("real"), 0o755);
        symlink("../real", at("open/link")).unwrap();
        symlink("open/link", at("indirect")).unwrap();
        symlink(at("real"), at("direct")).unwrap();
        symlink("circle", at("circle")).unwrap();
        fs::write(at("file"), "").unwrap();
        assert_eq!(walk(&at("direct"), &user()).unwrap(), at("real"));
        assert_eq!(
            walk(&at("real/../direct/../real"), &user()).unwrap(),
            at("real")
        );
        // Whoever owns the directory of a link on the way decides where the path leads.
        let refused = walk(&at("indirect"), &user());
        assert!(matches!(refused, Err(PlaceError::Replaceable { .. })));
        assert!(matches!(
            walk(&at("circle"), &user()),
            Err(PlaceError::TooManyLinks(_))
        ));
        assert!(matches!(
            walk(&at("file"), &user()),
            Err(PlaceError::NotDirectory(_))
        ));
    }
}
