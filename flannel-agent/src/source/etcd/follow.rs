//! Following everybody's leases: one list, then the watch from there on, and again when it breaks.

use std::collections::BTreeSet;

use etcd_client::{Event, EventType, WatchResponse};
use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::error::EtcdError;
use super::patience::Patience;
use super::session::Watch;
use super::store::{self, Position, Store};
use super::told::{Due, Told};
use crate::flannel::lease::{Leases, OwnLease};

/// Keeps `leases` equal to what other nodes hold.
pub(super) struct Follower<'a> {
    store: &'a Store,
    told: Told<'a>,
    /// All up to here is told; `None` until the first list.
    heard: Option<Position>,
    /// What came behind that is in no watch any more.
    compacted: bool,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        store: &'a Store,
        own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &'a watch::Sender<Leases>,
    ) -> Self {
        Self {
            store,
            told: Told::new("etcd", own, known, leases),
            heard: None,
            compacted: false,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing();
        loop {
            let Err(error) = self.follow(&mut patience).await;
            if let EtcdError::Compacted(_) = error {
                self.compacted = true;
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
        let revision = match self.heard.filter(|_| !self.compacted) {
            // An etcd restored from a backup would stay silent until it has counted up to ours.
            Some(heard) if self.store.position().await?.follows(heard) => heard.revision,
            _ => self.list(false).await?,
        };
        let mut watch = self.store.watch_leases(revision + 1).await?;
        loop {
            tokio::select! {
                response = next(&mut watch) => {
                    let response = response?;
                    patience.over();
                    self.apply(&response);
                }
                due = self.told.due() => match due {
                    Due::List => {
                        self.list(true).await?;
                    }
                    Due::Own(own) => self.told.take_own(own),
                }
            }
        }
    }

    /// Reads all leases; `gives_up` what is missing.
    async fn list(&mut self, gives_up: bool) -> Result<i64, EtcdError> {
        let listing = self.store.list().await?;
        if gives_up {
            self.told.settle();
        }
        for error in &listing.foreign {
            self.told.table.blame(&error.key, false, error);
        }
        let now = listing.position;
        let before = self.heard.replace(now);
        self.compacted = false;
        let is_restored = before.is_some_and(|before| !now.follows(before));
        self.told.list(listing.entries, is_restored);
        Ok(now.revision)
    }

    fn apply(&mut self, response: &WatchResponse) {
        let touched: BTreeSet<_> = response
            .events()
            .iter()
            .filter_map(|event| self.apply_one(event))
            .collect();
        self.told.publish(touched);
        if let Some(heard) = &mut self.heard {
            heard.advance(response);
        }
    }

    fn apply_one(&mut self, event: &Event) -> Option<Ipv4Net> {
        let kv = event.kv()?;
        let deleted = event.event_type() == EventType::Delete;
        let table = &mut self.told.table;
        match self.store.parse_key(kv.key()) {
            Ok(key) if deleted => Some(table.delete(key)),
            Ok(key) => Some(table.put(store::entry(key, kv))),
            Err(error) if deleted => {
                table.forgive(&error.key);
                None
            }
            Err(error) => {
                table.blame(&error.key, false, &error);
                None
            }
        }
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
