//! The allocator of the program: lists of free blocks for what is small, before dlmalloc, behind a
//! lock that costs one atomic operation.
//!
//! musl's own takes a start half as long again. dlmalloc joins what is freed with its neighbours and
//! looks for what fits best, of which a start, that takes and gives some thousand small blocks, has
//! nothing: it was an eighth of its instructions. The crate's global form calls the C library to
//! lock and to unlock a mutex, each time memory is taken or given, which is a twentieth of a start.
//! The program has one thread but where `doctor` looks, so that nobody waits for long.

use dlmalloc::Dlmalloc;
use std::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// For `#[global_allocator]`, which a program has and a library leaves to it.
pub struct Allocator;

struct Heap {
    taken: AtomicBool,
    all: UnsafeCell<Memory>,
}

// SAFETY: what is in it is touched by nobody but who has the lock.
unsafe impl Sync for Heap {}

static HEAP: Heap = Heap {
    taken: AtomicBool::new(false),
    all: UnsafeCell::new(Memory {
        free: [ptr::null_mut(); KINDS],
        rest: ptr::null_mut(),
        left: 0,
        large: Dlmalloc::new(),
    }),
};

impl Heap {
    fn with<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> T {
        let take = || {
            self.taken
                .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
        };
        while take().is_err() {
            thread::yield_now();
        }
        // SAFETY: the lock is ours until it is given back below, and `work` keeps nothing of it.
        let result = work(unsafe { &mut *self.all.get() });
        self.taken.store(false, Ordering::Release);
        result
    }
}

/// Small blocks have a multiple of this many octets, and are aligned to it.
const STEP: usize = 16;
/// The largest small block.
const SMALL: usize = 512;
const KINDS: usize = SMALL / STEP;
/// What small blocks are cut from, in octets.
const PIECE: usize = 16 * 1024;

/// A small block that is free.
struct Block {
    next: *mut Block,
}

struct Memory {
    /// The free blocks of each size. They stay small blocks: what a start has taken of them serves
    /// whatever comes after it.
    free: [*mut Block; KINDS],
    /// What is left of the last piece.
    rest: *mut u8,
    left: usize,
    large: Dlmalloc,
}

/// Which blocks are for so many octets, if small ones are.
fn kind(size: usize, align: usize) -> Option<usize> {
    (size <= SMALL && align <= STEP).then(|| size.saturating_sub(1) / STEP)
}

impl Memory {
    /// # Safety
    /// The size is not 0.
    unsafe fn take(&mut self, size: usize, align: usize) -> *mut u8 {
        let Some(kind) = kind(size, align) else {
            // SAFETY: the caller's.
            return unsafe { self.large.malloc(size, align) };
        };
        let block = self.free[kind];
        if block.is_null() {
            return self.cut((kind + 1) * STEP);
        }
        // SAFETY: it was given back, so that it is ours and has what `give` wrote there.
        self.free[kind] = unsafe { (*block).next };
        block.cast()
    }

    /// # Safety
    /// `memory` is of `take`, with the same size and alignment, and nobody uses it any more.
    unsafe fn give(&mut self, memory: *mut u8, size: usize, align: usize) {
        let Some(kind) = kind(size, align) else {
            // SAFETY: the caller's.
            return unsafe { self.large.free(memory, size, align) };
        };
        #[allow(clippy::cast_ptr_alignment)] // to STEP, more than that of a pointer
        let block = memory.cast::<Block>();
        // SAFETY: the block is ours now, has room for a pointer and is aligned.
        unsafe {
            block.write(Block {
                next: self.free[kind],
            });
        };
        self.free[kind] = block;
    }

    /// A small block that nobody had before.
    fn cut(&mut self, octets: usize) -> *mut u8 {
        if self.left < octets {
            // What is left of the last one is too small for this, and lost: a thirtieth at most.
            // SAFETY: the size is not 0.
            let piece = unsafe { self.large.malloc(PIECE, STEP) };
            if piece.is_null() {
                return piece;
            }
            (self.rest, self.left) = (piece, PIECE);
        }
        let block = self.rest;
        // SAFETY: so many octets of the piece are left.
        self.rest = unsafe { block.add(octets) };
        self.left -= octets;
        block
    }
}

// Not in line: it would be there some thousand times.
//
// SAFETY: a block is one owner's until it is given back, has the size and the alignment that were
// asked for, and one thread at a time asks.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises a size that is not 0.
        HEAP.with(|memory| unsafe { memory.take(layout.size(), layout.align()) })
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if kind(layout.size(), layout.align()).is_none() {
            // It knows which memory the kernel has cleared.
            // SAFETY: as above.
            return HEAP
                .with(|memory| unsafe { memory.large.calloc(layout.size(), layout.align()) });
        }
        // SAFETY: as above.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: it has so many octets.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline(never)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that it is memory of ours with this layout.
        HEAP.with(|all| unsafe { all.give(memory, layout.size(), layout.align()) });
    }

    #[inline(never)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        let (before, after) = (kind(layout.size(), align), kind(size, align));
        if before.is_none() && after.is_none() {
            // SAFETY: the caller promises that, and a size that is not 0.
            return HEAP
                .with(|all| unsafe { all.large.realloc(memory, layout.size(), align, size) });
        }
        if before == after {
            return memory;
        }
        HEAP.with(|all| {
            // SAFETY: the size is not 0.
            let new = unsafe { all.take(size, align) };
            if !new.is_null() {
                // SAFETY: both have as many octets as the smaller one, and are apart. What was
                // there is the caller's no more.
                unsafe {
                    new.copy_from_nonoverlapping(memory, layout.size().min(size));
                    all.give(memory, layout.size(), align);
                }
            }
            new
        })
    }
}

/// Gives memory that is free back to the kernel. A process that stays need not keep what its start
/// took.
pub fn give_memory_back() {
    // SAFETY: it moves nothing that is in use.
    HEAP.with(|memory| unsafe { memory.large.trim(0) });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn memory_is_of_one_owner_and_keeps_what_is_in_it() {
        let fill = |seed: u8| {
            for size in 1..2000_usize {
                let small = Layout::from_size_align(size, 8).unwrap();
                let large = Layout::from_size_align(size * 3, 8).unwrap();
                // SAFETY: sizes are not 0, and each address is given back with its layout.
                unsafe {
                    let memory = Allocator.alloc(small);
                    memory.write_bytes(seed, size);
                    let zeroed = Allocator.alloc_zeroed(small);
                    thread::yield_now();
                    let memory = Allocator.realloc(memory, small, size * 3);
                    let kept = std::slice::from_raw_parts(memory, size);
                    assert!(kept.iter().all(|octet| *octet == seed));
                    let zeros = std::slice::from_raw_parts(zeroed, size);
                    assert!(zeros.iter().all(|octet| *octet == 0));
                    zeroed.write_bytes(seed, size);
                    Allocator.dealloc(zeroed, small);
                    Allocator.dealloc(memory, large);
                }
            }
            give_memory_back();
        };
        thread::scope(|scope| {
            for seed in 1..=4 {
                scope.spawn(move || fill(seed));
            }
        });
    }

    #[test]
    fn a_small_block_is_taken_again() {
        let mut memory = Memory {
            free: [ptr::null_mut(); KINDS],
            rest: ptr::null_mut(),
            left: 0,
            large: Dlmalloc::new(),
        };
        // SAFETY: sizes are not 0, and each block is given back with its own.
        unsafe {
            for size in [1, 16, 17, 500, 512] {
                let first = memory.take(size, 8);
                let second = memory.take(size, 8);
                assert!(second.addr() - first.addr() >= size.next_multiple_of(STEP));
                memory.give(first, size, 8);
                memory.give(second, size, 8);
                assert_eq!(memory.take(size, 8), second);
                assert_eq!(memory.take(size, 8), first);
            }
            assert_eq!(memory.left, PIECE - 2 * (16 + 16 + 32 + 512 + 512));
        }
    }

    #[test]
    fn alignment_is_as_asked() {
        for align in [1, 16, 64, 4096] {
            let layout = Layout::from_size_align(100, align).unwrap();
            // SAFETY: the size is not 0, and it is given back with its layout.
            unsafe {
                let memory = Allocator.alloc(layout);
                assert_eq!(memory.addr() % align, 0);
                Allocator.dealloc(memory, layout);
            }
        }
    }
}
