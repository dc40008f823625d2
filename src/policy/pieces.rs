//! Services of one address that end at different times, as disjoint pieces: what a set holds
//! where several names share an address.

use crate::{allowlist::Services, service::Service};
use std::{cmp::Reverse, time::Instant};

/// A service of an address, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub service: Service,
    pub until: Instant,
}

/// Disjoint pieces of the union: each lives as long as the longest-lived that covers it. What ends
/// sooner has no say in the pieces of what ends later, so that the pieces of those that are left
/// stay the same when some end.
pub(super) fn pieces(lent: impl IntoIterator<Item = (Services, Instant)>) -> Vec<Piece> {
    let mut lent: Vec<(Services, Instant)> = lent.into_iter().collect();
    lent.sort_by_key(|(_, until)| Reverse(*until));
    let mut covered = Services::default();
    let mut found = Vec::new();
    for group in lent.chunk_by(|(_, one), (_, other)| one == other) {
        let until = group[0].1;
        let services: Services = group.iter().flat_map(|(found, _)| found.iter()).collect();
        let own = services.without(&covered);
        found.extend(own.iter().map(|service| Piece { service, until }));
        if group.len() < lent.len() {
            covered = covered.union(&services);
        }
    }
    found
}
