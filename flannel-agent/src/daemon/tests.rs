//! The run loop between a datastore and a node that are played. Time is tokio's and stands still
//! unless everybody waits, so back-off and timers cost nothing.

mod fakes;

use std::sync::Arc;
use std::time::Duration;

use fakes::{Call, FLANNELDS, Stage, lease, subnet, until, uplink};

/// A started stage: the node was brought up once.
async fn started() -> Stage {
    let mut stage = Stage::new();
    stage.source.leases(&[(2, "192.0.2.2")]);
    stage.start();
    stage.node.calls(1).await;
    stage.is_ready().await;
    stage
}

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
async fn a_new_uplink_address_is_published_and_the_subnet_kept() {
    let mut stage = started().await;
    stage.node.set_uplink(uplink("192.0.2.77"));
    stage.node.announce_change();
    let calls = stage.node.calls(2).await;
    let wanted = calls[1].wanted();
    assert_eq!(wanted.uplink, uplink("192.0.2.77"));
    assert_eq!(wanted.own.subnet, subnet(1));
    stage.source.publishes("192.0.2.77").await;
    // The old address took the connections along.
    until(|| stage.source.reconnects() == 1).await;
    stage.end().await.unwrap();
}

/// A flanneld that was started by mistake, an editor.
#[tokio::test(start_paused = true)]
async fn what_somebody_else_writes_into_the_subnet_file_is_put_right() {
    let mut stage = started().await;
    stage.subnet_env_has("FLANNEL_MTU=1450").await;
    std::fs::write(stage.subnet_file(), "FLANNEL_MTU=1400\n").unwrap();
    stage.node.announce_change();
    stage.subnet_env_has("FLANNEL_MTU=1450").await;
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_smaller_uplink_mtu_reaches_the_subnet_file() {
    let mut stage = started().await;
    let mut smaller = uplink("192.0.2.1");
    smaller.mtu = 1400;
    stage.node.set_uplink(smaller);
    stage.node.announce_change();
    stage.subnet_env_has("FLANNEL_MTU=1350").await;
    stage.idle().await;
    assert_eq!(stage.source.reconnects(), 0, "no reason");
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

#[tokio::test(start_paused = true)]
async fn the_timer_compares_everything() {
    let mut stage = started().await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    let calls = stage.node.calls(2).await;
    assert!(matches!(calls[1], Call::Reconcile(_)), "{calls:?}");
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unwritable_subnet_file_delays_readiness_only() {
    let mut stage = Stage::new();
    // A folder in the way of the file: even root cannot write it.
    std::fs::create_dir(stage.subnet_file()).unwrap();
    stage.source.leases(&[]);
    stage.start();
    stage.node.calls(1).await;
    stage.idle().await;
    assert!(!stage.ready.get());
    std::fs::remove_dir(stage.subnet_file()).unwrap();
    stage.is_ready().await;
    assert!(stage.subnet_file().is_file());
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_named_until_it_is() {
    let mut stage = started().await;
    let folder = stage.subnet_file().with_file_name("net.d");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    stage.node.announce_change();
    until(|| stage.page().complaint.is_some()).await;
    let complaint = stage.page().complaint.unwrap();
    assert!(complaint.contains("net.d"), "{complaint}");
    assert!(!stage.ready.get(), "it was ready before");
    assert_eq!(stage.ready.why_not(), Some(complaint));

    std::fs::remove_file(&folder).unwrap();
    stage.is_ready().await;
    until(|| stage.page().complaint.is_none()).await;
    assert!(folder.join("10-flannel.conflist").is_file());

    std::fs::remove_file(stage.subnet_file()).unwrap();
    std::fs::create_dir(stage.subnet_file()).unwrap();
    let mut smaller = uplink("192.0.2.1");
    smaller.mtu = 1400;
    stage.node.set_uplink(smaller);
    stage.node.announce_change();
    until(|| stage.page().complaint.is_some()).await;
    let complaint = stage.page().complaint.unwrap();
    assert!(complaint.contains("subnet.env"), "{complaint}");
    assert_eq!(stage.ready.why_not(), Some(complaint));
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_cni_network_follows_subnet_and_mtu() {
    let mut stage = started().await;
    let file = stage
        .subnet_file()
        .with_file_name("net.d")
        .join("10-flannel.conflist");
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    stage.is_ready().await;
    assert!(text().contains("10.1.1.0/24"), "{}", text());
    let mut smaller = uplink("192.0.2.1");
    smaller.mtu = 1400;
    stage.node.set_uplink(smaller);
    stage.node.announce_change();
    stage.subnet_env_has("FLANNEL_MTU=1350").await;
    stage.idle().await;
    assert!(text().contains("1350"), "{}", text());
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_subnet_file_comes_back() {
    let mut stage = started().await;
    std::fs::remove_file(stage.subnet_file()).unwrap();
    stage.subnet_env_has("FLANNEL_SUBNET=10.1.1.1/24").await;
    stage.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_takes_nothing_away() {
    let mut stage = started().await;
    stage.end().await.unwrap();
    assert_eq!(stage.node.so_far().len(), 1);
    assert!(stage.subnet_file().exists());
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

#[tokio::test(start_paused = true)]
async fn a_datastore_that_gives_up_ends_the_agent() {
    let mut stage = started().await;
    stage.source.break_down();
    let error = stage.ended().await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("follow the leases"), "{text}");
    assert!(text.contains("etcd is no more"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_was_done_and_why_is_written_down() {
    let mut stage = started().await;
    until(|| stage.page().last.is_some()).await;
    let page = stage.page();
    assert_eq!(page.lease.unwrap().subnet, subnet(1));
    let first = page.last.unwrap();
    assert_eq!(
        (first.causes, first.done),
        (words(&["the start"]), words(&["play"]))
    );

    stage.source.leases(&[(2, "192.0.2.2"), (3, "192.0.2.3")]);
    let leases = words(&["leases of others changed"]);
    until(|| stage.page().last.unwrap().causes == leases).await;

    stage.node.fail(1);
    stage.node.announce_change();
    until(|| stage.page().failing.is_some()).await;
    assert_eq!(stage.page().failing.unwrap().error, "kernel says no");
    let both = words(&["the kernel announced changes", "another try"]);
    until(|| stage.page().last.unwrap().causes == both).await;
    assert_eq!(stage.page().failing, None);
    stage.end().await.unwrap();
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
