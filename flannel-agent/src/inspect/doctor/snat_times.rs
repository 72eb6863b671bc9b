//! For how long flows of source NAT live, beside what the node's conntrack says.

use flannel_common::snat::Times;

use super::{Patient, Report};
use crate::node::conntrack::{self, Brief};
use crate::node::mark::network_name;
use crate::node::node_sysctls::NodeSysctls;

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let network = network_name(&patient.config.etcd.prefix);
    let node = conntrack::times(&NodeSysctls::new(&patient.config.state_dir, &network));
    let view = patient.view.as_ref().ok();
    // Not pinned before the first start.
    let used = view.and_then(|view| view.snat_times().ok());
    judge(&node, &used.unwrap_or(node), report);
}

fn judge(node: &Times, used: &Times, report: &mut Report) {
    let differences = conntrack::differences(node, used);
    if differences.is_empty() {
        report.ok(format!("source NAT's time-outs: {}", Brief(used)));
        return;
    }
    report.warning(
        format!(
            "source NAT's time-outs are not what the node's conntrack has: {}",
            differences.join(", ")
        ),
        "start the agent, which takes them up within 30 s of a change",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::tests::said;

    #[test]
    fn what_the_agent_has_not_taken_up_is_named() {
        let node = Times {
            udp: 200,
            ..Times::DEFAULT
        };
        let about = |used| said(|report| judge(&node, used, report));
        let fine = about(&node);
        assert!(fine[0].1.contains("UDP 200 s"), "{fine:?}");
        let late = about(&Times::DEFAULT);
        let named = "nf_conntrack_udp_timeout is 200, and flows live for 30 s";
        assert!(late[0].1.contains(named), "{late:?}");
        assert_eq!((fine.len(), late.len()), (1, 1));
        // The fast path's doing, written down where nobody looked.
        let beside = Times {
            tcp_unacknowledged: node.tcp_established,
            ..node
        };
        assert_eq!(said(|report| judge(&beside, &node, report)), fine);
    }
}
