//! For `fuzz/`: an answer of the kernel as it comes from the socket.

use crate::sys::netlink::Answer;

/// The sequence number of an acknowledgement, and of an error its text.
#[must_use]
pub fn read_answer(message: &[u8]) -> Option<(u32, Option<String>)> {
    let answer = Answer::read(message)?;
    let error = answer.error.map(|refusal| refusal.to_string());
    Some((answer.sequence, error))
}
