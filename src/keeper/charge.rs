//! What a keeper is in charge of: the ledger of addresses, the table in the kernel, and what there
//! is to say about both.
//!
//! No future runs while it is borrowed, so that ledger and kernel are always changed together: an
//! answer is in the sets, acknowledged, before anybody gets it.

use super::schedule::{AfterFailure, Schedule};
use crate::{
    allowlist::{Allowlist, Name},
    commands::inputs::{self, Lists},
    error::Error,
    nft::{NftError, Nftables},
    policy::{
        Answers, Counts, Element, Ledger, Lifetimes, Nameservers, Origin, Outcome, Refusal,
    },
    proxy::{Gate, NotAdmitted, Verdict},
    resolve::{Answer, Resolved, Unresolved},
    ruleset::{self, Dns, Ruleset, SocketOwner},
    sentinel::{self, Place, Sentinel},
    status::{
        AddressStatus, Counters, DnsCounters, NameStatus, PolicyStatus, SCHEMA, Status, Traffic,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

/// What stays as it was at the start.
pub struct Terms {
    /// Where the entries come from.
    pub lists: config::Lists,
    /// Connections to let in.
    pub inbound: Vec<Element>,
    /// The search list of resolv.conf.
    pub search: Vec<String>,
    /// The servers that the resolver asks.
    pub nameservers: Nameservers,
    /// Whom the resolver is told from the command by.
    pub resolver: SocketOwner,
    /// Whether a server on loopback may forward from inside this namespace.
    pub forwarder: bool,
    /// How long answers count.
    pub lifetimes: Lifetimes,
}
