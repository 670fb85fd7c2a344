//! The sum that tells an intact record from a damaged one: of sessions, of identities, of the
//! file's head. Against accidents, not against attackers: the file is its user's alone.

/// Odd, without structure: digits of the golden ratio.
const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

/// Sum of words, in order: a multiply-fold a word, in two chains that take turns, so that one does not
/// wait for the other.
#[inline]
pub(crate) fn sum(words: impl IntoIterator<Item = u64>) -> u32 {
    let (a, b) = words
        .into_iter()
        .fold((PHI, !PHI), |(a, b), word| (b, mix(a, word)));
    let whole = mix(a, b);
    (whole ^ whole >> 32) as u32
}

#[inline(always)]
fn mix(sum: u64, word: u64) -> u64 {
    let product = u128::from((sum ^ word).wrapping_add(PHI)) * u128::from(PHI);
    product as u64 ^ (product >> 64) as u64
}

/// Bytes as words, the last one filled up with zeroes.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any one flipped bit shows, wherever it is.
        #[test]
        fn a_flipped_bit_shows(bytes in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, bit in 0_u8..8) {
            let mut other = bytes.clone();
            other[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_ne!(sum(words(&bytes)), sum(words(&other)));
        }
    }
}
