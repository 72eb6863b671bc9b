//! What the agent brings: programs on hooks, offloads, conntrack's leniency, room in the maps.

use std::collections::BTreeMap;

use flannel_common::program::Program;
use flannel_common::unfit::{is_of_note, words};

use super::{Patient, Report, foreign, offloads as card, peers};
use crate::base::options;
use crate::base::options::Xdp;
use crate::dataplane::unfit::Unfit;
use crate::dataplane::view::{Hook, View};
use crate::inspect::Verdict;
use crate::inspect::status::Status;
use crate::node::conntrack::{self, forgets_fast_flows};
use crate::node::mark;
use crate::node::net::{Features, Link, NetError, sysctl};
use crate::node::node_sysctls::NodeSysctls;
use crate::reconcile::desired::LIBERAL;

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
    for odd in status.senders.iter().filter(|odd| odd.dropped.is_none()) {
        report.ok(odd.to_string());
    }
    offloads(patient, view, report);
    if let Ok(unfit) = Unfit::open(&patient.config.bpffs, view.network()) {
        ports(&unfit.list().unwrap_or_default(), patient.links, report);
    }
    match status.told.as_ref().map(|told| told.fast_path) {
        Some(options::Mode::Off) if patient.config.fast_path.mode == options::Mode::Verified => {
            strict(sysctl::may_be(LIBERAL, "1"), report);
            let shared = NodeSysctls::new(&patient.config.state_dir, view.network());
            forgetful(forgets_fast_flows(&conntrack::times(&shared)), report);
        }
        None | Some(options::Mode::Off) => {}
        Some(_) => liberal(sysctl::read(LIBERAL), report),
    }
    if patient.config.fast_path.xdp == Xdp::On {
        at_driver(&status.hooks, report);
    }
    card::behind_xdp(patient, &status.hooks, report);
    foreign::check(patient, &status.hooks, report).await;
    if let Some(told) = &status.told {
        peers::check(patient, view, told, report).await;
    }
    Ok(())
}

/// Ports at which nothing is fast, for a reason that will last.
fn ports(unfit: &BTreeMap<u32, u32>, links: &[Link], report: &mut Report) {
    for (index, why) in unfit.iter().filter(|(_, why)| is_of_note(**why)) {
        let Some(link) = links.iter().find(|link| link.index == *index) else {
            continue;
        };
        let (name, words) = (&link.name, words(*why));
        report.warning(
            format!("no flow is fast at {name}: {words}"),
            format!("nothing, if that is meant to be so; look: tc qdisc show dev {name}, bpftool net show dev {name}"),
        );
    }
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
        let (feature, wanted) = match link.name.starts_with("flgro") {
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

fn liberal(is: Result<Option<String>, NetError>, report: &mut Report) {
    if let Ok(Some(value)) = is
        && value != "1"
    {
        report.warning(
            "the fast path is on, but conntrack is strict: it drops TCP segments of fast flows as INVALID",
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1; the agent does it within 30 s",
        );
    }
}

/// Why the agent leaves flows to the stack, although it is not told to.
fn strict(may_be: Result<(), NetError>, report: &mut Report) {
    if let Err(why) = may_be {
        report.warning(
            format!("no flow is fast: conntrack minds TCP's windows, and the agent cannot change that: {why}"),
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1 on the node, or make /proc/sys writable for the agent",
        );
    }
}

/// The same, where conntrack has forgotten a fast flow by the next packet that it is shown.
fn forgetful(why: Option<String>, report: &mut Report) {
    if let Some(why) = why {
        report.warning(
            format!("no flow is fast: conntrack forgets flows sooner than the fast path shows them to it: {why}"),
            "raise it to 10 seconds or more",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::view::Mode;
    use crate::inspect::doctor::tests::{Said, fine, odd, said};
    use crate::node::net::fixtures::link;
    use flannel_common::unfit;

    #[test]
    fn a_strict_conntrack_is_named() {
        let said = |is| said(|report| liberal(is, report));
        assert_eq!(said(Ok(Some("1".to_owned()))), Said::new());
        assert_eq!(said(Ok(None)), Said::new(), "no conntrack, no trouble");
        assert_eq!(
            said(Ok(Some("0".to_owned()))),
            odd(
                "the fast path is on, but conntrack is strict: it drops TCP segments of fast flows as INVALID",
                "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1; the agent does it within 30 s"
            )
        );
    }

    #[test]
    fn one_that_must_be_left_strict_is_named() {
        let said = |may_be| said(|report| strict(may_be, report));
        assert_eq!(said(Ok(())), Said::new());
        let why = NetError::Failed {
            action: "set it".to_owned(),
            reason: "it is read-only".to_owned(),
        };
        let what = format!(
            "no flow is fast: conntrack minds TCP's windows, and the agent cannot change that: {why}"
        );
        let fix = "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1 on the node, or make /proc/sys writable for the agent";
        assert_eq!(said(Err(why)), odd(&what, fix));
    }

    #[test]
    fn one_that_forgets_is_named() {
        let said = |why: Option<&str>| said(|report| forgetful(why.map(str::to_owned), report));
        assert_eq!(said(None), Said::new());
        let what = "no flow is fast: conntrack forgets flows sooner than the fast path shows them to it: it is 4";
        assert_eq!(
            said(Some("it is 4")),
            odd(what, "raise it to 10 seconds or more")
        );
    }

    #[test]
    fn ports_at_which_nothing_is_fast() {
        let links = [link(7, "vethpod")];
        let said = |unfit: &[(u32, u32)]| {
            let unfit = unfit.iter().copied().collect();
            said(|report| ports(&unfit, &links, report))
        };
        assert_eq!(said(&[(7, unfit::DOWN), (9, unfit::SHAPED)]), Said::new());
        let shaped = odd(
            "no flow is fast at vethpod: a queueing discipline shapes what leaves by it",
            "nothing, if that is meant to be so; look: tc qdisc show dev vethpod, bpftool net show dev vethpod",
        );
        assert_eq!(said(&[(7, unfit::SHAPED)]), shaped);
    }

    #[test]
    fn a_driver_without_the_program_that_was_asked_for() {
        let hook = |attached| Hook {
            program: Program::UplinkXdp.name().to_owned(),
            ifindex: 2,
            device: Some("eth0".to_owned()),
            direction: None,
            mode: Mode::Xdp,
            program_id: 1,
            attached,
        };
        let said = |hooks: &[Hook]| said(|report| at_driver(hooks, report));
        let there = fine("uplink_xdp is at the uplink's driver");
        assert_eq!(said(&[hook(true)]), there);
        let gone = odd(
            "--xdp=on, but uplink_xdp is not at the uplink's driver",
            "look for uplink_xdp in the agent's log, which says why; --xdp=auto goes without in silence",
        );
        assert_eq!(said(&[hook(false)]), gone);
        assert_eq!(said(&[]), gone);
    }
}
