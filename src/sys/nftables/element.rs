//! Elements of sets, to the kernel and back.

use super::{
    Message,
    expr::{NFTA_DATA_VALUE, NFTA_LIST_ELEM},
    headers::{attributes_of, begin_of_table},
};
use crate::{
    ruleset::set::{Octets, RawElement},
    sys::netlink::attribute::{Attributes, Writer, attributes},
};
use std::time::Duration;

// `enum nft_set_elem_list_attributes` and `enum nft_set_elem_attributes` of the kernel's
// include/uapi/linux/netfilter/nf_tables.h.
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_SET_ELEM_KEY_END: u16 = 10;

/// Elements in one message: 80 octets each at most, in an attribute of at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 780;

/// Adds elements to a set, in as many messages as they need.
pub fn add_elements<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    messages(set, elements, libc::NFT_MSG_NEWSETELEM, flags)
}

/// The same where they may be there already, which changes nothing.
pub fn ensure_elements<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    let flags = libc::NLM_F_CREATE;
    messages(set, elements, libc::NFT_MSG_NEWSETELEM, flags)
}

/// Deletes elements of a set, each of which is there.
pub fn delete_elements<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
) -> impl Iterator<Item = Message> + 'a {
    messages(set, elements, libc::NFT_MSG_DELSETELEM, 0)
}

/// Deletes all elements of a set.
#[must_use]
pub fn flush_set(set: &str) -> Message {
    // Without a list it stands for all of them.
    of_set(set, libc::NFT_MSG_DELSETELEM, 0).finish()
}

/// Asks for the elements of a set.
#[must_use]
pub fn dump_elements(set: &str) -> Message {
    of_set(set, libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP).finish()
}

fn messages<'a>(
    set: &'a str,
    elements: impl Iterator<Item = RawElement> + 'a,
    kind: libc::c_int,
    flags: libc::c_int,
) -> impl Iterator<Item = Message> + 'a {
    let mut elements = elements.peekable();
    std::iter::from_fn(move || {
        elements.peek()?;
        let mut message = of_set(set, kind, flags);
        message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            for element in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                list.nest(NFTA_LIST_ELEM, |list| write(list, &element));
            }
        });
        Some(message.finish())
    })
}

fn of_set(set: &str, kind: libc::c_int, flags: libc::c_int) -> Writer {
    let mut message = begin_of_table(kind, flags);
    message.text(NFTA_SET_ELEM_LIST_SET, set);
    message
}

fn write(message: &mut Writer, element: &RawElement) {
    let keys = [
        (NFTA_SET_ELEM_KEY, Some(&element.key)),
        (NFTA_SET_ELEM_KEY_END, element.end.as_ref()),
    ];
    for (number, key) in keys {
        if let Some(key) = key {
            message.nest(number, |data| {
                data.octets(NFTA_DATA_VALUE, key.as_slice());
            });
        }
    }
    if let Some(life) = element.life {
        let milliseconds = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        message.u64(NFTA_SET_ELEM_TIMEOUT, milliseconds);
    }
}

/// The elements in one answer to [`dump_elements`].
#[must_use]
pub fn parse_elements(message: &[u8]) -> Option<Vec<RawElement>> {
    let list = attributes_of(message)?.octets(NFTA_SET_ELEM_LIST_ELEMENTS);
    // A set without elements has no list of them.
    attributes(list.unwrap_or_default())
        .map(|listed| {
            let (number, element) = listed?;
            (number == NFTA_LIST_ELEM).then(|| read(&Attributes::of(element)?))?
        })
        .collect()
}

fn read(element: &Attributes<'_>) -> Option<RawElement> {
    let key = |number| Octets::new(element.nest(number)?.octets(NFTA_DATA_VALUE)?);
    Some(RawElement {
        key: key(NFTA_SET_ELEM_KEY)?,
        end: key(NFTA_SET_ELEM_KEY_END),
        life: element
            .u64(NFTA_SET_ELEM_EXPIRATION)
            .map(Duration::from_millis),
    })
}
