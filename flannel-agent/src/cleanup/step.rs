//! One thing to remove.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;

use crate::dataplane;
use crate::dataplane::MadeQdiscs;
use crate::node::net::{Direction, Link, Netlink, RouteChange};
use crate::node::node_sysctls::NodeSysctls;
use crate::node::{flanneld_masq, forward_rules, mark};
use crate::settings::Config;

/// Something of ours on this node. Removing what is gone by then has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The CNI network that we wrote.
    CniNetwork(PathBuf),
    /// Our clsact filters on one hook.
    Filters {
        device: Link,
        direction: Direction,
        vni: u32,
    },
    /// The clsact qdisc that an agent of this node added and that holds no filter any more.
    Qdisc {
        device: Link,
    },
    /// Everything pinned, and with the links what is attached.
    Pins {
        network: String,
    },
    Device(String),
    /// A route to one peer.
    Route {
        destination: Ipv4Net,
        via: Ipv4Addr,
    },
    /// The route of `--ip-blackhole-route`.
    Blackhole(Ipv4Net),
    /// The accept rules in iptables.
    ForwardRules(Ipv4Net),
    /// The rule that keeps conntrack for what flanneld's masquerading began.
    ConntrackHolder,
    /// What the network wants of a sysctl that the whole node shares.
    Sysctl(String),
    /// What `status` says of the last agent.
    Logbook(PathBuf),
    /// What the datastore last said, kept for the next boot.
    Snapshot(PathBuf),
}

impl Step {
    pub(super) async fn perform(&self, net: &Netlink, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::CniNetwork(path) | Self::Logbook(path) | Self::Snapshot(path) => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(error).with_context(|| format!("cannot remove {}", path.display()))?;
                    }
                    _ => {}
                }
            }
            Self::Filters {
                device,
                direction,
                vni,
            } => dataplane::remove_filters(net, device, *direction, *vni).await?,
            Self::Qdisc { device } => {
                // Somebody may have come meanwhile: whoever finds the qdisc there adds none of their own.
                if dataplane::are_all_ours(net, device, &[]).await? {
                    net.remove_clsact(device.index).await?;
                    MadeQdiscs::new(&config.state_dir).forget(device.index)?;
                }
            }
            Self::Pins { network } => dataplane::remove_pins(&config.bpffs, network)?,
            Self::Device(name) => {
                if let Some(link) = net.link(name).await? {
                    net.delete_link(link.index).await?;
                }
            }
            Self::Route { destination, .. } => {
                let refused = net
                    .change_routes(&[RouteChange::Remove(*destination)])
                    .await?;
                if let Some(errno) = refused.values().next() {
                    bail!("cannot remove the route {destination}: {errno}");
                }
            }
            Self::Blackhole(subnet) => {
                net.remove_blackhole(*subnet).await?;
            }
            Self::ForwardRules(network) => forward_rules::remove(*network).await?,
            Self::ConntrackHolder => flanneld_masq::release().await?,
            Self::Sysctl(key) => {
                let network = mark::network_name(&config.etcd.prefix);
                NodeSysctls::new(&config.state_dir, &network).release(key)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CniNetwork(path) => write!(f, "the CNI network {}", path.display()),
            Self::Filters {
                device, direction, ..
            } => write!(f, "the filters of {} ({direction})", device.name),
            Self::Qdisc { device } => write!(f, "the empty clsact qdisc of {}", device.name),
            Self::Pins { network } => write!(f, "programs and maps of {network}"),
            Self::Device(name) => write!(f, "the device {name}"),
            Self::Route { destination, via } => write!(f, "the route {destination} via {via}"),
            Self::Blackhole(subnet) => write!(f, "the blackhole route {subnet}"),
            Self::ForwardRules(network) => {
                write!(f, "the iptables rules that accept {network} in FORWARD")
            }
            Self::ConntrackHolder => {
                f.write_str("the rule that kept conntrack for connections from flanneld's time")
            }
            Self::Sysctl(key) => write!(f, "this network's part in the sysctl {key}"),
            Self::Logbook(path) => write!(f, "what the agent wrote down in {}", path.display()),
            Self::Snapshot(path) => {
                write!(f, "what the datastore last said, in {}", path.display())
            }
        }
    }
}
