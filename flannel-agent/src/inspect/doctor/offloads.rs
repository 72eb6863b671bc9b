//! Offloads of the uplink that are known to bite, or to be missed.

use flannel_common::program::Program;

use super::{Patient, Report};
use crate::base::options::{FastPath, Gro, Xdp};
use crate::dataplane::view::Hook;
use crate::node::net::{Features, Kind, Link};

/// Either of them spares the CPU the sum over a packet's bytes.
const CHECKSUMS: [&str; 2] = ["tx-checksum-ip-generic", "tx-checksum-ipv4"];

pub(super) fn check(patient: &Patient<'_>, uplink: &str, report: &mut Report) {
    // What sends such packets on has offloads, or has not.
    if patient.link(uplink).is_some_and(|link| link.bare) {
        return;
    }
    if let Ok(features) = Features::read(uplink) {
        // A veth has GRO off unless told otherwise, and its other end hands on what it merged.
        let is_hardware = patient.link(uplink).is_some_and(|l| l.kind == Kind::Plain);
        judge(uplink, is_hardware, &features, report);
    }
}

/// Where GRO merges what the wire brings, it could merge what the tunnel brings.
pub(super) fn name_the_anchor(patient: &Patient<'_>, uplink: &str, report: &mut Report) {
    let link = patient.link(uplink);
    if let Some((link, features)) = link.zip(Features::read(uplink).ok())
        && would_gain(link, &features, &patient.config.fast_path)
    {
        report.ok(format!(
            "GRO at {uplink} merges what it knows: with --gro=anchor that is the tunnel's packets, too, and bulk TCP is \
             faster"
        ));
    }
}

/// A veth's other end hands on what it has merged itself, and XDP leaves nothing to the tunnel.
fn would_gain(uplink: &Link, features: &Features, now: &FastPath) -> bool {
    let merges = uplink.kind != Kind::Veth && features.is_on("rx-gro") == Some(true);
    merges && now.gro == Gro::Pair && now.xdp == Xdp::Off
}

/// Cards whose driver runs our XDP program, and notes in what it passes on that the card has found the sum right: the outer UDP's, which is
/// 0, and good. Once the program has taken the outer headers off, that counts for the packet inside, which nobody then sums up.
pub(super) fn behind_xdp(patient: &Patient<'_>, hooks: &[Hook], report: &mut Report) {
    let ours = hooks
        .iter()
        .filter(|hook| hook.attached && hook.program == Program::UplinkXdp.name());
    for device in ours.filter_map(|hook| hook.device.as_deref()) {
        let is_hardware = patient.link(device).is_some_and(|l| l.kind == Kind::Plain);
        if is_hardware && let Ok(features) = Features::read(device) {
            inner_sums(device, &features, report);
        }
    }
}

fn inner_sums(device: &str, features: &Features, report: &mut Report) {
    if features.is_on("rx-checksum") == Some(true) {
        report.warning(
            format!(
                "{device} sums up what arrives, and with --xdp its word may be about the outer packet: what is damaged inside is then not \
                 noticed"
            ),
            format!("ethtool -K {device} rx off, or --xdp=off"),
        );
    }
}

fn judge(uplink: &str, is_hardware: bool, features: &Features, report: &mut Report) {
    let before = report.checks.len();
    // They merge datagrams that are on their way to somebody else (and the first also what is for a socket); outer packets then no
    // longer fit their headers, and only the agent's socket can take them.
    for merges in ["rx-gro-list", "rx-udp-gro-forwarding"] {
        if features.is_on(merges) == Some(true) {
            report.warning(
                format!(
                    "{merges} is on at {uplink}: it merges tunnel packets, which then take the slow way, and are lost while no agent runs"
                ),
                format!("ethtool -K {uplink} {merges} off"),
            );
        }
    }
    if is_hardware && features.is_on("rx-gro") == Some(false) {
        report.warning(
            format!("{uplink} has rx-gro off: bulk traffic is slow"),
            format!("ethtool -K {uplink} gro on"),
        );
    }
    if CHECKSUMS
        .iter()
        .all(|name| features.is_on(name) != Some(true))
    {
        report.warning(
            format!("{uplink} computes no checksums: the CPU adds up every byte that leaves"),
            format!("ethtool -K {uplink} tx on, if its driver has no bug that speaks against it"),
        );
    }
    if report.checks.len() == before {
        report.ok(format!("offloads of {uplink}: GRO, checksums"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Verdict;
    use crate::node::net::fixtures::{link, veth};

    fn said(is_hardware: bool, on: &[&str], off: &[&str]) -> (Verdict, Vec<String>) {
        let on = on.iter().map(|name| (*name, true));
        let off = off.iter().map(|name| (*name, false));
        let mut report = Report::default();
        let features = Features::with(on.chain(off));
        judge("eth0", is_hardware, &features, &mut report);
        let lines = report.checks.iter().map(|check| check.what.clone());
        (report.verdict(), lines.collect())
    }

    #[test]
    fn gro_counts_for_hardware_and_checksums_for_all() {
        let (verdict, lines) = said(true, &["tx-checksum-ipv4", "rx-gro"], &[]);
        assert_eq!((verdict, lines.len()), (Verdict::Fine, 1), "{lines:?}");
        let off = ["rx-gro"];
        let (verdict, lines) = said(true, &["tx-checksum-ip-generic"], &off);
        assert_eq!(verdict, Verdict::Attention);
        assert!(lines[0].starts_with("eth0 has rx-gro off"), "{lines:?}");
        assert_eq!(
            said(false, &["tx-checksum-ip-generic"], &off).0,
            Verdict::Fine
        );
        for merges in ["rx-gro-list", "rx-udp-gro-forwarding"] {
            let (_, lines) = said(false, &[merges], &[]);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(lines[0].starts_with(merges), "{lines:?}");
        }
    }

    #[test]
    fn a_card_s_word_about_sums_is_not_one_about_what_is_inside() {
        let said = |on| {
            let mut report = Report::default();
            let features = Features::with([("rx-checksum", on)].into_iter());
            inner_sums("eth0", &features, &mut report);
            report.verdict()
        };
        assert_eq!(said(true), Verdict::Attention);
        assert_eq!(said(false), Verdict::Fine);
    }

    #[test]
    fn the_anchor_is_named_where_it_would_help() {
        let card = link(2, "eth0");
        let features = |on| Features::with([("rx-gro", on)].into_iter());
        let now = FastPath::default();
        assert!(would_gain(&card, &features(true), &now));
        assert!(!would_gain(&card, &features(false), &now));
        assert!(!would_gain(
            &veth(2, "eth0", None, None),
            &features(true),
            &now
        ));
        let anchored = FastPath {
            gro: Gro::Anchor,
            ..now.clone()
        };
        let at_driver = FastPath {
            xdp: Xdp::Auto,
            ..now
        };
        for settled in [anchored, at_driver] {
            assert!(!would_gain(&card, &features(true), &settled));
        }
    }
}
