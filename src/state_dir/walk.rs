//! The way to the state directory, one component at a time and without following a link: whoever
//! owns a directory on the way could make it lead anywhere.

use super::{StateDirError, failed};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open as open_path, openat},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};
use std::{
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

const STEP: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// The directory, as a path alone (`O_PATH`).
pub fn open(path: &Path) -> Result<OwnedFd, StateDirError> {
    let missing = || StateDirError::Missing(path.to_owned());
    descend(path)?.ok_or_else(missing)
}

/// Makes the directory in the one above it, mode 0700.
pub fn make(path: &Path) -> Result<(), StateDirError> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StateDirError::Missing(path.to_owned()));
    };
    let above = descend(above)?.ok_or_else(|| StateDirError::Missing(path.to_owned()))?;
    mkdirat(&above, name, Mode::S_IRWXU).map_err(failed("make", path))
}

/// Nothing where a component does not exist.
fn descend(path: &Path) -> Result<Option<OwnedFd>, StateDirError> {
    let open_failed = || failed("open", path);
    let mut at = open_path("/", STEP, Mode::empty()).map_err(open_failed())?;
    let mut walked = PathBuf::from("/");
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            // Of a real directory, which `at` is, this is a real one too.
            Component::ParentDir => "..".as_ref(),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        };
        walked.push(name);
        at = match openat(&at, name, STEP, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            result => result.map_err(open_failed())?,
        };
        let kind = fstat(&at).map_err(open_failed())?.st_mode & SFlag::S_IFMT.bits();
        let what = match SFlag::from_bits_truncate(kind) {
            SFlag::S_IFDIR => continue,
            SFlag::S_IFLNK => "a symbolic link",
            _ => "not a directory",
        };
        return Err(StateDirError::NotDirectory { path: walked, what });
    }
    Ok(Some(at))
}
