//! Acquiring a lease.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType, PutOptions};
use flannel_agent::base::counters::{self, Counters};
use flannel_agent::flannel::config::NetworkConfig;
use flannel_agent::source::LeaseSource;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::support::{Net, attrs, eventually, key, net, public_ip};

/// A network with four subnets to lease: 10.3.4.0/24 to 10.3.7.0/24.
const FOUR: &str = r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.4.0","SubnetMax":"10.3.7.0","Backend":{"Type":"vxlan"}}"#;

#[tokio::test]
async fn al1_a_free_subnet_then_the_same_again() {
    let net = Net::with(FOUR).await;
    net.put_lease("10.3.4.0-23", 9).await;
    let first = net.acquire(1, None).await.unwrap();
    assert!(["10.3.6.0/24", "10.3.7.0/24"].contains(&first.subnet.to_string().as_str()));
    let again = net.acquire(1, None).await.unwrap();
    assert_eq!(again.subnet, first.subnet);
    assert_eq!(net.keys().await.len(), 2, "nothing else is written");
}

#[tokio::test]
async fn al2_the_previous_subnet_when_free_and_in_range() {
    let net = Net::with(FOUR).await;
    let own = net.acquire(1, Some("10.3.6.0/24")).await.unwrap();
    assert_eq!(own.subnet.to_string(), "10.3.6.0/24");
    let own = net.acquire(2, Some("10.9.6.0/24")).await.unwrap();
    assert!(net.config.admits(own.subnet));
    let own = net.acquire(3, Some("10.3.6.0/24")).await.unwrap();
    assert_ne!(own.subnet.to_string(), "10.3.6.0/24", "node 1 holds it");
}

#[tokio::test]
async fn al3_a_subnet_of_the_new_network_after_a_change() {
    let mut net = Net::new().await;
    let old = net.acquire(1, None).await.unwrap();
    let json = r#"{"Network":"10.4.0.0/16","Backend":{"Type":"vxlan"}}"#;
    net.config = NetworkConfig::parse(json).unwrap();
    let new = net.acquire(1, Some(&old.subnet.to_string())).await.unwrap();
    assert!(net.config.network.contains(&new.subnet));
    assert_eq!(
        net.keys().await,
        [key(new.subnet)],
        "the old lease is given up"
    );
}

#[tokio::test]
async fn al4_a_lease_lives_for_24_hours() {
    let mut net = Net::new().await;
    let own = net.acquire(1, None).await.unwrap();
    let day = Duration::from_hours(24);
    let left = own
        .expires
        .unwrap()
        .saturating_duration_since(Instant::now());
    assert!(
        left <= day && left > day - Duration::from_mins(10),
        "{left:?}"
    );

    let id = net.get(&key(own.subnet)).await.unwrap().lease();
    let in_etcd = net.client.lease_time_to_live(id, None).await.unwrap();
    assert_eq!(in_etcd.granted_ttl(), 86_400);
    assert_eq!(own.attrs, attrs(1));
}

#[tokio::test]
async fn er2_key_and_value_to_the_byte() {
    let net = Net::new().await;
    net.acquire(1, Some("10.3.5.0/24")).await.unwrap();
    assert_eq!(net.keys().await, ["10.3.5.0-24"]);
    assert_eq!(
        net.value("10.3.5.0-24").await.unwrap(),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}"#
    );
}

#[tokio::test]
async fn hosts_that_race_get_different_subnets() {
    let mut net = Net::with(FOUR).await;
    // All ask for the same one, so that all but one lose at least once.
    let hosts = (1..=4).map(|n| net.acquire(n, Some("10.3.4.0/24")));
    let subnets: BTreeSet<_> = join_all(hosts)
        .await
        .into_iter()
        .map(|own| own.unwrap().subnet)
        .collect();
    assert_eq!(subnets.len(), 4);
    assert_eq!(net.keys().await.len(), 4);
    let etcd_leases = net.client.leases().await.unwrap();
    assert_eq!(etcd_leases.leases().len(), 4, "losers give theirs back");
}

#[tokio::test]
async fn out_of_subnets_says_where_it_looked() {
    let net = Net::with(FOUR).await;
    net.put_lease("10.3.4.0-22", 9).await;
    let error = net.acquire(1, None).await.unwrap_err().to_string();
    assert!(
        error.contains("every /24 from 10.3.4.0 to 10.3.7.0"),
        "{error}"
    );
}

#[tokio::test]
async fn a_reservation_stays_one() {
    let net = Net::new().await;
    net.put("10.3.77.0-24", r#"{"PublicIP":"192.0.2.1"}"#).await;
    for _ in 0..2 {
        let own = net.acquire(1, Some("10.3.5.0/24")).await.unwrap();
        assert_eq!(own.subnet.to_string(), "10.3.77.0/24");
        assert_eq!(own.expires, None);
        let kv = net.get("10.3.77.0-24").await.unwrap();
        assert_eq!(kv.lease(), 0, "nothing ends it");
        assert_eq!(kv.value_str().unwrap(), attrs(1).to_json().unwrap());
    }
}

#[tokio::test]
async fn malformed_keys_and_values_harm_nobody() {
    let net = Net::with(FOUR).await;
    for key in ["10.3.4.0", "hello", "10.3.4.0-24/x", "10.3.4.0-99"] {
        net.put(key, "{}").await;
    }
    net.put("10.3.4.0-24", "not json").await;
    net.put("10.3.6.0-23", r#"{"PublicIP":7}"#).await;
    let own = net.acquire(1, Some("10.3.4.0/24")).await.unwrap();
    assert_eq!(own.subnet.to_string(), "10.3.5.0/24");
    assert_eq!(net.value("10.3.4.0-24").await.unwrap(), "not json");
}

#[tokio::test]
async fn a_lease_of_a_dual_stack_network_gives_way_to_an_ipv4_one() {
    let net = Net::new().await;
    let id = net.grant(600).await;
    let value = attrs(1).to_json().unwrap();
    let options = PutOptions::new().with_lease(id);
    net.put_with("10.3.5.0-24&fd00:5::-64", &value, Some(options))
        .await;
    let own = net.acquire(1, None).await.unwrap();
    assert_eq!(own.subnet.to_string(), "10.3.5.0/24");
    assert_eq!(net.keys().await, ["10.3.5.0-24"]);
}

#[tokio::test]
async fn ma_the_mac_of_the_previous_run_is_found() {
    let net = Net::new().await;
    let cancel = CancellationToken::new();
    let source = net.source();
    let before = source.previous_lease(public_ip(1), &cancel).await.unwrap();
    assert_eq!(before, None);
    let own = net.acquire(1, None).await.unwrap();
    let found = source.previous_lease(public_ip(1), &cancel).await.unwrap();
    let found = found.unwrap();
    assert_eq!(found.subnet, own.subnet);
    assert_eq!(found.attrs.vxlan_data(), attrs(1).vxlan_data());
    assert!(found.expires.is_some());
}

#[tokio::test]
async fn two_networks_in_one_etcd_do_not_meet() {
    let mut net = Net::with(FOUR).await;
    // Its keys begin with ours, but not with ours and a slash.
    let beside = format!("{}/subnets-old/10.3.4.0-24", crate::support::PREFIX);
    net.client
        .put(beside, attrs(1).to_json().unwrap(), None)
        .await
        .unwrap();
    let own = net.acquire(1, Some("10.3.5.0/24")).await.unwrap();
    assert_eq!(own.subnet, self::net("10.3.5.0/24"));
}

/// A cluster that is switched on: everybody reads the same empty table first.
#[tokio::test]
async fn a_hundred_nodes_at_once_get_a_hundred_subnets() {
    let net = Net::new().await;
    let leases = join_all((1..=100).map(|n| net.acquire(n, None))).await;
    let subnets: BTreeSet<_> = leases.into_iter().map(|own| own.unwrap().subnet).collect();
    assert_eq!(subnets.len(), 100);
    assert_eq!(net.keys().await.len(), 100, "nobody left a second one");
}

/// The start would end, and begin again with everything before it.
#[tokio::test]
async fn an_etcd_without_room_is_waited_for() {
    let here = Counters::default();
    here.count_in_this_thread();
    let net = Net::new().await;
    let mut etcd = net.client.clone();
    let activated = etcd.alarm(AlarmAction::Activate, AlarmType::Nospace, None);
    activated.await.unwrap();
    let acquired = net.acquire(1, None);
    let waits = eventually("it is waited for", || async {
        let silences = counters::silences();
        let silent = silences.get("acquiring a lease");
        silent.map(|silent| silent.error.clone())
    });
    tokio::pin!(acquired);
    tokio::select! {
        ended = &mut acquired => panic!("{ended:?}"),
        said = waits => assert!(said.contains("raise its quota"), "{said}"),
    }
    let ended = etcd.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None);
    ended.await.unwrap();
    acquired.await.unwrap();
}
