//! Sets with flags, concatenated keys and ranges.

// libnftnl takes attributes as 16 bits and declares them as 32, the kernel's numbers likewise.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use super::{INET, Message, build, c_string, octets, or_abort, text};
use crate::ruleset::TABLE;
use nftnl::nftnl_sys as sys;
use std::ptr::NonNull;

/// A set of libnftnl, freed with its elements.
pub(super) struct OwnedSet(pub(super) NonNull<sys::nftnl_set>);

impl OwnedSet {
    pub(super) fn empty() -> Self {
        // SAFETY: allocation; null is checked.
        Self(or_abort(unsafe { sys::nftnl_set_alloc() }))
    }

    pub(super) fn new(name: &str) -> Self {
        let set = Self::of_table();
        set.set_str(sys::NFTNL_SET_NAME, name);
        set
    }

    /// Any set of the table.
    pub(super) fn of_table() -> Self {
        let set = Self::empty();
        set.set_str(sys::NFTNL_SET_TABLE, TABLE);
        set.set_u32(sys::NFTNL_SET_FAMILY, u32::from(INET));
        set
    }

    fn set_str(&self, attribute: u32, value: &str) {
        let value = c_string(value);
        // SAFETY: the set is live and copies the string.
        unsafe { sys::nftnl_set_set_str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
    }

    /// Its name; empty where it has none.
    pub(super) fn name(&self) -> String {
        // SAFETY: the set is live; what comes back is null or a string of it.
        unsafe {
            text(sys::nftnl_set_get_str(
                self.0.as_ptr(),
                sys::NFTNL_SET_NAME as u16,
            ))
        }
    }

    pub(super) fn set_u32(&self, attribute: u32, value: u32) {
        // SAFETY: the set is live, and the attribute is of this type.
        unsafe { sys::nftnl_set_set_u32(self.0.as_ptr(), attribute as u16, value) };
    }

    pub(super) fn get_u32(&self, attribute: u32) -> u32 {
        // SAFETY: the set is live, and the attribute is of this type.
        unsafe { sys::nftnl_set_get_u32(self.0.as_ptr(), attribute as u16) }
    }

    pub(super) fn set_data(&self, attribute: u32, value: &[u8]) {
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

    pub(super) fn message(&self, kind: libc::c_int, flags: libc::c_int) -> Message {
        // SAFETY: the buffer has room for any message, and the set is live.
        build(|buffer| unsafe {
            let header = sys::nftnl_nlmsg_build_hdr(
                buffer.cast(),
                kind as u16,
                INET.into(),
                flags as u16,
                0,
            );
            sys::nftnl_set_nlmsg_build_payload(header, self.0.as_ptr());
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
