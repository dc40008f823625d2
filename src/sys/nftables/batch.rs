//! What is around the messages of a batch.

use super::{Message, headers::frame};

/// The first message of a batch.
#[must_use]
pub fn batch_begin() -> Message {
    frame(libc::NFNL_MSG_BATCH_BEGIN).finish()
}

/// The last message of a batch.
#[must_use]
pub fn batch_end() -> Message {
    frame(libc::NFNL_MSG_BATCH_END).finish()
}
