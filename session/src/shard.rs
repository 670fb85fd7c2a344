//! Shards: every session belongs to one of 128, by a Toeplitz hash of the client's address and
//! port, so that a NIC that takes a key and hashes the same fields steers as we do (ARCHITECTURE
//! section 6).

use core::net::IpAddr;

/// Bytes of a Toeplitz key that IPv6 source address and port need: 18 of input and 4.
pub const KEY_LEN: usize = 40;

/// Key without structure (digits of pi); a session file keeps the key it was made with.
pub const DEFAULT_KEY: [u8; KEY_LEN] = [
    0x24, 0x3f, 0x6a, 0x88, 0x85, 0xa3, 0x08, 0xd3, 0x13, 0x19, 0x8a, 0x2e, 0x03, 0x70, 0x73, 0x44,
    0xa4, 0x09, 0x38, 0x22, 0x29, 0x9f, 0x31, 0xd0, 0x08, 0x2e, 0xfa, 0x98, 0xec, 0x4e, 0x6c, 0x89,
    0x45, 0x28, 0x21, 0xe6, 0x38, 0xd0, 0x13, 0x77,
];

/// The Toeplitz hash (Microsoft, "RSS Hashing Functions"), bit by bit.
pub fn toeplitz(key: &[u8; KEY_LEN], input: &[u8]) -> u32 {
    let mut hash = 0;
    let mut window = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    for (n, byte) in input.iter().enumerate() {
        let next = key.get(n + 4).copied().unwrap_or(0);
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

/// Shards of clients. Holds a table for each byte of the input, so that a hash is a few loads.
#[derive(Clone, Debug)]
pub struct Shards {
    /// Low 7 bits of what each value of each input byte contributes.
    bytes: Box<[[u8; 256]; 18]>,
}

impl Default for Shards {
    fn default() -> Self {
        Self::new(&DEFAULT_KEY)
    }
}

impl Shards {
    /// Shards by a key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let mut bytes = Box::new([[0; 256]; 18]);
        for (n, table) in bytes.iter_mut().enumerate() {
            for (value, low) in (0_u8..=255).zip(table.iter_mut()) {
                let mut input = [0; 18];
                input[n] = value;
                *low = (toeplitz(key, &input) & 127) as u8;
            }
        }
        Self { bytes }
    }

    /// Shard of a client, 0 to 127.
    #[inline(always)]
    pub fn shard(&self, addr: IpAddr, port: u16) -> u8 {
        let mut at = 0;
        let mut shard = 0;
        let mut take = |byte: u8| {
            shard ^= self.bytes[at][usize::from(byte)];
            at += 1;
        };
        match addr {
            // Written out: it is asked for with each new session.
            IpAddr::V4(a) => {
                let [a, b, c, d] = a.octets();
                take(a);
                take(b);
                take(c);
                take(d);
            }
            IpAddr::V6(a) => a.octets().into_iter().for_each(&mut take),
        }
        let [high, low] = port.to_be_bytes();
        take(high);
        take(low);
        shard
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key and vectors of Microsoft's verification suite for RSS: destination address and port
    /// are named first there, but source comes first in the input.
    const MICROSOFT: [u8; KEY_LEN] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn published_vectors() {
        let input = |src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16| {
            let mut i = [src, dst].concat();
            i.extend(sport.to_be_bytes());
            i.extend(dport.to_be_bytes());
            i
        };
        let i = input([66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766);
        assert_eq!(toeplitz(&MICROSOFT, &i), 0x51cc_c178);
        assert_eq!(toeplitz(&MICROSOFT, &i[..8]), 0x323e_8fc2);
        let i = input([199, 92, 111, 2], [65, 69, 140, 83], 14230, 4739);
        assert_eq!(toeplitz(&MICROSOFT, &i), 0xc626_b0ea);
        assert_eq!(toeplitz(&MICROSOFT, &i[..8]), 0xd718_262a);
    }

    proptest! {
        #[test]
        fn tables_equal_the_bitwise_hash(addr: IpAddr, port: u16) {
            let mut input = match addr {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            input.extend(port.to_be_bytes());
            let shard = Shards::default().shard(addr, port);
            prop_assert_eq!(u32::from(shard), toeplitz(&DEFAULT_KEY, &input) & 127);
        }
    }

    #[test]
    fn clients_spread() {
        let shards = Shards::default();
        let mut count = [0_u32; 128];
        for n in 0..128_000_u32 {
            let addr = IpAddr::from(core::net::Ipv4Addr::from(0x0a00_0000 + n / 16));
            count[usize::from(shards.shard(addr, 1024 + (n % 16) as u16 * 7))] += 1;
        }
        assert!(count.iter().all(|c| (600..1400).contains(c)), "{count:?}");
    }
}
