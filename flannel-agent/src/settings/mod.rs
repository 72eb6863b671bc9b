//! What the operator said: every flag, and the values that can be used.

pub mod config;
mod error;
pub mod flags;
pub mod remote;
mod secrets;
mod snat;

pub use config::Config;
pub use error::ConfigError;
pub use secrets::Secrets;
