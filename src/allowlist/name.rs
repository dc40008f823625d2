//! Host names as DNS carries them.

use std::{fmt, sync::Arc};

/// A host name: lower-case A-labels joined by dots, no trailing dot, at most 253 octets
/// (RFC 1035 section 2.3.4, RFC 5890). Made by the list grammar only, so holding one means that
/// it is valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    pub(super) fn from_valid(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has a dot, and so is absolute whatever `ndots` says.
    #[must_use]
    pub fn has_dot(&self) -> bool {
        self.0.contains('.')
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
