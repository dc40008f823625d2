//! What the kernel says a thread may do: `/proc/thread-self/status` (`proc_pid_status(5)`).

use crate::file;
use std::io;
use thiserror::Error;

const FILE: &str = "/proc/thread-self/status";

/// The credentials of one thread. Capability sets are masks, bit n for capability n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Real, effective, saved and filesystem user id.
    pub uid: [u32; 4],
    /// Real, effective, saved and filesystem group id.
    pub gid: [u32; 4],
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// What survives exec of a file that inherits it.
    pub inheritable: u64,
    /// What the thread may make effective.
    pub permitted: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What exec can ever give.
    pub bounding: u64,
    /// What survives exec of any file.
    pub ambient: u64,
    /// Whether exec gives nothing new.
    pub no_new_privs: bool,
    /// 0 for none, 2 for a filter.
    pub seccomp: u32,
    /// The signals that the process ignores, bit n - 1 for signal n.
    pub ignored: u64,
}

/// Why the credentials are unknown.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The file cannot be read.
    #[error("cannot read {FILE}")]
    Unreadable(#[source] io::Error),
    /// A map of ids of the user namespace cannot be read.
    #[error("cannot read {0}")]
    IdMap(&'static str, #[source] io::Error),
    /// A line is missing or not as documented.
    #[error("{FILE} has no valid line `{0}`")]
    Malformed(&'static str),
}

impl Status {
    /// Of the calling thread.
    pub fn read() -> Result<Self, StatusError> {
        Self::parse(&file::of_proc(FILE).map_err(StatusError::Unreadable)?)
    }

    fn parse(text: &str) -> Result<Self, StatusError> {
        // Cut once: a start reads this three times, and looks for eleven lines among sixty each time.
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let lines = &lines.collect::<Vec<_>>()[..];
        Ok(Self {
            uid: ids(lines, "Uid")?
                .try_into()
                .map_err(|_| StatusError::Malformed("Uid"))?,
            gid: ids(lines, "Gid")?
                .try_into()
                .map_err(|_| StatusError::Malformed("Gid"))?,
            groups: {
                let mut groups = ids(lines, "Groups")?;
                groups.sort_unstable();
                groups
            },
            inheritable: mask(lines, "CapInh")?,
            permitted: mask(lines, "CapPrm")?,
            effective: mask(lines, "CapEff")?,
            bounding: mask(lines, "CapBnd")?,
            ambient: mask(lines, "CapAmb")?,
            no_new_privs: number(lines, "NoNewPrivs")? == 1,
            seccomp: number(lines, "Seccomp")?,
            ignored: mask(lines, "SigIgn")?,
        })
    }
}

/// Names and values.
type Lines<'a> = &'a [(&'a str, &'a str)];

fn value<'a>(lines: Lines<'a>, key: &'static str) -> Result<&'a str, StatusError> {
    let line = lines.iter().find(|(name, _)| *name == key);
    line.map(|(_, value)| value.trim())
        .ok_or(StatusError::Malformed(key))
}

fn ids(lines: Lines, key: &'static str) -> Result<Vec<u32>, StatusError> {
    let numbers = value(lines, key)?.split_ascii_whitespace().map(str::parse);
    numbers
        .collect::<Result<_, _>>()
        .map_err(|_| StatusError::Malformed(key))
}

fn mask(lines: Lines, key: &'static str) -> Result<u64, StatusError> {
    u64::from_str_radix(value(lines, key)?, 16).map_err(|_| StatusError::Malformed(key))
}

fn number(lines: Lines, key: &'static str) -> Result<u32, StatusError> {
    value(lines, key)?
        .parse()
        .map_err(|_| StatusError::Malformed(key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const TEXT: &str = "Name:\tcat\nUid:\t1000\t1000\t0\t1000\nGid:\t5\t5\t5\t5\nGroups:\t998 29 \n\
        SigIgn:\t0000000000001000\nCapInh:\t0000000000000000\nCapPrm:\t00000000000004c0\nCapEff:\t0000000000000080\n\
        CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t1\n";

    #[test]
    fn parses_what_the_kernel_prints() {
        let status = Status::parse(TEXT).unwrap();
        assert_eq!(status.uid, [1000, 1000, 0, 1000]);
        assert_eq!(status.groups, [29, 998]);
        assert_eq!((status.permitted, status.ambient), (0x4c0, 0x400));
        assert_eq!(status.bounding, 0x1ff_ffff_ffff);
        assert!(status.no_new_privs);
        assert_eq!(status.seccomp, 2);
        assert_eq!(status.ignored, 1 << (libc::SIGPIPE - 1));
        assert!(
            Status::parse(&TEXT.replace("Groups:\t998 29 ", "Groups:\t"))
                .unwrap()
                .groups
                .is_empty()
        );
    }

    #[test]
    fn a_line_that_is_missing_or_odd_is_named() {
        for (line, key) in [
            ("Uid:\t1000\t1000\t0\t1000", "Uid"),
            ("NoNewPrivs:\t1", "NoNewPrivs"),
            ("00000000000004c0", "CapPrm"),
        ] {
            let error = Status::parse(&TEXT.replace(line, "")).unwrap_err();
            assert!(
                matches!(error, StatusError::Malformed(found) if found == key),
                "{error}"
            );
        }
    }

    #[test]
    fn reads_this_thread() {
        let status = Status::read().unwrap();
        assert_eq!(status.uid[1], nix::unistd::geteuid().as_raw());
    }
}
