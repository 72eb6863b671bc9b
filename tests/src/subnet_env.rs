//! `subnet.env`: what flannel tells the CNI plugin. Read and written here without the agent's code, so
//! that one checks the other.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::network::{Network, Subnet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    pub network: String,
    /// First address of the subnet (the bridge's) and the prefix length.
    pub gateway: Ipv4Addr,
    pub len: u8,
    pub mtu: u32,
    pub ip_masq: bool,
}

impl SubnetEnv {
    pub fn new(net: &Network, subnet: Subnet, mtu: u32, ip_masq: bool) -> Self {
        Self {
            network: net.cidr.clone(),
            gateway: subnet.address(1),
            len: subnet.len,
            mtu,
            ip_masq,
        }
    }

    /// The file's content, in flannel's order.
    pub fn text(&self) -> String {
        format!(
            "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={}/{}\nFLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n",
            self.network, self.gateway, self.len, self.mtu, self.ip_masq
        )
    }

    /// `None` while the file is not there.
    ///
    /// # Panics
    /// If it is there and not complete: it must be written atomically.
    pub fn read(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let get = |name: &str| {
            *values
                .get(name)
                .unwrap_or_else(|| panic!("{} lacks {name}:\n{text}", file.display()))
        };
        let (gateway, len) = get("FLANNEL_SUBNET").split_once('/').expect("a.b.c.d/n");
        Some(Self {
            network: get("FLANNEL_NETWORK").to_owned(),
            gateway: gateway.parse().expect("FLANNEL_SUBNET holds an address"),
            len: len.parse().expect("FLANNEL_SUBNET holds a prefix length"),
            mtu: get("FLANNEL_MTU").parse().expect("FLANNEL_MTU is a number"),
            ip_masq: get("FLANNEL_IPMASQ") == "true",
        })
    }

    /// The node's subnet.
    pub fn subnet(&self) -> Subnet {
        Subnet {
            base: Ipv4Addr::from(u32::from(self.gateway) - 1),
            len: self.len,
        }
    }
}
