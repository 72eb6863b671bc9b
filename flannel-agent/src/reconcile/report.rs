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
    /// Everything was compared with the kernel: what is not among the failed is as it is wanted.
    pub is_full: bool,
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

    /// What keeps pods' packets from being translated at `uplink`; `before`: what did until now.
    pub(crate) fn hindrance(&self, uplink: &str, before: Option<String>) -> Option<String> {
        if !self.is_full {
            return before;
        }
        let untranslated = self.untranslated();
        let why = untranslated.get(uplink);
        why.map(|why| {
            format!("what pods send to the outside leaves under their own addresses: {why}")
        })
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

#[cfg(test)]
mod tests {
    use flannel_common::program::Program;

    use super::*;
    use crate::dataplane::Attachment;

    #[test]
    fn only_a_full_round_says_that_nothing_hinders_translation() {
        let attach = Action::Attach(Attachment::ingress(Program::UplinkTx, "eth0"));
        let refused = Report {
            failed: vec![(attach, "no".to_owned())],
            is_full: true,
            ..Report::default()
        };
        let why = refused.hindrance("eth0", None).unwrap();
        assert!(why.ends_with("own addresses: no"), "{why}");
        assert_eq!(refused.hindrance("eth1", None), None, "at another device");
        let of_leases = Report::default();
        assert_eq!(
            of_leases.hindrance("eth0", Some(why.clone())),
            Some(why.clone())
        );
        let full = Report {
            is_full: true,
            ..Report::default()
        };
        assert_eq!(full.hindrance("eth0", Some(why)), None);
    }
}
