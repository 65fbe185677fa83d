//! The system calls that the listener may still make. Any other call kills it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{ConfineFailure, ConfineStep};

/// Allowed with any arguments. Sending is allowed on a few descriptors only, see [`program`]. No
/// open, socket, bind, exec, clone, kill or write: not even a panic can print its message, but it
/// ends the process as well.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Packets and messages, over open descriptors.
    libc::SYS_recvfrom, libc::SYS_ppoll, libc::SYS_close,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Memory.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    // Time and entropy.
    libc::SYS_clock_gettime, libc::SYS_getrandom,
    // Used by the C library.
    libc::SYS_futex, libc::SYS_restart_syscall, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_exit, libc::SYS_exit_group,
];

/// Enforces the list for this thread, for good. Only `senders` can send afterwards.
pub(super) fn allow_only_needed(senders: &[BorrowedFd<'_>]) -> Result<(), ConfineFailure> {
    let arch = architecture(std::env::consts::ARCH)?;
    let Ok(program) = program(senders, arch) else {
        return Err(ConfineFailure { step: ConfineStep::Seccomp, errno: 0 });
    };
    apply_filter(&program)
        .map_err(|_| ConfineFailure::io(ConfineStep::Seccomp, &io::Error::last_os_error()))
}

/// The processor by its name, if there is a list of system calls for it.
pub(super) fn architecture(name: &str) -> Result<TargetArch, ConfineFailure> {
    let known = TargetArch::try_from(name);
    known.map_err(|_| ConfineFailure { step: ConfineStep::Architecture, errno: 0 })
}

/// A capture socket could send frames of any kind onto its link, so it must not be able to send.
/// The numbers of `senders` stay theirs: no call that opens, copies or receives a descriptor is
/// allowed.
fn program(senders: &[BorrowedFd<'_>], arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let mut sending = Vec::new();
    for sender in senders {
        sending.push(SeccompRule::new(vec![equal(0, sender.as_raw_fd())?])?);
    }
    // Without a rule a call would be allowed with any arguments.
    if !sending.is_empty() {
        // All from 3 on are packet and raw sockets, which carry no descriptors. Standard error may
        // be a socket of the service manager.
        let at_least = SeccompCmpOp::Ge;
        let packets = SeccompCondition::new(0, SeccompCmpArgLen::Dword, at_least, 3)?;
        let packets = SeccompRule::new(vec![packets])?;
        rules.insert(libc::SYS_recvmsg, vec![packets]);
        rules.insert(libc::SYS_sendmsg, sending);
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![never_executable()?])?]);
    }
    let socket_error = vec![equal(1, libc::SOL_SOCKET)?, equal(2, libc::SO_ERROR)?];
    let lost_packets = vec![equal(1, libc::SOL_PACKET)?, equal(2, libc::PACKET_STATISTICS)?];
    rules.insert(
        libc::SYS_getsockopt,
        vec![SeccompRule::new(socket_error)?, SeccompRule::new(lost_packets)?],
    );
    // The standard library asks before it closes a descriptor, in builds with debug assertions.
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![equal(1, libc::F_GETFD)?])?]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

fn equal(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn never_executable() -> Result<SeccompCondition, BackendError> {
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(executable), 0)
}
