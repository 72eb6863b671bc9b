//! host-gw: a route to each node, and nothing around the packets. Its lease is the node's address alone.

use std::net::Ipv4Addr;

use crate::flannel::lease::LeaseAttrs;

pub(super) const NAME: &str = "host-gw";

impl LeaseAttrs {
    /// A host-gw node's lease.
    #[must_use]
    pub fn host_gw(public_ip: Ipv4Addr) -> Self {
        Self {
            public_ip,
            public_ipv6: None,
            backend_type: NAME.to_owned(),
            backend_data: None,
            backend_v6_data: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lease_to_the_byte() {
        const IP: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
        assert_eq!(
            LeaseAttrs::host_gw(IP).to_json().unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}"#
        );
    }
}
