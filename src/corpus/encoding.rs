//! The encoding that a text names by its first bytes, the byte order mark.

/// The mark of UTF-8, which Windows writes.
pub(super) const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The encoding that the first bytes of a text name.
pub(super) enum Encoding {
    Utf8,
    /// In the order of bytes that this reads.
    Utf16(fn([u8; 2]) -> u16),
}

impl Encoding {
    pub(super) fn of(bytes: &[u8]) -> Option<Encoding> {
        match bytes {
            [0xef, 0xbb, 0xbf, ..] => Some(Encoding::Utf8),
            [0xff, 0xfe, ..] => Some(Encoding::Utf16(u16::from_le_bytes)),
            [0xfe, 0xff, ..] => Some(Encoding::Utf16(u16::from_be_bytes)),
            _ => None,
        }
    }
}
