//! Several networks of a server: which there are, and one of them.

use std::collections::BTreeSet;

use flannel_agent::source::networks::Found;
use flannel_agent::source::remote::{RemoteNetworks, RemoteOptions, RemoteSource};
use flannel_agent::source::{LeaseRequest, LeaseSource};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{CONFIG, Net, Served, attrs, options, public_ip, settled};

struct Follower {
    found: watch::Receiver<Found>,
    _guard: DropGuard,
}

impl Follower {
    fn start(server: &Served) -> Self {
        let networks = RemoteNetworks::new(&RemoteOptions::new(vec![server.name()])).unwrap();
        let (sender, found) = watch::channel(Found::default());
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        tokio::spawn(async move { networks.follow(&sender, &token).await });
        Self {
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

#[tokio::test]
async fn networks_come_and_go_and_are_not_deleted_because_a_server_lacks_them() {
    let mut net = Net::new().await;
    net.put("blue/config", CONFIG).await;
    net.put("red/config", CONFIG).await;
    let server = net.server().await;
    let mut follower = Follower::start(&server);
    follower.has("blue red", "").await;
    net.put("green/config", CONFIG).await;
    follower.has("blue green red", "").await;
    net.delete("red/config").await;
    follower.has("blue green", "red").await;
    // An etcd from a backup behind the same server, and behind a new one.
    net.etcd.restart_as_another();
    net.client = crate::support::reconnected(&net).await;
    net.put("white/config", CONFIG).await;
    follower.has("blue green white", "red").await;
    let address = server.stop().await;
    let _server = Served::start(&net.options(), options(&address.to_string())).await;
    net.put("black/config", CONFIG).await;
    follower.has("black blue green white", "red").await;
}

#[tokio::test]
async fn a_network_with_a_name_has_leases_of_its_own() {
    let net = Net::new().await;
    net.put("blue/config", CONFIG).await;
    let server = net.server().await;
    let source = |name: &str| {
        RemoteSource::new(&RemoteOptions {
            network: Some(name.to_owned()),
            ..RemoteOptions::new(vec![server.name()])
        })
        .unwrap()
    };
    let blue = source("blue");
    assert!(blue.has_network("blue").await.unwrap());
    assert!(!blue.has_network("red").await.unwrap());
    let cancel = CancellationToken::new();
    let request = LeaseRequest {
        attrs: attrs(1),
        previous: Some(crate::support::net("10.3.5.0/24")),
    };
    let config = blue.network_config(&cancel).await.unwrap();
    let own = blue.acquire(&config, &request, &cancel).await.unwrap();
    assert!(
        net.leases().await.is_empty(),
        "none of the network without a name"
    );
    let found = blue.find_lease(public_ip(1)).await.unwrap().unwrap();
    assert_eq!(found.subnet, own.subnet);
    assert!(source("red").read_network_config().await.is_err());
    blue.release(&own).await.unwrap();
    assert_eq!(blue.read_leases().await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_etcd_restored_behind_the_server_takes_nobody_away_at_once() {
    let mut net = Net::new().await;
    net.put_lease(2, 2).await;
    let server = net.server().await;
    let request = LeaseRequest {
        attrs: attrs(1),
        previous: Some(crate::support::net("10.3.1.0/24")),
    };
    let (source, cancel) = (server.source(), CancellationToken::new());
    let own = source
        .acquire(&net.config, &request, &cancel)
        .await
        .unwrap();
    let mut node = crate::support::Running::start(source, own, &net);
    node.others(&[(2, 2)]).await;
    // The server ends, so that its successor is the first to hear of the other etcd, which has counted further.
    let address = server.stop().await;
    net.etcd.restart_as_another();
    net.client = crate::support::reconnected(&net).await;
    for _ in 0..100 {
        net.put("config", CONFIG).await;
    }
    net.put_lease(3, 3).await;
    let _server = Served::start(&net.options(), options(&address.to_string())).await;
    node.others(&[(2, 2), (3, 3)]).await;
}
