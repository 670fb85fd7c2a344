//! The list that a scheduler was built for, and what becomes of a place in it when the list
//! changes. Shared by the schedulers that have a cursor.

use hashbrown::HashMap;
use shunt_service::{ServerId, Servers};

/// The place before the first server: nothing was picked since the list was walked from its head.
pub(crate) const HEAD: u32 = u32::MAX;

/// Identities of the servers, newest first. At most `HEAD` of them count.
#[derive(Debug)]
pub(crate) struct Order(Box<[ServerId]>);

impl Order {
    pub(crate) fn of(servers: &Servers) -> Self {
        Self(servers.iter().map(|s| s.id).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ServerId> {
        self.0.iter().copied()
    }

    /// Where a cursor that stood at `position` of `previous` stands in this list. As in the
    /// kernel it stays with its server; if that one is gone it moves to the nearest one before it
    /// that is still there, so that the next pick is the one that would have followed.
    pub(crate) fn carry(&self, previous: &Self, position: u32) -> u32 {
        if self.0 == previous.0 || position == HEAD {
            return position;
        }
        let places: HashMap<ServerId, u32> = self.0.iter().copied().zip(0..HEAD).collect();
        let walked = previous.0.get(..=position as usize).unwrap_or(&previous.0);
        walked
            .iter()
            .rev()
            .find_map(|id| places.get(id))
            .copied()
            .unwrap_or(HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(ids: &[u32]) -> Order {
        Order(ids.iter().map(|id| ServerId(*id)).collect())
    }

    #[test]
    fn a_cursor_stays_with_its_server_or_the_one_before() {
        let old = order(&[5, 4, 3, 2, 1]);
        assert_eq!(
            order(&[6, 5, 4, 3, 2, 1]).carry(&old, 1),
            2,
            "a new one at the head"
        );
        assert_eq!(
            order(&[5, 3, 2, 1]).carry(&old, 1),
            0,
            "its own server gone"
        );
        assert_eq!(order(&[3, 2, 1]).carry(&old, 1), HEAD, "all before it gone");
        assert_eq!(order(&[]).carry(&old, 4), HEAD);
        assert_eq!(order(&[7]).carry(&old, HEAD), HEAD);
    }
}
