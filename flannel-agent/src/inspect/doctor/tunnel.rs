//! What the agent brings: programs on hooks, offloads, conntrack's leniency, room in the maps.

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TcAttachType};

use flannel_common::program::Program;

use super::{Patient, Report};
use crate::dataplane::view::{Hook, Mode, View};
use crate::desired::Xdp;
use crate::inspect::Verdict;
use crate::inspect::status::Status;
use crate::mark;
use crate::net::{Direction, Features, sysctl};

pub(super) async fn check(patient: &Patient<'_>, report: &mut Report) -> anyhow::Result<()> {
    let view = match &patient.view {
        Ok(view) => view,
        Err(error) => {
            report.failure(
                error.to_string(),
                "start the agent; before its first start: doctor --pre",
            );
            return Ok(());
        }
    };
    let status = Status::read(view).await?;
    for finding in &status.findings {
        match finding.verdict {
            Verdict::Broken => report.failure(finding.what.clone(), finding.fix),
            Verdict::Attention | Verdict::Fine => report.warning(finding.what.clone(), finding.fix),
        }
    }
    if status.findings.is_empty() {
        report.ok(format!(
            "an agent runs, and {} programs are attached",
            status.hooks.len()
        ));
    }
    offloads(patient, view, report);
    if status
        .told
        .as_ref()
        .is_some_and(|told| told.fast_path != "off")
    {
        liberal(report);
    }
    if patient.config.fast_path.xdp == Xdp::On {
        at_driver(&status.hooks, report);
    }
    foreign(&status.hooks, report);
    Ok(())
}

/// Asked for with `--xdp=on`; with `auto` its absence is no trouble.
fn at_driver(hooks: &[Hook], report: &mut Report) {
    let name = Program::UplinkXdp.name();
    if hooks
        .iter()
        .any(|hook| hook.program == name && hook.attached)
    {
        report.ok(format!("{name} is at the uplink's driver"));
    } else {
        report.warning(
            format!("--xdp=on, but {name} is not at the uplink's driver"),
            "look for uplink_xdp in the agent's log, which says why; --xdp=auto goes without in silence",
        );
    }
}

/// GRO merges what comes out of the tunnel only under both conditions; without it bulk TCP halves.
fn offloads(patient: &Patient<'_>, view: &View, report: &mut Report) {
    let ours = patient
        .links
        .iter()
        .filter(|link| mark::network_of(link) == Some(view.network()));
    for link in ours {
        let (feature, wanted) = match link.name.starts_with("flgro.") {
            true => ("tx-tcp-segmentation", false),
            false => ("rx-gro", true),
        };
        let state = if wanted { "on" } else { "off" };
        match Features::read(&link.name).map(|features| features.is_on(feature)) {
            Ok(Some(is)) if is == wanted => {
                report.ok(format!("{} has {feature} {state}", link.name));
            }
            Ok(Some(_)) => report.warning(
                format!(
                    "{} has {feature} not {state}: bulk traffic is slow",
                    link.name
                ),
                format!(
                    "ethtool -K {} {feature} {state}; the agent does it within 30 s",
                    link.name
                ),
            ),
            Ok(None) => {}
            Err(error) => report.warning(error.to_string(), "start the agent"),
        }
    }
}

fn liberal(report: &mut Report) {
    if let Ok(Some(value)) = sysctl::read("net/netfilter/nf_conntrack_tcp_be_liberal")
        && value != "1"
    {
        report.warning(
            "the fast path is on, but conntrack is strict: it drops TCP segments of fast flows as INVALID",
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1; the agent does it within 30 s",
        );
    }
}

/// Others on our hooks are welcome; whoever comes first sees the packets first and may keep them.
fn foreign(hooks: &[Hook], report: &mut Report) {
    let ours: BTreeSet<u32> = hooks.iter().map(|hook| hook.program_id).collect();
    let places: BTreeSet<(&str, Direction)> = hooks
        .iter()
        .filter(|hook| hook.attached && hook.mode == Mode::Tcx)
        .filter_map(|hook| Some((hook.device.as_deref()?, hook.direction?)))
        .collect();
    let mut strangers = false;
    for (device, direction) in places {
        let kind = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let Ok((_, programs)) = SchedClassifier::query_tcx(device, kind) else {
            continue;
        };
        let first_of_ours = programs.iter().position(|info| ours.contains(&info.id()));
        for (place, info) in programs.iter().enumerate() {
            // Another network's agent is family.
            let name = info.name_as_str().unwrap_or("?");
            let is_family = flannel_common::program::Program::ALL
                .iter()
                .any(|program| program.name() == name);
            if ours.contains(&info.id()) || is_family {
                continue;
            }
            strangers = true;
            let where_ = format!(
                "the program {name} (id {}) at {direction} of {device}",
                info.id()
            );
            if first_of_ours.is_some_and(|first| place < first) {
                report.warning(
                    format!("{where_} runs before ours"),
                    format!(
                        "make sure that it lets tunnel packets pass: bpftool net show dev {device}"
                    ),
                );
            } else {
                report.ok(format!("{where_} runs after ours"));
            }
        }
    }
    if !strangers {
        report.ok("nobody else's programs on our hooks");
    }
}
