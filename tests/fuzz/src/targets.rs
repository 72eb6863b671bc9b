//! All targets, by where their bytes come from.

mod crossing;
mod datastore;
mod icmp_error;
mod node;
mod wire;

use crate::Target;

/// Everything that reads what others wrote.
pub const TARGETS: [Target; 9] = [
    Target {
        name: "network_config",
        check: datastore::network_config,
    },
    Target {
        name: "lease_key",
        check: datastore::lease_key,
    },
    Target {
        name: "lease_value",
        check: datastore::lease_value,
    },
    Target {
        name: "subnet_file",
        check: node::subnet_file,
    },
    Target {
        name: "outer_headers",
        check: wire::outer_headers,
    },
    Target {
        name: "tunnel_frame",
        check: wire::tunnel_frame,
    },
    Target {
        name: "inner_packet",
        check: wire::inner_packet,
    },
    Target {
        name: "icmp_error",
        check: icmp_error::icmp_error,
    },
    Target {
        name: "crossing",
        check: crossing::crossing,
    },
];
