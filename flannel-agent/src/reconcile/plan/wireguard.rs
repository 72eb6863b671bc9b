//! The kernel's WireGuard device: made if it is missing, else told what differs. Whoever talks by it goes on.

use std::collections::BTreeMap;

use super::{Action, Conflict, SealedChanges};
use crate::base::key::PublicKey;
use crate::reconcile::actual::{WireGuardDevice, WireGuardState};
use crate::reconcile::desired::{Sealed, WireGuard};

/// The device as it will be once it is made.
pub(super) fn device(
    wanted: &WireGuard,
    found: &WireGuardDevice,
    actions: &mut Vec<Action>,
) -> Result<WireGuardState, Conflict> {
    let state = match found {
        WireGuardDevice::There(state) => state.clone(),
        WireGuardDevice::Foreign { why } => {
            return Err(Conflict {
                device: wanted.name.clone(),
                why: why.clone(),
            });
        }
        WireGuardDevice::Absent => {
            actions.push(Action::CreateWireGuard(wanted.clone()));
            WireGuardState {
                mtu: wanted.mtu,
                ..WireGuardState::default()
            }
        }
    };
    if !state.aliased {
        actions.push(Action::SetAlias {
            device: wanted.name.clone(),
            alias: wanted.alias.clone(),
        });
    }
    if state.mtu != wanted.mtu {
        actions.push(Action::SetMtu {
            device: wanted.name.clone(),
            mtu: wanted.mtu,
        });
    }
    Ok(state)
}

/// Before it comes up: it listens from then on.
pub(super) fn configure(
    wanted: &WireGuard,
    peers: &BTreeMap<PublicKey, Sealed>,
    state: &WireGuardState,
    actions: &mut Vec<Action>,
) {
    let changes = SealedChanges::between(wanted, peers, state);
    actions.extend(changes.map(Action::ConfigureWireGuard));
    if !state.up {
        actions.push(Action::SetUp {
            device: wanted.name.clone(),
        });
    }
}
