//! Which networks there are: each has its configuration at `<prefix>/<name>/config`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Instant;

use etcd_client::{EventType, WatchResponse};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::{EtcdError, OptionsError};
use super::follow::next;
use super::options::EtcdOptions;
use super::patience::Patience;
use super::store::{Position, Store};
use super::told::until;
use crate::source::RESTORED;
use crate::source::networks::{Found, Roll, name_missing};

/// The networks under one prefix in etcd.
#[derive(Debug)]
pub struct EtcdNetworks {
    store: Store,
}

impl EtcdNetworks {
    /// Prepares connections; none is made before the first use.
    ///
    /// # Errors
    /// When an endpoint is no URL or a certificate file cannot be used.
    pub fn new(options: &EtcdOptions) -> Result<Self, OptionsError> {
        Ok(Self {
            store: Store::new(options)?,
        })
    }

    /// Keeps `found` equal to what is in etcd until cancelled. While that does not answer, what is known stays known.
    pub async fn follow(&self, found: &watch::Sender<Found>, cancel: &CancellationToken) {
        let follower = Follower::new(&self.store, |news: News<'_>| news.roll.publish(found));
        cancel.run_until_cancelled(follower.run()).await;
    }
}

/// What a follower tells.
#[derive(Debug)]
pub(super) struct News<'a> {
    pub(super) roll: &'a Roll,
    pub(super) revision: i64,
    /// What was told before has no meaning any more: what is not there was not deleted.
    pub(super) anew: bool,
}

/// One list, then the watch from there on, and again when it breaks.
pub(super) struct Follower<'a, T> {
    store: &'a Store,
    tell: T,
    roll: Roll,
    /// All up to here is in the roll; `None` until the first list.
    heard: Option<Position>,
    /// What came behind that is in no watch any more.
    compacted: bool,
    /// When what is missing is given up.
    settled: Option<Instant>,
}

impl<'a, T: FnMut(News<'_>) + Send> Follower<'a, T> {
    pub(super) fn new(store: &'a Store, tell: T) -> Self {
        Self {
            store,
            tell,
            roll: Roll::default(),
            heard: None,
            compacted: false,
            settled: None,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) -> Infallible {
        let mut patience = Patience::growing();
        loop {
            let Err(error) = self.follow(&mut patience).await;
            if let EtcdError::Compacted(_) = error {
                self.compacted = true;
            }
            patience.lost("following the networks", &error).await;
        }
    }

    async fn follow(&mut self, patience: &mut Patience) -> Result<Infallible, EtcdError> {
        let revision = match self.heard.filter(|_| !self.compacted) {
            // Whoever deletes a network meanwhile is seen to do it.
            Some(heard) if self.store.position().await?.follows(heard) => heard.revision,
            _ => self.list(false).await?,
        };
        let mut watch = self.store.watch_networks(revision + 1).await?;
        loop {
            tokio::select! {
                response = next(&mut watch) => {
                    let response = response?;
                    patience.over();
                    self.apply(&response);
                }
                () = until(self.settled) => {
                    self.list(true).await?;
                }
            }
        }
    }

    /// `gives_up` what is missing still.
    async fn list(&mut self, gives_up: bool) -> Result<i64, EtcdError> {
        let (now, names) = self.store.networks().await?;
        let before = self.heard.replace(now);
        self.compacted = false;
        let mut anew = before.is_some_and(|before| !now.follows(before));
        let missing = self.roll.list(names);
        if !missing.is_empty() {
            name_missing("etcd", &missing);
            self.settled = Some(Instant::now() + RESTORED);
        } else if gives_up {
            self.settled = None;
            anew |= self.roll.give_up();
        }
        self.tell(now.revision, anew);
        Ok(now.revision)
    }

    fn apply(&mut self, response: &WatchResponse) {
        let changes = response.events().iter().filter_map(|event| {
            let key = event.kv()?.key_str().ok()?;
            let name = self.store.parse_network(key)?.to_owned();
            Some((name, event.event_type() == EventType::Put))
        });
        let changes: Vec<_> = changes.collect();
        let Some(heard) = &mut self.heard else {
            return;
        };
        heard.advance(response);
        let revision = heard.revision;
        if changes.is_empty() {
            return;
        }
        for (name, is_there) in changes {
            self.roll.change(name, is_there);
        }
        self.tell(revision, false);
    }

    fn tell(&mut self, revision: i64, anew: bool) {
        (self.tell)(News {
            roll: &self.roll,
            revision,
            anew,
        });
    }
}

impl super::registry::Registry {
    /// The names of the networks, each time that they change, the revision, and whether what was told before has no meaning any
    /// more; never ends.
    pub async fn follow_networks(
        &self,
        mut tell: impl FnMut(i64, BTreeSet<String>, bool) + Send,
    ) -> Infallible {
        let tell = move |news: News<'_>| tell(news.revision, news.roll.names(), news.anew);
        Follower::new(self.store(), tell).run().await
    }
}
