//! passwd(5), group(5) and `--user`: an identity is what a plain reading of both files says, and
//! never the number that the kernel takes for "leave it as it is".

use super::{fields, text};
use egress_init::accounts::UserSpec;

pub fn run(data: &[u8]) {
    let mut parts = fields(data);
    let [spec, passwd, group] = [(); 3].map(|()| text(&mut parts));
    let Ok(parsed) = spec.parse::<UserSpec>() else {
        return;
    };
    let again: Result<UserSpec, _> = parsed.to_string().parse();
    assert_eq!(again.ok().as_ref(), Some(&parsed), "prints as what it is");
    let ours = parsed.resolve(&passwd, &group);
    let theirs = opinion(&spec, &passwd, &group);
    match (&ours, theirs) {
        (Ok(ours), Some((uid, gid, groups))) => {
            assert_eq!((ours.uid, ours.gid, &ours.groups), (uid, gid, &groups));
            assert!(ours.uid != u32::MAX && ours.groups.iter().all(|gid| *gid != u32::MAX));
            assert!(ours.is_member(ours.gid));
        }
        (Err(_), None) => {}
        (ours, theirs) => panic!("{spec:?}: we say {ours:?}, a plain reading {theirs:?}"),
    }
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id < u32::MAX)
}

/// The lines of either file that have a name and the ids, as name, ids and the field behind them.
fn lines(text: &str, ids: usize) -> Vec<(&str, Vec<u32>, &str)> {
    let read = |line| {
        let parts: Vec<&str> = str::split(line, ':').collect();
        let numbers: Option<Vec<u32>> =
            parts.get(2..2 + ids)?.iter().map(|text| id(text)).collect();
        Some((
            parts[0],
            numbers?,
            parts.get(2 + ids).copied().unwrap_or(""),
        ))
    };
    text.lines().filter_map(read).collect()
}

fn opinion(spec: &str, passwd: &str, group: &str) -> Option<(u32, u32, Vec<u32>)> {
    let (user, own_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let users = lines(passwd, 2);
    let account = users.iter().find(|(name, ids, _)| {
        if is_number(user) {
            id(user) == Some(ids[0])
        } else {
            *name == user
        }
    });
    let uid = match account {
        Some((_, ids, _)) => ids[0],
        None => is_number(user).then(|| id(user))??,
    };
    let groups = lines(group, 1);
    let gid = match own_group {
        Some(number) if is_number(number) => id(number)?,
        Some(name) => groups.iter().find(|(known, ..)| *known == name)?.1[0],
        None => account.map_or(uid, |(_, ids, _)| ids[1]),
    };
    let mut all = vec![gid];
    if let Some((name, ..)) = account {
        for (_, ids, members) in &groups {
            if members.split(',').any(|member| member.trim() == *name) {
                all.push(ids[0]);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Some((uid, gid, all))
}
