//! The only module of the crate with `unsafe`.
