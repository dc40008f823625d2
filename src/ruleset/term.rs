//! The vocabulary of a rule: what it can match and what it can do, each as nft writes it.
//!
//! [`super::bytecode`] has the same vocabulary as the kernel runs it.

use super::{build::KINDS, set::Family};
use crate::service::Protocol;
use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// The letter before `addr` and `port`.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "s",
            Self::Destination => "d",
        })
    }
}

/// Which way a packet goes, seen from the first packet of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As the first one.
    Original,
    /// As the answers.
    Reply,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Octets of packets. Multiples of 1,024 are written otherwise by nft, and not used here.
    Octets,
}

/// How a packet is refused (`nft(8)`, "reject statement").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// A TCP reset: ECONNREFUSED.
    TcpReset,
    /// Administratively prohibited, in ICMP or `ICMPv6`: EHOSTUNREACH or EACCES.
    AdminProhibited,
    /// ICMP protocol unreachable: ENOPROTOOPT, which nothing else on the way gives.
    ProtocolUnreachable,
    /// `ICMPv6` source address failed the policy, code 5 (RFC 4443 section 3.1).
    PolicyFail,
}

/// One match or statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// The packet goes to this address.
    DestinationIs(IpAddr),
    /// The packet is of this protocol and goes to this port.
    DestinationPort(Protocol, u16),
    /// The packet is of this protocol.
    IsProtocol(Protocol),
    /// The first packet of the flow was sent to this port, whatever nat made of it.
    OriginalDestinationPort(u16),
    /// The packet has an IPv6 routing header.
    HasRoutingHeader,
    /// The packet has IPv4 options, source routing among them.
    HasIpv4Options,
    /// The packet leaves by the loopback interface.
    LeavesByLoopback,
    /// The packet came by the loopback interface.
    CameByLoopback,
    /// The socket that sends it was opened by this uid, of the namespace's user namespace.
    SocketUid(u32),
    /// The socket that sends it was opened with this gid, of the same user namespace.
    SocketGid(u32),
    /// The flow was seen in both directions, or the packet is an error about one that was.
    Established,
    /// The flow was seen in both directions; no error about one counts.
    Answered,
    /// The packet goes this way of its flow.
    Direction(Direction),
    /// The flow has this mark.
    Mark(u32),
    /// The flow has a mark, whichever.
    Marked,
    /// The flow has a mark of this kind ([`super::build::KINDS`]), of whichever policy.
    MarkOfKind(u32),
    /// address . protocol . port is in the set.
    ServiceIn {
        /// The IP version of the set.
        family: Family,
        /// Whose address.
        address: End,
        /// The prefix length of the networks that the set holds by their first address; none for
        /// one of addresses or of intervals.
        length: Option<u8>,
        /// Whose port.
        port: End,
        /// The set's name.
        set: &'static str,
    },
    /// The `ICMPv6` type is between these, both included.
    Icmpv6Type(u8, u8),
    /// It is not.
    NoIcmpv6Type(u8, u8),
    /// The IPv6 hop limit.
    HopLimit(u8),
    /// At most so much a second, with a burst.
    Limit {
        /// What is counted.
        of: Unit,
        /// Units a second.
        rate: u32,
        /// Units above the rate.
        burst: u32,
    },
    /// To the netlink log, with a prefix.
    Log {
        /// What each record starts with.
        prefix: &'static str,
        /// The nflog group.
        group: u16,
    },
    /// Count packets and octets.
    Counter,
    /// Mark the flow.
    SetMark(u32),
    /// Send the flow to this port on loopback instead.
    Redirect(u16),
    /// Let the packet pass.
    Accept,
    /// Drop the packet and say nothing.
    Drop,
    /// Refuse the packet and say so to the sender.
    Reject(Reject),
    /// Go on in another chain and do not come back.
    Goto(&'static str),
    /// Go on in another chain, and come back where that decides nothing.
    Jump(&'static str),
}

impl Term {
    /// The set that it asks.
    #[must_use]
    pub fn set(&self) -> Option<&'static str> {
        match self {
            Self::ServiceIn { set, .. } => Some(set),
            _ => None,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DestinationIs(IpAddr::V4(address)) => write!(f, "ip daddr {address}"),
            Self::DestinationIs(IpAddr::V6(address)) => write!(f, "ip6 daddr {address}"),
            Self::DestinationPort(protocol, port) => write!(f, "{protocol} dport {port}"),
            Self::IsProtocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::OriginalDestinationPort(port) => write!(f, "ct original proto-dst {port}"),
            Self::HasRoutingHeader => f.write_str("exthdr rt exists"),
            Self::HasIpv4Options => f.write_str("ip hdrlength != 5"),
            Self::LeavesByLoopback => f.write_str("oif \"lo\""),
            Self::CameByLoopback => f.write_str("iif \"lo\""),
            Self::SocketUid(uid) => write!(f, "meta skuid {uid}"),
            Self::SocketGid(gid) => write!(f, "meta skgid {gid}"),
            Self::Answered => f.write_str("ct state established"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Direction(Direction::Original) => f.write_str("ct direction original"),
            Self::Direction(Direction::Reply) => f.write_str("ct direction reply"),
            Self::Mark(mark) => write!(f, "ct mark 0x{mark:08x}"),
            Self::Marked => f.write_str("ct mark != 0x00000000"),
            Self::MarkOfKind(kind) => write!(f, "ct mark & 0x{KINDS:08x} == 0x{kind:08x}"),
            Self::ServiceIn {
                family,
                address,
                length,
                port,
                set,
            } => {
                let ip = match family {
                    Family::V4 => "ip",
                    Family::V6 => "ip6",
                };
                write!(f, "{ip} {address}addr")?;
                if let Some(length) = length {
                    write!(f, " & {}", netmask(*family, *length))?;
                }
                write!(f, " . meta l4proto . th {port}port @{set}")
            }
            Self::Icmpv6Type(first, last) => {
                write!(f, "icmpv6 type {}", Icmpv6Types(*first, *last))
            }
            Self::NoIcmpv6Type(first, last) => {
                write!(f, "icmpv6 type != {}", Icmpv6Types(*first, *last))
            }
            Self::HopLimit(limit) => write!(f, "ip6 hoplimit {limit}"),
            Self::Limit {
                of: Unit::Packets,
                rate,
                burst,
            } => {
                write!(f, "limit rate {rate}/second burst {burst} packets")
            }
            Self::Limit {
                of: Unit::Octets,
                rate,
                burst,
            } => {
                write!(f, "limit rate {rate} bytes/second burst {burst} bytes")
            }
            Self::Log { prefix, group } => write!(f, "log prefix \"{prefix}\" group {group}"),
            Self::Counter => f.write_str("counter"),
            Self::SetMark(mark) => write!(f, "ct mark set 0x{mark:08x}"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject(Reject::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Reject(Reject::AdminProhibited) => {
                f.write_str("reject with icmpx admin-prohibited")
            }
            Self::Reject(Reject::ProtocolUnreachable) => {
                f.write_str("reject with icmp prot-unreachable")
            }
            Self::Reject(Reject::PolicyFail) => f.write_str("reject with icmpv6 policy-fail"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

/// What an address of a network of this prefix length is masked with.
pub(super) fn netmask(family: Family, length: u8) -> IpAddr {
    let any = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // Of what is no length no address is left.
    IpNet::new(any, length).map_or(any, |network| network.netmask())
}

/// One type by nft's name, which it prints (`nft describe icmpv6_type`), or a range of numbers.
struct Icmpv6Types(u8, u8);

impl fmt::Display for Icmpv6Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(130, 130) => f.write_str("mld-listener-query"),
            Self(134, 134) => f.write_str("nd-router-advert"),
            Self(first, last) if first == last => write!(f, "{first}"),
            Self(first, last) => write!(f, "{first}-{last}"),
        }
    }
}
