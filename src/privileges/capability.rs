//! `--keep-cap`: capabilities by name, and those that no command may keep.

use super::PrivilegeError;
use caps::Capability;
use std::{fmt, str::FromStr};

/// A capability that `--keep-cap` accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptCapability(pub(super) Capability);

/// Each of these undoes the firewall, or reads and writes what enforces it.
const REFUSED: [Capability; 6] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_BPF,
];

impl FromStr for KeptCapability {
    type Err = PrivilegeError;

    fn from_str(text: &str) -> Result<Self, PrivilegeError> {
        let capability: Capability = caps::to_canonical(text)
            .parse()
            .map_err(|_| PrivilegeError::UnknownCapability(text.to_owned()))?;
        if REFUSED.contains(&capability) {
            return Err(PrivilegeError::RefusedCapability(capability));
        }
        Ok(Self(capability))
    }
}

impl fmt::Display for KeptCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(self.0))
    }
}

impl KeptCapability {
    /// Its bit in a capability set.
    #[must_use]
    pub fn mask(self) -> u64 {
        self.0.bitmask()
    }
}

/// The capabilities of a set, in the kernel's order, as container runtimes write them; one that is
/// newer than this program by its number.
#[must_use]
pub fn names(set: u64) -> String {
    let known = caps::all();
    let name = |number: u8| {
        let found = known.iter().find(|known| known.index() == number);
        found.map_or_else(|| number.to_string(), |found| short(*found))
    };
    let numbers = (0..64).filter(|number| set & (1 << number) != 0);
    numbers.map(name).collect::<Vec<_>>().join(" ")
}

/// As container runtimes write it.
pub(super) fn short(capability: Capability) -> String {
    capability.to_string().trim_start_matches("CAP_").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_set_is_named_in_order() {
        assert_eq!(names(1 << 12 | 1 << 8 | 1 << 63), "SETPCAP NET_ADMIN 63");
        assert_eq!(names(0), "");
    }

    #[test]
    fn capabilities_that_undo_the_firewall_are_refused() {
        for name in [
            "NET_ADMIN",
            "NET_RAW",
            "SYS_ADMIN",
            "SYS_MODULE",
            "SYS_PTRACE",
            "BPF",
        ] {
            for text in [name.to_owned(), format!("CAP_{name}"), name.to_lowercase()] {
                let error = text.parse::<KeptCapability>().unwrap_err();
                assert!(
                    matches!(error, PrivilegeError::RefusedCapability(_)),
                    "{text}: {error}"
                );
            }
        }
        for text in ["CAP_NET_BIND_SERVICE", "net_bind_service"] {
            assert_eq!(
                text.parse::<KeptCapability>().unwrap().to_string(),
                "NET_BIND_SERVICE"
            );
        }
        for text in ["", "CAP_", "NET_BIND", "13", "ALL"] {
            let error = text.parse::<KeptCapability>().unwrap_err();
            assert!(
                matches!(error, PrivilegeError::UnknownCapability(_)),
                "{text}: {error}"
            );
        }
    }
}
