//! Flannel's masquerade rules, first match wins.

use crate::{Ipv4, cidr};

/// kube-proxy's "to be masqueraded" bit.
const KUBE_MARK: u32 = 0x4000;

/// The cluster's Network and this node's own subnet; all in host order.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    pub network: u32,
    pub network_mask: u32,
    pub subnet: u32,
    pub subnet_mask: u32,
}

impl Cluster {
    #[inline(always)]
    pub const fn has(&self, addr: Ipv4) -> bool {
        cidr::contains(self.network, self.network_mask, addr)
    }

    #[inline(always)]
    pub const fn owns(&self, addr: Ipv4) -> bool {
        cidr::contains(self.subnet, self.subnet_mask, addr)
    }
}

/// The row of flannel's table that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// 1: kube-proxy masquerades it.
    Marked,
    /// 2: own pod to the overlay.
    OwnToCluster,
    /// 3: overlay to an own pod.
    ClusterToOwn,
    /// 4: outside to an own pod (externalTrafficPolicy Local keeps the client's address).
    OutsideToOwn,
    /// 5: a pod to anything else that is not multicast, other nodes' addresses too.
    ClusterToOutside,
    /// 6: outside to another node's pod; the reply must come back here.
    OutsideToCluster,
    /// No row: not the cluster's traffic, or multicast.
    None,
}

impl Rule {
    /// Whether the packet leaves with the address of the device.
    #[inline(always)]
    pub const fn translates(self) -> bool {
        matches!(self, Self::ClusterToOutside | Self::OutsideToCluster)
    }
}

/// The first row that matches a packet.
#[inline(always)]
pub const fn decide(cluster: &Cluster, src: Ipv4, dst: Ipv4, mark: u32) -> Rule {
    if mark & KUBE_MARK != 0 {
        return Rule::Marked;
    }
    match (cluster.has(src), cluster.has(dst)) {
        (true, true) if cluster.owns(src) => Rule::OwnToCluster,
        (true, true) if cluster.owns(dst) => Rule::ClusterToOwn,
        (false, true) if cluster.owns(dst) => Rule::OutsideToOwn,
        (true, _) if !is_multicast(dst) => Rule::ClusterToOutside,
        (false, true) => Rule::OutsideToCluster,
        _ => Rule::None,
    }
}

/// 224.0.0.0/4.
#[inline(always)]
const fn is_multicast(addr: Ipv4) -> bool {
    addr[0] & 0xf0 == 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const CLUSTER: Cluster = Cluster {
        network: u32::from_be_bytes([10, 244, 0, 0]),
        network_mask: cidr::mask(16),
        subnet: u32::from_be_bytes([10, 244, 1, 0]),
        subnet_mask: cidr::mask(24),
    };
    const OWN: Ipv4 = [10, 244, 1, 5];
    const OTHER: Ipv4 = [10, 244, 2, 7];
    const NODE: Ipv4 = [192, 168, 0, 1];
    const PEER: Ipv4 = [192, 168, 0, 2];
    const WORLD: Ipv4 = [198, 51, 100, 9];

    #[rstest]
    #[case::row_1_own_to_outside(OWN, WORLD, 0x4000, Rule::Marked)]
    #[case::row_1_outside_to_cluster(WORLD, OTHER, 0x4000, Rule::Marked)]
    #[case::row_1_other_bits_beside_it(OWN, WORLD, 0xc001, Rule::Marked)]
    #[case::other_marks_do_not_count(OWN, WORLD, 0x8000, Rule::ClusterToOutside)]
    #[case::row_2_own_to_other_pod(OWN, OTHER, 0, Rule::OwnToCluster)]
    #[case::row_2_own_to_own(OWN, [10, 244, 1, 6], 0, Rule::OwnToCluster)]
    #[case::row_3_other_pod_to_own(OTHER, OWN, 0, Rule::ClusterToOwn)]
    #[case::row_4_outside_to_own(WORLD, OWN, 0, Rule::OutsideToOwn)]
    #[case::row_4_node_to_own(NODE, OWN, 0, Rule::OutsideToOwn)]
    #[case::row_5_own_to_outside(OWN, WORLD, 0, Rule::ClusterToOutside)]
    #[case::row_5_own_to_other_node(OWN, PEER, 0, Rule::ClusterToOutside)]
    #[case::row_5_other_pod_to_outside(OTHER, WORLD, 0, Rule::ClusterToOutside)]
    #[case::row_5_transit(OTHER, [10, 244, 3, 1], 0, Rule::ClusterToOutside)]
    #[case::row_5_link_local(OWN, [169, 254, 169, 254], 0, Rule::ClusterToOutside)]
    #[case::row_5_above_multicast(OWN, [240, 0, 0, 1], 0, Rule::ClusterToOutside)]
    #[case::row_5_below_multicast(OWN, [223, 255, 255, 255], 0, Rule::ClusterToOutside)]
    #[case::multicast(OWN, [224, 0, 0, 251], 0, Rule::None)]
    #[case::multicast_end(OWN, [239, 255, 255, 255], 0, Rule::None)]
    #[case::row_6_outside_to_other_pod(WORLD, OTHER, 0, Rule::OutsideToCluster)]
    #[case::row_6_node_to_other_pod(NODE, OTHER, 0, Rule::OutsideToCluster)]
    #[case::not_the_clusters(NODE, WORLD, 0, Rule::None)]
    fn table(#[case] src: Ipv4, #[case] dst: Ipv4, #[case] mark: u32, #[case] want: Rule) {
        assert_eq!(decide(&CLUSTER, src, dst, mark), want);
    }

    /// The rules as iptables holds them: (source in, destination in, translate), first match wins.
    fn iptables(cluster: &Cluster, src: Ipv4, dst: Ipv4, mark: u32) -> bool {
        let c = |a| cluster.has(a);
        let p = |a| cluster.owns(a);
        let m = |a: Ipv4| (224..=239).contains(&a[0]);
        let rules: [(bool, bool); 6] = [
            (mark & 0x4000 == 0x4000, false),
            (p(src) && c(dst), false),
            (c(src) && p(dst), false),
            (!c(src) && p(dst), false),
            (c(src) && !m(dst), true),
            (!c(src) && c(dst), true),
        ];
        rules
            .iter()
            .find(|(hit, _)| *hit)
            .is_some_and(|(_, masquerade)| *masquerade)
    }

    fn address() -> impl Strategy<Value = Ipv4> {
        prop_oneof![
            any::<u8>().prop_map(|x| [10, 244, 1, x]),
            any::<[u8; 2]>().prop_map(|x| [10, 244, x[0], x[1]]),
            any::<[u8; 3]>().prop_map(|x| [224 + (x[0] & 15), x[0], x[1], x[2]]),
            any::<Ipv4>(),
        ]
    }

    proptest! {
        #[test]
        fn equals_the_rules_of_iptables(src in address(), dst in address(), mark in prop_oneof![Just(0), any::<u32>()]) {
            prop_assert_eq!(
                decide(&CLUSTER, src, dst, mark).translates(),
                iptables(&CLUSTER, src, dst, mark)
            );
        }
    }
}
