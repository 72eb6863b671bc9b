//! The operations on one network's keys, each a single round trip unless it says otherwise.

mod networks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{
    Compare, CompareOp, Event, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse, WatchResponse,
};

use super::error::{Code, EtcdError, OptionsError};
use super::options::EtcdOptions;
use super::paths::Paths;
use super::session::{Session, Watch};
use crate::flannel::lease::{self, KeyError, LeaseAttrs, SubnetKey, ValueError};

/// One network's keys in etcd.
#[derive(Debug, Clone)]
pub(super) struct Store {
    session: Arc<Session>,
    paths: Paths,
}

/// A lease as it is in etcd.
#[derive(Debug)]
pub(in crate::source) struct Entry {
    pub(in crate::source) key: SubnetKey,
    /// A value nobody can read still takes the subnet.
    pub(in crate::source) attrs: Result<LeaseAttrs, ValueError>,
    /// The revision at which the key came into being.
    pub(in crate::source) created: i64,
    pub(in crate::source) mod_revision: i64,
    /// The etcd lease that ends this one; `None` for a reservation.
    pub(in crate::source) etcd_lease: Option<i64>,
}

/// How far a cluster has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    cluster: u64,
    /// Of raft. What a quorum has agreed on never has an older one than what it agreed on before.
    term: u64,
    pub(super) revision: i64,
}

impl Position {
    pub(super) fn new(header: Option<&etcd_client::ResponseHeader>) -> Self {
        Self {
            cluster: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
            term: header.map_or(0, etcd_client::ResponseHeader::raft_term),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
        }
    }

    /// Whether the same etcd says it that had counted up to `before`, and not one that was restored from a backup. That one
    /// counts less, unless it was told to count on (`--bump-revision`), and has another id, unless it was given the same names. It
    /// begins with raft's first term: where the one before has ever chosen another leader, it is known by that.
    pub(super) fn follows(self, before: Self) -> bool {
        self.cluster == before.cluster
            && self.term >= before.term
            && self.revision >= before.revision
    }

    /// The same etcd, up to what a watch has told.
    pub(super) fn advance(&mut self, response: &WatchResponse) {
        self.revision = self.revision.max(told_up_to(response));
    }

    /// As clients of a server see it.
    pub(super) fn cluster(self) -> u64 {
        self.cluster
    }
}

/// A response without events only tells that there were none up to its revision; one with events is complete up to the last
/// of them.
fn told_up_to(response: &WatchResponse) -> i64 {
    match response.events().last().and_then(Event::kv) {
        Some(kv) => kv.mod_revision(),
        None => Position::new(response.header()).revision,
    }
}

/// All leases at one revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) position: Position,
    pub(super) entries: Vec<Entry>,
    /// Keys among the leases that are none.
    pub(super) foreign: Vec<KeyError>,
}

/// An etcd lease: what makes a key go away by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) id: i64,
    pub(super) until: Instant,
}

/// What a written key hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Until(Grant),
    /// A reservation: nothing ends it.
    Forever,
}

impl Hold {
    pub(super) fn expires(&self) -> Option<Instant> {
        match self {
            Self::Until(grant) => Some(grant.until),
            Self::Forever => None,
        }
    }

    /// As etcd says it of a key.
    fn id(self) -> i64 {
        match self {
            Self::Until(grant) => grant.id,
            Self::Forever => 0,
        }
    }
}

impl Store {
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, OptionsError> {
        Ok(Self {
            session: Arc::new(Session::new(options)?),
            paths: Paths::new(&options.prefix),
        })
    }

    /// See [`Session::reconnect`].
    pub(super) fn reconnect(&self) {
        self.session.reconnect();
    }

    pub(super) fn config_key(&self) -> String {
        self.paths.config()
    }

    pub(super) fn parse_key(&self, key: &[u8]) -> Result<SubnetKey, KeyError> {
        self.paths.parse_lease(key)
    }

    /// The network configuration as it was written; `None` when there is none.
    pub(super) async fn read_config(&self) -> Result<Option<String>, EtcdError> {
        let (_, kvs) = self.range(&self.paths.config(), false).await?;
        let text = |kv: &KeyValue| String::from_utf8_lossy(kv.value()).into_owned();
        Ok(kvs.first().map(text))
    }

    /// The newest revision, as the cluster agrees on it.
    pub(super) async fn position(&self) -> Result<Position, EtcdError> {
        let (position, _) = self.range(&self.paths.config(), false).await?;
        Ok(position)
    }

    pub(super) async fn list(&self) -> Result<Listing, EtcdError> {
        let (position, kvs) = self.range(&self.paths.subnets(), true).await?;
        let mut listing = Listing {
            position,
            entries: Vec::with_capacity(kvs.len()),
            foreign: Vec::new(),
        };
        for kv in &kvs {
            match self.parse_key(kv.key()) {
                Ok(key) => listing.entries.push(entry(key, kv)),
                Err(error) => listing.foreign.push(error),
            }
        }
        Ok(listing)
    }

    /// One lease, and the revision at which it was read.
    pub(super) async fn get(&self, key: SubnetKey) -> Result<(i64, Option<Entry>), EtcdError> {
        let (position, kvs) = self.range(&self.paths.lease(key), false).await?;
        Ok((position.revision, kvs.first().map(|kv| entry(key, kv))))
    }

    pub(super) async fn watch_leases(&self, revision: i64) -> Result<Watch, EtcdError> {
        let key = self.paths.subnets();
        self.session.watch(&key, true, revision).await
    }

    pub(super) async fn watch_lease(
        &self,
        key: SubnetKey,
        revision: i64,
    ) -> Result<Watch, EtcdError> {
        let key = self.paths.lease(key);
        self.session.watch(&key, false, revision).await
    }

    /// An etcd lease of [`lease::TTL`].
    pub(super) async fn grant(&self) -> Result<Grant, EtcdError> {
        // Counted from before the call: we must not believe in it longer than etcd does.
        let now = Instant::now();
        let ttl = i64::try_from(lease::TTL.as_secs()).unwrap_or(i64::MAX);
        let granted = self
            .session
            .call("grant an etcd lease", |mut client| async move {
                client.lease_grant(ttl, None).await
            })
            .await?;
        Ok(Grant {
            id: granted.id(),
            until: now + seconds(granted.ttl()),
        })
    }

    /// Gives an etcd lease back that no key hangs on. It would end by itself, so failing is no harm.
    pub(super) async fn revoke(&self, grant: Grant) {
        let revoked = self
            .session
            .call("revoke an etcd lease", |mut client| async move {
                client.lease_revoke(grant.id).await
            })
            .await;
        if let Err(error) = revoked {
            tracing::debug!(%error, "etcd lease left to expire");
        }
    }

    /// When the etcd lease `id` ends; `None` when it is gone.
    pub(super) async fn look_up(&self, id: i64) -> Result<Option<Grant>, EtcdError> {
        let now = Instant::now();
        let answer = self
            .session
            .read("look up an etcd lease", |mut client| async move {
                client.lease_time_to_live(id, None).await
            })
            .await?;
        Ok((answer.ttl() > 0).then(|| Grant {
            id,
            until: now + seconds(answer.ttl()),
        }))
    }

    /// Writes a key that must not exist. `None`: it does.
    pub(super) async fn create(
        &self,
        key: SubnetKey,
        attrs: &LeaseAttrs,
        hold: Hold,
    ) -> Result<Option<i64>, EtcdError> {
        let absent = Compare::version(self.paths.lease(key), CompareOp::Equal, 0);
        self.put_if(absent, key, attrs, hold).await
    }

    /// Overwrites a key nobody else wrote since `mod_revision`. `None`: somebody did.
    pub(super) async fn replace(
        &self,
        key: SubnetKey,
        mod_revision: i64,
        attrs: &LeaseAttrs,
        hold: Hold,
    ) -> Result<Option<i64>, EtcdError> {
        let unchanged =
            Compare::mod_revision(self.paths.lease(key), CompareOp::Equal, mod_revision);
        self.put_if(unchanged, key, attrs, hold).await
    }

    /// Deletes a key nobody else wrote since `mod_revision`. `false`: somebody did, and it is there. An endpoint whose answer is lost may
    /// have deleted it all the same: what is gone is gone.
    pub(super) async fn delete(
        &self,
        key: SubnetKey,
        mod_revision: i64,
    ) -> Result<bool, EtcdError> {
        let path = self.paths.lease(key);
        let txn = Txn::new()
            .when([Compare::mod_revision(
                path.as_str(),
                CompareOp::Equal,
                mod_revision,
            )])
            .and_then([TxnOp::delete(path.as_str(), None)])
            .or_else([TxnOp::get(path.as_str(), None)]);
        let answer = self
            .session
            .call(&format!("delete {path}"), |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        Ok(answer.succeeded() || shown(&answer.op_responses()).is_none())
    }

    /// The revision of the write, when `condition` held. An endpoint whose answer is lost may have written all the same: the next
    /// one then says no, and shows what we wrote.
    async fn put_if(
        &self,
        condition: Compare,
        key: SubnetKey,
        attrs: &LeaseAttrs,
        hold: Hold,
    ) -> Result<Option<i64>, EtcdError> {
        let path = self.paths.lease(key);
        let options = match hold {
            Hold::Until(grant) => Some(PutOptions::new().with_lease(grant.id)),
            Hold::Forever => None,
        };
        let value = attrs.to_json()?;
        let txn = Txn::new()
            .when([condition])
            .and_then([TxnOp::put(path.as_str(), value.as_str(), options)])
            .or_else([TxnOp::get(path.as_str(), None)]);
        let written = self
            .session
            .call(&format!("write {path}"), |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await;
        match written {
            Ok(answer) if answer.succeeded() => Ok(Some(Position::new(answer.header()).revision)),
            Ok(answer) => Ok(written_before(&answer, &value, hold)),
            // The etcd lease ended meanwhile, and the key with it.
            Err(EtcdError::Refused {
                code: Code::NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn range(&self, key: &str, prefix: bool) -> Result<(Position, Vec<KeyValue>), EtcdError> {
        let options = prefix.then(|| GetOptions::new().with_prefix());
        let mut answer = self
            .session
            .read(&format!("read {key}"), |client| {
                let options = options.clone();
                async move {
                    client
                        .kv_client()
                        // 4 MB, the default, is 20,000 leases.
                        .max_decoding_message_size(usize::MAX)
                        .get(key, options)
                        .await
                }
            })
            .await?;
        Ok((Position::new(answer.header()), answer.take_kvs()))
    }
}

/// The revision at which just that was written, if it is what the key holds.
fn written_before(answer: &TxnResponse, value: &str, hold: Hold) -> Option<i64> {
    let answers = answer.op_responses();
    let kv = shown(&answers)?;
    (kv.lease() == hold.id() && kv.value() == value.as_bytes()).then(|| kv.mod_revision())
}

/// The key that a transaction read.
fn shown(answers: &[TxnOpResponse]) -> Option<&KeyValue> {
    let mut shown = answers.iter().filter_map(|answer| match answer {
        TxnOpResponse::Get(shown) => shown.kvs().first(),
        _ => None,
    });
    shown.next()
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.try_into().unwrap_or(0))
}

pub(super) fn entry(key: SubnetKey, kv: &KeyValue) -> Entry {
    Entry {
        key,
        attrs: LeaseAttrs::from_json(kv.value()),
        created: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        etcd_lease: (kv.lease() != 0).then(|| kv.lease()),
    }
}
