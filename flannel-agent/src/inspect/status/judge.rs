//! What of a status needs attention, and the one thing that helps.

use flannel_common::maps::{PEERS, VTEPS};
use flannel_common::program::Program;

use super::past::Past;
use super::{Finding, Status};
use crate::base::options::Gro;
use crate::inspect::Verdict;
use crate::node::wireguard::DEVICE;

/// Without one of these the node does not take part in its network.
const NEEDED: [Program; 3] = [Program::OverlayTx, Program::OverlayCatch, Program::UplinkRx];
/// Where source NAT is on, pods' packets would leave under their own addresses without these.
const SNAT: [Program; 2] = [Program::UplinkTx, Program::UplinkSnatRx];
/// The same for the tunnel.
const OVERLAY_SNAT: [Program; 2] = [Program::OverlaySnatTx, Program::OverlaySnatRx];

/// From here on a map that cannot forget is short of room. (The table of flows is an LRU: full is normal.)
const PRESSURE_PERCENT: u32 = 90;

/// So many strangers are named.
const SENDERS: usize = 5;

pub(super) fn judge(status: &Status, mangled: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(device) = &status.taken_over_by {
        findings.push(taken_over(device));
        let mut attention = |what, fix| findings.push(finding(Verdict::Attention, what, fix));
        let past = status.past.as_ref().filter(|_| status.agent_running);
        past.iter()
            .for_each(|past| past.judge(true, &mut attention));
        return findings;
    }
    if status.is_to_begin() {
        let mut attention = |what, fix| findings.push(finding(Verdict::Attention, what, fix));
        attention(
            "the agent has not brought up this network yet".to_owned(),
            "it waits for its datastore, a configuration that it can use, a lease or an uplink: its log and /readyz say for which",
        );
        let past = status.past.iter();
        past.for_each(|past| past.judge(true, &mut attention));
        return findings;
    }
    let mut broken = |what: String, fix| {
        findings.push(finding(Verdict::Broken, what, fix));
    };
    for program in needed(status) {
        let name = program.name();
        // At a device without Ethernet header another one does the same.
        let does = |name: &str| {
            let programs = Program::ALL.iter();
            let mut named = programs.filter(|p| p.name() == name);
            named.any(|p| p.with_frame() == program)
        };
        let attached = status.hooks.iter().any(|h| h.attached && does(&h.program));
        if !attached {
            broken(
                format!("{name} is on no hook"),
                "start the agent, or wait for it: it attaches what is missing within 30 seconds",
            );
        }
    }
    if status.past.as_ref().is_some_and(Past::is_wireguard) && status.sealed.is_none() {
        broken(
            format!("there is no {DEVICE}: nothing gets to other nodes"),
            "start the agent, or wait for it: it makes the device within 30 seconds; else its log says why not",
        );
    }
    if status.is_host_gw() {
        findings.extend(attention(status, mangled));
        return findings;
    }
    for name in [PEERS, VTEPS] {
        if !status.maps.iter().any(|map| map.name == name) {
            broken(
                format!("the map {name} is not pinned"),
                "start the agent: it makes missing maps anew",
            );
        }
    }
    for device in status
        .devices
        .iter()
        .chain(&status.uplink)
        .filter(|d| !d.up)
    {
        broken(
            format!("{} is down", device.name),
            "bring it up (ip link set DEVICE up) and look at its cable or its other end",
        );
    }
    findings.extend(attention(status, mangled));
    findings
}

/// Nothing is broken: the node is flanneld's.
fn taken_over(device: &str) -> Finding {
    finding(
        Verdict::Attention,
        format!(
            "{device} is a kernel vxlan device: flanneld serves this node, and programs of ours that are still attached let packets pass"
        ),
        "flannel-agent cleanup removes what is left of ours; or stop flanneld and start the agent (again), which takes the node over",
    )
}

fn needed(status: &Status) -> impl Iterator<Item = Program> {
    let tunnel = !status.is_host_gw();
    let snat = status.told.as_ref().and_then(|told| told.snat_ports);
    let anchored = status.told.as_ref().map(|told| told.gro) == Some(Gro::Anchor);
    let parts = [
        (tunnel, &NEEDED[..]),
        (anchored, &[Program::AnchorRx]),
        (snat.is_some(), &SNAT),
        (tunnel && snat.is_some(), &OVERLAY_SNAT),
    ];
    let wanted = parts.into_iter().filter(|(wanted, _)| *wanted);
    wanted.flat_map(|(_, programs)| programs.iter().copied())
}

impl Status {
    /// An agent runs, and nothing of ours is there.
    fn is_to_begin(&self) -> bool {
        let past = self.past.as_ref();
        self.agent_running
            && self.maps.is_empty()
            && self.hooks.is_empty()
            && self.sealed.is_none()
            && past.is_some_and(Past::is_ahead_of_the_first)
    }

    /// Routes to peers and no tunnel: what else there is only makes flows faster.
    fn is_host_gw(&self) -> bool {
        let without_programs = self.maps.is_empty() && self.hooks.is_empty();
        let is_only_a_lease = || self.past.as_ref().is_some_and(Past::is_only_a_lease);
        match &self.told {
            Some(told) => told.wire.is_none(),
            None => {
                let by_kernel = self.direct_routes > 0 || self.sealed.is_some();
                without_programs && (by_kernel || is_only_a_lease())
            }
        }
    }
}

fn attention(status: &Status, mangled: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut attention = |what: String, fix| {
        findings.push(finding(Verdict::Attention, what, fix));
    };
    if !status.agent_running {
        attention(
            "no agent runs for this network".to_owned(),
            "start it: leases that come and go are not followed, and this node's own lease expires",
        );
    }
    if let Some(past) = &status.past {
        past.judge(status.agent_running, &mut attention);
    }
    match (&status.told, &status.uplink) {
        (None, _) if status.hooks.iter().any(|hook| hook.attached) => attention(
            "the programs come from another build: their settings cannot be shown".to_owned(),
            "use the flannel-agent that runs here, or restart the agent to load this one's programs",
        ),
        (Some(told), None) => attention(
            format!("the uplink, interface #{}, is gone", told.uplink_index),
            "start the agent: it looks for the uplink anew",
        ),
        (Some(told), Some(uplink)) => {
            let address = format!("{}/", told.uplink_ip);
            if !uplink.addresses.iter().any(|a| a.starts_with(&address)) {
                attention(
                    format!(
                        "{} has no longer the address {}",
                        uplink.name, told.uplink_ip
                    ),
                    "start the agent, or wait for it: it tells programs and peers the new address",
                );
            }
        }
        (None, _) => {}
    }
    for map in status
        .maps
        .iter()
        .filter(|map| [PEERS, VTEPS].contains(&map.name))
    {
        if map.fill_percent >= Some(PRESSURE_PERCENT) {
            attention(
                format!(
                    "{} holds {} of {} entries",
                    map.name, map.entries, map.max_entries
                ),
                "remove leases of nodes that are gone; beyond the limit nodes cannot be reached",
            );
        }
    }
    let dropped = || status.senders.iter().filter(|odd| odd.dropped.is_some());
    for odd in dropped().take(SENDERS) {
        attention(
            odd.to_string(),
            "find out who sends that; if it is a node of the network, look at the PublicIP and the VtepMAC of its lease",
        );
    }
    let left = dropped().count().saturating_sub(SENDERS);
    if left > 0 {
        attention(
            format!("and from {left} addresses more"),
            "look at UDP to the VXLAN port, which only nodes should reach: a firewall is missing",
        );
    }
    for hoarder in &status.hoarders {
        attention(
            hoarder.to_string(),
            "look at what it runs and whom it asks (flannel-agent nat); others are kept from harm, its own flows are not; if it is meant to, raise --snat-entries",
        );
    }
    if mangled > 0 {
        attention(
            format!("{mangled} packets were dropped because the kernel failed half-way (mangled)"),
            "report it, with the kernel version",
        );
    }
    findings
}

fn finding(verdict: Verdict, what: String, fix: &'static str) -> Finding {
    Finding {
        severity: match verdict {
            Verdict::Broken => "broken",
            Verdict::Attention | Verdict::Fine => "attention",
        },
        what,
        fix,
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::view::{Hook, Mode, Told};
    use crate::flannel::backend::Wire;
    use crate::inspect::maps::Row;
    use crate::node::net::Direction;
    use crate::node::snat_ports::PortRange;

    fn hook(program: Program) -> Hook {
        Hook {
            program: program.name().to_owned(),
            ifindex: 2,
            device: Some("eth0".to_owned()),
            direction: Some(Direction::Ingress),
            mode: Mode::Tcx,
            program_id: 9,
            attached: true,
        }
    }

    fn map(name: &'static str, entries: usize) -> Row {
        Row {
            name,
            kind: String::new(),
            id: 1,
            key_bytes: 8,
            value_bytes: 16,
            entries,
            max_entries: 100,
            fill_percent: Some(u32::try_from(entries).unwrap()),
        }
    }

    /// A node where nothing is wrong but that its programs are another build's.
    fn status() -> Status {
        Status {
            verdict: "",
            version: "",
            network: "net".to_owned(),
            layout: 1,
            agent_running: true,
            past: None,
            told: None,
            taken_over_by: None,
            uplink: None,
            devices: Vec::new(),
            hooks: NEEDED.map(hook).into(),
            peers: 1,
            sealed: None,
            direct_routes: 0,
            time_outs: None,
            maps: vec![map(PEERS, 1), map(VTEPS, 1)],
            packets: Default::default(),
            senders: Vec::new(),
            hoarders: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn said(status: &Status) -> Vec<(Verdict, String)> {
        let findings = judge(status, 0).into_iter();
        findings
            .map(|finding| (finding.verdict, finding.what))
            .collect()
    }

    #[test]
    fn programs_of_another_build_are_said_to_be() {
        let said = said(&status());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].1.contains("another build"), "{said:?}");
    }

    #[test]
    fn a_detached_program_is_broken_and_a_dead_agent_is_not() {
        let mut status = status();
        status.agent_running = false;
        status.hooks[2].attached = false;
        let said = said(&status);
        assert_eq!(
            said[0],
            (Verdict::Broken, "uplink_rx is on no hook".to_owned())
        );
        assert!(said.contains(&(
            Verdict::Attention,
            "no agent runs for this network".to_owned()
        )));
    }

    /// One of several networks whose configuration is still to come.
    #[test]
    fn what_is_still_to_begin_is_not_broken() {
        let mut status = status();
        status.hooks.clear();
        status.maps.clear();
        status.past = Some(Past::of_one_who_waits());
        let waits = said(&status);
        assert_eq!(waits.len(), 1, "{waits:?}");
        assert_eq!(waits[0].0, Verdict::Attention);
        assert!(waits[0].1.contains("not brought up"), "{waits:?}");
        status.agent_running = false;
        assert!(said(&status).iter().any(|said| said.0 == Verdict::Broken));
    }

    #[test]
    fn a_node_that_flanneld_took_over_is_not_broken() {
        let mut status = status();
        status.taken_over_by = Some("flannel.1".to_owned());
        status.hooks.clear();
        let said = said(&status);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].0, Verdict::Attention);
        assert!(said[0].1.contains("flanneld serves this node"), "{said:?}");
    }

    fn told(vni: u32) -> Told {
        Told {
            wire: (vni != 0).then_some(Wire::Vxlan { vni }),
            vni,
            port: 8472,
            gbp: false,
            uplink_index: 2,
            uplink_ip: [192, 0, 2, 1].into(),
            public_ip: [192, 0, 2, 1].into(),
            flannel_index: 3,
            gro_index: 4,
            vtep_mac: crate::base::mac::MacAddr([2; 6]),
            network: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.1.0/24".parse().unwrap(),
            overlay_mtu: 1450,
            gro: Gro::Pair,
            source_check: "lease",
            fast_path: crate::base::options::Mode::Off,
            pod_hook: crate::base::options::Hook::Port,
            snat_ports: Some(PortRange { min: 1, max: 2 }),
        }
    }

    #[test]
    fn source_nat_without_its_programs_is_broken() {
        let missing = |vni| {
            let mut status = status();
            status.told = Some(told(vni));
            let said = said(&status).into_iter();
            let broken = said.filter(|(verdict, _)| *verdict == Verdict::Broken);
            broken.map(|(_, what)| what).collect::<Vec<_>>()
        };
        let of_uplink = ["uplink_tx is on no hook", "uplink_snat_rx is on no hook"];
        let of_overlay = [
            "overlay_snat_tx is on no hook",
            "overlay_snat_rx is on no hook",
        ];
        assert_eq!(missing(1), [of_uplink, of_overlay].concat());
        assert_eq!(missing(0), of_uplink, "host-gw has no tunnel");
    }

    #[test]
    fn an_anchor_without_its_program_is_broken() {
        let missing = |gro| {
            let mut status = status();
            status.told = Some(Told {
                gro,
                snat_ports: None,
                ..told(1)
            });
            let said = said(&status).into_iter();
            let mut broken = said.filter(|(verdict, _)| *verdict == Verdict::Broken);
            broken.next().map(|(_, what)| what)
        };
        assert_eq!(missing(Gro::Pair), None);
        let gone = "anchor_rx is on no hook".to_owned();
        assert_eq!(missing(Gro::Anchor), Some(gone));
    }

    #[test]
    fn a_map_nearly_full_is_named() {
        let mut status = status();
        status.maps[0] = map(PEERS, 95);
        assert!(
            said(&status)
                .iter()
                .any(|(_, what)| what == "fl_peers holds 95 of 100 entries")
        );
    }

    #[test]
    fn host_gw_needs_no_map_and_no_program() {
        let mut status = status();
        status.maps.clear();
        status.hooks.clear();
        assert_eq!(said(&status)[0].0, Verdict::Broken);
        status.direct_routes = 2;
        assert_eq!(said(&status), []);
    }

    #[test]
    fn a_missing_map_is_broken() {
        let mut status = status();
        status.maps.pop();
        assert_eq!(said(&status)[0].0, Verdict::Broken);
    }
}
