//! What the operator said: every flag, and the values that can be used.

pub mod config;
mod error;
pub mod flags;
mod networks;
mod of_network;
pub mod remote;
mod secrets;
pub mod shown;
mod snat;
mod tables;
mod values;

pub use config::Config;
pub use error::ConfigError;
pub use networks::Networks;
pub use secrets::Secrets;
