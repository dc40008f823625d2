//! libnftnl behind a few safe functions: objects that are freed, messages that are taken out of the
//! buffers they were written to.

use super::super::Message;
use crate::ruleset::TABLE;
use nftnl::{MsgType, NlMsg, nftnl_sys as sys};
use std::ffi::{CStr, CString, c_char, c_int};

pub fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Runs `fill` on a buffer for the largest message and takes the message out of it.
pub fn built(fill: impl FnOnce(*mut c_char) -> *mut libc::nlmsghdr) -> Message {
    // In words, so that it is aligned as a header is.
    let mut buffer = vec![0_u32; nftnl::nft_nlmsg_maxsize() as usize / 4 + 1];
    let header = fill(buffer.as_mut_ptr().cast());
    // SAFETY: `fill` returned the header that it wrote at the beginning of the buffer.
    let len = unsafe { (*header).nlmsg_len } as usize;
    let octets: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    octets[..len].to_vec()
}

/// A message of this kind with what `payload` appends to its headers.
pub fn message(kind: c_int, flags: c_int, payload: impl FnOnce(*mut libc::nlmsghdr)) -> Message {
    built(|buffer| {
        let family = libc::NFPROTO_INET as u16;
        // SAFETY: the buffer has room for any message.
        let header =
            unsafe { sys::nftnl_nlmsg_build_hdr(buffer, kind as u16, family, flags as u16, 0) };
        payload(header);
        header
    })
}

/// What the safe crate writes. It asks for an acknowledgement of each message.
pub fn written(object: &impl NlMsg, kind: MsgType) -> Message {
    let mut message = built(|buffer| {
        // SAFETY: the buffer has room for any message.
        unsafe { object.write(buffer.cast(), 0, kind) };
        buffer.cast()
    });
    let flags = u16::from_ne_bytes([message[6], message[7]]) & !(libc::NLM_F_ACK as u16);
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}

/// The same message but for its kind and flags, of a question.
pub fn as_question(mut message: Message, kind: c_int) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16;
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message
}

/// A message as libnftnl wants to read it.
pub fn header(message: &[u8]) -> *const libc::nlmsghdr {
    #[allow(clippy::cast_ptr_alignment)] // looked at below
    let header = message.as_ptr().cast::<libc::nlmsghdr>();
    assert!(header.is_aligned());
    let length = u32::from_ne_bytes(message[..4].try_into().unwrap());
    assert_eq!(length as usize, message.len());
    header
}

/// An object of libnftnl, freed at the end.
macro_rules! owned {
    ($name:ident, $object:ident, $alloc:ident, $free:ident) => {
        pub struct $name(pub *mut sys::$object);

        impl $name {
            pub fn new() -> Self {
                // SAFETY: allocation; null is checked.
                let object = unsafe { sys::$alloc() };
                assert!(!object.is_null());
                Self(object)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: it is live, and is freed once.
                unsafe { sys::$free(self.0) };
            }
        }
    };
}

owned!(RawTable, nftnl_table, nftnl_table_alloc, nftnl_table_free);
owned!(RawChain, nftnl_chain, nftnl_chain_alloc, nftnl_chain_free);
owned!(RawSet, nftnl_set, nftnl_set_alloc, nftnl_set_free);
owned!(RawRule, nftnl_rule, nftnl_rule_alloc, nftnl_rule_free);

impl RawSet {
    /// Any set of the table, or the one of this name.
    pub fn of_table(name: Option<&str>) -> Self {
        let set = Self::new();
        set.u32(sys::NFTNL_SET_FAMILY, libc::NFPROTO_INET as u32);
        let names = [
            (sys::NFTNL_SET_TABLE, Some(TABLE)),
            (sys::NFTNL_SET_NAME, name),
        ];
        for (attribute, name) in names {
            if let Some(name) = name.map(c_string) {
                // SAFETY: the set is live and copies the string.
                unsafe { sys::nftnl_set_set_str(set.0, attribute as u16, name.as_ptr()) };
            }
        }
        set
    }

    pub fn u32(&self, attribute: u32, value: u32) {
        // SAFETY: the set is live, and the attribute is of this type.
        unsafe { sys::nftnl_set_set_u32(self.0, attribute as u16, value) };
    }

    pub fn message(&self, kind: c_int, flags: c_int) -> Message {
        message(kind, flags, |header| {
            // SAFETY: the buffer has room for any message, and the set is live.
            unsafe { sys::nftnl_set_nlmsg_build_payload(header, self.0) };
        })
    }

    pub fn elements(&self, kind: c_int, flags: c_int) -> Message {
        message(kind, flags, |header| {
            // SAFETY: the buffer has room for any message, and the set is live.
            unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, self.0) };
        })
    }
}

impl RawRule {
    /// What is said of all rules of a chain, or of the table.
    pub fn of_table(chain: Option<&str>) -> Self {
        let rule = Self::new();
        let names = [
            (sys::NFTNL_RULE_TABLE, Some(TABLE)),
            (sys::NFTNL_RULE_CHAIN, chain),
        ];
        for (attribute, name) in names {
            if let Some(name) = name.map(c_string) {
                // SAFETY: the rule is live and copies the string.
                unsafe { sys::nftnl_rule_set_str(rule.0, attribute as u16, name.as_ptr()) };
            }
        }
        rule
    }

    pub fn message(&self, kind: c_int, flags: c_int) -> Message {
        message(kind, flags, |header| {
            // SAFETY: the buffer has room for any message, and the rule is live.
            unsafe { sys::nftnl_rule_nlmsg_build_payload(header, self.0) };
        })
    }
}

/// # Safety
/// `string` is null or a C string.
pub unsafe fn text(string: *const c_char) -> String {
    assert!(!string.is_null());
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(string) };
    text.to_str().unwrap().to_owned()
}
