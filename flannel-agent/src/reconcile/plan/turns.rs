//! When each change of a route has its turn among the other steps.

use super::routes::{Wanted, between};
use super::{Action, How, RouteChanges, Set};
use crate::reconcile::actual::Actual;
use crate::reconcile::desired::Desired;

/// The changes of routes, to be taken when their turn has come.
#[derive(Debug, Default)]
pub(super) struct Turns {
    gone: RouteChanges,
    new: RouteChanges,
    wider: RouteChanges,
    sources: RouteChanges,
}

impl Turns {
    /// `tunnel`: the index of its device, 0 if there is none yet. `settled`: no device goes that has the address of our own.
    pub(super) fn new(desired: &Desired, actual: &Actual, tunnel: u32, settled: bool) -> Self {
        let address = Some(desired.node.address.addr());
        let wanted = Wanted {
            desired,
            tunnel,
            // The kernel flushes every route whose source address left a device, even when another device holds the same
            // address (`fib_del_ifaddr`).
            source: address.filter(|_| settled),
        };
        let (mut new, wider) = between(&wanted, &actual.routes);
        let gone = RouteChanges {
            remove: std::mem::take(&mut new.remove),
            ..RouteChanges::default()
        };
        let mut sources = RouteChanges::default();
        if !settled {
            let tunnelled = desired.routes.iter().filter(|(_, way)| way.is_tunnel());
            sources.set.extend(tunnelled.map(|(to, way)| {
                let set = Set {
                    way: *way,
                    source: address,
                    how: How::Replace,
                };
                (*to, set)
            }));
        }
        Self {
            gone,
            new,
            wider,
            sources,
        }
    }

    pub(super) fn take_gone(&mut self) -> Option<Action> {
        action(&mut self.gone)
    }

    pub(super) fn take_new(&mut self) -> Option<Action> {
        action(&mut self.new)
    }

    pub(super) fn take_wider(&mut self) -> Option<Action> {
        action(&mut self.wider)
    }

    pub(super) fn take_sources(&mut self) -> Option<Action> {
        action(&mut self.sources)
    }
}

fn action(changes: &mut RouteChanges) -> Option<Action> {
    let changes = std::mem::take(changes);
    (!changes.is_empty()).then_some(Action::UpdateRoutes(changes))
}
