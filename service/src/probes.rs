//! Probe addresses: one for each server in DR and TUN that is checked by its VIP. What the director's own
//! host sends to one goes to the VIP on that very server, as clients' packets do; what the server answers
//! comes back from the probe address. A server's is by its slot, so nothing has to be remembered but which
//! of the host's ports asks whom: [`ProbePorts`].

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::destination::{bits, masked};
use crate::id::ServerSlot;

/// The prefixes that probe addresses are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeAddresses {
    v4: Option<(Ipv4Addr, u8)>,
    v6: Option<(Ipv6Addr, u8)>,
}

impl ProbeAddresses {
    /// Takes a prefix for its family, in the place of one that was there. Bits behind it do not count.
    pub fn set(&mut self, prefix: IpAddr, len: u8) {
        match masked(prefix, len) {
            IpAddr::V4(a) => self.v4 = Some((a, len)),
            IpAddr::V6(a) => self.v6 = Some((a, len)),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    fn prefix(&self, ipv6: bool) -> Option<(IpAddr, u8)> {
        match ipv6 {
            false => self.v4.map(|(a, len)| (a.into(), len)),
            true => self.v6.map(|(a, len)| (a.into(), len)),
        }
    }

    /// How many servers of a family can have one; 0 without a prefix. The first and the last address of the
    /// prefix are left out.
    pub fn room(&self, ipv6: bool) -> u32 {
        let Some((address, len)) = self.prefix(ipv6) else {
            return 0;
        };
        let free = u32::from(bits(address).saturating_sub(len));
        1u32.checked_shl(free)
            .map_or(u32::MAX, |all| all.saturating_sub(2))
    }

    /// The address of the server in a slot.
    pub fn of(&self, slot: ServerSlot, ipv6: bool) -> Option<IpAddr> {
        if slot.0 >= self.room(ipv6) {
            return None;
        }
        Some(match self.prefix(ipv6)?.0 {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() + 1 + slot.0).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() + 1 + u128::from(slot.0)).into(),
        })
    }

    /// The slot of the server that an address stands for.
    pub fn slot(&self, address: IpAddr) -> Option<ServerSlot> {
        let ipv6 = address.is_ipv6();
        let (prefix, len) = self.prefix(ipv6)?;
        if masked(address, len) != prefix {
            return None;
        }
        let number = match (address, prefix) {
            (IpAddr::V4(a), IpAddr::V4(p)) => u128::from(a.to_bits() - p.to_bits()),
            (IpAddr::V6(a), IpAddr::V6(p)) => a.to_bits() - p.to_bits(),
            _ => return None,
        };
        let slot = u32::try_from(number.checked_sub(1)?).ok()?;
        (slot < self.room(ipv6)).then_some(ServerSlot(slot))
    }
}

/// Which server each port of the host asks. Written when a packet to a probe address passes, read when an
/// answer does, by whichever worker has it: the packets themselves order the two.
#[derive(Debug)]
pub struct ProbePorts(Box<[AtomicU32]>);

/// No server.
const NOBODY: u32 = u32::MAX;

impl Default for ProbePorts {
    fn default() -> Self {
        Self((0..=u16::MAX).map(|_| AtomicU32::new(NOBODY)).collect())
    }
}

impl ProbePorts {
    /// The host asks a server by this port.
    pub fn note(&self, port: u16, slot: ServerSlot) {
        if let Some(place) = self.0.get(usize::from(port)) {
            place.store(slot.0, Relaxed);
        }
    }

    /// Whom the host asked by this port last.
    pub fn asked(&self, port: u16) -> Option<ServerSlot> {
        let slot = self.0.get(usize::from(port))?.load(Relaxed);
        (slot != NOBODY).then_some(ServerSlot(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_slots_are_each_others() {
        let mut all = ProbeAddresses::default();
        assert!(all.is_empty());
        assert_eq!(all.of(ServerSlot(0), false), None);
        for (prefix, len, room) in [
            ("198.18.0.0", 24, 254),
            ("198.18.0.4", 30, 2),
            ("198.18.0.4", 32, 0),
            ("0.0.0.0", 0, u32::MAX),
            ("2001:db8::", 120, 254),
            ("2001:db8::", 64, u32::MAX),
            ("2001:db8::1", 128, 0),
        ] {
            let prefix: IpAddr = prefix.parse().expect("an address");
            let v6 = prefix.is_ipv6();
            all.set(prefix, len);
            assert_eq!(all.room(v6), room, "{prefix}/{len}");
            for slot in [0, 1, 2, 100, 253, 254, 1 << 20].map(ServerSlot) {
                let address = all.of(slot, v6);
                assert_eq!(address.is_some(), slot.0 < room);
                if let Some(address) = address {
                    assert_eq!(all.slot(address), Some(slot));
                }
            }
            if room > 0 {
                assert_eq!(all.slot(prefix), None, "the prefix itself");
            }
        }
        all.set([198, 18, 0, 0].into(), 24);
        for none in ["198.18.0.255", "198.18.1.1", "198.17.255.255"] {
            assert_eq!(all.slot(none.parse().expect("an address")), None, "{none}");
        }
    }
}
