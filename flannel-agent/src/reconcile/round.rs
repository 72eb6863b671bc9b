//! Keeping the node equal to what is wanted: observe, plan, apply.

use std::collections::BTreeSet;
use std::time::Instant;

use flannel_common::globals::FAST_PATH_OFF;

use super::failures::Grade;
use super::report::{Report, parts};
use super::turn::Part;
use super::{Dataplane, Mirror};
use crate::base::options::Xdp;
use crate::base::{clock, counters};
use crate::dataplane::outlets::Sources;
use crate::dataplane::{DataplaneError, Generation, Globals, PeerChanges, PeerMaps};
use crate::flannel::lease::SubnetKey;
use crate::node::wireguard;
use crate::reconcile::actual::{Actual, Device, WireGuardDevice};
use crate::reconcile::apply::Executor;
use crate::reconcile::desired::{Desired, Node, Peers, Routes};
use crate::reconcile::plan::{
    Action, Conflict, RouteChanges, SealedChanges, plan, repairs, untried,
};

impl Mirror {
    /// Whether the routes that the kernel refused are wanted as they were: then there is no reason to ask it again.
    fn refuses_alike(&self, wanted: &Routes) -> bool {
        let mut refused = self.refused.iter();
        refused.all(|(to, way)| wanted.get(to) == Some(way))
    }

    /// Takes over that of `wanted` the kernel took all routes but `refused`.
    fn know_routes(&mut self, wanted: &Routes, refused: Routes) {
        self.refused.extend(refused);
        self.routes.clone_from(wanted);
        self.routes.retain(|to, _| !self.refused.contains_key(to));
    }
}

/// Whether something changed that no observation tells, and under which flows were proven. `None`: a look at the node
/// failed, and what changed since the one before is forgotten.
fn ends_proofs(before: Option<&Node>, now: &Node) -> bool {
    let any = !now.programs.is_empty() && now.globals.fast_path != FAST_PATH_OFF;
    let changed = |before: &Node| {
        before.ways != now.ways || before.policies != now.policies || a_port_went(before, now)
    };
    any && before.is_none_or(changed)
}

/// A flow to a pod that is gone must not be delivered to where the pod was: its address may be another
/// pod's by now. (The kernel took programs and port along, so there is nothing left to observe.)
fn a_port_went(before: &Node, now: &Node) -> bool {
    let stays = |(name, index): (&String, &u32)| now.pod_ports.get(name) == Some(index);
    !before.pod_ports.iter().all(stays)
}

/// Whether what could not be done needs what another action would take away: connections that could not be carried over are in
/// the maps of their layout alone.
fn needs(failed: &Action, next: &Action) -> bool {
    match (failed, next) {
        (Action::CarryNat { folder: carried }, Action::RemoveLayout { folder }) => {
            carried == folder
        }
        _ => false,
    }
}

/// A node that could not be made what is wanted. What forwarded before, still does.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("cannot look at the node: {0}")]
    Observe(#[source] DataplaneError),
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Where our device was while this process ran, somebody made one of the kernel's.
    #[error(
        "{device} is a kernel {} device: flanneld was started on this node, and this agent stands back (its programs \
         let packets pass, its UDP port is free). Stop one of the two; to take the node over again, stop flanneld and \
         restart this agent",
        kernel_kind(device)
    )]
    TakenOver { device: String },
    /// An upgrade in which both overlap, or two of them by mistake: the younger has put its programs in the place of ours.
    #[error(
        "another flannel-agent runs on this node for the same network, and has attached its own programs: this one stands \
         back while the other lives. Stop one of the two"
    )]
    Replaced,
    #[error("cannot {action}: {source}")]
    Action {
        action: Box<Action>,
        source: DataplaneError,
    },
}

fn kernel_kind(device: &str) -> &'static str {
    match device {
        wireguard::DEVICE => "WireGuard",
        _ => "vxlan",
    }
}

impl Dataplane {
    /// Compares everything with the kernel and repairs what differs.
    ///
    /// # Errors
    /// The first essential action that failed; what comes after it was not tried.
    pub async fn reconcile(&mut self, desired: &Desired) -> Result<Report, ReconcileError> {
        let company = self.bpf.has_company();
        let part = self
            .turn
            .look(company, Instant::now(), || self.bpf.serve_alone());
        if part == Part::StandBack {
            self.bpf.stand_back();
            return Err(ReconcileError::Replaced);
        }
        let before = self.mirror.take();
        self.name_ignored(&desired.peers);
        if let Err(error) = self.bpf.repair_pins() {
            let text = format!(
                "what somebody unpinned cannot be pinned again: {error}; it runs on until this agent ends"
            );
            self.failures.add(text, Grade::Trouble);
        }
        self.bpf
            .set_table_aside()
            .map_err(ReconcileError::Observe)?;
        let observed = self.actual(desired).await;
        let actual = observed.map_err(ReconcileError::Observe)?;
        if let Some(device) = self.taken_over(desired, &actual) {
            return Err(ReconcileError::TakenOver { device });
        }
        self.told.saw(&desired.peers.sealed, &actual.wireguard);
        let mut actions = plan(desired, &actual)?;
        let planned = before.as_ref().filter(|_| !actions.is_empty());
        let repairs = planned.map(|before| {
            let before = Desired {
                node: before.node.clone(),
                peers: Peers {
                    sealed: before.sealed.clone(),
                    ..before.peers.known()
                },
                routes: before.routes.clone(),
            };
            repairs(&before, desired, &actual, &actions)
        });
        let repairs = repairs.unwrap_or_default();
        let attached = &actual.programs.attached;
        let is_anothers = |action: &Action| match action {
            Action::Attach(at) => attached.get(at) == Some(&Generation::Earlier),
            _ => false,
        };
        if company && part == Part::Serve && repairs.iter().any(is_anothers) {
            // Compared with once it is our turn again.
            self.mirror = before;
            self.turn.stand_back(Instant::now());
            self.bpf.stand_back();
            return Err(ReconcileError::Replaced);
        }
        let before = before.map(|before| before.node);
        if ends_proofs(before.as_ref(), &desired.node) && !actions.contains(&Action::BumpEpoch) {
            actions.push(Action::BumpEpoch);
        }
        let refused_before = untried(&desired.node, &actual, &actions);
        let mut report = self.apply(desired, actions, &repairs).await?;
        for attach in refused_before {
            self.failures.stands(&format!("cannot {attach}:"));
        }
        report.is_full = true;
        self.failures.tried_all();
        self.lend_address(desired, &report)
            .await
            .map_err(ReconcileError::Observe)?;
        if self.strays_due {
            self.strays_due = !self.end_strays(&desired.node.globals).await;
        }
        let pair = desired.node.pair.as_ref().map(|pair| &pair.name);
        let wireguard = desired.node.wireguard.as_ref().map(|wanted| &wanted.name);
        self.serves = pair.or(wireguard).cloned();
        let mut mirror = Mirror {
            node: desired.node.clone(),
            peers: PeerMaps::from(&desired.peers),
            sealed: desired.peers.sealed.clone(),
            routes: Routes::new(),
            refused: Routes::new(),
        };
        mirror.know_routes(&desired.routes, report.refused_routes());
        self.mirror = Some(mirror);
        Ok(report)
    }

    /// What leaves by a WireGuard device that is new is translated from now on, and not from the next look on that knows its index.
    async fn lend_address(
        &mut self,
        desired: &Desired,
        report: &Report,
    ) -> Result<(), DataplaneError> {
        let is_new = |action: &Action| matches!(action, Action::CreateWireGuard(_));
        let node = &desired.node;
        let (Some(wanted), Some(_)) = (&node.wireguard, &node.snat) else {
            return Ok(());
        };
        if report.done.iter().any(is_new)
            && let Some(link) = self.net.link(&wanted.name).await?
        {
            let sources = Sources::only(node.address.addr());
            let put = [(link.index, sources)].into();
            self.bpf.update_outlets(&put, &BTreeSet::new())?;
        }
        Ok(())
    }

    /// Flows of pods that left under ports which the programs do not look up any more. It costs what a sweep does. Whether they are gone.
    async fn end_strays(&self, globals: &Globals) -> bool {
        if globals.snat_ports.is_none() {
            return true;
        }
        let (table, globals) = (self.bpf.snat_table(), globals.clone());
        let ending = tokio::task::spawn_blocking(move || match table? {
            Some(mut table) => table.end_strays(|port| globals.reaches(port), clock()),
            None => Ok(0),
        });
        match ending.await {
            // Only a panic or the end of the runtime can come between.
            Ok(Ok(0)) | Err(_) => true,
            Ok(Ok(ended)) => {
                tracing::warn!(
                    "{ended} flows of pods had ports that are not for source NAT any more: UDP goes on under others, TCP connections end"
                );
                true
            }
            Ok(Err(error)) => {
                tracing::warn!("flows under former ports stay unanswered for now: {error}");
                false
            }
        }
    }

    /// A kernel vxlan device that was there before us is to be replaced. One that took our pair's place is flanneld's, which
    /// would make it again and again.
    fn taken_over(&mut self, desired: &Desired, actual: &Actual) -> Option<String> {
        if let WireGuardDevice::There(state) = &actual.wireguard
            && self.serves.as_deref() == Some(wireguard::DEVICE)
            && !state.aliased
        {
            return self.serves.clone();
        }
        let pair = desired.node.pair.as_ref()?;
        let ours = self.serves.as_ref() == Some(&pair.name);
        let Device::KernelTunnel { up, .. } = actual.device else {
            self.left_down.gone(Instant::now());
            return None;
        };
        let is_left = self.left_down.there(up, Instant::now());
        (ours && !is_left).then(|| pair.name.clone())
    }

    /// Brings maps and routes up to date after a change of leases, without a look at the kernel. Anything else
    /// that changed makes it a full [`Self::reconcile`], as does a route that the kernel refuses: somebody else's may be in the
    /// way. What it refused before is tried again by the next look at the kernel.
    ///
    /// # Errors
    /// As [`Self::reconcile`]; the next call compares everything.
    pub async fn update_peers(&mut self, desired: &Desired) -> Result<Report, ReconcileError> {
        let is_ours = !self.turn.stands_back();
        let is_told = |mirror: &mut Mirror| {
            is_ours && mirror.node == desired.node && mirror.refuses_alike(&desired.routes)
        };
        let mirror = self.mirror.take_if(is_told);
        let Some(mut mirror) = mirror else {
            return self.reconcile(desired).await;
        };
        self.name_ignored(&desired.peers);
        let mut actions = Vec::new();
        let source = desired.node.address.addr();
        let before = std::mem::take(&mut mirror.routes);
        mirror.know_routes(&desired.routes, Routes::new());
        let mut routes = RouteChanges::of_leases(&before, &mirror.routes, source);
        let gone = RouteChanges {
            remove: std::mem::take(&mut routes.remove),
            ..RouteChanges::default()
        };
        let routes = [gone, routes].map(|part| Some(part).filter(|part| !part.is_empty()));
        let [gone, new] = routes.map(|part| part.map(Action::UpdateRoutes));
        actions.extend(gone);
        if !desired.node.programs.is_empty()
            && let Some(changes) = PeerChanges::between(&desired.peers, &mirror.peers)
        {
            mirror.peers.apply(&changes);
            actions.push(Action::UpdatePeers(changes));
        }
        actions.extend(new);
        if let Some(wanted) = &desired.node.wireguard {
            let (before, now) = (&mirror.sealed, &desired.peers.sealed);
            let changes = SealedChanges::of_leases(&wanted.name, before, now);
            actions.extend(changes.map(Action::ConfigureWireGuard));
            mirror.sealed.clone_from(now);
        }
        let mut report = self.apply(desired, actions, &[]).await?;
        self.failures.tried_some();
        let refused = report.refused_routes();
        let is_whole = report.failed.is_empty();
        mirror.know_routes(&desired.routes, refused);
        self.mirror = Some(mirror);
        if !is_whole {
            let rest = self.reconcile(desired).await?;
            report.done.extend(rest.done);
            report.failed = rest.failed;
            report.is_full = rest.is_full;
        }
        Ok(report)
    }

    async fn apply(
        &mut self,
        desired: &Desired,
        actions: Vec<Action>,
        repairs: &[Action],
    ) -> Result<Report, ReconcileError> {
        let mut report = Report::default();
        for action in actions {
            if report
                .failed
                .iter()
                .any(|(failed, _)| needs(failed, &action))
            {
                tracing::debug!("not now: {action}");
                continue;
            }
            let mut executor = Executor {
                net: &self.net,
                bpf: &mut self.bpf,
                shared: &self.shared,
                node: &desired.node,
                private_key: self.private_key.as_ref(),
            };
            let outcome = executor.apply(&action).await;
            if outcome.is_err() && self.has_gone(&desired.node, &action).await {
                tracing::debug!("not any more: {action}");
                continue;
            }
            let is_repair = repairs.contains(&action);
            for (action, outcome) in parts(action, outcome) {
                counters::acted(action.name(), outcome.is_ok());
                match outcome {
                    Ok(()) => {
                        self.note(&action, is_repair);
                        report.done.push(action);
                    }
                    Err(source) if action.is_essential(&desired.node) => {
                        self.failures.tried_some();
                        let action = Box::new(action);
                        return Err(ReconcileError::Action { action, source });
                    }
                    Err(error) => {
                        // With `auto` it is no trouble.
                        let xdp = matches!(&action, Action::Attach(a) if a.program.is_xdp());
                        let grade = match xdp && desired.node.xdp == Xdp::Auto {
                            true => Grade::News,
                            false => Grade::Trouble,
                        };
                        let (error, what) = (error.to_string(), format!("cannot {action}"));
                        let text = match error.starts_with(&what) {
                            true => error.clone(),
                            false => format!("{what}: {error}"),
                        };
                        self.failures.add(text, grade);
                        report.failed.push((action, error));
                    }
                }
            }
        }
        Ok(report)
    }

    /// It was done.
    fn note(&mut self, action: &Action, is_repair: bool) {
        match action {
            Action::ConfigureWireGuard(changes) => self.told.remember(changes),
            Action::Load { .. } => self.strays_due = true,
            _ => {}
        }
        if is_repair {
            counters::drift_repaired(action.name());
            tracing::info!(drift = true, "{action}");
        } else {
            tracing::info!("{action}");
        }
    }

    /// Whether a pod went, or another device that may, between the look and the step: the next look finds out.
    async fn has_gone(&self, node: &Node, action: &Action) -> bool {
        let Action::Attach(attachment) = action else {
            return false;
        };
        let device = &attachment.device;
        node.may_go(device) && matches!(self.net.link(device).await, Ok(None))
    }

    fn name_ignored(&mut self, peers: &Peers) {
        for (subnet, why) in &peers.ignored {
            if self.ignored.get(subnet) != Some(why) {
                let key = SubnetKey::from(*subnet);
                tracing::warn!(lease = %key, "the lease of {subnet} is ignored: {why}");
            }
        }
        self.ignored.clone_from(&peers.ignored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_carried_over_stays_for_the_next_try() {
        let carry = |folder: &str| Action::CarryNat {
            folder: folder.to_owned(),
        };
        let remove = |folder: &str| Action::RemoveLayout {
            folder: folder.to_owned(),
        };
        assert!(needs(&carry("v9"), &remove("v9")));
        assert!(!needs(&carry("v9"), &remove("was1")));
        assert!(!needs(&carry("v9"), &carry("v9")));
        assert!(!needs(&Action::BumpEpoch, &remove("v9")));
    }
}
