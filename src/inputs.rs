//! Reading what the policy is made of: the lists, /etc/resolv.conf and /etc/hosts.

use crate::{
    allowlist::{self, Accept, Allowlist, Name, Source, SourceKind},
    config::{DEFAULT_ALLOWLIST, Dns, FALLBACK_ENTRY, List, Lists, StartConfig},
    error::Error,
    file,
    policy::Answers,
    resolve::{
        hosts::{HOSTS, Hosts},
        nameservers::{RESOLV_CONF, ResolvConf, Upstreams},
    },
};
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::Path,
};
use tracing::{info, warn};

/// The longest list that is read, in octets: a million entries.
const LIST_LIMIT: u64 = 64 * 1024 * 1024;

/// What tells the text of all lists from another, within a process.
pub type Digest = u64;

/// The entries of every list that was named, or of the default, and what tells them from others.
/// Only a resolver of our own can let wildcards in.
pub fn allowlist(lists: &Lists, dns: Dns) -> Result<(Allowlist, Digest), Error> {
    let sources: Vec<Source> = match lists {
        Lists::Given(lists) => lists.iter().map(given).collect::<Result<_, _>>()?,
        Lists::Default => vec![default_list()?],
    };
    let accept = Accept {
        wildcards: dns == Dns::Proxy,
    };
    let list = allowlist::parse(&sources, accept)?;
    let mut hash = DefaultHasher::new();
    for source in &sources {
        source.text.hash(&mut hash);
    }
    Ok((list, hash.finish()))
}

/// The same lists for every later reading: where there is a default list it is not optional any
/// more. One that goes is a mistake then, such as the moment between two steps of an editor, and no
/// wish for [`FALLBACK_ENTRY`].
#[must_use]
pub fn as_found(lists: Lists) -> Lists {
    match lists {
        Lists::Default if Path::new(DEFAULT_ALLOWLIST).exists() => {
            Lists::Given(vec![List::File(DEFAULT_ALLOWLIST.into())])
        }
        lists => lists,
    }
}

/// What /etc/hosts has for the names of a list: the operator's word.
pub fn hosts(list: &Allowlist) -> Result<Answers, Error> {
    Ok(divide(list.names())?.0)
}

/// What /etc/hosts has for these names, and those that it does not have.
fn divide(names: Vec<Name>) -> Result<(Answers, Vec<Name>), Error> {
    let hosts = Hosts::read(Path::new(HOSTS))?;
    let mut known = Answers::new();
    let mut unknown = Vec::new();
    for name in names {
        match hosts.addresses(&name).map(<[_]>::to_vec) {
            Some(addresses) => _ = known.insert(name, addresses),
            None => unknown.push(name),
        }
    }
    Ok((known, unknown))
}

/// What is to be asked of DNS, and what need not be.
pub struct Questions {
    /// Names that /etc/hosts does not have.
    pub names: Vec<Name>,
    /// Whom to ask.
    pub upstreams: Upstreams,
    /// The answers that /etc/hosts has: the operator's word.
    pub known: Answers,
}

/// Divides the names of a list by who has the answer.
pub fn questions(list: &Allowlist, config: &StartConfig) -> Result<Questions, Error> {
    let (known, names) = divide(list.names())?;
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
