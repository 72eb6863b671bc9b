//! A flannel network as a test names it: where its leases live, its addresses and its tunnel.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// What is written to `<prefix>/config`, and what the harness derives from it.
#[derive(Debug, Clone)]
pub struct Network {
    pub prefix: String,
    /// `a.b.c.d/n`.
    pub cidr: String,
    pub vni: u32,
    pub port: u16,
    /// Subnets of 256 addresses: the default of flannel.
    pub subnet_len: u8,
    pub backend: Backend,
    /// What the config says of the longest packet on the wire, bytes; `None`: nothing.
    pub mtu: Option<u32>,
    /// vxlan with `GBP`.
    pub gbp: bool,
    /// vxlan with `Learning`.
    pub learning: bool,
    /// `EnableNFTables`.
    pub nftables: bool,
}

/// flannel's backends that this project has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Vxlan,
    /// vxlan, but no tunnel to neighbours.
    DirectRouting,
    HostGw,
    /// Leases, and no way to anybody.
    Alloc,
    Udp,
    Ipip,
    /// ipip, but no tunnel to neighbours.
    IpipDirect,
    WireGuard,
    /// A route by the operator's commands, as in flannel's own documentation.
    Extension,
}

impl Backend {
    /// `BackendType` in leases; empty: they have none.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan | Self::DirectRouting => "vxlan",
            Self::HostGw => "host-gw",
            Self::Ipip | Self::IpipDirect => "ipip",
            Self::Alloc | Self::Udp => "",
            Self::WireGuard => "wireguard",
            Self::Extension => "extension",
        }
    }
}

impl Network {
    /// A vxlan network with flannel's defaults: VNI 1, the kernel's port, /24 subnets.
    pub fn vxlan(prefix: &str, cidr: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            cidr: cidr.to_owned(),
            vni: 1,
            port: 8472,
            subnet_len: 24,
            backend: Backend::Vxlan,
            mtu: None,
            gbp: false,
            learning: false,
            nftables: false,
        }
    }

    /// A host-gw network.
    pub fn host_gw(prefix: &str, cidr: &str) -> Self {
        Self {
            backend: Backend::HostGw,
            ..Self::vxlan(prefix, cidr)
        }
    }

    /// An alloc network.
    pub fn alloc(prefix: &str, cidr: &str) -> Self {
        Self {
            backend: Backend::Alloc,
            ..Self::vxlan(prefix, cidr)
        }
    }

    /// A udp network.
    pub fn udp(prefix: &str, cidr: &str) -> Self {
        Self {
            backend: Backend::Udp,
            port: 8285,
            ..Self::vxlan(prefix, cidr)
        }
    }

    /// An ipip network.
    pub fn ipip(prefix: &str, cidr: &str) -> Self {
        Self {
            backend: Backend::Ipip,
            ..Self::vxlan(prefix, cidr)
        }
    }

    /// A wireguard network.
    pub fn wireguard(prefix: &str, cidr: &str) -> Self {
        Self {
            backend: Backend::WireGuard,
            port: 51_820,
            ..Self::vxlan(prefix, cidr)
        }
    }

    /// An extension network.
    pub fn extension(prefix: &str, cidr: &str) -> Self {
        Self {
            backend: Backend::Extension,
            ..Self::vxlan(prefix, cidr)
        }
    }

    /// vxlan or ipip with `DirectRouting`.
    #[must_use]
    pub fn direct_routing(mut self) -> Self {
        self.backend = match self.backend {
            Backend::Ipip => Backend::IpipDirect,
            _ => Backend::DirectRouting,
        };
        self
    }

    /// vxlan with `GBP`.
    #[must_use]
    pub fn gbp(mut self) -> Self {
        self.gbp = true;
        self
    }

    /// vxlan with `Learning`.
    #[must_use]
    pub fn learning(mut self) -> Self {
        self.learning = true;
        self
    }

    /// With `EnableNFTables`.
    #[must_use]
    pub fn nftables(mut self) -> Self {
        self.nftables = true;
        self
    }

    #[must_use]
    pub fn vni(mut self, vni: u32) -> Self {
        self.vni = vni;
        self
    }

    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Name of flannel's device.
    pub fn device(&self) -> String {
        match self.backend {
            Backend::Udp => "flannel0".to_owned(),
            Backend::Ipip | Backend::IpipDirect => "flannel.ipip".to_owned(),
            Backend::WireGuard => "flannel-wg".to_owned(),
            _ => format!("flannel.{}", self.vni),
        }
    }

    /// The value of `<prefix>/config`.
    pub fn config(&self) -> String {
        let Self {
            cidr,
            vni,
            port,
            subnet_len,
            ..
        } = self;
        let mut backend = match self.backend {
            Backend::HostGw => r#""Type":"host-gw""#.to_owned(),
            Backend::Alloc => r#""Type":"alloc""#.to_owned(),
            Backend::Udp => format!(r#""Type":"udp","Port":{port}"#),
            Backend::Ipip => r#""Type":"ipip""#.to_owned(),
            Backend::IpipDirect => r#""Type":"ipip","DirectRouting":true"#.to_owned(),
            Backend::Extension => concat!(
                r#""Type":"extension","SubnetAddCommand":"ip route replace $SUBNET via $PUBLIC_IP","#,
                r#""SubnetRemoveCommand":"ip route del $SUBNET via $PUBLIC_IP""#
            )
            .to_owned(),
            Backend::WireGuard => format!(r#""Type":"wireguard","ListenPort":{port}"#),
            Backend::Vxlan => format!(r#""Type":"vxlan","VNI":{vni},"Port":{port}"#),
            Backend::DirectRouting => {
                format!(r#""Type":"vxlan","VNI":{vni},"Port":{port},"DirectRouting":true"#)
            }
        };
        if let Some(mtu) = self.mtu {
            write!(backend, r#","MTU":{mtu}"#).expect("a string takes it");
        }
        if self.gbp {
            backend.push_str(r#","GBP":true"#);
        }
        if self.learning {
            backend.push_str(r#","Learning":true"#);
        }
        let nftables = match self.nftables {
            true => r#","EnableNFTables":true"#,
            false => "",
        };
        format!(
            r#"{{"Network":"{cidr}","SubnetLen":{subnet_len}{nftables},"Backend":{{{backend}}}}}"#
        )
    }

    /// The key of one node's lease.
    pub fn lease_key(&self, subnet: Subnet) -> String {
        format!("{}/subnets/{}-{}", self.prefix, subnet.base, subnet.len)
    }

    /// Every subnet that may be leased, in order: all but the first, as flannel has it.
    ///
    /// # Panics
    /// If `cidr` is not an IPv4 network.
    pub fn subnets(&self) -> impl Iterator<Item = Subnet> {
        let (base, len) = self.cidr.split_once('/').expect("a.b.c.d/n");
        let base = u32::from(base.parse::<Ipv4Addr>().expect("an IPv4 address"));
        let len: u8 = len.parse().expect("a prefix length");
        let subnet_len = self.subnet_len;
        (1..1_u32 << (subnet_len - len)).map(move |n| Subnet {
            base: Ipv4Addr::from(base + (n << (32 - subnet_len))),
            len: subnet_len,
        })
    }
}

/// A node's part of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet {
    /// The first address; flannel's device holds it as a /32.
    pub base: Ipv4Addr,
    pub len: u8,
}

impl Subnet {
    /// The `n`-th address.
    pub fn address(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + n)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.base)) >> (32 - self.len) == 0
    }

    /// From `10.1.2.0-24`, the last part of a lease's key.
    pub fn from_key(key: &str) -> Option<Self> {
        let (base, len) = key.rsplit('/').next()?.split_once('-')?;
        Some(Self {
            base: base.parse().ok()?,
            len: len.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_skip_the_first_and_end_with_the_last() {
        let net = Network::vxlan("/p", "10.3.0.0/16");
        let subnets: Vec<_> = net.subnets().collect();
        assert_eq!(subnets[0].to_string(), "10.3.1.0/24");
        assert_eq!(subnets.last().unwrap().to_string(), "10.3.255.0/24");
        assert_eq!(net.lease_key(subnets[0]), "/p/subnets/10.3.1.0-24");
        assert_eq!(Subnet::from_key("/p/subnets/10.3.1.0-24"), Some(subnets[0]));
        assert!(subnets[0].contains("10.3.1.255".parse().unwrap()));
        assert!(!subnets[0].contains("10.3.2.0".parse().unwrap()));
    }
}
