//! What is true of this node, read from the kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Facts, FastPath, Hook, Ports, destinations};
use crate::dataplane::online_cpus;
use crate::lease::Leases;
use crate::net::{Link, NetError, Netlink, sysctl};
use crate::uplink::Uplink;

impl Facts {
    /// Reads everything anew.
    ///
    /// # Errors
    /// If the kernel does not say which local ports it uses.
    pub async fn gather(
        net: &Netlink,
        uplink: &Uplink,
        leases: &Leases,
        fast_path: &FastPath,
    ) -> Result<Self, NetError> {
        let mut facts = Self {
            local_ports: sysctl::local_port_range()?,
            cpus: online_cpus(),
            next_hops: BTreeMap::new(),
            pod_ports: pod_ports(&net.links().await?, fast_path),
        };
        facts.update(net, uplink, leases).await;
        Ok(facts)
    }

    /// After a change of leases: looks up next hops that are not known yet and forgets those nobody
    /// needs. After a change of routes, [`Self::gather`] everything.
    pub async fn update(&mut self, net: &Netlink, uplink: &Uplink, leases: &Leases) {
        let wanted = destinations(leases);
        self.next_hops.retain(|ip, _| wanted.contains(ip));
        let missing: Vec<Ipv4Addr> = wanted
            .into_iter()
            .filter(|ip| !self.next_hops.contains_key(ip))
            .collect();
        self.next_hops
            .extend(net.next_hops(missing, Some(uplink.index)).await);
    }
}

/// Where the programs of the fast path belong: nowhere while there is no bridge.
fn pod_ports(links: &[Link], fast_path: &FastPath) -> Ports {
    let Some(bridge) = links.iter().find(|link| link.name == fast_path.bridge) else {
        return Ports::new();
    };
    let belongs = |link: &&Link| match fast_path.hook {
        Hook::Bridge => link.index == bridge.index,
        Hook::Port => link.controller == Some(bridge.index),
    };
    let found = links.iter().filter(belongs);
    found.map(|link| (link.name.clone(), link.index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Kind;

    fn link(index: u32, name: &str, controller: Option<u32>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: Kind::Veth,
            mac: None,
            mtu: 1450,
            alias: None,
            up: true,
            running: true,
            noarp: false,
            loopback: false,
            ethernet: true,
            peer: None,
            controller,
        }
    }

    fn links() -> Vec<Link> {
        vec![
            link(2, "eth0", None),
            link(5, "cni0", None),
            link(6, "docker0", None),
            link(7, "vetha", Some(5)),
            link(8, "vethb", Some(6)),
        ]
    }

    #[test]
    fn ports_of_the_pod_bridge_only() {
        let at_ports = FastPath::default();
        let ports = pod_ports(&links(), &at_ports);
        assert_eq!(ports, Ports::from([("vetha".to_owned(), 7)]));
        assert_eq!(pod_ports(&links()[..1], &at_ports), Ports::new());
    }

    #[test]
    fn or_the_bridge_itself() {
        let at_bridge = FastPath {
            hook: Hook::Bridge,
            ..FastPath::default()
        };
        assert_eq!(
            pod_ports(&links(), &at_bridge),
            Ports::from([("cni0".to_owned(), 5)])
        );
    }
}
