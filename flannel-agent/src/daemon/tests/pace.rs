//! How soon and how often the node is looked at.

use std::time::Duration;

use super::fakes::Call;
use super::started;

#[tokio::test(start_paused = true)]
async fn many_link_events_are_one_reconcile() {
    let mut stage = started().await;
    for _ in 0..10 {
        stage.node.announce_change();
        tokio::task::yield_now().await;
    }
    stage.node.calls(2).await;
    stage.idle().await;
    let calls = stage.node.so_far();
    assert!(matches!(&calls[1..], [Call::Reconcile(_)]), "{calls:?}");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn links_that_never_rest_take_a_tenth_of_the_time() {
    let mut stage = started().await;
    stage.node.takes(Duration::from_millis(500));
    // Less than the drift timer's period.
    for _ in 0..250 {
        stage.node.announce_change();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let looks = stage.node.so_far().len() - 1;
    assert!((4..=6).contains(&looks), "{looks}");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_slow_look_a_change_waits_some_seconds_and_not_for_the_drift_timer() {
    let mut stage = started().await;
    stage.node.takes(Duration::from_secs(3));
    stage.node.announce_change();
    // Three seconds each, and five in between.
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.node.announce_change();
    stage.idle().await;
    assert_eq!(stage.node.so_far().len(), 3, "the first, and one for each");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_slow_look_another_mtu_of_the_uplink_does_not_wait() {
    let mut stage = started().await;
    stage.node.takes(Duration::from_secs(3));
    stage.node.announce_change();
    stage.node.calls(2).await;
    stage.node.takes(Duration::ZERO);
    // One that waits already does not hold it up.
    stage.node.announce_change();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stage.node.so_far().len(), 2);
    stage.node.announce_urgent_change();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stage.node.so_far().len(), 3);
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_does_not_wait_for_what_may_follow() {
    let mut stage = started().await;
    stage.idle().await;
    // The clock of the test: it does not go on while somebody has work to do.
    let begun = tokio::time::Instant::now();
    stage.node.announce_urgent_change();
    stage.node.calls(2).await;
    assert!(begun.elapsed() < Duration::from_millis(50));
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_again_and_again_leaves_pauses() {
    let mut stage = started().await;
    for _ in 0..1000 {
        stage.node.announce_urgent_change();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let looks = stage.node.so_far().len() - 1;
    assert!((50..=100).contains(&looks), "{looks} in ten seconds");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_follows_something_urgent_waits_no_longer_for_it() {
    let mut stage = started().await;
    stage.idle().await;
    stage.node.takes(Duration::from_millis(500));
    stage.node.announce_urgent_change();
    stage.node.calls(2).await;
    stage.node.takes(Duration::ZERO);
    let begun = tokio::time::Instant::now();
    stage.node.announce_change();
    stage.node.calls(3).await;
    assert!(begun.elapsed() < Duration::from_millis(500));
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_timer_compares_everything() {
    let mut stage = started().await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    let calls = stage.node.calls(2).await;
    assert!(matches!(calls[1], Call::Reconcile(_)), "{calls:?}");
    stage.end().await.unwrap();
}
