//! The allocator of the program: dlmalloc, behind a lock that costs one atomic operation.
//!
//! musl's own takes a start half as long again. The crate's global form calls the C library to lock
//! and to unlock a mutex, each time memory is taken or given, which is a twentieth of a start. The
//! program has one thread but where `doctor` asks nameservers, so that nobody waits for long.

use dlmalloc::Dlmalloc;
use std::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// For `#[global_allocator]`, which a program has and a library leaves to it.
pub struct Allocator;

struct Heap {
    taken: AtomicBool,
    all: UnsafeCell<Dlmalloc>,
}

// SAFETY: what is in it is touched by nobody but who has the lock.
unsafe impl Sync for Heap {}

static HEAP: Heap = Heap {
    taken: AtomicBool::new(false),
    all: UnsafeCell::new(Dlmalloc::new()),
};

impl Heap {
    fn with<T>(&self, work: impl FnOnce(&mut Dlmalloc) -> T) -> T {
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

// Not in line: it would be there some thousand times.
//
// SAFETY: what dlmalloc promises is what this trait asks, and it is asked by one thread at a time.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises a size that is not 0.
        HEAP.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        HEAP.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    #[inline(never)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that it is memory of ours with this layout.
        HEAP.with(|heap| unsafe { heap.free(memory, layout.size(), layout.align()) });
    }

    #[inline(never)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that, and a size that is not 0.
        HEAP.with(|heap| unsafe { heap.realloc(memory, layout.size(), layout.align(), size) })
    }
}

/// Gives memory that is free back to the kernel. A process that stays need not keep what its start
/// took.
pub fn give_memory_back() {
    // SAFETY: it moves nothing that is in use.
    HEAP.with(|heap| unsafe { heap.trim(0) });
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
