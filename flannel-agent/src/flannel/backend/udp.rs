//! udp: packets between nodes as they are, each in a datagram. In flanneld a process carries every one of them. Its lease is the node's
//! address, without a type.

use std::net::Ipv4Addr;

use flannel_common::udp::DEFAULT_PORT;
use serde::{Deserialize, Serialize};

use super::VtepError;
use crate::base::excerpt::excerpt;
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
                found: excerpt(other),
                wanted: NAME,
            }),
        }
    }
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
}
