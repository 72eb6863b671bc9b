//! The JSON value of a lease, byte for byte what flannel writes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::LeaseAttrs;
use crate::base::excerpt::excerpt;
use crate::base::json_fields::{FieldError, Fields};

/// Why a lease's value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("the lease's value is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the lease's value is {0}: write an object, {{\"PublicIP\":\"192.0.2.1\",…}}")]
    NotAnObject(String),
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Also when the field is missing: flannel writes 0.0.0.0 for "none".
    #[error("PublicIP is {0}: no address that other nodes can send to, write the node's own")]
    NoPublicIp(Ipv4Addr),
}

/// So deep may a backend's data be: JSON is read to 127 levels, and a lease is told within other JSON.
const DEEPEST: usize = 16;

/// flannel's field order; the two addresses are always there, the rest only when set.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Fixed<'a> {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6")]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "str::is_empty")]
    backend_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_v6_data: Option<&'a Value>,
}

impl LeaseAttrs {
    /// The value as flannel serialises it: compact, in its field order.
    ///
    /// # Errors
    /// None in practice: every part has a JSON form.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(&Fixed {
            public_ip: self.public_ip,
            public_ipv6: self.public_ipv6,
            backend_type: &self.backend_type,
            backend_data: self.backend_data.as_deref(),
            backend_v6_data: self.backend_v6_data.as_deref(),
        })?;
        // As Go escapes them; outside of strings JSON has none of these.
        const ESCAPED: [(char, &str); 5] = [
            ('<', "\\u003c"),
            ('>', "\\u003e"),
            ('&', "\\u0026"),
            ('\u{2028}', "\\u2028"),
            ('\u{2029}', "\\u2029"),
        ];
        let replace = |text: String, (char, escape)| match text.contains(char) {
            true => text.replace(char, escape),
            false => text,
        };
        Ok(ESCAPED.into_iter().fold(text, replace))
    }

    /// Reads a value; field names match in any case and unknown fields are ignored, as in Go.
    ///
    /// # Errors
    /// When it is not a JSON object, a field has the wrong type, or there is no usable `PublicIP`.
    pub fn from_json(json: &[u8]) -> Result<Self, ValueError> {
        let value: Value = serde_json::from_slice(json)?;
        let Some(object) = value.as_object() else {
            return Err(ValueError::NotAnObject(excerpt(&value.to_string())));
        };
        let fields = Fields::new(object);
        let public_ip = fields
            .parsed("PublicIP", "an IPv4 address like \"192.0.2.1\"")?
            .unwrap_or(Ipv4Addr::UNSPECIFIED);
        if public_ip.is_unspecified() || public_ip.is_multicast() || public_ip.is_broadcast() {
            return Err(ValueError::NoPublicIp(public_ip));
        }
        Ok(Self {
            public_ip,
            public_ipv6: fields.parsed("PublicIPv6", "null or an IPv6 address")?,
            backend_type: fields.str("BackendType")?.unwrap_or_default().to_owned(),
            backend_data: data(fields, "BackendData")?,
            backend_v6_data: data(fields, "BackendV6Data")?,
        })
    }
}

fn data(fields: Fields<'_>, name: &'static str) -> Result<Option<Arc<Value>>, FieldError> {
    let Some(value) = fields.get(name) else {
        return Ok(None);
    };
    if depth(value) > DEEPEST {
        let wanted = format!("at most {DEEPEST} levels of {{}} and []");
        return Err(FieldError::new(name, value, wanted));
    }
    Ok(Some(Arc::new(value.clone())))
}

/// Calls itself no deeper than JSON was read.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn minimal() -> LeaseAttrs {
        LeaseAttrs {
            public_ip: Ipv4Addr::new(1, 2, 3, 4),
            public_ipv6: None,
            backend_type: String::new(),
            backend_data: None,
            backend_v6_data: None,
        }
    }

    #[test]
    fn er2_minimal_value_to_the_byte() {
        assert_eq!(
            minimal().to_json().unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#
        );
    }

    #[rstest]
    #[case(r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#)]
    #[case(r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}"#)]
    #[case(
        r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#
    )]
    #[case(
        r#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1","BackendType":"wireguard","BackendData":{"PublicKey":"eA==","Port":51820},"BackendV6Data":{"VNI":1}}"#
    )]
    fn values_read_back_to_the_byte(#[case] json: &str) {
        let attrs = LeaseAttrs::from_json(json.as_bytes()).unwrap();
        assert_eq!(attrs.to_json().unwrap(), json);
    }

    #[test]
    fn unknown_fields_other_cases_and_nulls_are_tolerated() {
        let json = r#" {"zone":[1,{}],"publicip":"1.2.3.4","publicipv6":"","BackendData":null} "#;
        assert_eq!(LeaseAttrs::from_json(json.as_bytes()).unwrap(), minimal());
    }

    #[rstest]
    #[case("", "not JSON")]
    #[case("null", "is null")]
    #[case("[]", "is []")]
    #[case("{}", "PublicIP is 0.0.0.0")]
    #[case(r#"{"PublicIP":"0.0.0.0"}"#, "PublicIP is 0.0.0.0")]
    #[case(r#"{"PublicIP":"224.0.0.1"}"#, "PublicIP is 224.0.0.1")]
    #[case(r#"{"PublicIP":16909060}"#, "PublicIP is 16909060")]
    #[case(r#"{"PublicIP":"1.2.3"}"#, r#"PublicIP is "1.2.3""#)]
    #[case(r#"{"PublicIP":"1.2.3.4","PublicIPv6":"x"}"#, r#"PublicIPv6 is "x""#)]
    #[case(r#"{"PublicIP":"1.2.3.4","BackendType":7}"#, "BackendType is 7")]
    fn errors_name_the_value(#[case] json: &str, #[case] expected: &str) {
        let error = LeaseAttrs::from_json(json.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
    }

    #[rstest]
    #[case("BackendData", 16, true)]
    #[case("BackendData", 17, false)]
    #[case("BackendV6Data", 17, false)]
    #[case("Unknown", 100, true)]
    fn what_is_nested_too_deep_cannot_be_read(
        #[case] field: &str,
        #[case] levels: usize,
        #[case] readable: bool,
    ) {
        for (open, close) in [("[", "]"), (r#"{"x":"#, "}")] {
            let data = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            let json = format!(r#"{{"PublicIP":"1.2.3.4","{field}":{data}}}"#);
            let read = LeaseAttrs::from_json(json.as_bytes());
            let error = read.err().map(|error| error.to_string());
            assert_eq!(error.is_none(), readable, "{error:?}");
            assert!(error.is_none_or(|it| it.contains("at most 16 levels")));
        }
    }

    #[test]
    fn errors_show_the_beginning_of_what_is_long() {
        let long = "x".repeat(1 << 20);
        for json in [format!("{long:?}"), format!(r#"{{"PublicIP":{long:?}}}"#)] {
            let error = LeaseAttrs::from_json(json.as_bytes()).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("xxx…") && error.len() < 400,
                "{}",
                error.len()
            );
        }
    }

    proptest! {
        #[test]
        fn fz_value_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = LeaseAttrs::from_json(&bytes);
        }

        #[test]
        fn fz_value_shaped_input_never_panics(ip in ".{0,20}", kind in ".{0,20}", data in ".{0,40}") {
            let value = serde_json::json!({ "PublicIP": ip, "BackendType": kind, "BackendData": data });
            let _ = LeaseAttrs::from_json(value.to_string().as_bytes());
        }
    }
}
