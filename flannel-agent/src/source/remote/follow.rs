//! Following everybody's leases by long polls: all of them first, then what changes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use crate::source::etcd::table::Table;

/// As with etcd: nodes that live take their leases again within seconds, if it was restored from a backup.
const RESTORED: Duration = Duration::from_mins(1);

/// Before a server is asked again that has told all anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps `leases` equal to what other nodes hold.
pub(super) struct Follower<'a> {
    api: &'a Api,
    own: watch::Receiver<OwnLease>,
    known: Leases,
    leases: &'a watch::Sender<Leases>,
    /// What is heard of our own lease.
    seen: &'a watch::Sender<Seen>,
    table: Table,
    /// Counts what is heard, so that of two leases of a subnet the later one counts.
    heard: i64,
    cursor: Option<String>,
    published: bool,
    /// When what a restored etcd lacks is given up.
    settled: Option<Instant>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        api: &'a Api,
        mut own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &'a watch::Sender<Leases>,
        seen: &'a watch::Sender<Seen>,
    ) -> Self {
        let subnet = own.borrow_and_update().subnet;
        Self {
            api,
            own,
            known,
            leases,
            seen,
            table: Table::new(subnet),
            heard: 0,
            cursor: None,
            published: false,
            settled: None,
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
                        () = until(self.settled) => break None,
                        own = owned(&mut self.own) => {
                            let touched = self.table.set_own(own);
                            publish(&self.table, self.leases, touched);
                        }
                    }
                }
            };
            match watched {
                Some(watched) => {
                    patience.over();
                    // Whoever has all anew for each question, a proxy that keeps answers say, would be asked without a pause.
                    let again = self.cursor.is_some() && watched.events.is_empty();
                    self.apply(watched);
                    if again {
                        sleep(AGAIN.mul_f64(rand::random_range(0.9..1.1))).await;
                    }
                }
                None => {
                    // Everything, as it is now; whoever waits for an answer gets none.
                    self.settled = None;
                    self.cursor = None;
                    line = Line::default();
                }
            }
        }
    }

    fn apply(&mut self, watched: Watched) {
        let before = self.cursor.replace(watched.cursor);
        if watched.events.is_empty() {
            self.replace(watched.snapshot, before.as_deref());
            return;
        }
        let mut touched = BTreeSet::new();
        for event in watched.events {
            touched.insert(match event {
                Event::Added(lease) => {
                    self.notice(lease.subnet, || seen(&lease));
                    let entry = self.entry(*lease);
                    self.table.put(entry)
                }
                Event::Removed(subnet) => {
                    self.notice(subnet, || Seen::Missing);
                    self.table.delete(SubnetKey::from(subnet))
                }
            });
        }
        publish(&self.table, self.leases, touched);
    }

    /// All leases; `before`: the cursor that is out of range, if there was one.
    fn replace(&mut self, all: Vec<Lease>, before: Option<&str>) {
        let own = self.own.borrow().subnet;
        let mine = all.iter().find(|lease| lease.subnet == own);
        let mine = mine.map_or(Seen::Missing, seen);
        self.notice(own, || mine);
        let entries: Vec<Entry> = all.into_iter().map(|lease| self.entry(lease)).collect();
        let number = |cursor: &str| cursor.parse::<i64>().ok();
        if self.cursor.as_deref().and_then(number) < before.and_then(number) {
            tracing::warn!(
                "the server knows less than before: was its etcd restored from a backup? leases that are missing count for another \
                 {} s",
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
        tracing::warn!(
            "this node reaches {} subnets of which the server has no lease that can be read: was its etcd wiped or restored from a \
             backup? they count for another {} s",
            missing.len(),
            RESTORED.as_secs()
        );
        self.settled = Some(Instant::now() + RESTORED);
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
        if self.own.borrow().subnet == subnet {
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

/// Brings these subnets up to date for the readers, who are told only of real differences.
fn publish(
    table: &Table,
    leases: &watch::Sender<Leases>,
    touched: impl IntoIterator<Item = Ipv4Net>,
) {
    leases.send_if_modified(|leases| {
        let mut modified = false;
        for subnet in touched {
            let now = table.other(subnet);
            if leases.get(&subnet) == now {
                continue;
            }
            modified = true;
            let leases = Arc::make_mut(leases);
            match now {
                Some(attrs) => leases.insert(subnet, attrs.clone()),
                None => leases.remove(&subnet),
            };
        }
        modified
    });
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
