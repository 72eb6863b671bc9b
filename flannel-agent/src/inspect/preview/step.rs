//! One thing that would be done, in words and for programs.

use serde::Serialize;
use serde_json::Value;

use crate::dataplane::ReplacedMap;
use crate::flannel::lease::LeaseAttrs;
use crate::reconcile::plan::Action;
use crate::source::etcd::{LeaseChange, LeasePreview};

/// A line of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Step {
    /// Where it is done.
    place: &'static str,
    /// One word, as in the metric `reconcile_actions_total` for what is done in the kernel.
    action: &'static str,
    pub(super) what: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    detail: Value,
}

impl Step {
    pub(super) fn new(place: &'static str, action: &'static str, what: String) -> Self {
        Self {
            place,
            action,
            what,
            detail: Value::Null,
        }
    }

    /// `place`: the datastore.
    pub(super) fn of_lease(
        place: &'static str,
        lease: &LeasePreview,
        attrs: &LeaseAttrs,
    ) -> Vec<Self> {
        let subnet = lease.subnet;
        let mut steps: Vec<_> = lease
            .given_up
            .iter()
            .map(|gone| {
                let what = format!(
                    "give up this node's lease {gone}: it does not fit the network's configuration"
                );
                Self::new(place, "give_up_lease", what)
            })
            .collect();
        match &lease.change {
            LeaseChange::None => {}
            LeaseChange::Take => steps.push(Self::new(
                place,
                "take_lease",
                format!("take a lease: the previous subnet, or a free one by chance ({subnet})"),
            )),
            LeaseChange::Rewrite(old) => {
                let old = old.as_ref().map_or_else(String::new, |old| text(old));
                let what = format!("rewrite the lease {subnet}: {old} → {}", text(attrs));
                steps.push(Self::new(place, "rewrite_lease", what));
            }
        }
        steps
    }
}

fn text(attrs: &LeaseAttrs) -> String {
    attrs.to_json().unwrap_or_default()
}

impl From<&Action> for Step {
    fn from(action: &Action) -> Self {
        Self {
            detail: serde_json::to_value(action).unwrap_or_default(),
            ..Self::new("kernel", action.name(), action.to_string())
        }
    }
}

impl From<&ReplacedMap> for Step {
    fn from(map: &ReplacedMap) -> Self {
        let action = match map.resized {
            Some(_) if map.carried => "resize_map",
            _ => "replace_map",
        };
        Self::new("kernel", action, map.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_rewritten_lease_shows_old_and_new() {
        let attrs = |host| LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, host));
        let lease = LeasePreview {
            subnet: "10.3.1.0/24".parse().unwrap(),
            given_up: vec!["10.9.1.0/24".parse().unwrap()],
            change: LeaseChange::Rewrite(Some(Box::new(attrs(1)))),
            others: Default::default(),
        };
        let steps = Step::of_lease("etcd", &lease, &attrs(2));
        assert!(
            steps[0]
                .what
                .starts_with("give up this node's lease 10.9.1.0/24")
        );
        let rewrite = &steps[1].what;
        assert!(
            rewrite.contains("192.0.2.1") && rewrite.contains(" → "),
            "{rewrite}"
        );
        let value = serde_json::to_value(&steps[1]).unwrap();
        assert_eq!(value["action"], "rewrite_lease");
        assert!(value.get("detail").is_none(), "{value}");
    }
}
