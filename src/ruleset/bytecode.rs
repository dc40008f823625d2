//! A rule as the kernel runs it: expressions over registers.
//!
//! Written so that a rule sent by us and the same line loaded by `nft -f` are the same
//! expressions (`nft --debug=netlink`), and `nft list` prints ours as text of ours. The names
//! of attributes and values are those of the kernel's `include/uapi/linux/netfilter/nf_tables.h`.

use super::{
    Rule,
    build::KINDS,
    set::{Family, Octets},
    term::{Direction, End, Reject, Term, Unit, netmask},
};
use std::{borrow::Cow, net::IpAddr};

/// A register. Those of four octets are numbered from 8, those of sixteen octets from 1 over the
/// same memory; the kernel names a short one by the long one where it is its beginning.
pub type Register = u32;

const REG_1: Register = 1;
/// Four octets after `REG_1`.
const REG_1_PLUS_4: Register = 9;
/// Eight octets after `REG_1`.
const REG_1_PLUS_8: Register = 10;
/// Sixteen octets after `REG_1`.
const REG_2: Register = 2;
/// Twenty octets after `REG_1`.
const REG_2_PLUS_4: Register = 13;

/// `NFT_META_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// Index of the interface it came by.
    Iif = 4,
    /// Index of the interface it leaves by.
    Oif = 5,
    /// The uid of the sending socket.
    SkUid = 10,
    /// The gid of the sending socket.
    SkGid = 11,
    /// The family: 2 for IPv4, 10 for IPv6.
    NfProto = 15,
    /// The transport protocol.
    L4Proto = 16,
}

/// `NFT_CT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ct {
    /// The state of the flow, as a bit.
    State = 0,
    /// The direction of the packet.
    Direction = 1,
    /// The mark of the flow.
    Mark = 3,
    /// The destination port of the flow, in one direction.
    ProtoDst = 12,
}

/// `NFT_PAYLOAD_*`: where an offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Base {
    /// The IP header.
    Network = 1,
    /// The header after it.
    Transport = 2,
}

/// `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Comparison {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Neq = 1,
    /// At most.
    Lte = 3,
    /// At least.
    Gte = 5,
}

/// A name, which is a constant on the way to the kernel.
pub type Name = Cow<'static, str>;

/// An expression of a rule. Values that the kernel changes as packets pass are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Load packet metadata.
    Meta {
        /// `NFT_META_*`.
        key: u32,
        /// Where to.
        register: Register,
    },
    /// Load something of the flow.
    Ct {
        /// `NFT_CT_*`.
        key: u32,
        /// 0 original, 1 reply, where the key has directions.
        direction: Option<u8>,
        /// Where to.
        register: Register,
    },
    /// Set the mark of the flow.
    SetCtMark {
        /// Where from.
        register: Register,
    },
    /// Load a part of the packet.
    Payload {
        /// `NFT_PAYLOAD_*`.
        base: u32,
        /// Octets from there.
        offset: u32,
        /// Octets to load.
        len: u32,
        /// Where to.
        register: Register,
    },
    /// Load 1 where the IPv6 packet has this extension header, else 0.
    HasExtensionHeader {
        /// Its number.
        number: u8,
        /// Where to.
        register: Register,
    },
    /// register = (register & mask) ^ 0.
    Mask {
        /// Which register.
        register: Register,
        /// The mask, in memory order.
        mask: Octets,
    },
    /// Go on if the register compares so.
    Compare {
        /// Which register.
        register: Register,
        /// `NFT_CMP_*`.
        comparison: u32,
        /// The value, in memory order.
        value: Octets,
    },
    /// Go on if the register is less than the first or more than the last (`NFT_RANGE_NEQ`).
    OutOfRange {
        /// Which register.
        register: Register,
        /// The least, in memory order.
        first: Octets,
        /// The greatest.
        last: Octets,
    },
    /// Go on if the key that starts at the register is in the set.
    Lookup {
        /// Which register.
        register: Register,
        /// The set's name.
        set: Name,
    },
    /// Load a constant.
    Immediate {
        /// Where to.
        register: Register,
        /// The value, in memory order.
        value: Octets,
    },
    /// End with a verdict: `NF_DROP` 0, `NF_ACCEPT` 1, `NFT_JUMP` -3, `NFT_GOTO` -4.
    Verdict {
        /// The number.
        code: i32,
        /// Which chain to go to.
        chain: Option<Name>,
    },
    /// Go on within a rate, in packets.
    Limit {
        /// Packets or octets.
        kind: u32,
        /// Packets a unit.
        rate: u64,
        /// The unit, in seconds.
        unit: u64,
        /// Packets above the rate.
        burst: u32,
    },
    /// Log to netlink.
    Log {
        /// The prefix.
        prefix: Name,
        /// The nflog group.
        group: u16,
    },
    /// Send the flow to a port on loopback (`NFT_REDIR`).
    Redirect {
        /// Where the port is, in network order.
        register: Register,
        /// `NF_NAT_RANGE_*`: 2 where a port is given.
        flags: u32,
    },
    /// Count.
    Counter,
    /// Refuse.
    Reject {
        /// `NFT_REJECT_*`: 0 ICMP of one family, 1 TCP reset, 2 ICMP of either.
        kind: u32,
        /// The ICMP code, or `NFT_REJECT_ICMPX_*`.
        code: u8,
    },
}

const IPV6_ROUTING_HEADER: u8 = 43;
const IPPROTO_ICMPV6: u8 = 58;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const LOOPBACK_IFINDEX: u32 = 1;
const CT_ESTABLISHED: u32 = 2;
const CT_RELATED: u32 = 4;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;

/// The expressions of a rule. nft leaves the family and the protocol that a match needs out of
/// its text and puts them in front of the first match that needs them; so does this.
#[must_use]
pub fn lower(rule: &Rule) -> Vec<Expr> {
    let mut lowering = Lowering {
        // Most terms are a load and a comparison, with what it needs before it.
        exprs: Vec::with_capacity(rule.0.len() * 3),
        family: None,
        protocol: None,
    };
    for term in &rule.0 {
        lowering.term(term);
    }
    lowering.exprs
}

struct Lowering {
    exprs: Vec<Expr>,
    family: Option<Family>,
    protocol: Option<u8>,
}

impl Lowering {
    fn term(&mut self, term: &Term) {
        match *term {
            Term::DestinationIs(address) => {
                self.need_family(Family::of(address));
                match address {
                    IpAddr::V4(v4) => self.payload_is(Base::Network, 16, v4.octets()),
                    IpAddr::V6(v6) => self.payload_is(Base::Network, 24, v6.octets()),
                }
            }
            Term::DestinationPort(protocol, port) => {
                self.need_protocol(protocol.number());
                self.payload_is(Base::Transport, 2, port.to_be_bytes());
            }
            Term::IsProtocol(protocol) => self.need_protocol(protocol.number()),
            Term::OriginalDestinationPort(port) => {
                self.ct(Ct::ProtoDst, Some(0));
                self.compare(Comparison::Eq, port.to_be_bytes());
            }
            Term::HasRoutingHeader => {
                self.need_family(Family::V6);
                self.exprs.push(Expr::HasExtensionHeader {
                    number: IPV6_ROUTING_HEADER,
                    register: REG_1,
                });
                self.compare(Comparison::Eq, [1]);
            }
            Term::HasIpv4Options => {
                self.need_family(Family::V4);
                self.payload(Base::Network, 0, 1, REG_1);
                self.exprs.push(Expr::Mask {
                    register: REG_1,
                    mask: [0x0f].into(),
                });
                self.compare(Comparison::Neq, [5]);
            }
            Term::LeavesByLoopback => self.meta_is(Meta::Oif, LOOPBACK_IFINDEX.to_ne_bytes()),
            Term::CameByLoopback => self.meta_is(Meta::Iif, LOOPBACK_IFINDEX.to_ne_bytes()),
            Term::SocketUid(uid) => self.meta_is(Meta::SkUid, uid.to_ne_bytes()),
            Term::SocketGid(gid) => self.meta_is(Meta::SkGid, gid.to_ne_bytes()),
            Term::Established => self.state(CT_ESTABLISHED | CT_RELATED),
            Term::Answered => self.state(CT_ESTABLISHED),
            Term::Redirect(port) => self.redirect(port),
            Term::Direction(direction) => {
                self.ct(Ct::Direction, None);
                self.compare(Comparison::Eq, [u8::from(direction == Direction::Reply)]);
            }
            Term::Mark(mark) => self.mark(u32::MAX, Comparison::Eq, mark),
            Term::Marked => self.mark(u32::MAX, Comparison::Neq, 0),
            Term::MarkOfKind(kind) => self.mark(KINDS, Comparison::Eq, kind),
            Term::ServiceIn {
                family,
                address,
                length,
                port,
                set,
            } => {
                self.service_in(family, (address, length), port, set);
            }
            Term::Icmpv6Type(first, last) => {
                self.icmpv6_type();
                self.within(first, last);
            }
            Term::NoIcmpv6Type(first, last) => {
                self.icmpv6_type();
                self.not_within(first, last);
            }
            Term::HopLimit(limit) => {
                self.need_family(Family::V6);
                self.payload_is(Base::Network, 7, [limit]);
            }
            Term::Limit { of, rate, burst } => {
                self.exprs.push(Expr::Limit {
                    // NFT_LIMIT_PKTS and NFT_LIMIT_PKT_BYTES of linux/netfilter/nf_tables.h.
                    kind: match of {
                        Unit::Packets => 0,
                        Unit::Octets => 1,
                    },
                    rate: rate.into(),
                    unit: 1,
                    burst,
                });
            }
            Term::Log { prefix, group } => {
                self.exprs.push(Expr::Log {
                    prefix: prefix.into(),
                    group,
                });
            }
            Term::Counter => self.exprs.push(Expr::Counter),
            Term::SetMark(mark) => self.set_mark(mark),
            Term::Accept => self.verdict(NF_ACCEPT, None),
            Term::Drop => self.verdict(NF_DROP, None),
            Term::Goto(chain) => self.verdict(NFT_GOTO, Some(chain)),
            Term::Jump(chain) => self.verdict(NFT_JUMP, Some(chain)),
            Term::Reject(reject) => self.reject(reject),
        }
    }

    fn icmpv6_type(&mut self) {
        self.need_family(Family::V6);
        self.need_protocol(IPPROTO_ICMPV6);
        self.payload(Base::Transport, 0, 1, REG_1);
    }

    fn redirect(&mut self, port: u16) {
        self.immediate(port.to_be_bytes());
        self.exprs.push(Expr::Redirect {
            register: REG_1,
            flags: NF_NAT_RANGE_PROTO_SPECIFIED,
        });
    }

    /// These bits of the flow's mark.
    fn mark(&mut self, bits: u32, comparison: Comparison, value: u32) {
        self.ct(Ct::Mark, None);
        if bits != u32::MAX {
            self.exprs.push(Expr::Mask {
                register: REG_1,
                mask: bits.to_ne_bytes().into(),
            });
        }
        self.compare(comparison, value.to_ne_bytes());
    }

    fn set_mark(&mut self, mark: u32) {
        self.immediate(mark.to_ne_bytes());
        self.exprs.push(Expr::SetCtMark { register: REG_1 });
    }

    fn immediate(&mut self, value: impl Into<Octets>) {
        self.exprs.push(Expr::Immediate {
            register: REG_1,
            value: value.into(),
        });
    }

    /// One of these states.
    fn state(&mut self, states: u32) {
        self.ct(Ct::State, None);
        self.exprs.push(Expr::Mask {
            register: REG_1,
            mask: states.to_ne_bytes().into(),
        });
        self.compare(Comparison::Neq, 0_u32.to_ne_bytes());
    }

    fn reject(&mut self, reject: Reject) {
        let (kind, code) = match reject {
            Reject::ProtocolUnreachable => (0, 2),
            Reject::PolicyFail => (0, 5),
            Reject::TcpReset => (1, 0),
            Reject::AdminProhibited => (2, 3),
        };
        self.exprs.push(Expr::Reject { kind, code });
    }

    fn service_in(
        &mut self,
        family: Family,
        (address, length): (End, Option<u8>),
        port: End,
        set: &'static str,
    ) {
        self.need_family(family);
        let (address_len, protocol_at, port_at) = match family {
            Family::V4 => (4, REG_1_PLUS_4, REG_1_PLUS_8),
            Family::V6 => (16, REG_2, REG_2_PLUS_4),
        };
        let address_offset = match (family, address) {
            (Family::V4, End::Source) => 12,
            (Family::V4, End::Destination) => 16,
            (Family::V6, End::Source) => 8,
            (Family::V6, End::Destination) => 24,
        };
        let port_offset = match port {
            End::Source => 0,
            End::Destination => 2,
        };
        self.payload(Base::Network, address_offset, address_len, REG_1);
        self.exprs.extend(length.map(|length| Expr::Mask {
            register: REG_1,
            mask: match netmask(family, length) {
                IpAddr::V4(v4) => v4.octets().into(),
                IpAddr::V6(v6) => v6.octets().into(),
            },
        }));
        self.exprs.push(Expr::Meta {
            key: Meta::L4Proto as u32,
            register: protocol_at,
        });
        self.payload(Base::Transport, port_offset, 2, port_at);
        self.lookup(set);
    }

    fn need_family(&mut self, family: Family) {
        if self.family.replace(family) != Some(family) {
            self.meta_is(
                Meta::NfProto,
                match family {
                    Family::V4 => [2],
                    Family::V6 => [10],
                },
            );
        }
    }

    fn need_protocol(&mut self, protocol: u8) {
        if self.protocol.replace(protocol) != Some(protocol) {
            self.meta_is(Meta::L4Proto, [protocol]);
        }
    }

    fn meta_is(&mut self, key: Meta, value: impl Into<Octets>) {
        self.exprs.push(Expr::Meta {
            key: key as u32,
            register: REG_1,
        });
        self.compare(Comparison::Eq, value);
    }

    fn payload_is(&mut self, base: Base, offset: u32, value: impl Into<Octets>) {
        let value = value.into();
        self.payload(base, offset, value.width(), REG_1);
        self.compare(Comparison::Eq, value);
    }

    fn payload(&mut self, base: Base, offset: u32, len: u32, register: Register) {
        self.exprs.push(Expr::Payload {
            base: base as u32,
            offset,
            len,
            register,
        });
    }

    fn ct(&mut self, key: Ct, direction: Option<u8>) {
        self.exprs.push(Expr::Ct {
            key: key as u32,
            direction,
            register: REG_1,
        });
    }

    fn compare(&mut self, comparison: Comparison, value: impl Into<Octets>) {
        self.exprs.push(Expr::Compare {
            register: REG_1,
            comparison: comparison as u32,
            value: value.into(),
        });
    }

    fn within(&mut self, first: u8, last: u8) {
        if first == last {
            self.compare(Comparison::Eq, [first]);
        } else {
            self.compare(Comparison::Gte, [first]);
            self.compare(Comparison::Lte, [last]);
        }
    }

    fn not_within(&mut self, first: u8, last: u8) {
        if first == last {
            self.compare(Comparison::Neq, [first]);
        } else {
            self.exprs.push(Expr::OutOfRange {
                register: REG_1,
                first: [first].into(),
                last: [last].into(),
            });
        }
    }

    fn lookup(&mut self, set: &'static str) {
        self.exprs.push(Expr::Lookup {
            register: REG_1,
            set: set.into(),
        });
    }

    fn verdict(&mut self, code: i32, chain: Option<&'static str>) {
        self.exprs.push(Expr::Verdict {
            code,
            chain: chain.map(Name::from),
        });
    }
}
