//! A kernel in memory, and what is true of it.

mod applied;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use flannel_common::program::Program;
use ipnet::Ipv4Net;

use crate::dataplane::{Generation, PeerMaps, Programs, Stale};
use crate::node::net::{PROTOCOL, Path, Route};
use crate::node::node_sysctls::Difference;
use crate::node::wireguard::DEVICE;
use crate::reconcile::actual::{
    Actual, Anchors, Device, PairState, WireGuardDevice, WireGuardState,
};
use crate::reconcile::desired::{Desired, TUNNEL, Way};
use crate::reconcile::plan::plan;

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
