//! How we recognise what is ours: names, aliases and folders. Nothing without our mark is ever removed.

use crate::net::Link;

/// Every alias of ours starts with this; the network's name follows.
const ALIAS: &str = "flannel-ebpf:";

/// The device that users, routes and other software see.
#[must_use]
pub fn device(vni: u32) -> String {
    format!("flannel.{vni}")
}

/// Its other end, where decapsulated packets are pushed in.
#[must_use]
pub fn gro_device(vni: u32) -> String {
    format!("flgro.{vni}")
}

/// Where a kernel vxlan device of the same VNI waits while ours takes over.
#[must_use]
pub fn aside_device(vni: u32) -> String {
    format!("flold.{vni}")
}

/// The device by which the kernel's first GRO pass knows a VXLAN port (`--gro=anchor`); of all networks with that port.
#[must_use]
pub fn anchor_device(port: u16) -> String {
    format!("flanchor.{port}")
}

/// Alias of such a device. It names no network, so that none takes it for its own.
pub const ANCHOR: &str = "flannel-ebpf-anchor";

/// Alias of both ends.
#[must_use]
pub fn alias(network: &str) -> String {
    format!("{ALIAS}{network}")
}

/// The VNI in the name of one of our devices.
#[must_use]
pub fn vni_of(link: &Link) -> Option<u32> {
    link.name.strip_prefix("flannel.")?.parse().ok()
}

/// The first number that is no VNI of ours: `flannel.<VNI>` has at most seven digits.
const FIRST_TAG: u32 = 10_000_000;

/// What stands for the VNI of a network without a tunnel, in 24 bits: a hash of its name (FNV-1a).
#[must_use]
pub fn tag(network: &str) -> u32 {
    let hash = network.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    FIRST_TAG + hash % ((1 << 24) - FIRST_TAG)
}

/// The network named in a link's alias, if the link is one of ours (of this agent or another).
#[must_use]
pub fn network_of(link: &Link) -> Option<&str> {
    link.alias.as_deref()?.strip_prefix(ALIAS)
}

/// Name of a network for aliases and pin folders: its etcd prefix without the leading slash, and
/// with an underscore for everything that bpffs does not take in a file name (it refuses dots).
#[must_use]
pub fn network_name(etcd_prefix: &str) -> String {
    etcd_prefix
        .trim_matches('/')
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_no_vnis_and_fit_beside_a_program() {
        for network in ["coreos_com_network", "red_network", ""] {
            assert!((FIRST_TAG..1 << 24).contains(&tag(network)), "{network}");
        }
        assert_ne!(tag("red_network"), tag("blue_network"));
    }

    #[test]
    fn network_names_are_file_names() {
        assert_eq!(network_name("/coreos.com/network"), "coreos_com_network");
        assert_eq!(network_name("/vxlan/network/"), "vxlan_network");
        assert_eq!(network_name("grün-1_x"), "gr_n-1_x");
    }
}
