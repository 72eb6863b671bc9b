//! ipip: packets between nodes in IPv4 (RFC 2003). Its lease has a type, and no data.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::VtepError;
use crate::base::excerpt::excerpt;
use crate::flannel::lease::LeaseAttrs;

pub(super) const NAME: &str = "ipip";

/// Options of the ipip backend, with flannel's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpipOptions {
    pub direct_routing: bool,
}

impl LeaseAttrs {
    /// An ipip node's lease.
    #[must_use]
    pub fn ipip(public_ip: Ipv4Addr) -> Self {
        Self {
            backend_type: NAME.to_owned(),
            ..Self::host_gw(public_ip)
        }
    }

    /// # Errors
    /// When the lease is of another backend.
    pub(super) fn check_ipip(&self) -> Result<(), VtepError> {
        match self.backend_type.as_str() {
            NAME => Ok(()),
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
            LeaseAttrs::ipip(IP).to_json().unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"ipip"}"#
        );
    }

    #[rstest]
    #[case("ipip", true)]
    #[case("", false)]
    #[case("vxlan", false)]
    fn only_its_own_type_is_one(#[case] backend_type: &str, #[case] is: bool) {
        let lease = LeaseAttrs {
            backend_type: backend_type.to_owned(),
            ..LeaseAttrs::ipip(IP)
        };
        assert_eq!(lease.check_ipip().is_ok(), is);
    }
}
