//! What the tests against a real kernel, the demo and the benchmarks share: a small internet per
//! case ([`world`]), what runs in it ([`probe`], [`outside`], [`dns`]) and what starts the cases
//! ([`harness`]).

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    missing_docs
)]

pub mod capture;
pub mod dns;
pub mod harness;
pub mod live;
pub mod outside;
pub mod probe;
pub mod sys;
pub mod world;
