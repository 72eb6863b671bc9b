//! What the operator said, as values that can be used.

mod secrets;

pub use secrets::Secrets;
