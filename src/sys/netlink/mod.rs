//! Netlink (netlink(7)): a socket and the messages in its datagrams, attributes, and questions with
//! the kernel's answers. What the messages of a protocol say is in a module for each.

pub(super) mod attribute;
mod conversation;
mod socket;

pub(crate) use conversation::Answer;
pub use conversation::{Conversation, Failure, Refusal};
pub use socket::Socket;

/// A message, header and all.
pub type Message = Vec<u8>;
