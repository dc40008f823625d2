//! Notices that a list file has changed: written in place, replaced by rename, or reached through
//! a symbolic link that now leads elsewhere (Kubernetes swaps the directory behind a mounted
//! `ConfigMap` in this way).
//!
//! What is watched is every directory in which a step of the path can be exchanged, and the file
//! itself, which may be bind-mounted from a directory that is not visible here. What came of it is
//! not read from the events: whoever is told reads the files again.

use crate::{
    file::{MAX_LINKS, steps},
    sys::process,
};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::unix::AsyncFd,
    task::yield_now,
    time::{Instant, timeout_at},
};

/// So long nothing more may happen before the change counts as whole: editors and `kubelet` make
/// several steps of one.
const QUIET: Duration = Duration::from_millis(100);
/// So long a change may take to become whole, however much happens.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often events are read before everything else has its turn: whoever can write to one of the
/// directories can make them without end.
const READS: usize = 16;

/// The files of the lists, watched.
pub struct ListWatch {
    inotify: Inotify,
    readable: AsyncFd<OwnedFd>,
    files: Vec<PathBuf>,
}

impl ListWatch {
    /// Watches these files, those that do not exist yet included. Within a tokio runtime.
    ///
    /// # Errors
    /// `EMFILE` and `ENOSPC` where the user has as many watches as the kernel allows
    /// (`fs.inotify` in sysctl(8)).
    pub fn new(files: Vec<PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readable = process::watch(inotify.as_fd().try_clone_to_owned()?)?;
        let watch = Self {
            inotify,
            readable,
            files,
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits until something happened to one of the files, or may have, and has come to rest.
    /// Nothing that happens between two calls is missed.
    pub async fn changed(&self) -> io::Result<()> {
        self.drained().await?;
        let end = Instant::now() + PATIENCE;
        while let Ok(more) = timeout_at(end.min(Instant::now() + QUIET), self.drained()).await {
            more?;
            if Instant::now() >= end {
                break;
            }
        }
        // Links may lead elsewhere now. What changed meanwhile is read after this.
        self.arm()
    }

    /// Waits for events and throws them away.
    async fn drained(&self) -> io::Result<()> {
        loop {
            let mut ready = self.readable.readable().await?;
            let mut some = false;
            for _ in 0..READS {
                match self.inotify.read_events() {
                    Ok(_) => some = true,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
            yield_now().await;
            if some {
                return Ok(());
            }
        }
    }

    /// Watches what the files' names lead to now. Adding a watch again changes nothing; a watch of
    /// what is gone goes by itself.
    pub fn arm(&self) -> io::Result<()> {
        let directories = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        let file = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
        for path in &self.files {
            for directory in ways_to(path) {
                self.add(&directory, directories)?;
            }
            self.add(path, file)?;
        }
        Ok(())
    }

    fn add(&self, path: &Path, events: AddWatchFlags) -> io::Result<()> {
        match self.inotify.add_watch(path, events) {
            // Gone, closed to this process, or leading nowhere: it will be found again by the
            // directory above it.
            Ok(_)
            | Err(
                Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG,
            ) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The directories in which something can be put that changes where `path` leads: the one of each
/// symbolic link on the way, and the one of its end, or of the first step that is missing.
fn ways_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut ways = BTreeSet::new();
    let mut at = if path.is_absolute() {
        PathBuf::from("/")
    } else {
        PathBuf::from(".")
    };
    let mut ahead: VecDeque<OsString> = steps(path).collect();
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        let next = at.join(&step);
        let metadata = fs::symlink_metadata(&next);
        let is_link = metadata.as_ref().is_ok_and(fs::Metadata::is_symlink);
        if is_link || metadata.is_err() || ahead.is_empty() {
            ways.insert(at.clone());
        }
        if metadata.is_err() {
            break;
        }
        if !is_link {
            at = next;
            continue;
        }
        links += 1;
        let Some(target) = fs::read_link(&next).ok().filter(|_| links <= MAX_LINKS) else {
            break;
        };
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
            ahead.push_front(step);
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);

    /// Runs `change` under a watch of `file` and says whether it was noticed.
    fn notices(file: &Path, change: impl FnOnce()) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let watch = ListWatch::new(vec![file.to_owned()]).unwrap();
            change();
            match timeout(SOON, watch.changed()).await {
                Ok(changed) => changed.is_ok(),
                Err(_) => false,
            }
        })
    }

    /// A folder with `allowed.txt`.
    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("allowed.txt");
        fs::write(&file, "one.example\n").unwrap();
        (folder, file)
    }

    #[test]
    fn a_file_written_in_place() {
        let (_folder, file) = folder();
        assert!(notices(&file, || fs::write(&file, "two.example\n").unwrap()));
    }

    #[test]
    fn a_file_replaced_by_rename() {
        let (folder, file) = folder();
        let other = folder.path().join("new");
        assert!(notices(&file, || {
            fs::write(&other, "two.example\n").unwrap();
            fs::rename(&other, &file).unwrap();
        }));
    }

    #[test]
    fn a_file_that_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/yet");
        assert!(notices(&below.join("allowed.txt"), || {
            fs::create_dir_all(&below).unwrap();
            fs::write(below.join("allowed.txt"), "one.example\n").unwrap();
        }));
    }

    /// As `kubelet` does it: `allowed.txt` → `..data/allowed.txt`, and `..data` → a directory
    /// whose place another one takes.
    #[test]
    fn the_directory_behind_a_mounted_config_map() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("allowed.txt"), version).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/allowed.txt", at("allowed.txt")).unwrap();
        assert!(notices(&at("allowed.txt"), || {
            symlink("..2", at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        }));
        // And what is behind it now is watched too.
        assert!(notices(&at("allowed.txt"), || {
            fs::write(at("..2/allowed.txt"), "three").unwrap();
        }));
    }

    #[test]
    fn a_link_in_the_middle_of_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["a", "b"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("allowed.txt"), version).unwrap();
        }
        symlink(at("a"), at("current")).unwrap();
        assert!(notices(&at("current").join("allowed.txt"), || {
            symlink(at("b"), at("next")).unwrap();
            fs::rename(at("next"), at("current")).unwrap();
        }));
    }

    #[test]
    fn a_second_change_is_noticed_as_the_first() {
        let (_folder, file) = folder();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let watch = ListWatch::new(vec![file.clone()]).unwrap();
            for text in ["two.example", "three.example"] {
                fs::write(&file, text).unwrap();
                timeout(SOON, watch.changed()).await.unwrap().unwrap();
            }
            // Nothing happened since.
            let idle = timeout(QUIET * 3, watch.changed()).await;
            assert!(idle.is_err());
        });
    }

    #[test]
    fn links_in_a_circle_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        assert!(ways_to(&at("a")).contains(folder.path()));
        // And what takes their place is noticed.
        assert!(notices(&at("a"), || {
            fs::remove_file(at("a")).unwrap();
            fs::write(at("a"), "one.example\n").unwrap();
        }));
    }
}
