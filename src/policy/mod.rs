//! Entries + answers → policy: which address, protocol and port may be reached, as disjoint
//! elements that a set of nftables takes as they are.

use crate::service::Service;
use ipnet::IpNet;

/// One element of a set: every address of a network, one protocol, one range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The addresses; a prefix of full length for one of them.
    pub network: IpNet,
    /// The protocol and its ports.
    pub service: Service,
}

/// What may flow beside the fixed rules: the content of the sets.
///
/// Within each field the elements are disjoint and sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Destinations that may be reached.
    pub allow: Vec<Element>,
    /// Destinations that may not, whatever `allow` says.
    pub deny: Vec<Element>,
    /// Sources and the local service that they may connect to.
    pub inbound: Vec<Element>,
}
