//! Text → entries: the grammar of an allowlist, and the lists that ship with the binary.

mod name;

pub use name::Name;
