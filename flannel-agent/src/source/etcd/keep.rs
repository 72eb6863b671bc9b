//! Keeping this node's lease: look what is in etcd, set it right, watch, and look again.
//!
//! Everything that can happen (time to renew, new attributes, a deletion, an expiry, somebody
//! else's write, a lost connection) leads to the same [`Keeper::settle`], so no event can be missed
//! and none has to be told from another.

use std::time::{Duration, Instant};

use etcd_client::Event;
use tokio::sync::watch;

use super::acquire::{acquire, create, renew};
use super::error::EtcdError;
use super::follow::next;
use super::patience::Patience;
use super::session::Watch;
use super::store::{Entry, Grant, Hold, Store};
use super::told::until;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{self, LeaseAttrs, OwnLease, SubnetKey};
use crate::source::LeaseRequest;

/// Between tries when etcd refuses, as flannel does; and the least time between two corrections of
/// what somebody else writes to our key.
const RETRY: Duration = Duration::from_secs(60);

/// Two looks at one etcd lease give times of expiry that differ by rounding only.
const SAME_EXPIRY: Duration = Duration::from_secs(2);

/// Keeps the lease in `own` equal to what we want it to be.
pub(super) struct Keeper<'a> {
    store: &'a Store,
    renew_margin: Duration,
    config: &'a NetworkConfig,
    own: &'a watch::Sender<OwnLease>,
    attrs: watch::Receiver<LeaseAttrs>,
    /// Our key as we last wrote or accepted it.
    known: Option<Known>,
    /// When we last overwrote what somebody else had written to our key.
    corrected: Option<Instant>,
    /// Our key is not as wanted, but it is too early to overwrite it again.
    postponed: bool,
}

/// A state of our key that is as it should be.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When the key came into being; a write to a key that is there leaves it.
    created: i64,
    mod_revision: i64,
    hold: Hold,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        store: &'a Store,
        renew_margin: Duration,
        config: &'a NetworkConfig,
        own: &'a watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
    ) -> Self {
        Self {
            store,
            renew_margin: lease::usable_margin(renew_margin),
            config,
            own,
            attrs,
            known: None,
            corrected: None,
            postponed: false,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing();
        loop {
            let error = match self.settle().await {
                Ok(revision) => match self.wait(revision, &mut patience).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let wait = patience.lost("keeping our lease", &error);
            match error {
                EtcdError::Unreachable { .. }
                | EtcdError::WatchEnded { .. }
                | EtcdError::Compacted(_) => wait.await,
                // etcd is there and says no: that takes an operator, not haste.
                _ => tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.9..1.1))).await,
            }
        }
    }

    fn key(&self) -> SubnetKey {
        self.own.borrow().subnet.into()
    }

    /// Makes our key what it should be. Gives the revision from which on to watch it.
    async fn settle(&mut self) -> Result<i64, EtcdError> {
        loop {
            let wanted = self.attrs.borrow_and_update().clone();
            let key = self.key();
            let (revision, entry) = self.store.get(key).await?;
            let settled = match entry {
                None => self.restore(key, &wanted).await?,
                Some(entry) if self.is_overwritten(&entry, &wanted) => {
                    self.reclaim(&entry, &wanted).await?
                }
                Some(entry) if self.is_ours(&entry, &wanted) => self.tend(&entry, &wanted).await?,
                Some(entry) => {
                    self.move_away(&entry, &wanted).await?;
                    false
                }
            };
            if settled {
                return Ok(revision);
            }
        }
    }

    /// Also when the value cannot be read: then it names nobody else.
    fn is_ours(&self, entry: &Entry, wanted: &LeaseAttrs) -> bool {
        let untouched = self
            .known
            .is_some_and(|known| known.mod_revision == entry.mod_revision);
        untouched || !self.names_another(entry, wanted)
    }

    fn names_another(&self, entry: &Entry, wanted: &LeaseAttrs) -> bool {
        let published = self.own.borrow().attrs.public_ip;
        entry
            .attrs
            .as_ref()
            .is_ok_and(|attrs| ![wanted.public_ip, published].contains(&attrs.public_ip))
    }

    /// Whether somebody wrote another address into our key. No node takes a subnet that way: it creates the key, which the
    /// one before must have lost. A reservation is the admin's, who gives it to whom he likes.
    fn is_overwritten(&self, entry: &Entry, wanted: &LeaseAttrs) -> bool {
        let was_ours = self
            .known
            .is_some_and(|known| known.created == entry.created && known.hold != Hold::Forever);
        was_ours && self.names_another(entry, wanted)
    }

    /// Our key is gone: takes the same subnet again.
    async fn restore(&mut self, key: SubnetKey, wanted: &LeaseAttrs) -> Result<bool, EtcdError> {
        tracing::warn!(lease = %key, "our lease was deleted or has expired: taking the same subnet again");
        let written = create(self.store, key, wanted).await?;
        let created = written.map_or(0, |(_, revision)| revision);
        Ok(self.accept(wanted, created, written))
    }

    /// Our key names another node that has not taken it: writes it anew, for as long as it was ours.
    async fn reclaim(&mut self, entry: &Entry, wanted: &LeaseAttrs) -> Result<bool, EtcdError> {
        let (key, revision) = (entry.key, entry.mod_revision);
        if !self.may_correct(entry) {
            self.postponed = true;
            return Ok(true);
        }
        // What the key hangs on now is the writer's, if anything.
        let written = renew(self.store, key, revision, wanted).await?;
        self.note_correction(written);
        Ok(self.accept(wanted, entry.created, written))
    }

    /// Our key is there: accepts it, corrects it or renews it.
    async fn tend(&mut self, entry: &Entry, wanted: &LeaseAttrs) -> Result<bool, EtcdError> {
        let untouched = self
            .known
            .filter(|known| known.mod_revision == entry.mod_revision);
        let hold = match (untouched, entry.etcd_lease) {
            (Some(known), _) => known.hold,
            (None, None) => Hold::Forever,
            (None, Some(id)) => match self.store.look_up(id).await? {
                Some(grant) => Hold::Until(grant),
                // About to expire, and the key with it.
                None => Hold::Until(Grant {
                    id,
                    until: Instant::now(),
                }),
            },
        };
        let (key, revision) = (entry.key, entry.mod_revision);
        if self.renew_at(hold).is_some_and(|at| at <= Instant::now()) {
            let renewed = renew(self.store, key, revision, wanted).await?;
            return Ok(self.accept(wanted, entry.created, renewed));
        }
        if entry.attrs.as_ref().is_ok_and(|attrs| attrs == wanted) {
            return Ok(self.accept(wanted, entry.created, Some((hold, revision))));
        }
        let corrects = untouched.is_none() && self.known.is_some();
        if corrects && !self.may_correct(entry) {
            self.postponed = true;
            self.known = Some(Known {
                created: entry.created,
                mod_revision: revision,
                hold,
            });
            return Ok(true);
        }
        let written = self.store.replace(key, revision, wanted, hold).await?;
        let written = written.map(|revision| (hold, revision));
        if corrects {
            self.note_correction(written);
        }
        Ok(self.accept(wanted, entry.created, written))
    }

    /// What was not written is tried again without a pause of ours.
    fn note_correction(&mut self, written: Option<(Hold, i64)>) {
        if written.is_some() {
            self.corrected = Some(Instant::now());
        }
    }

    /// Somebody else overwrote our key.
    fn may_correct(&self, entry: &Entry) -> bool {
        let now = Instant::now();
        let holder = entry.attrs.as_ref().map(|attrs| attrs.public_ip).ok();
        let often = self
            .corrected
            .is_some_and(|last| now.duration_since(last) < RETRY);
        if often {
            tracing::error!(
                lease = %entry.key,
                ?holder,
                "somebody else keeps writing our lease: does another node use our PublicIP, or does a second agent run here?"
            );
        } else {
            tracing::warn!(lease = %entry.key, ?holder, "somebody else wrote our lease: correcting it");
        }
        !often
    }

    /// Another node holds our subnet: takes a different one.
    async fn move_away(&mut self, entry: &Entry, wanted: &LeaseAttrs) -> Result<(), EtcdError> {
        let holder = entry.attrs.as_ref().map(|attrs| attrs.public_ip).ok();
        tracing::error!(
            lease = %entry.key,
            ?holder,
            "another node holds our subnet now: taking a different one; running pods must be recreated"
        );
        let request = LeaseRequest {
            attrs: wanted.clone(),
            previous: None,
        };
        let own = acquire(self.store, self.config, &request).await?;
        self.known = None;
        self.own.send_replace(own);
        Ok(())
    }

    /// Remembers and publishes what was written. `None`: somebody was quicker, look again.
    fn accept(&mut self, attrs: &LeaseAttrs, created: i64, written: Option<(Hold, i64)>) -> bool {
        let Some((hold, mod_revision)) = written else {
            return false;
        };
        self.known = Some(Known {
            created,
            mod_revision,
            hold,
        });
        self.postponed = false;
        let expires = hold.expires();
        self.own.send_if_modified(|own| {
            let modified = own.attrs != *attrs || !same_expiry(own.expires, expires);
            if modified {
                own.attrs = attrs.clone();
                own.expires = expires;
            }
            modified
        });
        true
    }

    /// When a key that hangs on `hold` is to be written anew.
    fn renew_at(&self, hold: Hold) -> Option<Instant> {
        match hold {
            // An early renewal does no harm; an Instant before the machine's start does not exist.
            Hold::Until(grant) => Some(
                grant
                    .until
                    .checked_sub(self.renew_margin)
                    .unwrap_or_else(Instant::now),
            ),
            Hold::Forever => None,
        }
    }

    /// Waits until there is a reason to look again.
    async fn wait(&mut self, revision: i64, patience: &mut Patience) -> Result<(), EtcdError> {
        let mut watch = self.store.watch_lease(self.key(), revision + 1).await?;
        let known = self.known.map_or(0, |known| known.mod_revision);
        let renew = self.known.and_then(|known| self.renew_at(known.hold));
        // What is postponed waits for its own time, not for that of a renewal that would be postponed again.
        let renew = renew.filter(|_| !self.postponed);
        let correct = self
            .corrected
            .filter(|_| self.postponed)
            .map(|at| at + RETRY);
        tokio::select! {
            touched = touched(&mut watch, known, patience) => touched,
            Ok(()) = self.attrs.changed() => Ok(()),
            () = until(renew) => Ok(()),
            () = until(correct) => Ok(()),
        }
    }
}

/// Ends when somebody wrote or deleted the key after `known`. The first response says that the watch works: an etcd may be read
/// whose watches nobody gets.
async fn touched(watch: &mut Watch, known: i64, patience: &mut Patience) -> Result<(), EtcdError> {
    loop {
        let response = next(watch).await?;
        patience.over();
        let mut writes = response.events().iter().filter_map(Event::kv);
        if writes.any(|kv| kv.mod_revision() > known) {
            return Ok(());
        }
    }
}

fn same_expiry(a: Option<Instant>, b: Option<Instant>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            let apart = a.saturating_duration_since(b) + b.saturating_duration_since(a);
            apart <= SAME_EXPIRY
        }
        (a, b) => a == b,
    }
}
