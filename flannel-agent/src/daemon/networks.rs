//! Several networks in one daemon. Each is an agent of its own, with threads of its own: one that fails, waits or hangs is nothing to
//! the others. What they share is the process: signals, health endpoints, the word to the service manager.

mod datastore;
mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::health::{Board, Health};
use super::serve;
use super::systemd::Systemd;
use crate::dataplane;
use crate::node::mark;
use crate::settings::{Config, Networks};
use crate::source::etcd::EtcdNetworks;
use crate::source::networks::Found;
use crate::source::remembered::names;
use crate::source::remote::RemoteNetworks;
use served::Served;

/// How often the service manager hears who is not ready, at most.
const TELL: Duration = Duration::from_secs(1);
/// The start of one network, which waits two seconds for the one before.
const START: Duration = Duration::from_secs(10);
/// How long the datastore may take to say which networks there are, before those of the last time are served.
const ANSWER: Duration = Duration::from_secs(2);

/// Serves them until cancelled.
///
/// # Errors
/// The health endpoints' port is taken, or nothing can be connected to. What is wrong with a network concerns that network.
pub(super) async fn run(
    config: &Config,
    networks: &Networks,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let board = Board::default();
    let (sender, found) = watch::channel(Found::default());
    let source = match networks.watch {
        true => Some(Source::new(config)?),
        false => None,
    };
    board.is_known(source.is_none());
    if let Some(address) = config.health {
        let health = Health::of_several(address, board.clone()).await?;
        serve(health, cancel.clone());
    }
    let supervisor = Supervisor {
        config,
        networks,
        board,
        claims: Claims::default(),
        served: BTreeMap::new(),
        refused: BTreeSet::new(),
        cancel: &cancel,
    };
    let follow = async {
        match &source {
            Some(source) => source.follow(&sender, &cancel).await,
            None => cancel.cancelled().await,
        }
    };
    tokio::join!(supervisor.run(found), follow);
    Ok(())
}

/// Who says which networks there are.
enum Source {
    Etcd(EtcdNetworks),
    Remote(RemoteNetworks),
}

impl Source {
    fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(match &config.remote {
            Some(remote) => Self::Remote(RemoteNetworks::new(remote)?),
            None => Self::Etcd(EtcdNetworks::new(&config.etcd)?),
        })
    }

    async fn follow(&self, found: &watch::Sender<Found>, cancel: &CancellationToken) {
        match self {
            Self::Etcd(networks) => networks.follow(found, cancel).await,
            Self::Remote(networks) => networks.follow(found, cancel).await,
        }
    }
}

/// Starts and ends them.
struct Supervisor<'a> {
    config: &'a Config,
    networks: &'a Networks,
    board: Board,
    claims: Claims,
    served: BTreeMap<String, Served>,
    /// Those of which it was said that nobody can serve them.
    refused: BTreeSet<String>,
    cancel: &'a CancellationToken,
}

impl Supervisor<'_> {
    async fn run(mut self, mut found: watch::Receiver<Found>) {
        let mut systemd = Systemd::from_env();
        // A network may never start, so nobody waits for one.
        systemd.ready();
        if self.networks.watch {
            // Whatever comes is taken up by the loop below.
            let mut first = found.clone();
            let first = timeout(ANSWER, first.wait_for(|found| found.names.is_some()));
            let answered = self.cancel.run_until_cancelled(first).await;
            if matches!(answered, Some(Err(_))) {
                self.start_remembered(&mut systemd).await;
            }
        } else {
            let names = self.networks.names.clone();
            self.start_all(names, &mut systemd).await;
        }
        let mut told = interval_at(Instant::now() + TELL, TELL);
        told.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = systemd.due() => systemd.alive(),
                _ = told.tick() => systemd.status(self.board.summary()),
                Ok(()) = found.changed() => {
                    let found = found.borrow_and_update().clone();
                    self.follow(found, &mut systemd).await;
                }
            }
        }
        systemd.stopping();
        for (_, served) in self.served {
            served.end().await;
        }
    }

    /// The datastore is silent: what it said the last time.
    async fn start_remembered(&mut self, systemd: &mut Systemd) {
        let Some(file) = self.config.names_file() else {
            return;
        };
        match names::read(&file) {
            Ok(Some(names)) => {
                self.start_all(names, systemd).await;
                self.board.is_known(true);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("the networks of the last time are not known: {error:#}"),
        }
    }

    /// Which there are, the datastore has said.
    async fn follow(&mut self, found: Found, systemd: &mut Systemd) {
        let Some(names) = found.names else {
            return;
        };
        let mut gone = Vec::new();
        for (name, served) in &self.served {
            if !names.contains(name) {
                gone.push(name.clone());
            }
            served.is_wanted(names.contains(name));
        }
        for name in gone.iter().filter(|name| !found.deleted.contains(*name)) {
            tracing::warn!(
                "the datastore has no configuration of {name}, which this node served before: nobody looks after it here, and what forwards \
                 stays; `cleanup --networks={name}` takes it away"
            );
            if let Some(served) = self.served.remove(name) {
                served.end().await;
            }
            self.board.take(name);
        }
        let new = names.iter().filter(|name| !self.served.contains_key(*name));
        let new: Vec<String> = new
            .filter(|name| self.networks.allow(name))
            .cloned()
            .collect();
        self.start_all(new, systemd).await;
        self.board.is_known(true);
        self.remember(names).await;
    }

    async fn remember(&self, names: BTreeSet<String>) {
        let Some(file) = self.config.names_file() else {
            return;
        };
        let names = names
            .into_iter()
            .filter(|name| self.served.contains_key(name))
            .collect();
        let written = tokio::task::spawn_blocking(move || names::write(&file, &names));
        if let Ok(Err(error)) = written.await {
            tracing::warn!("{error:#}: a boot while etcd is away would not know the networks");
        }
    }

    /// One after the other, and whatever this node forwards for before what it does not: of two that cannot be served side by side,
    /// the first to read its configuration is.
    async fn start_all(&mut self, names: impl IntoIterator<Item = String>, systemd: &mut Systemd) {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_by_key(|name| !dataplane::has_pins(&self.config.bpffs, &self.pinned_name(name)));
        for name in names {
            if self.cancel.is_cancelled() {
                return;
            }
            if let Err(why) = systemd.meanwhile(START, Box::pin(self.start(&name))).await
                && self.refused.insert(name.clone())
            {
                tracing::error!("the network {name} is not served: {why}");
            }
        }
    }

    async fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let config = self.config.of_network(self.networks, name)?;
        let pinned = self.pinned_name(name);
        let mut others = self.served.keys();
        if let Some(other) = others.find(|other| self.pinned_name(other) == pinned) {
            bail!("{other} and {name} are one name to the bpf file system");
        }
        let cancel = self.cancel.child_token();
        let served = Served::start(name, config, &self.board, &self.claims, cancel);
        self.cancel.run_until_cancelled(served.has_settled()).await;
        self.served.insert(name.to_owned(), served);
        Ok(())
    }

    /// See [`mark::network_name`].
    fn pinned_name(&self, name: &str) -> String {
        mark::network_name(&format!("{}/{name}", self.config.etcd.prefix))
    }
}
