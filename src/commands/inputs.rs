//! Reading what the policy is made of: the lists, /etc/resolv.conf and /etc/hosts.

use crate::{
    allowlist::{self, Accept, Allowlist, Name, Source, SourceKind},
    config::{DEFAULT_ALLOWLIST, FALLBACK_ENTRY, List, Lists, StartConfig},
    error::Error,
    file,
    policy::Answers,
    resolve::{
        hosts::{HOSTS, Hosts},
        nameservers::{RESOLV_CONF, ResolvConf, Upstreams},
    },
};
use std::{collections::HashSet, io, path::Path};
use tracing::{info, warn};

/// The longest list that is read, in octets: a million entries.
const LIST_LIMIT: u64 = 64 * 1024 * 1024;

/// The entries of every list that was named, or of the default.
pub fn allowlist(lists: &Lists) -> Result<Allowlist, Error> {
    let sources = match lists {
        Lists::Given(lists) => lists.iter().map(given).collect::<Result<_, _>>()?,
        Lists::Default => vec![default_list()?],
    };
    Ok(allowlist::parse(&sources, Accept { wildcards: false })?)
}

/// What is to be asked of DNS, and what need not be.
pub struct Questions {
    /// Names that /etc/hosts does not have.
    pub names: Vec<Name>,
    /// Those that are allowed, and so need an address.
    pub required: HashSet<Name>,
    /// Whom to ask.
    pub upstreams: Upstreams,
    /// The answers that /etc/hosts has: the operator's word.
    pub known: Answers,
}

/// Divides the names of a list by who has the answer.
pub fn questions(list: &Allowlist, config: &StartConfig) -> Result<Questions, Error> {
    let hosts = Hosts::read(Path::new(HOSTS))?;
    let mut known = Answers::new();
    let mut names = Vec::new();
    for name in list.names() {
        match hosts.addresses(&name) {
            Some(addresses) => {
                known.insert(name, addresses.to_vec());
            }
            None => names.push(name),
        }
    }
    let required = list.allowed().into_keys().cloned().collect();
    let resolv_conf = match ResolvConf::read(Path::new(RESOLV_CONF)) {
        // Then it is asked for its search list alone.
        Err(error) if !config.upstreams.is_empty() => {
            warn!("{}", Error::from(error).report());
            ResolvConf::default()
        }
        read => read?,
    };
    Ok(Questions {
        names,
        required,
        upstreams: Upstreams::new(resolv_conf, &config.upstreams),
        known,
    })
}

fn given(list: &List) -> Result<Source, Error> {
    match list {
        List::Text(source) => Ok(source.clone()),
        List::File(path) => read(path).map_err(|source| Error::List {
            path: path.clone(),
            source,
        }),
    }
}

fn default_list() -> Result<Source, Error> {
    let path = Path::new(DEFAULT_ALLOWLIST);
    match read(path) {
        Ok(source) => Ok(source),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            info!(
                "no list was named and {DEFAULT_ALLOWLIST} does not exist: allowing {FALLBACK_ENTRY} alone"
            );
            Ok(Source {
                label: "the default list".to_owned(),
                text: FALLBACK_ENTRY.into(),
                kind: SourceKind::Entry,
            })
        }
        Err(source) => Err(Error::List {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read(path: &Path) -> io::Result<Source> {
    let text = file::read(path, LIST_LIMIT)?;
    Ok(Source {
        label: path.display().to_string(),
        text,
        kind: SourceKind::Lines,
    })
}
