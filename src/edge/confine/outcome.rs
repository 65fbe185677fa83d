//! How confinement went, in numbers that fit the pipe: what was not possible, or which step failed.
//! The steps themselves are left to `confine`.

use std::io;

use crate::core::types::Fault;

/// A step of the listener's way into confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConfineStep {
    /// Reading the set-up from the pipe.
    SetUp = 1,
    /// Binding the capture sockets.
    Bind,
    /// Getting random bytes.
    Entropy,
    /// Being not dumpable.
    Dumpable,
    /// Resource limits.
    Limits,
    /// The empty root directory.
    Root,
    /// The bounding set.
    Bounding,
    /// Supplementary groups.
    Groups,
    /// The group id.
    Group,
    /// The user id.
    User,
    /// Capabilities.
    Capabilities,
    /// no_new_privs.
    NoNewPrivileges,
    /// Landlock.
    Landlock,
    /// Trying to open files, which must fail.
    Files,
    /// Reading back what the kernel says.
    Proof,
    /// The list of system calls.
    Seccomp,
}

impl ConfineStep {
    const ALL: [ConfineStep; 16] = [
        ConfineStep::SetUp,
        ConfineStep::Bind,
        ConfineStep::Entropy,
        ConfineStep::Dumpable,
        ConfineStep::Limits,
        ConfineStep::Root,
        ConfineStep::Bounding,
        ConfineStep::Groups,
        ConfineStep::Group,
        ConfineStep::User,
        ConfineStep::Capabilities,
        ConfineStep::NoNewPrivileges,
        ConfineStep::Landlock,
        ConfineStep::Files,
        ConfineStep::Proof,
        ConfineStep::Seccomp,
    ];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            ConfineStep::SetUp => ("its set-up came incomplete over the pipe", "a bug: report it"),
            ConfineStep::Bind => (
                "a capture socket cannot be bound",
                "has the interface just gone? `ip link` shows it",
            ),
            ConfineStep::Entropy => {
                ("the system gives no random bytes", "mend that first: nothing secret can be made")
            }
            ConfineStep::Dumpable => {
                ("it cannot forbid dumps of its memory", "the kernel is too old or restricted")
            }
            ConfineStep::Limits => {
                ("its resource limits cannot be set", "raise the hard limits of the gateway's unit")
            }
            ConfineStep::Root => (
                "it cannot leave the file system by chroot",
                "it needs a writable /run, /tmp or /dev/shm",
            ),
            ConfineStep::Bounding => {
                ("the bounding set of capabilities cannot be emptied", "the kernel says why")
            }
            ConfineStep::Groups => {
                ("its supplementary groups cannot be dropped", "the kernel says why")
            }
            ConfineStep::Group => (
                "its group cannot be changed",
                "the gateway needs CAP_SETGID, and the group must exist",
            ),
            ConfineStep::User => (
                "it cannot become another user than root",
                "leave it CAP_SETUID and CAP_SETGID (CapabilityBoundingSet= of its unit), and name a user that is not root",
            ),
            ConfineStep::Capabilities => {
                ("its capabilities cannot be dropped", "the kernel says why")
            }
            ConfineStep::NoNewPrivileges => {
                ("no_new_privs cannot be set", "the kernel is older than 3.5, or restricted")
            }
            ConfineStep::Landlock => ("landlock refuses", "the kernel says why"),
            ConfineStep::Files => (
                "files can still be opened after landlock and chroot",
                "a bug: report it with the kernel's version",
            ),
            ConfineStep::Proof => (
                "what the kernel shows in /proc/self/status is not what was asked for",
                "is /proc mounted? if it is, report it with the kernel's version",
            ),
            ConfineStep::Seccomp => (
                "the list of allowed system calls cannot be put in force",
                "the kernel needs CONFIG_SECCOMP_FILTER",
            ),
        }
    }
}

/// Which step failed, and the kernel's error number or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub step: ConfineStep,
    /// The error number; 0 if the kernel reported success and it was not true.
    pub errno: i32,
}

impl Failure {
    /// From a Rust error.
    pub fn io(step: ConfineStep, error: &io::Error) -> Self {
        Self { step, errno: error.raw_os_error().unwrap_or(0) }
    }

    pub(super) fn nix(step: ConfineStep, error: nix::Error) -> Self {
        Self { step, errno: error as i32 }
    }

    pub(super) fn caps(step: ConfineStep, error: capctl::Error) -> Self {
        Self { step, errno: error.code() }
    }

    /// As the pipe brings it; any numbers may come.
    pub fn from_pipe(step: u8, errno: i32) -> Option<Self> {
        ConfineStep::ALL.into_iter().find(|one| *one as u8 == step).map(|step| Self { step, errno })
    }

    /// For people.
    pub fn fault(self) -> Fault {
        let (what, remedy) = self.step.words();
        let why = if self.errno == 0 {
            String::new()
        } else {
            format!(": {}", io::Error::from_raw_os_error(self.errno))
        };
        Fault::new(format!("the listener cannot be confined: {what}{why}"), remedy)
    }
}

/// What is not possible here, so that the listener has one wall less. Said at start and in every
/// status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limitation {
    /// It runs as the gatekeeper's user.
    UserKept = 0,
    /// It keeps supplementary groups.
    GroupsKept = 1,
    /// The bounding set is not empty.
    BoundingKept = 2,
    /// The kernel knows only a part of the landlock rules.
    LandlockPartly = 3,
    /// The kernel has no landlock.
    NoLandlock = 4,
    /// Neither chroot nor landlock: only the list of system calls keeps it from files.
    FilesInReach = 5,
    /// It could not make sure that it inherited no open files.
    Inherited = 6,
}

impl Limitation {
    const ALL: [Limitation; 7] = [
        Limitation::UserKept,
        Limitation::GroupsKept,
        Limitation::BoundingKept,
        Limitation::LandlockPartly,
        Limitation::NoLandlock,
        Limitation::FilesInReach,
        Limitation::Inherited,
    ];

    /// What it means and why it is so.
    pub fn text(self) -> &'static str {
        match self {
            Limitation::UserKept => {
                "the listener runs as the gatekeeper's user, without any capability: it can become no other one here"
            }
            Limitation::GroupsKept => {
                "the listener keeps its supplementary groups: this user namespace forbids to drop them"
            }
            Limitation::BoundingKept => {
                "the listener's bounding set is not empty: that takes CAP_SETPCAP; no_new_privs makes up for it"
            }
            Limitation::LandlockPartly => {
                "the listener is under a part of the landlock rules only: the kernel is older than 6.12"
            }
            Limitation::NoLandlock => {
                "the listener is not under landlock: the kernel has none, or a container keeps it away"
            }
            Limitation::FilesInReach => {
                "only the list of system calls keeps the listener from files: neither chroot nor landlock is possible here"
            }
            Limitation::Inherited => {
                "the listener may have inherited open files: the kernel is older than 5.9"
            }
        }
    }
}

/// A set of [`Limitation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limitations(u32);

impl Limitations {
    /// As the pipe brings them; bits that mean nothing are left out.
    pub fn from_bits(bits: u32) -> Self {
        Self(Limitation::ALL.into_iter().map(|one| bits & (1 << one as u8)).sum())
    }

    /// For the pipe.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Adds one.
    pub fn add(&mut self, note: Limitation) {
        self.0 |= 1 << note as u8;
    }

    /// Whether it is in.
    pub fn has(self, note: Limitation) -> bool {
        self.0 & (1 << note as u8) != 0
    }

    /// All that are in.
    pub fn iter(self) -> impl Iterator<Item = Limitation> {
        Limitation::ALL.into_iter().filter(move |note| self.has(*note))
    }
}
