//! What a data packet's payload begins with, so that whoever receives it knows what was lost and how
//! long it took.

/// Bytes of a stamp.
pub const LEN: usize = 24;
const MAGIC: u32 = 0x5348_4e54;

/// A data packet's identity. The time is of the machine's TSC: both ends are on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the client.
    pub flow: u32,
    /// Number of the packet, over all flows.
    pub sequence: u64,
    /// TSC when it was sent.
    pub sent: u64,
}

impl Stamp {
    /// As it stands in a payload.
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.flow.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..].copy_from_slice(&self.sent.to_be_bytes());
        bytes
    }

    /// Reads a payload; `None` if it does not begin with a stamp.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<LEN>()?;
        let word = |at: usize| bytes[at..].first_chunk().map(|b| u32::from_be_bytes(*b));
        let long = |at: usize| bytes[at..].first_chunk().map(|b| u64::from_be_bytes(*b));
        if word(0)? != MAGIC {
            return None;
        }
        Some(Self {
            flow: word(4)?,
            sequence: long(8)?,
            sent: long(16)?,
        })
    }
}
