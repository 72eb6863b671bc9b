//! What is wrong with a value.

use thiserror::Error;

/// A flag whose value cannot be used.
#[derive(Debug, Error)]
#[error("--{flag}={value}: {problem}; {fix}")]
pub struct ConfigError {
    pub flag: &'static str,
    pub value: String,
    pub problem: String,
    pub fix: &'static str,
}

impl ConfigError {
    pub(super) fn new(
        flag: &'static str,
        value: impl Into<String>,
        problem: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self {
            flag,
            value: value.into(),
            problem: problem.into(),
            fix,
        }
    }
}
