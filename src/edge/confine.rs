//! Drops the listener's privileges for good, and checks that they are gone. See `syscalls` for what
//! it may still do.
//!
//! Nothing here is silently optional. Each step succeeds, or is not possible on this system and is
//! reported as a [`Limitation`], or ends the process with a [`ConfineFailure`]. Return values are
//! not enough: the kernel's own account of the process is checked afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use capctl::{Cap, CapState, ambient, bounding, prctl};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{self, Gid, Uid};

mod drop_privileges;
mod outcome;
mod proof;
mod syscalls;
#[cfg(test)]
mod tests;

pub use drop_privileges::{FOR_COMMANDS, drop_privileges, may_run_commands};
pub use outcome::{ConfineFailure, ConfineStep, Limitation, Limitations};
pub use proof::{inherited_filters, verify};

/// The id of the user `nobody`, and of its group. Other programs run as it too: each of them may
/// stop the listener.
pub const SHARED_USER: u32 = 65534;

/// Gives up all that a process can give up: files, other user ids, capabilities, new processes,
/// most system calls. Only for a process with one thread. Fails if a step failed although it is
/// possible here, or had no effect: the process must end then.
///
/// `user` is the user and group id to switch to. `None` keeps the current user. That must not be a
/// root that could switch to another user, nor any root on a system without landlock: root's files
/// are open to root even without a capability. `descriptors` is the number of descriptors in use
/// beyond the three standard ones. `senders` are the only ones that can send afterwards, and no
/// descriptor can be received.
pub fn confine(
    user: Option<(u32, u32)>, descriptors: u64, senders: &[BorrowedFd<'_>],
) -> Result<Limitations, ConfineFailure> {
    let mut limitations = Limitations::default();
    // Opened while /proc is in reach. Each read of the open file shows the current state.
    let mut status =
        File::open("/proc/thread-self/status").map_err(ConfineFailure::at(ConfineStep::Proof))?;
    let ids = IdMap::read().map_err(ConfineFailure::at(ConfineStep::Proof))?;
    prctl::set_dumpable(false).map_err(ConfineFailure::at(ConfineStep::Dumpable))?;
    set_limits(descriptors).map_err(ConfineFailure::at(ConfineStep::Limits))?;
    let held = CapState::get_current().map_err(ConfineFailure::at(ConfineStep::Capabilities))?;
    let chrooted = enter_empty_root(&held)?;
    drop_bounding(&held, &mut limitations)?;
    become_user(user, &held, &ids, &mut limitations)?;
    ambient::clear().map_err(ConfineFailure::at(ConfineStep::Capabilities))?;
    CapState::empty().set_current().map_err(ConfineFailure::at(ConfineStep::Capabilities))?;
    prctl::set_no_new_privs().map_err(ConfineFailure::at(ConfineStep::NoNewPrivileges))?;
    landlock(&mut limitations)?;
    refuse_root_without_landlock(&ids, limitations)?;
    check_files_out_of_reach(chrooted, &mut limitations)?;
    let mut text = String::new();
    status.rewind().map_err(ConfineFailure::at(ConfineStep::Proof))?;
    status.read_to_string(&mut text).map_err(ConfineFailure::at(ConfineStep::Proof))?;
    drop(status);
    proof::check(&text, limitations, user, None)?;
    if Uid::effective().as_raw() == SHARED_USER {
        limitations.add(Limitation::UserShared);
    }
    syscalls::allow_only_needed(senders)?;
    Ok(limitations)
}

fn set_limits(descriptors: u64) -> nix::Result<()> {
    // poll(2) refuses more descriptors than this limit. No descriptor is opened any more.
    let files = descriptors.saturating_add(8);
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    for resource in [Resource::RLIMIT_CORE, Resource::RLIMIT_NPROC, Resource::RLIMIT_FSIZE] {
        setrlimit(resource, 0, 0)?;
    }
    Ok(())
}

/// Moves to a root directory that has no name and no content. False without CAP_SYS_CHROOT.
fn enter_empty_root(held: &CapState) -> Result<bool, ConfineFailure> {
    if !held.effective.has(Cap::SYS_CHROOT) {
        return Ok(false);
    }
    // The last is the root directory: an empty one has no other place.
    for place in ["/run", "/tmp", "/dev/shm", ""] {
        if let Ok(directory) = nameless_directory(place) {
            unistd::fchdir(directory).map_err(ConfineFailure::at(ConfineStep::Root))?;
            unistd::chroot(".").map_err(ConfineFailure::at(ConfineStep::Root))?;
            unistd::chdir("/").map_err(ConfineFailure::at(ConfineStep::Root))?;
            return Ok(true);
        }
    }
    Err(ConfineFailure { step: ConfineStep::Root, errno: libc::EROFS })
}

fn nameless_directory(place: &str) -> nix::Result<OwnedFd> {
    let path = unistd::mkdtemp(format!("{place}/toctoc-{}", "X".repeat(6)).as_str())?;
    let directory =
        open(&path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty());
    unistd::unlinkat(AT_FDCWD, &path, unistd::UnlinkatFlags::RemoveDir)?;
    directory
}

fn drop_bounding(held: &CapState, limitations: &mut Limitations) -> Result<(), ConfineFailure> {
    if held.effective.has(Cap::SETPCAP) {
        return bounding::clear().map_err(ConfineFailure::at(ConfineStep::Bounding));
    }
    if !bounding::probe().is_empty() {
        limitations.add(Limitation::BoundingKept);
    }
    Ok(())
}

/// The ids that exist in this user namespace. One made by an ordinary user may have a single id.
struct IdMap {
    users: Vec<Range<u64>>,
    groups: Vec<Range<u64>>,
    may_set_groups: bool,
}

impl IdMap {
    fn read() -> io::Result<Self> {
        let setgroups = fs::read_to_string("/proc/self/setgroups");
        Ok(Self {
            users: parse_map(&fs::read_to_string("/proc/self/uid_map")?),
            groups: parse_map(&fs::read_to_string("/proc/self/gid_map")?),
            may_set_groups: !setgroups.is_ok_and(|text| text.trim() == "deny"),
        })
    }

    fn contains(&self, uid: u32, gid: u32) -> bool {
        self.users.iter().any(|range| range.contains(&uid.into()))
            && self.groups.iter().any(|range| range.contains(&gid.into()))
    }

    /// True if there is no other user to switch to.
    fn has_one_user(&self) -> bool {
        self.users.iter().map(|range| range.end - range.start).sum::<u64>() == 1
    }
}

/// The ids inside the namespace. Lines of: first id inside, first id outside, count.
fn parse_map(map: &str) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    for line in map.lines() {
        let numbers: Vec<u64> =
            line.split_whitespace().map_while(|number| number.parse().ok()).collect();
        if let [first, _, count] = numbers[..] {
            ranges.push(first..first.saturating_add(count));
        }
    }
    ranges
}

fn become_user(
    user: Option<(u32, u32)>, held: &CapState, ids: &IdMap, limitations: &mut Limitations,
) -> Result<(), ConfineFailure> {
    let may_change = held.effective.has(Cap::SETUID) && held.effective.has(Cap::SETGID);
    if let Some((uid, gid)) = user
        && may_change
        && ids.contains(uid, gid)
    {
        if uid == 0 || gid == 0 {
            return Err(ConfineFailure { step: ConfineStep::User, errno: libc::EINVAL });
        }
        drop_groups(held, ids, limitations)?;
        return set_ids(Uid::from_raw(uid), Gid::from_raw(gid));
    }
    // Root must become another user, with two exceptions. If there is no other user here, this root
    // has no power over files that are not its own. If it may not switch and is not asked to, as
    // under a unit that leaves it no CAP_SETUID, landlock keeps it from files.
    if Uid::effective().is_root() && !ids.has_one_user() && (may_change || user.is_some()) {
        return Err(ConfineFailure { step: ConfineStep::User, errno: libc::EPERM });
    }
    if user != Some((Uid::effective().as_raw(), Gid::effective().as_raw())) {
        limitations.add(Limitation::UserKept);
    }
    drop_groups(held, ids, limitations)
}

fn set_ids(uid: Uid, gid: Gid) -> Result<(), ConfineFailure> {
    unistd::setresgid(gid, gid, gid).map_err(ConfineFailure::at(ConfineStep::Group))?;
    unistd::setresuid(uid, uid, uid).map_err(ConfineFailure::at(ConfineStep::User))?;
    // The kernel must refuse the way back.
    let root = Uid::from_raw(0);
    if unistd::setresuid(root, root, root).is_ok() {
        return Err(ConfineFailure { step: ConfineStep::User, errno: 0 });
    }
    Ok(())
}

fn drop_groups(
    held: &CapState, ids: &IdMap, limitations: &mut Limitations,
) -> Result<(), ConfineFailure> {
    if held.effective.has(Cap::SETGID) && ids.may_set_groups {
        return unistd::setgroups(&[]).map_err(ConfineFailure::at(ConfineStep::Groups));
    }
    if !unistd::getgroups().map_err(ConfineFailure::at(ConfineStep::Groups))?.is_empty() {
        limitations.add(Limitation::GroupsKept);
    }
    Ok(())
}

/// Forbids files, TCP ports, abstract sockets and signals beyond this process, as far as possible.
fn landlock(limitations: &mut Limitations) -> Result<(), ConfineFailure> {
    let Ok(status) = restrict_self() else {
        return Err(ConfineFailure::io(ConfineStep::Landlock, &io::Error::last_os_error()));
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => limitations.add(Limitation::LandlockPartly),
        RulesetStatus::NotEnforced => limitations.add(Limitation::NoLandlock),
    }
    Ok(())
}

fn restrict_self() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()
}

fn refuse_root_without_landlock(
    ids: &IdMap, limitations: Limitations,
) -> Result<(), ConfineFailure> {
    let has_landlock = !limitations.has(Limitation::NoLandlock);
    if has_landlock || !Uid::effective().is_root() || ids.has_one_user() {
        return Ok(());
    }
    Err(ConfineFailure { step: ConfineStep::User, errno: libc::EPERM })
}

fn check_files_out_of_reach(
    chrooted: bool, limitations: &mut Limitations,
) -> Result<(), ConfineFailure> {
    let paths = ["/", "/etc/passwd", "/proc/self/status"];
    if paths.into_iter().all(|path| File::open(path).is_err()) {
        return Ok(());
    }
    if chrooted || !limitations.has(Limitation::NoLandlock) {
        return Err(ConfineFailure { step: ConfineStep::Files, errno: 0 });
    }
    limitations.add(Limitation::FilesInReach);
    Ok(())
}
