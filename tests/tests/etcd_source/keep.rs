//! Keeping the own lease.

use std::time::Duration;

use etcd_client::PutOptions;
use flannel_agent::base::counters::{self, Counters};
use flannel_agent::flannel::lease;
use flannel_agent::source::etcd::EtcdSource;
use flannel_tests::wait::SOON;

use crate::support::{
    Net, attrs, eventually, follow, keep, key, net, notified, public_ip, settled,
};

#[tokio::test]
async fn al4_wa3_a_renewal_is_published_and_changes_only_the_expiry() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let before = net.get(&key(own.subnet)).await.unwrap();
    let mut options = net.options();
    options.renew_margin = lease::TTL - Duration::from_secs(3);
    let source = EtcdSource::new(&options).unwrap();
    let mut node = keep(source, &net.config, own.clone());

    let renewed = notified("the renewal", &mut node.own).await;
    assert!(renewed.expires > own.expires);
    assert_eq!((renewed.subnet, &renewed.attrs), (own.subnet, &own.attrs));
    let after = net.get(&key(own.subnet)).await.unwrap();
    assert_ne!(after.lease(), before.lease(), "a new etcd lease");
    assert_eq!(after.value(), before.value());
    assert_eq!(after.create_revision(), before.create_revision());
}

#[tokio::test]
async fn wa3_a_deleted_lease_is_taken_again() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let node = keep(net.source(), &net.config, own.clone());
    let name = key(own.subnet);
    for _ in 0..3 {
        net.delete(&name).await;
        let kv = eventually("the lease is back", || net.get(&name)).await;
        assert_eq!(kv.value_str().unwrap(), attrs(1).to_json().unwrap());
        assert_ne!(kv.lease(), 0, "it expires as before");
    }
    assert_eq!(node.own.borrow().subnet, own.subnet);
}

#[tokio::test]
async fn an_expired_lease_is_taken_again() {
    let mut net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let _node = keep(net.source(), &net.config, own.clone());
    let name = key(own.subnet);
    let id = net.get(&name).await.unwrap().lease();
    net.client.lease_revoke(id).await.unwrap();
    let kv = eventually("the lease is back", || net.get(&name)).await;
    assert_ne!(kv.lease(), id);
}

#[tokio::test]
async fn wa6_a_delete_that_was_compacted_away_is_noticed() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let (gate, source) = net.gated().await;
    let node = keep(source, &net.config, own.clone());
    // Proof that it watches: a change goes through.
    node.attrs.send_replace(attrs(11));
    eventually_value(&net, &key(own.subnet), 11).await;

    gate.close();
    net.delete(&key(own.subnet)).await;
    net.compact().await;
    gate.open();
    eventually_value(&net, &key(own.subnet), 11).await;
}

/// Waits until the key holds the lease of node `n`.
async fn eventually_value(net: &Net, key: &str, n: u8) {
    let wanted = attrs(n).to_json().unwrap();
    let check = || async { net.value(key).await.filter(|value| *value == wanted) };
    eventually("the value in etcd", check).await;
}

#[tokio::test]
async fn wa5_survives_compaction_and_a_restart_of_etcd() {
    let mut net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let node = keep(net.source(), &net.config, own.clone());
    node.attrs.send_replace(attrs(11));
    eventually_value(&net, &key(own.subnet), 11).await;
    for _ in 0..10 {
        net.client.put("/elsewhere", "x", None).await.unwrap();
    }
    net.compact().await;
    net.restart().await;
    net.delete(&key(own.subnet)).await;
    eventually_value(&net, &key(own.subnet), 11).await;
}

#[tokio::test]
async fn new_attributes_are_written_under_the_same_etcd_lease() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let before = net.get(&key(own.subnet)).await.unwrap();
    let mut node = keep(net.source(), &net.config, own.clone());
    // Another PublicIP as well: the node's address changed, its subnet need not.
    node.attrs.send_replace(attrs(11));
    let published = settled("the new attributes", &mut node.own, |own| {
        own.attrs.public_ip == public_ip(11)
    })
    .await;
    assert_eq!(published.subnet, own.subnet);
    assert_eq!(published.attrs, attrs(11));
    let after = net.get(&key(own.subnet)).await.unwrap();
    assert_eq!(after.value_str().unwrap(), attrs(11).to_json().unwrap());
    assert_eq!(after.lease(), before.lease());
}

#[tokio::test]
async fn a_subnet_that_went_to_another_node_is_left_to_it() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let (gate, source) = net.gated().await;
    let mut node = keep(source, &net.config, own.clone());
    net.hand_over(&gate, &key(own.subnet), 2).await;
    let moved = settled("another subnet", &mut node.own, |new| {
        new.subnet != own.subnet
    })
    .await;
    assert!(net.config.admits(moved.subnet));
    eventually_value(&net, &key(moved.subnet), 1).await;
    eventually_value(&net, &key(own.subnet), 2).await;

    // It is the new one that is kept from now on.
    net.delete(&key(moved.subnet)).await;
    eventually_value(&net, &key(moved.subnet), 1).await;
}

#[tokio::test]
async fn a_subnet_taken_while_etcd_was_away_is_left_to_its_new_owner() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let (gate, source) = net.gated().await;
    let mut node = keep(source, &net.config, own.clone());
    net.hand_over(&gate, &key(own.subnet), 2).await;
    settled("another subnet", &mut node.own, |new| {
        new.subnet != own.subnet
    })
    .await;
    eventually_value(&net, &key(own.subnet), 2).await;
}

#[tokio::test]
async fn a_lease_turned_into_a_reservation_stays_one() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let mut node = keep(net.source(), &net.config, own.clone());
    net.put(&key(own.subnet), r#"{"PublicIP":"192.0.2.1"}"#)
        .await;
    settled("a lease without an end", &mut node.own, |own| {
        own.expires.is_none()
    })
    .await;
    eventually_value(&net, &key(own.subnet), 1).await;
    let kv = net.get(&key(own.subnet)).await.unwrap();
    assert_eq!(kv.lease(), 0);
}

#[tokio::test]
async fn what_somebody_else_writes_is_corrected() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let node = keep(net.source(), &net.config, own.clone());
    node.attrs.send_replace(attrs(11));
    eventually_value(&net, &key(own.subnet), 11).await;
    let id = net.get(&key(own.subnet)).await.unwrap().lease();
    let options = PutOptions::new().with_lease(id);
    net.put_with(&key(own.subnet), "nonsense", Some(options))
        .await;
    eventually_value(&net, &key(own.subnet), 11).await;
    assert_eq!(node.own.borrow().subnet, own.subnet);
}

/// By a mistake or worse: whoever takes a subnet creates its key, which its owner has lost then. Running pods must not lose
/// their node for one write.
#[tokio::test]
async fn another_address_written_into_our_lease_is_corrected_and_the_subnet_stays() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let node = keep(net.source(), &net.config, own.clone());
    node.attrs.send_replace(attrs(11));
    eventually_value(&net, &key(own.subnet), 11).await;
    let id = net.get(&key(own.subnet)).await.unwrap().lease();
    net.put_lease(&key(own.subnet), 2).await;
    eventually_value(&net, &key(own.subnet), 11).await;
    let kv = net.get(&key(own.subnet)).await.unwrap();
    assert!(kv.lease() != 0 && kv.lease() != id, "{kv:?}");
    assert_eq!(node.own.borrow().subnet, own.subnet);
}

#[tokio::test]
async fn a_reservation_goes_to_whom_the_admin_gives_it() {
    let net = Net::new().await;
    net.put_lease("10.3.7.0-24", 1).await;
    let own = net.acquire(1, None).await.unwrap();
    assert_eq!(key(own.subnet), "10.3.7.0-24");
    let mut node = keep(net.source(), &net.config, own.clone());
    node.attrs.send_replace(attrs(11));
    eventually_value(&net, "10.3.7.0-24", 11).await;
    net.put_lease("10.3.7.0-24", 2).await;
    settled("another subnet", &mut node.own, |new| {
        new.subnet != own.subnet
    })
    .await;
    eventually_value(&net, "10.3.7.0-24", 2).await;
}

#[tokio::test]
async fn a_lease_deleted_before_keep_began_is_taken_again() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    net.delete(&key(own.subnet)).await;
    let _node = keep(net.source(), &net.config, own.clone());
    eventually_value(&net, &key(own.subnet), 1).await;
}

#[tokio::test]
async fn keep_and_follow_agree_on_what_is_ours() {
    let net = Net::new().await;
    let own = net.acquire(1, Some("10.3.1.0/24")).await.unwrap();
    let (gate, source) = net.gated().await;
    let mut keeping = keep(source, &net.config, own.clone());
    let mut following = follow(net.source(), "10.3.1.0/24");
    following.others(&[]).await;
    net.hand_over(&gate, "10.3.1.0-24", 2).await;
    let moved = settled("another subnet", &mut keeping.own, |new| {
        new.subnet != own.subnet
    })
    .await;
    following.own.send_replace(moved);
    following.others(&[(1, 2)]).await;
}

#[tokio::test]
async fn wa7_ends_when_cancelled_and_leaves_the_lease() {
    let net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let node = keep(net.source(), &net.config, own.clone());
    node.cancel.cancel();
    let ended = tokio::time::timeout(SOON, node.task).await.unwrap();
    ended.unwrap().unwrap();
    eventually_value(&net, &key(own.subnet), 1).await;
}

#[tokio::test]
async fn nothing_is_published_when_nothing_changed() {
    let net = Net::new().await;
    let own = net.acquire(1, Some("10.3.1.0/24")).await.unwrap();
    let mut node = keep(net.source(), &net.config, own.clone());
    // A write elsewhere in the network, then one of ours: only ours is news.
    net.put_lease("10.3.2.0-24", 2).await;
    node.attrs.send_replace(attrs(11));
    let published = notified("the new attributes", &mut node.own).await;
    assert_eq!(published.attrs, attrs(11));
    assert_eq!(published.subnet, self::net("10.3.1.0/24"));
}

/// Who begins to watch a lease says its key, and from which revision on; who reads it says no more than the key.
const WATCH: &str = "-24\u{18}";

/// Behind a proxy that passes no streams, etcd is read, and watched in vain: each try waits longer than the one before it.
#[tokio::test]
async fn patience_goes_on_while_watches_alone_fail() {
    let here = Counters::default();
    here.count_in_this_thread();
    let net = Net::new().await;
    let (gate, source) = net.gated().await;
    let own = net.acquire(1, None).await.unwrap();
    gate.refuse(WATCH);
    let _node = keep(source, &net.config, own.clone());
    let trouble = || async { counters::silences().remove("keeping our lease") };
    gate.refused(1).await;
    let first = eventually("the watch has failed", trouble).await;
    gate.refused(4).await;
    let later = eventually("it fails still", trouble).await;
    assert_eq!(first.since, later.since, "one trouble, not several");
    gate.open();
    eventually("it works", || async {
        let silent = counters::silences().contains_key("keeping our lease");
        (!silent).then_some(())
    })
    .await;
}
