//! This node's network: uplink, forwarding, the tunnel's port, MTUs, the pod bridge.

use crate::flannel::backend::{WIREGUARD_OVERHEAD, Wire};
use crate::flannel::config::NetworkConfig;
use crate::node::mark;
use crate::node::mark::is_anchor;
use crate::node::net::{NetError, sysctl};
use crate::node::uplink::{Memory, Uplink};
use crate::reconcile::desired::{Outlets, Underlay};

use super::bound::is_bound;
use super::{Patient, Report, bridge, ipip, offloads, reverse_path, snat_ports, snat_times, ways};

/// IPv4 hosts have to take this much (RFC 791); below it DNS and TLS break.
const MTU_MIN: u32 = 576;

pub(super) async fn check(
    patient: &Patient<'_>,
    network: Option<&NetworkConfig>,
    report: &mut Report,
) {
    let uplink = match crate::node::uplink::find(
        patient.net,
        &patient.config.uplink,
        &Memory::default(),
        None,
    )
    .await
    {
        Ok(uplink) => {
            report.ok(format!("uplink {uplink}"));
            Some(uplink)
        }
        Err(error) => {
            report.failure(
                error.to_string(),
                "name the interface towards the other nodes with --iface",
            );
            None
        }
    };
    let known = match uplink.as_ref().zip(network) {
        Some((uplink, network)) => {
            let facts = ways::look(patient, uplink, network, report).await;
            facts.map(|facts| (uplink, network, facts))
        }
        None => None,
    };
    let pods_mtu = (known.as_ref())
        .map(|(uplink, network, facts)| mtu(uplink, &facts.underlay, network, report));
    if let Some(uplink) = uplink.as_ref().filter(|uplink| uplink.is_carrier) {
        offloads::check(patient, &uplink.name, report);
        if network
            .and_then(|network| network.backend.tunnel())
            .is_some()
        {
            offloads::name_the_anchor(patient, &uplink.name, report);
        }
    }
    for device in known
        .iter()
        .flat_map(|(.., facts)| facts.underlay.others.keys())
    {
        offloads::check(patient, device, report);
    }
    forwarding(sysctl::read(sysctl::FORWARDING), report);
    reverse_path::check(patient, uplink.as_ref(), network, report).await;
    let tunnel = network.and_then(|network| network.backend.tunnel());
    if let Some(port) = tunnel.and_then(|tunnel| tunnel.port) {
        udp_port(patient, port, report);
    }
    if tunnel.is_some_and(|tunnel| tunnel.wire == Wire::Ipip) {
        ipip::check(patient, report);
    }
    bridge::check(patient, pods_mtu, report);
    if let Some((uplink, network, facts)) = &known {
        source_nat(patient, uplink, network, &facts.outlets, report);
    }
}

/// Where pods' packets to the outside are translated, and where not.
fn source_nat(
    patient: &Patient<'_>,
    uplink: &Uplink,
    network: &NetworkConfig,
    outlets: &Outlets,
    report: &mut Report,
) {
    let Some(snat) = &patient.config.snat else {
        return;
    };
    let devices: Vec<_> = [&uplink.name]
        .into_iter()
        .filter(|_| uplink.is_carrier)
        .chain(outlets.devices.keys())
        .collect();
    let devices = devices
        .into_iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let tunnel = network.backend.udp_port().unwrap_or(0);
    snat_ports::check(patient, snat, tunnel, &devices, report);
    snat_times::check(patient, report);
    for device in &outlets.unserved {
        report.warning(
            format!("what pods send by {device} leaves under their own addresses: it has a link-layer header that is not known here"),
            format!("a masquerade rule of your own: iptables -t nat -A POSTROUTING -s {} -o {device} -j MASQUERADE", network.network),
        );
    }
}

/// What pods' MTU is to be.
fn mtu(uplink: &Uplink, underlay: &Underlay, network: &NetworkConfig, report: &mut Report) -> u32 {
    let wire = underlay.mtu(uplink);
    let mtu = network.backend.mtu(wire);
    let tunnel = network.backend.tunnel();
    let sealed = network.backend.wireguard().map(|_| WIREGUARD_OVERHEAD);
    let tunnel = tunnel.map(|tunnel| tunnel.wire.overhead());
    let tunnel = tunnel.or(sealed).unwrap_or(0);
    let others: Vec<&str> = underlay.others.keys().map(String::as_str).collect();
    let beside = match others.is_empty() {
        true => String::new(),
        false => format!("; packets to peers also by {}", others.join(", ")),
    };
    let text = format!("MTU for pods: {mtu} (uplink {wire}, tunnel {tunnel}){beside}");
    if mtu < MTU_MIN {
        report.failure(text, format!("raise the MTU of {} to 1500", uplink.name));
    } else {
        report.ok(text);
    }
    mtu
}

fn forwarding(is: Result<Option<String>, NetError>, report: &mut Report) {
    match is {
        Ok(Some(value)) if value == "1" => report.ok("the kernel forwards IPv4"),
        Ok(value) => report.failure(
            format!(
                "net.ipv4.ip_forward is {}: no pod reaches another node",
                value.unwrap_or_default()
            ),
            "sysctl -w net.ipv4.ip_forward=1, and a file in /etc/sysctl.d for the next boot",
        ),
        Err(error) => report.warning(
            error.to_string(),
            "mount /proc/sys, so that it can be looked at",
        ),
    }
}

/// Who holds the tunnel's port. The kernel's own vxlan sockets are in this list, too.
fn udp_port(patient: &Patient<'_>, port: u16, report: &mut Report) {
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    let ours = patient
        .view
        .as_ref()
        .is_ok_and(|v| v.agent_runs().unwrap_or(false));
    let bound = is_bound(&table, port);
    let anchor = patient.link(&mark::anchor_device(port));
    if let Some(anchor) = anchor.filter(|link| bound && link.up && is_anchor(link)) {
        // With an agent or without one.
        report.ok(format!("UDP port {port} is held by {}", anchor.name));
        return;
    }
    holder(port, bound, ours, report);
}

fn holder(port: u16, bound: bool, agent_runs: bool, report: &mut Report) {
    match (bound, agent_runs) {
        (false, false) => report.ok(format!("UDP port {port} is free")),
        (true, true) => report.ok(format!("UDP port {port} is held by the agent")),
        (false, true) => report.warning(
            format!("nobody holds UDP port {port}: fragmented tunnel packets are lost"),
            "look into the agent's log why it could not open the port",
        ),
        (true, false) => report.warning(
            format!("UDP port {port} is taken, by flanneld's kernel device or another tunnel"),
            format!("nothing if flanneld runs and is to be replaced; else find it: ss -lunp sport = {port}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::{bad, fine, odd, said};

    #[test]
    fn a_node_has_to_forward() {
        let said = |is| said(|report| forwarding(is, report));
        let on = fine("the kernel forwards IPv4");
        assert_eq!(said(Ok(Some("1".to_owned()))), on);
        assert_eq!(
            said(Ok(Some("0".to_owned()))),
            bad(
                "net.ipv4.ip_forward is 0: no pod reaches another node",
                "sysctl -w net.ipv4.ip_forward=1, and a file in /etc/sysctl.d for the next boot"
            )
        );
        let error = NetError::NoInterface("x".to_owned());
        let fix = "mount /proc/sys, so that it can be looked at";
        assert_eq!(
            said(Err(error)),
            odd("there is no network interface \"x\"", fix)
        );
    }

    #[test]
    fn the_tunnel_s_port_is_free_or_the_agent_s() {
        let said = |bound, runs| said(|report| holder(8472, bound, runs, report));
        assert_eq!(said(false, false), fine("UDP port 8472 is free"));
        assert_eq!(said(true, true), fine("UDP port 8472 is held by the agent"));
        assert_eq!(
            said(false, true),
            odd(
                "nobody holds UDP port 8472: fragmented tunnel packets are lost",
                "look into the agent's log why it could not open the port"
            )
        );
        assert_eq!(
            said(true, false),
            odd(
                "UDP port 8472 is taken, by flanneld's kernel device or another tunnel",
                "nothing if flanneld runs and is to be replaced; else find it: ss -lunp sport = 8472"
            )
        );
    }

    #[test]
    fn an_mtu_that_breaks_dns() {
        let uplink = |mtu| Uplink {
            name: "eth0".to_owned(),
            index: 2,
            mtu,
            mac: [2, 0, 0, 0, 0, 9],
            address: [192, 0, 2, 1].into(),
            public_ip: [192, 0, 2, 1].into(),
            is_carrier: true,
            why: "test".to_owned(),
        };
        let json = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let network = NetworkConfig::parse(json).unwrap();
        let said = |at| {
            said(|report| {
                mtu(&uplink(at), &Underlay::default(), &network, report);
            })
        };
        assert_eq!(
            said(1500),
            fine("MTU for pods: 1450 (uplink 1500, tunnel 50)")
        );
        assert_eq!(said(626), fine("MTU for pods: 576 (uplink 626, tunnel 50)"));
        assert_eq!(
            said(625),
            bad(
                "MTU for pods: 575 (uplink 625, tunnel 50)",
                "raise the MTU of eth0 to 1500"
            )
        );
    }

    #[test]
    fn a_port_is_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st\n \
                     12: 00000000:2118 00000000:0000 07 00000000:00000000\n";
        assert!(is_bound(table, 8472));
        assert!(!is_bound(table, 8473));
        assert!(!is_bound("", 0));
    }
}
