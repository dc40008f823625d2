//! Doors for the fuzz targets of `fuzz/` to what is private here: parsers of octets that others
//! wrote. Only there with `--cfg fuzzing`, and no part of the library.

use crate::{
    resolve::hosts,
    sentinel::{self, NotVerified, Sentinel},
};

pub use crate::{
    nft::fuzzing::read_answer,
    proxy::fuzzing::{Exchange, Fence, exchange},
    resolve::fuzzing::{Said, follow},
};

/// The text of a sentinel.
pub fn parse_sentinel(text: &[u8]) -> Result<Sentinel, NotVerified> {
    sentinel::parse("sentinel".as_ref(), text)
}

/// /etc/hosts with another block of ours.
#[must_use]
pub fn with_block(text: &[u8], block: &str) -> Vec<u8> {
    hosts::with_block(text, block)
}

/// What of /etc/hosts stands before and after our block.
#[must_use]
pub fn outside_of_block(text: &[u8]) -> (&[u8], &[u8]) {
    hosts::outside(text)
}
