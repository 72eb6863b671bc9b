//! What client and server of flannel's client–server mode say to each other, as flannel 0.7 wrote it.

mod parts;
mod watched;

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::lease::{LeaseAttrs, SubnetKey, ValueError};
use crate::base::excerpt::excerpt;
use crate::base::json_fields::{FieldError, Fields};
use crate::base::rfc3339;
use crate::base::wall::Moment;
use parts::Parts;

pub use watched::{Event, NetworkEvent, Networks, Watched, events, snapshot};

/// What stands in a path for the network without a name.
pub const UNNAMED: &str = "_";

/// How a server says that it breaks the silence of a long poll by a blank each so many seconds. JSON begins with any number of
/// blanks, so that older clients wait on.
pub const ALIVE: &str = "flannel-alive";

/// How a server says which etcd is behind it: one that was restored from a backup may have another id, and what it lacks then
/// may live.
pub const CLUSTER: &str = "flannel-cluster";

/// How long a lease is said to last that never ends, to the node that has it: old clients renew by that time, and at once if
/// there is none. Go's durations end before 300 years.
pub const FOREVER: Duration = Duration::from_hours(24 * 365 * 100);

/// Go's zero time: a lease that never ends.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A message cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it is {0}: write an object, {{…}}")]
    NotAnObject(String),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("it has leases, and none that can be read: {0}")]
    NoLease(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("Attrs: {0}")]
    Attrs(#[from] ValueError),
}

/// One node's lease.
#[derive(Debug)]
pub struct Lease {
    pub subnet: Ipv4Net,
    /// What nobody can read still takes the subnet.
    pub attrs: Result<LeaseAttrs, ValueError>,
    /// `None`: never.
    pub expires: Option<Moment>,
}

/// A subnet that an operator keeps for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    pub subnet: Ipv4Net,
    pub public_ip: Ipv4Addr,
}

/// The last part of a lease's path.
#[must_use]
pub fn segment(subnet: Ipv4Net) -> String {
    SubnetKey::from(subnet).to_string()
}

/// Reads such a part.
#[must_use]
pub fn parse_segment(text: &str) -> Option<Ipv4Net> {
    let key: SubnetKey = text.parse().ok()?;
    key.v6.is_none().then_some(key.v4)
}

/// Attributes as flannel 0.7 knew them: IPv6 only where there is any.
#[must_use]
pub fn attrs_value(attrs: &LeaseAttrs) -> Value {
    let mut fields = Map::new();
    fields.insert("PublicIP".to_owned(), json!(attrs.public_ip));
    if let Some(public_ipv6) = attrs.public_ipv6 {
        fields.insert("PublicIPv6".to_owned(), json!(public_ipv6));
    }
    if !attrs.backend_type.is_empty() {
        fields.insert("BackendType".to_owned(), json!(attrs.backend_type));
    }
    let data = [
        ("BackendData", &attrs.backend_data),
        ("BackendV6Data", &attrs.backend_v6_data),
    ];
    for (name, data) in data {
        if let Some(data) = data {
            fields.insert(name.to_owned(), Value::clone(data));
        }
    }
    Value::Object(fields)
}

/// A lease as JSON.
#[must_use]
pub fn lease_value(subnet: Ipv4Net, attrs: &LeaseAttrs, expires: Option<Moment>) -> Value {
    let expires = expires.map_or_else(|| NEVER.to_owned(), rfc3339::format);
    json!({ "Subnet": subnet, "Attrs": attrs_value(attrs), "Expiration": expires })
}

/// What flannel 0.7 says of a lease that is gone, as JSON.
#[must_use]
pub fn gone_value(subnet: Ipv4Net) -> Value {
    let nobody = json!({ "PublicIP": Ipv4Addr::UNSPECIFIED });
    json!({ "Subnet": subnet, "Attrs": nobody, "Expiration": NEVER })
}

impl Lease {
    /// # Errors
    /// When it is no object with a subnet. What is wrong with the attributes is in the lease, also when it is how deep they are.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let parts = Parts::of(json)?;
        let attrs = parts.get("Attrs").map_or("null", RawValue::get);
        let read = parts.read(&["Subnet", "Expiration"])?;
        let fields = Fields::new(&read);
        let expires = fields.str("Expiration")?.unwrap_or_default();
        Ok(Self {
            subnet: subnet(&fields)?,
            attrs: LeaseAttrs::from_json(attrs.as_bytes()),
            expires: rfc3339::parse(expires),
        })
    }
}

impl Reservation {
    #[must_use]
    pub fn to_value(self) -> Value {
        json!({ "Subnet": self.subnet, "PublicIP": self.public_ip })
    }

    /// # Errors
    /// When it is no object with subnet and address.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let value = serde_json::from_slice(json)?;
        let fields = fields(&value)?;
        let public_ip = fields.parsed("PublicIP", "an IPv4 address like \"192.0.2.1\"")?;
        Ok(Self {
            subnet: subnet(&fields)?,
            public_ip: public_ip.ok_or(MessageError::Missing("PublicIP"))?,
        })
    }
}

fn fields(value: &Value) -> Result<Fields<'_>, MessageError> {
    let object = value.as_object().map(Fields::new);
    object.ok_or_else(|| MessageError::NotAnObject(excerpt(&value.to_string())))
}

fn subnet(fields: &Fields<'_>) -> Result<Ipv4Net, MessageError> {
    let subnet = fields.parsed::<Ipv4Net>("Subnet", "a subnet like \"10.3.5.0/24\"")?;
    Ok(subnet.ok_or(MessageError::Missing("Subnet"))?.trunc())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::base::mac::MacAddr;

    /// As flannel 0.7 wrote it.
    const LEASE: &str = r#"{"Subnet":"10.3.0.0/24","Attrs":{"PublicIP":"1.1.1.1","BackendType":"vxlan","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}},"Expiration":"2016-02-04T10:11:12Z"}"#;

    #[test]
    fn a_lease_to_the_byte() {
        let lease = Lease::from_json(LEASE.as_bytes()).unwrap();
        let attrs = lease.attrs.unwrap();
        assert_eq!(attrs.public_ip, Ipv4Addr::new(1, 1, 1, 1));
        assert_eq!(lease.expires.unwrap().unix().as_secs(), 1_454_580_672);
        let again = lease_value(lease.subnet, &attrs, lease.expires);
        assert_eq!(again.to_string(), LEASE);
    }

    #[test]
    fn a_lease_that_never_ends_has_gos_zero_time() {
        let attrs = LeaseAttrs::host_gw(Ipv4Addr::new(1, 1, 1, 1));
        let value = lease_value("10.3.0.0/24".parse().unwrap(), &attrs, None);
        assert_eq!(
            value.to_string(),
            r#"{"Subnet":"10.3.0.0/24","Attrs":{"PublicIP":"1.1.1.1","BackendType":"host-gw"},"Expiration":"0001-01-01T00:00:00Z"}"#
        );
        assert_eq!(
            Lease::from_json(value.to_string().as_bytes())
                .unwrap()
                .expires,
            None
        );
    }

    #[test]
    fn attributes_of_udp_are_the_address_alone() {
        let attrs = LeaseAttrs {
            backend_type: String::new(),
            ..LeaseAttrs::host_gw(Ipv4Addr::new(1, 1, 1, 1))
        };
        assert_eq!(attrs_value(&attrs).to_string(), r#"{"PublicIP":"1.1.1.1"}"#);
    }

    #[test]
    fn attributes_survive_the_way_there() {
        let attrs = LeaseAttrs {
            public_ipv6: Some("fd00::1".parse().unwrap()),
            ..LeaseAttrs::vxlan(Ipv4Addr::new(1, 1, 1, 1), 1, MacAddr([2; 6]))
        };
        let text = attrs_value(&attrs).to_string();
        assert_eq!(LeaseAttrs::from_json(text.as_bytes()).unwrap(), attrs);
    }

    #[test]
    fn a_reservation_to_the_byte() {
        let json = r#"{"Subnet":"10.3.7.0/24","PublicIP":"52.195.12.13"}"#;
        let reservation = Reservation::from_json(json.as_bytes()).unwrap();
        assert_eq!(reservation.to_value().to_string(), json);
    }

    #[rstest]
    #[case("", "not JSON")]
    #[case("[]", "is []")]
    #[case("{}", "Subnet is missing")]
    #[case(r#"{"Subnet":"x"}"#, r#"Subnet is "x""#)]
    fn messages_that_say_nothing(#[case] json: &str, #[case] part: &str) {
        let error = Lease::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_subnet_in_a_path() {
        let subnet = "10.3.0.0/24".parse().unwrap();
        assert_eq!(segment(subnet), "10.3.0.0-24");
        assert_eq!(parse_segment("10.3.0.0-24"), Some(subnet));
        for other in ["10.3.0.0/24", "10.3.0.7-24", "x", "10.3.0.0-24&fd00::-64"] {
            assert_eq!(parse_segment(other), None, "{other}");
        }
    }
}
