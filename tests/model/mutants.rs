//! Mistakes, each a changed order of steps or a check left out, and the invariant that is to catch
//! it: a model that finds nothing proves nothing.

use crate::lifecycle::{Protocol, Step};

/// A mistake, and the invariant that is to catch it.
pub struct Mutant {
    pub name: &'static str,
    pub breaks: &'static str,
    pub protocol: Protocol,
}

/// The mistakes.
#[allow(clippy::too_many_lines)] // a table
pub fn mutants() -> Vec<Mutant> {
    use Step::{
        Drop, Enforce, Exec, Lock, OpenDns, Publish, Read, ReadBack, RemoveAgain, RemoveSentinel,
        Resolve, TakeTurn,
    };
    let real = Protocol::real;
    let mutant = |name, breaks, protocol| Mutant {
        name,
        breaks,
        protocol,
    };
    vec![
        mutant(
            "names are resolved before the lock",
            "I1",
            real().moved(Resolve, Lock),
        ),
        mutant(
            "the list is read before the lock",
            "I1",
            real().moved(Read, Lock),
        ),
        mutant(
            "no lock: the rules come when they are known",
            "I1",
            real().without(Lock),
        ),
        mutant(
            "the table is flushed, then filled: two transactions",
            "I2",
            Protocol {
                one_transaction: false,
                ..real()
            },
        ),
        mutant(
            "a failed reload flushes the table",
            "I2",
            Protocol {
                reload_keeps_old: false,
                ..real()
            },
        ),
        mutant(
            "a failed start goes on to the command",
            "I5",
            Protocol {
                fails_closed: false,
                ..real()
            },
        ),
        mutant(
            "the sentinel is published before the rules",
            "I3",
            real().moved(Publish, Enforce),
        ),
        mutant(
            "the sentinel is published before the read-back",
            "I3",
            real().moved(Publish, ReadBack),
        ),
        mutant("the read-back is skipped", "I3", real().without(ReadBack)),
        mutant(
            "the read-back's result is ignored",
            "I3",
            Protocol {
                reads_back: false,
                ..real()
            },
        ),
        mutant(
            "an old sentinel is not removed",
            "I3",
            real().without(RemoveSentinel).without(RemoveAgain),
        ),
        mutant(
            "it is removed once, before the turn",
            "I3",
            real().without(RemoveAgain),
        ),
        mutant(
            "it is removed after the lock",
            "I3",
            real().without(RemoveSentinel).moved(RemoveAgain, Read),
        ),
        mutant(
            "the sentinel names neither namespace nor boot",
            "I3",
            Protocol {
                binds_sentinel: false,
                ..real()
            },
        ),
        mutant(
            "the sentinel stays when the command cannot be started",
            "I5",
            Protocol {
                unpublishes: false,
                ..real()
            },
        ),
        mutant(
            "the lock's way to the nameservers is left open after a failure",
            "I5",
            Protocol {
                seals: false,
                ..real()
            },
        ),
        mutant(
            "the command runs without a sentinel",
            "I5",
            real().without(Publish),
        ),
        mutant(
            "the command runs before it is published",
            "I5",
            real().moved(Exec, Publish),
        ),
        mutant(
            "privileges are dropped after exec",
            "I4",
            real().moved(Exec, Drop),
        ),
        mutant("privileges are not dropped", "I4", real().without(Drop)),
        mutant(
            "IPv6 is left out",
            "I6",
            Protocol {
                both_families: false,
                ..real()
            },
        ),
        mutant(
            "starts do not take turns",
            "I9",
            Protocol {
                takes_turns: false,
                ..real()
            },
        ),
        mutant(
            "the turn is taken after the lock",
            "I9",
            real().moved(TakeTurn, OpenDns),
        ),
    ]
}
