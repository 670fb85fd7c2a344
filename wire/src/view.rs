//! Header structs over bytes at an offset: the one bounds check of a header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The header at offset `at`; `None` if `bytes` ends before it does.
#[inline(always)]
pub fn header<T>(bytes: &[u8], at: usize) -> Option<&T>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    T::ref_from_prefix(bytes.get(at..)?)
        .ok()
        .map(|(header, _)| header)
}

/// The header at offset `at`, to be changed; `None` if `bytes` ends before it does.
#[inline(always)]
pub fn header_mut<T>(bytes: &mut [u8], at: usize) -> Option<&mut T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned,
{
    T::mut_from_prefix(bytes.get_mut(at..)?)
        .ok()
        .map(|(header, _)| header)
}
