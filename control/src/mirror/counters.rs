//! What the mirror thread counts. One writer, readable by anyone at any time.

use shunt_dataplane::counters::Counter;

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the mirror thread, over all interfaces.
        #[derive(Debug, Default)]
        pub struct MirrorCounters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl MirrorCounters {
            /// Every counter with its name.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

tallies! {
    /// Frames handed to the kernel.
    up,
    /// Frames for the kernel dropped: it refused them (interface down, no memory).
    up_refused,
    /// Frames for the kernel dropped: their interface has no kernel side, or it was deleted.
    up_no_interface,
    /// Frames for the kernel dropped: in several segments.
    up_segments,
    /// Frames from the kernel handed to a worker.
    down,
    /// Frames from the kernel dropped: longer than a buffer.
    down_too_long,
    /// Times that the queue to a worker was full; the frames wait in the kernel.
    down_stalled_ring,
    /// Times that there was no buffer; the frames wait in the kernel.
    down_stalled_pool,
}
