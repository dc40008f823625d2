//! What the list says of one name: the question that every query of the command asks.
//!
//! Everything that entries mean together is worked out when the list is read, so that an answer is
//! a hash and, for a name below a wildcard, one more for each label: no entry is gone through, and
//! nothing is allocated.

use super::{Allowlist, Name, Services, Target};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// What kind of entry asked for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The name itself stands in the list.
    Name,
    /// It lies below an allowed wildcard, so that whoever runs the zone chose it.
    Wildcard,
}

/// What of a name may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed<'a> {
    /// The services, at least one: those that any entry allows, less those that one refuses.
    pub services: &'a Services,
    /// By what kind of entry; the name itself where both kinds allow it.
    pub origin: Origin,
}

/// A list as a table of names.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Names that an entry, allowed or refused, is about: what is left of them.
    names: HashMap<Name, (Services, Origin)>,
    /// Zones that an entry is about: what is left of the names below that are not in `names` and
    /// not below a nearer zone.
    zones: HashMap<Name, Services>,
    search: HashSet<Name>,
}

impl Lookup {
    /// Works out a list. `search` is what resolv.conf says: entries without a dot are allowed,
    /// and refused, below each of these domains too. One that is no name (the root) is left out.
    #[must_use]
    pub fn new(list: &Allowlist, search: &[String]) -> Self {
        let search: HashSet<Name> = search
            .iter()
            .filter_map(|domain| domain.parse().ok())
            .collect();
        let mut parts = Parts::default();
        for entry in list.entries() {
            let (names, zones) = if entry.deny {
                (&mut parts.refused, &mut parts.refused_zones)
            } else {
                (&mut parts.names, &mut parts.zones)
            };
            match &entry.target {
                Target::Name(name) => {
                    for name in below_each(name, &search) {
                        add(names, name, &entry.services);
                    }
                }
                Target::Wildcard(zone) => add(zones, zone.clone(), &entry.services),
                Target::Network(_) => {}
            }
        }
        Self {
            names: parts.merged_names(),
            zones: parts.merged_zones(),
            search,
        }
    }

    /// What of `name` may be reached; nothing where the list does not allow it.
    #[must_use]
    pub fn verdict(&self, name: &Name) -> Option<Allowed<'_>> {
        let (services, origin) = if let Some((services, origin)) = self.names.get(name) {
            (services, *origin)
        } else {
            let nearest = name.zones().find_map(|zone| self.zones.get(zone))?;
            (nearest, Origin::Wildcard)
        };
        (!services.is_empty()).then_some(Allowed { services, origin })
    }

    /// The octets of `name` that stand in place of the `*` of the nearest wildcard above it: what
    /// whoever asks can say to whoever runs the zone.
    #[must_use]
    pub fn octets_below(&self, name: &Name) -> usize {
        let mut zones = name.zones();
        let nearest = zones.find(|zone| self.zones.contains_key(*zone));
        nearest.map_or(0, |zone| name.as_str().len() - zone.len() - 1)
    }

    /// Whether `name` lies below a search domain. Resolvers try such names for a short one, and go
    /// on to the next only where they hear that it does not exist.
    #[must_use]
    pub fn below_search(&self, name: &Name) -> bool {
        name.zones().any(|zone| self.search.contains(zone))
    }

    /// Feeds a hash with all that [`Self::verdict`] depends on, in one order for the same list.
    pub(crate) fn identify(&self, hash: &mut Sha256) {
        let mut lines: Vec<String> = self
            .names
            .iter()
            .map(|(name, (services, origin))| format!("{name} {services} {origin:?}\n"))
            .chain(
                self.zones
                    .iter()
                    .map(|(zone, services)| format!("*.{zone} {services}\n")),
            )
            .collect();
        lines.sort_unstable();
        for line in lines {
            hash.update(line);
        }
    }
}

/// The name, and where it has no dot the same below each search domain.
fn below_each(name: &Name, search: &HashSet<Name>) -> Vec<Name> {
    let mut names = vec![name.clone()];
    if !name.has_dot() {
        let domains = search.iter();
        names.extend(domains.filter_map(|domain| format!("{name}.{domain}").parse().ok()));
    }
    names
}

fn add(to: &mut HashMap<Name, Services>, name: Name, services: &Services) {
    to.entry(name)
        .and_modify(|known| *known = known.union(services))
        .or_insert_with(|| services.clone());
}

/// The entries by kind, each name once.
#[derive(Default)]
struct Parts {
    names: HashMap<Name, Services>,
    refused: HashMap<Name, Services>,
    zones: HashMap<Name, Services>,
    refused_zones: HashMap<Name, Services>,
}

impl Parts {
    fn merged_names(&self) -> HashMap<Name, (Services, Origin)> {
        let all: HashSet<&Name> = self.names.keys().chain(self.refused.keys()).collect();
        let merged = all.into_iter().map(|name| {
            let lost = self.refused.get(name).into_iter();
            let lost: Vec<&Services> = lost.chain(at(&self.refused_zones, name.zones())).collect();
            let left = |services: &Services| {
                lost.iter()
                    .fold(services.clone(), |left, lost| left.without(lost))
            };
            let own = self.names.get(name).map(left).unwrap_or_default();
            // What is refused by itself leaves nothing that the operator meant by that name.
            let origin = if own.is_empty() {
                Origin::Wildcard
            } else {
                Origin::Name
            };
            let above = union(at(&self.zones, name.zones()));
            (name.clone(), (own.union(&left(&above)), origin))
        });
        merged.collect()
    }

    fn merged_zones(&self) -> HashMap<Name, Services> {
        let all: HashSet<&Name> = self.zones.keys().chain(self.refused_zones.keys()).collect();
        let merged = all.into_iter().map(|zone| {
            let around = || std::iter::once(zone.as_str()).chain(zone.zones());
            let allowed = union(at(&self.zones, around()));
            let left = allowed.without(&union(at(&self.refused_zones, around())));
            (zone.clone(), left)
        });
        merged.collect()
    }
}

/// What `map` has for these zones.
fn at<'a>(
    map: &'a HashMap<Name, Services>,
    zones: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = &'a Services> {
    zones.filter_map(|zone| map.get(zone))
}

fn union<'a>(services: impl Iterator<Item = &'a Services>) -> Services {
    services.flat_map(Services::iter).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::{Accept, Source, SourceKind, parse},
        *,
    };
    use proptest::prelude::*;

    fn list(text: &str) -> Allowlist {
        let source = Source {
            label: "list".into(),
            text: text.into(),
            kind: SourceKind::Words,
        };
        parse(&[source], Accept { wildcards: true }).unwrap()
    }

    fn said(lookup: &Lookup, name: &str) -> Option<(String, Origin)> {
        let allowed = lookup.verdict(&name.parse().unwrap())?;
        Some((allowed.services.to_string(), allowed.origin))
    }

    #[test]
    fn names_and_wildcards_are_found() {
        let lookup = Lookup::new(
            &list("api.example.com:22 *.example.com:443 *.deep.example.com:8080/udp other.org"),
            &[],
        );
        for (name, expected) in [
            ("api.example.com", Some(("22,443", Origin::Name))),
            ("x.example.com", Some(("443", Origin::Wildcard))),
            ("x.y.z.example.com", Some(("443", Origin::Wildcard))),
            ("deep.example.com", Some(("443", Origin::Wildcard))),
            (
                "x.deep.example.com",
                Some(("443 8080/udp", Origin::Wildcard)),
            ),
            ("example.com", None),
            ("badexample.com", None),
            ("com", None),
            ("other.org", Some(("80,443", Origin::Name))),
            ("x.other.org", None),
        ] {
            let expected = expected.map(|(services, origin)| (services.to_owned(), origin));
            assert_eq!(said(&lookup, name), expected, "{name}");
        }
    }

    #[test]
    fn refusals_take_names_zones_and_services() {
        let lookup = Lookup::new(
            &list(
                "*.z.com:80,443 a.z.com:22 b.z.com:22 !a.z.com:22 !b.z.com !c.z.com:80 \
                 !*.bad.z.com *.fine.bad.z.com:80 x.bad.z.com:22 !*.some.z.com:80",
            ),
            &[],
        );
        for (name, expected) in [
            // Only the wildcard's is left, so that it counts as below a wildcard.
            ("a.z.com", Some(("80,443", Origin::Wildcard))),
            ("b.z.com", None),
            ("c.z.com", Some(("443", Origin::Wildcard))),
            ("bad.z.com", Some(("80,443", Origin::Wildcard))),
            ("x.bad.z.com", None),
            ("x.fine.bad.z.com", None),
            ("x.some.z.com", Some(("443", Origin::Wildcard))),
            ("some.z.com", Some(("80,443", Origin::Wildcard))),
        ] {
            let expected = expected.map(|(services, origin)| (services.to_owned(), origin));
            assert_eq!(said(&lookup, name), expected, "{name}");
        }
    }

    #[test]
    fn what_stands_for_the_asterisk_is_counted() {
        let lookup = Lookup::new(&list("*.example.com *.deep.example.com api.other.org"), &[]);
        for (name, octets) in [
            ("abc.example.com", 3),
            ("a.bc.example.com", 4),
            ("xy.deep.example.com", 2),
            ("example.com", 0),
            ("api.other.org", 0),
        ] {
            assert_eq!(
                lookup.octets_below(&name.parse().unwrap()),
                octets,
                "{name}"
            );
        }
    }

    #[test]
    fn short_names_are_below_the_search_domains_too() {
        let search = ["ns.svc.cluster.local", "cluster.local.", "."].map(str::to_owned);
        let lookup = Lookup::new(&list("db:5432 cache !cache api.example.com"), &search);
        for name in ["db", "db.ns.svc.cluster.local", "db.cluster.local"] {
            let expected = Some(("5432".to_owned(), Origin::Name));
            assert_eq!(said(&lookup, name), expected, "{name}");
        }
        for name in [
            "db.svc.cluster.local",
            "x.db",
            "cache",
            "cache.cluster.local",
            "api.example.com.cluster.local",
        ] {
            assert_eq!(said(&lookup, name), None, "{name}");
        }
        let below = |name: &str| lookup.below_search(&name.parse().unwrap());
        assert!(below("api.example.com.ns.svc.cluster.local"));
        assert!(below("svc.cluster.local"));
        assert!(!below("cluster.local"));
        assert!(!below("api.example.com"));
    }

    /// Names over few labels, so that they lie below one another.
    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]", 0..4).prop_map(|labels| {
            let mut labels = labels;
            labels.push("z.com".into());
            labels.join(".")
        })
    }

    fn entry() -> impl Strategy<Value = String> {
        let ports = prop_oneof![Just(":1"), Just(":1-2"), Just(":2/udp"), Just(":*/any")];
        (any::<bool>(), any::<bool>(), name(), ports).prop_map(|(deny, wild, name, ports)| {
            let deny = if deny { "!" } else { "" };
            let wild = if wild { "*." } else { "" };
            format!("{deny}{wild}{name}{ports}")
        })
    }

    /// Section 5, word for word and slowly.
    fn slowly(list: &Allowlist, name: &Name) -> (Services, Services) {
        let sum = |deny: bool, exact: bool| -> Services {
            let entries = list.entries().iter().filter(|entry| entry.deny == deny);
            entries
                .filter(|entry| match &entry.target {
                    Target::Name(target) => exact && target == name,
                    Target::Wildcard(zone) => {
                        (!exact || deny) && name.as_str().ends_with(&format!(".{zone}"))
                    }
                    Target::Network(_) => false,
                })
                .flat_map(|entry| entry.services.iter())
                .collect()
        };
        let refused = sum(true, true);
        (
            sum(false, true).without(&refused),
            sum(false, false).without(&refused),
        )
    }

    proptest! {
        #[test]
        fn agrees_with_the_entries(entries in prop::collection::vec(entry(), 1..10), asked in prop::collection::vec(name(), 1..10)) {
            let list = list(&entries.join("\n"));
            let lookup = Lookup::new(&list, &[]);
            for name in asked.iter().chain(&["z.com".to_owned()]) {
                let name: Name = name.parse().unwrap();
                let (own, wild) = slowly(&list, &name);
                let all = own.union(&wild);
                match lookup.verdict(&name) {
                    None => prop_assert!(all.is_empty(), "{}", name),
                    Some(allowed) => {
                        prop_assert_eq!(allowed.services, &all);
                        prop_assert_eq!(allowed.origin == Origin::Name, !own.is_empty());
                    }
                }
                // For names that stand in the list it is what the other modes allow.
                if let Some(services) = list.allowed().get(&name) {
                    prop_assert_eq!(services, &own);
                } else {
                    prop_assert!(own.is_empty());
                }
            }
        }
    }
}
