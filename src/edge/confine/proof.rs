//! What the kernel says of a confined process, held against what it should say.
//! Getting there is left to `confine` and `keep_little`.

use std::fs;

use super::{ConfineStep, Failure, Limitation, Limitations};
use crate::core::types::Fault;

/// Asks the kernel about the listener from outside, where it cannot lie: ids, groups, capabilities,
/// no_new_privs, seccomp. For the gatekeeper, after `Ready`. The notes are the listener's, from
/// before it has read a packet.
///
/// # Errors
/// Something is not as the listener said.
pub fn verify(process: u32, notes: Limitations, user: Option<(u32, u32)>) -> Result<(), Fault> {
    // What we have, the listener has inherited, and it proves nothing of it: it must have one list
    // of its own more.
    let inherited = filters(&status("self")?);
    check(&status(&process.to_string())?, notes, user, Some(inherited)).map_err(Failure::fault)
}

/// The `status` file of a process.
pub(super) fn status(process: &str) -> Result<String, Fault> {
    let path = format!("/proc/{process}/status");
    fs::read_to_string(&path)
        .map_err(|e| Fault::new(format!("{path}: {e}"), "is /proc mounted, without hidepid?"))
}

/// Holds the text of a `status` file against what was asked for. `inherited`: more lists of system
/// calls than this must be in force; none yet if there is no number.
pub(super) fn check(
    status: &str,
    notes: Limitations,
    user: Option<(u32, u32)>,
    inherited: Option<u64>,
) -> Result<(), Failure> {
    let (uid, gid) = user.map_or((None, None), |(uid, gid)| (Some(uid), Some(gid)));
    let kept = notes.has(Limitation::UserKept);
    let good = ids(status, "Uid", uid.filter(|_| !kept))
        && ids(status, "Gid", gid.filter(|_| !kept))
        && (notes.has(Limitation::GroupsKept)
            || field(status, "Groups").is_some_and(|groups| groups.is_empty()))
        && ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().all(|set| empty(status, set))
        && (notes.has(Limitation::BoundingKept) || empty(status, "CapBnd"))
        && field(status, "NoNewPrivs") == Some("1")
        && inherited.is_none_or(|inherited| filters(status) > inherited);
    if good { Ok(()) } else { Err(Failure { step: ConfineStep::Proof, errno: 0 }) }
}

/// Real, effective, saved and file system id are the same, and the wanted one if one is wanted.
fn ids(status: &str, name: &str, wanted: Option<u32>) -> bool {
    let Some(text) = field(status, name) else { return false };
    let numbers: Vec<u32> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    match *numbers {
        [real, effective, saved, file] => {
            [effective, saved, file].iter().all(|id| *id == real)
                && wanted.is_none_or(|wanted| wanted == real)
        }
        _ => false,
    }
}

/// How many lists of system calls are in force. A kernel before 5.9 only says whether there is any.
pub(super) fn filters(status: &str) -> u64 {
    let any = field(status, "Seccomp") == Some("2");
    let number = field(status, "Seccomp_filters").map_or(1, |number| number.parse().unwrap_or(0));
    if any { number } else { 0 }
}

fn empty(status: &str, set: &str) -> bool {
    field(status, set).is_some_and(|hex| !hex.is_empty() && hex.bytes().all(|b| b == b'0'))
}

pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\ttoctocd\nUid:\t99\t99\t99\t99\nGid:\t98\t98\t98\t98\nGroups:\t \nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    fn good(status: &str, notes: &[Limitation], user: Option<(u32, u32)>) -> bool {
        let mut set = Limitations::default();
        notes.iter().for_each(|note| set.add(*note));
        check(status, set, user, Some(0)).is_ok()
    }

    #[test]
    fn a_process_that_gave_up_everything_passes() {
        assert!(good(GOOD, &[], Some((99, 98))));
    }

    #[test]
    fn every_line_that_is_not_as_asked_for_is_noticed() {
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
    fn a_list_of_system_calls_that_was_inherited_is_none_of_its_own() {
        let under = |filters: &str, inherited| {
            let status = GOOD.replace("Seccomp_filters:\t1\n", filters);
            check(&status, Limitations::default(), Some((99, 98)), Some(inherited)).is_ok()
        };
        assert!(under("Seccomp_filters:\t1\n", 0) && under("Seccomp_filters:\t3\n", 2));
        assert!(!under("Seccomp_filters:\t1\n", 1) && !under("Seccomp_filters:\t0\n", 0));
        assert!(under("", 0) && !under("", 1), "a kernel that does not count them");
    }

    #[test]
    fn a_process_that_gave_up_nothing_is_found_out() {
        let mut idle = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let fault = verify(idle.id(), Limitations::default(), None).err();
        idle.kill().and_then(|()| idle.wait()).unwrap();
        assert!(fault.is_some_and(|fault| fault.what.contains("not what was asked for")));
    }

    #[test]
    fn a_note_excuses_only_what_it_says() {
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
