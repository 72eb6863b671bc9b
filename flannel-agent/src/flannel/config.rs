//! The network configuration at `<prefix>/config`, as flannel writes and validates it.

mod error;
mod parse;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::flannel::backend::Backend;

pub use error::ConfigError;

/// A validated network configuration with every default filled in. Its serialised form is the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    pub network: Ipv4Net,
    pub subnet_len: u8,
    /// First and last subnet that may be leased, both inclusive.
    pub subnet_min: Ipv4Addr,
    pub subnet_max: Ipv4Addr,
    pub backend: Backend,
}

impl NetworkConfig {
    /// Whether another node may have `subnet`, where this one has `own`. A part of that would lead our own pods' packets away (flanneld's
    /// route to it fails, since its gateway is an address of the node).
    ///
    /// # Errors
    /// If not: why.
    pub fn check_peer(&self, subnet: Ipv4Net, own: Ipv4Net) -> Result<(), String> {
        let network = self.network;
        if !network.contains(&subnet) {
            return Err(format!("the subnet is not inside the network {network}"));
        }
        if own.contains(&subnet) {
            return Err(format!("the subnet is a part of this node's own, {own}"));
        }
        Ok(())
    }

    /// Reads the JSON of `<prefix>/config` by the rules flannel applies when its datastore is etcd:
    /// field names in any case, unknown fields ignored.
    ///
    /// # Errors
    /// Names the field, its value and what to write instead.
    pub fn parse(json: &str) -> Result<Self, ConfigError> {
        parse::network_config(json)
    }

    /// The same for whoever hands out subnets of the network: the backend is not looked at.
    ///
    /// # Errors
    /// Names the field, its value and what to write instead.
    pub fn parse_subnets(json: &str) -> Result<Self, ConfigError> {
        parse::subnets(json)
    }

    /// Reads net-conf.json as flannel does when its datastore is Kubernetes: subnets are podCIDRs, so nothing that concerns
    /// their choice is looked at. Also tells whether IPv6 is asked for, which is left out.
    ///
    /// # Errors
    /// Names the field, its value and what to write instead.
    pub fn parse_for_kubernetes(json: &str) -> Result<(Self, bool), ConfigError> {
        parse::for_kubernetes(json)
    }

    /// Whether `subnet` is one that this configuration would lease.
    #[must_use]
    pub fn admits(&self, subnet: Ipv4Net) -> bool {
        subnet.prefix_len() == self.subnet_len
            && subnet == subnet.trunc()
            && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
    }
}
