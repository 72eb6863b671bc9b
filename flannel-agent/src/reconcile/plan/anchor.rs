//! The device that stands for the VXLAN port.

use super::Action;
use crate::reconcile::actual::{Actual, AnchorState, Device};
use crate::reconcile::desired::Node;

/// Makes it, before programs go up; down, since a predecessor may still have the port. Returns its name if it is a new one.
pub(super) fn prepare<'a>(
    node: &'a Node,
    actual: &Actual,
    retired: &[String],
    actions: &mut Vec<Action>,
) -> Option<&'a str> {
    let wanted = node.anchor.as_ref()?;
    let goes = |is: &AnchorState| {
        let broken = |lower| matches!(&actual.device, Device::Broken { device } if device == lower);
        let lower = is.lower.as_ref();
        lower.is_some_and(|lower| retired.contains(lower) || broken(lower))
    };
    if let Some(is) = &actual.anchor.wanted {
        if goes(is) {
            // With the device below it, in the middle of what follows.
            actions.push(Action::DeleteDevice {
                device: wanted.name.clone(),
            });
        } else if is.is_whole {
            return None;
        }
    }
    actions.push(Action::CreateAnchor(wanted.clone()));
    Some(&wanted.name)
}

/// Once the devices are gone that had the port.
pub(super) fn settle(node: &Node, actual: &Actual, new: Option<&str>, actions: &mut Vec<Action>) {
    let needless = actual.anchor.needless.iter().cloned();
    actions.extend(needless.map(|device| Action::DeleteDevice { device }));
    let is_up = new.is_none() && actual.anchor.wanted.as_ref().is_some_and(|is| is.up);
    if let Some(wanted) = node.anchor.as_ref().filter(|_| !is_up) {
        actions.push(Action::SetUp {
            device: wanted.name.clone(),
        });
    }
}
