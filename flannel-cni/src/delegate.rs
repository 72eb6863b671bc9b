//! The configuration of the plugin that does the work, from the network's and `subnet.env`.

use serde_json::{Map, Value, json};

use crate::conf::NetConf;
use crate::error::CniError;
use crate::result::Route;
use crate::subnet_env::SubnetEnv;

const DEFAULT: &str = "bridge";

/// What the delegate is given at ADD: `delegate` of the network's configuration, and what flannel adds where that says
/// nothing.
///
/// # Errors
/// If `delegate` has what only flannel may say, or `ipam` has routes that are none.
pub(crate) fn configuration(conf: &NetConf, env: &SubnetEnv) -> Result<Value, CniError> {
    let mut delegate = conf.delegate.clone();
    if delegate.get("type").is_some_and(|name| !name.is_string()) {
        let msg = "'delegate' dictionary, if present, must have (string) 'type' field";
        return Err(CniError::internal(msg));
    }
    for ours in ["name", "ipam"] {
        if delegate.contains_key(ours) {
            return Err(CniError::internal(format!(
                "'delegate' dictionary must not have '{ours}' field, it'll be set by flannel"
            )));
        }
    }
    if let Some(runtime_config) = &conf.runtime_config {
        delegate.insert("runtimeConfig".to_owned(), json!(runtime_config));
    }
    delegate.insert("name".to_owned(), json!(conf.name));
    or_else(&mut delegate, "type", json!(DEFAULT));
    // Of daemon and plugin exactly one has to translate.
    or_else(&mut delegate, "ipMasq", json!(!env.ip_masq));
    or_else(&mut delegate, "mtu", json!(env.mtu));
    if delegate["type"] == DEFAULT {
        or_else(&mut delegate, "isGateway", json!(true));
    }
    if !conf.cni_version.is_empty() {
        delegate.insert("cniVersion".to_owned(), json!(conf.cni_version));
    }
    delegate.insert("ipam".to_owned(), ipam(conf, env)?);
    let mut delegate = Value::Object(delegate);
    // Maps in Go, whose keys are in order; but a route is a struct.
    let routes = delegate["ipam"]["routes"].take();
    delegate.sort_all_objects();
    delegate["ipam"]["routes"] = routes;
    Ok(delegate)
}

fn or_else(object: &mut Map<String, Value>, key: &str, value: Value) {
    if !object.contains_key(key) {
        object.insert(key.to_owned(), value);
    }
}

fn ipam(conf: &NetConf, env: &SubnetEnv) -> Result<Value, CniError> {
    let mut ipam = conf.ipam.clone();
    or_else(&mut ipam, "type", json!("host-local"));
    let ranges: Vec<Value> = env
        .subnets
        .iter()
        .map(|subnet| json!([{ "subnet": subnet }]))
        .collect();
    ipam.insert("ranges".to_owned(), json!(ranges));
    let given = ipam.get("routes").cloned().unwrap_or(Value::Null);
    let given: Option<Vec<Route>> = serde_json::from_value(given).map_err(|error| {
        CniError::internal(format!(
            "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes: {error}"
        ))
    })?;
    let networks = env.networks.iter().map(|network| Route::to(*network));
    let routes: Vec<Route> = given.into_iter().flatten().chain(networks).collect();
    ipam.insert("routes".to_owned(), json!(routes));
    Ok(Value::Object(ipam))
}

/// The delegate's name in a configuration of its own.
pub(crate) fn name(configuration: &Value) -> &str {
    configuration
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::go_json;

    fn env(ip_masq: bool) -> SubnetEnv {
        SubnetEnv {
            networks: vec!["10.244.0.0/16".parse().unwrap()],
            subnets: vec!["10.244.3.0/24".parse().unwrap()],
            mtu: 1450,
            ip_masq,
        }
    }

    fn built(conf: &Value, env: &SubnetEnv) -> Result<String, CniError> {
        let conf = NetConf::read(conf).unwrap();
        configuration(&conf, env).map(|value| go_json::compact(&value))
    }

    /// Each text is what flannel's plugin v1.9.1 made of the same input.
    #[rstest]
    #[case::plain(
        json!({"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel"}),
        r#"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
    )]
    #[case::shipped(
        json!({"name": "cbr0", "cniVersion": "1.0.0", "type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}),
        r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
    )]
    #[case::given_wins(
        json!({"name": "n", "delegate": {"mtu": 1300, "ipMasq": true, "isGateway": false, "bridge": "br<0>"}}),
        r#"{"bridge":"br\u003c0\u003e","ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":false,"mtu":1300,"name":"n","type":"bridge"}"#
    )]
    #[case::another_delegate(
        json!({"name": "n", "delegate": {"type": "ipvlan", "master": "eth0"}, "runtimeConfig": {"mac": "aa"}}),
        r#"{"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"master":"eth0","mtu":1450,"name":"n","runtimeConfig":{"mac":"aa"},"type":"ipvlan"}"#
    )]
    #[case::routes_and_ranges(
        json!({"name": "n", "ipam": {"type": "x", "ranges": [1], "dataDir": "/d", "routes": [{"gw": "10.1.1.1", "advmss": 1300, "dst": "10.9.0.1/16", "mtu": 1400, "odd": 1}]}}),
        r#"{"ipMasq":false,"ipam":{"dataDir":"/d","ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.9.0.1/16","gw":"10.1.1.1","mtu":1400,"advmss":1300},{"dst":"10.244.0.0/16"}],"type":"x"},"isGateway":true,"mtu":1450,"name":"n","type":"bridge"}"#
    )]
    fn the_delegates_configuration_is_flannels_to_the_byte(
        #[case] conf: Value,
        #[case] expected: &str,
    ) {
        assert_eq!(built(&conf, &env(true)).unwrap(), expected);
    }

    #[test]
    fn where_the_daemon_does_not_translate_the_plugin_does() {
        let text = built(&json!({"name": "n"}), &env(false)).unwrap();
        assert!(text.contains(r#""ipMasq":true"#), "{text}");
    }

    #[rstest]
    #[case(json!({"type": 1}), "'delegate' dictionary, if present, must have (string) 'type' field")]
    #[case(json!({"name": "x"}), "'delegate' dictionary must not have 'name' field, it'll be set by flannel")]
    #[case(json!({"ipam": {}}), "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel")]
    fn what_is_flannels_to_say_is_refused(#[case] delegate: Value, #[case] says: &str) {
        let error = built(&json!({"name": "n", "delegate": delegate}), &env(true)).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (999, says));
    }

    #[test]
    fn routes_that_are_none_are_refused() {
        let conf = json!({"name": "n", "ipam": {"routes": [{"dst": "10.0.0.0"}]}});
        let error = built(&conf, &env(true)).unwrap_err().to_string();
        assert!(
            error.starts_with("failed to assemble Delegate IPAM"),
            "{error}"
        );
    }
}
