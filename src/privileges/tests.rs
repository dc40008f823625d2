//! What is asked before the drop, and what the drop leaves.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const SETPCAP: u64 = 1 << 8;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

fn root(capabilities: u64) -> Status {
    Status {
        uid: [0; 4],
        gid: [0; 4],
        groups: vec![0],
        inheritable: 0,
        permitted: capabilities,
        effective: capabilities,
        bounding: capabilities,
        ambient: 0,
        no_new_privs: false,
        seccomp: 0,
        ignored: 0,
    }
}

fn node() -> Privileges {
    Privileges {
        identity: Some(Identity {
            uid: 1000,
            gid: 1000,
            groups: vec![29, 1000],
        }),
        ..stay()
    }
}

fn stay() -> Privileges {
    Privileges {
        identity: None,
        keep_caps: Vec::new(),
        no_new_privs: true,
        socket_families: Family::DEFAULT.to_vec(),
    }
}

fn missing(plan: &Privileges, status: &Status) -> Option<Capability> {
    match plan.check_attainable_from(status, false) {
        Ok(()) => None,
        Err(PrivilegeError::Missing { capability, .. }) => Some(capability),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_step_names_the_capability_that_it_takes() {
    let enough = SETGID | SETUID | SETPCAP | NET_ADMIN;
    assert_eq!(missing(&node(), &root(enough)), None);
    for (without, capability) in [
        (SETGID, Capability::CAP_SETGID),
        (SETUID, Capability::CAP_SETUID),
        (SETPCAP, Capability::CAP_SETPCAP),
    ] {
        assert_eq!(missing(&node(), &root(enough & !without)), Some(capability));
    }
    assert_eq!(missing(&stay(), &root(SETPCAP | NET_ADMIN)), None);
}

#[test]
fn what_is_already_so_takes_nothing() {
    let plan = node();
    let wanted = plan.identity.clone().unwrap();
    let there = Status {
        uid: [wanted.uid; 4],
        gid: [wanted.gid; 4],
        groups: wanted.groups,
        ..root(0)
    };
    assert_eq!(missing(&plan, &there), None);
    plan.check_attainable_from(&there, true).unwrap();
    let elsewhere = Status {
        uid: [1000, 1000, 0, 1000],
        ..there
    };
    assert_eq!(missing(&plan, &elsewhere), Some(Capability::CAP_SETUID));
}

#[test]
fn new_privileges_take_sys_admin_for_the_filter() {
    let plan = Privileges {
        no_new_privs: false,
        ..stay()
    };
    let error = plan
        .check_attainable_from(&root(SETPCAP), false)
        .unwrap_err();
    assert!(
        error.remedy().unwrap().contains("--cap-add=SYS_ADMIN"),
        "{error}"
    );
    assert_eq!(missing(&plan, &root(SETPCAP | SYS_ADMIN)), None);
    assert_eq!(
        missing(
            &plan,
            &Status {
                no_new_privs: true,
                ..root(SETPCAP)
            }
        ),
        None
    );
}

#[test]
fn what_is_kept_must_be_there() {
    let plan = Privileges {
        keep_caps: vec!["net_bind_service".parse().unwrap()],
        ..stay()
    };
    assert_eq!(
        missing(&plan, &root(SETPCAP)),
        Some(Capability::CAP_NET_BIND_SERVICE)
    );
    assert_eq!(missing(&plan, &root(SETPCAP | NET_BIND_SERVICE)), None);
    assert_eq!(
        missing(&plan, &root(NET_BIND_SERVICE)),
        None,
        "nothing to take from the bounding set"
    );
}

#[test]
fn a_remedy_fits_who_started_it() {
    let error = node()
        .check_attainable_from(&root(SETPCAP | SETUID), false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "CAP_SETGID is missing, which it takes to set the groups of --user"
    );
    assert!(error.remedy().unwrap().contains("--cap-add=SETGID"));
    let user = Status {
        uid: [5; 4],
        permitted: 0,
        ..root(NET_ADMIN)
    };
    let error = stay().check_attainable_from(&user, false).unwrap_err();
    assert!(error.remedy().unwrap().contains("as root instead of uid 5"));
}

#[test]
fn a_namespace_that_denies_setgroups_is_named() {
    let error = node()
        .check_attainable_from(&root(u64::MAX), true)
        .unwrap_err();
    assert!(matches!(error, PrivilegeError::SetgroupsDenied));
    stay().check_attainable_from(&root(u64::MAX), true).unwrap();
}

fn as_planned() -> Status {
    Status {
        uid: [1000; 4],
        gid: [1000; 4],
        groups: vec![29, 1000],
        no_new_privs: true,
        seccomp: 2,
        ..root(0)
    }
}

#[test]
fn until_exec_the_former_user_may_be_saved() {
    let saved = Status {
        uid: [1000, 1000, 0, 1000],
        ..as_planned()
    };
    node().verify(0, &saved).unwrap();
    node().verify(0, &as_planned()).unwrap_err();
    node().verify(1000, &saved).unwrap_err();
}

#[test]
fn any_difference_is_an_error() {
    let plan = node();
    let good = as_planned();
    plan.verify(1000, &good).unwrap();
    for (field, bad) in [
        (
            "Uid",
            Status {
                uid: [1000, 1000, 0, 1000],
                ..good.clone()
            },
        ),
        (
            "Gid",
            Status {
                gid: [1000, 1000, 1000, 0],
                ..good.clone()
            },
        ),
        (
            "Groups",
            Status {
                groups: vec![0, 29, 1000],
                ..good.clone()
            },
        ),
        (
            "CapInh",
            Status {
                inheritable: 1,
                ..good.clone()
            },
        ),
        (
            "CapPrm",
            Status {
                permitted: NET_ADMIN,
                ..good.clone()
            },
        ),
        (
            "CapEff",
            Status {
                effective: NET_ADMIN,
                ..good.clone()
            },
        ),
        (
            "CapBnd",
            Status {
                bounding: 1 << 63,
                ..good.clone()
            },
        ),
        (
            "CapAmb",
            Status {
                ambient: NET_ADMIN,
                ..good.clone()
            },
        ),
        (
            "NoNewPrivs",
            Status {
                no_new_privs: false,
                ..good.clone()
            },
        ),
        (
            "Seccomp",
            Status {
                seccomp: 0,
                ..good.clone()
            },
        ),
    ] {
        match plan.verify(1000, &bad).unwrap_err() {
            PrivilegeError::Differs { field: found, .. } => assert_eq!(found, field),
            other => panic!("{other}"),
        }
    }
    let loose = Privileges {
        no_new_privs: false,
        ..plan
    };
    loose
        .verify(
            1000,
            &Status {
                no_new_privs: false,
                ..good
            },
        )
        .unwrap();
}
