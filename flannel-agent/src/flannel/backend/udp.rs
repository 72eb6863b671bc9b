//! udp: packets between nodes as they are, each in a datagram. In flanneld a process carries every one of them. Its lease is the node's
//! address, without a type.

use std::net::Ipv4Addr;

use flannel_common::udp::DEFAULT_PORT;
use serde::{Deserialize, Serialize};

use super::VtepError;
use crate::base::mac::MacAddr;
use crate::flannel::lease::LeaseAttrs;

pub(super) const NAME: &str = "udp";
/// `BackendType` in leases, which leave it out.
pub(super) const TYPE: &str = "";

/// Options of the udp backend, with flannel's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpOptions {
    pub port: u16,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { port: DEFAULT_PORT }
    }
}

impl LeaseAttrs {
    /// A udp node's lease.
    #[must_use]
    pub fn udp(public_ip: Ipv4Addr) -> Self {
        Self {
            backend_type: TYPE.to_owned(),
            ..Self::host_gw(public_ip)
        }
    }

    /// # Errors
    /// When the lease is of another backend.
    pub(super) fn check_udp(&self) -> Result<(), VtepError> {
        match self.backend_type.as_str() {
            TYPE | NAME => Ok(()),
            other => Err(VtepError::OtherBackend {
                found: other.to_owned(),
                wanted: NAME,
            }),
        }
    }
}

/// MAC of this node's device, which nobody else is told: the same after each start.
pub(super) fn mac(public_ip: Ipv4Addr) -> MacAddr {
    /// Locally administered (IEEE 802 §8.2), and no group.
    const LOCAL: u8 = 0x02;
    let [a, b, c, d] = public_ip.octets();
    MacAddr([LOCAL, 0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

    #[test]
    fn own_lease_to_the_byte() {
        assert_eq!(
            LeaseAttrs::udp(IP).to_json().unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#
        );
    }

    #[rstest]
    #[case("", true)]
    #[case("udp", true)]
    #[case("vxlan", false)]
    fn a_lease_without_a_type_is_one(#[case] backend_type: &str, #[case] is: bool) {
        let lease = LeaseAttrs {
            backend_type: backend_type.to_owned(),
            ..LeaseAttrs::udp(IP)
        };
        assert_eq!(lease.check_udp().is_ok(), is);
    }

    #[test]
    fn the_device_s_mac_is_a_device_s() {
        assert!(mac(IP).is_unicast());
        assert_ne!(mac(IP), mac(Ipv4Addr::new(1, 2, 3, 5)));
    }
}
