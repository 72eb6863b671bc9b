//! Links and addresses for tests, as the kernel has them before anybody changed anything.

use ipnet::Ipv4Net;

use super::{Address, Kind, Link};

/// A device with a cable: up, Ethernet, 1500 bytes.
pub(crate) fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: Kind::Plain,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        alias: None,
        up: true,
        running: true,
        noarp: false,
        loopback: false,
        ethernet: true,
        bare: false,
        peer: None,
        xdp_program: None,
        controller: None,
        lower: None,
        blocked: false,
        gso_max: None,
    }
}

/// One end of a pair as we make them.
pub(crate) fn veth(index: u32, name: &str, peer: Option<u32>, alias: Option<&str>) -> Link {
    Link {
        kind: Kind::Veth,
        mtu: 1450,
        alias: alias.map(str::to_owned),
        noarp: true,
        peer,
        ..link(index, name)
    }
}

/// A global address that does not expire.
///
/// # Panics
/// If `net` is no CIDR.
pub(crate) fn address(index: u32, net: &str) -> Address {
    let net: Ipv4Net = net.parse().unwrap();
    Address {
        index,
        net,
        link: net.trunc(),
        global: true,
        permanent: true,
        secondary: false,
        deprecated: false,
    }
}
