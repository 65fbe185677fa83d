//! A client's name: text that mostly needs no memory of its own, because there may be 100,000.

use std::fmt;
use std::ops::Deref;

/// The most bytes of a name that stands in the client itself. With more it has a box.
const SHORT: usize = 22;

/// As long as a `String`, and read like one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientName(Kept);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// Behind its length it is all zero.
    Short {
        bytes: [u8; SHORT],
        length: u8,
    },
    Long(Box<str>),
}

impl ClientName {
    pub fn as_str(&self) -> &str {
        self
    }
}

impl From<&str> for ClientName {
    fn from(name: &str) -> Self {
        let mut bytes = [0; SHORT];
        let Some(short) = bytes.get_mut(..name.len()) else { return Self(Kept::Long(name.into())) };
        short.copy_from_slice(name.as_bytes());
        Self(Kept::Short { bytes, length: name.len() as u8 })
    }
}

impl Deref for ClientName {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Kept::Short { bytes, length } => {
                let text = std::str::from_utf8(&bytes[..usize::from(*length)]);
                text.expect("it was made from text")
            }
            Kept::Long(name) => name,
        }
    }
}

impl PartialEq<str> for ClientName {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for ClientName {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written_and_a_short_one_is_kept_inside() {
        let long = "é".repeat(40);
        for end in (0..=long.len()).filter(|end| long.is_char_boundary(*end)) {
            let name = ClientName::from(&long[..end]);
            assert_eq!(
                (&*name, matches!(name.0, Kept::Short { .. })),
                (&long[..end], end <= SHORT)
            );
            assert_eq!(format!("{name:>50}|{name:?}"), format!("{:>50}|{:?}", &*name, &*name));
        }
        assert_eq!(size_of::<ClientName>(), size_of::<String>());
        assert_ne!(ClientName::from("ab"), ClientName::from("abc"));
    }
}
