//! The result of ADD, as the runtime shows it again at CHECK.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

/// Writes the gateway of an address of the same family into each route without one: the specification says that it is
/// meant, and the bridge plugin (seen with 1.1.1) sets the route by it but looks for one without.
pub(crate) fn with_gateways(mut result: Value) -> Value {
    let gateways: Vec<IpAddr> = list(&result, "ips")
        .filter_map(|address| address.get("gateway")?.as_str()?.parse().ok())
        .collect();
    let routes = result.get_mut("routes").and_then(Value::as_array_mut);
    for route in routes.into_iter().flatten() {
        let Some(route) = route.as_object_mut() else {
            continue;
        };
        let to: Option<IpNet> = route
            .get("dst")
            .and_then(Value::as_str)
            .and_then(|dst| dst.parse().ok());
        let meant = gateways
            .iter()
            .find(|gateway| to.is_some_and(|to| to.addr().is_ipv4() == gateway.is_ipv4()));
        if let (false, Some(gateway)) = (route.contains_key("gw"), meant) {
            route.insert("gw".to_owned(), json!(gateway));
        }
    }
    result
}

fn list<'a>(result: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    result
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::the_familys_own(
        json!({"ips": [{"gateway": "fd00::1"}, {"gateway": "10.244.1.1"}], "routes": [{"dst": "10.244.0.0/16"}, {"dst": "fd00::/48"}]}),
        json!([{"dst": "10.244.0.0/16", "gw": "10.244.1.1"}, {"dst": "fd00::/48", "gw": "fd00::1"}])
    )]
    #[case::what_is_there_stays(
        json!({"ips": [{"gateway": "10.244.1.1"}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}]}),
        json!([{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}])
    )]
    #[case::none_to_be_meant(
        json!({"ips": [{"address": "10.244.1.2/24"}], "routes": [{"dst": "10.244.0.0/16"}, 1, {"dst": "x"}]}),
        json!([{"dst": "10.244.0.0/16"}, 1, {"dst": "x"}])
    )]
    fn gateways_that_are_meant_are_written(#[case] result: Value, #[case] routes: Value) {
        assert_eq!(with_gateways(result)["routes"], routes);
    }

    #[test]
    fn what_is_no_result_is_left_alone() {
        assert_eq!(with_gateways(json!(null)), json!(null));
    }
}
