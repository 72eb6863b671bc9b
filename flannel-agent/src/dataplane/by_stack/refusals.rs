//! Which peers' tunnel packets the host's firewall drops, on their way out (the socket says so) or in (nothing is heard of
//! them behind it).

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::dataplane::Sources;

/// How often it is said that somebody listens, and every how many times is looked.
const SAY: Duration = Duration::from_millis(50);
const LOOK: u32 = 20;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    now: Mutex<Now>,
    /// Nobody listens on the port, or somebody else does: silence there says nothing.
    deaf: AtomicBool,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Now {
    out: BTreeSet<Ipv4Addr>,
    into: BTreeSet<Ipv4Addr>,
}

impl Refusals {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> BTreeSet<Ipv4Addr> {
        let now = self.now();
        now.out.union(&now.into).copied().collect()
    }

    /// What became of a packet to a peer. Only `EPERM` is a rule's.
    pub(super) fn sent(&self, peer: Ipv4Addr, sent: &io::Result<()>) {
        let changed = match sent {
            Ok(()) => self.now().out.remove(&peer),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.now().out.insert(peer),
            Err(_) => false,
        };
        if changed {
            self.changed.notify_one();
        }
    }

    pub(super) fn hear(&self, hears: bool) {
        self.deaf.store(!hears, Ordering::Relaxed);
    }

    /// Looks for what does not come in, for ever.
    pub(super) async fn watch(&self, mut sources: Sources) {
        for turn in (0..LOOK).cycle() {
            let deaf = self.deaf.load(Ordering::Relaxed);
            if !deaf {
                sources.is_here();
            }
            sleep(SAY).await;
            if turn > 0 {
                continue;
            }
            let before = self.now().into.clone();
            let into = if deaf {
                BTreeSet::new()
            } else {
                sources.refused(&before)
            };
            if into != before {
                self.now().into = into;
                self.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rule_refuses_and_what_is_sent_is_not_refused() {
        let refusals = Refusals::default();
        let peer = Ipv4Addr::new(192, 0, 2, 2);
        let failed = |code| Err(io::Error::from_raw_os_error(code));
        refusals.sent(peer, &failed(libc::ENETUNREACH));
        assert_eq!(refusals.all(), BTreeSet::new());
        refusals.sent(peer, &failed(libc::EPERM));
        refusals.sent(peer, &failed(libc::EAGAIN));
        assert_eq!(refusals.all(), BTreeSet::from([peer]));
        refusals.sent(peer, &Ok(()));
        assert_eq!(refusals.all(), BTreeSet::new());
    }
}
