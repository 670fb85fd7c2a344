//! What can go wrong, in words that say what to do.

/// The environment could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EalError {
    /// Once a process.
    #[error("DPDK is initialised already: it can be only once a process")]
    AlreadyInitialised,
}

/// Packet memory could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Too little memory.
    #[error("no memory")]
    NoMemory,
}

/// A device could not be found, made, configured or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not there.
    #[error("no such device: {device}")]
    NoSuchDevice {
        /// The device as configured.
        device: String,
    },
}
