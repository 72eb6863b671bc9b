//! The files that the agent writes for others.

use super::fakes::{Stage, until, uplink};
use super::started;

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
