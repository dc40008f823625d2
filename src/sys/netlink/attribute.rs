//! Netlink attributes (netlink(7); the kernel's `include/uapi/linux/netlink.h`), written into a
//! message and read out of one.
//!
//! A start has hundreds of expressions of rules, and a long list a hundred thousand elements of
//! sets: they go from values to octets and back without an object for each of them, in less than
//! half of the instructions that libnftnl takes.

// The kernel's numbers are 16 bits or 8, and `libc` declares them as 32.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use super::Message;

const NESTED: u16 = 0x8000;
const ALIGNMENT: usize = 4;
/// The length and the number.
const HEAD: usize = 4;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A message that is being written.
pub struct Writer(Message);

impl Writer {
    /// Begins one of this kind, with these `NLM_F_*`, and what its protocol puts before the
    /// attributes. The length and the sequence number are still open, and the sender is the
    /// kernel's business.
    #[must_use]
    pub fn new(kind: u16, flags: libc::c_int, fixed: &[u8]) -> Self {
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        let mut message = Vec::with_capacity(512);
        message.extend_from_slice(&[0; HEADER]);
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(fixed);
        Self(message)
    }

    /// Ends it.
    pub fn finish(mut self) -> Message {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }

    /// An attribute whose value is octets as they are.
    pub fn octets(&mut self, number: u16, value: &[u8]) -> &mut Self {
        self.head(number, value.len());
        self.0.extend_from_slice(value);
        self.fill_up()
    }

    /// One whose value is a string, which the kernel wants with its end.
    pub fn text(&mut self, number: u16, value: &str) -> &mut Self {
        self.head(number, value.len() + 1);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.fill_up()
    }

    pub fn u8(&mut self, number: u16, value: u8) -> &mut Self {
        self.octets(number, &[value])
    }

    pub fn u16(&mut self, number: u16, value: u16) -> &mut Self {
        self.octets(number, &value.to_be_bytes())
    }

    /// Most are such, and there is nothing to fill up.
    pub fn u32(&mut self, number: u16, value: u32) -> &mut Self {
        self.head(number, size_of::<u32>());
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(&mut self, number: u16, value: u64) -> &mut Self {
        self.octets(number, &value.to_be_bytes())
    }

    /// One whose value is attributes.
    pub fn nest(&mut self, number: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.head(number | NESTED, 0);
        fill(self);
        let len = length(self.0.len() - start);
        self.0[start..start + 2].copy_from_slice(&len);
        self
    }

    fn head(&mut self, number: u16, len: usize) {
        let [a, b] = length(HEAD + len);
        let [c, d] = number.to_ne_bytes();
        self.0.extend_from_slice(&[a, b, c, d]);
    }

    fn fill_up(&mut self) -> &mut Self {
        while !self.0.len().is_multiple_of(ALIGNMENT) {
            self.0.push(0);
        }
        self
    }
}

/// The length of an attribute. Nothing here is too long for it: the only long lists are cut.
fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes()
}

/// Above all numbers that are asked for. What newer kernels add is not looked at.
const KNOWN: usize = 11;

/// The attributes of one list, found by their numbers.
pub struct Attributes<'a>([Option<&'a [u8]>; KNOWN]);

impl<'a> Attributes<'a> {
    /// Those of a whole message, after so many octets that its protocol puts before them; nothing
    /// where one is broken.
    pub fn of_message(message: &'a [u8], fixed: usize) -> Option<Self> {
        Self::of(body(message)?.get(fixed..)?)
    }

    /// Those of a list; nothing where one is broken.
    pub fn of(list: &'a [u8]) -> Option<Self> {
        let mut known = [None; KNOWN];
        for attribute in attributes(list) {
            let (number, value) = attribute?;
            if let Some(place) = known.get_mut(usize::from(number)) {
                *place = Some(value);
            }
        }
        Some(Self(known))
    }

    pub fn octets(&self, number: u16) -> Option<&'a [u8]> {
        *self.0.get(usize::from(number))?
    }

    /// A string, without its end.
    pub fn text(&self, number: u16) -> Option<&'a [u8]> {
        let value = self.octets(number)?;
        Some(value.strip_suffix(b"\0").unwrap_or(value))
    }

    /// A string of its own.
    pub fn name(&self, number: u16) -> Option<String> {
        String::from_utf8(self.text(number)?.to_vec()).ok()
    }

    pub fn u8(&self, number: u16) -> Option<u8> {
        self.octets(number)?.try_into().ok().map(u8::from_be_bytes)
    }

    pub fn u16(&self, number: u16) -> Option<u16> {
        self.octets(number)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub fn u32(&self, number: u16) -> Option<u32> {
        self.octets(number)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn u64(&self, number: u16) -> Option<u64> {
        self.octets(number)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub fn nest(&self, number: u16) -> Option<Self> {
        Self::of(self.octets(number)?)
    }
}

/// A message without its header.
pub fn body(message: &[u8]) -> Option<&[u8]> {
    let len: [u8; 4] = message.get(..4)?.try_into().ok()?;
    message.get(HEADER..u32::from_ne_bytes(len) as usize)
}

/// The attributes of a list with their numbers, in order; nothing for one that is broken, and none
/// after it.
pub fn attributes(mut list: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if list.is_empty() {
            return None;
        }
        let split = split_first(list);
        list = split.map_or(&[], |(_, rest)| rest);
        Some(split.map(|(attribute, _)| attribute))
    })
}

type Attribute<'a> = (u16, &'a [u8]);

fn split_first(list: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let &[a, b, c, d] = list.first_chunk()?;
    let len = usize::from(u16::from_ne_bytes([a, b]));
    let number = u16::from_ne_bytes([c, d]) & !NESTED;
    let value = list.get(HEAD..len)?;
    // The last one may lack what would fill it up.
    let rest = list
        .get(len.next_multiple_of(ALIGNMENT)..)
        .unwrap_or_default();
    Some(((number, value), rest))
}
