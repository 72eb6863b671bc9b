//! rp_filter: what the stack drops because an answer would leave by another device.

use std::net::Ipv4Addr;

use super::{Patient, Report};
use crate::flannel::config::NetworkConfig;
use crate::node::mark;
use crate::node::net::sysctl;
use crate::node::uplink::Uplink;

/// `rp_filter` = 1 (RFC 3704, 2.2): only from where the route back leads.
const STRICT: u32 = 1;
/// Peers whose way back is looked up; of one network they mostly share it.
const PEERS: usize = 100;

pub(super) async fn check(
    patient: &Patient<'_>,
    uplink: Option<&Uplink>,
    network: Option<&NetworkConfig>,
    report: &mut Report,
) {
    let before = report.checks.len();
    if let Some(network) = network {
        tunnel(patient, network, report);
    }
    if let Some(uplink) = uplink {
        way_back(patient, uplink, report).await;
    }
    if report.checks.len() == before {
        report.ok("rp_filter lets packets of other nodes in");
    }
}

/// What enters by the tunnel and is no pod's (a client that another node forwards, say) has its way back
/// elsewhere.
fn tunnel(patient: &Patient<'_>, network: &NetworkConfig, report: &mut Report) {
    let Some(tunnel) = network.backend.tunnel() else {
        return;
    };
    let name = mark::network_name(&patient.config.etcd.prefix);
    let mut own = patient.links.iter();
    let own = own.find(|link| {
        mark::network_of(link) == Some(&name) && mark::wire_of(link) == Some(tunnel.wire)
    });
    let device = own.map_or_else(|| mark::device(tunnel.wire), |link| link.name.clone());
    // Before the first start it is what a new device gets.
    let setting = match patient.link(&device) {
        Some(_) => &device,
        None => "default",
    };
    if mode(setting) == Some(STRICT) {
        report.warning(
            format!(
                "rp_filter is strict on {device}: what other nodes forward into the tunnel for clients \
                 outside of the network is dropped"
            ),
            loosen(setting),
        );
    }
}

/// Fragments, and everything that has no tunnel, reach the uplink's stack.
async fn way_back(patient: &Patient<'_>, uplink: &Uplink, report: &mut Report) {
    if mode(&uplink.name) != Some(STRICT) {
        return;
    }
    let peers = patient.view.as_ref().ok().and_then(|v| v.vteps().ok());
    let mut elsewhere = Vec::new();
    for peer in peers.unwrap_or_default().into_keys().take(PEERS) {
        let hop = patient.net.next_hop(peer, None).await;
        if hop.is_ok_and(|hop| hop.index != uplink.index) {
            elsewhere.push(peer);
        }
    }
    if let [first, ..] = elsewhere[..] {
        report.failure(
            asymmetric(uplink, first, elsewhere.len()),
            loosen(&uplink.name),
        );
    } else {
        report.ok(format!(
            "rp_filter is strict on {}, and the way back to the peers leads there",
            uplink.name
        ));
    }
}

fn asymmetric(uplink: &Uplink, first: Ipv4Addr, count: usize) -> String {
    let name = &uplink.name;
    format!(
        "rp_filter is strict on {name}, but the way back to {count} peers ({first}, …) leads elsewhere: \
         their packets without a tunnel, and fragments, are dropped"
    )
}

/// 2, loose, wins over a 1 of `all`: the larger of both counts.
fn loosen(device: &str) -> String {
    // sysctl(8): with slashes for separators, dots are part of a name.
    format!(
        "sysctl -w net/ipv4/conf/{device}/rp_filter=2, and a file in /etc/sysctl.d for the next boot"
    )
}

/// What counts for a device (`ip-sysctl.rst`): the larger of its own value and that of `all`.
fn mode(device: &str) -> Option<u32> {
    let read = |of: &str| {
        let value = sysctl::read(&format!("net/ipv4/conf/{of}/rp_filter")).ok()??;
        value.parse::<u32>().ok()
    };
    let own = read(device)?;
    Some(own.max(read("all").unwrap_or_default()))
}
