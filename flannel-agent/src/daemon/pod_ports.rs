//! Which ports of pods get programs, and when.
//!
//! On kernels without tcx, CNI plugins that come after `bridge` go first. The bandwidth plugin adds an ingress qdisc to a
//! port that was made a moment ago, and fails, and with it the pod, if there is a clsact qdisc already. Once it is there,
//! ours keeps away.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::reconcile::desired::{Facts, Ports};

/// From the port's appearance to the end of the chain of plugins, on a busy node.
const RIPE: Duration = Duration::from_secs(5);

/// The ports as they were last seen.
#[derive(Debug, Default)]
pub(super) struct PodPorts {
    ripening: Ripening,
    /// When the next of them is old enough.
    ripe_at: Option<Instant>,
    /// Of which it was said that their pods' flows take the stack.
    shaped: Ports,
}

impl PodPorts {
    /// Leaves in `facts` those that get programs now. `filters`: these would be clsact's.
    pub(super) fn settle(&mut self, facts: &mut Facts, filters: bool) {
        for (port, index) in &facts.shaped {
            if self.shaped.get(port) != Some(index) {
                tracing::info!(
                    "{port} has an ingress qdisc, which shapes what its pod sends: the pod's flows take the stack"
                );
            }
        }
        self.shaped.clone_from(&facts.shaped);
        if filters {
            let ports = &mut facts.pod_ports;
            self.ripe_at = self.ripening.leave_ripe(ports, Instant::now());
        }
    }

    /// Waits until one more is old enough.
    pub(super) async fn ripe(&mut self) {
        match self.ripe_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.ripe_at = None;
    }
}

/// Since when ports are known.
#[derive(Debug, Default)]
struct Ripening {
    seen: Option<BTreeMap<(String, u32), Instant>>,
}

impl Ripening {
    /// Leaves the ports that are old enough. Those of the first look are: their pods run. Returns when to look again.
    fn leave_ripe(&mut self, ports: &mut Ports, now: Instant) -> Option<Instant> {
        let long_ago = now.checked_sub(RIPE).unwrap_or(now);
        let known = self.seen.take();
        let since = |port: &(String, u32)| match &known {
            None => long_ago,
            Some(known) => known.get(port).copied().unwrap_or(now),
        };
        let seen: BTreeMap<_, _> = std::mem::take(ports)
            .into_iter()
            .map(|port| {
                let at = since(&port);
                (port, at)
            })
            .collect();
        let is_ripe = |at: Instant| at + RIPE <= now;
        let ripe = seen.iter().filter(|(_, at)| is_ripe(**at));
        ports.extend(ripe.map(|(port, _)| port.clone()));
        let unripe = seen.values().filter(|at| !is_ripe(**at));
        let next = unripe.min().map(|at| *at + RIPE);
        self.seen = Some(seen);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(names: &[(&str, u32)]) -> Ports {
        let owned = names
            .iter()
            .map(|(name, index)| ((*name).to_owned(), *index));
        owned.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn new_ports_wait_and_those_of_the_start_do_not() {
        let (mut ripening, begin) = (Ripening::default(), Instant::now());
        let mut ask = |names: &[(&str, u32)], after: u64| {
            let mut asked = ports(names);
            let now = begin + Duration::from_secs(after);
            let next = ripening.leave_ripe(&mut asked, now);
            (asked, next.map(|at| (at - begin).as_secs()))
        };
        let (a, b, again) = (("a", 1), ("b", 2), ("a", 3));
        assert_eq!(ask(&[a], 10), (ports(&[a]), None));
        assert_eq!(ask(&[a, b], 11), (ports(&[a]), Some(16)));
        assert_eq!(ask(&[a, b], 15), (ports(&[a]), Some(16)));
        assert_eq!(ask(&[a, b], 16), (ports(&[a, b]), None));
        // Another pod under a name that was there.
        assert_eq!(ask(&[again, b], 17), (ports(&[b]), Some(22)));
    }
}
