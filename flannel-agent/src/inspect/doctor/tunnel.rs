//! What the agent brings: programs on hooks, offloads, conntrack's leniency, room in the maps.

use flannel_common::program::Program;

use super::{Patient, Report, foreign};
use crate::dataplane::view::{Hook, View};
use crate::desired::Xdp;
use crate::inspect::Verdict;
use crate::inspect::status::Status;
use crate::mark;
use crate::net::{Features, sysctl};

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
    let status = Status::read(view, &patient.config.state_dir).await?;
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
    foreign::check(patient, &status.hooks, report).await;
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
