//! Keys and ids as text: base64 for keys, hex for ids.
//! Secrets are decoded in place, without a copy.

use std::fmt;
use std::marker::PhantomData;

use base64ct::{Base64, Encoding};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use zeroize::Zeroizing;

use crate::core::keyring::Secret;
use crate::core::types::{ClientId, GatewayId, RealmId};

/// 32 public bytes in base64.
pub(super) struct PublicText(pub(super) [u8; 32]);

trait DecodeText: Sized {
    const EXPECTING: &'static str;
    fn decode(text: &str) -> Option<Self>;
}

impl DecodeText for Secret<32> {
    const EXPECTING: &'static str = "a key: 32 bytes in base64, 44 characters";
    fn decode(text: &str) -> Option<Self> {
        Secret::filled(|bytes| decode32(text, bytes).ok_or(())).ok()
    }
}

impl DecodeText for PublicText {
    const EXPECTING: &'static str = Secret::EXPECTING;
    fn decode(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        decode32(text, &mut bytes)?;
        Some(Self(bytes))
    }
}

/// 16 bytes from 32 lower-case hex digits.
pub(super) fn id(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let decoded = base16ct::lower::decode(text, &mut bytes).ok()?;
    if decoded.len() == 16 { Some(bytes) } else { None }
}

/// Appends `name = "KEY"` with the key in base64. `text` must have room: a string that grows leaves
/// copies of secrets behind.
pub(super) fn push_key(text: &mut String, name: &str, key: &[u8; 32]) {
    let encoded = Zeroizing::new(Base64::encode_string(key));
    for part in [name, " = \"", encoded.as_str(), "\"\n"] {
        text.push_str(part);
    }
}

fn decode32(text: &str, bytes: &mut [u8; 32]) -> Option<()> {
    // 44 characters can decode to 33 bytes.
    let mut buffer = Zeroizing::new([0; 33]);
    let decoded = Base64::decode(text, buffer.as_mut_slice()).ok()?;
    if decoded.len() != bytes.len() {
        return None;
    }
    bytes.copy_from_slice(decoded);
    Some(())
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: DecodeText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    // The message never contains the text: it may be most of a secret.
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::decode(text).ok_or_else(|| E::custom(format_args!("not {}", T::EXPECTING)))
    }
}

macro_rules! deserialize_from_text {
    ($($name:ty),+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }
    )+};
}

macro_rules! ids_from_text {
    ($($name:ident),+) => {$(
        impl DecodeText for $name {
            const EXPECTING: &'static str = "an id: 32 hex digits";
            fn decode(text: &str) -> Option<Self> {
                id(text).map(Self)
            }
        }
    )+};
}

ids_from_text!(ClientId, GatewayId, RealmId);
deserialize_from_text!(Secret<32>, PublicText, ClientId, GatewayId, RealmId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_decode_to_what_was_encoded() {
        let key = [0xfe; 32];
        assert_eq!(PublicText::decode(&Base64::encode_string(&key)).unwrap().0, key);
        assert_eq!(Secret::decode(&Base64::encode_string(&key)).unwrap().expose(), &key);
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
