//! Following everybody's leases by long polls: all of them first, then what changes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Seen;
use super::api::Api;
use super::client::Line;
use super::error::RemoteError;
use crate::flannel::lease::{Leases, OwnLease, SubnetKey};
use crate::flannel::remote::{Event, Lease, Watched};
use crate::source::etcd::patience::Patience;
use crate::source::etcd::store::Entry;
use crate::source::etcd::told::{Due, Told};

/// Before a server is asked again that has told all anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps `leases` equal to what other nodes hold.
pub(super) struct Follower<'a> {
    api: &'a Api,
    told: Told<'a>,
    /// What is heard of our own lease.
    seen: &'a watch::Sender<Seen>,
    /// Counts what is heard, so that of two leases of a subnet the later one counts.
    heard: i64,
    cursor: Option<String>,
    /// The etcd behind the server, if that says it.
    cluster: Option<String>,
    /// Our own lease was not among all leases. A server that has just given it may not have heard of it yet: it is asked once more.
    doubts: bool,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        api: &'a Api,
        own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &'a watch::Sender<Leases>,
        seen: &'a watch::Sender<Seen>,
    ) -> Self {
        Self {
            api,
            told: Told::new("the server's etcd", own, known, leases),
            seen,
            heard: 0,
            cursor: None,
            cluster: None,
            doubts: false,
        }
    }

    /// Never returns; drop it to end it.
    pub(super) async fn run(mut self) {
        let mut patience = Patience::growing_with("the server");
        loop {
            let Err(error) = self.follow(&mut patience).await;
            crate::base::counters::datastore_troubled();
            patience.lost("following leases", &error).await;
        }
    }

    /// Follows until something breaks. What is known stays known.
    async fn follow(&mut self, patience: &mut Patience) -> Result<Infallible, RemoteError> {
        let mut line = Line::default();
        loop {
            let watched = {
                let cursor = self.cursor.clone();
                let poll = self.api.poll(cursor.as_deref(), &mut line);
                tokio::pin!(poll);
                loop {
                    tokio::select! {
                        watched = &mut poll => break Some(watched?),
                        due = self.told.due() => match due {
                            Due::List => break None,
                            Due::Own(own) => self.told.take_own(own),
                        }
                    }
                }
            };
            match watched {
                Some((watched, cluster)) => {
                    patience.over();
                    // Whoever has all anew for each question, a proxy that keeps answers say, would be asked without a pause.
                    let again = self.cursor.is_some() && watched.of_all;
                    self.apply(watched, cluster);
                    if self.doubts {
                        self.cursor = None;
                    }
                    let again = again || self.doubts;
                    if again {
                        sleep(AGAIN.mul_f64(rand::random_range(0.9..1.1))).await;
                    }
                }
                None => {
                    // Everything, as it is now; whoever waits for an answer gets none.
                    self.told.settle();
                    self.cursor = None;
                    line = Line::default();
                }
            }
        }
    }

    fn apply(&mut self, watched: Watched, cluster: Option<String>) {
        let before = self.cursor.replace(watched.cursor);
        let doubted = std::mem::take(&mut self.doubts);
        let is_another = cluster.is_some() && self.cluster.is_some() && cluster != self.cluster;
        self.cluster = cluster.or_else(|| self.cluster.take());
        if watched.of_all {
            let number = |cursor: &str| cursor.parse::<i64>().ok();
            let counts_less =
                self.cursor.as_deref().and_then(number) < before.as_deref().and_then(number);
            self.doubts = before.is_none() && !doubted && !self.has_own(&watched.snapshot);
            self.replace(watched.snapshot, is_another || counts_less);
            return;
        }
        let mut touched = BTreeSet::new();
        for event in watched.events {
            touched.insert(match event {
                Event::Added(lease) => {
                    self.notice(lease.subnet, || seen(&lease));
                    let entry = self.entry(*lease);
                    self.told.table.put(entry)
                }
                Event::Removed(subnet) => {
                    self.notice(subnet, || Seen::Missing);
                    self.told.table.delete(SubnetKey::from(subnet))
                }
            });
        }
        self.told.publish(touched);
    }

    /// All leases; `is_restored`: of an etcd that is not what it was.
    fn replace(&mut self, all: Vec<Lease>, is_restored: bool) {
        let own = self.told.own();
        let mine = all.iter().find(|lease| lease.subnet == own);
        let mine = mine.map_or(Seen::Missing, seen);
        if !self.doubts {
            self.notice(own, || mine);
        }
        let entries = all.into_iter().map(|lease| self.entry(lease)).collect();
        self.told.list(entries, is_restored);
    }

    fn has_own(&self, all: &[Lease]) -> bool {
        all.iter().any(|lease| lease.subnet == self.told.own())
    }

    fn entry(&mut self, lease: Lease) -> Entry {
        self.heard += 1;
        Entry {
            key: SubnetKey::from(lease.subnet),
            attrs: lease.attrs,
            created: self.heard,
            mod_revision: self.heard,
            etcd_lease: None,
        }
    }

    fn notice(&self, subnet: Ipv4Net, seen: impl FnOnce() -> Seen) {
        if self.told.own() == subnet {
            self.seen.send_replace(seen());
        }
    }
}

fn seen(lease: &Lease) -> Seen {
    match &lease.attrs {
        Ok(attrs) => Seen::Held(Box::new(attrs.clone())),
        Err(_) => Seen::Unreadable,
    }
}
