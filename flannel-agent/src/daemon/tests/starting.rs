//! From nothing to ready.

use std::sync::Arc;

use super::fakes::{Call, FLANNELDS, Stage, lease, subnet, uplink};
use super::started;

#[tokio::test(start_paused = true)]
async fn starts_in_order_and_is_ready_at_the_end() {
    let mut stage = Stage::new();
    stage.source.leases(&[(2, "192.0.2.2"), (3, "192.0.2.3")]);
    stage.start();
    let calls = stage.node.calls(1).await;
    let [Call::Reconcile(wanted)] = &calls[..] else {
        panic!("{calls:?}");
    };
    assert_eq!(wanted.own.subnet, subnet(1));
    assert_eq!(wanted.leases.len(), 2);
    assert_eq!(wanted.uplink, uplink("192.0.2.1"));
    stage.is_ready().await;
    assert_eq!(
        stage.subnet_env(),
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn touches_nothing_before_the_peers_are_known() {
    let mut stage = Stage::new();
    stage.start();
    stage.source.is_followed().await;
    stage.idle().await;
    assert_eq!(
        stage.node.so_far(),
        [],
        "an adopted dataplane would lose its peers"
    );
    assert!(!stage.ready.get());
    stage.source.leases(&[]);
    stage.node.calls(1).await;
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_datastore_is_told_whom_the_node_reaches() {
    let mut stage = Stage::new();
    let reached = [(subnet(5), lease(5, "192.0.2.5").attrs)];
    stage.node.reaches(Arc::new(reached.clone().into()));
    stage.source.leases(&[]);
    stage.start();
    stage.node.calls(1).await;
    assert_eq!(*stage.source.known(), reached.into());
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_published_mac_is_kept() {
    let mut stage = Stage::new();
    stage.source.published(lease(7, "192.0.2.1"));
    stage.source.leases(&[]);
    stage.start();
    let calls = stage.node.calls(1).await;
    assert_eq!(calls[0].wanted().own.attrs, lease(7, "192.0.2.1").attrs);
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_previous_subnet_is_asked_for() {
    let mut stage = Stage::new();
    std::fs::write(stage.subnet_file(), "FLANNEL_SUBNET=10.1.44.1/24\n").unwrap();
    stage.source.leases(&[]);
    stage.start();
    stage.node.calls(1).await;
    assert_eq!(stage.source.request().previous, Some(subnet(44)));
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_first_reconcile_ends_the_start() {
    let mut stage = Stage::new();
    stage.source.leases(&[]);
    stage.node.fail(1);
    stage.start();
    let error = stage.ended().await.unwrap_err();
    assert!(format!("{error:#}").contains("kernel says no"), "{error:#}");
    assert!(!stage.ready.get());
    assert!(!stage.subnet_file().exists());
}

#[tokio::test(start_paused = true)]
async fn no_uplink_ends_the_start_before_a_lease_is_taken() {
    let mut stage = Stage::new();
    stage.node.lose_uplink();
    stage.start();
    let error = stage.ended().await.unwrap_err();
    assert!(format!("{error:#}").contains("no uplink"), "{error:#}");
    assert!(!stage.source.was_asked());
}

/// flanneld was started: its device is what peers shall send to.
#[tokio::test(start_paused = true)]
async fn whoever_is_taken_over_is_not_ready_and_says_the_others_mac() {
    let mut stage = started().await;
    stage.node.is_flannelds(true);
    stage.node.announce_change();
    stage
        .source
        .publishes_what(|attrs| *attrs == lease(FLANNELDS, "192.0.2.1").attrs)
        .await;
    assert!(!stage.ready.get());
    assert!(stage.page().failing.is_some());
    stage.node.is_flannelds(false);
    stage.node.announce_change();
    stage.is_ready().await;
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cancelled_while_the_configuration_is_missing() {
    let mut stage = Stage::new();
    stage.source.without_config();
    stage.start();
    stage.idle().await;
    stage.end().await.unwrap();
    assert_eq!(stage.node.so_far(), []);
}
