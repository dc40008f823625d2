//! Expressions of a rule, to libnftnl and back: each attribute by the type that libnftnl gives it.

// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use super::{NFT_EXTHDR_F_PRESENT, NFT_EXTHDR_OP_IPV6, bytes, c_string, octets, or_abort, text};
use crate::ruleset::bytecode::Expr;
use nftnl::{Rule, expr::Expression, nftnl_sys as sys};
use std::{ffi::CStr, ptr::NonNull};

/// # Safety
/// `expr` is a live expression.
pub(super) unsafe fn parse_expr(expr: NonNull<sys::nftnl_expr>) -> Option<Expr> {
    let e = expr.as_ptr();
    // SAFETY: the caller's. Each attribute is read by the type that libnftnl gives it, and where
    // one is absent libnftnl answers 0 or null.
    unsafe {
        let u32_of = |attribute: u32| sys::nftnl_expr_get_u32(e, attribute as u16);
        let u8_of = |attribute: u32| sys::nftnl_expr_get_u8(e, attribute as u16);
        let text_of = |attribute: u32| text(sys::nftnl_expr_get_str(e, attribute as u16));
        let has = |attribute: u32| sys::nftnl_expr_is_set(e, attribute as u16);
        let data_of = |attribute: u32| {
            let mut len = 0;
            let data = sys::nftnl_expr_get(e, attribute as u16, &raw mut len);
            bytes(data, len).map(<[u8]>::to_vec)
        };
        Some(match text_of(sys::NFTNL_EXPR_NAME).as_str() {
            "meta" if !has(sys::NFTNL_EXPR_META_SREG) => Expr::Meta {
                key: u32_of(sys::NFTNL_EXPR_META_KEY),
                register: u32_of(sys::NFTNL_EXPR_META_DREG),
            },
            "ct" if has(sys::NFTNL_EXPR_CT_SREG)
                && u32_of(sys::NFTNL_EXPR_CT_KEY) == libc::NFT_CT_MARK.cast_unsigned() =>
            {
                Expr::SetCtMark {
                    register: u32_of(sys::NFTNL_EXPR_CT_SREG),
                }
            }
            "ct" if has(sys::NFTNL_EXPR_CT_DREG) => Expr::Ct {
                key: u32_of(sys::NFTNL_EXPR_CT_KEY),
                direction: has(sys::NFTNL_EXPR_CT_DIR).then(|| u8_of(sys::NFTNL_EXPR_CT_DIR)),
                register: u32_of(sys::NFTNL_EXPR_CT_DREG),
            },
            "payload" if !has(sys::NFTNL_EXPR_PAYLOAD_SREG) => Expr::Payload {
                base: u32_of(sys::NFTNL_EXPR_PAYLOAD_BASE),
                offset: u32_of(sys::NFTNL_EXPR_PAYLOAD_OFFSET),
                len: u32_of(sys::NFTNL_EXPR_PAYLOAD_LEN),
                register: u32_of(sys::NFTNL_EXPR_PAYLOAD_DREG),
            },
            "exthdr"
                if u32_of(sys::NFTNL_EXPR_EXTHDR_FLAGS) == NFT_EXTHDR_F_PRESENT
                    && u32_of(sys::NFTNL_EXPR_EXTHDR_OP) == NFT_EXTHDR_OP_IPV6 =>
            {
                Expr::HasExtensionHeader {
                    number: u8_of(sys::NFTNL_EXPR_EXTHDR_TYPE),
                    register: u32_of(sys::NFTNL_EXPR_EXTHDR_DREG),
                }
            }
            "bitwise"
                if u32_of(sys::NFTNL_EXPR_BITWISE_SREG) == u32_of(sys::NFTNL_EXPR_BITWISE_DREG)
                    && data_of(sys::NFTNL_EXPR_BITWISE_XOR)?
                        .iter()
                        .all(|&octet| octet == 0) =>
            {
                Expr::Mask {
                    register: u32_of(sys::NFTNL_EXPR_BITWISE_SREG),
                    mask: data_of(sys::NFTNL_EXPR_BITWISE_MASK)?,
                }
            }
            "cmp" => Expr::Compare {
                register: u32_of(sys::NFTNL_EXPR_CMP_SREG),
                comparison: u32_of(sys::NFTNL_EXPR_CMP_OP),
                value: data_of(sys::NFTNL_EXPR_CMP_DATA)?,
            },
            "lookup" if u32_of(sys::NFTNL_EXPR_LOOKUP_FLAGS) == 0 => Expr::Lookup {
                register: u32_of(sys::NFTNL_EXPR_LOOKUP_SREG),
                set: text_of(sys::NFTNL_EXPR_LOOKUP_SET),
            },
            "immediate" if has(sys::NFTNL_EXPR_IMM_VERDICT) => Expr::Verdict {
                code: u32_of(sys::NFTNL_EXPR_IMM_VERDICT).cast_signed(),
                chain: has(sys::NFTNL_EXPR_IMM_CHAIN).then(|| text_of(sys::NFTNL_EXPR_IMM_CHAIN)),
            },
            "immediate" => Expr::Immediate {
                register: u32_of(sys::NFTNL_EXPR_IMM_DREG),
                value: data_of(sys::NFTNL_EXPR_IMM_DATA)?,
            },
            "limit"
                if u32_of(sys::NFTNL_EXPR_LIMIT_TYPE) == 0
                    && u32_of(sys::NFTNL_EXPR_LIMIT_FLAGS) == 0 =>
            {
                Expr::Limit {
                    rate: sys::nftnl_expr_get_u64(e, sys::NFTNL_EXPR_LIMIT_RATE as u16),
                    unit: sys::nftnl_expr_get_u64(e, sys::NFTNL_EXPR_LIMIT_UNIT as u16),
                    burst: u32_of(sys::NFTNL_EXPR_LIMIT_BURST),
                }
            }
            "log" => Expr::Log {
                prefix: text_of(sys::NFTNL_EXPR_LOG_PREFIX),
                group: sys::nftnl_expr_get_u16(e, sys::NFTNL_EXPR_LOG_GROUP as u16),
            },
            "redir" => Expr::Redirect {
                register: u32_of(sys::NFTNL_EXPR_REDIR_REG_PROTO_MIN),
                flags: u32_of(sys::NFTNL_EXPR_REDIR_FLAGS),
            },
            "counter" => Expr::Counter,
            "reject" => Expr::Reject {
                kind: u32_of(sys::NFTNL_EXPR_REJECT_TYPE),
                code: u8_of(sys::NFTNL_EXPR_REJECT_CODE),
            },
            _ => return None,
        })
    }
}

impl Expression for Expr {
    fn to_expr(&self, _rule: &Rule) -> NonNull<sys::nftnl_expr> {
        let raw = RawExpr::new(match self {
            Self::Meta { .. } => c"meta",
            Self::Ct { .. } | Self::SetCtMark { .. } => c"ct",
            Self::Payload { .. } => c"payload",
            Self::HasExtensionHeader { .. } => c"exthdr",
            Self::Mask { .. } => c"bitwise",
            Self::Compare { .. } => c"cmp",
            Self::Lookup { .. } => c"lookup",
            Self::Immediate { .. } | Self::Verdict { .. } => c"immediate",
            Self::Limit { .. } => c"limit",
            Self::Log { .. } => c"log",
            Self::Redirect { .. } => c"redir",
            Self::Counter => c"counter",
            Self::Reject { .. } => c"reject",
        });
        match self {
            Self::Meta { key, register } => raw
                .u32(sys::NFTNL_EXPR_META_KEY, *key)
                .u32(sys::NFTNL_EXPR_META_DREG, *register),
            Self::Ct {
                key,
                direction,
                register,
            } => {
                if let Some(direction) = direction {
                    raw.u8(sys::NFTNL_EXPR_CT_DIR, *direction);
                }
                raw.u32(sys::NFTNL_EXPR_CT_KEY, *key)
                    .u32(sys::NFTNL_EXPR_CT_DREG, *register)
            }
            Self::SetCtMark { register } => raw
                .u32(sys::NFTNL_EXPR_CT_KEY, libc::NFT_CT_MARK.cast_unsigned())
                .u32(sys::NFTNL_EXPR_CT_SREG, *register),
            Self::Payload {
                base,
                offset,
                len,
                register,
            } => raw
                .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, *base)
                .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, *offset)
                .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, *len)
                .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, *register),
            Self::HasExtensionHeader { number, register } => raw
                .u8(sys::NFTNL_EXPR_EXTHDR_TYPE, *number)
                .u32(sys::NFTNL_EXPR_EXTHDR_OFFSET, 0)
                .u32(sys::NFTNL_EXPR_EXTHDR_LEN, 1)
                .u32(sys::NFTNL_EXPR_EXTHDR_OP, NFT_EXTHDR_OP_IPV6)
                .u32(sys::NFTNL_EXPR_EXTHDR_FLAGS, NFT_EXTHDR_F_PRESENT)
                .u32(sys::NFTNL_EXPR_EXTHDR_DREG, *register),
            Self::Mask { register, mask } => raw
                .u32(sys::NFTNL_EXPR_BITWISE_SREG, *register)
                .u32(sys::NFTNL_EXPR_BITWISE_DREG, *register)
                .u32(sys::NFTNL_EXPR_BITWISE_LEN, octets(mask))
                .data(sys::NFTNL_EXPR_BITWISE_MASK, mask)
                .data(sys::NFTNL_EXPR_BITWISE_XOR, &vec![0; mask.len()]),
            Self::Compare {
                register,
                comparison,
                value,
            } => raw
                .u32(sys::NFTNL_EXPR_CMP_SREG, *register)
                .u32(sys::NFTNL_EXPR_CMP_OP, *comparison)
                .data(sys::NFTNL_EXPR_CMP_DATA, value),
            Self::Lookup { register, set } => raw
                .u32(sys::NFTNL_EXPR_LOOKUP_SREG, *register)
                .text(sys::NFTNL_EXPR_LOOKUP_SET, set),
            Self::Immediate { register, value } => raw
                .u32(sys::NFTNL_EXPR_IMM_DREG, *register)
                .data(sys::NFTNL_EXPR_IMM_DATA, value),
            Self::Verdict { code, chain } => {
                if let Some(chain) = chain {
                    raw.text(sys::NFTNL_EXPR_IMM_CHAIN, chain);
                }
                raw.u32(
                    sys::NFTNL_EXPR_IMM_DREG,
                    libc::NFT_REG_VERDICT.cast_unsigned(),
                )
                .u32(sys::NFTNL_EXPR_IMM_VERDICT, code.cast_unsigned())
            }
            Self::Limit { rate, unit, burst } => raw
                .u64(sys::NFTNL_EXPR_LIMIT_RATE, *rate)
                .u64(sys::NFTNL_EXPR_LIMIT_UNIT, *unit)
                .u32(sys::NFTNL_EXPR_LIMIT_BURST, *burst)
                .u32(sys::NFTNL_EXPR_LIMIT_TYPE, 0),
            Self::Log { prefix, group } => raw
                .text(sys::NFTNL_EXPR_LOG_PREFIX, prefix)
                .u16(sys::NFTNL_EXPR_LOG_GROUP, *group),
            Self::Redirect { register, flags } => raw
                .u32(sys::NFTNL_EXPR_REDIR_REG_PROTO_MIN, *register)
                .u32(sys::NFTNL_EXPR_REDIR_FLAGS, *flags),
            Self::Counter => &raw,
            Self::Reject { kind, code } => raw
                .u32(sys::NFTNL_EXPR_REJECT_TYPE, *kind)
                .u8(sys::NFTNL_EXPR_REJECT_CODE, *code),
        };
        raw.0
    }
}

/// An expression that a rule is about to own.
struct RawExpr(NonNull<sys::nftnl_expr>);

impl RawExpr {
    fn new(name: &CStr) -> Self {
        // SAFETY: `name` is a C string; null is checked.
        Self(or_abort(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) }))
    }

    fn u8(&self, attribute: u32, value: u8) -> &Self {
        // SAFETY: the expression is live, and the attribute is of this type.
        unsafe { sys::nftnl_expr_set_u8(self.0.as_ptr(), attribute as u16, value) };
        self
    }

    fn u16(&self, attribute: u32, value: u16) -> &Self {
        // SAFETY: the expression is live, and the attribute is of this type.
        unsafe { sys::nftnl_expr_set_u16(self.0.as_ptr(), attribute as u16, value) };
        self
    }

    fn u32(&self, attribute: u32, value: u32) -> &Self {
        // SAFETY: the expression is live, and the attribute is of this type.
        unsafe { sys::nftnl_expr_set_u32(self.0.as_ptr(), attribute as u16, value) };
        self
    }

    fn u64(&self, attribute: u32, value: u64) -> &Self {
        // SAFETY: the expression is live, and the attribute is of this type.
        unsafe { sys::nftnl_expr_set_u64(self.0.as_ptr(), attribute as u16, value) };
        self
    }

    fn text(&self, attribute: u32, value: &str) -> &Self {
        let value = c_string(value);
        // SAFETY: the expression is live and copies the string.
        unsafe { sys::nftnl_expr_set_str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
        self
    }

    fn data(&self, attribute: u32, value: &[u8]) -> &Self {
        // SAFETY: the expression is live and copies the octets.
        unsafe {
            sys::nftnl_expr_set(
                self.0.as_ptr(),
                attribute as u16,
                value.as_ptr().cast(),
                octets(value),
            )
        };
        self
    }
}
