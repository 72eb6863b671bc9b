//! What the datastore last said, kept in a file: a node that boots while the datastore is away forwards by it.
//!
//! The file counts only at a start, and only when nobody answers: whatever the datastore says is newer. From then on the real
//! source is asked in the background, and takes over without a gap when it answers.

mod file;
mod look;
pub mod names;
mod writer;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::place::Place;
use super::{Cancelled, LeaseRequest, LeaseSource};
use crate::base::wall::Moment;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use file::Snapshot;
use writer::Writer;

pub use file::Standing;
pub use look::{Memory, look};

/// How long a start asks before it believes that nobody answers.
const PATIENCE: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The file is written no more often than this: leases of a large cluster change all the time.
const WRITE_PAUSE: Duration = Duration::from_secs(10);

/// A node without a clock of its own gets the time from the network, after its start, and nothing tells of it.
const CLOCK_CHECK: Duration = Duration::from_secs(20);

/// A source with a memory.
#[derive(Debug)]
pub struct Remembered<S> {
    source: S,
    /// `None`: nowhere.
    file: Option<PathBuf>,
    /// `None` in it: the datastore answered at the start.
    start: OnceLock<Option<Snapshot>>,
    config: Mutex<Option<NetworkConfig>>,
    public_ip: Mutex<Option<Ipv4Addr>>,
    /// The real source has our lease.
    taken_over: watch::Sender<bool>,
    /// When the file was written that our lease rests on.
    rests_on: watch::Sender<Option<Moment>>,
}

impl<S: LeaseSource> Remembered<S> {
    /// `file` need not be there.
    pub fn new(source: S, file: Option<PathBuf>) -> Self {
        Self {
            source,
            file,
            start: OnceLock::new(),
            config: Mutex::default(),
            public_ip: Mutex::default(),
            taken_over: watch::Sender::new(false),
            rests_on: watch::Sender::default(),
        }
    }

    /// What the start goes by, if that is the file.
    fn snapshot(&self) -> Option<&Snapshot> {
        self.start.get().and_then(Option::as_ref)
    }

    /// Decides what the start goes by.
    async fn decide(&self, cancel: &CancellationToken) -> Result<Option<Snapshot>, Cancelled> {
        // Without a file there is no reason to ask.
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let Some(snapshot) = file::load(file) else {
            return Ok(None);
        };
        let answered = tokio::time::timeout(PATIENCE, async {
            while self.source.is_silent().await {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        });
        let answered = cancel.run_until_cancelled(answered).await;
        if answered.ok_or(Cancelled)?.is_ok() {
            return Ok(None);
        }
        let shown = file.display();
        let subnet = snapshot.own.subnet;
        let here = self.source.place();
        if snapshot.standing(&here) == Standing::Unknown {
            tracing::warn!(
                "the datastore does not answer, and {shown} was written later than now, at {}, by this node's clock: its \
                 lease of {subnet} may have ended; waiting for the datastore, or for the clock to be set",
                snapshot.moment()
            );
        }
        // A node without a clock of its own gets the time from the network, after a while.
        while snapshot.standing(&here) == Standing::Unknown {
            let silent = async {
                tokio::time::sleep(ASK_AGAIN).await;
                self.source.is_silent().await
            };
            let silent = cancel.run_until_cancelled(silent).await;
            if !silent.ok_or(Cancelled)? {
                return Ok(None);
            }
        }
        let why = match snapshot.standing(&here) {
            Standing::Holds => None,
            Standing::Ended | Standing::Unknown => Some(format!(
                "by {shown} this node's lease of {subnet} has ended"
            )),
            Standing::Old => Some(format!(
                "the datastore has not confirmed {shown} since {}, for more than a day",
                snapshot.moment()
            )),
            Standing::Elsewhere(what) => Some(format!("{shown} is {what}")),
        };
        if let Some(why) = why {
            tracing::warn!(
                "the datastore does not answer, and {why}: another node may have the subnet; waiting for the datastore"
            );
            return Ok(None);
        }
        tracing::warn!(
            "the datastore does not answer: starting with what {shown} says of {}: the subnet {} and {} peers",
            snapshot.moment(),
            subnet,
            snapshot.leases.len()
        );
        self.rests_on.send_replace(Some(snapshot.moment()));
        Ok(Some(snapshot))
    }

    /// Writes the file whenever what it is about changes; never ends.
    async fn record(
        &self,
        mut own: watch::Receiver<OwnLease>,
        mut leases: watch::Receiver<Leases>,
    ) {
        let Some(file) = &self.file else {
            return std::future::pending().await;
        };
        let mut writer = Writer::new(file.clone());
        // Before its first change the channel says nothing.
        let mut changed = leases.changed().await;
        while changed.is_ok() {
            let snapshot = Snapshot::now(
                unpoisoned(&self.config).clone(),
                *unpoisoned(&self.public_ip),
                own.borrow_and_update().clone(),
                leases.borrow_and_update().clone(),
            );
            if let Some(mut snapshot) = snapshot {
                snapshot.place = self.source.place();
                // When it was written says when the datastore was heard: what was read from the file is not written there again.
                let is_heard = self.rests_on.borrow().is_none();
                if is_heard && writer.lacks(&snapshot)
                    || (writer.is_stale(&snapshot) && !self.source.is_silent().await)
                {
                    writer.write(snapshot).await;
                }
            }
            tokio::time::sleep(WRITE_PAUSE).await;
            changed = tokio::select! {
                changed = own.changed() => changed,
                changed = leases.changed() => changed,
                // The clock may have been set.
                () = tokio::time::sleep(CLOCK_CHECK) => Ok(()),
            };
        }
        std::future::pending::<()>().await;
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: LeaseSource> LeaseSource for Remembered<S> {
    async fn is_silent(&self) -> bool {
        self.source.is_silent().await
    }

    async fn answers(&self, cancel: &CancellationToken) -> anyhow::Result<()> {
        self.source.answers(cancel).await
    }

    fn place(&self) -> Place {
        self.source.place()
    }

    fn rests_on(&self) -> watch::Receiver<Option<Moment>> {
        self.rests_on.subscribe()
    }

    async fn network_config(&self, cancel: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        let start = match self.start.get() {
            Some(start) => start,
            None => {
                let start = self.decide(cancel).await?;
                self.start.get_or_init(|| start)
            }
        };
        let config = match start {
            Some(snapshot) => snapshot.config.clone(),
            None => self.source.network_config(cancel).await?,
        };
        *unpoisoned(&self.config) = Some(config.clone());
        Ok(config)
    }

    fn reconnect(&self) {
        self.source.reconnect();
    }

    async fn leases(&self, cancel: &CancellationToken) -> anyhow::Result<Leases> {
        let Some(snapshot) = self.snapshot() else {
            return self.source.leases(cancel).await;
        };
        let mut leases = snapshot.leases.as_ref().clone();
        leases.insert(snapshot.own.subnet, snapshot.own.attrs.clone());
        Ok(leases.into())
    }

    async fn node_public_ip(&self, cancel: &CancellationToken) -> anyhow::Result<Option<Ipv4Addr>> {
        let public_ip = match self.snapshot() {
            Some(snapshot) => snapshot.public_ip,
            None => self.source.node_public_ip(cancel).await?,
        };
        *unpoisoned(&self.public_ip) = public_ip;
        Ok(public_ip)
    }

    fn forwards(&self) {
        self.source.forwards();
    }

    async fn previous_lease(
        &self,
        public_ip: Ipv4Addr,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<OwnLease>> {
        let Some(snapshot) = self.snapshot() else {
            return self.source.previous_lease(public_ip, cancel).await;
        };
        let own = snapshot.own.clone();
        Ok((own.attrs.public_ip == public_ip).then(|| own.into()))
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        request: &LeaseRequest,
        cancel: &CancellationToken,
    ) -> anyhow::Result<OwnLease> {
        let Some(snapshot) = self.snapshot() else {
            self.taken_over.send_replace(true);
            return self.source.acquire(config, request, cancel).await;
        };
        Ok(OwnLease {
            attrs: request.attrs.clone(),
            ..snapshot.own.clone().into()
        })
    }

    async fn keep(
        &self,
        config: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        if self.snapshot().is_some() {
            // Or a changed file would end a start by the old one again and again, for as long as nobody answers.
            self.source.answers(cancel).await?;
            let real = self.source.network_config(cancel).await?;
            ensure!(
                real == *config,
                "the network's configuration has changed while the datastore was away: starting anew with it"
            );
            let request = LeaseRequest {
                attrs: attrs.borrow().clone(),
                previous: Some(own.borrow().subnet),
            };
            let lease = self.source.acquire(config, &request, cancel).await?;
            tracing::info!(
                "the datastore answers, and this node has the lease of {}",
                lease.subnet
            );
            // Whoever hears of the lease asks what it rests on.
            self.rests_on.send_replace(None);
            own.send_replace(lease);
            self.taken_over.send_replace(true);
        }
        self.source.keep(config, own, attrs, cancel).await
    }

    async fn follow(
        &self,
        own: watch::Receiver<OwnLease>,
        mut known: Leases,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        if let Some(snapshot) = self.snapshot() {
            leases.send_replace(snapshot.leases.clone());
            let mut taken_over = self.taken_over.subscribe();
            let waited = taken_over.wait_for(|taken_over| *taken_over);
            if !matches!(cancel.run_until_cancelled(waited).await, Some(Ok(_))) {
                return Ok(());
            }
            // What it reached before, and what it reaches by the file.
            let mut both = snapshot.leases.as_ref().clone();
            both.extend(known.iter().map(|(subnet, attrs)| (*subnet, attrs.clone())));
            known = both.into();
        }
        tokio::select! {
            ended = self.source.follow(own.clone(), known, leases, cancel) => ended,
            () = self.record(own, leases.subscribe()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
