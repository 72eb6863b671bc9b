//! What of a network is on this node, in the order in which it goes.

use ipnet::Ipv4Net;

use super::Step;
use crate::base::logging::describe;
use crate::dataplane;
use crate::dataplane::MadeQdiscs;
use crate::dataplane::view;
use crate::flannel::{cni, subnet_env};
use crate::node::mark::{is_anchor, near_ends};
use crate::node::net::{Direction, Link, Netlink};
use crate::node::node_sysctls::{NodeSysctls, Wishes};
use crate::node::{flanneld_masq, forward_rules, mark};
use crate::reconcile::desired::TUNNEL;
use crate::reconcile::logbook;
use crate::settings::Config;

/// What was found. A look that fails hides what it is about, and nothing else.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) steps: Vec<Step>,
    /// What could not be looked at, and why.
    pub(super) unseen: Vec<String>,
}

impl Found {
    /// What a look at `what` said; nothing, if it failed.
    fn seen<T: Default, E: Into<anyhow::Error>>(&mut self, what: &str, looked: Result<T, E>) -> T {
        looked.unwrap_or_else(|error| {
            let why = describe(&error.into());
            self.unseen.push(format!("cannot look at {what}: {why}"));
            T::default()
        })
    }
}

/// Hooks before devices: what arrives goes back to the kernel at once.
pub(super) async fn look(net: &Netlink, config: &Config) -> Found {
    let mut found = Found::default();
    let name = mark::network_name(&config.etcd.prefix);
    let links = found.seen("devices", net.links().await);
    let alias = mark::alias(&name);
    let ours: Vec<&Link> = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()))
        .collect();
    let file = found.seen(
        "the subnet file, and so at the network's routes and rules of iptables",
        subnet_env::read(&config.subnet_file),
    );
    // First: no new pod gets an interface of a network that is going.
    if let Some(folder) = &config.cni_conf_dir
        && cni::is_ours(folder, &config.fast_path.bridge, file.network, file.subnet)
    {
        found.steps.push(Step::CniNetwork(cni::path(folder)));
    }
    // A network without a tunnel has no VNI.
    let vnis = ours.iter().copied().filter_map(mark::vni_of);
    let tags: Vec<u32> = vnis.chain([mark::tag(&name)]).collect();
    hooks(net, config, (&links, &tags), &mut found).await;
    if dataplane::has_pins(&config.bpffs, &name) {
        found.steps.push(Step::Pins {
            network: name.clone(),
        });
    }
    let devices = near_ends(&ours).into_iter();
    let devices = devices.map(|link| Step::Device(link.name.clone()));
    found.steps.extend(devices);
    // Where the agent left no subnet file it made no route that outlives its device.
    if let Some(network) = file.network {
        let routes = direct_routes(net, network).await;
        let routes = found.seen("routes", routes);
        found.steps.extend(routes);
        let blackholes = found.seen("blackhole routes", net.blackholes().await);
        let inside = blackholes.into_iter();
        let inside = inside.filter(|subnet| network.contains(subnet));
        found.steps.extend(inside.map(Step::Blackhole));
        let accepts = forward_rules::are_there(network).await;
        if found.seen("the rules in FORWARD", accepts) {
            found.steps.push(Step::ForwardRules(network));
        }
    }
    // Connections of other networks' may need it: flanneld's rules that it stands for were those of all.
    let is_last = view::networks(&config.bpffs)
        .map(|networks| networks.iter().all(|network| *network == name));
    if found.seen("other networks", is_last)
        && found.seen("POSTROUTING", flanneld_masq::is_held().await)
    {
        found.steps.push(Step::ConntrackHolder);
    }
    let shared = NodeSysctls::new(&config.state_dir, &name);
    let entered = found.seen("the node's sysctls", shared.difference(&Wishes::new()));
    let entered = entered.unwanted.into_iter().map(Step::Sysctl);
    found.steps.extend(entered);
    let logbook = logbook::path(&config.state_dir, &name).map(Some);
    let logbook = found.seen("what the agent wrote down", logbook);
    let logbook = logbook.filter(|logbook| logbook.exists());
    found.steps.extend(logbook.map(Step::Logbook));
    let snapshots = config.snapshots().filter(|snapshot| snapshot.exists());
    found.steps.extend(snapshots.map(Step::Snapshot));
    found
}

/// What is not pinned of what hangs at devices. `tags`: see [`crate::reconcile::desired::Node::tag`].
async fn hooks(
    net: &Netlink,
    config: &Config,
    (links, tags): (&[Link], &[u32]),
    found: &mut Found,
) {
    let name = mark::network_name(&config.etcd.prefix);
    // Before its programs: without any, what the kernel takes for it would come before the node's stack.
    for anchor in links.iter().filter(|link| is_anchor(link)) {
        let shared = dataplane::is_shared(net, anchor, (&config.bpffs, &name), tags).await;
        let ours = shared.map(|shared| !shared);
        if found.seen(&anchor.name, ours) {
            found.steps.push(Step::Device(anchor.name.clone()));
        }
    }
    for vni in tags.iter().copied() {
        for device in links {
            for direction in [Direction::Ingress, Direction::Egress] {
                let filters = dataplane::has_filters(net, device, direction, vni).await;
                let what = format!("the filters of {} ({direction})", device.name);
                if found.seen(&what, filters) {
                    found.steps.push(Step::Filters {
                        device: device.clone(),
                        direction,
                        vni,
                    });
                }
            }
        }
    }
    let made = MadeQdiscs::new(&config.state_dir);
    for device in links {
        let what = format!("the qdisc of {}", device.name);
        if found.seen(&what, made.has(device.index)) {
            let ours = dataplane::are_all_ours(net, device, tags).await;
            if found.seen(&what, ours) {
                found.steps.push(Step::Qdisc {
                    device: device.clone(),
                });
            }
        }
    }
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
