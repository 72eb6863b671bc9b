//! What the kernel has refused, and is not asked for again.

use super::Action;
use crate::reconcile::actual::Actual;
use crate::reconcile::desired::Node;

/// Programs at the driver that the plan leaves out, because the device has refused one as it is now.
pub(in crate::reconcile) fn untried(
    node: &Node,
    actual: &Actual,
    planned: &[Action],
) -> Vec<Action> {
    if !actual.programs.xdp_refused {
        return Vec::new();
    }
    let at_driver = node.attachments.iter().filter(|at| at.is_for_xdp());
    let attach = at_driver.cloned().map(Action::Attach);
    attach.filter(|it| !planned.contains(it)).collect()
}
