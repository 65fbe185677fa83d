//! The outcome of confinement, as numbers that fit the pipe: limitations, or the step that failed.

use std::io;

use crate::core::types::Fault;

/// A step of the listener's confinement. Its text says what fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConfineStep {
    SetUp = 1,
    Entropy,
    Dumpable,
    Limits,
    Root,
    Bounding,
    Groups,
    Group,
    User,
    Capabilities,
    NoNewPrivileges,
    Landlock,
    Files,
    Proof,
    Seccomp,
    Architecture,
}

const SEE_REASON: &str = "see the kernel's reason";

impl ConfineStep {
    #[rustfmt::skip]
    const ALL: [ConfineStep; 16] = {
        use ConfineStep::*;
        [SetUp, Entropy, Dumpable, Limits, Root, Bounding, Groups, Group, User, Capabilities,
         NoNewPrivileges, Landlock, Files, Proof, Seccomp, Architecture]
    };

    /// What failed, and the remedy.
    fn text(self) -> (&'static str, &'static str) {
        use ConfineStep::*;
        match self {
            SetUp => ("its set-up was incomplete", "a bug: report it"),
            Entropy => ("the system gives no random bytes", "fix that first: every key needs them"),
            Dumpable => {
                ("dumps of its memory cannot be forbidden", "the kernel is too old or restricted")
            }
            Limits => {
                ("its resource limits cannot be set", "raise the hard limits of the gateway's unit")
            }
            Root => (
                "it cannot leave the file system by chroot",
                "it needs a writable /run, /tmp or /dev/shm",
            ),
            Bounding => ("its bounding set of capabilities cannot be emptied", SEE_REASON),
            Groups => ("its supplementary groups cannot be dropped", SEE_REASON),
            Group => (
                "its group cannot be changed",
                "the gateway needs CAP_SETGID, and the group must exist",
            ),
            User => (
                "it cannot become a user other than root",
                "leave it CAP_SETUID and CAP_SETGID (CapabilityBoundingSet= of its unit), and name \
                 a user that is not root",
            ),
            Capabilities => ("its capabilities cannot be dropped", SEE_REASON),
            NoNewPrivileges => {
                ("no_new_privs cannot be set", "the kernel is older than 3.5, or restricted")
            }
            Landlock => ("landlock fails", SEE_REASON),
            Files => (
                "files can still be opened after landlock and chroot",
                "a bug: report it with the kernel's version",
            ),
            Proof => (
                "/proc/self/status does not show what was asked for",
                "is /proc mounted? if it is, report it with the kernel's version",
            ),
            Seccomp => (
                "the list of allowed system calls cannot be enforced",
                "the kernel needs CONFIG_SECCOMP_FILTER",
            ),
            Architecture => (
                "there is no list of system calls for this processor",
                "the gateway runs on x86_64, aarch64 and riscv64, each with 64-bit programs; the \
                 client program `toctoc` runs on any",
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfineFailure {
    pub step: ConfineStep,
    /// The kernel's error number; 0 if the kernel reported success without effect.
    pub errno: i32,
}

impl ConfineFailure {
    pub(super) fn io(step: ConfineStep, error: &io::Error) -> Self {
        Self { step, errno: error.raw_os_error().unwrap_or(0) }
    }

    /// Turns an error into the failure of `step`, for `map_err`.
    pub(super) fn at<E: Into<io::Error>>(step: ConfineStep) -> impl Fn(E) -> Self {
        move |error| Self::io(step, &error.into())
    }

    /// From the numbers in a message; `None` if no step has this number.
    pub fn from_pipe(step: u8, errno: i32) -> Option<Self> {
        let step = ConfineStep::ALL.into_iter().find(|one| *one as u8 == step)?;
        Some(Self { step, errno })
    }

    pub fn fault(self) -> Fault {
        let (what, remedy) = self.step.text();
        let mut what = format!("the listener cannot be confined: {what}");
        if self.errno != 0 {
            what = format!("{what}: {}", io::Error::from_raw_os_error(self.errno));
        }
        Fault::new(what, remedy)
    }
}

/// A protection that is not possible on this system. Reported at start and in every status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limitation {
    UserKept = 0,
    GroupsKept = 1,
    BoundingKept = 2,
    LandlockPartly = 3,
    NoLandlock = 4,
    FilesInReach = 5,
    Inherited = 6,
    UserShared = 7,
    GroupUnknown = 8,
    TagsForbidden = 9,
    TagsRefused = 10,
}

impl Limitation {
    #[rustfmt::skip]
    const ALL: [Limitation; 11] = {
        use Limitation::*;
        [UserKept, GroupsKept, BoundingKept, LandlockPartly, NoLandlock, FilesInReach, Inherited,
         UserShared, GroupUnknown, TagsForbidden, TagsRefused]
    };

    pub fn text(self) -> &'static str {
        use Limitation::*;
        match self {
            UserKept => {
                "the listener runs as the gatekeeper's user, without any capability: it cannot \
                 become another user here"
            }
            GroupsKept => {
                "the listener keeps its supplementary groups: this user namespace forbids dropping \
                 them"
            }
            BoundingKept => {
                "the listener's bounding set is not empty: emptying it takes CAP_SETPCAP; \
                 no_new_privs makes up for it"
            }
            LandlockPartly => {
                "the listener is under only some of the landlock rules: the kernel is older than \
                 6.12"
            }
            NoLandlock => {
                "the listener is not under landlock: the kernel has none, or a container blocks it"
            }
            FilesInReach => {
                "only the list of system calls keeps the listener from files: neither chroot nor \
                 landlock is possible here"
            }
            Inherited => "the listener may have inherited open files: the kernel is older than 5.9",
            UserShared => {
                "the listener runs as `nobody`, so any other program of `nobody` can stop it: \
                 `useradd --system --no-create-home --shell /usr/sbin/nologin _toctoc`, and restart \
                 toctocd"
            }
            GroupUnknown => {
                "group 61137 is not mapped in this user namespace: the guard does not limit what \
                 the sockets of receipts send"
            }
            TagsForbidden => {
                "junk is dropped by the listener and not in the kernel: the filter that knows tags \
                 needs CAP_BPF, and a kernel or container that allows it"
            }
            TagsRefused => {
                "junk is dropped by the listener and not in the kernel, which refuses the filter \
                 that knows tags: are there thousands of doors?"
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limitations(u32);

impl Limitations {
    /// From the bits in a message; unknown bits are ignored.
    pub fn from_bits(bits: u32) -> Self {
        Self(Limitation::ALL.into_iter().map(|one| bits & (1 << one as u8)).sum())
    }

    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn add(&mut self, limitation: Limitation) {
        self.0 |= 1 << limitation as u8;
    }

    pub fn has(self, limitation: Limitation) -> bool {
        self.0 & (1 << limitation as u8) != 0
    }

    pub fn without(self, limitation: Limitation) -> Self {
        Self(self.0 & !(1 << limitation as u8))
    }

    pub fn iter(self) -> impl Iterator<Item = Limitation> {
        Limitation::ALL.into_iter().filter(move |limitation| self.has(*limitation))
    }
}
