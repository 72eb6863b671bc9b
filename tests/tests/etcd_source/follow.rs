//! Following other nodes' leases.

use std::time::Duration;

use etcd_client::PutOptions;
use flannel_tests::wait::SOON;

use crate::support::{Net, attrs, follow, follow_knowing, notified, pairs, settled};

/// Where the keys of leases end: said by who lists them, or begins to watch them.
const LEASES: &str = "/coreos.com/network/subnets0";

#[tokio::test]
async fn wa1_the_own_lease_is_never_reported_and_a_new_one_once() {
    let net = Net::new().await;
    net.put_lease("10.3.1.0-24", 1).await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    let first = notified("the first snapshot, though it is empty", &mut node.leases).await;
    assert_eq!(pairs(&first), []);

    net.put_lease("10.3.1.0-24", 1).await;
    net.put_lease("10.3.2.0-24", 2).await;
    let second = notified("the new lease", &mut node.leases).await;
    assert_eq!(pairs(&second), [(2, 2)]);
    // A renewal says nothing new.
    net.put_lease("10.3.2.0-24", 2).await;
    net.put_lease("10.3.3.0-24", 3).await;
    let third = notified("the next lease", &mut node.leases).await;
    assert_eq!(pairs(&third), [(2, 2), (3, 3)]);
}

#[tokio::test]
async fn wa2_a_lease_that_expires_is_added_then_removed() {
    let net = Net::new().await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[]).await;
    let options = PutOptions::new().with_lease(net.grant(3).await);
    let value = attrs(2).to_json().unwrap();
    net.put_with("10.3.2.0-24", &value, Some(options)).await;
    node.others(&[(2, 2)]).await;
    node.others(&[]).await;
}

#[tokio::test]
async fn er2_a_lease_comes_and_goes() {
    let net = Net::new().await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    net.delete("10.3.2.0-24").await;
    node.others(&[]).await;
}

#[tokio::test]
async fn a_changed_public_ip_or_mac_is_reported() {
    let net = Net::new().await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    net.put_lease("10.3.2.0-24", 7).await;
    node.others(&[(2, 7)]).await;
}

#[tokio::test]
async fn wa4_started_after_a_compaction() {
    let net = Net::new().await;
    for n in 2..6 {
        net.put_lease("10.3.2.0-24", n).await;
    }
    net.compact().await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[(2, 5)]).await;
    net.put_lease("10.3.3.0-24", 3).await;
    node.others(&[(2, 5), (3, 3)]).await;
}

#[tokio::test]
async fn wa4_a_connection_lost_over_a_compaction() {
    let net = Net::new().await;
    let (gate, source) = net.gated().await;
    net.put_lease("10.3.2.0-24", 2).await;
    net.put_lease("10.3.3.0-24", 3).await;
    net.put_lease("10.3.4.0-24", 4).await;
    let mut node = follow(source, "10.3.1.0/24");
    node.others(&[(2, 2), (3, 3), (4, 4)]).await;

    gate.close();
    net.delete("10.3.2.0-24").await;
    net.put_lease("10.3.3.0-24", 33).await;
    net.put_lease("10.3.5.0-24", 5).await;
    net.compact().await;
    gate.open();
    let listed = notified("the difference, in one piece", &mut node.leases).await;
    assert_eq!(pairs(&listed), [(3, 33), (4, 4), (5, 5)]);

    net.delete("10.3.3.0-24").await;
    node.others(&[(4, 4), (5, 5)]).await;
}

#[tokio::test]
async fn a_lost_connection_loses_no_event_and_no_lease() {
    let net = Net::new().await;
    let (gate, source) = net.gated().await;
    net.put_lease("10.3.2.0-24", 2).await;
    let mut node = follow(source, "10.3.1.0/24");
    node.others(&[(2, 2)]).await;
    for n in 3..8 {
        gate.close();
        net.put_lease("10.3.9.0-24", n).await;
        assert_eq!(
            node.leases.borrow()[&crate::support::net("10.3.2.0/24")],
            attrs(2)
        );
        gate.open();
        node.others(&[(2, 2), (9, n)]).await;
    }
}

#[tokio::test]
async fn wa5_a_watch_that_is_compacted_and_then_loses_its_etcd() {
    let mut net = Net::new().await;
    net.put_lease("10.3.2.0-24", 2).await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[(2, 2)]).await;
    // Writes elsewhere move the revision on, past what the watch has seen.
    for _ in 0..10 {
        net.client.put("/elsewhere", "x", None).await.unwrap();
    }
    net.compact().await;
    net.restart().await;
    net.put_lease("10.3.3.0-24", 3).await;
    node.others(&[(2, 2), (3, 3)]).await;
}

#[tokio::test]
async fn an_etcd_restored_from_an_older_backup_is_listed_anew() {
    let mut net = Net::new().await;
    for n in 2..9 {
        net.put_lease("10.3.2.0-24", n).await;
    }
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[(2, 8)]).await;
    net.restart_empty().await;
    net.put_lease("10.3.3.0-24", 3).await;
    // Its node takes the lost one again soon; until then it counts.
    node.others(&[(2, 8), (3, 3)]).await;
    net.put_lease("10.3.4.0-24", 4).await;
    node.others(&[(2, 8), (3, 3), (4, 4)]).await;
    let minute_and_more = Duration::from_mins(2);
    let given_up = [(3, 3), (4, 4)];
    node.others_within(minute_and_more, &given_up).await;
}

#[tokio::test]
async fn an_etcd_restored_from_a_backup_that_counts_on_takes_nobody_away_at_once() {
    let mut net = Net::new().await;
    let (gate, source) = net.gated().await;
    net.put_lease("10.3.2.0-24", 2).await;
    let mut node = follow(source, "10.3.1.0/24");
    node.others(&[(2, 2)]).await;
    gate.close();
    net.restart_as_another().await;
    net.put_lease("10.3.3.0-24", 3).await;
    gate.open();
    node.others(&[(2, 2), (3, 3)]).await;
}

/// `etcdutl snapshot restore --bump-revision --mark-compacted` with the names of before.
#[tokio::test]
async fn nor_does_one_with_the_same_names_whose_history_is_compacted() {
    let mut net = Net::new().await;
    // It has chosen a leader more than once.
    net.restart().await;
    let (gate, source) = net.gated().await;
    net.put_lease("10.3.2.0-24", 2).await;
    let mut node = follow(source, "10.3.1.0/24");
    node.others(&[(2, 2)]).await;
    gate.close();
    net.restart_empty_further().await;
    net.put_lease("10.3.3.0-24", 3).await;
    net.compact().await;
    gate.open();
    node.others(&[(2, 2), (3, 3)]).await;
}

/// When a minute is over, all are listed once more.
#[tokio::test]
async fn what_a_restored_etcd_lacks_is_given_up_also_if_it_fails_at_that_moment() {
    let mut net = Net::new().await;
    let (gate, source) = net.gated().await;
    net.put_lease("10.3.2.0-24", 2).await;
    let mut node = follow(source, "10.3.1.0/24");
    node.others(&[(2, 2)]).await;
    gate.close();
    net.restart_as_another().await;
    net.put_lease("10.3.3.0-24", 3).await;
    gate.open();
    node.others(&[(2, 2), (3, 3)]).await;
    // The list is told before its watch begins.
    net.put_lease("10.3.4.0-24", 4).await;
    node.others(&[(2, 2), (3, 3), (4, 4)]).await;
    gate.lose_the_answer_to(LEASES);
    gate.asked().await;
    gate.close();
    gate.open();
    let minute_and_more = Duration::from_mins(2);
    node.others_within(minute_and_more, &[(3, 3), (4, 4)]).await;
}

#[tokio::test]
async fn an_etcd_wiped_while_the_agent_restarts_forgets_no_peer_that_lives() {
    let net = Net::new().await;
    net.put_lease("10.3.4.0-24", 44).await;
    let known = [(2, 2), (3, 3), (4, 4)];
    let mut node = follow_knowing(net.source(), "10.3.1.0/24", &known);
    let first = notified("the first snapshot", &mut node.leases).await;
    assert_eq!(pairs(&first), [(2, 2), (3, 3), (4, 44)]);
    // One takes its lease again, and is deleted then; another lives elsewhere by now.
    net.put_lease("10.3.3.0-24", 3).await;
    net.put_lease("10.3.5.0-24", 5).await;
    node.others(&[(2, 2), (3, 3), (4, 44), (5, 5)]).await;
    net.delete("10.3.3.0-24").await;
    node.others(&[(2, 2), (4, 44), (5, 5)]).await;
    let minute_and_more = Duration::from_mins(2);
    node.others_within(minute_and_more, &[(4, 44), (5, 5)])
        .await;
}

#[tokio::test]
async fn malformed_keys_and_values_change_nothing() {
    let net = Net::new().await;
    net.put_lease("10.3.2.0-24", 2).await;
    net.put("10.3.8.0-24", "nonsense").await;
    net.put("hello", "world").await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[(2, 2)]).await;

    for (key, value) in [
        ("", "x"),
        ("10.3.3.0", "{}"),
        ("10.3.3.0-24/x", "{}"),
        ("10.3.9.0-24", "["),
        ("10.3.9.0-24", r#"{"PublicIP":"0.0.0.0"}"#),
        ("10.3.2.0-24", "no longer JSON"),
    ] {
        net.put(key, value).await;
    }
    net.delete("hello").await;
    net.put_lease("10.3.3.0-24", 3).await;
    let next = notified("the good lease", &mut node.leases).await;
    assert_eq!(pairs(&next), [(2, 2), (3, 3)], "2 keeps what it said last");

    net.put_lease("10.3.8.0-24", 8).await;
    node.others(&[(2, 2), (3, 3), (8, 8)]).await;
    net.delete("10.3.2.0-24").await;
    node.others(&[(3, 3), (8, 8)]).await;
}

#[tokio::test]
async fn a_new_own_subnet_is_left_out_and_the_old_one_comes_in() {
    let net = Net::new().await;
    net.put_lease("10.3.1.0-24", 9).await;
    net.put_lease("10.3.5.0-24", 1).await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[(5, 1)]).await;
    node.own
        .send_modify(|own| own.subnet = crate::support::net("10.3.5.0/24"));
    node.others(&[(1, 9)]).await;
}

#[tokio::test]
async fn many_leases_at_once() {
    let net = Net::new().await;
    for n in 2..=250 {
        net.put_lease(&format!("10.3.{n}.0-24"), n).await;
    }
    let mut node = follow(net.source(), "10.3.1.0/24");
    let all = settled("all leases", &mut node.leases, |leases| !leases.is_empty()).await;
    assert_eq!(all.len(), 249, "the first snapshot is complete");
}

#[tokio::test]
async fn wa7_ends_when_cancelled_also_without_etcd() {
    let mut net = Net::new().await;
    let mut node = follow(net.source(), "10.3.1.0/24");
    node.others(&[]).await;
    net.etcd.kill();
    node.cancel.cancel();
    let ended = tokio::time::timeout(SOON, node.task).await.unwrap();
    ended.unwrap().unwrap();
}
