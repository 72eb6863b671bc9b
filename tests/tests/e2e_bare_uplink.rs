//! Uplinks without a link-layer header (tun, and what looks like it: tailscale, WireGuard), for the tunnel.

#![cfg(test)]

use flannel_tests::bare::{IFACE, TUN, address, pair};
use flannel_tests::fast_path::{fast, hooked_if_ours, was_fast};
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::ways::{carries_everything, host_gw, vxlan};
use rstest::rstest;

const BESIDE_FLANNELD: [Mix; 4] = [
    Mix::Ours,
    Mix::OursAndFlanneld,
    Mix::FlanneldAndOurs,
    Mix::Flanneld,
];

#[rstest]
fn pods_reach_each_other(
    #[values(
        BESIDE_FLANNELD[0],
        BESIDE_FLANNELD[1],
        BESIDE_FLANNELD[2],
        BESIDE_FLANNELD[3]
    )]
    mix: Mix,
    #[values(vxlan(), vxlan().direct_routing(), host_gw())] net: Network,
) {
    let (pair, _link) = pair(net, mix, &[]);
    let lease = pair.lab.etcd().get(&pair.net.lease_key(pair.one.subnet()));
    let published = format!("\"PublicIP\":\"{}\"", address(1));
    assert!(lease.unwrap().contains(&published));
    carries_everything(&pair);
}
