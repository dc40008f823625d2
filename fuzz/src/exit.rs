//! `exit` of this program, which libnftnl calls where an attribute of the kernel is not as long as
//! it expects (`abi_breakage` in its include/utils.h). To the program that is an end like any
//! other before the sentinel is published; here it would end the search. So within a target it
//! unwinds, through the C code, to where the target began.

use std::{
    cell::Cell,
    ffi::c_int,
    panic::{self, AssertUnwindSafe},
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

struct Exit;

/// Runs `target`, where `exit` is an end like any other. What libnftnl had allocated by then
/// stays.
pub fn caught(target: impl FnOnce()) {
    CATCHING.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(target));
    CATCHING.set(false);
    if let Err(payload) = outcome
        && !payload.is::<Exit>()
    {
        panic::resume_unwind(payload);
    }
}

// SAFETY: it has the type of exit(3), and does not return. The dynamic linker finds this one before
// that of the C library.
#[unsafe(no_mangle)]
extern "C-unwind" fn exit(status: c_int) -> ! {
    if CATCHING.get() {
        panic::resume_unwind(Box::new(Exit));
    }
    // SAFETY: plain calls; the name is a C string, and what is found under it is exit(3).
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"exit".as_ptr());
        if next.is_null() {
            libc::_exit(status);
        }
        let next: extern "C" fn(c_int) -> ! = std::mem::transmute(next);
        next(status)
    }
}
