//! What the gatekeeper gives up once it is set up: all capabilities but a few, new privileges,
//! system calls that it never makes. When it may, because no door of an admin needs more, is left
//! to `app::gatekeeper`; the listener's way is `confine`.
//!
//! What this gives, honestly: it runs as root, so whoever takes it over still owns root's files and
//! may speak to root's services. It is worth something against holes of the kernel, and it keeps a
//! mistake small. The wall that counts is the listener's.

use std::collections::BTreeMap;

use capctl::{Cap, CapSet, CapState, ambient, bounding, prctl};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::proof::{field, filters, status};
use crate::core::types::Fault;

/// What is kept, for ourselves and, since nothing can be regained, for those that we start.
const KEPT: [Cap; 7] = [
    // nftables, also by the nft program.
    Cap::NET_ADMIN,
    // Sockets for the next listener.
    Cap::NET_RAW,
    // The listener's way out of its rights.
    Cap::SETUID,
    Cap::SETGID,
    Cap::SETPCAP,
    Cap::SYS_CHROOT,
    // To end it: it is another user's by then.
    Cap::KILL,
];

/// System calls that neither we nor nft nor a listener ever make: other processes' memory, the
/// kernel's code, mounts and namespaces, keys, clocks, and the interfaces where most of the
/// kernel's holes are found.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// On x86_64 the kernel may know each call by a second number as well, that of the x32 ABI.
#[cfg(target_arch = "x86_64")]
const SECOND_NUMBER: Option<libc::c_long> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const SECOND_NUMBER: Option<libc::c_long> = None;

/// Gives up what a gatekeeper without commands never needs, for good, and checks that it is gone. A
/// refused system call fails with EPERM. Only for a process with one thread.
///
/// # Errors
/// Something could not be given up, or is still there. The process must end then.
pub fn drop_privileges() -> Result<(), Fault> {
    let before = filters(&status("self")?);
    let failed = |what: &'static str| move |e: capctl::Error| fault(what, &e.to_string());
    let kept = CapSet::from_iter(KEPT);
    let held = CapState::get_current().map_err(failed("its capabilities"))?;
    let (effective, permitted) = (held.effective & kept, held.permitted & kept);
    if held.effective.has(Cap::SETPCAP) {
        (bounding::probe() - kept)
            .iter()
            .try_for_each(bounding::drop)
            .map_err(failed("its bounding set"))?;
        bounding::clear_unknown().map_err(failed("its bounding set"))?;
    }
    // Ambient ones go with the inheritable ones. Without root they are how nft gets its right.
    ambient::clear_unknown().map_err(failed("its ambient capabilities"))?;
    let narrow = CapState { effective, permitted, inheritable: held.inheritable & kept };
    narrow.set_current().map_err(failed("its capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("new privileges"))?;
    let program = program().map_err(|e| fault("system calls", &e.to_string()))?;
    apply_filter(&program).map_err(|e| fault("system calls", &e.to_string()))?;
    check(&status("self")?, kept, held.effective.has(Cap::SETPCAP), before)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let both = |call: &libc::c_long| [Some(*call), SECOND_NUMBER.map(|second| call | second)];
    let rules: BTreeMap<i64, Vec<_>> =
        REFUSED.iter().flat_map(both).flatten().map(|call| (call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, std::env::consts::ARCH.try_into()?)?
        .try_into()
}

/// Holds what the kernel says against what was asked for.
fn check(status: &str, kept: CapSet, bounded: bool, before: u64) -> Result<(), Fault> {
    let within = |set: &str| {
        let held = field(status, set).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        held.is_some_and(|held| held & !kept.iter().map(|cap| 1 << cap as u8).sum::<u64>() == 0)
    };
    let good = ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().all(within)
        && (!bounded || within("CapBnd"))
        && field(status, "NoNewPrivs") == Some("1")
        && filters(status) > before
        // Each thread has its own of all these.
        && field(status, "Threads") == Some("1");
    let lies = "what /proc/self/status shows is not what was asked for";
    if good { Ok(()) } else { Err(fault("its rights", lies)) }
}

fn fault(what: &str, why: &str) -> Fault {
    Fault::new(
        format!("the gatekeeper cannot give up {what}: {why}"),
        "is this a Linux of 5.11 or newer with CONFIG_SECCOMP_FILTER and /proc?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Threads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t00000000000431e0\nCapEff:\t00000000000431e0\n\
        CapBnd:\t00000000000431e0\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn whatever_the_gatekeeper_has_not_given_up_is_noticed() {
        let good = |status: &str| check(status, CapSet::from_iter(KEPT), true, 1).is_ok();
        assert!(good(GOOD));
        for (right, wrong) in [
            ("CapEff:\t00000000000431e0", "CapEff:\t00000000002431e0"),
            ("CapPrm:\t00000000000431e0", "CapPrm:\t000001ffffffffff"),
            ("CapBnd:\t00000000000431e0", "CapBnd:\t000001ffffffffff"),
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000000001"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp_filters:\t2", "Seccomp_filters:\t1"),
            ("Threads:\t1", "Threads:\t2"),
            ("CapEff:", "CapOff:"),
        ] {
            assert!(GOOD.contains(right));
            assert!(!good(&GOOD.replace(right, wrong)), "{wrong}");
        }
    }
}
