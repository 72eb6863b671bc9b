//! wireguard: the kernel's WireGuard device encrypts what goes from node to node. A lease says the key and the port,
//! `{"PublicKey":"base64","Port":51820}`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::excerpt::excerpt;
use crate::base::json_fields::Fields;
use crate::base::key::{Psk, PublicKey};
use crate::flannel::lease::LeaseAttrs;

pub(super) const NAME: &str = "wireguard";

pub(crate) const DEFAULT_PORT: u16 = 51_820;

/// What WireGuard puts around a packet, bytes, with room for an outer IPv6 header: flannel reckons so whatever the outer address.
pub(crate) const OVERHEAD: u32 = 80;

/// Options of the wireguard backend, with flannel's defaults. With IPv4 alone its modes make no difference but for `ipv6`, which is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuardOptions {
    pub port: u16,
    /// Underlay MTU to assume instead of the uplink's.
    pub mtu: Option<u32>,
    pub psk: Psk,
    /// Seconds; 0: peers are not called.
    pub keepalive: u16,
}

impl Default for WireGuardOptions {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            mtu: None,
            psk: Psk::default(),
            keepalive: 0,
        }
    }
}

impl WireGuardOptions {
    pub(super) fn mtu(&self, underlay: u32) -> u32 {
        self.mtu.unwrap_or(underlay).saturating_sub(OVERHEAD)
    }
}

/// What a wireguard lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireGuardData {
    pub public_key: PublicKey,
    /// `None` in leases of older nodes: as everybody's.
    pub port: Option<u16>,
}

impl LeaseAttrs {
    /// A wireguard node's lease. `None`: it has no key yet.
    #[must_use]
    pub fn wireguard(public_ip: Ipv4Addr, public_key: Option<PublicKey>, port: u16) -> Self {
        let data = |key: PublicKey| json!({ "PublicKey": key.to_string(), "Port": port });
        Self {
            backend_type: NAME.to_owned(),
            backend_data: public_key.map(data).map(Into::into),
            ..Self::host_gw(public_ip)
        }
    }

    /// # Errors
    /// The lease is of another backend, or has no usable key.
    pub fn wireguard_data(&self) -> Result<WireGuardData, String> {
        if self.backend_type != NAME {
            return Err(format!(
                "BackendType is {:?}, not {NAME:?}: all nodes of a network must use one backend",
                excerpt(&self.backend_type)
            ));
        }
        let data = self.backend_data.as_deref().unwrap_or(&Value::Null);
        let no_key = || {
            let data = excerpt(&data.to_string());
            format!("BackendData is {data}: no object with a PublicKey")
        };
        let fields = Fields::new(data.as_object().ok_or_else(no_key)?);
        let public_key = fields
            .parsed("PublicKey", "32 bytes in base64, as wg pubkey prints them")
            .map_err(|error| error.to_string())?
            .ok_or_else(no_key)?;
        let port = fields.uint("Port", u16::MAX.into());
        let port = port.map_err(|error| error.to_string())?;
        Ok(WireGuardData {
            public_key,
            port: port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;

    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn own_lease_to_the_byte() {
        let key = KEY.parse().unwrap();
        assert_eq!(
            LeaseAttrs::wireguard(IP, Some(key), 51_820)
                .to_json()
                .unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=","Port":51820}}"#
        );
        let none = LeaseAttrs::wireguard(IP, None, 51_820).to_json().unwrap();
        assert!(!none.contains("BackendData"), "{none}");
    }

    fn lease(backend_type: &str, data: &str) -> LeaseAttrs {
        LeaseAttrs {
            backend_type: backend_type.to_owned(),
            backend_data: Some(Arc::new(serde_json::from_str(data).unwrap())),
            ..LeaseAttrs::host_gw(IP)
        }
    }

    #[rstest]
    #[case(r#"{"PublicKey":"K","Port":7}"#, Some(7))]
    #[case(r#"{"publickey":"K","port":7,"More":[]}"#, Some(7))]
    // Before there was a port in leases, and as Go writes none.
    #[case(r#"{"PublicKey":"K"}"#, None)]
    #[case(r#"{"PublicKey":"K","Port":0}"#, None)]
    fn what_a_peer_says(#[case] data: &str, #[case] port: Option<u16>) {
        let data = data.replace("\"K\"", &format!("\"{KEY}\""));
        let public_key = KEY.parse().unwrap();
        assert_eq!(
            lease(NAME, &data).wireguard_data(),
            Ok(WireGuardData { public_key, port })
        );
    }

    #[rstest]
    #[case("vxlan", r#"{"VNI":1}"#, r#"BackendType is "vxlan""#)]
    #[case(NAME, "null", "BackendData is null: no object with a PublicKey")]
    #[case(NAME, r#"{"Port":1}"#, "no object with a PublicKey")]
    #[case(
        NAME,
        r#"{"PublicKey":"bm90IGEga2V5"}"#,
        r#"PublicKey is "bm90IGEga2V5""#
    )]
    #[case(NAME, r#"{"PublicKey":"K","Port":70000}"#, "Port is 70000")]
    fn errors_name_the_value(#[case] kind: &str, #[case] data: &str, #[case] expected: &str) {
        let data = data.replace("\"K\"", &format!("\"{KEY}\""));
        let error = lease(kind, &data).wireguard_data().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn errors_show_the_beginning_of_what_is_long() {
        let long = "x".repeat(1 << 20);
        for lease in [
            lease(&long, "null"),
            lease(NAME, &format!("{long:?}")),
            lease(NAME, &format!(r#"{{"PublicKey":{long:?}}}"#)),
        ] {
            let error = lease.wireguard_data().unwrap_err();
            assert!(
                error.contains("xxx…") && error.len() < 400,
                "{}",
                error.len()
            );
        }
    }

    #[test]
    fn flannel_s_sum_of_bytes() {
        let options = WireGuardOptions::default();
        assert_eq!((options.mtu(1500), options.mtu(9000)), (1420, 8920));
        let told = WireGuardOptions {
            mtu: Some(1400),
            ..options
        };
        assert_eq!(told.mtu(1500), 1320);
    }
}
