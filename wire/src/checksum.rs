//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A ones'-complement sum of differences, ready to be added to a checksum field: what changes when
/// some 16-bit words of the covered data are replaced. Kept in a session entry, one per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);
}
