//! What a round did, and what of it failed.

use std::collections::BTreeMap;

use crate::dataplane::DataplaneError;
use crate::reconcile::desired::{Routes, SourceNat};
use crate::reconcile::plan::Action;

/// What a reconcile did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub done: Vec<Action>,
    /// Actions that failed and are not essential, with the reason.
    pub failed: Vec<(Action, String)>,
}

impl Report {
    /// Where source NAT could not be put up, and why.
    pub(crate) fn untranslated(&self) -> BTreeMap<&str, &str> {
        let failed = self.failed.iter().filter_map(|(action, why)| match action {
            Action::Attach(at) if SourceNat::is_on_devices(at.program) => {
                Some((at.device.as_str(), why.as_str()))
            }
            _ => None,
        });
        failed.collect()
    }

    /// Routes that the kernel did not take.
    pub(super) fn refused_routes(&self) -> Routes {
        let refused = self.failed.iter().filter_map(|(action, _)| match action {
            Action::UpdateRoutes(changes) => Some(&changes.set),
            _ => None,
        });
        let refused = refused.flatten();
        refused.map(|(to, set)| (*to, set.way)).collect()
    }
}

/// Of many routes some may have been taken, and some refused.
pub(super) fn parts(
    action: Action,
    outcome: Result<(), DataplaneError>,
) -> Vec<(Action, Result<(), DataplaneError>)> {
    let (changes, refusals) = match (action, outcome) {
        (Action::UpdateRoutes(changes), Err(DataplaneError::Routes(refusals))) => {
            (changes, refusals)
        }
        whole => return vec![whole],
    };
    let (made, rest) = changes.split(&refusals);
    let mut parts = Vec::new();
    if !made.is_empty() {
        parts.push((Action::UpdateRoutes(made), Ok(())));
    }
    let refused = Err(DataplaneError::Routes(refusals));
    parts.push((Action::UpdateRoutes(rest), refused));
    parts
}
