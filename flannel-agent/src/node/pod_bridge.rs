//! The pods' bridge. The CNI plugin makes it once and never changes its address; a node whose subnet
//! changed hands out addresses that its own bridge does not route.

use std::fmt;

use ipnet::Ipv4Net;

use crate::node::net::{NetError, Netlink};

/// The bridge belongs to another subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub bridge: String,
    pub addresses: Vec<Ipv4Net>,
    pub subnet: Ipv4Net,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let Self { bridge, subnet, .. } = self;
        write!(
            f,
            "the bridge {bridge} has {}, but this node's subnet is {subnet}: pods behind it are not reached. \
             Delete it (ip link delete {bridge}) and restart this node's pods",
            held.join(" and ")
        )
    }
}

/// Looks at the bridge; `None` when it is right, or not there.
///
/// # Errors
/// If the kernel does not answer.
pub async fn check(
    net: &Netlink,
    bridge: &str,
    network: Ipv4Net,
    subnet: Ipv4Net,
) -> Result<Option<Mismatch>, NetError> {
    let Some(link) = net.link(bridge).await? else {
        return Ok(None);
    };
    let addresses = net.addresses().await?;
    let held = addresses.iter().filter(|a| a.index == link.index);
    Ok(mismatch(bridge, held.map(|a| a.net), network, subnet))
}

/// A bridge without an address in the whole network is somebody else's: another agent's on this node, say.
fn mismatch(
    bridge: &str,
    addresses: impl Iterator<Item = Ipv4Net>,
    network: Ipv4Net,
    subnet: Ipv4Net,
) -> Option<Mismatch> {
    let addresses: Vec<Ipv4Net> = addresses.filter(|a| network.contains(&a.addr())).collect();
    let right = |a: &Ipv4Net| a.trunc() == subnet;
    (!addresses.is_empty() && !addresses.iter().any(right)).then_some(Mismatch {
        bridge: bridge.to_owned(),
        addresses,
        subnet,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::flannel::subnet_env::tests::env;

    #[rstest]
    #[case::right(&["10.244.1.1/24"], false)]
    #[case::no_address_yet(&[], false)]
    #[case::another_subnet(&["10.244.2.1/24"], true)]
    #[case::another_length(&["10.244.1.1/25"], true)]
    #[case::both(&["10.244.2.1/24", "10.244.1.1/24"], false)]
    #[case::another_network(&["10.9.1.1/24"], false)]
    fn a_bridge_of_another_subnet_is_found(#[case] addresses: &[&str], #[case] wrong: bool) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap());
        let found = mismatch("docker0", addresses, env().network, env().subnet);
        assert_eq!(found.is_some(), wrong);
        if let Some(found) = found {
            let text = found.to_string();
            assert!(
                text.contains("10.244.1.0/24") && text.contains("docker0 has"),
                "{text}"
            );
        }
    }
}
