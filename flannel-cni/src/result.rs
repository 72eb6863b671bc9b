//! What a delegate says at ADD, printed again: the keys that its version has, in that version's order.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};

use crate::error::CniError;
use crate::{go_json, version};

/// A route of a result or of an IPAM configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Route {
    dst: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gw: Option<Ip>,
    #[serde(default, skip_serializing_if = "is_zero")]
    mtu: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    advmss: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    priority: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<i64>,
}

impl Route {
    pub(crate) fn to(network: IpNet) -> Self {
        Self {
            dst: Cidr(network),
            gw: None,
            mtu: 0,
            advmss: 0,
            priority: 0,
            table: None,
            scope: None,
        }
    }
}

/// An address with its prefix length; host bits stay.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cidr(IpNet);

/// An address; of IPv4 in IPv6 the inner one, as Go keeps it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Ip(IpAddr);

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(|address: IpAddr| Self(address.to_canonical()))
            .map_err(|_| de::Error::custom(format!("invalid IP address: {text}")))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    mtu: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sandbox: String,
    #[serde(
        default,
        rename = "socketPath",
        skip_serializing_if = "String::is_empty"
    )]
    socket_path: String,
    #[serde(default, rename = "pciID", skip_serializing_if = "String::is_empty")]
    pci_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Address {
    /// Until 0.4.0: "4" or "6".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    address: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<Ip>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    domain: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

/// From 0.3.0 on.
#[derive(Debug, Serialize, Deserialize)]
struct Modern {
    #[serde(rename = "cniVersion")]
    cni_version: String,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    interfaces: Vec<Interface>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    ips: Vec<Address>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "some")]
    dns: Dns,
}

/// 0.1.0 and 0.2.0.
#[derive(Debug, Serialize, Deserialize)]
struct Old {
    #[serde(rename = "cniVersion")]
    cni_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<OldAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<OldAddress>,
    #[serde(default, deserialize_with = "some")]
    dns: Dns,
}

#[derive(Debug, Serialize, Deserialize)]
struct OldAddress {
    ip: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<Ip>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "some"
    )]
    routes: Vec<Route>,
}

/// null as what is not there: Go does not tell them apart.
fn some<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What is printed for `said`, the delegate's stdout at ADD with a configuration of version `asked`. A delegate that
/// does not name a version means that one.
///
/// # Errors
/// If it is no result of a version that is known.
pub(crate) fn again(said: &[u8], asked: &str) -> Result<String, CniError> {
    let cannot =
        |error: &dyn fmt::Display| CniError::internal(format!("failed to delegate add: {error}"));
    let mut value: Value = serde_json::from_slice(said)
        .map_err(|error| cannot(&format!("failed to unmarshal raw result: {error}")))?;
    if value.is_null() {
        value = json!({});
    }
    let object = value
        .as_object_mut()
        .ok_or_else(|| cannot(&"failed to unmarshal raw result: it is no JSON object"))?;
    let named = object.get("cniVersion").and_then(Value::as_str);
    let version = named
        .filter(|version| !version.is_empty())
        .unwrap_or(asked)
        .to_owned();
    object.insert("cniVersion".to_owned(), json!(version));
    if !version::SUPPORTED.contains(&version.as_str()) {
        return Err(cannot(&format!(
            "unsupported CNI result version {version:?}"
        )));
    }
    let again = match version.as_str() {
        "0.1.0" | "0.2.0" => {
            serde_json::from_value(value).and_then(|old: Old| serde_json::to_value(old))
        }
        _ => serde_json::from_value(value).and_then(|mut result: Modern| {
            if is_before_1(&version) {
                for interface in &mut result.interfaces {
                    (interface.mtu, interface.socket_path, interface.pci_id) = Default::default();
                }
            } else {
                for address in &mut result.ips {
                    address.version = None;
                }
            }
            serde_json::to_value(result)
        }),
    };
    let mut again = again.map_err(|error| cannot(&error))?;
    if is_before_1(&version) {
        return Ok(go_json::indented(&again));
    }
    // From 1.0.0 on Go goes by a map, to leave an empty `dns` out.
    if let Some(object) = again.as_object_mut()
        && object.get("dns").is_some_and(|dns| *dns == json!({}))
    {
        object.shift_remove("dns");
    }
    again.sort_all_objects();
    Ok(go_json::indented(&again))
}

fn is_before_1(version: &str) -> bool {
    version.starts_with("0.")
}
