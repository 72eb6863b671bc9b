//! How we recognise what is ours: names, aliases and folders. Nothing without our mark is ever removed.

use ipnet::Ipv4Net;

use crate::flannel::backend::Wire;
use crate::node::net::{Address, Kind, Link};

/// Every alias of ours starts with this; the network's name follows.
const ALIAS: &str = "flannel-ebpf:";

/// The device that users, routes and other software see.
#[must_use]
pub fn device(wire: Wire) -> String {
    named("flannel", wire)
}

/// `flannel.<VNI>` and its like; for the backend udp the first of its devices.
fn named(what: &str, wire: Wire) -> String {
    match wire {
        Wire::Vxlan { vni } => format!("{what}.{vni}"),
        Wire::Udp => numbered(what, 0),
        Wire::Ipip => format!("{what}.ipip"),
    }
}

/// Its other end, where decapsulated packets are pushed in.
#[must_use]
pub fn gro_device(wire: Wire) -> String {
    named("flgro", wire)
}

/// Where a kernel device of the same tunnel waits while ours takes over.
#[must_use]
pub fn aside_device(wire: Wire) -> String {
    named("flold", wire)
}

/// One of the devices of the backend udp: flanneld as well has the first number that is free, since no name says whose it is.
fn numbered(what: &str, number: u32) -> String {
    format!("{what}{number}")
}

fn number_of(what: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(what)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Whether a name is of a device of the backend udp, ours or flanneld's.
#[must_use]
pub fn is_udp(name: &str) -> bool {
    number_of("flannel", name).is_some()
}

/// Near end, far end, and where another device of that name would be put.
#[must_use]
pub fn udp_pair(number: u32) -> [String; 3] {
    ["flannel", "flgro", "flold"].map(|what| numbered(what, number))
}

/// The number of `network`'s udp device: that of the one it has, of flanneld's for its `range`, or the first that is free.
pub(crate) fn udp_number(
    network: &str,
    range: Ipv4Net,
    links: &[Link],
    addresses: &[Address],
) -> u32 {
    let alias = alias(network);
    let named = |what: &'static str| {
        let numbered = move |link: &'_ Link| number_of(what, &link.name);
        let links = links.iter();
        links.filter_map(move |link| Some((numbered(link)?, link)))
    };
    let mut either = named("flannel").chain(named("flgro"));
    if let Some((number, _)) = either.find(|(_, link)| link.alias.as_deref() == Some(&alias)) {
        return number;
    }
    let is_of_range = |link: &Link| {
        let mut own = addresses.iter().filter(|it| it.index == link.index);
        own.any(|address| range.contains(&address.ip()))
    };
    // Made by an agent that did not live to mark it.
    let is_bare = |link: &Link| {
        let mut far = named("flgro").filter(|(_, far)| link.peer == Some(far.index));
        link.kind == Kind::Veth && link.alias.is_none() && far.next().is_some()
    };
    let mut near = named("flannel");
    if let Some((number, _)) = near.find(|(_, link)| is_of_range(link) || is_bare(link)) {
        return number;
    }
    let is_taken = |number: u32| {
        let names = udp_pair(number);
        links.iter().any(|link| names.contains(&link.name))
    };
    (0..u32::MAX).find(|it| !is_taken(*it)).unwrap_or_default()
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

/// The tunnel that the name of one of our devices is about.
#[must_use]
pub fn wire_of(link: &Link) -> Option<Wire> {
    if is_udp(&link.name) {
        return Some(Wire::Udp);
    }
    if link.name == device(Wire::Ipip) {
        return Some(Wire::Ipip);
    }
    let vni = link.name.strip_prefix("flannel.")?.parse().ok()?;
    Some(Wire::Vxlan { vni })
}

/// Its VNI, if it has one.
#[must_use]
pub fn vni_of(link: &Link) -> Option<u32> {
    wire_of(link)?.vni()
}

/// The first number that is no VNI of ours: `flannel.<VNI>` has at most seven digits.
const FIRST_TAG: u32 = 10_000_000;

/// What stands for the VNI of a network without one, in 24 bits: a hash of its name (FNV-1a).
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

/// Whether a device is an anchor of ours. Without an alias it is one that an agent made and did not live to mark.
pub(crate) fn is_anchor(link: &Link) -> bool {
    let is_named = |port| link.name == anchor_device(port);
    let marked = matches!(link.alias.as_deref(), None | Some(ANCHOR));
    marked && matches!(link.kind, Kind::Vxlan { port: Some(port), .. } if is_named(port))
}

/// Devices of ours, without those that go with another: people know the near end of a pair.
pub(crate) fn near_ends<'a>(ours: &[&'a Link]) -> Vec<&'a Link> {
    let is_near = |link: &Link| wire_of(link).is_some();
    let goes_along = |link: &Link| {
        !is_near(link)
            && ours
                .iter()
                .any(|near| is_near(near) && near.peer == Some(link.index))
    };
    let mut devices: Vec<&Link> = ours.iter().copied().filter(|l| !goes_along(l)).collect();
    devices.sort_by_key(|link| !is_near(link));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures::{address, veth};

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

    fn link(index: u32, name: &str, peer: Option<u32>) -> Link {
        veth(index, name, peer, Some(&alias("net")))
    }

    #[test]
    fn a_udp_device_has_the_first_free_number_and_keeps_it() {
        let range: Ipv4Net = "10.1.0.0/16".parse().unwrap();
        let other = veth(5, "flannel0", Some(6), Some(&alias("other")));
        let far = veth(6, "flgro0", Some(5), Some(&alias("other")));
        let ours = link(9, "flannel3", Some(10));
        let number = |links: &[&Link], addresses: &[Address]| {
            let links: Vec<Link> = links.iter().copied().cloned().collect();
            udp_number("net", range, &links, addresses)
        };
        assert_eq!(number(&[], &[]), 0);
        assert_eq!(number(&[&other, &far], &[]), 1);
        assert_eq!(number(&[&other, &far, &ours], &[]), 3);
        assert_eq!(number(&[&link(10, "flgro3", None)], &[]), 3, "a lone end");
        let bare = veth(7, "flannel2", Some(8), None);
        let bare_far = veth(8, "flgro2", Some(7), None);
        assert_eq!(number(&[&other, &far, &bare, &bare_far], &[]), 2);
        assert_eq!(number(&[&other, &far, &bare], &[]), 1, "a pod's, say");
        let at = |net: &str| address(7, net);
        assert_eq!(number(&[&other, &bare], &[at("10.1.2.0/32")]), 2);
        assert_eq!(number(&[&other, &bare], &[at("10.2.2.0/32")]), 1);
        for name in [
            "flannel",
            "flannel.1",
            "flannel+1",
            "flannel-wg",
            "flannelx",
        ] {
            assert!(!is_udp(name), "{name}");
        }
    }

    #[test]
    fn a_pair_goes_by_its_near_end_and_a_lone_far_end_by_itself() {
        let (near, far) = (link(5, "flannel.1", Some(6)), link(6, "flgro.1", Some(5)));
        let names = |links: &[&Link]| -> Vec<String> {
            near_ends(links).iter().map(|l| l.name.clone()).collect()
        };
        assert_eq!(names(&[&far, &near]), ["flannel.1"]);
        assert_eq!(names(&[&far]), ["flgro.1"]);
        let udp = (link(7, "flannel0", Some(8)), link(8, "flgro0", Some(7)));
        assert_eq!(names(&[&udp.1, &udp.0]), ["flannel0"]);
        assert_eq!(wire_of(&udp.0), Some(Wire::Udp));
        let ipip = link(10, "flannel.ipip", Some(11));
        assert_eq!(wire_of(&ipip), Some(Wire::Ipip));
        let other = link(9, "flgro.2", Some(8));
        assert_eq!(names(&[&other, &near]), ["flannel.1", "flgro.2"]);
    }
}
