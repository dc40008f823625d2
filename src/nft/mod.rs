//! Ruleset → kernel: transactions, their acknowledgement, and the read-back that proves them.
//!
//! The only module that talks to `nf_tables`; it knows nothing of names or lists. Encoding is in
//! [`transaction`] over [`crate::sys::nftables`], comparing in [`read_back`].

mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod read_back;
mod transaction;

pub use crate::sys::{netlink::Refusal, nftables::Count};
pub use error::NftError;

use crate::{
    policy,
    ruleset::Ruleset,
    sys::{
        netlink::{Answer, Conversation, Socket},
        nftables,
    },
};
use nix::sys::socket::SockProtocol;
use std::time::Duration;
use transaction::{Batch, Change};

/// How long the kernel may take for one transaction. Loading 100,000 networks takes one to two
/// seconds on a small machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the rules counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that started a flow to an allowed destination, or took one over from an earlier
    /// policy. Those after them are not counted: it would be done for every packet.
    pub let_out: Count,
    /// The same of what `--inbound` lets in.
    pub let_in: Count,
    /// Packets refused on the way out.
    pub refused: Count,
    /// Packets dropped on the way in.
    pub uninvited: Count,
}

fn total(counts: &[Count]) -> Count {
    counts.iter().fold(Count::default(), |sum, count| Count {
        packets: sum.packets + count.packets,
        octets: sum.octets + count.octets,
    })
}

/// What a keeper that starts finds in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No table of ours.
    Nothing,
    /// One of another structure: another mode, another version, another resolver, or changed.
    Other {
        /// What differs.
        what: String,
    },
    /// One of the same structure.
    Alike {
        /// The mark of its flows; that of the intended ruleset where it is of the same list.
        mark: u32,
    },
}

/// The `nf_tables` of this network namespace.
pub struct Nftables {
    conversation: Conversation,
}

impl Nftables {
    /// Opens a socket to it.
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter, DEADLINE);
        Ok(Self {
            conversation: Conversation::new(socket.map_err(NftError::Open)?),
        })
    }

    /// Makes the table what `to` says, whatever is there now, in one transaction.
    pub fn replace(&mut self, to: &Ruleset) -> Result<(), NftError> {
        self.commit(transaction::replace(to))
    }

    /// Has the kernel check what `replace` would send, and throw it away: a batch without its end
    /// is validated and aborted (`nfnetlink_rcv_batch` in the kernel's net/netfilter/nfnetlink.c;
    /// `nft --check` does the same). Packets are judged as before all the while: a base chain gets
    /// its policy when it is committed, and no rule of it counts before.
    pub fn try_out(&mut self, to: &Ruleset) -> Result<(), NftError> {
        let change = transaction::replace(to);
        let steps: Vec<_> = change.prepare.into_iter().chain(change.switch).collect();
        let batch = transaction::endless_batch(&steps, self.conversation.sequence);
        self.conversation.sequence = batch.last().wrapping_add(2);
        self.conversation
            .socket
            .room_for(batch.datagram.len())
            .map_err(NftError::Send)?;
        self.conversation
            .socket
            .send(&batch.datagram)
            .map_err(NftError::Send)?;
        self.await_acknowledgement(&batch)
    }

    /// Makes the table what `to` says where it is what `from` says. Packets are judged by `from`
    /// until one last transaction, by `to` from then on.
    pub fn transition(&mut self, from: &Ruleset, to: &Ruleset) -> Result<(), NftError> {
        self.commit(transaction::transition(from, to))
    }

    /// Lets elements come and go, in one transaction: those of one answer, or of a few. It is
    /// acknowledged when packets are judged by it.
    ///
    /// Where it fails, nothing of it happened; a [`Self::reload`] from and to the same ruleset puts
    /// right what the sets of names hold.
    pub fn update(&mut self, changes: &[policy::Change]) -> Result<(), NftError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.send(&transaction::update(changes))
    }

    /// Makes the table what `to` says where it is what `from` says, in one transaction: another
    /// list, with flows judged by it from the same instant on. The elements of names are made anew
    /// whatever they were; counters start again.
    ///
    /// Nothing changes where it fails, or does not fit in one datagram.
    pub fn reload(&mut self, from: &Ruleset, to: &Ruleset) -> Result<(), NftError> {
        let steps = transaction::reload(from, to);
        let length = transaction::length_of(&steps);
        let limit = self
            .conversation
            .socket
            .room_for(length)
            .map_err(NftError::Send)?;
        if length > limit {
            return Err(NftError::TooLong { length, limit });
        }
        self.send(&steps)
    }

    /// Looks whether the table in the kernel is one that `shape` could be, with any list and any
    /// answers: left by a keeper that ended, it may be kept while another one starts.
    pub fn adopt(&mut self, shape: &Ruleset) -> Result<Found, NftError> {
        match read_back::compare_structure(self, shape) {
            Ok(mark) => Ok(Found::Alike { mark }),
            Err(NftError::ReadBack(error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(Found::Nothing)
            }
            Err(NftError::Different(what)) => Ok(Found::Other { what }),
            Err(error) => Err(error),
        }
    }

    /// What the rules counted since they were made.
    pub fn counters(&mut self) -> Result<Counters, NftError> {
        let [out, into, refused] = ["let_out", "input", "refuse"].map(|chain| {
            let counts = self
                .conversation
                .ask(&nftables::dump_rules(chain), nftables::parse_counter)?;
            Ok::<Vec<Count>, NftError>(counts.into_iter().flatten().collect())
        });
        let mut into = into?;
        // The last rule of the chain counts what no other took.
        let uninvited = into.pop().unwrap_or_default();
        Ok(Counters {
            let_out: total(&out?),
            let_in: total(&into),
            refused: total(&refused?),
            uninvited,
        })
    }

    /// Ends the conversation, at once: see [`Socket::close`].
    pub fn close(self) {
        self.conversation.socket.close();
    }

    /// Reads the table and compares it with `intended` (I3).
    pub fn verify(&mut self, intended: &Ruleset) -> Result<(), NftError> {
        read_back::compare(self, intended, &read_back::is_intended)
    }

    /// The same where the sets of names may hold more: what an earlier keeper of the same list let
    /// in goes on to its end.
    pub fn verify_at_least(&mut self, intended: &Ruleset) -> Result<(), NftError> {
        read_back::compare(self, intended, &read_back::has_intended)
    }

    fn commit(&mut self, change: Change<'_>) -> Result<(), NftError> {
        let len = transaction::length(&change);
        let limit = self
            .conversation
            .socket
            .room_for(len)
            .map_err(NftError::Send)?;
        if len <= limit {
            let mut steps = change.prepare;
            steps.extend(change.switch);
            return self.send(&steps);
        }
        for steps in transaction::cut(&change.prepare, limit) {
            self.send(steps)?;
        }
        self.send(&change.switch)
    }

    fn send(&mut self, steps: &[transaction::Step<'_>]) -> Result<(), NftError> {
        let batch = transaction::batch(steps, self.conversation.sequence);
        self.conversation.sequence = batch.last().wrapping_add(2);
        self.conversation
            .socket
            .send(&batch.datagram)
            .map_err(NftError::Send)?;
        self.await_acknowledgement(&batch)
    }

    /// The last message of the batch is acknowledged when all of it is committed. Anything that
    /// was refused is reported under its own number, the batch as a whole under the number of
    /// its first header (EPERM, a failed commit, no memory).
    fn await_acknowledgement(&mut self, batch: &Batch) -> Result<(), NftError> {
        loop {
            let answers = self
                .conversation
                .socket
                .receive()
                .map_err(NftError::Acknowledge)?;
            for message in answers {
                let message = message.map_err(NftError::Acknowledge)?;
                let Some(answer) = Answer::read(message) else {
                    continue;
                };
                let ours = answer.sequence.wrapping_sub(batch.header)
                    <= batch.last().wrapping_sub(batch.header) + 1;
                if !ours {
                    continue;
                }
                if let Some(error) = answer.error {
                    let step = batch.step(answer.sequence);
                    let subject = step.map(|step| &step.subject);
                    return Err(NftError::refused(subject, error));
                }
                if answer.sequence == batch.last() {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_batch_is_cut_at_messages() {
        let steps: Vec<_> = [100, 200, 300]
            .map(|len| transaction::Step {
                subject: transaction::Subject::Table,
                message: vec![0; len],
            })
            .into();
        let sizes =
            |limit| -> Vec<usize> { transaction::cut(&steps, limit).map(<[_]>::len).collect() };
        assert_eq!(sizes(1000), [3]);
        assert_eq!(sizes(341), [2, 1]);
        assert_eq!(sizes(339), [1, 1, 1]);
        // What fits nowhere is sent all the same.
        assert_eq!(sizes(10), [1, 1, 1]);
    }

    #[test]
    fn a_chain_that_stays_is_not_in_a_change() {
        use crate::{policy::Nameservers, ruleset::SocketOwner};
        let servers = Nameservers::default();
        let open = crate::ruleset::locked(Some((&servers, &[SocketOwner::user(0)])));
        let locked = crate::ruleset::locked(None);
        let change = transaction::transition(&locked, &open);
        let steps_about = |chain| {
            let about = |step: &&transaction::Step| match &step.subject {
                transaction::Subject::Chain(name) | transaction::Subject::Rule(name, _) => {
                    *name == chain
                }
                _ => false,
            };
            change.switch.iter().filter(about).count()
        };
        for chain in &open.chains {
            // All rules of the two that are filled, after one step that empties the chain.
            let steps = match chain.name {
                "lookups" | "answers" => 1 + chain.rules.len(),
                _ => 0,
            };
            assert_eq!(steps_about(chain.name), steps, "{}", chain.name);
        }
    }

    #[test]
    fn the_first_error_belongs_to_the_whole_batch() {
        let steps = [transaction::Step {
            subject: transaction::Subject::Table,
            message: vec![0; 20],
        }];
        let batch = transaction::batch(&steps, 40);
        assert!(batch.step(40).is_none());
        assert!(batch.step(41).is_some());
        assert_eq!(batch.last(), 41);
        assert!(batch.step(42).is_none());
    }
}
