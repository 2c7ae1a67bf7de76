//! The pages of a column of a parquet file: their headers say how much they unpack to, which a reader takes from memory before
//! it looks at the data.
//!
//! A page is a `PageHeader` in Thrift's compact protocol and its data
//! (<https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>,
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).

/// The most bytes that a byte of a page may unpack to: Snappy makes 21 of one.
const MOST_GROWTH: u64 = 32;
/// Bytes that a page may unpack to in any case.
const SMALL: u64 = 1 << 16;
/// The deepest nesting of a header.
const DEEPEST: usize = 16;

/// Returns the sizes of the first page that claims more than it can hold: its bytes, and those that it claims. Headers that
/// cannot be read are left to the reader.
pub(super) fn lying_page(mut column: &[u8]) -> Option<[u64; 2]> {
    while !column.is_empty() {
        let mut header = Thrift(column);
        let [unpacked, packed] = header.page_sizes()?;
        if unpacked > packed.saturating_mul(MOST_GROWTH).saturating_add(SMALL) {
            return Some([packed, unpacked]);
        }
        column = header.0.get(usize::try_from(packed).ok()?..)?;
    }
    None
}

/// Bytes in Thrift's compact protocol.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    /// Reads a header. Returns its second and third field: the sizes of the page, unpacked and as it is.
    fn page_sizes(&mut self) -> Option<[u64; 2]> {
        let mut sizes = [None; 2];
        let mut field = 0;
        while let Some(kind) = self.field(&mut field)? {
            match field {
                2 | 3 if kind == 5 => sizes[field as usize - 2] = u64::try_from(self.zigzag()?).ok(),
                _ => self.skip(kind, DEEPEST)?,
            }
        }
        Some([sizes[0]?, sizes[1]?])
    }

    /// Reads a field's type; `None` inside at the end of the struct.
    fn field(&mut self, field: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        match (byte >> 4, byte & 15) {
            (_, 0) => return Some(None),
            (0, _) => *field = self.zigzag()?,
            (delta, _) => *field += i64::from(delta),
        }
        Some(Some(byte & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => Some(()),
            3 => self.take(1),
            4..=6 => self.varint().map(drop),
            7 => self.take(8),
            8 => {
                let len = self.varint()?;
                self.take(len)
            }
            9 | 10 => {
                let byte = self.byte()?;
                let len = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                // A flag in a list is a byte; as a field it is in the type.
                let kind = if matches!(byte & 15, 1 | 2) { 3 } else { byte & 15 };
                (0..len).try_for_each(|_| self.skip(kind, depth))
            }
            12 => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, len: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(len).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page: type 0, the sizes, an inner struct with a list and a text, and `packed` bytes of data.
    fn page(unpacked: u64, packed: u64) -> Vec<u8> {
        let mut bytes = vec![0x15, 0];
        for size in [unpacked, packed] {
            bytes.push(0x15);
            let mut rest = size << 1;
            while rest > 127 {
                bytes.push(rest as u8 | 128);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        bytes.extend([0x2C, 0x19, 0x23, 7, 7, 0x18, 2, b'a', b'b', 0, 0]);
        bytes.extend(vec![0xAB; packed as usize]);
        bytes
    }

    #[test]
    fn pages_that_claim_too_much_are_found() {
        assert_eq!(lying_page(&[]), None);
        assert_eq!(lying_page(&[page(100, 90), page(SMALL, 0), page(3000, 100)].concat()), None);
        let lie = [page(100, 90), page(2_000_000_000, 100)].concat();
        assert_eq!(lying_page(&lie), Some([100, 2_000_000_000]));
    }

    #[test]
    fn damaged_headers_end_the_search() {
        let whole = page(2_000_000_000, 10);
        assert_eq!(lying_page(&whole), Some([10, 2_000_000_000]));
        for end in 0..whole.len() - 10 {
            assert_eq!(lying_page(&whole[..end]), None, "{end}");
        }
        assert_eq!(lying_page(&[0x19, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]), None);
        assert_eq!(lying_page(&[0xCC; 64]), None);
    }
}
