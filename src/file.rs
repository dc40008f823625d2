//! Small files of /etc, read so that nothing in their place can hang or exhaust the start, and the
//! steps of a path for whoever looks at each by itself.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path},
};

/// More than the end of a file takes to be seen: without it the vector would grow for the last read,
/// that of nothing.
const ROOM: usize = 64;
/// More than the usual file of /proc has; a longer one takes more reads.
const PROC_ROOM: usize = 4096;

/// The content of a regular file of at most `limit` octets; symbolic links are followed.
///
/// `O_NONBLOCK`: opening a FIFO that nobody writes to would block for ever.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    content(&options.open(path)?, limit)
}

/// The same of a file that is open already, from where it stands.
pub(crate) fn content(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let size = usize::try_from(metadata.len().min(limit)).unwrap_or_default();
    let mut content = Vec::with_capacity(size + ROOM);
    file.take(limit + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > limit) {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} KiB", limit / 1024),
        ));
    }
    Ok(content)
}

/// A file of /proc, which says that it is empty: most are read at once, whole.
pub(crate) fn of_proc(path: &str) -> io::Result<String> {
    let mut text = String::with_capacity(PROC_ROOM);
    // By way of `take`, which does not ask for the size of the file.
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// As many symbolic links as the kernel follows in one path: `path_resolution(7)`.
pub(crate) const MAX_LINKS: usize = 40;

/// Names and `..`, nothing else of a path.
pub(crate) fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use nix::sys::stat::Mode;

    #[test]
    fn reads_a_file_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "content").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&link, 7).unwrap(), b"content");
    }

    #[test]
    fn refuses_what_is_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        assert_eq!(
            read(&path, 6).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn a_fifo_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(
            read(&path, 6).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn an_endless_device_is_refused() {
        assert_eq!(
            read(Path::new("/dev/zero"), 6).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
