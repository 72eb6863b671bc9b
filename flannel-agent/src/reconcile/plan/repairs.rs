//! Which steps put right what somebody else undid, and which follow from a new wish.

use super::{Action, plan};
use crate::dataplane::{Attachment, PeerChanges};
use crate::reconcile::actual::Actual;
use crate::reconcile::desired::{Desired, Node};

/// Those of `actions`, planned from `actual` to `wanted`, that were due without a new wish, too: `before` is what was
/// wanted when the node was last made so.
///
/// When in doubt a step is none: what is observed depends on what is wanted, and programs that are loaded anew for a
/// new wish go up everywhere.
#[must_use]
pub fn repairs(
    before: &Desired,
    wanted: &Desired,
    actual: &Actual,
    actions: &[Action],
) -> Vec<Action> {
    let same_devices = before.node.pair == wanted.node.pair
        && before.node.wireguard == wanted.node.wireguard
        && before.node.anchor == wanted.node.anchor
        && before.node.network == wanted.node.network;
    if actions.is_empty() || !same_devices || before.node.globals != wanted.node.globals {
        return Vec::new();
    }
    let Ok(due) = plan(before, actual) else {
        return Vec::new();
    };
    let is_repair = |action: &&Action| {
        is_seen_alike(action, &before.node, &wanted.node)
            && due.iter().any(|due| covers(due, action))
    };
    actions.iter().filter(is_repair).cloned().collect()
}

/// Whether the observation says the same about it under both wishes.
fn is_seen_alike(action: &Action, before: &Node, wanted: &Node) -> bool {
    match action {
        // Proofs end for many reasons, none of them a repair.
        Action::BumpEpoch => false,
        Action::ClaimSysctl { .. } | Action::ReleaseSysctl { .. } => {
            before.shared_sysctls == wanted.shared_sysctls
        }
        Action::SetSysctl { .. } => before.sysctls == wanted.sysctls,
        Action::SetFeatures { .. } => before.features == wanted.features,
        Action::Detach(_) => before.attachments == wanted.attachments,
        Action::Attach(at) => is_same_device(at, before, wanted),
        _ => true,
    }
}

/// With a device its programs go, and another one may have its name.
fn is_same_device(at: &Attachment, before: &Node, wanted: &Node) -> bool {
    let index = |node: &Node| node.pod_ports.get(&at.device).copied();
    index(before) == index(wanted) && before.outlets == wanted.outlets
}

/// Of entries that are written in one step, one is enough.
fn covers(due: &Action, action: &Action) -> bool {
    match (due, action) {
        (Action::UpdatePeers(due), Action::UpdatePeers(done)) => share(due, done),
        (Action::UpdateRoutes(due), Action::UpdateRoutes(done)) => due.share(done),
        _ => due == action,
    }
}

fn share(one: &PeerChanges, other: &PeerChanges) -> bool {
    let put = one.put.iter();
    let put_vteps = one.put_vteps.iter();
    let put_macs = one.put_macs.iter();
    put.clone()
        .any(|(net, peer)| other.put.get(net) == Some(peer))
        || put_vteps
            .clone()
            .any(|(ip, leases)| other.put_vteps.get(ip) == Some(leases))
        || put_macs
            .clone()
            .any(|(mac, leases)| other.put_macs.get(mac) == Some(leases))
        || !one.remove.is_disjoint(&other.remove)
        || !one.remove_macs.is_disjoint(&other.remove_macs)
        || !one.remove_vteps.is_disjoint(&other.remove_vteps)
}
