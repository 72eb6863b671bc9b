//! Which networks there are: each has its configuration at `<prefix>/<name>/config`.

use std::collections::BTreeSet;

use etcd_client::{EventType, WatchResponse};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::{EtcdError, OptionsError};
use super::follow::next;
use super::options::EtcdOptions;
use super::patience::Patience;
use super::store::Store;

/// What is known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Those with a configuration; `None` before etcd has answered.
    pub names: Option<BTreeSet<String>>,
    /// Those whose configuration somebody deleted since. One that is only missing may be in a backup.
    pub deleted: BTreeSet<String>,
}

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
        let follower = Follower {
            networks: self,
            found,
            revision: None,
        };
        cancel.run_until_cancelled(follower.run()).await;
    }
}

struct Follower<'a> {
    networks: &'a EtcdNetworks,
    found: &'a watch::Sender<Found>,
    /// All up to here is in `found`.
    revision: Option<i64>,
}

impl Follower<'_> {
    async fn run(mut self) {
        let mut patience = Patience::growing();
        loop {
            let Err(error) = self.follow(&mut patience).await;
            patience.lost("following the networks", &error).await;
        }
    }

    async fn follow(
        &mut self,
        patience: &mut Patience,
    ) -> Result<std::convert::Infallible, EtcdError> {
        // A list each time: what was compacted meanwhile is in no watch.
        let (revision, names) = self.networks.store.networks().await?;
        let is_restored = self.revision.is_some_and(|before| revision < before);
        self.found
            .send_if_modified(|found| listed(found, names, is_restored));
        self.revision = Some(revision);
        let mut watch = self.networks.store.watch_networks(revision + 1).await?;
        loop {
            let response = next(&mut watch).await?;
            patience.over();
            self.apply(&response);
        }
    }

    fn apply(&mut self, response: &WatchResponse) {
        let changes = response.events().iter().filter_map(|event| {
            let key = event.kv()?.key_str().ok()?;
            let name = self.networks.store.parse_network(key)?.to_owned();
            Some((name, event.event_type() == EventType::Put))
        });
        let changes: Vec<_> = changes.collect();
        self.found.send_if_modified(|found| {
            let before = found.clone();
            for (name, is_there) in changes {
                changed(found, name, is_there);
            }
            *found != before
        });
        let last = response.header().map(etcd_client::ResponseHeader::revision);
        self.revision = self.revision.max(last);
    }
}

/// Takes a list over; whether it says something new.
fn listed(found: &mut Found, names: BTreeSet<String>, is_restored: bool) -> bool {
    let before = found.clone();
    let known = found.names.take().unwrap_or_default();
    found.deleted.retain(|name| !names.contains(name));
    let missing: BTreeSet<String> = known.difference(&names).cloned().collect();
    found.names = Some(names);
    if !missing.is_empty() && is_restored {
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        tracing::warn!(
            "etcd knows less than before: was it restored from a backup? these networks are missing there, and go on: {}",
            missing.join(", ")
        );
        found.names = Some(
            known
                .union(found.names.as_ref().unwrap_or(&known))
                .cloned()
                .collect(),
        );
    } else {
        found.deleted.extend(missing);
    }
    *found != before
}

fn changed(found: &mut Found, name: String, is_there: bool) {
    let names = found.names.get_or_insert_default();
    if is_there {
        found.deleted.remove(&name);
        names.insert(name);
    } else {
        names.remove(&name);
        found.deleted.insert(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &str) -> BTreeSet<String> {
        of.split_whitespace().map(str::to_owned).collect()
    }

    fn found(there: &str, deleted: &str) -> Found {
        Found {
            names: Some(names(there)),
            deleted: names(deleted),
        }
    }

    #[test]
    fn what_a_newer_list_lacks_is_deleted_and_what_an_older_one_lacks_goes_on() {
        let mut known = Found::default();
        assert!(listed(&mut known, names("blue red"), false));
        assert_eq!(known, found("blue red", ""));
        assert!(!listed(&mut known, names("blue red"), false));
        assert!(listed(&mut known, names("blue"), false));
        assert_eq!(known, found("blue", "red"));
        assert!(listed(&mut known, names("green"), true));
        assert_eq!(known, found("blue green", "red"));
        assert!(listed(&mut known, names("red green"), true));
        assert_eq!(known, found("blue green red", ""));
    }

    #[test]
    fn names_come_and_go() {
        let mut known = found("blue", "");
        changed(&mut known, "red".to_owned(), true);
        changed(&mut known, "blue".to_owned(), false);
        assert_eq!(known, found("red", "blue"));
        changed(&mut known, "blue".to_owned(), true);
        assert_eq!(known, found("blue red", ""));
    }
}
