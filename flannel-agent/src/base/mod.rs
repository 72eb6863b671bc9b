//! What all else stands on.

pub(crate) mod causes;
mod checksum;
mod clock;
pub mod counters;
pub(crate) mod excerpt;
pub(crate) mod files;
pub(crate) mod heap;
pub(crate) mod json_fields;
pub mod key;
pub mod logging;
pub mod mac;
pub(crate) mod open_files;
pub mod options;
pub mod redact;
pub mod rfc3339;
pub mod wall;

pub(crate) use checksum::checksum;
pub use clock::{clock, cpu_time};
