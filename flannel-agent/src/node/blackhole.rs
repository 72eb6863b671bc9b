//! `--ip-blackhole-route`: packets to addresses of this node's subnet that no pod has.
//!
//! Without a bridge that covers the subnet (each pod has a route of its own then), such a packet would follow
//! another route or the default route, to a node that sends it back: it circles until its TTL ends. The
//! route comes after every other to the same destination, so it does no harm beside a bridge.

use ipnet::Ipv4Net;

use crate::node::net::{NetError, Netlink};

/// Makes the blackhole route of `subnet`, if it is wanted, the only one of ours into `network`. Returns what it
/// did, in words.
///
/// # Errors
/// What the kernel refuses.
pub async fn keep(
    net: &Netlink,
    network: Ipv4Net,
    subnet: Option<Ipv4Net>,
) -> Result<Vec<String>, NetError> {
    let held = net.blackholes().await?;
    let (add, remove) = plan(&held, network, subnet);
    let mut done = Vec::new();
    if let Some(subnet) = add {
        net.add_blackhole(subnet).await?;
        done.push(format!("added the blackhole route {subnet}"));
    }
    for subnet in remove {
        net.remove_blackhole(subnet).await?;
        done.push(format!("removed the blackhole route {subnet}"));
    }
    for what in &done {
        tracing::info!("{what}");
    }
    Ok(done)
}

/// The route to add, and those to remove.
pub(crate) fn plan(
    held: &[Ipv4Net],
    network: Ipv4Net,
    wanted: Option<Ipv4Net>,
) -> (Option<Ipv4Net>, Vec<Ipv4Net>) {
    let add = wanted.filter(|subnet| !held.contains(subnet));
    let stale = held.iter().copied();
    let stale = stale.filter(|subnet| network.contains(subnet) && Some(*subnet) != wanted);
    (add, stale.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn one_route_for_the_subnet_of_today() {
        let network = net("10.244.0.0/16");
        let (old, new, other) = (
            net("10.244.1.0/24"),
            net("10.244.2.0/24"),
            net("10.9.1.0/24"),
        );
        assert_eq!(plan(&[], network, Some(new)), (Some(new), vec![]));
        assert_eq!(plan(&[new], network, Some(new)), (None, vec![]));
        assert_eq!(
            plan(&[old, other], network, Some(new)),
            (Some(new), vec![old])
        );
        assert_eq!(plan(&[old, other], network, None), (None, vec![old]));
    }
}
