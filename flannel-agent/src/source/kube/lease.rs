//! A Node as a lease, and a lease as annotations.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;

use super::names::Name;
use super::node::Node;
use crate::base::excerpt::excerpt;
use crate::flannel::lease::LeaseAttrs;

/// Why a Node that flannel manages gives no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("podCIDR {0:?} is no address range")]
    NoCidr(String),
    #[error("its podCIDRs ({0}) have no IPv4 among them, and IPv6 is not supported yet")]
    NoIpv4(String),
    #[error("its annotation {name} is {value:?}: {problem}")]
    Annotation {
        name: &'static str,
        value: String,
        problem: String,
    },
}

/// The IPv4 range among a Node's podCIDRs; `None` while none is assigned.
pub(super) fn subnet(node: &Node) -> Result<Option<Ipv4Net>, Fault> {
    if node.pod_cidrs.is_empty() {
        return Ok(None);
    }
    for cidr in &node.pod_cidrs {
        match cidr.parse() {
            Ok(IpNet::V4(net)) => return Ok(Some(net.trunc())),
            Ok(IpNet::V6(_)) => {}
            Err(_) => return Err(Fault::NoCidr(excerpt(cidr))),
        }
    }
    Err(Fault::NoIpv4(excerpt(&node.pod_cidrs.join(", "))))
}

/// Whether the Node says that flannel looks after it.
pub(super) fn is_managed(node: &Node) -> bool {
    node.get(Name::Managed) == Some("true")
}

/// What a Node's annotations say.
pub(super) fn attrs(node: &Node) -> Result<LeaseAttrs, Fault> {
    let text = node.get(Name::PublicIp).unwrap_or_default();
    let public_ip = address(text).map_err(|problem| fault("public-ip", text, problem))?;
    let data = node.get(Name::BackendData).unwrap_or_default();
    let backend_data = match data {
        "" => Value::Null,
        data => serde_json::from_str(data)
            .map_err(|error| fault("backend-data", data, format!("no JSON ({error})")))?,
    };
    Ok(LeaseAttrs {
        public_ip,
        public_ipv6: None,
        backend_type: node.get(Name::BackendType).unwrap_or_default().to_owned(),
        // host-gw's is the word null.
        backend_data: Some(backend_data)
            .filter(|data| !data.is_null())
            .map(Into::into),
        backend_v6_data: None,
    })
}

/// An address that another node can send to.
pub(super) fn address(text: &str) -> Result<Ipv4Addr, String> {
    let ip: Ipv4Addr = match text.parse() {
        Ok(IpAddr::V4(ip)) => ip,
        _ => return Err("no IPv4 address".to_owned()),
    };
    let kind = if ip.is_loopback() {
        "a loopback address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else if ip.is_unspecified() || ip.is_broadcast() {
        "no node's address"
    } else {
        return Ok(ip);
    };
    Err(kind.to_owned())
}

fn fault(name: &'static str, value: &str, problem: String) -> Fault {
    Fault::Annotation {
        name,
        value: excerpt(value),
        problem,
    }
}

/// The public-ip that an admin wants, if he wants one. What no node can send to is not published: our peers would lose us.
pub(super) fn overwrite(node: &Node) -> Option<Result<Ipv4Addr, Fault>> {
    let text = node.get(Name::PublicIpOverwrite)?;
    let found = address(text).map_err(|problem| fault("public-ip-overwrite", text, problem));
    (!text.is_empty()).then_some(found)
}

/// What our Node's annotations should say.
pub(super) fn annotations(node: &Node, attrs: &LeaseAttrs) -> BTreeMap<Name, String> {
    let data = attrs.backend_data.as_deref().unwrap_or(&Value::Null);
    let overwrite = overwrite(node).and_then(Result::ok);
    let public_ip = overwrite.unwrap_or(attrs.public_ip).to_string();
    BTreeMap::from([
        (Name::Managed, "true".to_owned()),
        (Name::BackendType, attrs.backend_type.clone()),
        // Compact: flanneld finds the MAC by the last `:"` in the text.
        (Name::BackendData, data.to_string()),
        (Name::PublicIp, public_ip),
    ])
}

/// Those of `wanted` that `node` does not have.
pub(super) fn missing(node: &Node, wanted: BTreeMap<Name, String>) -> BTreeMap<Name, String> {
    let is_there = |(name, value): &(Name, String)| node.get(*name) == Some(value);
    wanted.into_iter().filter(|pair| !is_there(pair)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::base::mac::MacAddr;
    use crate::flannel::config::NetworkConfig;

    fn node(cidrs: &[&str], annotations: &[(Name, &str)]) -> Node {
        let annotations = annotations.iter().map(|(n, v)| (*n, (*v).to_owned()));
        Node {
            name: "a".to_owned(),
            uid: String::new(),
            version: String::new(),
            created: String::new(),
            pod_cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
            annotations: annotations.collect(),
            network_up: false,
        }
    }

    const DATA: &str = r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#;

    fn vxlan() -> LeaseAttrs {
        let mac = MacAddr([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
        LeaseAttrs::vxlan(Ipv4Addr::new(192, 0, 2, 1), 1, mac)
    }

    #[rstest]
    #[case(&[], Ok(None))]
    #[case(&["10.1.2.0/24"], Ok(Some("10.1.2.0/24")))]
    #[case(&["fd00::/64", "10.1.2.0/24"], Ok(Some("10.1.2.0/24")))]
    #[case(&["fd00::/64"], Err("no IPv4"))]
    #[case(&["10.1.2.0"], Err("no address range"))]
    fn the_ipv4_range_is_the_subnet(
        #[case] cidrs: &[&str],
        #[case] expected: Result<Option<&str>, &str>,
    ) {
        match (subnet(&node(cidrs, &[])), expected) {
            (Ok(found), Ok(expected)) => {
                assert_eq!(found.map(|net| net.to_string()).as_deref(), expected);
            }
            (Err(fault), Err(part)) => assert!(fault.to_string().contains(part), "{fault}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    /// flannel's table of ranges and the Network 10.244.0.0/16: what is in it is served, and nothing else.
    #[rstest]
    #[case::inside("10.244.3.0/24", true)]
    #[case::at_its_end("10.244.255.0/24", true)]
    #[case::equal("10.244.0.0/16", true)]
    #[case::much_longer("10.244.3.9/32", true)]
    #[case::shorter("10.240.0.0/12", false)]
    #[case::everything("0.0.0.0/0", false)]
    #[case::beside("10.245.0.0/24", false)]
    #[case::foreign("192.168.3.0/24", false)]
    #[case::ipv6("fd00:10:244::/64", false)]
    #[case::ipv6_of_the_same_bytes("af4:300::/24", false)]
    #[case::mapped_ipv4("::ffff:10.244.3.0/120", false)]
    fn ku2_what_the_network_contains(#[case] cidr: &str, #[case] contains: bool) {
        let network = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let (config, _) = NetworkConfig::parse_for_kubernetes(network).unwrap();
        // No part of it: another fault.
        let own = "10.243.0.0/24".parse().unwrap();
        let is_served = subnet(&node(&[cidr], &[])).is_ok_and(|found| {
            let checked = config.check_peer(found.unwrap(), own);
            checked.is_ok()
        });
        assert_eq!(is_served, contains);
    }

    #[test]
    fn faults_show_the_beginning_of_what_is_long() {
        let long = "x".repeat(1 << 18);
        let many = vec!["fd00::/64"; 1 << 14];
        let bad = node(&[], &[(Name::PublicIp, &long)]);
        let faults = [
            subnet(&node(&[&long], &[])).unwrap_err(),
            subnet(&node(&many, &[])).unwrap_err(),
            attrs(&bad).unwrap_err(),
        ];
        for fault in faults.map(|fault| fault.to_string()) {
            assert!(fault.contains('…') && fault.len() < 400, "{}", fault.len());
        }
    }

    #[test]
    fn annotations_are_flannels_to_the_byte_and_read_back() {
        let written = annotations(&node(&[], &[]), &vxlan());
        let expected = [
            (Name::Managed, "true"),
            (Name::BackendType, "vxlan"),
            (Name::BackendData, DATA),
            (Name::PublicIp, "192.0.2.1"),
        ];
        let there = node(&[], &expected);
        assert_eq!(written, there.annotations);
        assert!(is_managed(&there));
        assert_eq!(attrs(&there), Ok(vxlan()));
        let host_gw = annotations(&there, &LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(host_gw[&Name::BackendData], "null");
    }

    #[test]
    fn an_admins_overwrite_is_the_public_ip() {
        let there = node(&[], &[(Name::PublicIpOverwrite, "203.0.113.9")]);
        let written = annotations(&there, &vxlan());
        assert_eq!(written[&Name::PublicIp], "203.0.113.9");
        for nonsense in ["here", "127.0.0.1", "fd00::1"] {
            let there = node(&[], &[(Name::PublicIpOverwrite, nonsense)]);
            let written = annotations(&there, &vxlan());
            assert_eq!(written[&Name::PublicIp], "192.0.2.1");
            let fault = overwrite(&there).unwrap().unwrap_err().to_string();
            assert!(fault.contains(nonsense), "{fault}");
        }
        assert_eq!(
            overwrite(&node(&[], &[(Name::PublicIpOverwrite, "")])),
            None
        );
    }

    #[test]
    fn only_what_differs_is_missing() {
        let there = node(
            &[],
            &[(Name::Managed, "true"), (Name::PublicIp, "192.0.2.7")],
        );
        let gone = missing(&there, annotations(&there, &vxlan()));
        let names: Vec<Name> = gone.into_keys().collect();
        assert_eq!(
            names,
            [Name::BackendType, Name::BackendData, Name::PublicIp]
        );
        let whole = node(&[], &[]);
        let wanted = annotations(&whole, &vxlan());
        let whole = Node {
            annotations: wanted.clone(),
            ..whole
        };
        assert!(missing(&whole, wanted).is_empty());
    }

    #[rstest]
    #[case("", DATA, "no IPv4 address")]
    #[case("fd00::1", DATA, "no IPv4 address")]
    #[case("127.0.0.1", DATA, "loopback")]
    #[case("224.0.0.5", DATA, "multicast")]
    #[case("0.0.0.0", DATA, "no node's")]
    #[case("192.0.2.1", "{", "no JSON")]
    fn malformed_annotations_are_named(#[case] ip: &str, #[case] data: &str, #[case] part: &str) {
        let annotations = [(Name::PublicIp, ip), (Name::BackendData, data)];
        let fault = attrs(&node(&[], &annotations)).unwrap_err().to_string();
        assert!(fault.contains(part), "{fault}");
    }

    #[test]
    fn a_huge_annotation_is_not_a_huge_line() {
        let huge = "x".repeat(200_000);
        let annotations = [(Name::PublicIp, "192.0.2.1"), (Name::BackendData, &*huge)];
        let fault = attrs(&node(&[], &annotations)).unwrap_err().to_string();
        assert!(fault.len() < 300, "{}", fault.len());
    }

    proptest! {
        #[test]
        fn fz_node_to_lease_never_panics(cidr in ".{0,20}", ip in ".{0,20}", kind in ".{0,9}", data in ".{0,60}") {
            let annotations = [(Name::PublicIp, &*ip), (Name::BackendType, &*kind), (Name::BackendData, &*data)];
            let node = node(&[&cidr], &annotations);
            let _ = subnet(&node);
            if let Ok(attrs) = attrs(&node) {
                let _ = missing(&node, super::annotations(&node, &attrs));
            }
        }
    }
}
