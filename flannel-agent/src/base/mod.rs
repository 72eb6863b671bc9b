//! What all else stands on.

mod checksum;
mod clock;
pub mod counters;
pub mod options;

pub(crate) use checksum::checksum;
pub use clock::clock;
