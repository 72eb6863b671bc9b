//! A kernel in memory: what each action does to the state that is observed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use flannel_common::program::Program;
use ipnet::Ipv4Net;

use crate::dataplane::{Generation, Loaded, PeerMaps, Programs, Stale};
use crate::node::net::{PROTOCOL, Path, Route};
use crate::node::node_sysctls::Difference;
use crate::node::wireguard::DEVICE;
use crate::reconcile::actual::{
    Actual, AnchorState, Anchors, Device, PairState, SealedState, WireGuardDevice, WireGuardState,
};
use crate::reconcile::desired::{Desired, TUNNEL, Way};
use crate::reconcile::plan::{Action, How, Set, plan};

pub(super) fn empty() -> Actual {
    Actual {
        device: Device::Absent,
        wireguard: WireGuardDevice::Absent,
        anchor: Anchors::default(),
        aside: false,
        former: BTreeSet::new(),
        programs: Programs::default(),
        peers: PeerMaps::default(),
        routes: Vec::new(),
        exempt: BTreeSet::new(),
        snat_times: None,
        outlets: BTreeMap::new(),
        shared_sysctls: Difference::default(),
    }
}

pub(super) fn pair(actual: &mut Actual) -> &mut PairState {
    match &mut actual.device {
        Device::Ours(pair) => pair,
        other => panic!("no pair but {other:?}"),
    }
}

pub(super) fn wireguard(actual: &mut Actual) -> &mut WireGuardState {
    match &mut actual.wireguard {
        WireGuardDevice::There(state) => state,
        other => panic!("no WireGuard device but {other:?}"),
    }
}

/// Index of the device that leads to peers, and whether it is up with which addresses.
fn tunnel(actual: &Actual) -> Option<(u32, bool, &BTreeSet<Ipv4Net>)> {
    match (&actual.device, &actual.wireguard) {
        (Device::Ours(pair), _) => Some((pair.index, pair.up, &pair.addresses)),
        (_, WireGuardDevice::There(state)) => Some((state.index, state.up, &state.addresses)),
        _ => None,
    }
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) actual: Actual,
    next_index: u32,
    /// Name of the pair that is there.
    tunnel: Option<String>,
    anchor: Option<String>,
}

impl Model {
    pub(super) fn new(actual: Actual) -> Self {
        Self {
            actual,
            next_index: 100,
            tunnel: None,
            anchor: None,
        }
    }

    /// What is observed depends on what is wanted: a pair of another name is one of an earlier configuration.
    pub(super) fn look(&mut self, desired: &Desired) {
        let wanted = desired.node.anchor.as_ref().map(|anchor| &anchor.name);
        if self.anchor.as_ref() != wanted
            && self.actual.anchor.wanted.take().is_some()
            && let Some(name) = self.anchor.take()
        {
            self.actual.anchor.needless.insert(name);
        }
        if desired.node.wireguard.is_none()
            && let WireGuardDevice::There(_) = std::mem::take(&mut self.actual.wireguard)
        {
            self.actual.former.insert(DEVICE.to_owned());
        }
        let wanted = desired.node.pair.as_ref().map(|pair| &pair.name);
        let Some(name) = &self.tunnel else {
            return;
        };
        if Some(name) == wanted {
            return;
        }
        let old = std::mem::replace(&mut self.actual.device, Device::Absent);
        if let Device::Ours(_) = old {
            self.actual.former.insert(name.clone());
        }
        self.tunnel = None;
    }

    /// Plans and applies; afterwards there must be nothing left to do.
    pub(super) fn converge(&mut self, desired: &Desired) {
        self.look(desired);
        for action in plan(desired, &self.actual).unwrap() {
            self.apply(&action);
        }
        assert_eq!(
            plan(desired, &self.actual).unwrap(),
            [],
            "{:#?}",
            self.actual
        );
        assert!(self.actual.former.is_empty(), "{:?}", self.actual.former);
        self.tunnel = None;
        if let Some(wanted) = &desired.node.pair {
            self.tunnel = Some(wanted.name.clone());
            let pair = pair(&mut self.actual);
            assert!(pair.up && pair.gro_up && pair.aliased);
            assert!(pair.addresses.contains(&desired.node.address));
        }
        if let Some(wanted) = &desired.node.wireguard {
            let state = wireguard(&mut self.actual);
            assert!(state.up && state.aliased);
            assert_eq!(state.addresses, [desired.node.address].into());
            assert_eq!(
                (state.public_key, state.port),
                (wanted.public_key, wanted.port)
            );
            assert!(state.peers.keys().eq(desired.peers.sealed.keys()));
        }
        self.anchor = desired
            .node
            .anchor
            .as_ref()
            .map(|anchor| anchor.name.clone());
        let anchor = self.actual.anchor.wanted.as_ref();
        let up_by = anchor.map(|is| (is.up, is.lower.as_ref()));
        let wanted = desired.node.anchor.as_ref();
        assert_eq!(up_by, wanted.map(|anchor| (true, Some(&anchor.lower))));
        assert!(self.actual.anchor.needless.is_empty());
        self.check_routes(desired);
        if desired.node.programs.is_empty() {
            return;
        }
        assert_eq!(self.actual.peers, PeerMaps::from(&desired.peers));
        let programs = &self.actual.programs;
        assert_eq!(
            programs.loaded.as_ref().map(|l| &l.globals),
            Some(&desired.node.globals)
        );
        for attachment in &desired.node.attachments {
            assert_eq!(
                programs.attached.get(attachment),
                Some(&Generation::Current)
            );
        }
        assert!(!self.actual.aside);
        let snat = desired.node.snat.as_ref();
        let exempt = snat.map(|snat| snat.exempt.clone()).unwrap_or_default();
        assert_eq!(self.actual.exempt, exempt);
        assert_eq!(self.actual.outlets, desired.node.outlets);
        if snat.is_some() {
            assert_eq!(self.actual.snat_times, desired.node.snat_times);
        }
        let steps = self.actual.programs.steps.values();
        let wanted = if snat.is_some() {
            Program::STEPS.len()
        } else {
            0
        };
        assert!(steps.clone().all(|is| *is == Generation::Current));
        assert_eq!(steps.len(), wanted);
    }

    /// Every peer has one route of ours that counts, and there is no other of ours.
    fn check_routes(&self, desired: &Desired) {
        let tunnel = tunnel(&self.actual).map_or(0, |(index, ..)| index);
        let routes = &self.actual.routes;
        for (subnet, way) in &desired.routes {
            let first = routes.iter().find(|r| r.destination == *subnet).unwrap();
            let source = Some(desired.node.address.addr());
            let (hop, source) = match way {
                Way::Tunnel | Way::Narrow(_) => ((tunnel, Some(TUNNEL)), source),
                Way::Direct(hop) => ((hop.index, Some(hop.via)), None),
            };
            assert_eq!((first.paths[0].index, first.paths[0].gateway), hop);
            assert_eq!((first.source, first.protocol), (source, PROTOCOL));
            assert_eq!(first.mtu, way.mtu());
        }
        let ours = routes.iter().filter(|r| r.protocol == PROTOCOL);
        assert_eq!(ours.count(), desired.routes.len(), "{routes:?}");
    }

    /// The agent restarts: everything stays but what this process had loaded.
    pub(super) fn new_process(&mut self) {
        let programs = &mut self.actual.programs;
        programs.loaded = None;
        let attached = programs.attached.values_mut();
        for generation in attached.chain(programs.steps.values_mut()) {
            *generation = Generation::Earlier;
        }
    }

    /// Somebody deletes the pair.
    pub(super) fn lose_pair(&mut self) {
        self.actual.device = Device::Absent;
        self.actual.anchor.wanted = None;
        let attached = &mut self.actual.programs.attached;
        attached.retain(|at, _| !at.device.starts_with("fl"));
    }

    /// The hook at the old uplink is no longer a wanted one.
    pub(super) fn move_uplink(&mut self, device: &str, index: u32) {
        let programs = &mut self.actual.programs;
        programs.attached.retain(|at, _| at.device != device);
        programs
            .stale
            .insert(Stale::Pin(format!("uplink_rx-{index}")));
    }

    fn apply(&mut self, action: &Action) {
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
        ..self::held(to, index, Some(gateway), set.source)
    }
}

/// A route of ours.
pub(super) fn held(
    destination: Ipv4Net,
    index: u32,
    gateway: Option<Ipv4Addr>,
    source: Option<Ipv4Addr>,
) -> Route {
    Route {
        destination,
        paths: vec![Path {
            index,
            gateway,
            dead: false,
        }],
        source,
        metric: 0,
        protocol: PROTOCOL,
        mtu: None,
    }
}
