use std::sync::Arc;

use rstest::rstest;

use super::*;
use crate::base::mac::MacAddr;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn uplink() -> Uplink {
    Uplink {
        name: "eth0".to_owned(),
        index: 2,
        mtu: 1500,
        mac: [2, 0, 0, 0, 0, 1],
        address: ip("192.0.2.1"),
        public_ip: ip("192.0.2.1"),
        is_carrier: true,
        why: "it was asked for".to_owned(),
    }
}

fn host_gw(via: &str) -> LeaseAttrs {
    LeaseAttrs::host_gw(ip(via))
}

fn vxlan(public_ip: &str) -> LeaseAttrs {
    LeaseAttrs::vxlan(ip(public_ip), 1, MacAddr([2, 0, 0, 0, 0, 2]))
}

fn config(backend: &str) -> NetworkConfig {
    let json = format!(r#"{{"Network":"10.1.0.0/16","Backend":{backend}}}"#);
    NetworkConfig::parse(&json).unwrap()
}

fn wanted(backend: &str, leases: &[(&str, LeaseAttrs)], on_link: &[(&str, u32)]) -> Direct {
    let leases = leases.iter().map(|(subnet, a)| (net(subnet), a.clone()));
    Direct::new(
        &config(backend),
        net("10.1.1.0/24"),
        &Arc::new(leases.collect()),
        &uplink(),
        &on_link
            .iter()
            .map(|(a, index)| (ip(a), Some(*index)))
            .collect(),
    )
}

const HOST_GW: &str = r#"{"Type":"host-gw"}"#;

#[test]
fn every_host_gw_lease_gets_a_route_over_the_uplink() {
    let leases = [
        ("10.1.1.0/24", host_gw("192.0.2.1")),
        ("10.1.2.0/24", host_gw("192.0.2.2")),
        ("10.1.3.0/24", host_gw("198.51.100.3")),
    ];
    let direct = wanted(HOST_GW, &leases, &[]);
    let hop = |via| Hop {
        via: ip(via),
        index: 2,
    };
    let expected = [
        (net("10.1.2.0/24"), hop("192.0.2.2")),
        (net("10.1.3.0/24"), hop("198.51.100.3")),
    ];
    assert_eq!(direct.routes, BTreeMap::from(expected));
    assert!(direct.ignored.is_empty());
}

#[rstest]
#[case::another_backend("10.1.2.0/24", vxlan("192.0.2.2"), "vxlan")]
#[case::outside("10.2.2.0/24", host_gw("192.0.2.2"), "10.1.0.0/16")]
#[case::a_part_of_our_own("10.1.1.0/25", host_gw("192.0.2.2"), "10.1.1.0/24")]
#[case::our_own_address("10.1.2.0/24", host_gw("192.0.2.1"), "this node")]
#[case::no_address("10.1.2.0/24", host_gw("0.0.0.0"), "0.0.0.0")]
#[case::loopback("10.1.2.0/24", host_gw("127.0.0.1"), "127.0.0.1")]
fn a_lease_that_cannot_be_used_is_named(
    #[case] subnet: &str,
    #[case] attrs: LeaseAttrs,
    #[case] named: &str,
) {
    let direct = wanted(HOST_GW, &[(subnet, attrs)], &[]);
    assert!(direct.routes.is_empty());
    let why = &direct.ignored[&net(subnet)];
    assert!(why.contains(named), "{why}");
}

#[rstest]
#[case::on_link(r#"{"Type":"vxlan","DirectRouting":true}"#, &[("192.0.2.2", 2)], 1)]
#[case::behind_a_router(r#"{"Type":"vxlan","DirectRouting":true}"#, &[], 0)]
#[case::not_asked_for(r#"{"Type":"vxlan"}"#, &[("192.0.2.2", 2)], 0)]
fn direct_routing_is_decided_per_peer(
    #[case] backend: &str,
    #[case] on_link: &[(&str, u32)],
    #[case] routes: usize,
) {
    let leases = [
        ("10.1.2.0/24", vxlan("192.0.2.2")),
        ("10.1.3.0/24", vxlan("198.51.100.3")),
    ];
    assert_eq!(wanted(backend, &leases, on_link).routes.len(), routes);
}

#[test]
fn a_neighbour_on_another_interface_is_reached_there() {
    let backend = r#"{"Type":"vxlan","DirectRouting":true}"#;
    let leases = [("10.1.2.0/24", vxlan("203.0.113.2"))];
    let direct = wanted(backend, &leases, &[("203.0.113.2", 7)]);
    assert_eq!(direct.routes[&net("10.1.2.0/24")].index, 7);
}

#[rstest]
#[case::host_gw(HOST_GW, 0)]
#[case::vxlan(r#"{"Type":"vxlan"}"#, 0)]
#[case::direct(r#"{"Type":"vxlan","DirectRouting":true}"#, 1)]
fn the_kernel_is_only_asked_what_matters(#[case] backend: &str, #[case] asked: usize) {
    let leases = Arc::new(BTreeMap::from([(net("10.1.2.0/24"), vxlan("192.0.2.2"))]));
    assert_eq!(destinations(&config(backend), &leases).len(), asked);
}

#[test]
fn host_gw_refuses_a_public_ip_that_is_not_its_own() {
    assert_eq!(check_uplink(&uplink()), Ok(()));
    let mut behind_nat = uplink();
    behind_nat.public_ip = ip("198.51.100.1");
    let error = check_uplink(&behind_nat).unwrap_err().to_string();
    assert!(error.contains("198.51.100.1"), "{error}");
    assert!(error.contains("--public-ip"), "{error}");
}

#[test]
fn a_backend_s_name_that_is_long_is_cut() {
    let mut lease = host_gw("192.0.2.2");
    lease.backend_type = "x".repeat(1 << 20);
    let direct = wanted(HOST_GW, &[("10.1.2.0/24", lease)], &[]);
    let why = &direct.ignored[&net("10.1.2.0/24")];
    assert!(why.contains("xxx…") && why.len() < 400, "{}", why.len());
}
