//! What a route says of the packets that take it.

use netlink_packet_route::route::{RouteAttribute, RouteMetric};

/// The route's own MTU, bytes.
pub(super) fn mtu(attribute: &RouteAttribute) -> Option<u32> {
    let RouteAttribute::Metrics(metrics) = attribute else {
        return None;
    };
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}
