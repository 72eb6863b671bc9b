//! A kernel in memory: what each action does to the state that is observed.

use crate::actual::{Actual, Device, Generation, Loaded, PairState, PeerMaps, Programs, Stale};
use crate::desired::Desired;
use crate::plan::{Action, plan};

pub(super) fn empty() -> Actual {
    Actual {
        device: Device::Absent,
        aside: false,
        programs: Programs::default(),
        peers: PeerMaps::default(),
    }
}

pub(super) fn pair(actual: &mut Actual) -> &mut PairState {
    match &mut actual.device {
        Device::Ours(pair) => pair,
        other => panic!("no pair but {other:?}"),
    }
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) actual: Actual,
    next_index: u32,
}

impl Model {
    pub(super) fn new(actual: Actual) -> Self {
        Self {
            actual,
            next_index: 100,
        }
    }

    /// Plans and applies; afterwards there must be nothing left to do.
    pub(super) fn converge(&mut self, desired: &Desired) {
        for action in plan(desired, &self.actual).unwrap() {
            self.apply(&action);
        }
        assert_eq!(
            plan(desired, &self.actual).unwrap(),
            [],
            "{:#?}",
            self.actual
        );
        assert_eq!(self.actual.peers, PeerMaps::from(&desired.peers));
        let pair = pair(&mut self.actual);
        assert!(pair.up && pair.gro_up && pair.aliased);
        assert!(pair.addresses.contains(&desired.node.address));
        let route = pair.routes.get(&desired.node.overlay);
        assert_eq!(route, Some(&Some(desired.node.address.addr())));
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
    }

    /// The agent restarts: everything stays but what this process had loaded.
    pub(super) fn new_process(&mut self) {
        let programs = &mut self.actual.programs;
        programs.loaded = None;
        for generation in programs.attached.values_mut() {
            *generation = Generation::Earlier;
        }
    }

    /// Somebody deletes the pair.
    pub(super) fn lose_pair(&mut self) {
        self.actual.device = Device::Absent;
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
            Action::Retire { .. } => pair(actual).routes.clear(),
            Action::DeleteDevice { device } if device.starts_with("flold") => {
                actual.aside = false;
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
            Action::SetAlias { .. } => pair(actual).aliased = true,
            Action::SetMac { mac, .. } => pair(actual).mac = Some(*mac),
            Action::SetMtu { device, mtu } if device.starts_with("flgro") => {
                pair(actual).gro_mtu = *mtu;
            }
            Action::SetMtu { mtu, .. } => pair(actual).mtu = *mtu,
            Action::SetSysctl { key, .. } => {
                pair(actual).wrong_sysctls.remove(key);
            }
            Action::SetFeatures { device, .. } => {
                pair(actual).wrong_features.remove(device);
            }
            Action::Load { globals } => {
                let (index, gro_index) = (pair(actual).index, pair(actual).gro_index);
                actual.programs.loaded = Some(Loaded {
                    globals: globals.clone(),
                    index,
                    gro_index,
                });
                for generation in actual.programs.attached.values_mut() {
                    *generation = Generation::Earlier;
                }
            }
            Action::UpdatePeers(changes) => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
                actual.peers.apply(changes);
            }
            Action::BumpEpoch => {
                assert!(actual.programs.loaded.is_some(), "maps are open");
            }
            Action::SetUp { device } if device.starts_with("flgro") => pair(actual).gro_up = true,
            Action::SetUp { .. } => pair(actual).up = true,
            Action::Attach(attachment) => {
                assert!(actual.programs.loaded.is_some(), "programs are loaded");
                let attached = &mut actual.programs.attached;
                attached.insert(attachment.clone(), Generation::Current);
            }
            Action::AddAddress { address, .. } => {
                pair(actual).addresses.insert(*address);
            }
            Action::RemoveAddress { address, .. } => {
                let pair = pair(actual);
                pair.addresses.remove(address);
                pair.routes.retain(|_, src| *src != Some(address.addr()));
            }
            Action::SetRoute {
                destination,
                source,
                ..
            } => {
                let pair = pair(actual);
                assert!(pair.up, "a route needs its device up");
                let held = pair.addresses.iter().any(|a| a.addr() == *source);
                assert!(held, "a route needs its source address");
                pair.routes.insert(*destination, Some(*source));
            }
            Action::RemoveRoute { destination, .. } => {
                pair(actual).routes.remove(destination);
            }
            Action::Detach(stale) => {
                actual.programs.stale.remove(stale);
            }
            Action::RemoveLayout { folder } => {
                actual.programs.old_layouts.remove(folder);
            }
        }
    }
}
