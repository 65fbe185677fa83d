//! Keys and ids in text: base64 for keys, hex for ids, decoded straight into their place.
//! Files and their layout are left to the other files here.

use std::fmt;
use std::marker::PhantomData;

use base64ct::{Base64, Encoding};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use zeroize::Zeroizing;

use crate::core::keyring::Secret;

/// 32 secret bytes in base64.
pub(super) struct SecretText(pub(super) Secret<32>);
/// 32 public bytes in base64.
pub(super) struct PublicText(pub(super) [u8; 32]);
/// 16 bytes in hex.
pub(super) struct IdText(pub(super) [u8; 16]);

/// Something that a word of text decodes to.
trait Word: Sized {
    const EXPECTING: &'static str;
    fn decode(text: &str) -> Option<Self>;
}

impl Word for SecretText {
    const EXPECTING: &'static str = "a key: 32 bytes in base64, 44 characters";
    fn decode(text: &str) -> Option<Self> {
        Secret::filled(|bytes| decode32(text, bytes).ok_or(())).ok().map(Self)
    }
}

impl Word for PublicText {
    const EXPECTING: &'static str = SecretText::EXPECTING;
    fn decode(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        decode32(text, &mut bytes).map(|()| Self(bytes))
    }
}

impl Word for IdText {
    const EXPECTING: &'static str = "an id: 32 hex digits";
    fn decode(text: &str) -> Option<Self> {
        id(text).map(Self)
    }
}

/// 16 bytes from 32 lower-case hex digits.
pub(super) fn id(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let written = base16ct::lower::decode(text, &mut bytes).ok()?.len();
    (written == 16).then_some(bytes)
}

/// `bytes` in base64, wiped when dropped.
pub(super) fn base64(bytes: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(Base64::encode_string(bytes))
}

fn decode32(text: &str, bytes: &mut [u8; 32]) -> Option<()> {
    // 44 characters are 33 places; the one byte too many must not come into being.
    let mut room = Zeroizing::new([0; 33]);
    let decoded = Base64::decode(text, room.as_mut_slice()).ok()?;
    (decoded.len() == bytes.len()).then(|| bytes.copy_from_slice(decoded))
}

struct WordVisitor<T>(PhantomData<T>);

impl<T: Word> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    // What was read instead may be most of a secret: it is never repeated.
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::decode(text).ok_or_else(|| E::custom(format_args!("not {}", T::EXPECTING)))
    }
}

macro_rules! deserialize_as_word {
    ($($name:ident)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(WordVisitor(PhantomData))
            }
        }
    )+};
}

deserialize_as_word!(SecretText PublicText IdText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_come_back_from_their_text() {
        let key = [0xfe; 32];
        assert_eq!(PublicText::decode(&base64(&key)).unwrap().0, key);
        assert_eq!(SecretText::decode(&base64(&key)).unwrap().0.expose(), &key);
        assert_eq!(
            id("000102030405060708090a0b0c0d0e0f"),
            Some(std::array::from_fn(|i| u8::try_from(i).unwrap()))
        );
    }

    #[test]
    fn texts_of_another_length_or_alphabet_are_refused() {
        for bad in [
            "",
            "AAAA",
            &Base64::encode_string(&[0; 31]),
            &Base64::encode_string(&[0; 33]),
            &"!".repeat(44),
        ] {
            assert!(PublicText::decode(bad).is_none(), "{bad}");
        }
        for bad in ["", "00", &"0".repeat(34), &"A".repeat(32), &"g".repeat(32)] {
            assert!(id(bad).is_none(), "{bad}");
        }
    }
}
