//! Expressions of a rule, to the kernel and back: each attribute as the kernel's
//! `include/uapi/linux/netfilter/nf_tables.h` numbers it.

use super::Count;
use crate::{
    ruleset::{
        bytecode::{Expr, Name},
        set::Octets,
    },
    sys::netlink::attribute::{Attributes, Writer},
};

pub(super) const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_DIRECTION: u16 = 3;
const NFTA_CT_SREG: u16 = 4;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_PAYLOAD_SREG: u16 = 5;
const NFTA_EXTHDR_DREG: u16 = 1;
const NFTA_EXTHDR_TYPE: u16 = 2;
const NFTA_EXTHDR_OFFSET: u16 = 3;
const NFTA_EXTHDR_LEN: u16 = 4;
const NFTA_EXTHDR_FLAGS: u16 = 5;
const NFTA_EXTHDR_OP: u16 = 6;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_RANGE_SREG: u16 = 1;
const NFTA_RANGE_OP: u16 = 2;
const NFTA_RANGE_FROM_DATA: u16 = 3;
const NFTA_RANGE_TO_DATA: u16 = 4;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_LIMIT_RATE: u16 = 1;
const NFTA_LIMIT_UNIT: u16 = 2;
const NFTA_LIMIT_BURST: u16 = 3;
const NFTA_LIMIT_TYPE: u16 = 4;
const NFTA_LIMIT_FLAGS: u16 = 5;
const NFTA_LOG_GROUP: u16 = 1;
const NFTA_LOG_PREFIX: u16 = 2;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_FLAGS: u16 = 3;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;

const NFT_RANGE_NEQ: u32 = 1;
const NFT_EXTHDR_F_PRESENT: u32 = 1;
const NFT_EXTHDR_OP_IPV6: u32 = 0;
const NFT_CT_MARK: u32 = libc::NFT_CT_MARK.cast_unsigned();
const NFT_REG_VERDICT: u32 = libc::NFT_REG_VERDICT.cast_unsigned();

/// Adds an expression to the list of a rule.
pub(super) fn write(list: &mut Writer, expr: &Expr) {
    list.nest(NFTA_LIST_ELEM, |list| {
        list.text(NFTA_EXPR_NAME, name(expr))
            .nest(NFTA_EXPR_DATA, |data| write_data(data, expr));
    });
}

/// What the kernel calls it.
fn name(expr: &Expr) -> &'static str {
    match expr {
        Expr::Meta { .. } => "meta",
        Expr::Ct { .. } | Expr::SetCtMark { .. } => "ct",
        Expr::Payload { .. } => "payload",
        Expr::HasExtensionHeader { .. } => "exthdr",
        Expr::Mask { .. } => "bitwise",
        Expr::Compare { .. } => "cmp",
        Expr::OutOfRange { .. } => "range",
        Expr::Lookup { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict { .. } => "immediate",
        Expr::Limit { .. } => "limit",
        Expr::Log { .. } => "log",
        Expr::Redirect { .. } => "redir",
        Expr::Counter => "counter",
        Expr::Reject { .. } => "reject",
    }
}

fn write_data(data: &mut Writer, expr: &Expr) {
    match *expr {
        Expr::Meta { key, register } => data.u32(NFTA_META_KEY, key).u32(NFTA_META_DREG, register),
        Expr::Ct {
            key,
            direction,
            register,
        } => {
            if let Some(direction) = direction {
                data.u8(NFTA_CT_DIRECTION, direction);
            }
            data.u32(NFTA_CT_KEY, key).u32(NFTA_CT_DREG, register)
        }
        Expr::SetCtMark { register } => data
            .u32(NFTA_CT_KEY, NFT_CT_MARK)
            .u32(NFTA_CT_SREG, register),
        Expr::Payload {
            base,
            offset,
            len,
            register,
        } => data
            .u32(NFTA_PAYLOAD_BASE, base)
            .u32(NFTA_PAYLOAD_OFFSET, offset)
            .u32(NFTA_PAYLOAD_LEN, len)
            .u32(NFTA_PAYLOAD_DREG, register),
        Expr::HasExtensionHeader { number, register } => data
            .u8(NFTA_EXTHDR_TYPE, number)
            .u32(NFTA_EXTHDR_OFFSET, 0)
            .u32(NFTA_EXTHDR_LEN, 1)
            .u32(NFTA_EXTHDR_OP, NFT_EXTHDR_OP_IPV6)
            .u32(NFTA_EXTHDR_FLAGS, NFT_EXTHDR_F_PRESENT)
            .u32(NFTA_EXTHDR_DREG, register),
        Expr::Mask { register, mask } => data
            .u32(NFTA_BITWISE_SREG, register)
            .u32(NFTA_BITWISE_DREG, register)
            .u32(NFTA_BITWISE_LEN, mask.width())
            .nest(NFTA_BITWISE_MASK, |data| write_value(data, mask))
            .nest(NFTA_BITWISE_XOR, |data| write_value(data, mask.zeros())),
        Expr::Compare {
            register,
            comparison,
            value,
        } => data
            .u32(NFTA_CMP_SREG, register)
            .u32(NFTA_CMP_OP, comparison)
            .nest(NFTA_CMP_DATA, |data| write_value(data, value)),
        Expr::OutOfRange {
            register,
            first,
            last,
        } => data
            .u32(NFTA_RANGE_SREG, register)
            .u32(NFTA_RANGE_OP, NFT_RANGE_NEQ)
            .nest(NFTA_RANGE_FROM_DATA, |data| write_value(data, first))
            .nest(NFTA_RANGE_TO_DATA, |data| write_value(data, last)),
        Expr::Lookup { register, ref set } => data
            .u32(NFTA_LOOKUP_SREG, register)
            .text(NFTA_LOOKUP_SET, set),
        Expr::Immediate { register, value } => data
            .u32(NFTA_IMMEDIATE_DREG, register)
            .nest(NFTA_IMMEDIATE_DATA, |data| write_value(data, value)),
        Expr::Verdict { code, ref chain } => {
            data.u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
                .nest(NFTA_IMMEDIATE_DATA, |data| {
                    data.nest(NFTA_DATA_VERDICT, |verdict| {
                        verdict.u32(NFTA_VERDICT_CODE, code.cast_unsigned());
                        if let Some(chain) = chain {
                            verdict.text(NFTA_VERDICT_CHAIN, chain);
                        }
                    });
                })
        }
        Expr::Limit {
            kind,
            rate,
            unit,
            burst,
        } => data
            .u64(NFTA_LIMIT_RATE, rate)
            .u64(NFTA_LIMIT_UNIT, unit)
            .u32(NFTA_LIMIT_BURST, burst)
            .u32(NFTA_LIMIT_TYPE, kind),
        Expr::Log { ref prefix, group } => data
            .text(NFTA_LOG_PREFIX, prefix)
            .u16(NFTA_LOG_GROUP, group),
        Expr::Redirect { register, flags } => data
            .u32(NFTA_REDIR_REG_PROTO_MIN, register)
            .u32(NFTA_REDIR_FLAGS, flags),
        Expr::Counter => data,
        Expr::Reject { kind, code } => data
            .u32(NFTA_REJECT_TYPE, kind)
            .u8(NFTA_REJECT_ICMP_CODE, code),
    };
}

fn write_value(data: &mut Writer, value: Octets) {
    data.octets(NFTA_DATA_VALUE, value.as_slice());
}

/// An expression of a rule, from its attributes. Nothing where it is none that this crate sends.
pub(super) fn read(expr: &Attributes<'_>) -> Option<Expr> {
    let data = expr.nest(NFTA_EXPR_DATA)?;
    let value_of = |number| Octets::new(data.nest(number)?.octets(NFTA_DATA_VALUE)?);
    let has = |number| data.octets(number).is_some();
    Some(match expr.text(NFTA_EXPR_NAME)? {
        b"meta" if !has(NFTA_META_SREG) => Expr::Meta {
            key: data.u32(NFTA_META_KEY)?,
            register: data.u32(NFTA_META_DREG)?,
        },
        b"ct" if has(NFTA_CT_SREG) && data.u32(NFTA_CT_KEY)? == NFT_CT_MARK => Expr::SetCtMark {
            register: data.u32(NFTA_CT_SREG)?,
        },
        b"ct" if has(NFTA_CT_DREG) => Expr::Ct {
            key: data.u32(NFTA_CT_KEY)?,
            direction: data.u8(NFTA_CT_DIRECTION),
            register: data.u32(NFTA_CT_DREG)?,
        },
        b"payload" if !has(NFTA_PAYLOAD_SREG) => Expr::Payload {
            base: data.u32(NFTA_PAYLOAD_BASE)?,
            offset: data.u32(NFTA_PAYLOAD_OFFSET)?,
            len: data.u32(NFTA_PAYLOAD_LEN)?,
            register: data.u32(NFTA_PAYLOAD_DREG)?,
        },
        b"exthdr"
            if data.u32(NFTA_EXTHDR_FLAGS)? == NFT_EXTHDR_F_PRESENT
                && data.u32(NFTA_EXTHDR_OP)? == NFT_EXTHDR_OP_IPV6 =>
        {
            Expr::HasExtensionHeader {
                number: data.u8(NFTA_EXTHDR_TYPE)?,
                register: data.u32(NFTA_EXTHDR_DREG)?,
            }
        }
        b"bitwise"
            if data.u32(NFTA_BITWISE_SREG)? == data.u32(NFTA_BITWISE_DREG)?
                && value_of(NFTA_BITWISE_XOR) == value_of(NFTA_BITWISE_MASK).map(Octets::zeros) =>
        {
            Expr::Mask {
                register: data.u32(NFTA_BITWISE_SREG)?,
                mask: value_of(NFTA_BITWISE_MASK)?,
            }
        }
        b"cmp" => Expr::Compare {
            register: data.u32(NFTA_CMP_SREG)?,
            comparison: data.u32(NFTA_CMP_OP)?,
            value: value_of(NFTA_CMP_DATA)?,
        },
        b"range" if data.u32(NFTA_RANGE_OP)? == NFT_RANGE_NEQ => Expr::OutOfRange {
            register: data.u32(NFTA_RANGE_SREG)?,
            first: value_of(NFTA_RANGE_FROM_DATA)?,
            last: value_of(NFTA_RANGE_TO_DATA)?,
        },
        b"lookup" if data.u32(NFTA_LOOKUP_FLAGS).unwrap_or_default() == 0 => Expr::Lookup {
            register: data.u32(NFTA_LOOKUP_SREG)?,
            set: data.name(NFTA_LOOKUP_SET)?.into(),
        },
        b"immediate" if data.u32(NFTA_IMMEDIATE_DREG)? == NFT_REG_VERDICT => {
            let verdict = data.nest(NFTA_IMMEDIATE_DATA)?.nest(NFTA_DATA_VERDICT)?;
            Expr::Verdict {
                code: verdict.u32(NFTA_VERDICT_CODE)?.cast_signed(),
                chain: verdict.name(NFTA_VERDICT_CHAIN).map(Name::from),
            }
        }
        b"immediate" => Expr::Immediate {
            register: data.u32(NFTA_IMMEDIATE_DREG)?,
            value: value_of(NFTA_IMMEDIATE_DATA)?,
        },
        b"limit" if data.u32(NFTA_LIMIT_FLAGS).unwrap_or_default() == 0 => Expr::Limit {
            kind: data.u32(NFTA_LIMIT_TYPE)?,
            rate: data.u64(NFTA_LIMIT_RATE)?,
            unit: data.u64(NFTA_LIMIT_UNIT)?,
            burst: data.u32(NFTA_LIMIT_BURST)?,
        },
        b"log" => Expr::Log {
            prefix: data.name(NFTA_LOG_PREFIX)?.into(),
            group: data.u16(NFTA_LOG_GROUP)?,
        },
        b"redir" => Expr::Redirect {
            register: data.u32(NFTA_REDIR_REG_PROTO_MIN)?,
            flags: data.u32(NFTA_REDIR_FLAGS)?,
        },
        b"counter" => Expr::Counter,
        b"reject" => Expr::Reject {
            kind: data.u32(NFTA_REJECT_TYPE)?,
            // The kernel leaves it out where the kind has none.
            code: data.u8(NFTA_REJECT_ICMP_CODE).unwrap_or_default(),
        },
        _ => return None,
    })
}

/// What an expression counted, if it is a counter.
pub(super) fn count_of(expr: &Attributes<'_>) -> Option<Count> {
    if expr.text(NFTA_EXPR_NAME)? != b"counter" {
        return None;
    }
    let data = expr.nest(NFTA_EXPR_DATA)?;
    Some(Count {
        packets: data.u64(NFTA_COUNTER_PACKETS)?,
        octets: data.u64(NFTA_COUNTER_BYTES)?,
    })
}
