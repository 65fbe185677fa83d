//! A bounded reader and writer of bytes. All untrusted bytes are read through it.
//! The reader never panics; a short read is `None`.

/// Reads big-endian fields from the front of a slice. `None` once the bytes run out.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A field of SSH: 4 bytes of length, then that many bytes.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// One byte, which must be 0 or 1.
    pub fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// The next `n` bytes, which must all be zero: reserved fields and padding.
    pub fn zeros(&mut self, n: usize) -> Option<&mut Self> {
        if self.take(n)?.iter().all(|byte| *byte == 0) { Some(self) } else { None }
    }

    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// `None` if bytes are left. Call it last.
    pub fn finish(self) -> Option<()> {
        if self.rest.is_empty() { Some(()) } else { None }
    }
}

/// Fills a fixed array from the front, big-endian. Writing past the end panics: it is a bug.
pub struct Writer<const N: usize> {
    buffer: [u8; N],
    at: usize,
}

impl<const N: usize> Default for Writer<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Writer<N> {
    pub fn new() -> Self {
        Self { buffer: [0; N], at: 0 }
    }

    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.at + bytes.len();
        self.buffer[self.at..end].copy_from_slice(bytes);
        self.at = end;
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Leaves `n` bytes zero.
    pub fn zeros(&mut self, n: usize) -> &mut Self {
        self.at += n;
        self
    }

    /// The filled array. Panics if not exactly `N` bytes were written: then the layout is wrong.
    pub fn done(&self) -> [u8; N] {
        assert_eq!(self.at, N, "a fixed layout must be filled exactly");
        self.buffer
    }
}

/// The number, or the largest that fits; likewise below.
pub fn saturated_u8(number: impl TryInto<u8>) -> u8 {
    number.try_into().unwrap_or(u8::MAX)
}

/// The number, or the largest that fits.
pub fn saturated_u16(number: impl TryInto<u16>) -> u16 {
    number.try_into().unwrap_or(u16::MAX)
}

/// The number, or the largest that fits.
pub fn saturated_u32(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// The number, or the largest that fits.
pub fn saturated_u64(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

/// The number, or the largest that fits.
pub fn saturated_i64(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_returns_fields_in_order_and_none_past_the_end() {
        let mut reader = Reader::new(&[1, 0, 2, 0, 0, 0, 3, 9]);
        assert_eq!(reader.u8(), Some(1));
        assert_eq!(reader.u16(), Some(2));
        assert_eq!(reader.u32(), Some(3));
        assert_eq!(reader.u16(), None);
        assert_eq!(reader.rest(), &[9]);
        assert_eq!(reader.finish(), None);
    }

    #[test]
    fn a_flag_is_0_or_1() {
        let mut reader = Reader::new(&[0, 1, 2]);
        assert_eq!([reader.flag(), reader.flag(), reader.flag()], [Some(false), Some(true), None]);
    }

    #[test]
    fn zeros_refuses_a_single_set_bit() {
        assert!(Reader::new(&[0, 0, 0]).zeros(3).is_some());
        assert!(Reader::new(&[0, 4, 0]).zeros(3).is_none());
        assert!(Reader::new(&[0, 0]).zeros(3).is_none());
    }

    #[test]
    fn a_writer_fills_its_layout_exactly() {
        assert_eq!(Writer::<4>::new().u8(7).zeros(1).u16(0x0102).done(), [7, 0, 1, 2]);
    }

    #[test]
    #[should_panic(expected = "filled exactly")]
    fn a_layout_that_is_not_filled_panics() {
        Writer::<4>::new().u8(7).done();
    }
}
