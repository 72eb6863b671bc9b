//! Following which networks there are: only what somebody deletes is deleted.

use std::collections::BTreeSet;

use flannel_agent::source::etcd::{EtcdNetworks, EtcdOptions};
use flannel_agent::source::networks::Found;
use flannel_tests::gate::Gate;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{Net, PREFIX, settled};

/// Somebody who follows through a gate.
struct Follower {
    gate: Gate,
    found: watch::Receiver<Found>,
    _guard: DropGuard,
}

impl Follower {
    async fn start(net: &Net) -> Self {
        let gate = Gate::to(net.etcd.address()).await;
        let options = EtcdOptions::new(vec![gate.url()], PREFIX);
        let networks = EtcdNetworks::new(&options).unwrap();
        let (sender, found) = watch::channel(Found::default());
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        tokio::spawn(async move { networks.follow(&sender, &token).await });
        Self {
            gate,
            found,
            _guard: cancel.drop_guard(),
        }
    }

    async fn has(&mut self, there: &str, deleted: &str) {
        let names =
            |of: &str| -> BTreeSet<String> { of.split_whitespace().map(str::to_owned).collect() };
        let wanted = Found {
            names: Some(names(there)),
            deleted: names(deleted),
        };
        settled(&format!("{wanted:?}"), &mut self.found, |found| {
            *found == wanted
        })
        .await;
    }
}

async fn put(net: &Net, name: &str) {
    let key = format!("{PREFIX}/{name}/config");
    net.client.clone().put(key, "{}", None).await.unwrap();
}

async fn delete(net: &Net, name: &str) {
    let key = format!("{PREFIX}/{name}/config");
    net.client.clone().delete(key, None).await.unwrap();
}

#[tokio::test]
async fn what_is_deleted_while_nobody_hears_it_is_deleted() {
    let net = Net::new().await;
    put(&net, "blue").await;
    put(&net, "red").await;
    let mut follower = Follower::start(&net).await;
    follower.has("blue red", "").await;
    follower.gate.close();
    delete(&net, "blue").await;
    put(&net, "green").await;
    follower.gate.open();
    follower.has("green red", "blue").await;
    put(&net, "blue").await;
    follower.has("blue green red", "").await;
}

#[tokio::test]
async fn what_a_compacted_or_another_etcd_lacks_is_not() {
    let mut net = Net::new().await;
    put(&net, "blue").await;
    put(&net, "red").await;
    let mut follower = Follower::start(&net).await;
    follower.has("blue red", "").await;
    follower.gate.close();
    delete(&net, "blue").await;
    put(&net, "green").await;
    net.compact().await;
    follower.gate.open();
    follower.has("blue green red", "").await;
    // One that has counted further than the one before.
    follower.gate.close();
    net.restart_as_another().await;
    put(&net, "white").await;
    follower.gate.open();
    follower.has("blue green red white", "").await;
    delete(&net, "white").await;
    follower.has("blue green red", "white").await;
}
