//! The addresses and networks that the list refuses by themselves.

use crate::allowlist::Services;
use crate::service::Service;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};

/// Looks up what is refused everywhere in a network, in one step for each prefix length in use.
pub(super) struct Refused {
    services: HashMap<IpNet, Services>,
    lengths: BTreeSet<u8>,
}

impl Refused {
    pub fn new<'a>(networks: impl Iterator<Item = (IpNet, &'a Services)>) -> Self {
        let mut found: HashMap<IpNet, Vec<Service>> = HashMap::new();
        for (network, services) in networks {
            found.entry(network).or_default().extend(services.iter());
        }
        Self {
            lengths: found.keys().map(IpNet::prefix_len).collect(),
            services: found
                .into_iter()
                .map(|(network, services)| (network, services.into_iter().collect()))
                .collect(),
        }
    }

    /// The services that are refused at every address of `network`.
    pub fn services_of(&self, network: IpNet) -> Services {
        if self.lengths.is_empty() {
            return Services::default();
        }
        let lengths = self.lengths.range(..=network.prefix_len());
        let around = lengths.filter_map(|&length| {
            let around = IpNet::new(network.addr(), length).ok()?.trunc();
            self.services.get(&around)
        });
        around.flat_map(Services::iter).collect()
    }
}
