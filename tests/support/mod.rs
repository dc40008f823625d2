//! What the integration tests, the demo and the benchmarks share.

pub mod dns;
