//! Kinds of values that several flags have.

use std::path::PathBuf;

use super::error::ConfigError;

/// `IFNAMSIZ` without the terminating zero.
const NAME_MAX: usize = 15;

pub(super) fn bridge(text: &str) -> Result<String, ConfigError> {
    let name = text.trim();
    if name.is_empty() || name.len() > NAME_MAX || name.contains('/') {
        return Err(ConfigError::new(
            "pod-bridge",
            text,
            "no interface name",
            "give the bridge of your CNI configuration, usually cni0",
        ));
    }
    Ok(name.to_owned())
}

pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

pub(super) fn absolute(
    flag: &'static str,
    text: &str,
    fix: &'static str,
) -> Result<PathBuf, ConfigError> {
    path(text)
        .filter(|dir| dir.is_absolute())
        .ok_or_else(|| ConfigError::new(flag, text, "not an absolute path", fix))
}
