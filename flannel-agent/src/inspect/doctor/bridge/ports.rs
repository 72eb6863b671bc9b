//! The bridge's ports: whether frames get by it to pods, and of which length.

use super::super::Report;
use crate::node::net::{Kind, Link};

/// Of those with the same trouble.
const NAMED: usize = 3;

pub(super) fn check(bridge: &Link, links: &[Link], pods_mtu: Option<u32>, report: &mut Report) {
    let ports = links.iter();
    let ports =
        ports.filter(|link| link.controller == Some(bridge.index) && link.kind == Kind::Veth);
    let ports: Vec<&Link> = ports.collect();
    if ports.is_empty() {
        return;
    }
    up(bridge, &ports, report);
    if let Some(mtu) = pods_mtu {
        lengths(bridge, &ports, mtu, report);
    }
}

fn up(bridge: &Link, ports: &[&Link], report: &mut Report) {
    let Link { name, up, .. } = bridge;
    if !up {
        report.failure(
            format!("{name} is down: nothing reaches its {} pods, nor leaves them", ports.len()),
            format!("ip link set {name} up; then see that its address and the route to the subnet are there: ip addr show {name}"),
        );
    }
    let down: Vec<&Link> = ports.iter().copied().filter(|port| !port.up).collect();
    if !down.is_empty() {
        let names = named(&down, |port| port.name.clone());
        report.warning(
            format!(
                "{} of {} ports of {name} are down ({names}): nothing reaches their pods",
                down.len(),
                ports.len()
            ),
            "ip link set PORT up, and find out who set it down",
        );
    }
}

/// flannel gives `mtu` to new pods; those that are there keep theirs, and a bridge that was given one by hand keeps it, too.
fn lengths(bridge: &Link, ports: &[&Link], mtu: u32, report: &mut Report) {
    let name = &bridge.name;
    let longer: Vec<&Link> = ports
        .iter()
        .copied()
        .filter(|port| port.mtu > mtu)
        .collect();
    if !longer.is_empty() {
        let names = named(&longer, |port| format!("{} has {}", port.name, port.mtu));
        report.warning(
            format!(
                "{} of {} ports of {name} have a larger MTU than FLANNEL_MTU, which is {mtu} ({names}): of what these pods \
                 send to other nodes, packets of more than {mtu} bytes are cut up, or refused by ICMP (fragmentation needed) and \
                 lost where the pod does not heed it",
                longer.len(),
                ports.len()
            ),
            "start these pods anew: new ones get FLANNEL_MTU; if they do not, take the mtu out of the CNI network's delegate",
        );
    }
    let shortest = ports
        .iter()
        .map(|port| port.mtu)
        .min()
        .unwrap_or(bridge.mtu);
    if bridge.mtu > shortest {
        report.warning(
            format!(
                "{name} has the MTU {}, and ports of it have {shortest}: longer packets to their pods are dropped without a word",
                bridge.mtu
            ),
            format!("ip link set {name} mtu {shortest}"),
        );
    }
}

fn named(ports: &[&Link], name: impl Fn(&Link) -> String) -> String {
    let first: Vec<String> = ports.iter().take(NAMED).map(|port| name(port)).collect();
    let first = first.join(", ");
    match ports.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::{Said, said};
    use crate::node::net::fixtures::{link, veth};

    const BRIDGE: u32 = 7;

    fn bridge(mtu: u32, up: bool) -> Link {
        Link {
            mtu,
            up,
            ..link(BRIDGE, "cni0")
        }
    }

    fn port(number: u32, mtu: u32) -> Link {
        Link {
            mtu,
            controller: Some(BRIDGE),
            ..veth(10 + number, &format!("veth{number}"), None, None)
        }
    }

    fn about(bridge: &Link, ports: &[Link]) -> Said {
        said(|report| check(bridge, ports, Some(1450), report))
    }

    #[test]
    fn a_bridge_without_pods_may_be_as_it_likes() {
        let elsewhere = Link {
            controller: Some(BRIDGE + 1),
            up: false,
            ..port(1, 9000)
        };
        assert_eq!(about(&bridge(9000, false), &[elsewhere]), Said::new());
        assert_eq!(about(&bridge(1450, true), &[port(1, 1450)]), Said::new());
    }

    #[test]
    fn a_bridge_that_is_down_keeps_its_pods_from_everybody() {
        let said = about(&bridge(1450, false), &[port(1, 1450), port(2, 1450)]);
        assert_eq!((said.len(), said[0].0), (1, Mark::Failure), "{said:?}");
        let what = "cni0 is down: nothing reaches its 2 pods, nor leaves them";
        assert_eq!(said[0].1, what);
        assert!(
            said[0]
                .2
                .as_ref()
                .unwrap()
                .starts_with("ip link set cni0 up")
        );
    }

    #[test]
    fn a_port_that_is_down_is_named() {
        let down = Link {
            up: false,
            ..port(2, 1450)
        };
        let said = about(&bridge(1450, true), &[port(1, 1450), down]);
        assert_eq!((said.len(), said[0].0), (1, Mark::Warning), "{said:?}");
        let what = "1 of 2 ports of cni0 are down (veth2)";
        assert!(said[0].1.starts_with(what), "{said:?}");
    }

    #[test]
    fn pods_that_keep_a_larger_mtu_are_named() {
        let ports: Vec<Link> = (1..=5).map(|n| port(n, 1500)).collect();
        let unknown = said(|report| check(&bridge(1500, true), &ports, None, report));
        assert_eq!(unknown, Said::new());
        let said = about(&bridge(1500, true), &ports);
        assert_eq!((said.len(), said[0].0), (1, Mark::Warning), "{said:?}");
        let what = "5 of 5 ports of cni0 have a larger MTU than FLANNEL_MTU, which is 1450 (veth1 has 1500, veth2 has 1500, \
                    veth3 has 1500 and 2 more): ";
        assert!(said[0].1.starts_with(what), "{said:?}");
    }

    #[test]
    fn a_bridge_that_takes_more_than_its_ports_is_named() {
        let said = about(&bridge(1500, true), &[port(1, 1450), port(2, 1400)]);
        assert_eq!((said.len(), said[0].0), (1, Mark::Warning), "{said:?}");
        let what = "cni0 has the MTU 1500, and ports of it have 1400";
        assert!(said[0].1.starts_with(what), "{said:?}");
        assert_eq!(said[0].2.as_deref(), Some("ip link set cni0 mtu 1400"));
    }
}
