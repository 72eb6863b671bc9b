//! The run loop between a datastore and a node that are played. Time is tokio's and stands still
//! unless everybody waits, so back-off and timers cost nothing.

mod fakes;
mod files;
mod leases;
mod pace;
mod starting;

use fakes::{Stage, subnet, until, uplink};

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

#[tokio::test(start_paused = true)]
async fn the_end_takes_nothing_away() {
    let mut stage = started().await;
    stage.end().await.unwrap();
    assert_eq!(stage.node.so_far().len(), 1);
    assert!(stage.subnet_file().exists());
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
