//! libnftnl: the ruleset's values as netlink messages, and the kernel's answers as values again.
//!
//! The safe crate `nftnl` makes tables, chains and rules; it has no concatenated or interval
//! sets, no registers but the first, no log, limit or reject, and reads nothing back. Those go to
//! libnftnl directly, all of it in this file.

use crate::ruleset::{
    Chain, Hook, Set, TABLE,
    bytecode::Expr,
    set::{KeyBytes, RawElement},
};
use nftnl::{
    ChainType, MsgType, NlMsg, ProtoFamily, Rule, Table,
    expr::Expression,
    nftnl_sys::{self as sys},
};
use std::{
    ffi::{CStr, CString, c_void},
    ptr::NonNull,
};

/// A netlink message, header and all.
pub type Message = Vec<u8>;

/// Elements in one message: 68 octets each at most, in an attribute of at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 900;

// Of include/uapi/linux/netfilter/nf_tables.h, where the libc crate stops short.
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_EXTHDR_F_PRESENT: u32 = 1;
const NFT_EXTHDR_OP_IPV6: u32 = 0;
const INTERVAL_CONCATENATION: u32 = libc::NFT_SET_INTERVAL.cast_unsigned() | NFT_SET_CONCAT;

const INET: u16 = libc::NFPROTO_INET as u16;

/// Makes the table.
#[must_use]
pub fn add_table() -> Message {
    write(&table(), MsgType::Add)
}

/// Deletes the table with all that is in it.
#[must_use]
pub fn delete_table() -> Message {
    write(&table(), MsgType::Del)
}

/// Makes a chain.
#[must_use]
pub fn add_chain(chain: &Chain) -> Message {
    let table = table();
    let mut message = nftnl::Chain::new(c_string(chain.name), &table);
    if let Some(hook) = chain.hook {
        message.set_hook(
            match hook {
                Hook::Input => nftnl::Hook::In,
                Hook::Forward => nftnl::Hook::Forward,
                Hook::Output => nftnl::Hook::Out,
            },
            0,
        );
        message.set_type(ChainType::Filter);
        message.set_policy(nftnl::Policy::Drop);
    }
    write(&message, MsgType::Add)
}

/// Deletes all rules of a chain.
#[must_use]
pub fn flush_chain(name: &str) -> Message {
    let table = table();
    let chain = nftnl::Chain::new(c_string(name), &table);
    // A rule without a handle stands for all of them.
    write(&Rule::new(&chain), MsgType::Del)
}

/// Adds a rule to the end of a chain.
#[must_use]
pub fn add_rule(chain: &str, exprs: &[Expr]) -> Message {
    let table = table();
    let chain = nftnl::Chain::new(c_string(chain), &table);
    let mut rule = Rule::new(&chain);
    for expr in exprs {
        rule.add_expr(expr);
    }
    write(&rule, MsgType::Add)
}

/// Makes a set, without its elements.
#[must_use]
pub fn add_set(set: &Set, id: u32) -> Message {
    let raw = OwnedSet::new(set.name);
    let mut flags = 0;
    if set.key.is_interval() {
        flags |= INTERVAL_CONCATENATION;
        raw.set_data(sys::NFTNL_SET_DESC_CONCAT, set.key.fields());
    }
    raw.set_u32(sys::NFTNL_SET_FLAGS, flags);
    raw.set_u32(sys::NFTNL_SET_ID, id);
    raw.set_u32(sys::NFTNL_SET_KEY_TYPE, set.key.datatype());
    raw.set_u32(sys::NFTNL_SET_KEY_LEN, set.key.len());
    raw.message(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Deletes a set.
#[must_use]
pub fn delete_set(name: &str) -> Message {
    OwnedSet::new(name).message(libc::NFT_MSG_DELSET, 0)
}

/// Adds elements to a set, in as many messages as they need.
pub fn add_elements(set: &Set) -> impl Iterator<Item = Message> + '_ {
    let mut elements = set.raw_elements().peekable();
    std::iter::from_fn(move || {
        elements.peek()?;
        let raw = OwnedSet::new(set.name);
        for element in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
            raw.add(&element);
        }
        Some(raw.elements_message(
            libc::NFT_MSG_NEWSETELEM,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        ))
    })
}

/// The first message of a batch.
#[must_use]
pub fn batch_begin() -> Message {
    // SAFETY: the function writes one header with a family header to the buffer.
    build(|buffer| unsafe { sys::nftnl_batch_begin(buffer.cast(), 0) })
}

/// The last message of a batch.
#[must_use]
pub fn batch_end() -> Message {
    // SAFETY: the function writes one header with a family header to the buffer.
    build(|buffer| unsafe { sys::nftnl_batch_end(buffer.cast(), 0) })
}

/// Asks for the table.
#[must_use]
pub fn get_table() -> Message {
    let mut message = write(&table(), MsgType::Add);
    set_type(&mut message, libc::NFT_MSG_GETTABLE);
    message
}

/// Asks for a chain.
#[must_use]
pub fn get_chain(name: &str) -> Message {
    let table = table();
    let mut message = write(&nftnl::Chain::new(c_string(name), &table), MsgType::Del);
    set_type(&mut message, libc::NFT_MSG_GETCHAIN);
    message
}

/// Asks for the rules of a chain.
#[must_use]
pub fn dump_rules(chain: &str) -> Message {
    let mut message = flush_chain(chain);
    set_type(&mut message, libc::NFT_MSG_GETRULE);
    set_flags(&mut message, libc::NLM_F_DUMP);
    message
}

/// Asks for the set.
#[must_use]
pub fn get_set(name: &str) -> Message {
    OwnedSet::new(name).message(libc::NFT_MSG_GETSET, libc::NLM_F_ACK)
}

/// Asks for the elements of a set.
#[must_use]
pub fn dump_elements(set: &str) -> Message {
    OwnedSet::new(set).elements_message(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP)
}

/// How many chains, sets and objects the table has, from an answer to [`get_table`].
#[must_use]
pub fn parse_table(message: &[u8]) -> Option<u32> {
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_table_alloc() })?;
    // SAFETY: `header` is a whole message, and `raw` is a live table that is freed once, here.
    unsafe {
        let parsed = sys::nftnl_table_nlmsg_parse(header, raw.as_ptr()) == 0;
        let used = sys::nftnl_table_get_u32(raw.as_ptr(), sys::NFTNL_TABLE_USE as u16);
        sys::nftnl_table_free(raw.as_ptr());
        parsed.then_some(used)
    }
}

/// What a chain is: its hook number, priority and policy if it has a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFacts {
    /// Type, hook (`NF_INET_*`), priority and policy (`NF_DROP` 0, `NF_ACCEPT` 1).
    pub base: Option<(String, u32, i32, u32)>,
}

/// What a chain is to be, in the terms of [`parse_chain`].
#[must_use]
pub fn chain_facts(chain: &Chain) -> ChainFacts {
    let base = chain.hook.map(|hook| {
        let number = match hook {
            Hook::Input => libc::NF_INET_LOCAL_IN,
            Hook::Forward => libc::NF_INET_FORWARD,
            Hook::Output => libc::NF_INET_LOCAL_OUT,
        };
        (
            "filter".to_owned(),
            number.cast_unsigned(),
            0,
            libc::NF_DROP.cast_unsigned(),
        )
    });
    ChainFacts { base }
}

/// The facts of a chain, from an answer to [`get_chain`].
#[must_use]
pub fn parse_chain(message: &[u8]) -> Option<ChainFacts> {
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_chain_alloc() })?;
    // SAFETY: `header` is a whole message; `raw` is a live chain that is freed once, here; the
    // type is a string of it, copied before.
    unsafe {
        let chain = raw.as_ptr();
        let parsed = sys::nftnl_chain_nlmsg_parse(header, chain) == 0;
        let base = sys::nftnl_chain_is_set(chain, sys::NFTNL_CHAIN_HOOKNUM as u16).then(|| {
            (
                text(sys::nftnl_chain_get_str(
                    chain,
                    sys::NFTNL_CHAIN_TYPE as u16,
                )),
                sys::nftnl_chain_get_u32(chain, sys::NFTNL_CHAIN_HOOKNUM as u16),
                sys::nftnl_chain_get_s32(chain, sys::NFTNL_CHAIN_PRIO as u16),
                sys::nftnl_chain_get_u32(chain, sys::NFTNL_CHAIN_POLICY as u16),
            )
        });
        sys::nftnl_chain_free(chain);
        parsed.then_some(ChainFacts { base })
    }
}

/// The expressions of a rule, from an answer to [`dump_rules`]. Nothing where one of them is of a
/// kind that this crate never sends.
#[must_use]
pub fn parse_rule(message: &[u8]) -> Option<Vec<Expr>> {
    let header = header(message)?;
    // SAFETY: allocation; null is checked.
    let raw = NonNull::new(unsafe { sys::nftnl_rule_alloc() })?;
    // SAFETY: `header` is a whole message; `raw` is a live rule that is freed once, here; the
    // iterator and what it yields are used while the rule lives.
    unsafe {
        let mut exprs = (sys::nftnl_rule_nlmsg_parse(header, raw.as_ptr()) == 0).then(Vec::new);
        let iter = sys::nftnl_expr_iter_create(raw.as_ptr());
        if iter.is_null() {
            exprs = None;
        } else {
            while let Some(expr) = NonNull::new(sys::nftnl_expr_iter_next(iter)) {
                exprs = exprs.and_then(|mut exprs| {
                    exprs.push(parse_expr(expr)?);
                    Some(exprs)
                });
            }
            sys::nftnl_expr_iter_destroy(iter);
        }
        sys::nftnl_rule_free(raw.as_ptr());
        exprs
    }
}

/// The flags, key type and key length of a set, from an answer to [`get_set`].
#[must_use]
pub fn parse_set(message: &[u8]) -> Option<(u32, u32, u32)> {
    let header = header(message)?;
    let raw = OwnedSet::empty();
    // SAFETY: `header` is a whole message, and the set is live.
    let parsed = unsafe { sys::nftnl_set_nlmsg_parse(header, raw.0.as_ptr()) } == 0;
    parsed.then(|| {
        (
            raw.get_u32(sys::NFTNL_SET_FLAGS),
            raw.get_u32(sys::NFTNL_SET_KEY_TYPE),
            raw.get_u32(sys::NFTNL_SET_KEY_LEN),
        )
    })
}

/// The same of a set of ours.
#[must_use]
pub fn set_facts(set: &Set) -> (u32, u32, u32) {
    let flags = if set.key.is_interval() {
        INTERVAL_CONCATENATION
    } else {
        0
    };
    (flags, set.key.datatype(), set.key.len())
}

/// The elements in one answer to [`dump_elements`].
#[must_use]
pub fn parse_elements(message: &[u8]) -> Option<Vec<RawElement>> {
    let header = header(message)?;
    let raw = OwnedSet::empty();
    // SAFETY: `header` is a whole message, and the set is live.
    if unsafe { sys::nftnl_set_elems_nlmsg_parse(header, raw.0.as_ptr()) } < 0 {
        return None;
    }
    let mut elements = Some(Vec::new());
    // SAFETY: the iterator and what it yields are used while the set lives.
    unsafe {
        let iter = sys::nftnl_set_elems_iter_create(raw.0.as_ptr());
        if iter.is_null() {
            return None;
        }
        while let Some(element) = NonNull::new(sys::nftnl_set_elems_iter_next(iter)) {
            let key = element_key(element, sys::NFTNL_SET_ELEM_KEY);
            let end = element_key(element, sys::NFTNL_SET_ELEM_KEY_END);
            elements = elements.and_then(|mut elements| {
                elements.push(RawElement { key: key?, end });
                Some(elements)
            });
        }
        sys::nftnl_set_elems_iter_destroy(iter);
    }
    elements
}

/// # Safety
/// `element` is a live element.
unsafe fn element_key(element: NonNull<sys::nftnl_set_elem>, attribute: u32) -> Option<KeyBytes> {
    let mut len = 0;
    // SAFETY: the caller's; the pointer that comes back is to `len` octets of the element, or null.
    unsafe {
        let data = sys::nftnl_set_elem_get(element.as_ptr(), attribute as u16, &raw mut len);
        bytes(data, len).and_then(KeyBytes::new)
    }
}

/// # Safety
/// `expr` is a live expression.
unsafe fn parse_expr(expr: NonNull<sys::nftnl_expr>) -> Option<Expr> {
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
        Some(match text_of(sys::NFTNL_EXPR_NAME as u32).as_str() {
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

/// A set of libnftnl, freed with its elements.
struct OwnedSet(NonNull<sys::nftnl_set>);

impl OwnedSet {
    fn empty() -> Self {
        // SAFETY: allocation; null is checked.
        Self(or_abort(unsafe { sys::nftnl_set_alloc() }))
    }

    fn new(name: &str) -> Self {
        let set = Self::empty();
        for (attribute, value) in [(sys::NFTNL_SET_TABLE, TABLE), (sys::NFTNL_SET_NAME, name)] {
            let value = c_string(value);
            // SAFETY: the set is live and copies the string.
            unsafe { sys::nftnl_set_set_str(set.0.as_ptr(), attribute as u16, value.as_ptr()) };
        }
        set.set_u32(sys::NFTNL_SET_FAMILY, u32::from(INET));
        set
    }

    fn set_u32(&self, attribute: u32, value: u32) {
        // SAFETY: the set is live, and the attribute is of this type.
        unsafe { sys::nftnl_set_set_u32(self.0.as_ptr(), attribute as u16, value) };
    }

    fn get_u32(&self, attribute: u32) -> u32 {
        // SAFETY: the set is live, and the attribute is of this type.
        unsafe { sys::nftnl_set_get_u32(self.0.as_ptr(), attribute as u16) }
    }

    fn set_data(&self, attribute: u32, value: &[u8]) {
        // SAFETY: the set is live and copies the octets.
        unsafe {
            sys::nftnl_set_set_data(
                self.0.as_ptr(),
                attribute as u16,
                value.as_ptr().cast(),
                octets(value),
            )
        };
    }

    fn add(&self, element: &RawElement) {
        // SAFETY: the element is live until the set, which owns it from the last line on, is
        // freed; it copies the octets.
        unsafe {
            let raw = or_abort(sys::nftnl_set_elem_alloc());
            let keys = [
                (sys::NFTNL_SET_ELEM_KEY, Some(&element.key)),
                (sys::NFTNL_SET_ELEM_KEY_END, element.end.as_ref()),
            ];
            for (attribute, key) in keys {
                if let Some(key) = key.map(KeyBytes::as_slice) {
                    sys::nftnl_set_elem_set(
                        raw.as_ptr(),
                        attribute as u16,
                        key.as_ptr().cast(),
                        octets(key),
                    );
                }
            }
            sys::nftnl_set_elem_add(self.0.as_ptr(), raw.as_ptr());
        }
    }

    fn message(&self, kind: libc::c_int, flags: libc::c_int) -> Message {
        // SAFETY: the buffer has room for any message, and the set is live.
        build(|buffer| unsafe {
            let header =
                sys::nftnl_nlmsg_build_hdr(buffer.cast(), kind as u16, INET, flags as u16, 0);
            sys::nftnl_set_nlmsg_build_payload(header, self.0.as_ptr());
            header
        })
    }

    fn elements_message(&self, kind: libc::c_int, flags: libc::c_int) -> Message {
        // SAFETY: the buffer has room for `ELEMENTS_PER_MESSAGE` elements, and the set is live.
        build(|buffer| unsafe {
            let header =
                sys::nftnl_nlmsg_build_hdr(buffer.cast(), kind as u16, INET, flags as u16, 0);
            sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.as_ptr());
            header
        })
    }
}

impl Drop for OwnedSet {
    fn drop(&mut self) {
        // SAFETY: the set is live and is freed once.
        unsafe { sys::nftnl_set_free(self.0.as_ptr()) };
    }
}

fn table() -> Table {
    Table::new(c_string(TABLE), ProtoFamily::Inet)
}

fn write(object: &impl NlMsg, kind: MsgType) -> Message {
    build(|buffer| {
        // SAFETY: the buffer has room for the largest message.
        unsafe { object.write(buffer, 0, kind) };
        buffer.cast()
    })
}

/// Runs `fill` on a buffer for the largest message and takes the message out of it.
fn build(fill: impl FnOnce(*mut c_void) -> *mut libc::nlmsghdr) -> Message {
    // In words of the header's alignment.
    let mut buffer = vec![0_u32; nftnl::nft_nlmsg_maxsize() as usize / 4 + 1];
    let header = fill(buffer.as_mut_ptr().cast());
    // SAFETY: `fill` returned the header that it wrote at the beginning of the buffer, and the
    // header's length is that of the message, which lies in the buffer.
    unsafe {
        let len = (*header).nlmsg_len as usize;
        std::slice::from_raw_parts(header.cast::<u8>(), len).to_vec()
    }
}

/// The header of a whole message, as libnftnl wants it.
fn header(message: &[u8]) -> Option<*const libc::nlmsghdr> {
    let header = message.as_ptr().cast::<libc::nlmsghdr>();
    let length: [u8; 4] = message.get(..4)?.try_into().ok()?;
    let whole = message.len() >= size_of::<libc::nlmsghdr>()
        && u32::from_ne_bytes(length) as usize <= message.len()
        && header.is_aligned();
    whole.then_some(header)
}

fn set_type(message: &mut [u8], kind: libc::c_int) {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
}

fn set_flags(message: &mut [u8], flags: libc::c_int) {
    message[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
}

/// # Safety
/// `data` is null or points to `len` octets that outlive the result.
unsafe fn bytes<'a>(data: *const c_void, len: u32) -> Option<&'a [u8]> {
    // SAFETY: the caller's.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len as usize) })
}

/// # Safety
/// `string` is null or a C string.
unsafe fn text(string: *const libc::c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}

/// The names that reach libnftnl are constants of this crate, or came from it.
fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn octets(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(0)
}

/// Out of memory for a few octets: nothing can go on, and the kernel keeps the lock.
fn or_abort<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| std::process::abort())
}
