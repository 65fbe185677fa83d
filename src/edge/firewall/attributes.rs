//! Netlink messages and attributes as bytes: written, and read without a copy. All integers of
//! netfilter are big endian, those of netlink's own headers are the machine's.

use crate::core::bytes::saturated_u16;

/// Bytes of netlink's header and netfilter's behind it.
pub(in crate::edge) const HEADER: usize = 20;
/// The flag of an attribute that contains attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are not flags.
const KIND: u16 = 0x3fff;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::edge) struct Attributes(Vec<u8>);

impl Attributes {
    pub(in crate::edge) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = saturated_u16(4 + value.len());
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(in crate::edge) fn nest(self, kind: u16, inner: &Attributes) -> Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// A text with its NUL.
    pub(in crate::edge) fn text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    pub(in crate::edge) fn u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(in crate::edge) fn u64(self, kind: u16, value: u64) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(in crate::edge) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::edge) fn len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) struct Attribute<'a> {
    pub(in crate::edge) kind: u16,
    pub(in crate::edge) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The text up to its NUL; empty if it is not UTF-8.
    pub(in crate::edge) fn text(&self) -> &'a str {
        let text = self.value.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    pub(in crate::edge) fn u16(&self) -> Option<u16> {
        self.value.try_into().ok().map(u16::from_be_bytes)
    }

    pub(in crate::edge) fn u32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    pub(in crate::edge) fn u64(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }
}

/// The attributes in `bytes`, up to the first with a wrong length.
pub(in crate::edge) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & KIND;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

/// The number in the first attribute of this kind.
pub(in crate::edge) fn u32_of(bytes: &[u8], kind: u16) -> Option<u32> {
    attribute(bytes, kind)?.u32()
}

/// The first attribute of this kind.
pub(in crate::edge) fn attribute(bytes: &[u8], kind: u16) -> Option<Attribute<'_>> {
    attributes(bytes).find(|attribute| attribute.kind == kind)
}

pub(in crate::edge) struct Received<'a> {
    pub(in crate::edge) kind: u16,
    pub(in crate::edge) flags: u16,
    pub(in crate::edge) sequence: u32,
    /// The netlink port of its author.
    pub(in crate::edge) port: u32,
    payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// Everything behind netlink's own header.
    pub(in crate::edge) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The address family in netfilter's header.
    pub(in crate::edge) fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or_default()
    }

    /// The attributes behind netfilter's header.
    pub(in crate::edge) fn body(&self) -> &'a [u8] {
        self.payload.get(4..).unwrap_or_default()
    }

    /// The code of an acknowledgement or of the end of a dump: 0, or a negative error number.
    pub(in crate::edge) fn code(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code))
    }
}

/// Splits a datagram into its messages; stops at the first wrong length.
pub(in crate::edge) fn split(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let number = |at: usize| Some(u32::from_ne_bytes(*rest.get(at..)?.first_chunk()?));
        let length = usize::try_from(number(0)?).ok()?;
        let payload = rest.get(16..length)?;
        let message = Received {
            kind: u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*rest.get(6..)?.first_chunk()?),
            sequence: number(8)?,
            port: number(12)?,
            payload,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_as_they_were_written() {
        let inner = Attributes::default().u64(4, 7).text(5, "guard");
        let written = Attributes::default().put(1, &[9]).nest(2, &inner).u32(3, 0x0102_0304);
        let read: Vec<Attribute<'_>> = attributes(written.bytes()).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((read[0].kind, read[0].value), (1, &[9][..]));
        assert_eq!((read[1].kind, read[2].u32()), (2, Some(0x0102_0304)));
        assert_eq!(attribute(read[1].value, 4).and_then(|one| one.u64()), Some(7));
        assert_eq!(attribute(read[1].value, 5).map(|one| one.text()), Some("guard"));
        assert_eq!(read[0].u32(), None, "a byte is no number of four");
    }

    #[test]
    fn an_attribute_with_a_lying_length_ends_the_list() {
        let mut bytes = Attributes::default().u32(1, 1).u32(2, 2).bytes().to_vec();
        for (length, expected) in [(0_u16, 1), (3, 1), (9, 1), (u16::MAX, 1), (4, 2), (8, 2)] {
            bytes[8..10].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), expected, "{length}");
        }
        assert_eq!(attributes(&[1, 2, 3]).count(), 0);
    }
}
