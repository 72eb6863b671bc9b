//! The Kubernetes API: does it answer, may we do what we need, and does our Node have a podCIDR.

use std::time::Duration;

use tokio::time::timeout;

use super::Report;
use super::datastore::compare;
use crate::base::logging::describe;
use crate::flannel::config::NetworkConfig;
use crate::source::kube::{Examined, KubeOptions, KubeSource};

const ANSWER: Duration = Duration::from_secs(20);

pub(super) async fn check(
    options: &KubeOptions,
    pre: bool,
    report: &mut Report,
) -> Option<NetworkConfig> {
    let source = match KubeSource::new(options) {
        Ok(source) => source,
        Err(error) => {
            report.failure(
                error.to_string(),
                "correct the flag or variable that it names",
            );
            return None;
        }
    };
    let read = source.read_net_conf();
    let is_dual = read.as_ref().is_ok_and(|(_, ipv6)| *ipv6);
    match timeout(ANSWER, source.examine()).await {
        Ok(Ok(examined)) => {
            judge(&examined, report);
            judge_annotations(&examined, pre, report);
            if is_dual {
                judge_dual_stack(&examined, report);
            }
        }
        Ok(Err(error)) => report.failure(
            error.to_string(),
            "check --kubeconfig-file or --kube-api-url, and the network between here and the API server",
        ),
        Err(_) => report.failure(
            format!("the API server gave no answer in {} s", ANSWER.as_secs()),
            "check the network between here and the API server",
        ),
    }
    match read {
        Ok((config, _)) => {
            report.ok(format!(
                "{}: network {}, backend {}",
                options.net_config.display(),
                config.network,
                config.backend.name()
            ));
            Some(config)
        }
        Err(error) => {
            let fix =
                "mount the ConfigMap kube-flannel-cfg, or name the file with --net-config-path";
            report.failure(describe(&error), fix);
            None
        }
    }
}

fn judge(examined: &Examined, report: &mut Report) {
    let Examined {
        version,
        node,
        forbidden,
        ..
    } = examined;
    report.ok(format!("the API server answers, version {version}"));
    let date = examined.date.as_deref();
    if let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        compare("the API server", theirs, report);
    }
    match forbidden.as_slice() {
        [] => report.ok("its ClusterRole allows all that is needed"),
        forbidden => report.failure(
            format!("not allowed: {}", forbidden.join(", ")),
            "give the agent's ServiceAccount flannel's ClusterRole",
        ),
    }
    match examined.subnet {
        Some(subnet) => report.ok(format!("Node {node} has podCIDR {subnet}")),
        None => report.failure(
            format!("Node {node} is not there, or has no IPv4 podCIDR"),
            "kube-controller-manager assigns it: --allocate-node-cidrs=true and --cluster-cidr",
        ),
    }
}

/// `pre`: what only a running agent brings is not there yet.
fn judge_annotations(examined: &Examined, pre: bool, report: &mut Report) {
    let node = &examined.node;
    match &examined.public_ip {
        None if pre => report.ok(format!(
            "Node {node} has none of flannel's annotations yet: the agent writes them"
        )),
        Some(ip) => report.ok(format!("Node {node} publishes {ip}")),
        None => report.warning(
            format!("Node {node} has none of flannel's annotations"),
            "start the agent, which writes them",
        ),
    }
}

/// flanneld with `EnableIPv6` makes no lease at all of a Node without `public-ipv6` (its nodeToLease).
fn judge_dual_stack(examined: &Examined, report: &mut Report) {
    let node = &examined.node;
    let what = "net-conf.json enables IPv6, which is not supported yet: pods get no IPv6 here";
    match &examined.public_ipv6 {
        Some(ip) => report.warning(
            format!("{what}; Node {node} still publishes flanneld's public-ipv6 {ip}"),
            "keep the annotation while other nodes have flanneld: without it they do not know this node, for IPv4 either",
        ),
        None => report.failure(
            format!("{what}, and Node {node} publishes no public-ipv6: nodes with flanneld do not know this one, for IPv4 either"),
            "set EnableIPv6 to false for all nodes, or change this one back to flanneld until no node has it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::super::tests::said;
    use super::*;

    #[test]
    fn a_fresh_node_is_well_before_the_first_start() {
        let examined = Examined::default();
        let mark = |pre| said(|report| judge_annotations(&examined, pre, report))[0].0;
        assert_eq!(mark(true), Mark::Ok);
        assert_eq!(mark(false), Mark::Warning);
    }

    #[test]
    fn dual_stack_peers_with_flanneld_are_thought_of() {
        let mut examined = Examined::default();
        let judged = |examined: &Examined| {
            let lines = said(|report| judge_dual_stack(examined, report));
            (lines[0].0, lines[0].1.clone())
        };
        let (mark, what) = judged(&examined);
        assert!(
            mark == Mark::Failure && what.contains("do not know this one"),
            "{what}"
        );
        examined.public_ipv6 = Some("fd00::1".to_owned());
        let (mark, what) = judged(&examined);
        assert!(mark == Mark::Warning && what.contains("fd00::1"), "{what}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let marks = |examined: &Examined| {
            let lines = said(|report| {
                judge(examined, report);
                judge_annotations(examined, false, report);
            });
            lines
                .into_iter()
                .map(|(mark, what, _)| (mark, what))
                .collect::<Vec<_>>()
        };
        let fine = Examined {
            version: "v1.34.4".to_owned(),
            node: "a".to_owned(),
            subnet: Some("10.244.1.0/24".parse().unwrap()),
            public_ip: Some("192.0.2.1".to_owned()),
            ..Examined::default()
        };
        assert!(marks(&fine).iter().all(|(mark, _)| *mark == Mark::Ok));
        let ill = Examined {
            forbidden: vec!["patch nodes/status".to_owned()],
            ..Examined::default()
        };
        let bad: Vec<_> = marks(&ill)
            .into_iter()
            .filter(|(mark, _)| *mark == Mark::Failure)
            .collect();
        assert!(
            bad[0].1.contains("patch nodes/status") && bad.len() == 2,
            "{bad:?}"
        );
    }
}
