//! The network configuration in etcd.

use flannel_agent::source::{Cancelled, LeaseSource};
use flannel_tests::wait::SOON;
use tokio_util::sync::CancellationToken;

use crate::support::{Net, PREFIX};

#[tokio::test]
async fn er1_a_missing_config_is_told_from_a_bad_one() {
    let mut net = Net::new().await;
    let source = net.source();
    assert_eq!(source.read_network_config().await.unwrap(), net.config);

    let key = format!("{PREFIX}/config");
    net.client.put(key.as_str(), "{", None).await.unwrap();
    let bad = format!("{:#}", source.read_network_config().await.unwrap_err());
    assert!(bad.contains(&key) && bad.contains("not JSON"), "{bad}");

    net.client.delete(key.as_str(), None).await.unwrap();
    let missing = format!("{:#}", source.read_network_config().await.unwrap_err());
    assert!(
        missing.contains(&format!("{key} does not exist")),
        "{missing}"
    );
}

#[tokio::test]
async fn waits_until_there_is_a_config() {
    let mut net = Net::new().await;
    let key = format!("{PREFIX}/config");
    net.client.delete(key.as_str(), None).await.unwrap();
    let source = net.source();
    let waiting =
        tokio::spawn(async move { source.network_config(&CancellationToken::new()).await });
    let json = r#"{"network":"10.9.0.0/16","backend":{"type":"vxlan"}}"#;
    net.client.put(key.as_str(), json, None).await.unwrap();
    let config = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(config.unwrap().network.to_string(), "10.9.0.0/16");
}

#[tokio::test]
async fn wa7_waiting_for_a_config_ends_when_cancelled() {
    let mut net = Net::new().await;
    net.client
        .delete(format!("{PREFIX}/config"), None)
        .await
        .unwrap();
    let source = net.source();
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let waiting = tokio::spawn(async move { source.network_config(&token).await });
    cancel.cancel();
    let error = tokio::time::timeout(SOON, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(error.is::<Cancelled>(), "{error:#}");
}
