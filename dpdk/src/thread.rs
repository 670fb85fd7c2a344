//! Threads of ours, registered with EAL so that they have caches of their own in every pool.

use std::marker::PhantomData;

/// Registration of the calling thread; ends on drop. Stays on its thread.
#[derive(Debug)]
pub struct EalThread {
    _not_send: PhantomData<*const ()>,
}

impl EalThread {
    /// EAL's number for this thread.
    pub fn lcore(&self) -> u32 {
        unimplemented!()
    }
}
