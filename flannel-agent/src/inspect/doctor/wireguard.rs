//! What the backend wireguard needs of the kernel, and whether its peers answer.

use super::bound::is_bound;
use super::{Patient, Report, peers as asked};
use crate::flannel::backend::WireGuardOptions;
use crate::node::mark;
use crate::node::net::{NetError, wireguard};
use crate::node::wireguard::DEVICE;

/// Peers that are named one by one.
const NAMED: usize = 5;

pub(super) fn check(patient: &Patient<'_>, options: &WireGuardOptions, report: &mut Report) {
    let there = wireguard::is_there();
    let is_there = matches!(there, Ok(true));
    kernel(there, report);
    if !is_there {
        return;
    }
    let ours = patient.link(DEVICE).is_some_and(|link| {
        mark::network_of(link) == Some(&mark::network_name(&patient.config.etcd.prefix))
    });
    let device = || match ours {
        true => wireguard::read(DEVICE).ok().flatten(),
        false => None,
    };
    if let Some((link, state)) = patient.link(DEVICE).zip(device()) {
        asked::check_sealed(patient, link.index, &state, report);
    }
    // Behind the questions, for which peers prove their keys.
    let device = device();
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    port(
        options.port,
        is_bound(&table, options.port),
        device.as_ref(),
        report,
    );
    match device {
        Some(device) => peers(&device, report),
        None if patient.pre => {}
        None => report.failure(
            format!("there is no {DEVICE} of this network"),
            "start the agent; if it runs, its log says why it makes none",
        ),
    }
}

fn kernel(there: Result<bool, NetError>, report: &mut Report) {
    match there {
        Ok(true) => report.ok("the kernel has WireGuard devices"),
        Ok(false) => report.failure(
            "the kernel has no WireGuard devices, which the backend wireguard needs",
            "modprobe wireguard on the host; or boot a kernel with CONFIG_WIREGUARD, or give the network another backend",
        ),
        Err(error) => report.warning(
            error.to_string(),
            "run doctor as root, in the node's network namespace",
        ),
    }
}

fn port(port: u16, bound: bool, device: Option<&wireguard::State>, report: &mut Report) {
    match device {
        Some(device) if device.port == port => {
            report.ok(format!("UDP port {port} is {DEVICE}'s"));
        }
        _ if bound => report.warning(
            format!("UDP port {port} is taken, by flanneld's device or another tunnel"),
            format!("nothing if flanneld runs and is to be replaced; else find it: ss -lunp sport = {port}; wg show"),
        ),
        _ => report.ok(format!("UDP port {port} is free")),
    }
}

/// A peer to which nothing was sent need not have answered.
fn peers(device: &wireguard::State, report: &mut Report) {
    let silent = |peer: &&wireguard::PeerState| peer.handshake.is_none() && peer.sent > 0;
    let all = device.peers.len();
    let silent: Vec<_> = device.peers.values().filter(silent).collect();
    for peer in silent.iter().take(NAMED) {
        let at = peer
            .endpoint
            .map_or_else(String::new, |at| format!(" {at}"));
        report.failure(
            format!("the peer{at} has never answered"),
            "look whether its UDP port is open on the way, and whether both have the same PSK and the key of the other's lease: wg show flannel-wg",
        );
    }
    if let Some(more) = silent.len().checked_sub(NAMED).filter(|more| *more > 0) {
        report.failure(
            format!("{more} more peers of {all} have never answered"),
            "begin with those above: they mostly share the cause",
        );
    }
    if silent.is_empty() {
        report.ok(format!("{DEVICE} has {all} peers, and none is silent"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::key::PublicKey;
    use crate::inspect::doctor::tests::{fine, odd, said};

    #[test]
    fn a_kernel_without_it_is_a_failure_with_a_way_out() {
        assert_eq!(
            said(|report| kernel(Ok(true), report)),
            fine("the kernel has WireGuard devices")
        );
        let lines = said(|report| kernel(Ok(false), report));
        let (_, what, fix) = &lines[0];
        assert!(what.contains("no WireGuard devices"), "{what}");
        assert!(fix.as_deref().unwrap().contains("modprobe wireguard"));
    }

    #[test]
    fn whose_the_port_is() {
        let state = |port| wireguard::State {
            port,
            ..wireguard::State::default()
        };
        let said = |bound, device: Option<wireguard::State>| {
            said(|report| port(51_820, bound, device.as_ref(), report))
        };
        assert_eq!(
            said(true, Some(state(51_820))),
            fine("UDP port 51820 is flannel-wg's")
        );
        assert_eq!(said(false, None), fine("UDP port 51820 is free"));
        let taken = odd(
            "UDP port 51820 is taken, by flanneld's device or another tunnel",
            "nothing if flanneld runs and is to be replaced; else find it: ss -lunp sport = 51820; wg show",
        );
        assert_eq!(said(true, None), taken);
    }

    #[test]
    fn who_never_answered_is_named() {
        let peer = |last: u8, sent, handshake| {
            let state = wireguard::PeerState {
                endpoint: Some(([192, 0, 2, last], 51_820).into()),
                handshake,
                sent,
                ..wireguard::PeerState::default()
            };
            (PublicKey([last; 32]), state)
        };
        let of = |all: Vec<(PublicKey, wireguard::PeerState)>| {
            let device = wireguard::State {
                peers: all.into_iter().collect(),
                ..wireguard::State::default()
            };
            said(|report| peers(&device, report))
        };
        let answered = peer(1, 9, Some(Duration::from_secs(9)));
        let idle = peer(2, 0, None);
        let all = of(vec![answered, idle]);
        assert_eq!(all, fine("flannel-wg has 2 peers, and none is silent"));
        let lines = of((1..=7).map(|last| peer(last, 9, None)).collect());
        assert_eq!(lines.len(), NAMED + 1);
        assert!(lines[0].1.contains("192.0.2.1:51820 has never answered"));
        assert!(lines[NAMED].1.starts_with("2 more peers of 7"));
    }
}
