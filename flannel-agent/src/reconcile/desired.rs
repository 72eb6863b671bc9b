//! What this node should look like: a pure function of what is known.
//!
//! Plain data that compares and prints. Whether the kernel looks like that already is
//! [`observe`](crate::reconcile::observe)'s question, what to do about it [`plan`](crate::reconcile::plan)'s.

mod facts;
mod fast_path;
mod gro;
mod hidden;
mod node;
mod outlets;
mod peers;
mod reach;
mod room;
mod routes;
mod snat;
#[cfg(test)]
pub(crate) mod tests;
mod underlay;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use flannel_common::snat::Times;
use ipnet::Ipv4Net;
use serde::Serialize;

pub use facts::{Base, Sought};
pub(crate) use fast_path::LIBERAL;
pub use fast_path::Ports;
pub use gro::Anchor;
pub use node::{Node, Pair};
pub(crate) use outlets::Devices;
pub use outlets::{Outlet, Outlets};
pub use peers::{Peers, Sealed};
pub use routes::{Routes, TUNNEL, Way};
pub use snat::SourceNat;
pub use underlay::Underlay;
pub use wireguard::WireGuard;

use crate::base::key::PublicKey;
use crate::base::options::{FastPath, Mode, SourceCheck};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::Leases;
use crate::node::conntrack::forgets_fast_flows;
use crate::node::direct::Hop;
use crate::node::net::{Policies, RouteTo};
use crate::node::node_sysctls::Reserved;
use crate::node::snat_ports::PortRange;
use crate::node::uplink::Uplink;

/// The wanted state: what is the same for all peers, and the peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub node: Node,
    pub peers: Peers,
    pub routes: Routes,
}

/// Everything the wanted state follows from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The network's name in pin folders and aliases; see [`crate::node::mark::network_name`].
    pub network: &'a str,
    pub config: &'a NetworkConfig,
    /// The subnet this node leases.
    pub subnet: Ipv4Net,
    /// Everybody else's leases.
    pub leases: &'a Leases,
    pub uplink: &'a Uplink,
    /// Subnets that a route leads to without a tunnel.
    pub direct: &'a BTreeMap<Ipv4Net, Hop>,
    /// MAC of `flannel.<VNI>`, as our lease publishes it; zeroes without a tunnel.
    pub vtep_mac: crate::base::mac::MacAddr,
    /// Key of `flannel-wg`, as our lease publishes it.
    pub public_key: Option<PublicKey>,
    pub facts: &'a Facts,
    pub source_check: SourceCheck,
    pub fast_path: &'a FastPath,
    /// `None`: pods' packets to the outside leave as they are.
    pub snat: Option<&'a SourceNat>,
}

/// What is true of this node whatever anybody wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: (u16, u16),
    /// For whom ports are reserved.
    #[serde(skip)]
    pub reserved: Reserved,
    /// Why nobody knows that, if no look has found it out.
    #[serde(skip)]
    pub(crate) unknown_ports: Option<String>,
    #[serde(skip)]
    pub(crate) knows_ports: bool,
    /// `net.netfilter.nf_conntrack_tcp_timeout_established`, seconds; `None` without conntrack.
    #[serde(skip)]
    pub(crate) established: Option<String>,
    /// How long conntrack keeps flows, or would if it were loaded.
    #[serde(skip)]
    pub(crate) times: Times,
    /// Why conntrack is strict about TCP's windows and will be, if it is.
    #[serde(skip)]
    pub(crate) strict: Option<String>,
    /// Which of the devices of the backend udp is this network's.
    pub udp_number: u32,
    /// Other networks with such a device, while this one has none.
    #[serde(skip)]
    pub others_udp: BTreeSet<String>,
    /// CPUs that can run at once.
    pub cpus: u32,
    /// Ways to peers, as the kernel takes them with what we send there; without those to which there is none.
    #[serde(skip)]
    pub ways: BTreeMap<Ipv4Addr, RouteTo>,
    /// Rules may lead the tunnel's packets another way than `ways` says: the kernel answers for UDP, and not for ipip's protocol.
    #[serde(skip)]
    pub by_protocol: bool,
    /// Peers that cannot be reached as things are, and why.
    #[serde(skip)]
    pub unreached: BTreeMap<Ipv4Addr, String>,
    /// Devices whose packets have no link-layer header.
    #[serde(skip)]
    pub bare: BTreeSet<String>,
    /// Interfaces of the destinations that the kernel reaches without a gateway; `None`: not so.
    #[serde(skip)]
    pub on_link: BTreeMap<Ipv4Addr, Option<u32>>,
    /// Of whom the look-ups above got no answer: they are asked again.
    #[serde(skip)]
    pub(crate) unanswered: BTreeSet<Ipv4Addr>,
    /// What the look-ups above rest on.
    #[serde(skip)]
    pub(crate) base: Base,
    /// Raised whenever a route or rule of somebody else's may lead packets another way than before, or nowhere.
    #[serde(skip)]
    pub others_ways: u32,
    /// Where packets of pods are met now.
    pub pod_ports: Ports,
    /// Ports of pods that are none for the fast path, because what they send is shaped.
    pub shaped: Ports,
    /// By which devices the tunnel's packets come and go, besides the uplink.
    pub underlay: Underlay,
    /// By which devices besides the uplink packets leave the node.
    pub outlets: Outlets,
    /// Whether there are devices of which routes alone say whether packets leave by them.
    #[serde(skip)]
    pub depend_on_routes: bool,
    /// What IPsec is asked to do.
    #[serde(skip)]
    pub policies: Policies,
    /// Peers whose tunnel packets the host's firewall drops, one way or both.
    #[serde(skip)]
    pub refused: BTreeSet<Ipv4Addr>,
    /// With `--gro=anchor`, who else has the VXLAN port, in words.
    pub port_holder: Option<String>,
    /// Index of the kernel's WireGuard device, once it is this network's.
    pub wireguard: Option<u32>,
}

impl Facts {
    /// Whether conntrack drops or forgets what it sees of fast flows.
    fn conntrack_is_unfit(&self) -> bool {
        self.strict.is_some() || forgets_fast_flows(&self.times).is_some()
    }
}

/// A network that this node cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    #[error(
        "VNI {0} makes a device name longer than the kernel's 15 characters: \
         use a VNI below 10000000"
    )]
    VniTooLong(u32),
    #[error(
        "--gro=anchor: with GBP in the network's configuration the kernel's device would refuse packets with a mark; \
         give --gro=pair"
    )]
    AnchorWithGbp,
    #[error("{given} is for the backend vxlan, and this network's is {backend}: give {fix}")]
    OnlyWithVxlan {
        given: &'static str,
        backend: &'static str,
        fix: &'static str,
    },
    #[error("the subnet {subnet} is not inside the network {network}")]
    SubnetOutside { subnet: Ipv4Net, network: Ipv4Net },
    #[error(
        "--snat-ports={ports}: the network's VXLAN port {port} lies in it; \
         give a range without that port"
    )]
    SnatPorts { ports: PortRange, port: u16 },
    #[error(
        "no ports for source NAT can be chosen, for those of this node's other networks are not known: {0}; or give each network \
         its own --snat-ports"
    )]
    UnknownPorts(String),
}

impl Desired {
    /// # Errors
    /// What this node cannot do at all. Leases that make no sense are no error: they are in
    /// [`Peers::ignored`].
    pub fn new(inputs: &Inputs<'_>) -> Result<Self, DesiredError> {
        let network = inputs.config.network;
        if !network.contains(&inputs.subnet) {
            return Err(DesiredError::SubnetOutside {
                subnet: inputs.subnet,
                network,
            });
        }
        // Nobody's packets are known, so nobody's can be fast.
        let off = FastPath {
            mode: Mode::Off,
            ..inputs.fast_path.clone()
        };
        let possible = inputs.fast_path.beside(inputs.facts.conntrack_is_unfit());
        let forwards = inputs.config.backend.forwards() || inputs.snat.is_some();
        let inputs = &Inputs {
            fast_path: if forwards { &possible } else { &off },
            ..*inputs
        };
        let peers = match inputs.config.backend.wireguard() {
            Some(options) => wireguard::peers(inputs, options),
            None => peers::peers(inputs),
        };
        Ok(Self {
            node: node::node(inputs)?,
            routes: routes::routes(inputs, &peers),
            peers,
        })
    }
}

/// The outer addresses whose next hop has to be known.
#[must_use]
pub fn destinations(config: &NetworkConfig, leases: &Leases) -> BTreeSet<Ipv4Addr> {
    let backend = &config.backend;
    if backend.tunnel().is_none() && backend.wireguard().is_none() {
        // Each peer is its own next hop.
        return BTreeSet::new();
    }
    leases.values().map(|attrs| attrs.public_ip).collect()
}
