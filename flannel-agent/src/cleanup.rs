//! `cleanup`: takes a network off this node. Only what carries our mark goes; the subnet file and the lease
//! stay, so that whoever comes next – flanneld, or the agent again – gets the same subnet.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use ipnet::Ipv4Net;

use crate::cli::Config;
use crate::dataplane;
use crate::net::{Direction, Netlink};
use crate::{forward_rules, mark, subnet_env};

/// Removes everything of the network that `config` names, and says what. The agent must not run.
///
/// # Errors
/// What the kernel or iptables refuses; the rest is still there then.
pub fn main(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let removed = runtime.block_on(clean(config))?;
    if removed == 0 {
        println!("nothing of {} is on this node", config.etcd.prefix);
    }
    Ok(())
}

async fn clean(config: &Config) -> anyhow::Result<usize> {
    let name = mark::network_name(&config.etcd.prefix);
    let net = Netlink::open()?;
    let links = net.links().await?;
    let alias = mark::alias(&name);
    let ours = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()));
    let mut removed = 0;
    let mut said = |what: String| {
        println!("removed {what}");
        removed += 1;
    };

    // Hooks before devices: what arrives goes back to the kernel at once.
    for vni in ours.clone().filter_map(mark::vni_of) {
        for link in &links {
            for direction in [Direction::Ingress, Direction::Egress] {
                if dataplane::remove_filters(&net, link, direction, vni).await? {
                    said(format!("the filters of {} ({direction})", link.name));
                }
            }
        }
    }
    if dataplane::remove_pins(&config.bpffs, &name)? {
        said(format!("programs and maps of {name}"));
    }
    // The far end of a pair goes with the near one, which is what people know; it may also be alone.
    let near = ours.clone().filter(|link| mark::vni_of(link).is_some());
    for link in near.chain(ours.clone()) {
        if net.link(&link.name).await?.is_some() {
            net.delete_link(link.index).await?;
            said(format!("the device {}", link.name));
        }
    }
    // Where the agent left no subnet file it made no route that outlives its device.
    if let Some(network) = subnet_env::read(&config.subnet_file)?.network {
        for (destination, via, index) in direct_routes(&net, network).await? {
            net.remove_route_via(destination, via, index).await?;
            said(format!("the route {destination} via {via}"));
        }
        forward_rules::remove(network).await?;
    }
    Ok(removed)
}

/// Our routes to single peers: gateway and interface.
async fn direct_routes(
    net: &Netlink,
    network: Ipv4Net,
) -> anyhow::Result<Vec<(Ipv4Net, Ipv4Addr, u32)>> {
    let routes = net.our_routes().await?;
    let inside = routes
        .into_iter()
        .filter(|route| network.contains(&route.destination));
    Ok(inside
        .filter_map(|route| {
            let path = route.paths.first()?;
            Some((route.destination, path.gateway?, path.index))
        })
        .collect())
}
