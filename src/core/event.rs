//! The names of what a gateway reports: the kinds of its events, how urgent each is, and the id by
//! which client and gateway name one knock.

use std::fmt;

use sha2::{Digest, Sha256};

/// What the hash of an id begins with, so that it is the hash of nothing else.
const LABEL: &[u8] = b"toctoc knock id v1\0";

/// Declares [`EventKind`] with each kind's name.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)+) => {
        /// The kind of an event: the fixed list that log, hooks and filters name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind {
            $($(#[$doc])* $kind,)+
        }

        impl EventKind {
            pub const ALL: [EventKind; [$($name),+].len()] = [$(EventKind::$kind),+];

            pub fn name(self) -> &'static str {
                match self {
                    $(EventKind::$kind => $name,)+
                }
            }
        }
    };
}

kinds! {
    /// A grant begins.
    Granted = "granted",
    /// A grant lasts longer, because its holder asked again.
    Extended = "extended",
    /// A client closed its grant.
    Closed = "closed",
    /// A grant ended before its time, and its client did not ask for that.
    Ended = "ended",
    /// A knock with a valid signature opened nothing; its client is told why.
    Refused = "refused",
    /// A knock opened nothing and is not answered.
    Ignored = "ignored",
    /// A client asked how the gateway sees it.
    Probe = "probe",
    /// A client asked for the time.
    Time = "time",
    /// Somebody joined, or asks to.
    Joined = "joined",
    /// Steps and sequences of classic doors.
    Door = "door",
    /// Start and stop commands.
    Command = "command",
    /// Somebody may be attacking.
    Alarm = "alarm",
    /// The firewall: the guard, its trial, connections that were cut.
    Guard = "guard",
    Listener = "listener",
    Network = "network",
    Clock = "clock",
    /// The journal.
    State = "state",
    Reload = "reload",
    /// An admin's order.
    Admin = "admin",
    /// Lines that were left out, and what has reached a limit.
    Limit = "limit",
    Warning = "warning",
    Start = "start",
    Stop = "stop",
}

/// How urgent an event is, in the order and with the names of syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Crit,
    Err,
    Warning,
    Notice,
    Info,
}

impl Level {
    const ALL: [Level; 5] = [Level::Crit, Level::Err, Level::Warning, Level::Notice, Level::Info];

    pub fn of(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The number in syslog and journald.
    pub fn number(self) -> u8 {
        match self {
            Level::Crit => 2,
            Level::Err => 3,
            Level::Warning => 4,
            Level::Notice => 5,
            Level::Info => 6,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Crit => "crit",
            Level::Err => "err",
            Level::Warning => "warning",
            Level::Notice => "notice",
            Level::Info => "info",
        }
    }
}

impl EventKind {
    pub fn of(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The level unless an event has another.
    pub fn level(self) -> Level {
        match self {
            EventKind::Alarm => Level::Crit,
            EventKind::Warning | EventKind::Limit => Level::Warning,
            EventKind::Refused | EventKind::Ignored => Level::Notice,
            _ => Level::Info,
        }
    }
}

/// The id of one knock: both ends know it, and nothing of it is sent. A hash, so that it tells
/// nothing of what it was made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KnockId(pub [u8; 4]);

impl KnockId {
    /// The id of a sealed knock, of its handshake hash. A classic knock has none that its sender
    /// could know: its id is made of random bytes.
    pub fn of(hash: &[u8]) -> KnockId {
        let digest = Sha256::new().chain_update(LABEL).chain_update(hash).finalize();
        let [a, b, c, d, ..] = digest[..] else { return KnockId([0; 4]) };
        KnockId([a, b, c, d])
    }

    /// Reads `7f3a91c2`.
    pub fn read(text: &str) -> Option<KnockId> {
        let is_id = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u32::from_str_radix(text, 16) {
            Ok(number) if is_id => Some(KnockId(number.to_be_bytes())),
            _ => None,
        }
    }
}

impl fmt::Display for KnockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KnockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = KnockId([0, 0x3a, 0x91, 0xc2]);
        assert_eq!(id.to_string(), "003a91c2");
        assert_eq!(KnockId::read("003A91c2"), Some(id));
        for bad in ["", "3a91c2", "+03a91c2", "003a91c2 ", "003a91cg", "003a91c2ff"] {
            assert_eq!(KnockId::read(bad), None, "{bad:?}");
        }
    }

    /// Both ends of a wire of other versions must agree on it.
    #[test]
    fn the_id_of_a_handshake_hash_never_changes() {
        assert_eq!(KnockId::of(&[0; 32]).to_string(), "51e5844e");
        assert_ne!(KnockId::of(&[1; 32]), KnockId::of(&[0; 32]));
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of(kind.name()), Some(kind));
        }
        assert_eq!(EventKind::of("nothing"), None);
    }
}
