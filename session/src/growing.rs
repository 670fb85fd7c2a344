//! Lists that grow without moving what is in them, in memory that another thread provides before it is
//! needed: no packet waits for a long table that is copied, nor for the system to find a page.
#![allow(
    unsafe_code,
    reason = "memory of local ports, see ARCHITECTURE section 1"
)]

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::memory::{Memory, PIECE};

/// Bytes that are provided beyond what is used, rounded up to a huge page: ports toward thousands of
/// servers that were not there before. Each worker has three lists.
const AHEAD: usize = 1 << 20;

/// The memory of a list, of its owner and of whoever provides for it.
#[derive(Debug)]
struct Part {
    memory: Memory,
    /// Bytes that the list takes.
    used: AtomicUsize,
    /// Bytes that were provided.
    provided: AtomicUsize,
}

impl Part {
    fn provide(&self) {
        let wanted = (self.used.load(Ordering::Relaxed) + AHEAD).next_multiple_of(PIECE);
        let wanted = wanted.min(self.memory.bytes());
        let from = self.provided.load(Ordering::Relaxed);
        // Memory without a file cannot fail but by having none, which the first touch would tell.
        if wanted > from && self.memory.provide(from, wanted - from).is_ok() {
            self.provided.store(wanted, Ordering::Relaxed);
        }
    }
}

/// The memory of some lists, for the thread that provides it.
#[derive(Clone, Debug, Default)]
pub struct Provider(Vec<Arc<Part>>);

impl Provider {
    /// Sees to it that the lists have memory for what comes next. To be called now and then, by one
    /// thread.
    pub fn provide(&self) {
        self.0.iter().for_each(|part| part.provide());
    }

    pub(crate) fn of<const N: usize>(providers: [Self; N]) -> Self {
        Self(providers.into_iter().flat_map(|p| p.0).collect())
    }
}

/// A list of at most so many values. Address space is reserved for all of them, memory is used as
/// they come.
#[derive(Debug)]
pub(crate) struct Growing<T> {
    first: NonNull<T>,
    len: u32,
    most: u32,
    /// `None` where there was no address space.
    part: Option<Arc<Part>>,
    values: PhantomData<T>,
}

// SAFETY: the values are this list's alone, as in a `Vec`; `Part` is used by others for its numbers
// alone.
unsafe impl<T: Send> Send for Growing<T> {}
// SAFETY: as above; `&Growing` gives `&T` alone.
unsafe impl<T: Sync> Sync for Growing<T> {}

impl<T> Growing<T> {
    /// An empty list for `most` values; for fewer where the system has not so many addresses.
    pub(crate) fn new(most: u32) -> Self {
        const { assert!(!core::mem::needs_drop::<T>() && align_of::<T>() <= 4096) };
        let mut most = if cfg!(miri) { most.min(1 << 10) } else { most };
        while most > 0 {
            if let Ok(memory) = Memory::anonymous(most as usize * size_of::<T>()) {
                let (used, provided) = (AtomicUsize::new(0), AtomicUsize::new(0));
                return Self {
                    first: memory.base().cast(),
                    len: 0,
                    most,
                    part: Some(Arc::new(Part {
                        memory,
                        used,
                        provided,
                    })),
                    values: PhantomData,
                };
            }
            most /= 2;
        }
        Self {
            first: NonNull::dangling(),
            len: 0,
            most: 0,
            part: None,
            values: PhantomData,
        }
    }

    pub(crate) fn provider(&self) -> Provider {
        Provider(self.part.iter().cloned().collect())
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Adds a value; returns its number, or `None` if there is no room.
    pub(crate) fn push(&mut self, value: T) -> Option<u32> {
        let (n, part) = (self.len, self.part.as_ref()?);
        if n == self.most {
            return None;
        }
        // SAFETY: the place lies in the mapping, which has room for `most` values, is aligned to a page
        // and is this list's alone.
        unsafe { self.first.add(n as usize).write(value) };
        self.len = n + 1;
        let used = self.len as usize * size_of::<T>();
        part.used.store(used, Ordering::Relaxed);
        Some(n)
    }

    #[inline(always)]
    pub(crate) fn get(&self, n: u32) -> Option<&T> {
        // SAFETY: values below `len` were written; `&self` keeps `get_mut` and `push` away.
        (n < self.len).then(|| unsafe { self.first.add(n as usize).as_ref() })
    }

    #[inline(always)]
    pub(crate) fn get_mut(&mut self, n: u32) -> Option<&mut T> {
        // SAFETY: as above; `&mut self` makes it the only reference.
        (n < self.len).then(|| unsafe { self.first.add(n as usize).as_mut() })
    }

    /// Fetches a value into the cache, its first line; any number will do.
    #[inline(always)]
    pub(crate) fn prefetch(&self, n: u32) {
        crate::prefetch::read(self.first.as_ptr().wrapping_add(n as usize).cast());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_are() {
        let mut list = Growing::new(5000);
        let most = if cfg!(miri) { 1 << 10 } else { 5000 };
        let provider = list.provider();
        for n in 0..most {
            assert_eq!(list.get(n), None);
            assert_eq!(list.push([n; 4]), Some(n));
            if n % 100 == 0 {
                provider.provide();
            }
        }
        assert_eq!(list.push([0; 4]), None, "it is full");
        let first: *const [u32; 4] = list.get(0).unwrap();
        list.get_mut(7).unwrap()[1] = 1;
        assert_eq!(first, core::ptr::from_ref(list.get(0).unwrap()));
        assert_eq!(list.get(7), Some(&[7, 1, 7, 7]));
        assert_eq!(list.len(), most);
    }
}
