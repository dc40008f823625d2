//! What this suite has found, each under a name of its own: in every run, whatever the sample.

use nix::libc;

use crate::{
    judge::{Case, Verdict},
    scenario::Scenario,
    tracer::{Call, Fault},
    workers::Recording,
};

/// A case that once went wrong, and how it has to go.
#[derive(Clone, Copy, Debug)]
pub struct Regression {
    pub name: &'static str,
    pub verdict: Verdict,
}

struct Found {
    regression: Regression,
    scenario: Scenario,
    errno: i32,
    /// Which call, among those of the recording.
    call: fn(&[&Call]) -> Option<usize>,
}

const fn found(
    name: &'static str,
    scenario: Scenario,
    errno: i32,
    verdict: Verdict,
    call: fn(&[&Call]) -> Option<usize>,
) -> Found {
    Found {
        regression: Regression { name, verdict },
        scenario,
        errno,
        call,
    }
}

const FOUND: [Found; 20] = [
    // The kernel had opened DNS already, and the start took it for closed.
    found(
        "a_lost_acknowledgement_does_not_leave_dns_open",
        Scenario::Start,
        libc::ENOBUFS,
        Verdict::Locked,
        |calls| {
            let sent = position(calls, 0, |call| about(call, "changes the table"))?;
            position(calls, sent, |call| call.point.call == "recvmsg")
        },
    ),
    // The runtime came first, and where there was none, the old sentinel stayed.
    found(
        "the_old_sentinel_goes_before_the_runtime_comes",
        Scenario::Start,
        libc::EMFILE,
        Verdict::Untouched,
        |calls| position(calls, 0, |call| call.point.call == "epoll_create1"),
    ),
    found(
        "the_old_sentinel_goes_before_signals_are_blocked",
        Scenario::Start,
        libc::ENFILE,
        Verdict::Untouched,
        |calls| position(calls, 0, |call| call.point.call == "signalfd4"),
    ),
    // One attempt was all.
    found(
        "an_old_sentinel_is_removed_at_the_second_attempt",
        Scenario::Start,
        libc::EIO,
        Verdict::Enforced,
        |calls| position(calls, 0, |call| call.point.call == "unlink"),
    ),
    // The C library says so in its own way, which was not understood.
    found(
        "a_signal_mask_that_cannot_be_set_ends_the_start",
        Scenario::Start,
        libc::EPERM,
        Verdict::Policy,
        |calls| {
            calls
                .iter()
                .rposition(|call| call.point.call == "rt_sigprocmask")
        },
    ),
    // It was waited for without an end. They have no say then.
    found(
        "a_lost_answer_about_the_links_is_waited_for_in_vain",
        Scenario::Start,
        libc::EAGAIN,
        Verdict::Enforced,
        |calls| position(calls, 0, |call| call.point.call == "recvmsg"),
    ),
    // It ended the start.
    found(
        "an_interrupted_transaction_is_sent_again",
        Scenario::Rerun,
        libc::EINTR,
        Verdict::Enforced,
        |calls| position(calls, 0, |call| about(call, "replaces the table")),
    ),
    // It was read again at once, for ever, and no deadline was looked at.
    found(
        "a_nameserver_socket_that_only_fails_does_not_spin",
        Scenario::Start,
        -libc::ENOMEM,
        Verdict::Locked,
        |calls| position(calls, 0, |call| call.point.call == "recvfrom"),
    ),
    // That of the list before was removed, and nothing took its place.
    found(
        "a_sentinel_that_cannot_be_renewed_stays",
        Scenario::Reload,
        libc::EROFS,
        Verdict::Enforced,
        |calls| position(calls, 0, |call| call.point.call == "rename"),
    ),
    // It was in force, the log said that it was not, and the next one failed.
    found(
        "a_reload_whose_acknowledgement_is_lost_is_read_back",
        Scenario::Reload,
        libc::ENOBUFS,
        Verdict::Enforced,
        |calls| {
            let sent = position(calls, 0, |call| about(call, "changes the table"))?;
            position(calls, sent, |call| call.point.call == "recvmsg")
        },
    ),
    // It ended the command; before that, a sentinel for it was published.
    found(
        "a_reload_that_cannot_be_read_back_is_undone",
        Scenario::Reload,
        libc::ENOMEM,
        Verdict::Kept,
        |calls| {
            let sent = position(calls, 0, |call| about(call, "changes the table"))?;
            position(calls, sent, |call| about(call, "reads the table back"))
        },
    ),
    // It ended the command.
    found(
        "a_list_that_cannot_be_watched_any_more_ends_nothing",
        Scenario::Reload,
        libc::ENOSPC,
        Verdict::Kept,
        |calls| position(calls, 0, |call| call.point.call == "inotify_add_watch"),
    ),
    // It was read again at once, for ever.
    found(
        "a_listener_that_only_fails_does_not_spin",
        Scenario::Query,
        -libc::ENOBUFS,
        Verdict::Kept,
        |calls| position(calls, 0, |call| call.point.call == "recvmmsg"),
    ),
    // It waited for the end of a command that it had no more, for ever.
    found(
        "a_command_that_is_no_child_any_more_is_not_waited_for",
        Scenario::Supervise,
        libc::ECHILD,
        Verdict::Policy,
        |calls| position(calls, 0, |call| call.point.call == "waitid"),
    ),
    found(
        "a_listener_that_cannot_be_made_has_a_remedy",
        Scenario::Supervise,
        libc::ENOPROTOOPT,
        Verdict::Locked,
        |calls| {
            let option = [libc::SOL_IP, libc::IP_FREEBIND].map(i32::unsigned_abs);
            position(calls, 0, |call| {
                call.point.call == "setsockopt" && call.arguments[1..3] == option.map(u64::from)
            })
        },
    ),
    // The old sentinel stayed, and no word was said: nothing was logged yet.
    found(
        "signals_that_cannot_be_blocked_leave_no_old_sentinel",
        Scenario::Supervise,
        libc::EPERM,
        Verdict::Untouched,
        |calls| position(calls, 0, blocks_signals),
    ),
    // It ended without a word, and the old sentinel stayed.
    found(
        "a_sidecar_that_cannot_block_signals_says_so",
        Scenario::Watch,
        libc::EPERM,
        Verdict::Untouched,
        |calls| position(calls, 0, blocks_signals),
    ),
    // What an earlier sidecar had published was left for true before anybody had looked.
    found(
        "a_sidecar_that_cannot_begin_leaves_no_old_sentinel",
        Scenario::Watch,
        libc::EMFILE,
        Verdict::Untouched,
        |calls| position(calls, 0, |call| call.point.call == "epoll_create1"),
    ),
    // Then it had no group of its own, the table was not one of its own making, and it locked.
    found(
        "a_map_of_ids_that_cannot_be_read_is_not_an_empty_one",
        Scenario::TakeOver,
        libc::ENOMEM,
        Verdict::Policy,
        |calls| {
            let opens = |call: &Call| matches!(call.point.call.as_str(), "open" | "openat");
            let is_map = |call: &Call| about(call, "/proc/self/gid_map");
            // The first one is for the sentinel.
            let first = position(calls, 0, |call| opens(call) && is_map(call))?;
            position(calls, first + 1, |call| opens(call) && is_map(call))
        },
    ),
    // It locked what the containers beside it were using, and left the sentinel that said otherwise.
    found(
        "a_take_over_that_fails_shuts_nothing",
        Scenario::TakeOver,
        libc::ENOMEM,
        Verdict::Policy,
        |calls| {
            calls
                .iter()
                .rposition(|call| about(call, "reads the table back"))
        },
    ),
];

/// Those that belong to this recording.
pub fn of(recording: &Recording) -> Vec<Case> {
    let calls = recording.calls();
    let ours = FOUND
        .iter()
        .filter(|found| found.scenario == recording.scenario);
    ours.map(|found| {
        let name = found.regression.name;
        let call = (found.call)(&calls).unwrap_or_else(|| panic!("{name} has lost its call"));
        Case {
            scenario: found.scenario,
            point: calls[call].point.clone(),
            // Below zero: for ever.
            fault: if found.errno > 0 {
                Fault::Error(found.errno)
            } else {
                Fault::ErrorFromNow(-found.errno)
            },
            regression: Some(found.regression),
        }
    })
    .collect()
}

fn about(call: &Call, subject: &str) -> bool {
    call.subject.as_deref() == Some(subject)
}

/// musl unblocks a few of its own where a handler is set.
fn blocks_signals(call: &Call) -> bool {
    let how = i32::try_from(call.arguments[0]);
    call.point.call == "rt_sigprocmask" && how != Ok(libc::SIG_UNBLOCK)
}

fn position(calls: &[&Call], from: usize, is: impl Fn(&Call) -> bool) -> Option<usize> {
    (from..calls.len()).find(|index| is(calls[*index]))
}
