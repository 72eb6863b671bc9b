//! What each action does to the state that is observed.

use std::collections::BTreeSet;

use flannel_common::program::Program;
use ipnet::Ipv4Net;

use super::{Model, held, pair, tunnel, wireguard};
use crate::dataplane::{Generation, Loaded};
use crate::node::net::{PROTOCOL, Route};
use crate::node::wireguard::DEVICE;
use crate::reconcile::actual::{
    AnchorState, Device, PairState, SealedState, WireGuardDevice, WireGuardState,
};
use crate::reconcile::desired::{TUNNEL, Way};
use crate::reconcile::plan::{Action, How, Set};

impl Model {
    /// The state behind `action`.
    pub(super) fn apply(&mut self, action: &Action) {
        let actual = &mut self.actual;
        match action {
            Action::SetAside { .. } => {
                actual.device = Device::Absent;
                actual.aside = true;
            }
            // The address leaves a device; see `plan`.
            Action::Retire { device } => {
                assert!(device.starts_with("fl"));
                let pair = tunnel(actual).map_or(0, |(index, ..)| index);
                // Out of the uplink, or by the pair without the address.
                let stays = |r: &Route| r.leads_by(2) || r.leads_by(3) || r.leads_by(pair);
                actual.routes.retain(|r| r.source.is_none() && stays(r));
            }
            Action::DeleteDevice { device } if device.starts_with("flold") => {
                actual.aside = false;
            }
            Action::DeleteDevice { device } if device.starts_with("flanchor") => {
                if !actual.anchor.needless.remove(device) {
                    actual.anchor.wanted = None;
                }
                let attached = &mut actual.programs.attached;
                attached.retain(|at, _| at.device != *device);
            }
            Action::DeleteDevice { device } if actual.former.remove(device) => {
                let anchor = &actual.anchor.wanted;
                let lower = anchor.as_ref().and_then(|anchor| anchor.lower.as_ref());
                assert_ne!(lower, Some(device), "the kernel takes the anchor along");
            }
            Action::DeleteDevice { .. } => actual.device = Device::Absent,
            Action::CreatePair(wanted) => {
                assert_eq!(actual.device, Device::Absent, "the name is free");
                let mut created = PairState::created(wanted);
                created.index = self.next_index;
                created.gro_index = self.next_index + 1;
                self.next_index += 2;
                actual.device = Device::Ours(created);
                let attached = &mut actual.programs.attached;
                attached.retain(|at, _| at.device != wanted.name && at.device != wanted.gro_name);
            }
            Action::CreateWireGuard(wanted) => {
                assert_eq!(
                    actual.wireguard,
                    WireGuardDevice::Absent,
                    "the name is free"
                );
                actual.wireguard = WireGuardDevice::There(WireGuardState {
                    index: self.next_index,
                    mtu: wanted.mtu,
                    ..WireGuardState::default()
                });
                self.next_index += 1;
            }
            Action::ConfigureWireGuard(changes) => {
                let state = wireguard(actual);
                state.public_key = changes.public_key.or(state.public_key);
                state.port = changes.port.unwrap_or(state.port);
                for key in &changes.remove {
                    assert!(state.peers.remove(key).is_some(), "{key}");
                }
                for (key, put) in &changes.put {
                    let mut held = state.peers.get(key).cloned().unwrap_or_default();
                    if let Some(towards) = put.towards {
                        held.endpoint = Some(towards.into());
                        held.heard = false;
                    }
                    let peer = SealedState::of(&put.peer, &held);
                    state.peers.insert(*key, peer);
                }
            }
            Action::SetAlias { device, .. } if device == DEVICE => wireguard(actual).aliased = true,
            Action::SetMtu { device, mtu } if device == DEVICE => wireguard(actual).mtu = *mtu,
            Action::SetUp { device } if device == DEVICE => wireguard(actual).up = true,
            Action::AddAddress { device, address } if device == DEVICE => {
                wireguard(actual).addresses.insert(*address);
            }
            Action::RemoveAddress { device, address } if device == DEVICE => {
                wireguard(actual).addresses.remove(address);
            }
            Action::CreateAnchor(wanted) => {
                assert!(
                    matches!(actual.device, Device::Ours(_)),
                    "it goes with the pair"
                );
                actual.anchor.wanted = Some(AnchorState {
                    is_whole: true,
                    up: false,
                    lower: Some(wanted.lower.clone()),
                });
            }
            Action::SetAlias { .. } => pair(actual).aliased = true,
            Action::SetMac { mac, .. } => pair(actual).mac = Some(*mac),
            Action::SetMtu { device, mtu } if device.starts_with("flgro") => {
                pair(actual).gro_mtu = *mtu;
            }
            Action::SetMtu { mtu, .. } => pair(actual).mtu = *mtu,
            Action::SetGsoMax { max, .. } => pair(actual).gso_max = Some(*max),
            Action::SetSysctl { key, .. } => {
                pair(actual).wrong_sysctls.remove(key);
            }
            Action::ClaimSysctl { key, .. } => {
                actual.shared_sysctls.unmet.remove(key);
            }
            Action::ReleaseSysctl { key } => {
                actual.shared_sysctls.unwanted.remove(key);
            }
            Action::SetFeatures { device, .. } => {
                pair(actual).wrong_features.remove(device);
            }
            Action::Load { globals } => {
                let (index, gro_index) = match &actual.device {
                    Device::Ours(pair) => (pair.index, pair.gro_index),
                    _ => (0, 0),
                };
                actual.programs.loaded = Some(Loaded {
                    globals: globals.clone(),
                    index,
                    gro_index,
                });
                let programs = &mut actual.programs;
                programs.has_maps = true;
                let attached = programs.attached.values_mut();
                for generation in attached.chain(programs.steps.values_mut()) {
                    *generation = Generation::Earlier;
                }
            }
            Action::UpdatePeers(changes) => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
                actual.peers.apply(changes);
            }
            Action::SetSteps => {
                assert!(actual.programs.loaded.is_some(), "programs are loaded");
                // An earlier agent's hooks jump there at once.
                assert!(
                    actual.snat_times.is_some(),
                    "nothing is over before it is known when"
                );
                let all = Program::STEPS.map(|step| (step, Generation::Current));
                actual.programs.steps = all.into();
            }
            Action::ClearSteps => {
                assert!(actual.programs.stale.is_empty(), "hooks first");
                actual.programs.steps.clear();
            }
            Action::UpdateExempt { put, remove } => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
                actual.exempt.extend(put);
                actual.exempt.retain(|net| !remove.contains(net));
            }
            Action::SetTimes(times) => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
                actual.snat_times = Some(*times);
            }
            Action::UpdateOutlets { put, remove } => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
                actual.outlets.extend(put.clone());
                actual.outlets.retain(|index, _| !remove.contains(index));
            }
            Action::BumpEpoch => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
            }
            Action::SetUp { device } if device.starts_with("flgro") => pair(actual).gro_up = true,
            Action::SetUp { device } if device.starts_with("flanchor") => {
                assert!(!actual.aside, "the port is free");
                let hooked = actual
                    .programs
                    .attached
                    .keys()
                    .any(|at| at.device == *device);
                assert!(hooked, "nothing gets behind it");
                actual.anchor.wanted.as_mut().unwrap().up = true;
            }
            Action::SetUp { .. } => pair(actual).up = true,
            Action::Attach(attachment) => {
                assert!(actual.programs.loaded.is_some(), "programs are loaded");
                let jumps = matches!(
                    attachment.program,
                    Program::UplinkTx
                        | Program::UplinkSnatRx
                        | Program::OverlaySnatTx
                        | Program::OverlaySnatRx
                );
                assert!(
                    !jumps || actual.snat_times.is_some(),
                    "nothing is over before it is known when"
                );
                let is_current =
                    |step| actual.programs.steps.get(step) == Some(&Generation::Current);
                assert!(
                    !jumps || Program::STEPS.iter().all(is_current),
                    "steps first"
                );
                let attached = &mut actual.programs.attached;
                attached.insert(attachment.clone(), Generation::Current);
            }
            Action::AddAddress { address, .. } => {
                pair(actual).addresses.insert(*address);
            }
            Action::RemoveAddress { address, .. } => {
                let pair = pair(actual);
                pair.addresses.remove(address);
                let index = pair.index;
                let routes = &mut actual.routes;
                routes.retain(|r| r.source != Some(address.addr()) || !r.leads_by(index));
            }
            Action::UpdateRoutes(changes) => {
                let tunnel = tunnel(actual).map(|(index, up, held)| (index, up, held.clone()));
                let routes = &mut actual.routes;
                for to in &changes.remove {
                    let ours = |r: &Route| r.destination == *to && r.protocol == PROTOCOL;
                    let at = routes.iter().position(ours).unwrap();
                    routes.remove(at);
                }
                for (to, set) in &changes.set {
                    let at = routes.iter().position(|r| r.destination == *to);
                    let new = route(*to, set, tunnel.as_ref());
                    match (set.how, at) {
                        (How::Add, None) => routes.push(new),
                        (How::Replace, Some(at)) => routes[at] = new,
                        (How::Replace, None) => routes.push(new),
                        (How::InFront { .. }, Some(at)) => {
                            let again = routes
                                .iter()
                                .any(|r| r.paths == new.paths && r.destination == *to);
                            assert!(!again, "EEXIST");
                            routes.insert(at, new);
                        }
                        other => panic!("{to}: {other:?}"),
                    }
                }
            }
            Action::Detach(stale) => {
                actual.programs.stale.remove(stale);
            }
            Action::CarryNat { folder } => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
                assert_eq!(actual.programs.old_layouts.get(folder), Some(&true));
            }
            Action::RemoveMaps => actual.programs.has_maps = false,
            Action::RemoveLayout { folder } => {
                actual.programs.old_layouts.remove(folder);
            }
        }
    }
}

fn route(to: Ipv4Net, set: &Set, tunnel: Option<&(u32, bool, BTreeSet<Ipv4Net>)>) -> Route {
    let (index, gateway) = match set.way {
        Way::Tunnel | Way::Narrow(_) => {
            let (index, up, addresses) = tunnel.expect("a tunnel");
            assert!(*up, "a route needs its device up");
            if let Some(source) = set.source {
                let held = addresses.iter().any(|a| a.addr() == source);
                assert!(held, "a route needs its source address");
            }
            (*index, TUNNEL)
        }
        Way::Direct(hop) => (hop.index, hop.via),
    };
    Route {
        mtu: set.way.mtu(),
        ..held(to, index, Some(gateway), set.source)
    }
}
