//! A look at the kernel: everything the plan needs to know, nothing else.

mod anchor;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};

use crate::base::mac::MacAddr;
use crate::dataplane::{Bpf, DataplaneError, Life, life};
use crate::flannel::backend::Wire;
use crate::node::mark;
use crate::node::net::{Features, KIND_IPIP, Kind, Link, NetError, Netlink, PROTOCOL, sysctl};
use crate::node::node_sysctls::{Difference, NodeSysctls};
use crate::reconcile::actual::{Actual, Device, PairState};
use crate::reconcile::desired::{Node, Pair};

/// Observes whatever `node` is about.
pub(crate) async fn observe(
    net: &Netlink,
    bpf: &Bpf,
    shared: &NodeSysctls,
    node: &Node,
) -> Result<Actual, DataplaneError> {
    let links = net.links().await?;
    let by_name = |name: &str| links.iter().find(|link| link.name == name);
    let device = match &node.pair {
        None => Device::Absent,
        Some(wanted) => {
            let (near, far) = (by_name(&wanted.name), by_name(&wanted.gro_name));
            let life = |network: &str| life(bpf.bpffs(), network);
            match classify(wanted, near, far, &life) {
                Found::Pair(near, far) => Device::Ours(pair(net, node, wanted, near, far).await?),
                Found::Other(device) => device,
            }
        }
    };
    let former = former(node, &links);
    let mut routes = net.routes().await?;
    routes.retain(|route| route.protocol == PROTOCOL || node.overlay.contains(&route.destination));
    Ok(Actual {
        device,
        wireguard: wireguard::device(net, bpf, node, &links).await?,
        anchor: anchor::anchors(net, bpf, node, &links).await?,
        aside: node
            .pair
            .as_ref()
            .and_then(|pair| by_name(&pair.aside_name))
            .is_some_and(Link::is_kernel_tunnel),
        former: former.iter().map(|link| link.name.clone()).collect(),
        programs: bpf.observe(&node.places(), net, &links).await?,
        peers: bpf.peers()?,
        routes,
        exempt: bpf.exempt()?,
        snat_times: bpf.times()?,
        outlets: bpf.outlets()?,
        shared_sysctls: shared_sysctls(shared, node),
    })
}

/// MAC of an existing device of the tunnel, ours or the kernel's: what peers send to.
///
/// # Errors
/// If the kernel does not answer.
pub async fn vtep_mac(net: &Netlink, wire: Wire) -> Result<Option<MacAddr>, NetError> {
    let link = net.link(&mark::device(wire)).await?;
    Ok(link
        .filter(|link| link.kind == Kind::Veth || matches!(link.kind, Kind::Vxlan { .. }))
        .and_then(|link| link.mac)
        .map(MacAddr))
}

enum Found<'a> {
    Pair(&'a Link, &'a Link),
    Other(Device),
}

fn classify<'a>(
    pair: &Pair,
    near: Option<&'a Link>,
    far: Option<&'a Link>,
    life: &dyn Fn(&str) -> Life,
) -> Found<'a> {
    let foreign = |why: String| Found::Other(Device::Foreign { why });
    let carries_our_alias = |link: &Link| link.alias.as_deref() == Some(pair.alias.as_str());
    let broken = |link: &Link| {
        Found::Other(Device::Broken {
            device: link.name.clone(),
        })
    };
    let Some(near) = near else {
        return match far {
            None => Found::Other(Device::Absent),
            Some(far) if carries_our_alias(far) => broken(far),
            Some(far) => foreign(format!("its far end's name {} is taken", far.name)),
        };
    };
    let is_ipip = pair.name == mark::device(Wire::Ipip);
    match &near.kind {
        Kind::Vxlan { .. } if !is_ipip => {
            return Found::Other(Device::KernelTunnel {
                mac: near.mac.map(MacAddr),
                up: near.up,
            });
        }
        Kind::Vxlan { .. } => return foreign("it is a vxlan device: rename it".to_owned()),
        Kind::Other(kind) if is_ipip && kind == KIND_IPIP => {
            return Found::Other(Device::KernelTunnel {
                mac: None,
                up: near.up,
            });
        }
        Kind::Veth => {}
        Kind::Other(kind) if kind == "tun" => {
            return foreign("it is flanneld's: end that, and it goes as well".to_owned());
        }
        Kind::Other(kind) => return foreign(format!("it is a {kind} device: rename it")),
        Kind::Plain => return foreign("it is no veth device: rename it".to_owned()),
    }
    let whole = far.filter(|far| near.peer == Some(far.index));
    match (mark::network_of(near), whole) {
        (Some(_), Some(far)) if carries_our_alias(near) => Found::Pair(near, far),
        (Some(_), None) if carries_our_alias(near) => broken(near),
        (Some(network), _) => {
            let rule = match mark::vni_of(near) {
                Some(_) => "two networks on one node need different VNIs",
                None => "of this backend a node can have one: give another network another",
            };
            foreign(anothers(network, life(network), rule))
        }
        // Created by an agent that did not live to mark it.
        (None, Some(far)) if near.alias.is_none() => Found::Pair(near, far),
        (None, _) => foreign("it is a veth device without our mark: rename it".to_owned()),
    }
}

/// A network's name in the mark is as good a prefix as the one that it was made from.
fn anothers(network: &str, life: Life, rule: &str) -> String {
    match life {
        Life::Lives => format!("it belongs to the network {network}, whose agent runs: {rule}"),
        Life::Unknown => format!(
            "it belongs to the network {network}, which has nothing pinned below --bpffs; its agent may run with \
             another --bpffs, or in a container with a file system of its own: {rule}. If none runs: flannel-agent \
             cleanup --etcd-prefix={network}"
        ),
        Life::Stopped => format!(
            "an agent of the network {network} left it, and does not run: if --etcd-prefix was changed, run \
             flannel-agent cleanup --etcd-prefix={network} and start again; otherwise {rule}"
        ),
    }
}

/// Devices with our mark that no wanted one is named like; by the near end, if there is one.
fn former<'a>(node: &Node, links: &'a [Link]) -> Vec<&'a Link> {
    let alias = mark::alias(&node.network);
    let wanted = |name: &str| {
        node.pair.as_ref().is_some_and(|pair| {
            [&pair.name, &pair.gro_name, &pair.aside_name].contains(&&name.to_owned())
        }) || node
            .wireguard
            .as_ref()
            .is_some_and(|wanted| wanted.name == name)
    };
    let ours: Vec<&Link> = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()) && !wanted(&link.name))
        .collect();
    crate::node::mark::near_ends(&ours)
}

async fn pair(
    net: &Netlink,
    node: &Node,
    wanted: &Pair,
    near: &Link,
    far: &Link,
) -> Result<PairState, NetError> {
    let alias = Some(wanted.alias.as_str());
    let addresses = net.addresses().await?;
    Ok(PairState {
        index: near.index,
        gro_index: far.index,
        aliased: near.alias.as_deref() == alias && far.alias.as_deref() == alias,
        mac: near.mac.map(MacAddr),
        mtu: near.mtu,
        gro_mtu: far.mtu,
        gso_max: near.gso_max,
        up: near.up && near.noarp,
        gro_up: far.up && far.noarp,
        wrong_sysctls: wrong_sysctls(&node.sysctls),
        wrong_features: wrong_features(&node.features),
        addresses: addresses
            .iter()
            .filter(|address| address.index == near.index)
            .map(|address| address.net)
            .collect::<BTreeSet<_>>(),
    })
}

/// What cannot be read is wanted anew: doing that says why not, once, and is no reason to stop.
fn shared_sysctls(shared: &NodeSysctls, node: &Node) -> Difference {
    let wishes = &node.shared_sysctls;
    shared.difference(wishes).unwrap_or_else(|_| Difference {
        unmet: wishes.clone(),
        ..Difference::default()
    })
}

/// What cannot be read cannot be set either, and is no reason to stop.
fn wrong_sysctls(wanted: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let differs = |key: &str, value: &str| matches!(sysctl::read(key), Ok(Some(is)) if is != value);
    wanted
        .iter()
        .filter(|(key, value)| differs(key, value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn wrong_features(
    wanted: &BTreeMap<String, BTreeMap<String, bool>>,
) -> BTreeMap<String, BTreeMap<String, bool>> {
    wanted
        .iter()
        .filter_map(|(device, features)| {
            let now = Features::read(device).ok()?;
            Some((device.clone(), now.missing(features)))
        })
        .filter(|(_, wrong)| !wrong.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
