//! From what is to what should be: ordered actions, none when nothing is to do.
//!
//! On the way up: devices, then maps, then programs, then hooks, then what leads packets there. What is
//! replaced keeps working until its successor does.

mod action;
mod anchor;
mod peers;
mod repairs;
mod routes;
mod sealed;
mod snat;
#[cfg(test)]
mod tests;
mod turns;
mod untried;
mod wireguard;

pub use action::Action;
pub use repairs::repairs;
pub use routes::{How, RouteChanges, Set};
pub use sealed::{SealedChanges, SealedPut};
pub(super) use untried::untried;

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use crate::dataplane::{Attachment, Generation, Loaded, PeerChanges};
use crate::node::net::{PROTOCOL, Route};
use crate::reconcile::actual::{Actual, Device, PairState};
use crate::reconcile::desired::{Desired, Node, Pair};
use turns::Turns;

/// Something that is not ours stands where our device belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{device} is in the way: {why}")]
pub struct Conflict {
    pub device: String,
    pub why: String,
}

/// Plans the way from `actual` to `desired`.
///
/// # Errors
/// A device of our name that is not ours: it is never touched.
pub fn plan(desired: &Desired, actual: &Actual) -> Result<Vec<Action>, Conflict> {
    let Desired { node, peers, .. } = desired;
    let mut actions = Vec::new();
    let mut created = false;
    let mut tunnel = None;
    if let Some(wanted) = &node.pair {
        let (pair, new) = devices(wanted, &actual.device, &mut actions)?;
        settings(node, wanted, &pair, &mut actions);
        created = new;
        tunnel = Some((wanted, pair));
    }
    let tunnel = tunnel.as_ref().map(|(wanted, pair)| (*wanted, pair));
    let mut by_wireguard = None;
    if let Some(wanted) = &node.wireguard {
        let state = wireguard::device(wanted, &actual.wireguard, &mut actions)?;
        by_wireguard = Some((wanted, state));
    }
    let by_wireguard = by_wireguard.as_ref();
    let shared = &actual.shared_sysctls;
    let claims = shared.unmet.iter();
    actions.extend(claims.map(|(key, wish)| Action::ClaimSysctl {
        key: key.clone(),
        wish: wish.clone(),
    }));

    // Routes alone need no program.
    let runs = !node.programs.is_empty();
    let loaded = actual.programs.loaded.as_ref();
    let reload = runs && (created || !is_loaded(node, tunnel, loaded));
    if reload {
        actions.push(Action::Load {
            globals: node.globals.clone(),
        });
    }
    // Last on the way up, first on the way down: no route leads where nobody is known.
    let retired = retired(node, actual);
    let index = tunnel.map(|(_, pair)| pair.index);
    let index = index.or(by_wireguard.map(|(_, state)| state.index));
    let mut routes = Turns::new(desired, actual, index.unwrap_or(0), retired.is_empty());
    actions.extend(routes.take_gone());
    if runs && let Some(changes) = PeerChanges::between(peers, &actual.peers) {
        actions.push(Action::UpdatePeers(changes));
    }
    if runs {
        snat::prepare(node, actual, reload, &mut actions);
        snat::carry(node, actual, &mut actions);
    }
    if let Some((wanted, pair)) = tunnel {
        set_up(wanted, pair, &mut actions);
    }
    if let Some((wanted, state)) = by_wireguard {
        wireguard::configure(wanted, &peers.sealed, state, &mut actions);
    }

    let new_anchor = anchor::prepare(node, actual, &retired, &mut actions);
    let attach = |attachment: &&Attachment| {
        if new_anchor == Some(attachment.device.as_str()) {
            return true;
        }
        if actual.programs.xdp_refused && attachment.is_for_xdp() {
            return false;
        }
        let live = actual.programs.attached.get(*attachment);
        reload || live != Some(&Generation::Current)
    };
    let on_pair = |a: &&Attachment| {
        node.pair
            .as_ref()
            .is_some_and(|pair| a.device == pair.name || a.device == pair.gro_name)
            || by_wireguard.is_some_and(|(wanted, _)| a.device == wanted.name)
    };
    let hooks = node.attachments.iter().filter(attach);
    actions.extend(hooks.clone().filter(on_pair).cloned().map(Action::Attach));
    if let Some((wanted, pair)) = tunnel {
        add_address(node, &wanted.name, &pair.addresses, &mut actions);
    }
    if let Some((wanted, state)) = by_wireguard {
        add_address(node, &wanted.name, &state.addresses, &mut actions);
    }
    actions.extend(routes.take_new());
    actions.extend(routes.take_wider());
    if let Some((wanted, pair)) = tunnel {
        let held = (pair.index, &pair.addresses);
        remove_addresses(node, &wanted.name, held, &actual.routes, &mut actions);
    }
    if let Some((wanted, state)) = by_wireguard {
        let held = (state.index, &state.addresses);
        remove_addresses(node, &wanted.name, held, &actual.routes, &mut actions);
    }
    // Strict rp_filter takes packets only from the device that the route back leads to: both turn at once.
    actions.extend(hooks.filter(|a| !on_pair(a)).cloned().map(Action::Attach));
    // Deleting a device takes milliseconds, in which no packet should go to it.
    for device in &retired {
        actions.push(Action::Retire {
            device: device.clone(),
        });
    }
    // Those into the tunnel have got no source address yet.
    actions.extend(routes.take_sources());

    // Whatever the earlier programs were told, flows were proven under it.
    if reload && node.globals.fast_path != flannel_common::globals::FAST_PATH_OFF {
        actions.push(Action::BumpEpoch);
    }

    actions.extend(
        retired
            .into_iter()
            .map(|device| Action::DeleteDevice { device }),
    );
    anchor::settle(node, actual, new_anchor, &mut actions);
    let stale = actual.programs.stale.iter().cloned();
    actions.extend(stale.map(Action::Detach));
    // What conntrack is to be like for their flows, it is to be until they have gone.
    let unwanted = shared.unwanted.iter().cloned();
    actions.extend(unwanted.map(|key| Action::ReleaseSysctl { key }));
    if runs {
        snat::retire(node, actual, &mut actions);
        snat::carry(node, actual, &mut actions);
    } else if actual.programs.has_maps {
        actions.push(Action::RemoveMaps);
    }
    let layouts = actual.programs.old_layouts.keys().cloned();
    actions.extend(layouts.map(|folder| Action::RemoveLayout { folder }));
    Ok(actions)
}

/// Devices that forwarded until now: the kernel's, put aside, and ours of an earlier configuration.
fn retired(node: &Node, actual: &Actual) -> Vec<String> {
    let aside = matches!(actual.device, Device::KernelTunnel { .. }) || actual.aside;
    let aside = node.pair.iter().filter(|_| aside);
    aside
        .map(|pair| pair.aside_name.clone())
        .chain(actual.former.iter().cloned())
        .collect()
}

/// The pair as it will be once the actions planned here are done, and whether it is a new one.
fn devices(
    wanted: &Pair,
    found: &Device,
    actions: &mut Vec<Action>,
) -> Result<(PairState, bool), Conflict> {
    match found {
        Device::Ours(state) => return Ok((state.clone(), false)),
        Device::Foreign { why } => {
            return Err(Conflict {
                device: wanted.name.clone(),
                why: why.clone(),
            });
        }
        Device::Absent => {}
        Device::Broken { device } => actions.push(Action::DeleteDevice {
            device: device.clone(),
        }),
        Device::KernelTunnel { .. } => actions.push(Action::SetAside {
            device: wanted.name.clone(),
            to: wanted.aside_name.clone(),
        }),
    }
    actions.push(Action::CreatePair(wanted.clone()));
    Ok((PairState::created(wanted), true))
}

/// `GSO_LEGACY_MAX_SIZE`, which devices have unless told otherwise. A longer packet (BIG TCP) says nothing of its length in its IPv4 header, and the
/// programs refuse to write one in front of it that says nothing either.
const GSO_MAX: u32 = 65_536;

impl PairState {
    /// As the kernel makes a pair: named, addressed, down, nothing else.
    fn created(wanted: &Pair) -> Self {
        Self {
            index: 0,
            gro_index: 0,
            aliased: false,
            mac: Some(wanted.mac),
            mtu: wanted.mtu,
            gro_mtu: wanted.gro_mtu,
            gso_max: None,
            up: false,
            gro_up: false,
            wrong_sysctls: Default::default(),
            wrong_features: Default::default(),
            addresses: Default::default(),
        }
    }
}

fn settings(node: &Node, wanted: &Pair, pair: &PairState, actions: &mut Vec<Action>) {
    if !pair.aliased {
        for device in [&wanted.gro_name, &wanted.name] {
            actions.push(Action::SetAlias {
                device: device.clone(),
                alias: wanted.alias.clone(),
            });
        }
    }
    if pair.mac != Some(wanted.mac) {
        actions.push(Action::SetMac {
            device: wanted.name.clone(),
            mac: wanted.mac,
        });
    }
    for (device, is, mtu) in [
        (&wanted.name, pair.mtu, wanted.mtu),
        (&wanted.gro_name, pair.gro_mtu, wanted.gro_mtu),
    ] {
        if is != mtu {
            actions.push(Action::SetMtu {
                device: device.clone(),
                mtu,
            });
        }
    }
    if pair.gso_max.is_some_and(|max| max > GSO_MAX) {
        actions.push(Action::SetGsoMax {
            device: wanted.name.clone(),
            max: GSO_MAX,
        });
    }
    // A new device has to be told everything.
    let new = pair.index == 0;
    let sysctls = if new {
        &node.sysctls
    } else {
        &pair.wrong_sysctls
    };
    actions.extend(sysctls.iter().map(|(key, value)| Action::SetSysctl {
        key: key.clone(),
        value: value.clone(),
    }));
    let features = if new {
        &node.features
    } else {
        &pair.wrong_features
    };
    actions.extend(features.iter().filter(|(_, wrong)| !wrong.is_empty()).map(
        |(device, features)| Action::SetFeatures {
            device: device.clone(),
            features: features.clone(),
        },
    ));
}

/// The far end first: then nothing that enters the near end is lost for want of a carrier.
fn set_up(wanted: &Pair, pair: &PairState, actions: &mut Vec<Action>) {
    for (device, up) in [(&wanted.gro_name, pair.gro_up), (&wanted.name, pair.up)] {
        if !up {
            actions.push(Action::SetUp {
                device: device.clone(),
            });
        }
    }
}

fn add_address(node: &Node, device: &str, held: &BTreeSet<Ipv4Net>, actions: &mut Vec<Action>) {
    if !held.contains(&node.address) {
        actions.push(Action::AddAddress {
            device: device.to_owned(),
            address: node.address,
        });
    }
}

/// After the routes: the kernel flushes those whose source address goes. An address outside the network is ours if a route
/// of ours used it, or if it is a subnet's first: nobody else gives that to a device of ours.
fn remove_addresses(
    node: &Node,
    device: &str,
    (index, held): (u32, &BTreeSet<Ipv4Net>),
    routes: &[Route],
    actions: &mut Vec<Action>,
) {
    let used = |address: &Ipv4Net| {
        let mut ours = routes.iter().filter(|r| r.protocol == PROTOCOL);
        ours.any(|r| r.source == Some(address.addr()) && r.leads_by(index))
    };
    let len = node.globals.subnet.prefix_len();
    let begins_subnet = |address: &Ipv4Net| {
        let subnet = Ipv4Net::new(address.addr(), len);
        address.prefix_len() == 32 && subnet.is_ok_and(|net| net.network() == address.addr())
    };
    for address in held {
        let inside = node.overlay.contains(&address.addr());
        let ours = inside || used(address) || begins_subnet(address);
        if *address != node.address && ours {
            actions.push(Action::RemoveAddress {
                device: device.to_owned(),
                address: *address,
            });
        }
    }
}

fn is_loaded(node: &Node, tunnel: Option<(&Pair, &PairState)>, loaded: Option<&Loaded>) -> bool {
    let (index, gro_index) = tunnel.map_or((0, 0), |(_, pair)| (pair.index, pair.gro_index));
    loaded.is_some_and(|loaded| {
        loaded.globals == node.globals && loaded.index == index && loaded.gro_index == gro_index
    })
}
