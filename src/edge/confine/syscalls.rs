//! The system calls that the listener may still make; any other one kills it.
//! Everything else that it gives up is left to `confine`.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::{ConfineStep, Failure};

/// Allowed whatever their arguments are. No open, no socket, no bind, no exec, no clone, no kill,
/// no write: a panic cannot even say so, and ends the process as well.
const ALLOWED: &[libc::c_long] = &[
    // Packets and messages over descriptors that it holds.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_close,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Time and entropy.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // The C library's own.
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Puts the list in force for this thread, for good.
pub(super) fn allow_only_ours() -> Result<(), Failure> {
    let failure = |_| Failure {
        step: ConfineStep::Seccomp,
        errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
    };
    let program = program().map_err(|_| Failure { step: ConfineStep::Seccomp, errno: 0 })?;
    apply_filter(&program).map_err(failure)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![never_executable()?])?]);
    }
    // An interface's error, and how many packets were lost.
    let options = [(libc::SOL_SOCKET, libc::SO_ERROR), (libc::SOL_PACKET, libc::PACKET_STATISTICS)];
    let options = options
        .into_iter()
        .map(|(level, name)| SeccompRule::new(vec![equal(1, level)?, equal(2, name)?]));
    rules.insert(libc::SYS_getsockopt, options.collect::<Result<_, _>>()?);
    // Asked by the standard library before it closes a descriptor, in builds with debug assertions.
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![equal(1, libc::F_GETFD)?])?]);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

fn equal(argument: u8, value: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn never_executable() -> Result<SeccompCondition, seccompiler::BackendError> {
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(executable), 0)
}
