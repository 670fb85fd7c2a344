//! A worker's servers, sorted by load: for each scheduler that picks the least of something the
//! trees over its [`Shape`], brought up to date before each pick by the changes of load that
//! workers note ([`Load::changed`]). With one worker a pick is exact; with several it misses what
//! the others picked and did not count yet, at most one session of each.
//!
//! A change that another worker makes in the very moment in which a server is followed for the first
//! time may be missed until that server's next one: a fence on every change would cost more.
//!
//! Each worker keeps its own, so that nothing is shared but the notes. The trees of a scheduler
//! that is gone make room when a new one comes.

use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use shunt_service::changes::Reader;
use shunt_service::{Load, ServerSlot, Servers};

use crate::available_but;
use crate::least::Measure;
use crate::shape::{Leaf, Shape};
use crate::tournament::Tournament;

/// How many servers are tried that turn out not to be available after all.
const TRIES: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sorted {
    reader: Reader,
    trees: Vec<Trees>,
    /// Place of each shape's trees, by the shape's address.
    places: HashMap<usize, usize>,
    /// For each slot where its server was put last.
    routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    trees: u32,
    leaf: u32,
}

/// Where a slot is in no tree.
const NOWHERE: Route = Route {
    trees: u32::MAX,
    leaf: u32::MAX,
};

/// The trees of one shape.
#[derive(Debug)]
pub(crate) struct Trees {
    /// Keeps the shape's address for it, but not what is in it.
    of: Weak<Shape>,
    leaves: Vec<Leaf>,
    measures: &'static [Measure],
    /// One for each measure.
    each: Vec<Tournament>,
    /// Changes were missed.
    stale: bool,
}

impl Trees {
    /// Looks at a server's load again.
    #[inline]
    fn update(&mut self, leaf: u32, slot: ServerSlot, load: &Load) {
        let Some(it) = self.leaves.get(leaf as usize).filter(|l| l.slot == slot) else {
            return;
        };
        for (tree, measure) in self.each.iter_mut().zip(self.measures) {
            tree.set(leaf, it.key(measure, load));
        }
    }

    /// Looks at all servers.
    fn build(&mut self, shape: &Shape, load: &Load) {
        self.leaves = shape.leaves().to_vec();
        self.measures = shape.measures();
        let tree = |m| Tournament::new(self.leaves.iter().map(|l| l.key(m, load)));
        self.each = self.measures.iter().map(tree).collect();
        self.stale = false;
    }

    /// One of the trees, in the order of the shape's measures.
    pub(crate) fn tree(&self, n: usize) -> Option<&Tournament> {
        self.each.get(n)
    }

    /// The place in the list of the server with the least key, if there is any; `Err` where the
    /// list is another than that of the shape.
    pub(crate) fn least(
        &mut self,
        n: usize,
        servers: &Servers,
        load: &Load,
        exclude: Option<ServerSlot>,
    ) -> Result<Option<usize>, OtherList> {
        let mut without = None;
        for _ in 0..TRIES {
            let Some(tree) = self.each.get_mut(n) else {
                return Ok(None);
            };
            let best = match without {
                None => tree.best(),
                Some(leaf) => tree.best_without(leaf),
            };
            let Some(best) = best else { return Ok(None) };
            let leaf = self.leaves.get(best as usize).ok_or(OtherList)?;
            let (place, slot) = (leaf.place as usize, leaf.slot);
            let server = servers.as_slice().get(place).ok_or(OtherList)?;
            if server.id != leaf.id || server.slot != slot {
                return Err(OtherList);
            }
            if available_but(server, load, exclude) {
                return Ok(Some(place));
            }
            if exclude == Some(slot) {
                without = Some(best);
            } else {
                // What made it unavailable is not noted yet.
                self.update(best, slot, load);
            }
        }
        Err(OtherList)
    }
}

/// The servers are others than those of the scheduler, or change too fast: look at them all.
#[derive(Debug)]
pub(crate) struct OtherList;

impl Sorted {
    pub(crate) fn new(load: &Load) -> Self {
        Self {
            reader: load.reader(),
            trees: Vec::new(),
            places: HashMap::new(),
            routes: vec![NOWHERE; load.capacity() as usize],
        }
    }

    /// The trees of a shape, up to date.
    pub(crate) fn trees(&mut self, shape: &Arc<Shape>, load: &Load) -> Option<&mut Trees> {
        let (trees, routes) = (&mut self.trees, &self.routes);
        let all = load.changed(&mut self.reader, |slot| {
            if let Some(route) = routes.get(slot.index())
                && let Some(trees) = trees.get_mut(route.trees as usize)
            {
                trees.update(route.leaf, slot, load);
            }
        });
        if !all {
            trees.iter_mut().for_each(|t| t.stale = true);
        }
        let n = match self.places.get(&address(shape)) {
            Some(n) => *n,
            None => self.make(shape, load),
        };
        if self.trees.get(n)?.stale {
            self.build(n, shape, load);
        }
        self.trees.get_mut(n)
    }

    /// Makes trees for a shape, out of those of the shape before if they are there.
    #[cold]
    fn make(&mut self, shape: &Arc<Shape>, load: &Load) -> usize {
        let before = shape.before();
        let known = before.and_then(|(b, changed)| {
            let n = self.places.remove(&(b.as_ptr() as usize))?;
            Some((n, changed))
        });
        let (n, changed) = match known {
            Some((n, changed)) => (n, Some(changed)),
            None => (self.room(), None),
        };
        self.places.insert(address(shape), n);
        let Some(trees) = self.trees.get_mut(n) else {
            return n;
        };
        trees.of = Arc::downgrade(shape);
        let fits = |t: &Tournament| shape.leaves().len() <= t.room();
        match changed {
            Some(changed) if !trees.stale && trees.each.iter().all(fits) => {
                // Places in the list move without more ado.
                trees.leaves = shape.leaves().to_vec();
                changed.iter().for_each(|leaf| self.enter(n, *leaf, load));
            }
            _ => trees.stale = true,
        }
        n
    }

    /// A place for new trees: of some that are not used any more, or another.
    fn room(&mut self) -> usize {
        if let Some(n) = self.trees.iter().position(|t| t.of.strong_count() == 0) {
            if let Some(gone) = self.trees.get(n) {
                self.places.remove(&(gone.of.as_ptr() as usize));
            }
            return n;
        }
        self.trees.push(Trees {
            of: Weak::new(),
            leaves: Vec::new(),
            measures: &[],
            each: Vec::new(),
            stale: true,
        });
        self.trees.len() - 1
    }

    fn build(&mut self, n: usize, shape: &Shape, load: &Load) {
        // From now on no change is missed, ... Leaves without weight are never picked: their slots
        // may be other servers' by now.
        let followed = || (0..).zip(shape.leaves()).filter(|(_, l)| l.weight > 0);
        for (_, leaf) in followed() {
            load.follow(leaf.slot);
        }
        if let Some(trees) = self.trees.get_mut(n) {
            trees.build(shape, load);
        }
        // ... and those that concern these trees come here.
        for (at, leaf) in followed() {
            self.route(n, at, leaf.slot);
        }
    }

    /// A leaf that is another server's now, or has another weight.
    fn enter(&mut self, n: usize, leaf: u32, load: &Load) {
        let trees = self.trees.get(n);
        let Some(&Leaf { slot, weight, .. }) = trees.and_then(|t| t.leaves.get(leaf as usize))
        else {
            return;
        };
        if weight > 0 {
            load.follow(slot);
            self.route(n, leaf, slot);
        }
        if let Some(trees) = self.trees.get_mut(n) {
            trees.update(leaf, slot, load);
        }
    }

    /// Changes of a slot's server go to this leaf; to trees that had them they are lost.
    fn route(&mut self, n: usize, leaf: u32, slot: ServerSlot) {
        let new = Route {
            trees: n as u32,
            leaf,
        };
        let Some(route) = self.routes.get_mut(slot.index()) else {
            return;
        };
        let old = core::mem::replace(route, new);
        if old.trees != new.trees
            && let Some(other) = self.trees.get_mut(old.trees as usize)
            && other
                .leaves
                .get(old.leaf as usize)
                .is_some_and(|l| l.slot == slot)
        {
            other.stale = true;
        }
    }
}

fn address(shape: &Arc<Shape>) -> usize {
    Arc::as_ptr(shape) as usize
}
