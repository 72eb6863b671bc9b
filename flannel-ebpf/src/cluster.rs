//! Which addresses are pods'.

use flannel_common::snat::Cluster;

use crate::globals::{NETWORK, NETWORK_MASK, SUBNET, SUBNET_MASK};

#[inline(always)]
pub(crate) fn cluster() -> Cluster {
    Cluster {
        network: NETWORK.load(),
        network_mask: NETWORK_MASK.load(),
        subnet: SUBNET.load(),
        subnet_mask: SUBNET_MASK.load(),
    }
}
