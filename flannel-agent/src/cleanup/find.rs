//! What of a network is on this node, in the order in which it goes.

use ipnet::Ipv4Net;

use super::Step;
use crate::dataplane;
use crate::dataplane::MadeQdiscs;
use crate::flannel::{cni, subnet_env};
use crate::node::mark::{is_anchor, near_ends};
use crate::node::net::{Direction, Link, Netlink};
use crate::node::node_sysctls::{NodeSysctls, Wishes};
use crate::node::{flanneld_masq, forward_rules, mark};
use crate::reconcile::desired::TUNNEL;
use crate::reconcile::logbook;
use crate::settings::Config;

/// Hooks before devices: what arrives goes back to the kernel at once.
pub(super) async fn steps(net: &Netlink, config: &Config) -> anyhow::Result<Vec<Step>> {
    let name = mark::network_name(&config.etcd.prefix);
    let links = net.links().await?;
    let alias = mark::alias(&name);
    let ours: Vec<&Link> = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()))
        .collect();
    let file = subnet_env::read(&config.subnet_file)?;
    let mut steps = Vec::new();
    // First: no new pod gets an interface of a network that is going.
    if let Some(folder) = &config.cni_conf_dir
        && cni::is_ours(folder, &config.fast_path.bridge, file.network, file.subnet)
    {
        steps.push(Step::CniNetwork(cni::path(folder)));
    }
    // A network without a tunnel has no VNI.
    let vnis = ours.iter().copied().filter_map(mark::vni_of);
    let tags: Vec<u32> = vnis.chain([mark::tag(&name)]).collect();
    // Before its programs: without any, what the kernel takes for it would come before the node's stack.
    for anchor in links.iter().filter(|link| is_anchor(link)) {
        if !dataplane::is_shared(net, anchor, (&config.bpffs, &name), &tags).await? {
            steps.push(Step::Device(anchor.name.clone()));
        }
    }
    for vni in tags.iter().copied() {
        for device in &links {
            for direction in [Direction::Ingress, Direction::Egress] {
                if dataplane::has_filters(net, device, direction, vni).await? {
                    steps.push(Step::Filters {
                        device: device.clone(),
                        direction,
                        vni,
                    });
                }
            }
        }
    }
    let made = MadeQdiscs::new(&config.state_dir);
    for device in &links {
        if made.has(device.index)? && dataplane::are_all_ours(net, device, &tags).await? {
            steps.push(Step::Qdisc {
                device: device.clone(),
            });
        }
    }
    if dataplane::has_pins(&config.bpffs, &name) {
        steps.push(Step::Pins {
            network: name.clone(),
        });
    }
    let devices = near_ends(&ours).into_iter();
    steps.extend(devices.map(|link| Step::Device(link.name.clone())));
    // Where the agent left no subnet file it made no route that outlives its device.
    if let Some(network) = file.network {
        steps.extend(direct_routes(net, network).await?);
        let blackholes = net.blackholes().await?.into_iter();
        let inside = blackholes.filter(|subnet| network.contains(subnet));
        steps.extend(inside.map(Step::Blackhole));
        if forward_rules::are_there(network).await? {
            steps.push(Step::ForwardRules(network));
        }
    }
    if flanneld_masq::is_held().await? {
        steps.push(Step::ConntrackHolder);
    }
    let shared = NodeSysctls::new(&config.state_dir, &name);
    let entered = shared.difference(&Wishes::new())?.unwanted;
    steps.extend(entered.into_iter().map(Step::Sysctl));
    let logbook = logbook::path(&config.state_dir, &name)?;
    if logbook.exists() {
        steps.push(Step::Logbook(logbook));
    }
    let snapshots = config.snapshots().filter(|snapshot| snapshot.exists());
    steps.extend(snapshots.map(Step::Snapshot));
    Ok(steps)
}

/// Our routes to single peers.
async fn direct_routes(net: &Netlink, network: Ipv4Net) -> anyhow::Result<Vec<Step>> {
    let routes = net.our_routes().await?;
    let inside = routes
        .into_iter()
        .filter(|route| network.contains(&route.destination));
    Ok(inside
        .filter_map(|route| {
            let via = route.paths.first()?.gateway?;
            // Those into the tunnel go with its device.
            (via != TUNNEL).then_some(Step::Route {
                destination: route.destination,
                via,
            })
        })
        .collect())
}
