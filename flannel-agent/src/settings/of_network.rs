//! The settings of one network among several.

use anyhow::Context as _;

use super::config::Config;
use super::error::ConfigError;
use super::networks::{FIX_NAME, Networks, bridge_of, check_name};
use crate::source::remembered::names;

impl Networks {
    /// Those that a command is about: the named ones, or what the daemon served last.
    ///
    /// # Errors
    /// None is named, and nothing says what it served.
    pub(crate) fn known(&self, config: &Config) -> anyhow::Result<Vec<String>> {
        if !self.names.is_empty() {
            return Ok(self.names.clone());
        }
        let served = config.names_file().map(|file| names::read(&file));
        let served = served.transpose()?.flatten();
        let served = served.context(
            "which networks the daemon serves is not written down (--snapshot-dir): name them with --networks",
        )?;
        Ok(served.into_iter().collect())
    }
}

impl Config {
    /// The settings of one of the networks.
    ///
    /// # Errors
    /// The name is none, or no bridge can have the one that `--pod-bridge` makes of it.
    pub(crate) fn of_network(&self, networks: &Networks, name: &str) -> Result<Self, ConfigError> {
        check_name(name).map_err(|why| ConfigError::new("networks", name, why, FIX_NAME))?;
        let mut config = self.clone();
        config.networks = None;
        config.etcd.prefix = format!("{}/{name}", self.etcd.prefix);
        if let Some(remote) = &mut config.remote {
            remote.network = Some(name.to_owned());
        }
        config.subnet_file = networks.subnet_dir.join(format!("{name}.env"));
        config.fast_path.bridge = bridge_of(&self.fast_path.bridge, name)?;
        Ok(config)
    }
}
