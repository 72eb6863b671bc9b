//! Following all Nodes: one list, streamed where the server does that, then the watch from there on, and again when it breaks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::time::timeout;

use super::api::{Api, Event};
use super::client::Events;
use super::error::KubeError;
use super::node::Node;
use super::table::{Own, Scope, Table};
use crate::flannel::lease::{Leases, OwnLease};
use crate::source::etcd::patience::Patience;

/// A server that knows no streamed lists may take the question for a plain watch, which has no end of the list: it pauses.
const PAUSE: Duration = Duration::from_secs(5);
/// A watch that ends in order sooner than this does not begin again at once.
const SHORT: Duration = Duration::from_secs(1);

/// Over so long the lists of all nodes spread when they are due at once.
const HERD: Duration = Duration::from_secs(3);

/// The same if that happens again and again.
const LONGEST_HERD: Duration = Duration::from_secs(60);

/// What is known of our own Node; `None` until it was seen, and while it is gone.
pub(super) type OwnNode = Option<Node>;

/// Keeps `leases` equal to what the other Nodes say.
pub(super) struct Follower<'a> {
    api: &'a Api,
    name: String,
    own: watch::Receiver<OwnLease>,
    own_node: &'a watch::Sender<OwnNode>,
    leases: &'a watch::Sender<Leases>,
    table: Table,
    /// All up to here is in the table; `None` until the first list and when history is gone.
    version: Option<String>,
    published: bool,
    /// So many events came behind lists.
    events: u64,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        api: &'a Api,
        name: String,
        scope: Scope,
        mut own: watch::Receiver<OwnLease>,
        own_node: &'a watch::Sender<OwnNode>,
        leases: &'a watch::Sender<Leases>,
    ) -> Self {
        let ours = part(&own.borrow_and_update());
        Self {
            api,
            own,
            own_node,
            leases,
            table: Table::new(name.clone(), ours, scope),
            name,
            version: None,
            published: false,
            events: 0,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing_with("the API server");
        let mut herd = HERD;
        loop {
            let begun = tokio::time::Instant::now();
            let before = self.events;
            let followed = self.follow(&mut patience).await;
            if self.events != before {
                herd = HERD;
            }
            match followed {
                Ok(()) => tokio::time::sleep_until(begun + SHORT).await,
                Err(KubeError::Gone(why)) => {
                    tracing::info!("listing all Nodes anew: {why}");
                    self.version = None;
                    // After a restart of the API server that is everybody at once.
                    let wait = rand::random_range(herd - HERD..herd);
                    // An API server that forgets all at once is not helped by more lists.
                    herd = (herd * 2).min(LONGEST_HERD);
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    crate::base::counters::datastore_troubled();
                    patience.lost("following Nodes", &error).await;
                }
            }
        }
    }

    /// Follows until something breaks, or the server ends the watch in order. What is known stays known.
    async fn follow(&mut self, patience: &mut Patience) -> Result<(), KubeError> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => match self.stream(patience).await {
                Err(KubeError::NoStream(why)) => {
                    tracing::debug!("asking for pages: {why}");
                    self.list().await?
                }
                streamed => return streamed,
            },
        };
        let events = self.api.watch(Some(&version)).await?;
        self.apply_all(events, patience).await
    }

    /// The list as a watch, which goes on behind it.
    async fn stream(&mut self, patience: &mut Patience) -> Result<(), KubeError> {
        let no_stream = |why: &str| KubeError::NoStream(why.to_owned());
        let mut events = self.api.watch(None).await?;
        let mut present = BTreeSet::new();
        let version = loop {
            let line = timeout(PAUSE, events.next()).await;
            let line = line.map_err(|_| no_stream("it has no end"))?;
            let line = match line {
                Ok(line) => line.ok_or_else(|| no_stream("it ended"))?,
                Err(error) => return Err(error),
            };
            match self.api.event(line) {
                // Of an etcd that reports no progress.
                Err(KubeError::WatchEnded(why)) => return Err(KubeError::NoStream(why)),
                Err(error) => return Err(error),
                Ok(Event::Put(node)) => {
                    present.insert(node.name.clone());
                    self.put(*node);
                }
                Ok(Event::Deleted(node)) => {
                    present.remove(&node.name);
                    self.delete(&node.name);
                }
                Ok(Event::Bookmark(_, false)) => {}
                Ok(Event::Bookmark(version, true)) => break version,
            }
        };
        self.listed(&present, version);
        patience.over();
        self.apply_all(events, patience).await
    }

    /// Page by page.
    async fn list(&mut self) -> Result<String, KubeError> {
        let mut present = BTreeSet::new();
        let mut from = None;
        loop {
            let page = self.api.page(from.as_deref()).await?;
            for node in page.nodes {
                present.insert(node.name.clone());
                self.put(node);
            }
            from = page.next;
            if from.is_none() {
                self.listed(&present, page.version.clone());
                return Ok(page.version);
            }
        }
    }

    fn listed(&mut self, present: &BTreeSet<String>, version: String) {
        self.version = Some(version);
        if !present.contains(&self.name) {
            self.take_own(None);
        }
        let gone = self.table.retain(present);
        if std::mem::replace(&mut self.published, true) {
            self.publish(gone);
            return;
        }
        self.leases.send_replace(Arc::new(self.table.others()));
    }

    async fn apply_all(
        &mut self,
        mut events: Events,
        patience: &mut Patience,
    ) -> Result<(), KubeError> {
        loop {
            tokio::select! {
                line = events.next() => {
                    let Some(line) = line? else {
                        return Ok(());
                    };
                    let event = self.api.event(line)?;
                    patience.over();
                    self.events += 1;
                    self.apply(event);
                }
                own = owned(&mut self.own) => {
                    let touched = self.table.set_own(own);
                    self.publish(touched);
                }
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Put(node) => {
                self.version = Some(node.version.clone());
                self.put(*node);
            }
            Event::Deleted(node) => {
                self.version = Some(node.version.clone());
                self.delete(&node.name);
            }
            Event::Bookmark(version, _) => self.version = Some(version),
        }
    }

    fn put(&mut self, node: Node) {
        let touched = self.table.put(&node);
        if node.name == self.name {
            self.take_own(Some(node));
        }
        self.publish(touched);
    }

    fn delete(&mut self, name: &str) {
        let touched = self.table.delete(name);
        if name == self.name {
            self.take_own(None);
        }
        self.publish(touched);
    }

    fn take_own(&self, node: OwnNode) {
        self.own_node.send_if_modified(|known| {
            let differs = match (&*known, &node) {
                // Heartbeats change the version alone.
                (Some(known), Some(node)) => {
                    (&known.uid, &known.pod_cidrs, &known.annotations)
                        != (&node.uid, &node.pod_cidrs, &node.annotations)
                        || known.network_up != node.network_up
                }
                (known, node) => known.is_some() != node.is_some(),
            };
            *known = node;
            differs
        });
    }

    /// Brings these subnets up to date for the readers, who are told only of real differences.
    fn publish(&self, touched: impl IntoIterator<Item = Ipv4Net>) {
        if !self.published {
            return;
        }
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

fn part(own: &OwnLease) -> Own {
    Own {
        subnet: own.subnet,
        public_ip: own.attrs.public_ip,
    }
}

/// Our part, once our lease is published anew.
async fn owned(own: &mut watch::Receiver<OwnLease>) -> Own {
    match own.changed().await {
        Ok(()) => part(&own.borrow_and_update()),
        // Nobody will publish again; what we know stays right.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
