//! Questions, and what the kernel answers to them.

use super::{Message, Socket, attribute::attributes};
use std::io;
use thiserror::Error;

/// An error that the kernel gave, and what it added to it.
#[derive(Debug, Error)]
#[error("{error}{}", detail.as_ref().map(|detail| format!(", {detail}")).unwrap_or_default())]
pub struct Refusal {
    /// The error number.
    pub error: io::Error,
    /// A sentence, or the place in the message.
    pub detail: Option<String>,
}

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum Failure {
    /// It did not leave.
    #[error(transparent)]
    Send(io::Error),
    /// Nothing came, or nothing whole.
    #[error(transparent)]
    Receive(io::Error),
    /// The kernel refused it.
    #[error(transparent)]
    Refused(Refusal),
    /// The answer is not one that this version knows.
    #[error("the kernel's answer cannot be understood")]
    Unreadable,
    /// What was asked for changed each time while it was being read.
    #[error("it kept changing while it was being read")]
    Unstable,
}

/// A socket, and the number of the next message.
pub struct Conversation {
    /// The socket.
    pub socket: Socket,
    /// The number.
    pub sequence: u32,
}

impl Conversation {
    /// Begins one.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            sequence: 1,
        }
    }

    /// Sends a question that has one answer, and no acknowledgement beside it.
    pub fn get<T>(
        &mut self,
        question: &Message,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Failure> {
        self.converse(question, |_, message| {
            parse(message).map(Some).ok_or(Failure::Unreadable)
        })
    }

    /// Sends what changes something and waits until it has.
    pub fn change(&mut self, request: &Message) -> Result<(), Failure> {
        self.converse(
            request,
            |header, _| Ok((header.kind == ERROR).then_some(())),
        )
    }

    /// Sends a question and collects the answers to it.
    pub fn ask<T>(
        &mut self,
        question: &Message,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let mut attempts = 5;
        loop {
            match self.ask_once(question, &mut parse)? {
                Some(answers) => return Ok(answers),
                None if attempts > 0 => attempts -= 1,
                None => return Err(Failure::Unstable),
            }
        }
    }

    /// Nothing where the kernel says that something changed while it was being read.
    fn ask_once<T>(
        &mut self,
        question: &Message,
        parse: &mut impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Failure> {
        let mut answers = Vec::new();
        let mut intact = true;
        self.converse(question, |header, message| {
            intact &= header.flags & DUMP_INTERRUPTED == 0;
            if matches!(header.kind, ERROR | DONE) {
                return Ok(Some(intact.then(|| std::mem::take(&mut answers))));
            }
            answers.push(parse(message).ok_or(Failure::Unreadable)?);
            Ok(None)
        })
    }

    /// Sends a question and gives each message of the answer to `take`, until that has what it is
    /// there for.
    fn converse<T>(
        &mut self,
        question: &Message,
        mut take: impl FnMut(&Header, &[u8]) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let sequence = self.send(question)?;
        loop {
            for message in self.socket.receive().map_err(Failure::Receive)? {
                let message = message.map_err(Failure::Receive)?;
                let header = Header::read(message).ok_or(Failure::Unreadable)?;
                if header.sequence != sequence {
                    continue;
                }
                if let Some(refusal) = Answer::read(message).and_then(|answer| answer.error) {
                    return Err(Failure::Refused(refusal));
                }
                if let Some(taken) = take(&header, message)? {
                    return Ok(taken);
                }
            }
        }
    }

    /// Sends a question and returns the number that its answers have.
    fn send(&mut self, question: &Message) -> Result<u32, Failure> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let mut question = question.clone();
        question[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.socket.send(&question).map_err(Failure::Send)?;
        Ok(sequence)
    }
}

// Of include/uapi/linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let u16_at = |at: usize| {
            Some(u16::from_ne_bytes(
                message.get(at..at + 2)?.try_into().ok()?,
            ))
        };
        let sequence = u32::from_ne_bytes(message.get(8..12)?.try_into().ok()?);
        Some(Self {
            kind: u16_at(4)?,
            flags: u16_at(6)?,
            sequence,
        })
    }
}

/// An acknowledgement (`struct nlmsgerr`), with what the kernel adds to an error in words
/// (`NETLINK_EXT_ACK` in netlink(7)).
pub(crate) struct Answer {
    pub sequence: u32,
    pub error: Option<Refusal>,
}

// Of include/uapi/linux/netlink.h.
const ACK_HAS_ATTRIBUTES: u16 = 0x200;
const ATTRIBUTE_MESSAGE: u16 = 1;
const ATTRIBUTE_OFFSET: u16 = 2;

impl Answer {
    pub fn read(message: &[u8]) -> Option<Self> {
        let header = Header::read(message)?;
        if header.kind != ERROR {
            return None;
        }
        let errno = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
        let error = (errno != 0).then(|| Refusal {
            error: io::Error::from_raw_os_error(errno.wrapping_neg()),
            // After the error the header that it is about, and with `NETLINK_CAP_ACK` no more.
            detail: (header.flags & ACK_HAS_ATTRIBUTES != 0)
                .then(|| message.get(36..).and_then(detail))
                .flatten(),
        });
        Some(Self {
            sequence: header.sequence,
            error,
        })
    }
}

/// What the attributes of an error say: a sentence, or which octet of the message is at fault.
fn detail(list: &[u8]) -> Option<String> {
    let mut offset = None;
    for attribute in attributes(list) {
        let (number, value) = attribute?;
        match number {
            ATTRIBUTE_MESSAGE => {
                let text = value.strip_suffix(b"\0").unwrap_or(value);
                return Some(String::from_utf8_lossy(text).into_owned());
            }
            ATTRIBUTE_OFFSET => {
                let octet = u32::from_ne_bytes(value.try_into().ok()?);
                offset = Some(format!("at octet {octet} of the message"));
            }
            _ => {}
        }
    }
    offset
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// An error message as the kernel sends it with extended acknowledgements.
    fn answer(errno: i32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![0; 36];
        message[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        message[6..8].copy_from_slice(&(ACK_HAS_ATTRIBUTES | 0x100).to_ne_bytes());
        message[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        message[16..20].copy_from_slice(&(-errno).to_ne_bytes());
        for (kind, value) in attributes {
            let len = u16::try_from(4 + value.len()).unwrap();
            message.extend_from_slice(&len.to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    #[test]
    fn an_error_says_what_the_kernel_says() {
        let offset = 52_u32.to_ne_bytes();
        let words = answer(
            22,
            &[
                (ATTRIBUTE_OFFSET, &offset),
                (ATTRIBUTE_MESSAGE, b"no such hook\0"),
            ],
        );
        let refusal = Answer::read(&words).unwrap().error.unwrap();
        assert_eq!(
            refusal.to_string(),
            "Invalid argument (os error 22), no such hook"
        );
        let octet = answer(2, &[(ATTRIBUTE_OFFSET, &offset)]);
        let refusal = Answer::read(&octet).unwrap().error.unwrap();
        assert_eq!(
            refusal.to_string(),
            "No such file or directory (os error 2), at octet 52 of the message"
        );
    }

    #[test]
    fn zero_is_an_acknowledgement() {
        let answer = Answer::read(&answer(0, &[])).unwrap();
        assert_eq!(answer.sequence, 7);
        assert!(answer.error.is_none());
    }

    #[test]
    fn broken_attributes_are_no_detail() {
        for broken in [&[3, 0, 1, 0][..], &[0, 0, 1, 0], &[200, 0, 1, 0, 65]] {
            let mut message = answer(1, &[]);
            message.extend_from_slice(broken);
            assert_eq!(Answer::read(&message).unwrap().error.unwrap().detail, None);
        }
    }
}
