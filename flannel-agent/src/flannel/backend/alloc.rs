//! alloc: a lease and `subnet.env`, and packets are somebody else's affair. Its lease is the node's address, without a type.

use std::net::Ipv4Addr;

use crate::flannel::lease::LeaseAttrs;

pub(super) const NAME: &str = "alloc";
/// `BackendType` in leases, which leave it out.
pub(super) const TYPE: &str = "";

impl LeaseAttrs {
    /// An alloc node's lease.
    #[must_use]
    pub fn alloc(public_ip: Ipv4Addr) -> Self {
        Self {
            backend_type: TYPE.to_owned(),
            ..Self::host_gw(public_ip)
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
            LeaseAttrs::alloc(IP).to_json().unwrap(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#
        );
    }
}
