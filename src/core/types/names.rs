//! What clients, gateways, realms, keys and services are called: bytes on the wire, and the text
//! that people read. Who or what bears such a name is left to the texts and tables that hold it.

use std::fmt;

/// Sixteen random bytes that name something for ever. Text form: 32 lower-case hex digits.
macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id16!(
    /// An enrolled client. Never used again after revocation.
    ClientId
);
id16!(
    /// One gateway.
    GatewayId
);
id16!(
    /// The gateways and clients that share a mask key.
    RealmId
);

/// SHA-256 of an SSH public key blob, as `ssh-keygen -l` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A service's name: `[a-z0-9._-]{1,31}`, held NUL-padded as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName([u8; 32]);

impl ServiceName {
    /// The name of nothing: what a probe carries. Never a configured service.
    pub const NONE: ServiceName = ServiceName([0; 32]);

    /// Parses a name as people write it.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Self::from_bytes(bytes).filter(|name| *name != Self::NONE && name.as_str() == text)
    }

    /// From the wire: the name, then only NULs, at least one. All NUL is [`ServiceName::NONE`].
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let end = bytes.iter().position(|b| *b == 0)?;
        let (name, padding) = bytes.split_at(end);
        let plain = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        (name.iter().all(plain) && padding.iter().all(|b| *b == 0)).then_some(Self(bytes))
    }

    /// The 32 wire bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The name without its padding; empty for [`ServiceName::NONE`].
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        self.0.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
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
    fn service_names_are_plain_and_end_in_padding() {
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
