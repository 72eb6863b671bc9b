//! The others' leases as they were heard, in order, and what is told of them: the same for every datastore of leases by subnet.

use std::sync::Arc;
use std::time::Instant;

use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::store::Entry;
use super::table::Table;
use crate::flannel::lease::{Leases, OwnLease};
use crate::source::RESTORED;

/// Keeps `leases` equal to what other nodes hold.
#[derive(Debug)]
pub(in crate::source) struct Told<'a> {
    /// Which datastore it is, for the log.
    who: &'static str,
    own: watch::Receiver<OwnLease>,
    /// What this node reached before the first list.
    known: Leases,
    leases: &'a watch::Sender<Leases>,
    pub(in crate::source) table: Table,
    published: bool,
    /// When what a restored datastore lacks is given up.
    settled: Option<Instant>,
}

/// Why there is something to do though nothing was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Due {
    /// What is missing counts no more: all is to be listed.
    List,
    /// Our own subnet is another one.
    Own(Ipv4Net),
}

impl<'a> Told<'a> {
    pub(in crate::source) fn new(
        who: &'static str,
        mut own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &'a watch::Sender<Leases>,
    ) -> Self {
        let subnet = own.borrow_and_update().subnet;
        Self {
            who,
            own,
            known,
            leases,
            table: Table::new(subnet),
            published: false,
            settled: None,
        }
    }

    /// Our subnet.
    pub(in crate::source) fn own(&self) -> Ipv4Net {
        self.own.borrow().subnet
    }

    /// Waits until there is something to do.
    pub(in crate::source) async fn due(&mut self) -> Due {
        tokio::select! {
            () = until(self.settled) => Due::List,
            own = owned(&mut self.own) => Due::Own(own),
        }
    }

    /// What is missing in the next list counts no more.
    pub(in crate::source) fn settle(&mut self) {
        self.settled = None;
    }

    pub(in crate::source) fn take_own(&mut self, own: Ipv4Net) {
        let touched = self.table.set_own(own);
        self.publish(touched);
    }

    /// All leases, told as the difference to what was known. `is_restored`: of a datastore that is not what it was.
    pub(in crate::source) fn list(&mut self, entries: Vec<Entry>, is_restored: bool) {
        if is_restored {
            tracing::warn!(
                "{} is not what it was before: was it restored from a backup? leases that are missing count for another {} s",
                self.who,
                RESTORED.as_secs()
            );
            self.settled = Some(Instant::now() + RESTORED);
        }
        self.miss_known(&entries);
        match self.settled {
            None => self.table.replace(entries),
            Some(_) => self.table.add(entries),
        }
        let others = self.table.others();
        let first = !std::mem::replace(&mut self.published, true);
        self.leases.send_if_modified(|leases| {
            let differs = **leases != others;
            if differs {
                *leases = Arc::new(others);
            }
            differs || first
        });
    }

    /// At the first list: whom an earlier agent knew and this one reaches, counts as in a running agent.
    fn miss_known(&mut self, listed: &[Entry]) {
        let known = std::mem::take(&mut self.known);
        let missing = self.table.remember_missing(&known, listed);
        if missing.is_empty() {
            return;
        }
        let subnets: Vec<String> = missing.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "this node reaches {} subnets of which {} has no lease that can be read: was it wiped or restored from a backup? they count for \
             another {} s: {}",
            subnets.len(),
            self.who,
            RESTORED.as_secs(),
            subnets.join(", ")
        );
        self.settled = Some(Instant::now() + RESTORED);
    }

    /// Brings these subnets up to date for the readers, who are told only of real differences.
    pub(in crate::source) fn publish(&self, touched: impl IntoIterator<Item = Ipv4Net>) {
        self.leases.send_if_modified(|leases| {
            let mut modified = false;
            for subnet in touched {
                let now = self.table.other(subnet);
                if leases.get(&subnet) == now {
                    continue;
                }
                modified = true;
                // Copies the snapshot only while a reader still holds the old one.
                let leases = Arc::make_mut(leases);
                match now {
                    Some(attrs) => leases.insert(subnet, attrs.clone()),
                    None => leases.remove(&subnet),
                };
            }
            modified
        });
    }
}

/// Returns then; `None`: never.
pub(in crate::source) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Our subnet, once our lease is published anew.
async fn owned(own: &mut watch::Receiver<OwnLease>) -> Ipv4Net {
    match own.changed().await {
        Ok(()) => own.borrow_and_update().subnet,
        // Nobody will publish again; what we know stays right.
        Err(_) => std::future::pending().await,
    }
}
