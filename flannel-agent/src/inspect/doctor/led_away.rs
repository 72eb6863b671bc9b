//! What others have put in the way of our routes to the peers' pods: a narrower route, or a rule with a table of its own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Patient, Report};
use crate::node::net::{Link, PROTOCOL, Route};

/// Peers that are named one by one.
const NAMED: usize = 5;

/// Packets of pods that go another way than our route.
#[derive(Debug)]
struct LedAway {
    subnet: Ipv4Net,
    address: Ipv4Addr,
    /// Where to.
    to: String,
}

pub(super) async fn check(patient: &Patient<'_>, report: &mut Report) {
    let (Ok(all), Ok(ours)) = (patient.net.routes().await, patient.net.our_routes().await) else {
        return;
    };
    let own = crate::flannel::subnet_env::read(patient.subnet_file())
        .ok()
        .and_then(|previous| previous.subnet);
    let mut found = Vec::new();
    for route in &ours {
        let subnet = route.destination;
        // The backend udp has a route for the whole Network beside those of leases.
        if ours.iter().any(|other| is_within(other, subnet)) {
            continue;
        }
        for address in samples(subnet, &all, own) {
            let to = match patient.net.next_hop(address, None).await {
                Ok(hop) if route.leads_by(hop.index) => continue,
                Ok(hop) => format!(
                    "leaves by {} to {}",
                    name(hop.index, patient.links),
                    hop.via
                ),
                Err(error) => format!("goes nowhere: {error}"),
            };
            found.push(LedAway {
                subnet,
                address,
                to,
            });
            break;
        }
    }
    tell(&found, report);
}

fn is_within(route: &Route, net: Ipv4Net) -> bool {
    route.destination != net && net.contains(&route.destination)
}

/// Addresses of the subnet of which each may have a route of its own. This node's `own` subnet, which has, may be inside: there is one
/// route for all with wireguard.
fn samples(subnet: Ipv4Net, routes: &[Route], own: Option<Ipv4Net>) -> BTreeSet<Ipv4Addr> {
    let others = routes
        .iter()
        .filter(|route| route.protocol != PROTOCOL && subnet.contains(&route.destination));
    let nets = others.map(|route| route.destination).chain([subnet]);
    // Not a subnet's first address, which is no pod's.
    nets.filter_map(|net| net.hosts().nth(1).or_else(|| net.hosts().next()))
        .filter(|address| !own.is_some_and(|own| own.contains(address)))
        .collect()
}

fn name(index: u32, links: &[Link]) -> String {
    let link = links.iter().find(|link| link.index == index);
    link.map_or_else(|| format!("#{index}"), |link| link.name.clone())
}

fn tell(found: &[LedAway], report: &mut Report) {
    for LedAway {
        subnet,
        address,
        to,
    } in found.iter().take(NAMED)
    {
        report.warning(
            format!("what pods send to {address}, of the lease {subnet}, {to}, past our route"),
            format!(
                "remove the narrower route or the rule that does it, unless it is meant: ip route get {address}; ip rule; ip route \
                 show table all"
            ),
        );
    }
    if let Some(more) = found.len().checked_sub(NAMED).filter(|more| *more > 0) {
        report.warning(
            format!("{more} more leases are led past our routes"),
            "begin with those above: they mostly share the cause",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;

    #[test]
    fn each_foreign_route_inside_a_lease_is_tried() {
        let route = |destination: &str, protocol| Route {
            destination: destination.parse().unwrap(),
            paths: Vec::new(),
            source: None,
            metric: 0,
            protocol,
            mtu: None,
        };
        let routes = [
            route("10.244.2.0/24", PROTOCOL),
            route("10.244.2.128/25", 3),
            route("10.244.2.9/32", 3),
            route("10.244.3.0/25", 3),
            route("0.0.0.0/0", 3),
        ];
        let tried = samples("10.244.2.0/24".parse().unwrap(), &routes, None);
        let addresses = [2, 9, 130].map(|last| Ipv4Addr::new(10, 244, 2, last));
        assert_eq!(tried, BTreeSet::from(addresses));
        // The node's own pods are behind its bridge, whatever is said of the whole Network.
        let own = "10.244.3.0/24".parse().unwrap();
        let tried = samples("10.244.0.0/16".parse().unwrap(), &routes, Some(own));
        let addresses = [[0, 2], [2, 9], [2, 130]].map(|[c, d]| Ipv4Addr::new(10, 244, c, d));
        assert_eq!(tried, BTreeSet::from(addresses));
    }

    #[test]
    fn only_what_is_narrower_is_within() {
        let route = |destination: &str| Route {
            destination: destination.parse().unwrap(),
            paths: Vec::new(),
            source: None,
            metric: 0,
            protocol: PROTOCOL,
            mtu: None,
        };
        let network = "10.244.0.0/16".parse().unwrap();
        let within = ["10.244.2.0/24", "10.244.0.0/16", "10.245.2.0/24"]
            .map(|destination| is_within(&route(destination), network));
        assert_eq!(within, [true, false, false]);
    }

    #[test]
    fn a_few_are_named() {
        let away = |n: u8| LedAway {
            subnet: Ipv4Net::new_assert([10, 244, n, 0].into(), 24),
            address: [10, 244, n, 2].into(),
            to: "leaves by eth0 to 192.0.2.1".to_owned(),
        };
        assert!(said(|report| tell(&[], report)).is_empty());
        let lines = said(|report| tell(&(1..=7).map(away).collect::<Vec<_>>(), report));
        assert_eq!(lines.len(), NAMED + 1);
        assert!(
            lines[0]
                .1
                .contains("10.244.1.2, of the lease 10.244.1.0/24, leaves by eth0 to 192.0.2.1")
        );
        assert!(lines[NAMED].1.starts_with("2 more"));
    }
}
