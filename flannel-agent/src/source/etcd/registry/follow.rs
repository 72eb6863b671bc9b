//! One watch of a network's leases, told as news.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Instant;

use etcd_client::{Event, EventType, WatchResponse};
use futures_util::StreamExt as _;
use ipnet::Ipv4Net;

use super::Registry;
use crate::flannel::lease::{self, LeaseAttrs, SubnetKey};
use crate::source::etcd::error::EtcdError;
use crate::source::etcd::follow::next;
use crate::source::etcd::patience::Patience;
use crate::source::etcd::store::{self, Position};
use crate::source::etcd::table::Table;

/// So many etcd leases are asked at a time when they end.
const LOOK_UPS: usize = 32;

/// A lease of which a server may tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub attrs: LeaseAttrs,
    /// `None`: a reservation.
    pub expires: Option<Instant>,
}

/// What is heard of etcd, in order of its revisions.
#[derive(Debug)]
pub enum News {
    /// All leases of the etcd with this id. `anew`: it is not the one of before, so that what was told has no meaning any more.
    All {
        cluster: u64,
        revision: i64,
        leases: BTreeMap<Ipv4Net, Held>,
        anew: bool,
    },
    /// These subnets' leases, and nothing else, have changed.
    Some {
        revision: i64,
        leases: Vec<(Ipv4Net, Option<Held>)>,
    },
}

impl Registry {
    /// Follows the leases and tells of them; never ends.
    pub async fn follow(&self, mut tell: impl FnMut(News) + Send) -> Infallible {
        let mut follower = Follower {
            registry: self,
            // Nobody's: a server has no lease.
            table: Table::new(Ipv4Net::default()),
            ends: BTreeMap::new(),
            heard: None,
            compacted: false,
        };
        let mut patience = Patience::growing();
        loop {
            let Err(error) = follower.run(&mut tell, &mut patience).await;
            if let EtcdError::Compacted(_) = error {
                follower.compacted = true;
            }
            crate::base::counters::datastore_troubled();
            patience.lost("following leases", &error).await;
        }
    }
}

struct Follower<'a> {
    registry: &'a Registry,
    table: Table,
    /// When each etcd lease ends, as far as it is known.
    ends: BTreeMap<i64, Instant>,
    heard: Option<Position>,
    /// What came behind that is in no watch any more.
    compacted: bool,
}

impl Follower<'_> {
    async fn run(
        &mut self,
        tell: &mut (impl FnMut(News) + Send),
        patience: &mut Patience,
    ) -> Result<Infallible, EtcdError> {
        let store = &self.registry.store;
        let revision = match self.heard.filter(|_| !self.compacted) {
            // An etcd restored from a backup would stay silent until it has counted up to ours.
            Some(heard) if store.position().await?.follows(heard) => heard.revision,
            _ => {
                let listing = store.list().await?;
                for error in &listing.foreign {
                    self.table.blame(&error.key, false, error);
                }
                self.table.replace(listing.entries);
                self.look_up().await;
                let now = listing.position;
                let before = self.heard.replace(now);
                self.compacted = false;
                let subnets = self.table.subnets().into_iter();
                tell(News::All {
                    cluster: now.cluster(),
                    revision: now.revision,
                    leases: subnets
                        .filter_map(|it| Some((it, self.held(it)?)))
                        .collect(),
                    anew: before.is_some_and(|before| !now.follows(before)),
                });
                now.revision
            }
        };
        let mut watch = store.watch_leases(revision + 1).await?;
        loop {
            let response = next(&mut watch).await?;
            patience.over();
            self.apply(&response, tell);
        }
    }

    /// Asks when the etcd leases end of which that is not known.
    async fn look_up(&mut self) {
        let subnets = self.table.subnets().into_iter();
        let named: BTreeSet<i64> = subnets
            .filter_map(|subnet| self.table.held(subnet)?.1)
            .collect();
        self.ends.retain(|id, _| named.contains(id));
        let unknown: Vec<i64> = named
            .into_iter()
            .filter(|id| !self.ends.contains_key(id))
            .collect();
        let store = &self.registry.store;
        let asked = futures_util::stream::iter(unknown)
            .map(|id| async move { (id, store.look_up(id).await) })
            .buffer_unordered(LOOK_UPS);
        let answers: Vec<_> = asked.collect().await;
        for (id, answer) in answers {
            if let Ok(Some(grant)) = answer {
                self.ends.insert(id, grant.until);
            }
        }
    }

    fn held(&self, subnet: Ipv4Net) -> Option<Held> {
        let (attrs, etcd_lease) = self.table.held(subnet)?;
        let ends = |id| self.ends.get(&id).copied();
        Some(Held {
            attrs: attrs.clone(),
            // What could not be found out may end any time: flannel 0.7's client goes by what it is told, and renews at once.
            expires: etcd_lease.map(|id| ends(id).unwrap_or_else(Instant::now)),
        })
    }

    fn apply(&mut self, response: &WatchResponse, tell: &mut impl FnMut(News)) {
        let events = response.events().iter();
        let touched: BTreeSet<_> = events.filter_map(|event| self.apply_one(event)).collect();
        let Some(heard) = &mut self.heard else {
            return;
        };
        heard.advance(response);
        let revision = heard.revision;
        tell(News::Some {
            revision,
            leases: touched
                .into_iter()
                .map(|subnet| (subnet, self.held(subnet)))
                .collect(),
        });
    }

    fn apply_one(&mut self, event: &Event) -> Option<Ipv4Net> {
        let kv = event.kv()?;
        let deleted = event.event_type() == EventType::Delete;
        match self.registry.store.parse_key(kv.key()) {
            Ok(key) if deleted => Some(self.delete(key)),
            Ok(key) => {
                // Whoever writes a lease does so on a new etcd lease.
                if kv.lease() != 0 {
                    let end = Instant::now() + lease::TTL;
                    self.ends.entry(kv.lease()).or_insert(end);
                }
                let before = self.table.held(key.v4).and_then(|(_, id)| id);
                let subnet = self.table.put(store::entry(key, kv));
                if let Some(id) = before.filter(|id| *id != kv.lease()) {
                    self.ends.remove(&id);
                }
                Some(subnet)
            }
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

    fn delete(&mut self, key: SubnetKey) -> Ipv4Net {
        if let Some((_, Some(id))) = self.table.held(key.v4) {
            self.ends.remove(&id);
        }
        self.table.delete(key)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::source::etcd::options::EtcdOptions;
    use crate::source::etcd::store::Entry;

    #[test]
    fn a_lease_whose_end_could_not_be_found_out_is_told_to_end_now() {
        let dead = EtcdOptions::new(vec!["http://127.0.0.1:1".to_owned()], "/n");
        let registry = Registry::new(&dead).unwrap();
        let subnets: [Ipv4Net; 3] =
            ["10.3.1.0/24", "10.3.2.0/24", "10.3.3.0/24"].map(|subnet| subnet.parse().unwrap());
        let mut table = Table::new(Ipv4Net::default());
        for (subnet, etcd_lease) in subnets.into_iter().zip([Some(1), Some(2), None]) {
            table.put(Entry {
                key: subnet.into(),
                attrs: Ok(LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, 1))),
                created: 1,
                mod_revision: 1,
                etcd_lease,
            });
        }
        let known = Instant::now() + lease::TTL;
        let follower = Follower {
            registry: &registry,
            table,
            ends: [(1, known)].into(),
            heard: None,
            compacted: false,
        };
        let [first, second, third] = subnets.map(|it| follower.held(it).unwrap().expires);
        assert_eq!((first, third), (Some(known), None));
        assert!(second.unwrap() <= Instant::now());
    }
}
