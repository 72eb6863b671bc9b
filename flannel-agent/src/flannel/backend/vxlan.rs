//! vxlan: packets between nodes in UDP (RFC 7348), and in a lease `{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::excerpt::excerpt;
use crate::base::json_fields::{FieldError, Fields};
use crate::base::mac::MacAddr;
use crate::flannel::lease::LeaseAttrs;

pub(super) const NAME: &str = "vxlan";

/// Outer IPv4, UDP and VXLAN headers and the inner Ethernet header, bytes.
pub const TUNNEL_OVERHEAD: u32 = 50;

/// Options of the vxlan backend, with flannel's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanOptions {
    pub vni: u32,
    /// UDP port; flannel's 0 means the kernel's default, 8472.
    pub port: u16,
    /// Underlay MTU to assume instead of the uplink's.
    pub mtu: Option<u32>,
    pub direct_routing: bool,
    /// Group based policy: the header carries netfilter's mark, see [`flannel_common::gbp`].
    #[serde(default)]
    pub gbp: bool,
}

impl VxlanOptions {
    /// What of `underlay`, the longest packet on the wire, is left for a packet of the overlay. The option can only lower it:
    /// longer outer packets would never leave.
    pub(super) fn mtu(&self, underlay: u32) -> u32 {
        let wire = self.mtu.unwrap_or(underlay).min(underlay);
        wire.saturating_sub(TUNNEL_OVERHEAD)
    }
}

/// What a vxlan lease says about its tunnel endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanData {
    /// For information only: very old leases lack it, and flannel never compares it with its own.
    pub vni: Option<u32>,
    /// Inner destination MAC of packets to this node.
    pub vtep_mac: MacAddr,
}

/// Why a lease gives no tunnel endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VtepError {
    #[error(
        "BackendType is {found:?}, not {wanted:?}: all nodes of a network must use one backend"
    )]
    OtherBackend { found: String, wanted: &'static str },
    #[error("BackendData is {0}: no object with a VtepMAC")]
    NoData(String),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("VtepMAC is {0}: no device can have this address")]
    NotUnicast(MacAddr),
}

impl LeaseAttrs {
    /// A vxlan node's lease.
    #[must_use]
    pub fn vxlan(public_ip: Ipv4Addr, vni: u32, vtep_mac: MacAddr) -> Self {
        Self {
            public_ip,
            public_ipv6: None,
            backend_type: NAME.to_owned(),
            // flannel reads the MAC only when it is the last and only string of the object.
            backend_data: Some(json!({ "VNI": vni, "VtepMAC": vtep_mac.to_string() }).into()),
            backend_v6_data: None,
        }
    }

    /// The tunnel endpoint of a vxlan lease.
    ///
    /// # Errors
    /// When the lease is of another backend or carries no usable MAC.
    pub fn vxlan_data(&self) -> Result<VxlanData, VtepError> {
        if self.backend_type != NAME {
            return Err(VtepError::OtherBackend {
                found: excerpt(&self.backend_type),
                wanted: NAME,
            });
        }
        let data = self.backend_data.as_deref().unwrap_or(&Value::Null);
        let no_data = || VtepError::NoData(excerpt(&data.to_string()));
        let fields = Fields::new(data.as_object().ok_or_else(no_data)?);
        let vtep_mac: MacAddr = fields
            .parsed("VtepMAC", "six bytes like \"c6:d2:32:6f:8f:44\"")?
            .ok_or_else(no_data)?;
        if !vtep_mac.is_unicast() {
            return Err(VtepError::NotUnicast(vtep_mac));
        }
        Ok(VxlanData {
            vni: fields.uint("VNI", u32::MAX)?,
            vtep_mac,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const MAC: MacAddr = MacAddr([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
    const IP: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

    fn lease(backend_type: &str, data: &str) -> LeaseAttrs {
        LeaseAttrs {
            backend_type: backend_type.to_owned(),
            backend_data: serde_json::from_str::<Option<Value>>(data)
                .unwrap()
                .map(Into::into),
            ..LeaseAttrs::host_gw(IP)
        }
    }

    #[test]
    fn own_lease_to_the_byte() {
        assert_eq!(
            LeaseAttrs::vxlan(IP, 1, MAC).to_json().unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#
        );
    }

    #[test]
    fn reads_new_and_very_old_leases() {
        let own = LeaseAttrs::vxlan(IP, 5, MAC);
        let data = VxlanData {
            vni: Some(5),
            vtep_mac: MAC,
        };
        assert_eq!(own.vxlan_data(), Ok(data));
        let old = lease("vxlan", r#"{"VtepMAC":"C6:D2:32:6F:8F:44"}"#);
        assert_eq!(old.vxlan_data(), Ok(VxlanData { vni: None, ..data }));
    }

    #[rstest]
    #[case("host-gw", "null", "\"host-gw\"")]
    #[case("", r#"{"VtepMAC":"c6:d2:32:6f:8f:44"}"#, "BackendType is \"\"")]
    #[case("vxlan", "null", "BackendData is null")]
    #[case("vxlan", "[]", "BackendData is []")]
    #[case("vxlan", r#"{"VNI":1}"#, "no object with a VtepMAC")]
    #[case("vxlan", r#"{"VtepMAC":"zz"}"#, r#"VtepMAC is "zz""#)]
    #[case("vxlan", r#"{"VtepMAC":7}"#, "VtepMAC is 7")]
    #[case("vxlan", r#"{"VtepMAC":"01:00:5e:00:00:01"}"#, "01:00:5e:00:00:01")]
    fn errors_name_the_value(
        #[case] backend_type: &str,
        #[case] data: &str,
        #[case] expected: &str,
    ) {
        let error = lease(backend_type, data)
            .vxlan_data()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
    }

    #[test]
    fn errors_show_the_beginning_of_what_is_long() {
        let long = "x".repeat(1 << 20);
        for lease in [
            lease(&long, "null"),
            lease("vxlan", &format!("{long:?}")),
            lease("vxlan", &format!(r#"{{"VtepMAC":{long:?}}}"#)),
        ] {
            let error = lease.vxlan_data().unwrap_err().to_string();
            assert!(
                error.contains("xxx…") && error.len() < 400,
                "{}",
                error.len()
            );
        }
        let other = lease(&long, "null");
        for error in [other.check_udp(), other.check_ipip()] {
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("xxx…") && error.len() < 400,
                "{}",
                error.len()
            );
        }
    }
}
