//! `memcpy`, `memmove`, `memcmp` and `bcmp` of the program, where musl is its C library on `x86_64`.
//!
//! musl's are the shortest that there are: one octet after the other is compared, and every copy is a
//! `rep movsq`, which a processor needs some thirty cycles to begin. What a start copies and compares,
//! ten thousand times each, is a few dozen octets long: with these it takes a twelfth less time. The
//! linker takes them, because they come before those of the library.

use std::{
    arch::{
        asm,
        x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128},
    },
    cmp::Ordering,
    ffi::{c_int, c_void},
};

/// Copies octets between places that do not overlap.
///
/// # Safety
/// As of memcpy(3): `from` can be read and `to` written for `count` octets.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: the caller's.
    unsafe { copy(to.cast(), from.cast(), count) };
    to
}

/// Copies octets between places that may overlap.
///
/// # Safety
/// As of memmove(3): `from` can be read and `to` written for `count` octets.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(
    to: *mut c_void,
    from: *const c_void,
    count: usize,
) -> *mut c_void {
    // SAFETY: the caller's.
    unsafe { copy(to.cast(), from.cast(), count) };
    to
}

/// Compares octets as numbers, the first ones first.
///
/// # Safety
/// As of memcmp(3): both can be read for `count` octets.
#[must_use]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(one: *const c_void, other: *const c_void, count: usize) -> c_int {
    // SAFETY: the caller's.
    unsafe { compare(one.cast(), other.cast(), count) as c_int }
}

/// Whether octets differ: 0 where they do not.
///
/// # Safety
/// As of bcmp(3): both can be read for `count` octets.
#[must_use]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn bcmp(one: *const c_void, other: *const c_void, count: usize) -> c_int {
    // SAFETY: the caller's.
    unsafe { compare(one.cast(), other.cast(), count) as c_int }
}

/// Whatever the length, what is at the beginning and what is at the end may overlap. All is read
/// before anything is written, so that the two places may overlap too.
#[inline]
unsafe fn copy(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: nothing is read or written but the octets that the caller vouches for: in each branch
    // there are as many from either end as are read from there.
    unsafe {
        let (to_end, from_end) = (to.wrapping_add(count), from.wrapping_add(count));
        if count >= 16 {
            let (first, last) = (vector(from), vector(from_end.sub(16)));
            if count > 32 {
                let (second, last_but_one) = (vector(from.add(16)), vector(from_end.sub(32)));
                if count > 64 {
                    if count > 128 {
                        return if to.addr().wrapping_sub(from.addr()) >= count {
                            forwards(to, from, count);
                        } else {
                            backwards(to, from, count);
                        };
                    }
                    let (third, last_but_two) = (vector(from.add(32)), vector(from_end.sub(48)));
                    let (fourth, last_but_three) = (vector(from.add(48)), vector(from_end.sub(64)));
                    store(to.add(32), third);
                    store(to.add(48), fourth);
                    store(to_end.sub(64), last_but_three);
                    store(to_end.sub(48), last_but_two);
                }
                store(to.add(16), second);
                store(to_end.sub(32), last_but_one);
            }
            store(to, first);
            store(to_end.sub(16), last);
        } else if count >= 8 {
            let (first, last): (u64, u64) = (number(from), number(from_end.sub(8)));
            put(to, first);
            put(to_end.sub(8), last);
        } else if count >= 4 {
            let (first, last): (u32, u32) = (number(from), number(from_end.sub(4)));
            put(to, first);
            put(to_end.sub(4), last);
        } else if count >= 2 {
            let (first, last): (u16, u16) = (number(from), number(from_end.sub(2)));
            put(to, first);
            put(to_end.sub(2), last);
        } else if count == 1 {
            to.write(from.read());
        }
    }
}

#[inline]
unsafe fn number<T>(at: *const u8) -> T {
    // SAFETY: the caller's; a number may have any octets.
    unsafe { at.cast::<T>().read_unaligned() }
}

#[inline]
unsafe fn put<T>(at: *mut u8, number: T) {
    // SAFETY: the caller's.
    unsafe { at.cast::<T>().write_unaligned(number) }
}

#[inline]
unsafe fn vector(at: *const u8) -> __m128i {
    // SAFETY: the caller's, for 16 octets; SSE2 is part of `x86_64`.
    unsafe { _mm_loadu_si128(at.cast()) }
}

#[inline]
unsafe fn store(at: *mut u8, vector: __m128i) {
    // SAFETY: as of `vector`.
    unsafe { _mm_storeu_si128(at.cast(), vector) };
}

/// From the first octet to the last, which is right where `to` is before `from` too.
unsafe fn forwards(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's, for more than eight octets. The direction flag is clear, as the ABI has it.
    unsafe {
        let (end, last) = (to.add(count - 8), number::<u64>(from.add(count - 8)));
        asm!(
            "rep movsq",
            inout("rcx") count / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
        put(end, last);
    }
}

/// From the last octet to the first. In a loop of plain reads and writes the compiler would see a
/// `memmove` and call it.
unsafe fn backwards(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's, for more than sixteen octets.
    unsafe {
        let first = vector(from);
        let mut left = count;
        while left > 16 {
            left -= 16;
            asm!(
                "movups {vector}, [{from}]",
                "movups [{to}], {vector}",
                from = in(reg) from.add(left),
                to = in(reg) to.add(left),
                vector = out(xmm_reg) _,
                options(nostack, preserves_flags)
            );
        }
        store(to, first);
    }
}

#[inline]
unsafe fn compare(one: *const u8, other: *const u8, count: usize) -> Ordering {
    // SAFETY: nothing is read but the octets that the caller vouches for.
    unsafe {
        let eight = |at| {
            let (one, other): (u64, u64) = (number(one.add(at)), number(other.add(at)));
            one.to_be().cmp(&other.to_be())
        };
        let four = |at| {
            let (one, other): (u32, u32) = (number(one.add(at)), number(other.add(at)));
            one.to_be().cmp(&other.to_be())
        };
        if count >= 8 {
            let mut at = 0;
            while at + 8 < count {
                let order = eight(at);
                if order.is_ne() {
                    return order;
                }
                at += 8;
            }
            return eight(count - 8);
        }
        if count >= 4 {
            return four(0).then_with(|| four(count - 4));
        }
        let mut order = Ordering::Equal;
        let mut at = 0;
        while at < count && order.is_eq() {
            order = one.add(at).read().cmp(&other.add(at).read());
            at += 1;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        // Few kinds of octets, so that many are the same.
        let length = prop_oneof![0..80_usize, 120..140_usize, 500..600_usize];
        length.prop_flat_map(|length| {
            prop::collection::vec(prop_oneof![0..2_u8, 254..=255_u8], length)
        })
    }

    proptest! {
        #[test]
        fn copies(from in octets()) {
            let mut to = vec![7; from.len() + 2];
            // SAFETY: both have that many octets.
            unsafe { memcpy(to[1..].as_mut_ptr().cast(), from.as_ptr().cast(), from.len()) };
            prop_assert_eq!(&to[1..=from.len()], &from[..]);
            prop_assert_eq!((to[0], to[from.len() + 1]), (7, 7));
        }

        #[test]
        fn moves(octets in octets(), from: prop::sample::Index, to: prop::sample::Index) {
            let (from, to) = (from.index(octets.len() + 1), to.index(octets.len() + 1));
            let count = octets.len() - from.max(to);
            let mut expected = octets.clone();
            expected.copy_within(from..from + count, to);
            let mut moved = octets;
            let all = moved.as_mut_ptr();
            // SAFETY: both ends are within it.
            unsafe { memmove(all.add(to).cast(), all.add(from).cast(), count) };
            prop_assert_eq!(moved, expected);
        }

        #[test]
        fn compares(one in octets(), other in octets(), equal: prop::sample::Index) {
            let count = one.len().min(other.len());
            let mut other = other;
            // Alike up to somewhere.
            let equal = equal.index(count + 1);
            other[..equal].copy_from_slice(&one[..equal]);
            // SAFETY: both have that many octets.
            let (order, differ) = unsafe {
                let (one, other) = (one.as_ptr().cast(), other.as_ptr().cast());
                (memcmp(one, other, count), bcmp(one, other, count))
            };
            prop_assert_eq!(order.cmp(&0), one[..count].cmp(&other[..count]));
            prop_assert_eq!(differ == 0, one[..count] == other[..count]);
        }
    }
}
