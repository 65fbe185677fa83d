//! Ids and names of clients, gateways, realms, keys and services.
//! Each has a form in bytes for the wire and a form in text for people.

use std::fmt;

/// Declares ids: sixteen random bytes, never reused. Text form: 32 lower-case hex digits.
macro_rules! id16 {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )+};
}

id16! {
    ClientId
    GatewayId
    /// The gateways and clients that share a mask key.
    RealmId
}

/// SHA-256 of an SSH public key blob, as `ssh-keygen -l` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A service's name: `[a-z0-9._-]{1,31}`, NUL-padded as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName([u8; 32]);

impl ServiceName {
    /// The empty name in a probe. Never a configured service.
    pub const NONE: ServiceName = ServiceName([0; 32]);

    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let name = Self::from_bytes(bytes)?;
        if name == Self::NONE || name.as_str() != text { None } else { Some(name) }
    }

    /// From the wire: the name, then only NULs, at least one. All NUL is [`ServiceName::NONE`].
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let (name, padding) = bytes.split_at(end);
        let plain =
            name.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        if plain && padding.iter().all(|b| *b == 0) { Some(Self(bytes)) } else { None }
    }

    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The name without its padding; empty for [`ServiceName::NONE`].
    pub fn as_str(&self) -> &str {
        // It is ASCII, so this never fails.
        std::str::from_utf8(&self.0).unwrap_or("").trim_end_matches('\0')
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceName({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_is_plain_ascii_and_ends_in_padding() {
        assert_eq!(ServiceName::new("ssh").unwrap().as_str(), "ssh");
        for bad in ["", "SSH", "a b", "a\0b", "é", &"x".repeat(32)] {
            assert!(ServiceName::new(bad).is_none(), "{bad:?}");
        }
        assert!(ServiceName::new(&"x".repeat(31)).is_some());
        let mut late = [0; 32];
        late[0] = b'a';
        late[5] = b'b';
        assert!(ServiceName::from_bytes(late).is_none());
    }
}
