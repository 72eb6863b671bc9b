//! Keeping our Node as it should be: the annotations, the condition NetworkUnavailable, and our subnet what its podCIDR is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::api::Api;
use super::error::KubeError;
use super::follow::OwnNode;
use super::lease::{annotations, missing, overwrite, subnet};
use super::names::Name;
use super::node::Node;
use super::patch;
use crate::base::counters;
use crate::base::wall::Moment;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, OwnLease};
use crate::source::etcd::patience::Patience;

/// Between two corrections of what somebody else writes: at first, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LAST_REST: Duration = Duration::from_secs(60);
/// The API server refuses: that takes an operator, not haste.
const REFUSED: Duration = Duration::from_secs(30);

/// Keeps our Node equal to what we want it to be.
pub(super) struct Keeper<'a> {
    pub(super) api: &'a Api,
    pub(super) name: &'a str,
    pub(super) config: &'a NetworkConfig,
    pub(super) own: &'a watch::Sender<OwnLease>,
    pub(super) attrs: watch::Receiver<LeaseAttrs>,
    /// As the follower sees it.
    pub(super) node: watch::Receiver<OwnNode>,
    /// Whether this node forwards.
    pub(super) forwards: watch::Receiver<bool>,
    /// `--set-node-network-unavailable`
    pub(super) conditions: bool,
}

/// Not more often than somebody else writes something else, twice as long each time.
#[derive(Debug, Default)]
struct Rest {
    last: Option<(Instant, Duration)>,
}

impl Rest {
    /// When the next correction may be.
    fn over(&self) -> Option<Instant> {
        self.last.map(|(at, rest)| at + rest)
    }

    fn corrected(&mut self, now: Instant) {
        let rest = match self.last {
            Some((at, rest)) if now - at < rest + LAST_REST => (rest * 2).min(LAST_REST),
            _ => FIRST_REST,
        };
        self.last = Some((now, rest));
    }
}

impl Keeper<'_> {
    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing_with("the API server");
        let mut rest = Rest::default();
        let mut complaint = None;
        let mut seen = false;
        let mut odd = None;
        let mut v6 = BTreeMap::new();
        loop {
            let node = self.node.borrow_and_update().clone();
            let wanted = self.attrs.borrow_and_update().clone();
            let forwards = *self.forwards.borrow_and_update();
            let mut again = None;
            match &node {
                Some(node) => {
                    seen = true;
                    self.take_subnet(node, &mut complaint);
                }
                None if seen => self.complain(&mut complaint, self.is_gone()),
                None => {}
            }
            counters::place_is(complaint.as_deref());
            if let Some(node) = &node {
                name_odd_overwrite(node, &mut odd);
                remember_v6(node, &mut v6);
                match self.settle(node, (&wanted, &v6), forwards, &mut rest).await {
                    Ok(later) => {
                        patience.over();
                        again = later;
                    }
                    Err(error @ KubeError::Refused { .. }) => {
                        let wait = patience.lost("keeping our Node", &error);
                        drop(wait);
                        again = Some(Instant::now() + REFUSED);
                    }
                    Err(error) => {
                        patience.lost("keeping our Node", &error).await;
                        again = Some(Instant::now());
                    }
                }
            }
            self.publish(&wanted);
            tokio::select! {
                Ok(()) = self.node.changed() => {}
                Ok(()) = self.attrs.changed() => rest = Rest::default(),
                Ok(()) = self.forwards.changed() => {}
                () = at(again) => {}
            }
        }
    }

    /// Writes what differs. Gives the time for another look, if it is too early to write.
    async fn settle(
        &self,
        node: &Node,
        (wanted, v6): (&LeaseAttrs, &BTreeMap<Name, String>),
        forwards: bool,
        rest: &mut Rest,
    ) -> Result<Option<Instant>, KubeError> {
        let mut wanted = annotations(node, wanted);
        wanted.extend(v6.clone());
        let gone = missing(node, wanted);
        let up = self.conditions && forwards && !node.network_up;
        if gone.is_empty() && !up {
            return Ok(None);
        }
        let now = Instant::now();
        if let Some(over) = rest.over().filter(|over| *over > now) {
            return Ok(Some(over));
        }
        if !gone.is_empty() {
            tracing::info!(
                "writing this node's annotations: {:?}",
                gone.keys().collect::<Vec<_>>()
            );
            let body = patch::annotations(&self.api.names, &gone);
            self.api.patch(self.name, &body).await?;
        }
        if up {
            let body = patch::network_up(&patch::rfc3339(Moment::now().unix().as_secs()));
            self.api.patch(self.name, &body).await?;
        }
        rest.corrected(now);
        // Had it been changed back already, nobody would tell.
        Ok(rest.over())
    }

    /// A Node that was deleted and made again may have another podCIDR.
    fn take_subnet(&self, node: &Node, complaint: &mut Option<String>) {
        let problem = match subnet(node) {
            Ok(Some(subnet)) if self.config.network.contains(&subnet) => {
                self.own.send_if_modified(|own| {
                    let differs = own.subnet != subnet;
                    own.subnet = subnet;
                    differs
                });
                *complaint = None;
                return;
            }
            Ok(Some(subnet)) => super::outside(subnet, self.config),
            Ok(None) => super::UNASSIGNED.to_owned(),
            Err(fault) => fault.to_string(),
        };
        self.complain(complaint, problem);
    }

    fn is_gone(&self) -> String {
        format!(
            "Node {} is gone from Kubernetes, so other nodes have dropped this one",
            self.name
        )
    }

    fn complain(&self, complaint: &mut Option<String>, problem: String) {
        if complaint.as_ref() != Some(&problem) {
            let subnet = self.own.borrow().subnet;
            tracing::warn!("{problem}; keeping {subnet}");
            *complaint = Some(problem);
        }
    }

    fn publish(&self, wanted: &LeaseAttrs) {
        self.own.send_if_modified(|own| {
            let differs = own.attrs != *wanted;
            own.attrs = wanted.clone();
            differs
        });
    }
}

/// Once; an admin hears of it nowhere else.
fn name_odd_overwrite(node: &Node, said: &mut Option<String>) {
    let odd = overwrite(node).and_then(Result::err);
    let odd = odd.map(|fault| fault.to_string());
    if let Some(text) = odd.as_ref().filter(|_| odd != *said) {
        tracing::warn!("of this node's Node, {text}; leaving it out");
    }
    *said = odd;
}

/// What flanneld left: a flanneld of a dual-stack cluster takes a Node without `public-ipv6` for none of flannel's, and would lose us for
/// IPv4, too, once our Node was made again.
fn remember_v6(node: &Node, known: &mut BTreeMap<Name, String>) {
    let there = Name::V6.into_iter();
    known.extend(there.filter_map(|name| Some((name, node.get(name)?.to_owned()))));
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_writes_against_us_is_answered_ever_more_slowly() {
        let mut rest = Rest::default();
        assert_eq!(rest.over(), None);
        let mut now = Instant::now();
        let mut rests = Vec::new();
        for _ in 0..8 {
            rest.corrected(now);
            let over = rest.over().unwrap();
            rests.push((over - now).as_secs());
            now = over;
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
