//! Successor search over weights: the next server of at least some weight, in time that grows
//! with the logarithm of the number of servers.

/// Largest weight of every aligned power-of-two range of servers. Node 1 is the root, node `i`
/// has the children `2 i` and `2 i + 1`, and the leaves start at `leaves`.
#[derive(Debug)]
pub(crate) struct WeightTree {
    nodes: Box<[u16]>,
    leaves: usize,
}

impl WeightTree {
    pub(crate) fn new(weights: impl ExactSizeIterator<Item = u16>) -> Self {
        let leaves = weights.len().next_power_of_two();
        let zeros = |n| core::iter::repeat_n(0, n);
        let padding = zeros(leaves - weights.len());
        let nodes = zeros(leaves).chain(weights).chain(padding).collect();
        let mut tree = Self { nodes, leaves };
        for n in (1..leaves).rev() {
            let largest = tree.node(2 * n).max(tree.node(2 * n + 1));
            if let Some(node) = tree.nodes.get_mut(n) {
                *node = largest;
            }
        }
        tree
    }

    fn node(&self, n: usize) -> u16 {
        self.nodes.get(n).copied().unwrap_or(0)
    }

    /// Weight at a place, 0 beyond the end.
    pub(crate) fn weight(&self, place: usize) -> u16 {
        self.nodes
            .get(self.leaves.saturating_add(place))
            .copied()
            .unwrap_or(0)
    }

    /// The first place from `from` on with at least `weight` (not 0).
    pub(crate) fn next_at_least(&self, from: usize, weight: u16) -> Option<usize> {
        if from >= self.leaves {
            return None;
        }
        let mut node = self.leaves + from;
        // Up until a range that begins at or after `from` holds such a weight, ...
        while self.node(node) < weight {
            // A right child ends where its parent ends: what follows is the parent's neighbour.
            while node & 1 == 1 {
                node >>= 1;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        // ... and down to its first.
        while node < self.leaves {
            node *= 2;
            if self.node(node) < weight {
                node += 1;
            }
        }
        Some(node - self.leaves)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_walk_finds(
            weights in prop::collection::vec(0u16..6, 0..40),
            from in 0usize..45,
            least in 1u16..7,
        ) {
            let tree = WeightTree::new(weights.iter().copied());
            let walked = (from..weights.len()).find(|i| weights[*i] >= least);
            prop_assert_eq!(tree.next_at_least(from, least), walked);
            prop_assert_eq!(tree.weight(from), weights.get(from).copied().unwrap_or(0));
        }
    }
}
