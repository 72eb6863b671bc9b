//! What other nodes and `etcdctl` write into etcd.

use flannel_agent::flannel::config::NetworkConfig;
use flannel_agent::flannel::lease::{LeaseAttrs, SubnetKey};
use ipnet::Ipv4Net;
use serde_json::Value;

/// A configuration that is taken can be leased from: its first and its last subnet lie in the Network.
pub(super) fn network_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(config) = NetworkConfig::parse(text) else {
        return;
    };
    assert!(config.subnet_min <= config.subnet_max, "{config:?}");
    for end in [config.subnet_min, config.subnet_max] {
        let subnet = Ipv4Net::new(end, config.subnet_len).expect("a prefix length");
        assert!(config.network.contains(&subnet), "{config:?}");
        assert!(config.admits(subnet), "{config:?}");
    }
}

/// A key that is understood is written back as it was, or other nodes would see two leases.
pub(super) fn lease_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = text.parse::<SubnetKey>() {
        assert_eq!(key.to_string().parse(), Ok(key), "{text:?}");
    }
}

/// Reading back what we write loses nothing, whatever a peer's lease holds; but for the last bit of numbers that
/// are no integers, which no backend writes.
pub(super) fn lease_value(data: &[u8]) {
    let Ok(attrs) = LeaseAttrs::from_json(data) else {
        return;
    };
    // Whether there is tunnel data in it or not: an answer, no panic.
    let _ = attrs.vxlan_data();
    let written = attrs.to_json().expect("has a JSON form");
    let again = LeaseAttrs::from_json(written.as_bytes()).expect("we read what we write");
    let data = [&attrs.backend_data, &attrs.backend_v6_data];
    if data.into_iter().flatten().all(|data| is_exact(data)) {
        assert_eq!(again, attrs);
    }
}

fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(list) => list.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        _ => true,
    }
}
