//! Compares the kernel's account of a confined process with what it should say.

use std::fs;

use super::{ConfineFailure, ConfineStep, Limitation, Limitations};
use crate::core::types::Fault;

/// The number of filters of system calls that a listener has inherited. They prove nothing: once it
/// is confined it must have one more. Before its set-up.
pub fn inherited_filters(process: u32) -> Result<u64, Fault> {
    Ok(filters(&status(&process.to_string())?))
}

/// Asks the kernel about the listener, from outside: ids, groups, capabilities, no_new_privs,
/// seccomp. After `Ready`; the listener sent its limitations before it read a packet.
pub fn verify(
    process: u32, limitations: Limitations, user: Option<(u32, u32)>, inherited: u64,
) -> Result<(), Fault> {
    let status = status(&process.to_string())?;
    check(&status, limitations, user, Some(inherited)).map_err(ConfineFailure::fault)
}

pub(super) fn status(process: &str) -> Result<String, Fault> {
    let path = format!("/proc/{process}/status");
    fs::read_to_string(&path).map_err(|error| {
        Fault::new(format!("{path}: {error}"), "is /proc mounted, without hidepid?")
    })
}

/// Compares a `status` file with what was asked for, and filters with `inherited` ones.
pub(super) fn check(
    status: &str, limitations: Limitations, user: Option<(u32, u32)>, inherited: Option<u64>,
) -> Result<(), ConfineFailure> {
    let (uid, gid) = match user {
        Some((uid, gid)) if !limitations.has(Limitation::UserKept) => (Some(uid), Some(gid)),
        _ => (None, None),
    };
    let good = ids_are(status, "Uid", uid)
        && ids_are(status, "Gid", gid)
        && (limitations.has(Limitation::GroupsKept) || field(status, "Groups") == Some(""))
        && ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().all(|set| is_empty(status, set))
        && (limitations.has(Limitation::BoundingKept) || is_empty(status, "CapBnd"))
        && field(status, "NoNewPrivs") == Some("1")
        && inherited.is_none_or(|inherited| filters(status) > inherited);
    if good { Ok(()) } else { Err(ConfineFailure { step: ConfineStep::Proof, errno: 0 }) }
}

/// True if real, effective, saved and file system id are the same, and equal to `wanted`.
fn ids_are(status: &str, name: &str, wanted: Option<u32>) -> bool {
    let Some(text) = field(status, name) else { return false };
    let ids: Vec<u32> = text.split_whitespace().filter_map(|id| id.parse().ok()).collect();
    ids.len() == 4 && ids.iter().all(|id| *id == wanted.unwrap_or(ids[0]))
}

/// The number of seccomp filters. A kernel before 5.9 says only whether there is one.
pub(super) fn filters(status: &str) -> u64 {
    if field(status, "Seccomp") != Some("2") {
        return 0;
    }
    match field(status, "Seccomp_filters") {
        Some(number) => number.parse().unwrap_or(0),
        None => 1,
    }
}

fn is_empty(status: &str, set: &str) -> bool {
    field(status, set).is_some_and(|hex| !hex.is_empty() && hex.bytes().all(|b| b == b'0'))
}

/// The value of the line `NAME: VALUE`.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\ttoctocd\nUid:\t99\t99\t99\t99\nGid:\t98\t98\t98\t98\nGroups:\t \nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    fn good(status: &str, limitations: &[Limitation], user: Option<(u32, u32)>) -> bool {
        let mut set = Limitations::default();
        for limitation in limitations {
            set.add(*limitation);
        }
        check(status, set, user, Some(0)).is_ok()
    }

    #[test]
    fn a_process_that_gave_up_everything_passes() {
        assert!(good(GOOD, &[], Some((99, 98))));
    }

    #[test]
    fn every_line_that_differs_from_what_was_asked_for_is_noticed() {
        for (right, wrong) in [
            ("Uid:\t99\t99\t99\t99", "Uid:\t99\t99\t0\t99"),
            ("Uid:\t99\t99\t99\t99", "Uid:\t0\t0\t0\t0"),
            ("Gid:\t98\t98\t98\t98", "Gid:\t98\t98\t98\t0"),
            ("Groups:\t ", "Groups:\t0 "),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000001000"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000001000"),
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000000001"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t8000000000000000"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp:\t2", "Other:\t2"),
        ] {
            assert!(GOOD.contains(right));
            assert!(!good(&GOOD.replace(right, wrong), &[], Some((99, 98))), "{wrong}");
        }
        assert!(!good(GOOD, &[], Some((100, 98))));
        assert!(!good(GOOD, &[], Some((99, 100))));
        assert!(!good("", &[], None));
    }

    #[test]
    fn an_inherited_list_of_system_calls_does_not_count() {
        let under = |filters: &str, inherited| {
            let status = GOOD.replace("Seccomp_filters:\t1\n", filters);
            check(&status, Limitations::default(), Some((99, 98)), Some(inherited)).is_ok()
        };
        assert!(under("Seccomp_filters:\t1\n", 0) && under("Seccomp_filters:\t3\n", 2));
        assert!(!under("Seccomp_filters:\t1\n", 1) && !under("Seccomp_filters:\t0\n", 0));
        assert!(under("", 0) && !under("", 1), "a kernel that does not count them");
    }

    #[test]
    fn a_process_that_gave_up_nothing_is_noticed() {
        let mut idle = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let fault = verify(idle.id(), Limitations::default(), None, 0).err();
        idle.kill().and_then(|()| idle.wait()).unwrap();
        assert!(fault.is_some_and(|fault| fault.what.contains("does not show what was asked for")));
    }

    #[test]
    fn a_limitation_excuses_only_its_own_line() {
        let bounded = GOOD.replace("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff");
        assert!(good(&bounded, &[Limitation::BoundingKept], Some((99, 98))));
        assert!(!good(&bounded, &[Limitation::UserKept, Limitation::GroupsKept], Some((99, 98))));
        assert!(good(GOOD, &[Limitation::UserKept], Some((1, 1))));
        assert!(!good(
            &GOOD.replace("\t99\t0", "\t99\t1"),
            &[Limitation::GroupsKept],
            Some((1, 1))
        ));
    }
}
