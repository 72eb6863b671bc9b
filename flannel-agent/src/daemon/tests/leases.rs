//! Leases that change, of others and its own.

use std::time::Duration;

use super::fakes::{Call, Stage, lease, subnet, until, uplink};
use super::started;

#[tokio::test(start_paused = true)]
async fn a_lease_change_only_touches_the_peers() {
    let mut stage = started().await;
    stage.source.leases(&[(2, "192.0.2.2"), (3, "192.0.2.3")]);
    let calls = stage.node.calls(2).await;
    let Call::Peers(wanted) = &calls[1] else {
        panic!("{calls:?}");
    };
    assert!(wanted.leases.contains_key(&subnet(3)));
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_leases_again_are_no_work() {
    let mut stage = started().await;
    stage.source.leases(&[(2, "192.0.2.2")]);
    stage.idle().await;
    assert_eq!(stage.node.so_far().len(), 1);
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_update_is_tried_again_as_a_whole() {
    let mut stage = started().await;
    stage.node.fail(3);
    stage.source.leases(&[]);
    let calls = stage.node.calls(5).await;
    assert!(matches!(calls[1], Call::Peers(_)), "{calls:?}");
    for call in &calls[2..] {
        assert!(
            matches!(call, Call::Reconcile(w) if w.leases.is_empty()),
            "{calls:?}"
        );
    }
    assert!(stage.ready.get(), "what forwards is still there");
    stage.idle().await;
    assert_eq!(stage.node.so_far().len(), 5, "done is done");
    stage.end().await.unwrap();
}

/// Other leases ten times a second, for that long.
async fn leases_never_rest(stage: &Stage, seconds: u64) {
    for n in 0..seconds * 10 {
        let peers: [&[(u8, &str)]; 2] = [&[], &[(3, "192.0.2.3")]];
        stage.source.leases(peers[usize::from(n % 2 == 0)]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_never_rest_do_not_hurry_what_fails() {
    let mut stage = started().await;
    stage.node.fail(usize::MAX);
    leases_never_rest(&stage, 25).await;
    let tries = stage.node.so_far().len() - 1;
    assert!((4..=8).contains(&tries), "{tries}: twice as long each time");
    stage.node.fail(0);
    stage
        .node
        .until(|calls| calls.last().unwrap().wanted().leases.is_empty())
        .await;
    stage.idle().await;
    let calls = stage.node.so_far().len();
    leases_never_rest(&stage, 1).await;
    assert!(stage.node.so_far().len() >= calls + 9, "at once again");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn leases_that_change_faster_than_they_are_followed_hold_up_no_look() {
    let mut stage = started().await;
    stage.node.takes_for_peers(Duration::from_millis(300));
    leases_never_rest(&stage, 5).await;
    let looks = |stage: &Stage| {
        let calls = stage.node.so_far();
        let looks = calls.iter().filter(|c| matches!(c, Call::Reconcile(_)));
        looks.count()
    };
    assert_eq!(looks(&stage), 1, "the first");
    stage.node.announce_change();
    leases_never_rest(&stage, 5).await;
    assert_eq!(looks(&stage), 2, "because of the kernel");
    leases_never_rest(&stage, 35).await;
    assert_eq!(looks(&stage), 3, "the timer's");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_subnet_is_planned_and_written() {
    let mut stage = started().await;
    stage.source.own(lease(9, "192.0.2.1"));
    let calls = stage.node.calls(2).await;
    assert!(
        matches!(&calls[1], Call::Reconcile(w) if w.own.subnet == subnet(9)),
        "{calls:?}"
    );
    stage.subnet_env_has("FLANNEL_SUBNET=10.1.9.1/24").await;
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_no_work() {
    let mut stage = started().await;
    let mut renewed = lease(1, "192.0.2.1");
    renewed.expires = Some(std::time::Instant::now());
    stage.source.own(renewed);
    stage.idle().await;
    assert_eq!(stage.node.so_far().len(), 1);
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_uplink_leases_are_still_followed() {
    let mut stage = started().await;
    stage.node.lose_uplink();
    stage.node.announce_change();
    let calls = stage.node.calls(2).await;
    assert_eq!(calls[1].wanted().uplink, uplink("192.0.2.1"));
    stage.source.leases(&[]);
    stage
        .node
        .until(|calls| calls.last().unwrap().wanted().leases.is_empty())
        .await;
    stage.node.set_uplink(uplink("192.0.2.5"));
    stage.source.publishes("192.0.2.5").await;
    stage.end().await.unwrap();
}

/// What is missing is looked for as seldom while leases change as otherwise, and told of; they touch the peers alone.
#[tokio::test(start_paused = true)]
async fn leases_that_never_rest_do_not_hurry_the_look_for_an_uplink() {
    let mut stage = started().await;
    stage.node.lose_uplink();
    stage.node.announce_change();
    leases_never_rest(&stage, 25).await;
    let calls = stage.node.so_far();
    let looks = calls.iter().filter(|c| matches!(c, Call::Reconcile(_)));
    let looks = looks.count() - 1;
    assert!((4..=8).contains(&looks), "{looks}: twice as long each time");
    let peers = calls.len() - 1 - looks;
    assert!(peers >= 240, "{peers}: each change at once");
    assert_eq!(stage.page().failing.unwrap().error, "no uplink");
    stage.node.fail(1);
    stage.source.leases(&[(7, "192.0.2.7")]);
    let has_failed = || stage.page().failing.unwrap().error == "no uplink";
    stage
        .node
        .until(|calls| matches!(calls.last(), Some(Call::Reconcile(w)) if w.leases.contains_key(&subnet(7))))
        .await;
    assert!(has_failed(), "the next look made it good");
    stage.node.set_uplink(uplink("192.0.2.1"));
    until(|| stage.page().failing.is_none()).await;
    stage.end().await.unwrap();
}
