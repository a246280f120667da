//! The bytes of stored records and messages: variable-length integers and length-prefixed bytes.
//!
//! Formats built on this begin with a version byte of their own. A reader never panics and never allocates more than
//! the bytes it was given: a wrong length is an error.

use crate::Timestamp;

/// Bytes that do not hold what they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged at byte {at}: {what}")]
pub struct Damaged {
    /// How many bytes were read before.
    pub at: usize,
    /// What was expected there.
    pub what: &'static str,
}

/// Appends values to a buffer.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    /// An unsigned integer, seven bits a byte, low first.
    pub fn uint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }

    /// A length or an index.
    pub fn size(&mut self, value: usize) {
        self.uint(u64::try_from(value).unwrap_or(u64::MAX));
    }

    /// A signed integer, zigzag.
    pub fn int(&mut self, value: i64) {
        self.uint((value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
    }

    /// An instant.
    pub fn instant(&mut self, value: Timestamp) {
        self.int(value.as_millis());
    }

    /// A yes or no.
    pub fn flag(&mut self, value: bool) {
        self.byte(u8::from(value));
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self, value: &[u8]) {
        self.size(value.len());
        self.0.extend_from_slice(value);
    }

    /// A text with its length before it.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// Bytes as they are: the reader knows how many.
    pub fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes values from the front of a slice, in the order they were written.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the first byte of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The error that something else than `what` stands here.
    #[must_use]
    pub const fn damaged(&self, what: &'static str) -> Damaged {
        Damaged { at: self.at, what }
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end.
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let value = self
            .bytes
            .get(self.at)
            .copied()
            .ok_or_else(|| self.damaged("a byte"))?;
        self.at += 1;
        Ok(value)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// At the end, or when it has more than 64 bits.
    pub fn uint(&mut self) -> Result<u64, Damaged> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged("an integer of at most 64 bits"))
    }

    /// A length or an index.
    ///
    /// # Errors
    /// As [`Reader::uint`], or when it does not fit.
    pub fn size(&mut self) -> Result<usize, Damaged> {
        usize::try_from(self.uint()?).map_err(|_| self.damaged("a size"))
    }

    /// An unsigned integer of 32 bits.
    ///
    /// # Errors
    /// As [`Reader::uint`], or when it does not fit.
    pub fn uint32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.uint()?).map_err(|_| self.damaged("an integer of 32 bits"))
    }

    /// A signed integer.
    ///
    /// # Errors
    /// As [`Reader::uint`].
    pub fn int(&mut self) -> Result<i64, Damaged> {
        let bits = self.uint()?;
        Ok((bits >> 1).cast_signed() ^ -((bits & 1).cast_signed()))
    }

    /// An instant.
    ///
    /// # Errors
    /// As [`Reader::uint`].
    pub fn instant(&mut self) -> Result<Timestamp, Damaged> {
        self.int().map(Timestamp::from_millis)
    }

    /// A yes or no.
    ///
    /// # Errors
    /// At the end, or for any other byte than 0 and 1.
    pub fn flag(&mut self) -> Result<bool, Damaged> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged("0 or 1")),
        }
    }

    /// Bytes with their length before them.
    ///
    /// # Errors
    /// When fewer are left than the length says.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.size()?;
        self.raw(length)
    }

    /// A text with its length before it.
    ///
    /// # Errors
    /// As [`Reader::bytes`], or when it is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        let before = *self;
        std::str::from_utf8(self.bytes()?).map_err(|_| before.damaged("a text in UTF-8"))
    }

    /// The next `length` bytes as they are.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.damaged("more bytes"))?;
        let value = &self.bytes[self.at..end];
        self.at = end;
        Ok(value)
    }

    /// An array of known length.
    ///
    /// # Errors
    /// When fewer bytes are left.
    pub fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Damaged> {
        let before = *self;
        self.raw(LENGTH)?
            .try_into()
            .map_err(|_| before.damaged("more bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(unsigned: u64, signed: i64, text: String, yes: bool, id: [u8; 16]) {
            let mut writer = Writer::default();
            writer.uint(unsigned);
            writer.int(signed);
            writer.text(&text);
            writer.flag(yes);
            writer.raw(&id);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.uint(), Ok(unsigned));
            prop_assert_eq!(reader.int(), Ok(signed));
            prop_assert_eq!(reader.text(), Ok(text.as_str()));
            prop_assert_eq!(reader.flag(), Ok(yes));
            prop_assert_eq!(reader.array(), Ok(id));
            prop_assert!(reader.is_at_end());
        }

        #[test]
        fn damaged_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while !reader.is_at_end() {
                if reader.text().is_err() && reader.byte().is_err() {
                    break;
                }
            }
        }
    }
}
