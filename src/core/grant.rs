//! One grant as plain data: who holds it, for what, until when, and how it ends.
//! See `grants` for the list of live grants.

use super::openings::ServiceAddress;
use super::prefix::Span;
use super::service::{AddressProof, DisconnectPolicy, GrantKind};
use super::types::{Boot, ClientId, Now, SECOND, ServiceName, Source, Wall};
use crate::core::bytes::saturated_u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    Client(ClientId),
    /// A classic door: the FNV-1a hash of its name.
    Door([u8; 16]),
}

impl Holder {
    /// The door of this name. FNV-1a is enough: names are the admin's, so nobody has to be kept
    /// from finding two with one hash.
    pub fn door(name: &str) -> Self {
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for byte in name.bytes() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
        Holder::Door(hash.to_be_bytes())
    }

    /// The word for the door of this name where clients are named, too. No client's name has a
    /// colon. What a shell would take apart is written as in a URL: `%20`.
    pub fn word(door: &str) -> String {
        let mut word = "door:".to_owned();
        for byte in door.bytes() {
            match byte {
                b'.' | b'_' | b'@' | b'+' | b'-' => word.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => word.push(char::from(byte)),
                byte => word += &format!("%{byte:02x}"),
            }
        }
        word
    }
}

/// The identity of a grant. Asking again for the same key makes the grant last longer; it does not
/// make a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantKey {
    pub holder: Holder,
    pub service: ServiceName,
    /// The granted address; of a wider span its first address.
    pub source: Source,
    /// The source port that it is bound to; 0 = any.
    pub source_port: u16,
    pub span: Span,
}

impl GrantKey {
    /// The peers that may connect: `192.0.2.7`, `192.0.2.7 port 40000`, `192.0.2.0/24`.
    pub fn who(&self) -> String {
        who(self.source, self.source_port, self.span)
    }

    /// The grant's name: `alice/ssh@192.0.2.7`, `alice/ssh@192.0.2.7,40000`,
    /// `door:side/ssh@2001:db8::/64`. No shell takes it apart. `holder`: the client's name, or the
    /// door's [`Holder::word`].
    pub fn name(&self, holder: &str) -> String {
        let place = match (self.span, self.source_port) {
            (Span::HOST, 0) => self.source.to_string(),
            (Span::HOST, port) => format!("{},{port}", self.source),
            (span, _) => format!("{}/{}", self.source, span.prefix_length(self.source)),
        };
        format!("{holder}/{}@{place}", self.service)
    }
}

pub(super) fn who(source: Source, source_port: u16, span: Span) -> String {
    match (span, source_port) {
        (Span::HOST, 0) => source.to_string(),
        (Span::HOST, port) => format!("{source} port {port}"),
        (span, _) => format!("{source}/{}", span.prefix_length(source)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveGrant {
    pub key: GrantKey,
    pub form: GrantKind,
    /// The digest of the opened ports ([`ServicePorts::digest`](super::service::ServicePorts)); 0
    /// for a command service.
    pub ports: u64,
    pub opened: Now,
    pub seconds: u32,
    /// The service's rule when the grant began: whether connections end with it.
    pub cut: DisconnectPolicy,
    pub proof: AddressProof,
}

impl ActiveGrant {
    /// Its end by the wall clock, for people and for the record.
    pub fn until(&self) -> Wall {
        self.opened.wall.plus(self.seconds)
    }

    /// Its end by the boot clock, which decides.
    pub fn deadline(&self) -> Boot {
        self.opened.boot.plus(self.seconds)
    }

    /// Seconds from `now` to its end, rounded up, so that a new grant shows its whole time.
    pub fn seconds_left(&self, now: Now) -> u32 {
        let left = self.deadline().0.saturating_sub(now.boot.0).div_ceil(SECOND);
        saturated_u32(left)
    }

    /// The same grant, over from now on. Rounded down: it must not come back at a restart.
    pub(super) fn over(self, now: Now) -> ActiveGrant {
        let lasted = now.boot.0.saturating_sub(self.opened.boot.0) / SECOND;
        ActiveGrant { seconds: saturated_u32(lasted).min(self.seconds), ..self }
    }

    /// The opening that it shares, if its service is a command service. Such a grant has no ports
    /// and no element in the guard.
    pub fn place(&self) -> Option<ServiceAddress> {
        let GrantKey { service, source, .. } = self.key;
        if self.ports == 0 { Some(ServiceAddress { service, source }) } else { None }
    }

    /// True if connections that came in under it are cut when it ends in this way.
    pub(super) fn is_cut(&self, how: GrantEnd) -> bool {
        match how {
            GrantEnd::Closed | GrantEnd::Stopped => self.cut >= DisconnectPolicy::Closed,
            GrantEnd::Cut => true,
            GrantEnd::Revoked => self.cut >= DisconnectPolicy::Revoked,
            GrantEnd::Changed => false,
        }
    }

    /// True if connections that go on after it ended in this way may still have to be cut: by a
    /// revocation, or on an admin's word.
    pub(super) fn is_remembered(&self, how: GrantEnd) -> bool {
        let may_be_cut = match how {
            GrantEnd::Closed | GrantEnd::Changed => self.cut != DisconnectPolicy::Never,
            GrantEnd::Stopped => true,
            // Nobody is left to be revoked.
            GrantEnd::Revoked | GrantEnd::Cut => false,
        };
        may_be_cut && self.place().is_none()
    }

    /// The same grant after a restart or a jump of the clock at `now`, by whichever clock leaves it
    /// less. `None` if it is over, or if it began after `now`: then the clock was set back, and
    /// nobody can know how much time is left.
    pub(super) fn restored(self, now: Now) -> Option<ActiveGrant> {
        if now.wall < self.opened.wall {
            return None;
        }
        let mut left = self.until().0.saturating_sub(now.wall.0);
        // Within one boot this is exact. After another boot it is at worst too little.
        if now.boot >= self.opened.boot {
            left = left.min(self.deadline().0.saturating_sub(now.boot.0));
        }
        match u32::try_from(left / SECOND).ok()? {
            0 => None,
            seconds => Some(ActiveGrant { opened: now, seconds, ..self }),
        }
    }
}

/// The way in which a grant ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantEnd {
    /// Its holder closed it.
    Closed,
    /// An admin ended it.
    Stopped,
    /// An admin ended it, and all connections that came in under it.
    Cut,
    /// Its holder may no longer have it.
    Revoked,
    /// Its holder may still have a grant for the service, but with other ports, of the other kind
    /// or for less time.
    Changed,
}
