//! Marks of flows: of which policy they are, and of which kind.

use super::super::Ruleset;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Puts the mark of a ruleset in its rules: by a hash of everything else in it.
///
/// The same policy gives the same mark, so a second start with an unchanged list does not even
/// touch the flows that are open; any other policy gives another one, and flows that carry the
/// old mark are judged anew. Nobody without `CAP_NET_ADMIN` can set a conntrack mark, and whoever
/// wants two policies of one mark finds them in 2^30 tries, whatever the hash is: so it is a quick
/// one, that may be another one in the next version.
pub(super) fn marked_by_content(ruleset: Ruleset) -> Ruleset {
    let mut hash = DefaultHasher::new();
    ruleset.hash(&mut hash);
    marked(ruleset, &hash)
}

/// The same where elements come and go: by the list that they come from.
pub(super) fn marked_by_generation(ruleset: Ruleset, generation: [u8; 32]) -> Ruleset {
    let mut hash = DefaultHasher::new();
    for set in &ruleset.sets {
        (set.name, set.key, set.is_timed()).hash(&mut hash);
    }
    (&ruleset.chains, generation).hash(&mut hash);
    marked(ruleset, &hash)
}

pub(super) fn marked(ruleset: Ruleset, hash: &DefaultHasher) -> Ruleset {
    #[allow(clippy::cast_possible_truncation)] // a half is as good as the whole
    let mark = hash.finish() as u32;
    // 0 is the mark of a flow that nobody marked, and the next one the lock's.
    ruleset.with_mark(if mark > LOCK | KINDS { mark } else { !mark })
}

/// The mark of the lock's own flows, whatever it lets out: it tells them from a policy's, and lets in
/// nothing but answers.
pub(super) const LOCK: u32 = KINDS + 1;

/// The bits of a mark that say of which kind a flow is; [`marked`] fills in the others.
pub(in super::super) const KINDS: u32 = 3;

/// Of the flows that the policy let out.
pub(super) const OUT_MARK: u32 = 0;

/// Of the resolver's flows. It lets their answers in and nothing out, so that whoever takes the
/// port of one that is closed has not its way out (I7).
pub(super) const RESOLVER_MARK: u32 = 1;

/// Of the flows that the policy let in.
pub(super) const IN_MARK: u32 = 2;

/// Of the command's flows to the resolver's listeners. It lets them go on over loopback and
/// nowhere else.
pub(super) const LISTENER_MARK: u32 = 3;
