//! Drops the privileges that the gatekeeper no longer needs once it is set up: most capabilities,
//! new privileges, system calls that it never makes. See `app::gatekeeper` for when it may.
//!
//! The gatekeeper still runs as root. Whoever takes it over owns root's files and services. This
//! limits mistakes and kernel bugs. The boundary that counts is the listener's, see `confine`.

use std::collections::BTreeMap;
use std::fmt::Display;

use capctl::{Cap, CapSet, CapState, ambient, bounding, prctl};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::ConfineFailure;
use super::proof::{field, filters, status};
use super::syscalls::architecture;
use crate::core::types::Fault;

/// The capabilities that we keep, for us and for our child processes: none can be regained.
const KEPT: [Cap; 2] = [
    // nftables, also by the nft program.
    Cap::NET_ADMIN,
    // To end the listener, which runs as another user.
    Cap::KILL,
];
/// Those for a listener that is our child: to open its sockets, to load their filter, and to drop
/// its privileges.
const FOR_LISTENER: [Cap; 6] =
    [Cap::NET_RAW, Cap::BPF, Cap::SETUID, Cap::SETGID, Cap::SETPCAP, Cap::SYS_CHROOT];

/// What our unit leaves to commands beyond `KEPT`, with commands.conf and no sooner.
pub const FOR_COMMANDS: [Cap; 5] =
    [Cap::NET_RAW, Cap::SETUID, Cap::SETGID, Cap::SETPCAP, Cap::SYS_CHROOT];

/// True if our bounding set has it.
pub fn may_run_commands() -> bool {
    let bounding = bounding::probe();
    FOR_COMMANDS.into_iter().all(|cap| bounding.has(cap))
}

/// libc does not name it for musl on aarch64.
const KEXEC_FILE_LOAD: libc::c_long = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

/// System calls that neither we nor nft nor a listener ever make.
#[rustfmt::skip]
const REFUSED: &[libc::c_long] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Kernel code.
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    KEXEC_FILE_LOAD, libc::SYS_reboot,
    // The interfaces with most of the kernel's security bugs.
    libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register,
    // Mounts and namespaces.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_move_mount,
    libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount,
    libc::SYS_fspick, libc::SYS_mount_setattr, libc::SYS_setns, libc::SYS_unshare,
    libc::SYS_open_by_handle_at, libc::SYS_fanotify_init,
    // Keys.
    libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
    // Clocks.
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex,
    // Administration.
    libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_acct, libc::SYS_quotactl,
    libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_syslog, libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// What the filter of a listener that is our child takes of bpf(2), of all that this call can do:
/// make a map, and load a program.
const FOR_FILTER: [u64; 2] = [0, 5];
/// What we take of it ourselves, for XDP: to put a listener's program at an interface, and to
/// exchange it.
const FOR_LINKS: [u64; 2] = [28, 29];

/// New namespaces for a new process. In a user namespace of its own it would have every capability,
/// and reach far more of the kernel.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// On x86_64 each call may have a second number, that of the x32 ABI.
#[cfg(target_arch = "x86_64")]
const SECOND_NUMBER: Option<libc::c_long> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const SECOND_NUMBER: Option<libc::c_long> = None;

/// Drops what a gatekeeper without commands never needs, for good, and checks that it is gone. A
/// refused call fails with EPERM. Only for a process with one thread; end it after an error.
/// `is_listener_apart`: no listener will be our child.
pub fn drop_privileges(is_listener_apart: bool) -> Result<(), Fault> {
    let filters_before = filters(&status("self")?);
    let mut kept = CapSet::from_iter(KEPT);
    if !is_listener_apart {
        kept.extend(FOR_LISTENER);
    }
    let held = CapState::get_current().map_err(|error| fault("its capabilities", &error))?;
    let may_drop_bounding = held.effective.has(Cap::SETPCAP);
    if may_drop_bounding {
        drop_bounding(kept).map_err(|error| fault("its bounding set", &error))?;
    }
    // Without root, nft gets its capability from the ambient ones, which shrink with these.
    ambient::clear_unknown().map_err(|error| fault("its ambient capabilities", &error))?;
    let narrow = CapState {
        effective: held.effective & kept,
        permitted: held.permitted & kept,
        inheritable: held.inheritable & kept,
    };
    // Under our unit there is nothing to drop, and the call is not allowed.
    if narrow != held {
        narrow.set_current().map_err(|error| fault("its capabilities", &error))?;
    }
    prctl::set_no_new_privs().map_err(|error| fault("the right to new privileges", &error))?;
    let arch = architecture(std::env::consts::ARCH).map_err(ConfineFailure::fault)?;
    for program in
        programs(arch, is_listener_apart).map_err(|error| fault("system calls", &error))?
    {
        apply_filter(&program).map_err(|error| fault("system calls", &error))?;
    }
    check(&status("self")?, kept, may_drop_bounding, filters_before)
}

fn drop_bounding(kept: CapSet) -> capctl::Result<()> {
    for cap in bounding::probe() - kept {
        bounding::drop(cap)?;
    }
    bounding::clear_unknown()
}

/// One program for each answer to a refused call.
fn programs(arch: TargetArch, is_listener_apart: bool) -> Result<[BpfProgram; 2], BackendError> {
    let mut rules = BTreeMap::new();
    for call in REFUSED {
        rules.insert(*call, Vec::new());
    }
    let mut clone = Vec::new();
    for flag in NAMESPACES.map(|flag| u64::from(flag.cast_unsigned())) {
        let is_set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, is_set, flag)?;
        clone.push(SeccompRule::new(vec![condition])?);
    }
    rules.insert(libc::SYS_clone, clone);
    let mut left = Vec::from(FOR_LINKS);
    if !is_listener_apart {
        left.extend(FOR_FILTER);
    }
    let mut others = Vec::new();
    for command in left {
        let is_other = SeccompCmpOp::Ne;
        others.push(SeccompCondition::new(0, SeccompCmpArgLen::Dword, is_other, command)?);
    }
    rules.insert(libc::SYS_bpf, vec![SeccompRule::new(others)?]);
    // A filter cannot read the flags of clone3, which are in memory. On a kernel without it, as
    // this one seems to be, the C library takes clone.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([refuse(rules, libc::EPERM, arch)?, refuse(clone3, libc::ENOSYS, arch)?])
}

fn refuse(
    mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>>, errno: libc::c_int, arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    if let Some(second) = SECOND_NUMBER {
        for (call, conditions) in rules.clone() {
            rules.insert(call | second, conditions);
        }
    }
    let refusal = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

/// Compares the kernel's account with what was asked for, and the bounding set if `bounded`.
fn check(status: &str, kept: CapSet, bounded: bool, filters_before: u64) -> Result<(), Fault> {
    let good = ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().all(|s| within(status, s, kept))
        && (!bounded || within(status, "CapBnd", kept))
        && field(status, "NoNewPrivs") == Some("1")
        && filters(status) > filters_before
        // Each thread has its own privileges.
        && field(status, "Threads") == Some("1");
    if good {
        return Ok(());
    }
    Err(fault("its privileges", &"/proc/self/status does not show what was asked for"))
}

/// True if the set of the line `set` holds no capability beyond `kept`.
fn within(status: &str, set: &str, kept: CapSet) -> bool {
    let kept: u64 = kept.iter().map(|cap| 1 << cap as u8).sum();
    match field(status, set).map(|hex| u64::from_str_radix(hex, 16)) {
        Some(Ok(held)) => held & !kept == 0,
        _ => false,
    }
}

fn fault(what: &str, why: &dyn Display) -> Fault {
    Fault::new(
        format!("the gatekeeper cannot drop {what}: {why}"),
        "is this a Linux of 5.11 or newer with CONFIG_SECCOMP_FILTER and /proc?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Threads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t00000000000431e0\nCapEff:\t00000000000431e0\n\
        CapBnd:\t00000000000431e0\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn every_privilege_that_the_gatekeeper_kept_is_noticed() {
        let good = |status: &str| {
            check(status, CapSet::from_iter(KEPT.into_iter().chain(FOR_LISTENER)), true, 1).is_ok()
        };
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

    /// What the list of system calls answers to a call with this first argument.
    #[cfg(target_arch = "x86_64")]
    fn answer(program: &BpfProgram, call: libc::c_long, first: u32) -> u32 {
        use crate::edge::bpf::Instruction;
        use crate::edge::bpf::machine::{Packet, run};

        let program: Vec<Instruction> = program
            .iter()
            .map(|one| Instruction {
                code: one.code,
                jump_true: one.jt,
                jump_false: one.jf,
                operand: one.k,
            })
            .collect();
        // struct seccomp_data, in words: number, architecture, place, arguments.
        let mut words = [0u32; 16];
        words[0] = u32::try_from(call).unwrap();
        words[1] = 0xc000_003e;
        words[4] = first;
        run(&program, &Packet::to_us(words.map(u32::to_be_bytes).concat()))
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn of_bpf_only_links_are_left_and_what_a_listeners_filter_takes_if_that_is_our_child() {
        const ALLOW: u32 = 0x7fff_0000;
        const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
        for is_listener_apart in [false, true] {
            let [program, _] = programs(TargetArch::x86_64, is_listener_apart).unwrap();
            for command in 0..40 {
                let is_left =
                    matches!(command, 28 | 29) || !is_listener_apart && matches!(command, 0 | 5);
                let expected = if is_left { ALLOW } else { REFUSE };
                for call in [libc::SYS_bpf, libc::SYS_bpf | SECOND_NUMBER.unwrap()] {
                    assert_eq!(answer(&program, call, command), expected, "{command}");
                }
                assert_eq!(answer(&program, libc::SYS_ptrace, command), REFUSE);
                assert_eq!(answer(&program, libc::SYS_read, command), ALLOW);
            }
        }
    }
}
