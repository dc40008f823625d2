//! What leaves at this moment: one datagram to each kind of destination, in both families, from
//! uid 0 of the inside. The errors of sendto(2) say what the rules say, and the capture outside
//! says whether they told the truth.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt,
};

use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::support::world::{API, DNS, ELSEWHERE, GIT, SENTINEL};

/// A port that nobody else uses, here or outside.
pub const PORT: u16 = 7998;

/// Which packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Gate {
    /// All.
    Open,
    /// None.
    Locked,
    /// To the nameservers, from uid 0.
    Dns,
    /// To what the list allows.
    Policy,
    /// To what the list allows, and to the nameservers.
    PolicyDns,
    /// To what the list of the start before allows, or what was allowed before the reload, the
    /// refresh or the query.
    Old,
    /// In one family as before, in the other to what the list and the answers allow.
    Partly,
    /// Anything else, or not the same in both families (I6).
    Other,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Locked => "locked",
            Self::Dns => "locked but for DNS of uid 0",
            Self::Policy => "as the list says",
            Self::PolicyDns => "as the list says, and DNS",
            Self::Old => "as it was before",
            Self::Partly => "in one family as it was before",
            Self::Other => "something else",
        })
    }
}

/// The file that says that the gate is as the list says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mark {
    /// There is none.
    Missing,
    /// One that was there before the start.
    Stale,
    /// One that was not.
    New,
}

/// Both, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Observation {
    pub gate: Gate,
    pub mark: Mark,
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Missing => "no sentinel",
            Mark::Stale => "the old sentinel",
            Mark::New => "a new sentinel",
        };
        write!(f, "gate {}, {mark}", self.gate)
    }
}

/// Sends and counts.
pub struct Observer {
    sockets: [UdpSocket; 2],
    /// How many datagrams to nowhere in particular were let through.
    pub escaped: usize,
    stale: Option<u64>,
    /// Under the policy a query goes to egress-init itself, whatever its address: it says nothing of
    /// what leaves, and would be work for the one that is looked at.
    redirected: bool,
}

/// What may be reached while something is kept in force: [`API`] and [`GIT`].
pub type Open = [bool; 2];

/// What every list of those allows.
pub const KEPT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x1107)),
];

impl Observer {
    /// The sentinel that is there now is stale from now on.
    pub fn new(redirected: bool) -> Self {
        let socket = |any: &str| {
            let socket = UdpSocket::bind((any.parse::<IpAddr>().unwrap(), 0)).unwrap();
            // What comes back is not read.
            setsockopt(&socket, sockopt::RcvBuf, &0).unwrap();
            socket
        };
        Self {
            sockets: [socket("0.0.0.0"), socket("::")],
            escaped: 0,
            stale: inode(),
            redirected,
        }
    }

    pub fn look(&mut self) -> Observation {
        Observation {
            gate: self.gate(),
            mark: self.mark(),
        }
    }

    pub fn mark(&self) -> Mark {
        match inode() {
            None => Mark::Missing,
            found if found == self.stale => Mark::Stale,
            Some(_) => Mark::New,
        }
    }

    /// The same under a policy that is kept, in each family: [`Gate::Old`] or [`Gate::Policy`], or
    /// what must not be.
    pub fn look_at_kept(&mut self, before: Open, after: Open) -> [Gate; 2] {
        [0, 1].map(|family| {
            let [open, kept, api, git] = [ELSEWHERE, KEPT, API, GIT]
                .map(|address| self.leaves(family, (address[family], PORT).into()));
            self.escaped += usize::from(open);
            match (open, kept) {
                (false, true) if [api, git] == after => Gate::Policy,
                (false, true) if [api, git] == before => Gate::Old,
                (false, false) if !api && !git => Gate::Locked,
                (true, _) => Gate::Open,
                _ => Gate::Other,
            }
        })
    }

    fn leaves(&self, family: usize, to: SocketAddr) -> bool {
        self.sockets[family].send_to(b"?", to).is_ok()
    }

    fn gate(&mut self) -> Gate {
        let families = [0, 1].map(|family| {
            let leaves = |to: SocketAddr| self.leaves(family, to);
            let open = leaves((ELSEWHERE[family], PORT).into());
            let [api, git] = [API, GIT].map(|address| leaves((address[family], PORT).into()));
            let dns = (open || !self.redirected || !api && !git) && leaves(DNS[family]);
            self.escaped += usize::from(open);
            match (open, dns, api, git) {
                (true, true, true, true) => Gate::Open,
                (false, false, false, false) => Gate::Locked,
                (false, true, false, false) => Gate::Dns,
                (false, false, true, false) => Gate::Policy,
                (false, true, true, false) => Gate::PolicyDns,
                (false, false, false, true) => Gate::Old,
                _ => Gate::Other,
            }
        });
        of_both(families)
    }
}

/// What is the same in both families.
pub fn of_both(families: [Gate; 2]) -> Gate {
    match families {
        [ipv4, ipv6] if ipv4 == ipv6 => ipv4,
        [Gate::Old, Gate::Policy] | [Gate::Policy, Gate::Old] => Gate::Partly,
        _ => Gate::Other,
    }
}

/// Of the sentinel.
pub fn inode() -> Option<u64> {
    fs::symlink_metadata(SENTINEL)
        .ok()
        .map(|metadata| metadata.ino())
}
