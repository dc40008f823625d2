//! /etc/hosts: the operator's lines are answers already, and our own answers go into it.
//!
//! Our lines form a block between two marker lines. Everything outside the block is the
//! operator's or the runtime's and is kept octet for octet. The file is written in place, never
//! replaced: in a container it is a bind mount.
//!
//! One line for each pair of address and name. getaddrinfo of both glibc and musl collects every
//! line that has the name, of the family asked for (glibc, with `multi on` in /etc/host.conf, all
//! of them, musl the first 48; tried with glibc 2.36 and musl 1.2.3). With several names a line, the first of them would become the
//! canonical name of the others; and musl reads lines of at most 511 octets, which a line of ours
//! never exceeds.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io,
    net::IpAddr,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::allowlist::Name;
use crate::file;

/// Where the C library looks first (hosts(5)).
pub const HOSTS: &str = "/etc/hosts";

/// 100,000 names with many addresses each.
const LIMIT: u64 = 64 * 1024 * 1024;

/// The first line of the block begins with this, whichever version wrote it.
const BEGIN: &str = "# egress-init begin";
const BEGIN_NOTE: &str = "resolved at the start, rewritten by the next one";
const END: &str = "# egress-init end";

/// Why /etc/hosts is of no use.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be opened for writing, created or written.
    #[error("cannot write the pinned addresses to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why; `ELOOP` where it is a symbolic link.
        source: io::Error,
    },
}

impl HostsError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Read { path, .. } => {
                Some(format!("make {} a regular file", path.display()).into())
            }
            Self::Write { path, .. } => Some(
                format!(
                    "make {} a regular file that root can write (no symbolic link; on a read-only \
                     root file system, a mount of its own), or choose --dns system",
                    path.display()
                )
                .into(),
            ),
        }
    }
}

/// The operator's lines: names and their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Hosts {
    /// Reads a file; one that does not exist has no lines.
    pub fn read(path: &Path) -> Result<Self, HostsError> {
        match file::read(path, LIMIT) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(HostsError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Understands the text as hosts(5) has it: an address, then its names; `#` starts a comment.
    /// A line without an address is none. Our own block is skipped.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let (before, after) = outside(text);
        let mut hosts = Self::default();
        for line in lines(before).chain(lines(after)) {
            let line = String::from_utf8_lossy(line);
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let known = hosts
                    .addresses
                    .entry(name.to_ascii_lowercase())
                    .or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        hosts
    }

    /// What the operator says of a name, if anything; never an empty list.
    #[must_use]
    pub fn addresses(&self, name: &Name) -> Option<&[IpAddr]> {
        self.addresses.get(name.as_str()).map(Vec::as_slice)
    }
}

/// Makes `answers` our block: the one of an earlier start is replaced where it stands, a first
/// one is appended, and an empty list takes it away. The file is created where it is missing.
///
/// Not synced to the disk: every process sees it at once, and the start after a crash writes it
/// anew. Where nothing changes, nothing is written. A write that fails half-way puts the old content back as far as it can.
pub fn write(path: &Path, answers: &[(Name, Vec<IpAddr>)]) -> Result<(), HostsError> {
    write_in_place(path, &block(answers)).map_err(|source| HostsError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write_in_place(path: &Path, block: &str) -> io::Result<()> {
    // Nothing to change needs nothing that can be written.
    match file::read(path, LIMIT) {
        Ok(text) if with_block(&text, block) == text => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && block.is_empty() => return Ok(()),
        _ => {}
    }
    // No link is followed: the runtime mounts over what a link in the image points to, so a link
    // here means that something else made it, and it could point anywhere.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let old = file::content(&file, LIMIT)?;
    overwrite(&file, &with_block(&old, block), old.len()).inspect_err(|_| {
        // The first error is the one to report.
        let _ = overwrite(&file, &old, usize::MAX);
    })
}

/// Writes `content` in place of at most `there` octets.
fn overwrite(file: &File, content: &[u8], there: usize) -> io::Result<()> {
    file.write_all_at(content, 0)?;
    if there > content.len() {
        file.set_len(content.len() as u64)?;
    }
    Ok(())
}

/// The block, or nothing for no answers.
fn block(answers: &[(Name, Vec<IpAddr>)]) -> String {
    let mut lines = String::new();
    for (name, addresses) in answers {
        for address in addresses {
            // Writing to a string does not fail.
            let _ = writeln!(lines, "{address} {name}");
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!("{BEGIN}: {BEGIN_NOTE}\n{lines}{END}\n")
}

/// The text with `block` where our block is, or at its end.
pub(crate) fn with_block(text: &[u8], block: &str) -> Vec<u8> {
    let (before, after) = outside(text);
    let mut new = before.to_vec();
    if !block.is_empty() && new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    new.extend_from_slice(block.as_bytes());
    new.extend_from_slice(after);
    new
}

/// The text before and after our block. A block without its end (a write that was cut off) runs
/// to the end of the text.
pub(crate) fn outside(text: &[u8]) -> (&[u8], &[u8]) {
    let mut begin = None;
    let mut offset = 0;
    for line in lines(text) {
        match begin {
            None if line.starts_with(BEGIN.as_bytes()) => begin = Some(offset),
            Some(begin) if line.trim_ascii_end() == END.as_bytes() => {
                return (&text[..begin], &text[offset + line.len()..]);
            }
            _ => {}
        }
        offset += line.len();
    }
    (&text[..begin.unwrap_or(text.len())], &[])
}

/// Lines with their newline.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|octet| *octet == b'\n')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::allowlist::{self, Accept, Source, SourceKind};
    use proptest::prelude::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn name(text: &str) -> Name {
        let source = Source {
            label: "test".to_owned(),
            text: text.as_bytes().to_vec(),
            kind: SourceKind::Entry,
        };
        let list = allowlist::parse(&[source], Accept::default()).unwrap();
        list.names().remove(0)
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect()
    }

    fn answers() -> Vec<(Name, Vec<IpAddr>)> {
        vec![
            (name("a.example"), addresses(&["192.0.2.1", "2001:db8::1"])),
            (name("b.example"), addresses(&["192.0.2.1"])),
        ]
    }

    const BLOCK: &str = "# egress-init begin: resolved at the start, rewritten by the next one\n\
                         192.0.2.1 a.example\n2001:db8::1 a.example\n192.0.2.1 b.example\n\
                         # egress-init end\n";
    const OPERATOR: &str = "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n10.0.0.5 db";

    #[test]
    fn the_operators_lines() {
        let hosts = Hosts::parse(
            b"# comment\n127.0.0.1\tlocalhost\n  10.0.0.5   DB.Example.  db  # db.old\r\n\
              2001:db8::5 db\n10.0.0.5 db\nnonsense db\n10.0.0.6\n\xff\xfe 1\n10.0.0.7 last",
        );
        assert_eq!(
            hosts.addresses(&name("db")),
            Some(&addresses(&["10.0.0.5", "2001:db8::5"])[..])
        );
        assert_eq!(
            hosts.addresses(&name("last")),
            Some(&addresses(&["10.0.0.7"])[..])
        );
        assert_eq!(hosts.addresses(&name("db.old")), None);
        // As the C library has it: a name with a trailing dot is another one.
        assert_eq!(hosts.addresses(&name("db.example")), None);
    }

    #[test]
    fn our_block_is_not_the_operators_word() {
        let text = format!("{OPERATOR}\n{BLOCK}10.0.0.9 appended\n");
        let hosts = Hosts::parse(text.as_bytes());
        assert_eq!(hosts.addresses(&name("a.example")), None);
        assert!(hosts.addresses(&name("db")).is_some());
        assert!(hosts.addresses(&name("appended")).is_some());
    }

    #[test]
    fn a_block_cut_off_runs_to_the_end() {
        let text = format!("{OPERATOR}\n{}", &BLOCK[..BLOCK.len() - 3]);
        let hosts = Hosts::parse(text.as_bytes());
        assert_eq!(hosts.addresses(&name("a.example")), None);
        let new = with_block(text.as_bytes(), BLOCK);
        assert_eq!(new, format!("{OPERATOR}\n{BLOCK}").as_bytes());
    }

    #[test]
    fn the_first_block_is_appended() {
        assert_eq!(block(&answers()), BLOCK);
        let new = with_block(OPERATOR.as_bytes(), BLOCK);
        assert_eq!(new, format!("{OPERATOR}\n{BLOCK}").as_bytes());
    }

    #[test]
    fn a_later_block_replaces_it_where_it_stands() {
        let old =
            format!("{OPERATOR}\n# egress-init begin: of old\n192.0.2.9 z\n{END}\n10.0.0.9 x\n");
        let new = with_block(old.as_bytes(), BLOCK);
        assert_eq!(new, format!("{OPERATOR}\n{BLOCK}10.0.0.9 x\n").as_bytes());
    }

    #[test]
    fn no_answers_take_the_block_away() {
        assert_eq!(block(&[]), "");
        assert_eq!(block(&[(name("a.example"), vec![])]), "");
        let old = format!("{OPERATOR}\n{BLOCK}");
        assert_eq!(
            with_block(old.as_bytes(), ""),
            format!("{OPERATOR}\n").as_bytes()
        );
        assert_eq!(with_block(OPERATOR.as_bytes(), ""), OPERATOR.as_bytes());
    }

    #[test]
    fn lines_stay_short_enough_for_musl() {
        let longest = [&"a".repeat(63); 4].map(String::as_str).join(".");
        let name = name(&longest[..253]);
        let address = addresses(&["1111:1111:1111:1111:1111:1111:255.255.255.255"]);
        for line in block(&[(name, address)]).lines() {
            assert!(line.len() < 511, "{line}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_file_is(text in proptest::collection::vec(any::<u8>(), 0..200),
                                lines in proptest::collection::vec(
                                    prop_oneof![Just(BEGIN), Just(END), Just("10.0.0.1 a"), Just("")], 0..8)) {
            let text = [text, lines.join("\n").into_bytes()].concat();
            let once = with_block(&text, BLOCK);
            prop_assert_eq!(&with_block(&once, BLOCK), &once);
            let (before, after) = outside(&text);
            prop_assert!(once.starts_with(before));
            prop_assert!(once.ends_with(after));
        }
    }

    #[test]
    fn written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let long = format!(
            "{OPERATOR}\n{BEGIN}\n{}",
            "192.0.2.77 old.example\n".repeat(50)
        );
        std::fs::write(&path, long).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let before = std::fs::metadata(&path).unwrap();

        write(&path, &answers()).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{OPERATOR}\n{BLOCK}")
        );
        assert_eq!(after.ino(), before.ino());
        assert_eq!(after.mode(), before.mode());

        // The same again writes nothing.
        write(&path, &answers()).unwrap();
        let again = std::fs::metadata(&path).unwrap();
        assert_eq!(
            (again.mtime(), again.mtime_nsec()),
            (after.mtime(), after.mtime_nsec())
        );

        write(&path, &[]).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{OPERATOR}\n")
        );
    }

    #[test]
    fn created_where_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        write(&path, &answers()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), BLOCK);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, path) = (dir.path().join("passwd"), dir.path().join("hosts"));
        std::fs::write(&target, "root\n").unwrap();
        symlink(&target, &path).unwrap();
        let error = write(&path, &answers()).unwrap_err();
        assert!(error.remedy().unwrap().contains("--dns system"));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "root\n");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let error = write(Path::new("/dev/null"), &answers()).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }
}
