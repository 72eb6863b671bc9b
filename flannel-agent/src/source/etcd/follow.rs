//! Following everybody's leases: one list, then the watch from there on, and again when it breaks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Event, EventType, WatchResponse};
use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::error::EtcdError;
use super::patience::Patience;
use super::session::Watch;
use super::store::{self, Entry, Store};
use super::table::Table;
use crate::flannel::lease::{Leases, OwnLease};

/// An etcd restored from a backup lacks leases of nodes that live. Each takes its own again as soon as it notices,
/// within seconds; for so long what was known of it counts.
const RESTORED: Duration = Duration::from_mins(1);

/// Keeps `leases` equal to what other nodes hold.
pub(super) struct Follower<'a> {
    store: &'a Store,
    own: watch::Receiver<OwnLease>,
    /// What this node reached before the first list.
    known: Leases,
    leases: &'a watch::Sender<Leases>,
    table: Table,
    /// All up to here is in the table; `None` until the first list and after a compaction.
    revision: Option<i64>,
    published: bool,
    /// When what a restored etcd lacks is given up.
    settled: Option<Instant>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        store: &'a Store,
        mut own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &'a watch::Sender<Leases>,
    ) -> Self {
        let subnet = own.borrow_and_update().subnet;
        Self {
            store,
            own,
            known,
            leases,
            table: Table::new(subnet),
            revision: None,
            published: false,
            settled: None,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing();
        loop {
            let Err(error) = self.follow(&mut patience).await;
            if let EtcdError::Compacted(_) = error {
                self.revision = None;
            }
            crate::base::counters::datastore_troubled();
            patience.lost("following leases", &error).await;
        }
    }

    /// Follows until something breaks. What is known stays known.
    async fn follow(
        &mut self,
        patience: &mut Patience,
    ) -> Result<std::convert::Infallible, EtcdError> {
        let revision = match self.revision {
            // An etcd restored from a backup would stay silent until it has counted up to ours.
            Some(revision) if self.store.revision().await? >= revision => revision,
            Some(_) => {
                tracing::warn!(
                    "etcd knows less than before: was it restored from a backup? leases that are missing count \
                     for another {} s",
                    RESTORED.as_secs()
                );
                self.settled = Some(Instant::now() + RESTORED);
                self.list().await?
            }
            None => self.list().await?,
        };
        let mut watch = self.store.watch_leases(revision + 1).await?;
        loop {
            tokio::select! {
                response = next(&mut watch) => {
                    let response = response?;
                    patience.over();
                    self.apply(&response);
                }
                () = until(self.settled) => {
                    self.settled = None;
                    self.list().await?;
                }
                own = owned(&mut self.own) => {
                    let touched = self.table.set_own(own);
                    self.publish(touched);
                }
            }
        }
    }

    /// Reads all leases and publishes the difference to what was known.
    async fn list(&mut self) -> Result<i64, EtcdError> {
        let listing = self.store.list().await?;
        for error in &listing.foreign {
            self.table.blame(&error.key, false, error);
        }
        self.miss_known(&listing.entries);
        match self.settled {
            None => self.table.replace(listing.entries),
            Some(_) => self.table.add(listing.entries),
        }
        self.revision = Some(listing.revision);
        let others = self.table.others();
        let first = !std::mem::replace(&mut self.published, true);
        self.leases.send_if_modified(|leases| {
            let differs = **leases != others;
            if differs {
                *leases = Arc::new(others);
            }
            differs || first
        });
        Ok(listing.revision)
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
            "this node reaches {} subnets of which etcd has no lease that can be read: was it wiped or restored from a backup? they count for \
             another {} s: {}",
            subnets.len(),
            RESTORED.as_secs(),
            subnets.join(", ")
        );
        self.settled = Some(Instant::now() + RESTORED);
    }

    fn apply(&mut self, response: &WatchResponse) {
        let touched: BTreeSet<_> = response
            .events()
            .iter()
            .filter_map(|event| self.apply_one(event))
            .collect();
        self.publish(touched);
        // A response without events only tells that there were none up to its revision; one with
        // events is complete up to the last of them.
        let last = match response.events().last().and_then(Event::kv) {
            Some(kv) => Some(kv.mod_revision()),
            None => response.header().map(etcd_client::ResponseHeader::revision),
        };
        self.revision = self.revision.max(last);
    }

    fn apply_one(&mut self, event: &Event) -> Option<Ipv4Net> {
        let kv = event.kv()?;
        let deleted = event.event_type() == EventType::Delete;
        match self.store.parse_key(kv.key()) {
            Ok(key) if deleted => Some(self.table.delete(key)),
            Ok(key) => Some(self.table.put(store::entry(key, kv))),
            Err(error) if deleted => {
                self.table.forgive(&error.key);
                None
            }
            Err(error) => {
                self.table.blame(&error.key, false, &error);
                None
            }
        }
    }

    /// Brings these subnets up to date for the readers, who are told only of real differences.
    fn publish(&self, touched: impl IntoIterator<Item = Ipv4Net>) {
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

/// The next response of a watch that goes on.
pub(super) async fn next(watch: &mut Watch) -> Result<WatchResponse, EtcdError> {
    let message = watch.message().await;
    let ended = |reason: String| EtcdError::WatchEnded {
        endpoint: watch.endpoint.clone(),
        reason,
    };
    match message {
        Ok(response) if response.compact_revision() > 0 => {
            Err(EtcdError::Compacted(response.compact_revision()))
        }
        Ok(response) if response.canceled() => Err(ended(response.cancel_reason().to_owned())),
        Ok(response) => Ok(response),
        Err(reason) => Err(ended(reason)),
    }
}

async fn until(instant: Option<Instant>) {
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
