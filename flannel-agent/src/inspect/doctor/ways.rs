//! The ways to the peers: what the kernel does with what this node sends there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Patient, Report};
use crate::base::mac::MacAddr;
use crate::dataplane::view::View;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::Leases;
use crate::node::mark::network_name;
use crate::node::node_sysctls::NodeSysctls;
use crate::node::uplink::Uplink;
use crate::reconcile::desired::{Facts, Sought};

/// Peers that are named one by one.
const NAMED: usize = 5;

/// What the agent knows of this node, as far as it follows from the kernel and the maps.
pub(super) async fn look(
    patient: &Patient<'_>,
    uplink: &Uplink,
    network: &NetworkConfig,
    report: &mut Report,
) -> Option<Facts> {
    // Before the first start there is no peer.
    let leases = match &patient.view {
        Ok(view) => leases(view, network),
        Err(_) => Leases::default(),
    };
    let name = network_name(&patient.config.etcd.prefix);
    let sought = Sought {
        config: network,
        uplink,
        leases: &leases,
        fast_path: &patient.config.fast_path,
        sysctls: &NodeSysctls::new(&patient.config.state_dir, &name),
        network: &name,
    };
    match Facts::gather(patient.net, sought).await {
        Ok(facts) => {
            tell(leases.len(), &facts.unreached, uplink, report);
            Some(facts)
        }
        Err(error) => {
            report.warning(
                format!("the ways to the peers are not known: {error}"),
                "run doctor as root, in the node's network namespace",
            );
            None
        }
    }
}

fn tell(
    peers: usize,
    unreached: &BTreeMap<Ipv4Addr, String>,
    uplink: &Uplink,
    report: &mut Report,
) {
    if unreached.is_empty() {
        if peers > 0 {
            report.ok(format!("routes lead to {peers} peers"));
        }
        return;
    }
    let from = uplink.address;
    for (peer, why) in unreached.iter().take(NAMED) {
        report.failure(
            format!("the peer {peer} cannot be reached: {why}"),
            format!("correct what this shows: ip route get {peer} from {from}; ip rule; ip neigh"),
        );
    }
    if let Some(more) = unreached.len().checked_sub(NAMED).filter(|more| *more > 0) {
        report.failure(
            format!("{more} more peers of {peers} cannot be reached"),
            "begin with those above: they mostly share the cause",
        );
    }
}

/// As much of the leases as the maps hold.
fn leases(view: &View, network: &NetworkConfig) -> Leases {
    let peers = view.peers().unwrap_or_default();
    let attrs = |peer: &flannel_common::maps::Peer| {
        let public_ip = Ipv4Addr::from(peer.public_ip);
        network.backend.attrs(public_ip, MacAddr(peer.vtep_mac))
    };
    let leases: BTreeMap<_, _> = peers
        .iter()
        .map(|(net, peer)| (*net, attrs(peer)))
        .collect();
    leases.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::{bad, fine, said};

    #[test]
    fn peers_without_a_way_are_named() {
        let uplink = Uplink {
            name: "eth0".to_owned(),
            index: 2,
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, 9],
            address: [192, 0, 2, 1].into(),
            public_ip: [192, 0, 2, 1].into(),
            is_carrier: true,
            why: "test".to_owned(),
        };
        let lost = |last: u8| (Ipv4Addr::new(203, 0, 113, last), "no route".to_owned());
        let said = |lost: &BTreeMap<_, _>| said(|report| tell(9, lost, &uplink, report));
        assert_eq!(said(&BTreeMap::new()), fine("routes lead to 9 peers"));
        assert_eq!(
            said(&[lost(7)].into()),
            bad(
                "the peer 203.0.113.7 cannot be reached: no route",
                "correct what this shows: ip route get 203.0.113.7 from 192.0.2.1; ip rule; ip neigh"
            )
        );
        let many = said(&(1..=7).map(lost).collect());
        assert_eq!(many.len(), NAMED + 1);
        assert!(many[NAMED].1.starts_with("2 more peers of 9"));
    }
}
