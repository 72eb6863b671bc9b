//! A datastore and a node made of channels, and an agent between the two.

mod node;
mod source;
mod stage;

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::base::mac::MacAddr;
use crate::flannel::lease::{LeaseAttrs, OwnLease};
use crate::node::uplink::Uplink;
pub(super) use node::{Call, FLANNELDS, FakeNode};
pub(super) use source::FakeSource;
pub(super) use stage::Stage;

pub(super) fn subnet(n: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 1, n, 0), 24).unwrap()
}

fn attrs(mac: u8, ip: &str) -> LeaseAttrs {
    LeaseAttrs::vxlan(ip.parse().unwrap(), 1, MacAddr([2, 0, 0, 0, 0, mac]))
}

/// The lease of subnet `n`, with a MAC that ends in `n`.
pub(super) fn lease(n: u8, ip: &str) -> OwnLease {
    OwnLease {
        subnet: subnet(n),
        attrs: attrs(n, ip),
        expires: None,
    }
}

pub(super) fn uplink(ip: &str) -> Uplink {
    let ip = ip.parse().unwrap();
    Uplink {
        name: "eth0".to_owned(),
        index: 2,
        mac: [2, 0, 0, 0, 1, 1],
        address: ip,
        public_ip: ip,
        mtu: 1500,
        is_carrier: true,
        why: "it is the only one".to_owned(),
    }
}

/// Waits for `condition` for at most ten minutes of tokio's time.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(10), wait).await;
    waited.expect("the condition comes true");
}
