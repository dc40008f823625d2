//! The command: found as execvp(3) finds it, before anything of the end begins.
//!
//! Looking is done here, trying in `launch`: whether the command's user may execute the file is
//! for the kernel to say. So every file of that name along PATH is kept, and exec goes on to the
//! next where one is refused, as execvp does.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};
use thiserror::Error;

/// Where execvp(3) of glibc looks when PATH is not set (`confstr(_CS_PATH)`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A command that was found, with its arguments untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Executable files of that name, in the order in which they are tried. Never empty.
    candidates: Vec<CString>,
    /// The arguments, the command's name as typed first.
    argv: Vec<CString>,
}

/// Why there is nothing to execute.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No such file, or none of that name in PATH.
    #[error("command `{}` was not found{}", .name.display(), searched(.path.as_deref()))]
    NotFound {
        /// The name as typed.
        name: OsString,
        /// The value of PATH, if it was searched.
        path: Option<OsString>,
    },
    /// There is a file, and it cannot be executed by anyone.
    #[error("command {} cannot be executed: it is {what}", .path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The file cannot be looked at.
    #[error("command {} cannot be executed", .path.display())]
    Unreachable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl CommandError {
    /// 127 where nothing was found, 126 where something was that cannot be executed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } | Self::Unreachable { .. } => 126,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { path: Some(_), .. } => {
                "install it in the image, set PATH, or give its whole path".to_owned()
            }
            Self::NotFound { path: None, .. } => {
                "install it in the image, or correct the path".to_owned()
            }
            Self::NotExecutable {
                path,
                what: NO_EXECUTE_BIT,
            } => format!("run chmod +x {}", path.display()),
            Self::NotExecutable { .. } | Self::Unreachable { .. } => {
                "name an executable file after --".to_owned()
            }
        })
    }
}

const NO_EXECUTE_BIT: &str = "not marked executable";

fn searched(path: Option<&OsStr>) -> String {
    path.map_or_else(String::new, |path| format!(" in PATH ({})", path.display()))
}

impl Command {
    /// Looks up `words[0]`: as it is where it has a slash, else along `path`, the value of PATH,
    /// an empty element of which is the working directory. Its `argv` is `words`.
    pub fn look_up(words: &[OsString], path: Option<&OsStr>) -> Result<Self, CommandError> {
        let name = words.first().map_or(OsStr::new(""), OsString::as_os_str);
        let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
        let as_is = name.as_bytes().contains(&b'/');
        let candidates = if as_is {
            inspect(name.into())?.into_iter().collect()
        } else if name.is_empty() {
            Vec::new()
        } else {
            search(name, path)?
        };
        if candidates.is_empty() {
            return Err(CommandError::NotFound {
                name: name.to_owned(),
                path: (!as_is).then(|| path.to_owned()),
            });
        }
        Ok(Self {
            candidates: candidates
                .into_iter()
                .map(|path| c_string(path.into_os_string()))
                .collect(),
            argv: words.iter().cloned().map(c_string).collect(),
        })
    }

    /// The file that is tried first.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(
            self.candidates.first().map_or(b"", |path| path.to_bytes()),
        ))
    }

    /// The files to try, in order.
    pub(crate) fn candidates(&self) -> &[CString] {
        &self.candidates
    }

    /// What execve(2) takes as arguments.
    pub(crate) fn argv(&self) -> &[CString] {
        &self.argv
    }
}

/// Every executable file of that name along `path`. What is found but cannot be executed counts
/// only where nothing else is found, as in execvp(3).
fn search(name: &OsStr, path: &OsStr) -> Result<Vec<PathBuf>, CommandError> {
    let mut found = Vec::new();
    let mut refused = None;
    for directory in path.as_bytes().split(|byte| *byte == b':') {
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        match inspect(Path::new(OsStr::from_bytes(directory)).join(name)) {
            Ok(executable) => found.extend(executable),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// The path itself where an executable file is there, nothing where no file is.
fn inspect(path: PathBuf) -> Result<Option<PathBuf>, CommandError> {
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(None);
        }
        Err(source) => return Err(CommandError::Unreachable { path, source }),
    };
    let what = if metadata.is_dir() {
        "a directory"
    } else if !metadata.is_file() {
        "not a regular file"
    } else if metadata.permissions().mode() & 0o111 == 0 {
        NO_EXECUTE_BIT
    } else {
        return Ok(Some(path));
    };
    Err(CommandError::NotExecutable { path, what })
}

/// Words come from an argument vector and paths from the kernel: neither can hold a NUL. Were one
/// there, all after it would be cut off, as the kernel would.
fn c_string(text: OsString) -> CString {
    let mut bytes = text.into_vec();
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for directory in ["a", "b", "c", "b/tool2"] {
                fs::create_dir(tree.at(directory)).unwrap();
            }
            for (file, mode) in [
                ("a/plain", 0o644),
                ("b/tool", 0o755),
                ("c/tool", 0o700),
                ("c/plain", 0o755),
            ] {
                fs::write(tree.at(file), "").unwrap();
                fs::set_permissions(tree.at(file), fs::Permissions::from_mode(mode)).unwrap();
            }
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn path(&self, directories: &[&str]) -> OsString {
            std::env::join_paths(directories.iter().map(|d| self.at(d))).unwrap()
        }

        fn look_up(&self, name: &str, directories: &[&str]) -> Result<Command, CommandError> {
            Command::look_up(&[name.into(), "arg".into()], Some(&self.path(directories)))
        }
    }

    #[test]
    fn every_match_along_path_is_kept_in_order() {
        let tree = Tree::new();
        let command = tree.look_up("tool", &["a", "missing", "b", "c"]).unwrap();
        assert_eq!(command.path(), tree.at("b/tool"));
        let all: Vec<_> = ["b/tool", "c/tool"]
            .map(|p| c_string(tree.at(p).into()))
            .into();
        assert_eq!(command.candidates(), all);
        assert_eq!(command.argv(), [c"tool".to_owned(), c"arg".to_owned()]);
    }

    #[test]
    fn what_cannot_be_executed_yields_to_what_can() {
        let tree = Tree::new();
        assert_eq!(
            tree.look_up("plain", &["a", "c"]).unwrap().path(),
            tree.at("c/plain")
        );
        let error = tree.look_up("plain", &["a"]).unwrap_err();
        assert_eq!(error.exit_code(), 126);
        assert_eq!(
            error.remedy().unwrap(),
            format!("run chmod +x {}", tree.at("a/plain").display())
        );
        let error = tree.look_up("tool2", &["b"]).unwrap_err();
        assert_eq!(error.exit_code(), 126);
        assert!(error.to_string().ends_with("it is a directory"), "{error}");
    }

    #[test]
    fn nothing_found_is_127_and_shows_path() {
        let tree = Tree::new();
        for name in ["nowhere", ""] {
            let error = tree.look_up(name, &["a", "b"]).unwrap_err();
            assert_eq!(error.exit_code(), 127);
            assert!(error.to_string().contains("in PATH ("), "{error}");
        }
        let error = Command::look_up(&[], None).unwrap_err();
        assert_eq!(error.exit_code(), 127);
    }

    #[test]
    fn a_slash_means_as_it_is() {
        let tree = Tree::new();
        let whole = tree.at("b/tool");
        let command = Command::look_up(&[whole.clone().into()], Some(OsStr::new("/none"))).unwrap();
        assert_eq!(command.path(), whole);
        for (path, code) in [
            ("b/none", 127),
            ("b/tool/below", 127),
            ("b/tool2", 126),
            ("a/plain", 126),
        ] {
            let error = Command::look_up(&[tree.at(path).into()], None).unwrap_err();
            assert_eq!(error.exit_code(), code, "{path}: {error}");
            assert!(!error.to_string().contains("PATH"), "{error}");
        }
    }

    #[test]
    fn without_path_the_c_librarys_default_is_searched() {
        let command = Command::look_up(&["sh".into()], None).unwrap();
        assert_eq!(command.path(), Path::new("/bin/sh"));
    }

    #[test]
    fn arguments_that_are_no_utf8_pass_untouched() {
        let odd = OsString::from_vec(vec![0xff, b'x', 0x80]);
        let command = Command::look_up(&["/bin/sh".into(), odd], None).unwrap();
        assert_eq!(command.argv()[1].to_bytes(), [0xff, b'x', 0x80]);
    }
}
