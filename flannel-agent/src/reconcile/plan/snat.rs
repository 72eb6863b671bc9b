//! Source NAT besides its hooks: steps before whoever jumps to them, exemptions and times before whoever asks for them. An earlier
//! agent's hooks jump to the new steps at once, so the times, without which every flow is over, come first.

use std::collections::BTreeSet;

use flannel_common::program::Program;

use super::Action;
use crate::dataplane::Generation;
use crate::reconcile::actual::Actual;
use crate::reconcile::desired::Node;

/// Before the hooks. A program that jumps to a step that is not there drops the packet; one of an earlier
/// agent finds what it needs in those of this one.
pub(super) fn prepare(node: &Node, actual: &Actual, reload: bool, actions: &mut Vec<Action>) {
    let is_current =
        |step: &Program| !reload && actual.programs.steps.get(step) == Some(&Generation::Current);
    if let Some(times) = node
        .snat_times
        .filter(|_| node.snat_times != actual.snat_times)
    {
        actions.push(Action::SetTimes(times));
    }
    if node.snat.is_some() && !Program::STEPS.iter().all(is_current) {
        actions.push(Action::SetSteps);
    }
    let none = BTreeSet::new();
    let wanted = node.snat.as_ref().map_or(&none, |snat| &snat.exempt);
    if *wanted != actual.exempt {
        actions.push(Action::UpdateExempt {
            put: wanted - &actual.exempt,
            remove: &actual.exempt - wanted,
        });
    }
    if node.outlets != actual.outlets {
        let is_new = |(index, sources): &(&u32, &_)| actual.outlets.get(index) != Some(*sources);
        let put = node.outlets.iter().filter(is_new);
        let gone = |index: &&u32| !node.outlets.contains_key(index);
        actions.push(Action::UpdateOutlets {
            put: put
                .map(|(index, sources)| (*index, sources.clone()))
                .collect(),
            remove: actual.outlets.keys().filter(gone).copied().collect(),
        });
    }
}

/// Connections that an earlier version of the maps knows: in front of the hooks those that are there, and behind
/// them, when nobody writes there any more, those that came meanwhile.
pub(super) fn carry(node: &Node, actual: &Actual, actions: &mut Vec<Action>) {
    if node.snat.is_none() {
        return;
    }
    let layouts = actual.programs.old_layouts.iter();
    actions.extend(
        layouts
            .filter(|(_, carried)| **carried)
            .map(|(folder, _)| Action::CarryNat {
                folder: folder.clone(),
            }),
    );
}

/// When the hooks are gone.
pub(super) fn retire(node: &Node, actual: &Actual, actions: &mut Vec<Action>) {
    if node.snat.is_none() && !actual.programs.steps.is_empty() {
        actions.push(Action::ClearSteps);
    }
}
