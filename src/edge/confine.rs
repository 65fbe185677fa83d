//! Giving privileges away for good, and checking that they are gone. When that happens is left to
//! `app::listener`; what it may still do afterwards stands in `syscalls`.
//!
//! Nothing here is silently optional: a step succeeds, or is not possible here and says so
//! ([`Limitation`]), or ends the process ([`Failure`]). Each step is checked by what the kernel
//! says afterwards, not by its return value alone.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;

use capctl::{Cap, CapState, ambient, bounding, prctl};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{self, Gid, Uid};

mod drop_privileges;
mod outcome;
mod proof;
mod syscalls;
#[cfg(test)]
mod tests;

pub use drop_privileges::drop_privileges;
pub use outcome::{ConfineStep, Failure, Limitation, Limitations};
pub use proof::verify;

/// Gives up everything that a process can give up: files, other users' ids, capabilities, new
/// processes, most system calls.
///
/// `user`: user and group id to become; `None` stays who it is, which must not be a root that could
/// become somebody else, nor any root where there is no landlock: files of root's are open to it
/// even without a capability. `descriptors`: how many more than the three standard ones stay in
/// use. Only for a process with one thread. What is not possible here is in the [`Limitations`].
///
/// # Errors
/// A step failed although it is possible here, or did not have its effect. The process must end
/// then.
pub fn confine(user: Option<(u32, u32)>, descriptors: u64) -> Result<Limitations, Failure> {
    let mut notes = Limitations::default();
    // Before /proc is out of reach. An open file of it tells the present whenever it is read.
    let mut status =
        File::open("/proc/thread-self/status").map_err(|e| Failure::io(ConfineStep::Proof, &e))?;
    let user_namespace = IdMap::read()?;
    prctl::set_dumpable(false).map_err(|e| Failure::caps(ConfineStep::Dumpable, e))?;
    limit(descriptors)?;
    let held = CapState::get_current().map_err(|e| Failure::caps(ConfineStep::Capabilities, e))?;
    let chrooted = leave_the_files(&held)?;
    drop_bounding(&held, &mut notes)?;
    become_user(user, &held, &user_namespace, &mut notes)?;
    drop_capabilities()?;
    prctl::set_no_new_privs().map_err(|e| Failure::caps(ConfineStep::NoNewPrivileges, e))?;
    landlock(&mut notes)?;
    no_root_without_landlock(&user_namespace, notes)?;
    files_are_out_of_reach(chrooted, &mut notes)?;
    let mut text = String::new();
    status
        .rewind()
        .and_then(|()| status.read_to_string(&mut text))
        .map_err(|e| Failure::io(ConfineStep::Proof, &e))?;
    drop(status);
    proof::check(&text, notes, user, None)?;
    syscalls::allow_only_ours()?;
    Ok(notes)
}

fn limit(descriptors: u64) -> Result<(), Failure> {
    // poll(2) refuses more descriptors than this limit; nothing is opened any more.
    let files = descriptors.saturating_add(8);
    for (resource, most) in [
        (Resource::RLIMIT_NOFILE, files),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_FSIZE, 0),
    ] {
        setrlimit(resource, most, most).map_err(|e| Failure::nix(ConfineStep::Limits, e))?;
    }
    Ok(())
}

/// Goes to live in a directory that has no name and no content. Whether it could: it takes
/// CAP_SYS_CHROOT.
fn leave_the_files(held: &CapState) -> Result<bool, Failure> {
    if !held.effective.has(Cap::SYS_CHROOT) {
        return Ok(false);
    }
    let failure = |e| Failure::nix(ConfineStep::Root, e);
    let directory = ["/run", "/tmp", "/dev/shm"]
        .into_iter()
        .find_map(|place| nameless_directory(place).ok())
        .ok_or(Failure { step: ConfineStep::Root, errno: libc::EROFS })?;
    unistd::fchdir(directory)
        .and_then(|()| unistd::chroot("."))
        .and_then(|()| unistd::chdir("/"))
        .map_err(failure)?;
    Ok(true)
}

fn nameless_directory(place: &str) -> nix::Result<OwnedFd> {
    let path = unistd::mkdtemp(format!("{place}/toctoc-{}", "X".repeat(6)).as_str())?;
    let directory =
        open(&path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty());
    unistd::unlinkat(nix::fcntl::AT_FDCWD, &path, unistd::UnlinkatFlags::RemoveDir)?;
    directory
}

fn drop_bounding(held: &CapState, notes: &mut Limitations) -> Result<(), Failure> {
    if held.effective.has(Cap::SETPCAP) {
        return bounding::clear().map_err(|e| Failure::caps(ConfineStep::Bounding, e));
    }
    if !bounding::probe().is_empty() {
        notes.add(Limitation::BoundingKept);
    }
    Ok(())
}

/// Which ids this user namespace knows: in one that an ordinary user made it may be a single one.
struct IdMap {
    users: String,
    groups: String,
    may_set_groups: bool,
}

impl IdMap {
    fn read() -> Result<Self, Failure> {
        let read =
            |name| std::fs::read_to_string(name).map_err(|e| Failure::io(ConfineStep::Proof, &e));
        let may_set_groups = std::fs::read_to_string("/proc/self/setgroups")
            .map_or(true, |text| text.trim() != "deny");
        Ok(Self {
            users: read("/proc/self/uid_map")?,
            groups: read("/proc/self/gid_map")?,
            may_set_groups,
        })
    }

    fn knows(&self, (uid, gid): (u32, u32)) -> bool {
        in_map(&self.users, uid) && in_map(&self.groups, gid)
    }

    /// Whether there is nobody else to become.
    fn single(&self) -> bool {
        let count = |line: &str| line.split_whitespace().nth(2).and_then(|n| n.parse::<u64>().ok());
        self.users.lines().filter_map(count).sum::<u64>() == 1
    }
}

/// Lines of: first id inside, first id outside, how many.
fn in_map(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().ok());
        match (numbers.next().flatten(), numbers.nth(1).flatten()) {
            (Some(first), Some(count)) => (first..first.saturating_add(count)).contains(&id.into()),
            _ => false,
        }
    })
}

fn become_user(
    user: Option<(u32, u32)>,
    held: &CapState,
    mapped: &IdMap,
    notes: &mut Limitations,
) -> Result<(), Failure> {
    let is_root = Uid::effective().is_root();
    let may = [Cap::SETUID, Cap::SETGID].into_iter().all(|cap| held.effective.has(cap));
    let Some((uid, gid)) = user.filter(|user| may && mapped.knows(*user)) else {
        // Root must become somebody else. Unless there is nobody else here: then it is root over
        // nothing but its own files. Or it may not, and is not asked to, as below a unit that
        // leaves it no CAP_SETUID: then landlock keeps it from files.
        if is_root && !mapped.single() && (may || user.is_some()) {
            return Err(Failure { step: ConfineStep::User, errno: libc::EPERM });
        }
        if user != Some((Uid::effective().as_raw(), Gid::effective().as_raw())) {
            notes.add(Limitation::UserKept);
        }
        return drop_groups(may, mapped, notes);
    };
    if uid == 0 || gid == 0 {
        return Err(Failure { step: ConfineStep::User, errno: libc::EINVAL });
    }
    drop_groups(may, mapped, notes)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    unistd::setresgid(gid, gid, gid).map_err(|e| Failure::nix(ConfineStep::Group, e))?;
    unistd::setresuid(uid, uid, uid).map_err(|e| Failure::nix(ConfineStep::User, e))?;
    // The kernel must refuse the way back.
    let root = Uid::from_raw(0);
    if unistd::setresuid(root, root, root).is_ok() {
        return Err(Failure { step: ConfineStep::User, errno: 0 });
    }
    Ok(())
}

fn drop_groups(may: bool, mapped: &IdMap, notes: &mut Limitations) -> Result<(), Failure> {
    if may && mapped.may_set_groups {
        return unistd::setgroups(&[]).map_err(|e| Failure::nix(ConfineStep::Groups, e));
    }
    if !unistd::getgroups().map_err(|e| Failure::nix(ConfineStep::Groups, e))?.is_empty() {
        notes.add(Limitation::GroupsKept);
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), Failure> {
    ambient::clear()
        .and_then(|()| CapState::empty().set_current())
        .map_err(|e| Failure::caps(ConfineStep::Capabilities, e))
}

/// No file, no TCP port, no abstract socket or signal beyond this process: where the kernel knows
/// how.
fn landlock(notes: &mut Limitations) -> Result<(), Failure> {
    let goal = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(goal))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(goal)))
        .and_then(|rules| rules.scope(Scope::from_all(goal)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self())
        .map_err(|_| Failure {
            step: ConfineStep::Landlock,
            errno: io::Error::last_os_error().raw_os_error().unwrap_or(0),
        })?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => {}
        RulesetStatus::PartiallyEnforced => notes.add(Limitation::LandlockPartly),
        RulesetStatus::NotEnforced => notes.add(Limitation::NoLandlock),
    }
    Ok(())
}

fn no_root_without_landlock(mapped: &IdMap, notes: Limitations) -> Result<(), Failure> {
    match Uid::effective().is_root() && !mapped.single() && notes.has(Limitation::NoLandlock) {
        true => Err(Failure { step: ConfineStep::User, errno: libc::EPERM }),
        false => Ok(()),
    }
}

fn files_are_out_of_reach(chrooted: bool, notes: &mut Limitations) -> Result<(), Failure> {
    let reached =
        ["/", "/etc/passwd", "/proc/self/status"].into_iter().any(|path| File::open(path).is_ok());
    match (reached, chrooted || !notes.has(Limitation::NoLandlock)) {
        (false, _) => Ok(()),
        (true, false) => {
            notes.add(Limitation::FilesInReach);
            Ok(())
        }
        (true, true) => Err(Failure { step: ConfineStep::Files, errno: 0 }),
    }
}
