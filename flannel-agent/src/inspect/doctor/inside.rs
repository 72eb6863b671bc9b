//! Addresses that this node needs and that lie inside the Network: a lease that covers one takes it away, since pods' routes
//! are narrower than any other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::timeout;

use super::{Patient, Report};
use crate::flannel::config::NetworkConfig;
use crate::node::mark;
use crate::node::net::{Address, Route};

/// A resolver that does not answer is no reason to wait.
const RESOLVE: Duration = Duration::from_secs(3);

pub(super) async fn check(patient: &Patient<'_>, network: &NetworkConfig, report: &mut Report) {
    let mut needed = BTreeMap::new();
    let own_subnet = crate::flannel::subnet_env::read(patient.subnet_file());
    let own_subnet = own_subnet.ok().and_then(|file| file.subnet);
    for address in own(patient, own_subnet) {
        needed.insert(address, "this node's own address");
    }
    if let Ok(routes) = patient.net.routes().await {
        for address in gateways(&routes) {
            needed.insert(address, "the gateway");
        }
    }
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for address in nameservers(&resolvers) {
        needed.insert(address, "the DNS server");
    }
    let config = patient.config;
    let (asked, what): (Vec<String>, _) = match (&config.kube, &config.remote) {
        (Some(kube), _) => (kube.server().into_iter().collect(), "the API server"),
        (None, Some(remote)) => (remote.servers.clone(), "the server"),
        (None, None) => (config.etcd.endpoints.clone(), "etcd"),
    };
    for endpoint in &asked {
        for address in addresses(endpoint).await {
            needed.insert(address, what);
        }
    }
    let peers = patient.view.as_ref().ok().and_then(|v| v.peers().ok());
    let mut leases: Vec<Ipv4Net> = peers.unwrap_or_default().into_keys().collect();
    leases.extend(own_subnet);
    let keeper = match config.kube {
        Some(_) => Keeper::Controller,
        None => Keeper::Etcd,
    };
    judge((network, keeper), &needed, &leases, report);
}

/// Who says which subnets there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Etcd,
    /// Of Nodes: flannel's `SubnetMin` and `SubnetMax` mean nothing there.
    Controller,
}

impl Keeper {
    fn fix(self) -> &'static str {
        match self {
            Self::Etcd => {
                "set SubnetMin and SubnetMax in the network's config so that no lease covers it"
            }
            Self::Controller => {
                "give the cluster a --cluster-cidr (kube-controller-manager) and Network in net-conf.json that do not cover it"
            }
        }
    }

    fn removal(self) -> &'static str {
        match self {
            Self::Etcd => "delete that lease in etcd once its node is drained",
            Self::Controller => {
                "drain the Node with that podCIDR, delete it and let it register anew"
            }
        }
    }
}

fn judge(
    (network, keeper): (&NetworkConfig, Keeper),
    needed: &BTreeMap<Ipv4Addr, &'static str>,
    leases: &[Ipv4Net],
    report: &mut Report,
) {
    let inside = needed
        .iter()
        .filter(|(address, _)| network.network.contains(*address));
    let mut any = false;
    for (address, what) in inside {
        any = true;
        let within = format!("{what} {address} is inside the Network {}", network.network);
        let fix = keeper.fix();
        if let Some(lease) = leases.iter().find(|lease| lease.contains(address)) {
            report.failure(
                format!("{within}, and the lease {lease} covers it: it is out of reach"),
                format!("{}, and {fix}", keeper.removal()),
            );
        } else if keeper == Keeper::Controller || may_be_leased(network, *address) {
            report.warning(
                format!("{within}: it works until a node leases its subnet"),
                fix,
            );
        } else {
            report.ok(format!("{within}, where no lease can cover it"));
        }
    }
    if !any {
        report.ok(format!(
            "nothing that this node needs is inside the Network {}",
            network.network
        ));
    }
}

fn may_be_leased(network: &NetworkConfig, address: Ipv4Addr) -> bool {
    let subnet = Ipv4Net::new(address, network.subnet_len).map(|subnet| subnet.trunc());
    subnet.is_ok_and(|subnet| network.admits(subnet))
}

/// Without those that flannel brings: of its devices, and of the bridge of the pods, or of each pod's own device.
fn own(patient: &Patient<'_>, own_subnet: Option<Ipv4Net>) -> Vec<Ipv4Addr> {
    let flannels = |index: u32| {
        let link = patient.links.iter().find(|link| link.index == index);
        link.is_some_and(|link| {
            link.name == patient.config.fast_path.bridge
                || link.name.starts_with("flannel.")
                || mark::is_udp(&link.name)
                || mark::network_of(link).is_some()
        })
    };
    let addresses = patient.addresses.iter();
    let is_pods = |address: &Address| is_pods_gateway(address, own_subnet);
    let others = addresses.filter(|a| a.global && !flannels(a.index) && !is_pods(a));
    others.map(|address| address.ip()).collect()
}

/// CNI's `ptp` plugin gives the host's end of each pod's pair the address of the pods' gateway, with no subnet around it.
fn is_pods_gateway(address: &Address, own_subnet: Option<Ipv4Net>) -> bool {
    address.net.prefix_len() == 32
        && own_subnet.is_some_and(|subnet| subnet.contains(&address.ip()))
}

fn gateways(routes: &[Route]) -> Vec<Ipv4Addr> {
    let default = routes.iter().filter(|r| r.destination.prefix_len() == 0);
    let paths = default.flat_map(|route| &route.paths);
    paths.filter_map(|path| path.gateway).collect()
}

fn nameservers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    };
    resolv_conf.lines().filter_map(server).collect()
}

async fn addresses(endpoint: &str) -> Vec<Ipv4Addr> {
    let host = endpoint.split("://").last().unwrap_or(endpoint);
    let host = host.split('/').next().unwrap_or(host);
    let host = match host.contains(':') {
        true => host.to_owned(),
        // Of no interest but to the resolver's interface.
        false => format!("{host}:0"),
    };
    let Ok(Ok(found)) = timeout(RESOLVE, tokio::net::lookup_host(host)).await else {
        return Vec::new();
    };
    found
        .filter_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::{fine, said};
    use crate::node::net::{Path, Route};

    fn network(more: &str) -> NetworkConfig {
        let json = format!(r#"{{"Network":"10.0.0.0/8"{more},"Backend":{{"Type":"vxlan"}}}}"#);
        NetworkConfig::parse(&json).unwrap()
    }

    #[rstest]
    #[case::may_be_leased("", &[], Mark::Warning, "until a node leases")]
    #[case::left_out(r#","SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0""#, &[], Mark::Ok, "no lease can cover it")]
    #[case::leased("", &["10.1.2.0/24"], Mark::Failure, "the lease 10.1.2.0/24 covers it")]
    #[case::leased_all_the_same(r#","SubnetMin":"10.10.0.0""#, &["10.1.0.0/16"], Mark::Failure, "10.1.0.0/16")]
    fn what_a_node_needs_is_kept_out_of_leases(
        #[case] more: &str,
        #[case] leases: &[&str],
        #[case] mark: Mark,
        #[case] words: &str,
    ) {
        let leases: Vec<Ipv4Net> = leases.iter().map(|l| l.parse().unwrap()).collect();
        let needed = BTreeMap::from([
            ([10, 1, 2, 3].into(), "the gateway"),
            ([192, 0, 2, 1].into(), "etcd"),
        ]);
        let said = said(|report| judge((&network(more), Keeper::Etcd), &needed, &leases, report));
        assert_eq!((said.len(), said[0].0), (1, mark), "{said:?}");
        let text = &said[0].1;
        let named = "the gateway 10.1.2.3 is inside the Network 10.0.0.0/8";
        assert!(text.starts_with(named) && text.contains(words), "{text}");
    }

    /// There is no lease to delete, and net-conf.json does not say which podCIDRs there may be.
    #[rstest]
    #[case::may_be_assigned(&[], Mark::Warning)]
    #[case::assigned(&["10.1.2.0/24"], Mark::Failure)]
    fn in_kubernetes_the_controller_is_spoken_of(#[case] leases: &[&str], #[case] mark: Mark) {
        let leases: Vec<Ipv4Net> = leases.iter().map(|l| l.parse().unwrap()).collect();
        let needed = BTreeMap::from([([10, 1, 2, 3].into(), "the API server")]);
        let network = network(r#","SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0""#);
        let said = said(|report| judge((&network, Keeper::Controller), &needed, &leases, report));
        let (found, what, fix) = &said[0];
        assert_eq!(*found, mark, "{what}");
        let fix = fix.as_deref().unwrap();
        assert!(fix.contains("--cluster-cidr"), "{fix}");
        assert!(!fix.contains("etcd") && !fix.contains("SubnetMin"), "{fix}");
    }

    #[test]
    fn a_network_of_its_own_is_fine() {
        let needed = BTreeMap::from([([192, 0, 2, 1].into(), "etcd")]);
        assert_eq!(
            said(|report| judge((&network(""), Keeper::Etcd), &needed, &[], report)),
            fine("nothing that this node needs is inside the Network 10.0.0.0/8")
        );
    }

    #[rstest]
    #[case::by_ptp("10.1.2.1/32", Some("10.1.2.0/24"), true)]
    #[case::the_node_s_own("10.1.2.1/16", Some("10.1.2.0/24"), false)]
    #[case::elsewhere("10.1.3.1/32", Some("10.1.2.0/24"), false)]
    #[case::without_a_lease("10.1.2.1/32", None, false)]
    fn pods_gateways_are_not_needed(
        #[case] net: Ipv4Net,
        #[case] subnet: Option<&str>,
        #[case] is: bool,
    ) {
        let address = Address {
            index: 7,
            net,
            link: net,
            global: true,
            permanent: true,
            secondary: false,
            deprecated: false,
        };
        let subnet = subnet.map(|subnet| subnet.parse().unwrap());
        assert_eq!(is_pods_gateway(&address, subnet), is);
    }

    #[test]
    fn servers_and_gateways_are_found() {
        let text = "# nameserver 10.9.9.9\nsearch x\nnameserver 10.0.0.2\nnameserver fd00::1\n";
        assert_eq!(nameservers(text), [Ipv4Addr::new(10, 0, 0, 2)]);
        let route = |destination: &str, gateway: Option<Ipv4Addr>| Route {
            destination: destination.parse().unwrap(),
            paths: vec![Path {
                index: 2,
                gateway,
                dead: false,
            }],
            source: None,
            metric: 0,
            protocol: 3,
            mtu: None,
        };
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let routes = [
            route("0.0.0.0/0", Some(gateway)),
            route("0.0.0.0/0", None),
            route("10.7.0.0/16", Some(Ipv4Addr::new(10, 0, 0, 9))),
        ];
        assert_eq!(gateways(&routes), [gateway]);
    }

    #[tokio::test]
    async fn endpoints_are_addresses() {
        for endpoint in [
            "http://10.0.0.3:2379",
            "https://10.0.0.3",
            "10.0.0.3:2379/x",
        ] {
            assert_eq!(
                addresses(endpoint).await,
                [Ipv4Addr::new(10, 0, 0, 3)],
                "{endpoint}"
            );
        }
    }
}
