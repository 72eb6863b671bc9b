use std::net::Ipv4Addr;

use regex::Regex;

use super::select::Snapshot;
use super::*;
use crate::node::net::fixtures::{address, link};
use crate::node::net::{Address, Kind, Link, NextHop, Path, Route};

fn default_route(metric: u32, indexes: &[u32]) -> Route {
    Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        paths: indexes
            .iter()
            .map(|index| Path {
                index: *index,
                gateway: Some(Ipv4Addr::new(192, 168, 0, 1)),
                dead: false,
            })
            .collect(),
        source: None,
        metric,
        protocol: 4,
        mtu: None,
    }
}

/// lo, eth0 (192.168.0.2, default route), eth1 (10.0.0.2 and 10.0.0.3).
fn node() -> Snapshot {
    let lo = Link {
        loopback: true,
        mac: Some([0; 6]),
        mtu: 65536,
        ethernet: false,
        ..link(1, "lo")
    };
    Snapshot {
        links: vec![lo, link(2, "eth0"), link(3, "eth1")],
        addresses: vec![
            address(1, "127.0.0.1/8"),
            address(2, "192.168.0.2/24"),
            address(3, "10.0.0.2/24"),
            address(3, "10.0.0.3/24"),
        ],
        routes: vec![default_route(0, &[2])],
        reach: None,
    }
}

fn iface(values: &[&str]) -> UplinkChoice {
    UplinkChoice {
        interfaces: values.iter().map(|v| (*v).to_owned()).collect(),
        ..UplinkChoice::default()
    }
}

fn regex(value: &str) -> UplinkChoice {
    UplinkChoice {
        regexes: vec![Regex::new(value).unwrap()],
        ..UplinkChoice::default()
    }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[test]
fn if2_default_route_interface_is_found() {
    let uplink = node()
        .select(&UplinkChoice::default(), &Memory::default())
        .unwrap();
    assert_eq!((uplink.name.as_str(), uplink.index), ("eth0", 2));
    assert_eq!(uplink.address, ip("192.168.0.2"));
    assert_eq!(uplink.public_ip, uplink.address);
    assert!(uplink.why.contains("default route"), "{uplink}");
}

#[test]
fn if2_interface_by_ip_is_found_and_its_address_taken() {
    let uplink = node()
        .select(&iface(&["10.0.0.3"]), &Memory::default())
        .unwrap();
    assert_eq!(
        (uplink.name.as_str(), uplink.address),
        ("eth1", ip("10.0.0.3"))
    );
}

#[test]
fn if1_by_name() {
    let uplink = node()
        .select(&iface(&["eth1"]), &Memory::default())
        .unwrap();
    assert_eq!(
        (uplink.name.as_str(), uplink.address),
        ("eth1", ip("10.0.0.2"))
    );
}

#[test]
fn if1_first_iface_that_exists_wins() {
    let uplink = node()
        .select(
            &iface(&["wlan0", "172.16.0.1", "eth1", "eth0"]),
            &Memory::default(),
        )
        .unwrap();
    assert_eq!(uplink.name, "eth1");
}

#[test]
fn if1_regex_on_address() {
    let uplink = node()
        .select(&regex(r"^10\.0\.0\.3$"), &Memory::default())
        .unwrap();
    assert_eq!(
        (uplink.name.as_str(), uplink.address),
        ("eth1", ip("10.0.0.3"))
    );
}

#[test]
fn if1_regex_on_name() {
    let uplink = node().select(&regex("^eth1$"), &Memory::default()).unwrap();
    assert_eq!(
        (uplink.name.as_str(), uplink.address),
        ("eth1", ip("10.0.0.2"))
    );
}

#[test]
fn if1_regex_with_public_ip() {
    let choice = UplinkChoice {
        public_ip: Some(ip("203.0.113.7")),
        ..regex("eth1")
    };
    let uplink = node().select(&choice, &Memory::default()).unwrap();
    assert_eq!(
        (uplink.address, uplink.public_ip),
        (ip("10.0.0.2"), ip("203.0.113.7"))
    );
}

#[test]
fn if1_can_reach_takes_device_and_source() {
    let mut node = node();
    let hop = NextHop {
        index: 3,
        via: ip("10.0.0.1"),
        source: Some(ip("10.0.0.3")),
        local: false,
    };
    node.reach = Some((ip("10.9.9.9"), Ok(hop)));
    let choice = UplinkChoice {
        can_reach: Some(ip("10.9.9.9")),
        ..UplinkChoice::default()
    };
    let uplink = node.select(&choice, &Memory::default()).unwrap();
    assert_eq!(
        (uplink.name.as_str(), uplink.address),
        ("eth1", ip("10.0.0.3"))
    );
}

#[test]
fn public_ip_alone_names_the_interface_that_holds_it() {
    let choice = UplinkChoice {
        public_ip: Some(ip("10.0.0.3")),
        ..UplinkChoice::default()
    };
    let uplink = node().select(&choice, &Memory::default()).unwrap();
    assert_eq!(
        (uplink.name.as_str(), uplink.address),
        ("eth1", ip("10.0.0.3"))
    );
}

#[test]
fn public_ip_that_the_named_interface_holds_is_its_address_too() {
    let choice = UplinkChoice {
        public_ip: Some(ip("10.0.0.3")),
        ..iface(&["eth1"])
    };
    assert_eq!(
        node().select(&choice, &Memory::default()).unwrap().address,
        ip("10.0.0.3")
    );
}

#[test]
fn public_ip_that_nobody_holds_asks_for_iface() {
    let choice = UplinkChoice {
        public_ip: Some(ip("203.0.113.7")),
        ..UplinkChoice::default()
    };
    let error = node()
        .select(&choice, &Memory::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("203.0.113.7") && error.contains("--iface"),
        "{error}"
    );
    assert!(error.contains("eth0 (192.168.0.2)"), "{error}");
}

#[test]
fn of_an_ecmp_default_route_the_first_hop_with_link_up_is_taken() {
    let mut node = node();
    node.links[1].running = false;
    node.routes = vec![default_route(0, &[2, 3])];
    let uplink = node
        .select(&UplinkChoice::default(), &Memory::default())
        .unwrap();
    assert_eq!(uplink.name, "eth1");
    assert!(uplink.why.contains("first of 2 next hops"), "{uplink}");
}

#[test]
fn the_default_route_of_lowest_metric_wins_unless_its_link_is_down() {
    let mut node = node();
    node.routes = vec![default_route(100, &[3]), default_route(200, &[2])];
    assert_eq!(
        node.select(&UplinkChoice::default(), &Memory::default())
            .unwrap()
            .name,
        "eth1"
    );
    node.links[2].running = false;
    assert_eq!(
        node.select(&UplinkChoice::default(), &Memory::default())
            .unwrap()
            .name,
        "eth0"
    );
}

#[test]
fn without_default_route_the_candidates_are_named() {
    let mut node = node();
    node.routes.clear();
    let error = node
        .select(&UplinkChoice::default(), &Memory::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("eth0 (192.168.0.2), eth1 (10.0.0.2)"),
        "{error}"
    );
}

#[test]
fn every_flag_that_found_nothing_is_named() {
    let choice = UplinkChoice {
        regexes: vec![Regex::new("^wl").unwrap()],
        ..iface(&["wlan0", "172.16.0.1"])
    };
    let error = node()
        .select(&choice, &Memory::default())
        .unwrap_err()
        .to_string();
    for part in [
        "--iface=wlan0",
        "--iface=172.16.0.1",
        "--iface-regex=^wl",
        "eth1",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn interface_without_address_is_an_error_that_names_it() {
    let mut node = node();
    node.addresses.retain(|a| a.index != 3);
    let error = node
        .select(&iface(&["eth1"]), &Memory::default())
        .unwrap_err();
    assert!(
        matches!(&error, UplinkError::NoAddress { name } if name == "eth1"),
        "{error}"
    );
}

#[test]
fn loopback_is_refused() {
    for choice in [iface(&["lo"]), iface(&["127.0.0.1"])] {
        let error = node().select(&choice, &Memory::default()).unwrap_err();
        assert!(matches!(error, UplinkError::Loopback { .. }), "{error}");
    }
}

#[test]
fn a_device_that_is_no_ethernet_is_refused() {
    let mut node = node();
    node.links[2].ethernet = false;
    let error = node
        .select(&iface(&["eth1"]), &Memory::default())
        .unwrap_err();
    assert!(matches!(error, UplinkError::NotEthernet { .. }), "{error}");
    node.links[2].bare = true;
    assert_eq!(
        node.select(&iface(&["eth1"]), &Memory::default())
            .unwrap()
            .name,
        "eth1"
    );
}

#[test]
fn mtu_zero_is_refused() {
    let mut node = node();
    node.links[2].mtu = 0;
    let error = node
        .select(&iface(&["eth1"]), &Memory::default())
        .unwrap_err();
    assert!(matches!(error, UplinkError::Mtu { mtu: 0, .. }), "{error}");
}

#[test]
fn deprecated_link_local_and_dynamic_addresses_come_last() {
    let mut node = node();
    let eth1 = |net, change: fn(&mut Address)| {
        let mut address = address(3, net);
        change(&mut address);
        address
    };
    node.addresses = vec![
        eth1("10.0.0.9/24", |a| a.deprecated = true),
        eth1("169.254.0.1/16", |a| a.global = false),
        eth1("10.0.0.8/24", |a| a.permanent = false),
        eth1("10.0.0.7/24", |_| {}),
    ];
    for expected in ["10.0.0.7", "10.0.0.8", "169.254.0.1"] {
        let uplink = node.select(&iface(&["eth1"]), &Memory::default()).unwrap();
        assert_eq!(uplink.address, ip(expected));
        node.addresses.retain(|a| a.ip() != ip(expected));
    }
    assert!(node.select(&iface(&["eth1"]), &Memory::default()).is_err());
}

#[test]
fn our_own_devices_are_never_the_uplink() {
    let mut node = node();
    let mut flannel = link(4, "flannel.1");
    flannel.alias = Some("flannel-ebpf:coreos_com_network".to_owned());
    node.links.insert(0, flannel);
    node.addresses.insert(0, address(4, "10.244.1.0/32"));
    let uplink = node.select(&regex(r"^10\."), &Memory::default()).unwrap();
    assert_eq!(uplink.name, "eth1");
}

/// cni0 with a pod, docker0 without a container, a bridge with a cable, and a device in a VRF.
fn beside_containers() -> Snapshot {
    let kind = |kind: &str| Kind::Other(kind.to_owned());
    let mut node = node();
    let bridge = |index, name| Link {
        kind: kind("bridge"),
        ..link(index, name)
    };
    let port = |index, name, of, kind| Link {
        kind,
        controller: Some(of),
        ..link(index, name)
    };
    node.links.extend([
        bridge(10, "cni0"),
        port(11, "veth1", 10, Kind::Veth),
        bridge(12, "docker0"),
        bridge(13, "br0"),
        port(14, "eth2", 13, Kind::Plain),
        Link {
            kind: kind("vrf"),
            ethernet: false,
            ..link(15, "red")
        },
        port(16, "eth3", 15, Kind::Plain),
    ]);
    node.addresses.push(address(10, "10.244.1.1/24"));
    node.addresses.push(address(13, "192.168.7.2/24"));
    node
}

#[test]
fn what_leads_to_containers_is_no_candidate() {
    let mut node = beside_containers();
    node.routes.clear();
    let error = node.select(&UplinkChoice::default(), &Memory::default());
    let error = error.unwrap_err().to_string();
    let (_, candidates) = error.split_once("there are: ").unwrap();
    assert_eq!(
        candidates,
        "eth0 (192.168.0.2), eth1 (10.0.0.2), br0 (192.168.7.2), eth3 (no IPv4 address))"
    );
}

#[test]
fn without_the_route_it_was_told_by_the_uplink_stays_what_it_was() {
    let choice = UplinkChoice::default();
    let reaching = UplinkChoice {
        can_reach: Some(ip("198.51.100.9")),
        ..UplinkChoice::default()
    };
    let mut node = node();
    let known = node.select(&choice, &Memory::default()).unwrap();
    node.routes.clear();
    let unreachable = crate::node::net::NetError::Failed {
        action: "find a route".to_owned(),
        reason: "unreachable".to_owned(),
    };
    node.reach = Some((ip("198.51.100.9"), Err(unreachable)));
    for choice in [&choice, &reaching] {
        let again = node
            .select_again(choice, &Memory::default(), &known)
            .unwrap();
        assert!(again.is_same(&known) && again != known, "{again}");
    }
    // A link that is down keeps its addresses.
    node.links[1].running = false;
    let again = node.select_again(&choice, &Memory::default(), &known);
    assert!(again.unwrap().is_same(&known));

    node.addresses.retain(|address| address.index != 2);
    let gone = node.select_again(&choice, &Memory::default(), &known);
    assert!(matches!(gone, Err(UplinkError::NoDefaultRoute { .. })));
    // Another route is another uplink.
    node.routes = vec![default_route(0, &[3])];
    let other = node
        .select_again(&choice, &Memory::default(), &known)
        .unwrap();
    assert_eq!(other.name, "eth1");
}

/// One list is for nodes where the card is a port of a bridge and nodes where it is not.
#[test]
fn a_device_without_address_gives_way_at_the_start_and_not_later() {
    let memory = Memory::default();
    let mut node = node();
    let choices = [iface(&["eth1", "eth0"]), regex("^eth1$")];
    let known = node.select(&choices[0], &memory).unwrap();
    assert_eq!(known.name, "eth1");
    let with_regex = UplinkChoice {
        interfaces: vec!["192.168.0.2".to_owned()],
        ..regex("^eth1$")
    };
    node.addresses.retain(|address| address.index != 3);
    let first = node.select(&choices[0], &memory).unwrap();
    assert_eq!(first.name, "eth0");
    for choice in [&choices[0], &choices[1], &with_regex] {
        let now = node.select_again(choice, &memory, &known);
        assert!(matches!(now, Err(UplinkError::NoAddress { .. })), "{now:?}");
    }
    // Of the only one the error says what is wrong with it.
    let only = node.select(&iface(&["eth1"]), &memory);
    assert!(matches!(only, Err(UplinkError::NoAddress { .. })));
    let none = node.select(&iface(&["eth1", "eth7"]), &memory);
    let none = none.unwrap_err().to_string();
    assert!(
        none.contains("--iface=eth1: it has no IPv4 address; --iface=eth7: no such"),
        "{none}"
    );
}

#[test]
fn a_link_that_goes_down_changes_why_and_nothing_else() {
    let mut node = node();
    let known = node
        .select(&UplinkChoice::default(), &Memory::default())
        .unwrap();
    node.links[1].running = false;
    let again = node.select_again(&UplinkChoice::default(), &Memory::default(), &known);
    assert!(again.unwrap().is_same(&known));
    node.links[1].mtu = 1400;
    let smaller = node.select_again(&UplinkChoice::default(), &Memory::default(), &known);
    assert!(!smaller.unwrap().is_same(&known));
}
