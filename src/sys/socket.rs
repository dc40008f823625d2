//! Socket options that no crate wraps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The cookie of the network namespace that a socket belongs to, unique until the next boot:
/// `SO_NETNS_COOKIE` (Linux 5.14), or `None` where the kernel has none.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `len` octets to `cookie`, which has 8, and the length
    // written to `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(Some(cookie));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        return Ok(None);
    }
    Err(error)
}
