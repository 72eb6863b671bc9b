//! One thing to remove.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;

use crate::cli::Config;
use crate::dataplane::MadeQdiscs;
use crate::net::{Direction, Link, Netlink, RouteChange};
use crate::node_sysctls::NodeSysctls;
use crate::{dataplane, flanneld_masq, forward_rules, mark};

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

/// Devices of ours, without those that go with another: people know the near end of a pair.
pub(crate) fn devices<'a>(ours: &[&'a Link]) -> Vec<&'a Link> {
    let is_near = |link: &Link| mark::vni_of(link).is_some();
    let goes_along = |link: &Link| {
        !is_near(link)
            && ours
                .iter()
                .any(|near| is_near(near) && near.peer == Some(link.index))
    };
    let mut devices: Vec<&Link> = ours.iter().copied().filter(|l| !goes_along(l)).collect();
    devices.sort_by_key(|link| !is_near(link));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fixtures::veth;

    fn link(index: u32, name: &str, peer: Option<u32>) -> Link {
        veth(index, name, peer, Some(&mark::alias("net")))
    }

    #[test]
    fn a_pair_goes_by_its_near_end_and_a_lone_far_end_by_itself() {
        let (near, far) = (link(5, "flannel.1", Some(6)), link(6, "flgro.1", Some(5)));
        let names = |links: &[&Link]| -> Vec<String> {
            devices(links).iter().map(|l| l.name.clone()).collect()
        };
        assert_eq!(names(&[&far, &near]), ["flannel.1"]);
        assert_eq!(names(&[&far]), ["flgro.1"]);
        let other = link(9, "flgro.2", Some(8));
        assert_eq!(names(&[&other, &near]), ["flannel.1", "flgro.2"]);
    }
}
