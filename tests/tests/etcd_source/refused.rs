//! Writes that etcd refuses: each begins with an etcd lease of a day, and leaves none behind.

use std::net::Ipv4Addr;

use etcd_client::{Client, ConnectOptions, Permission};
use flannel_agent::source::LeaseSource;
use flannel_agent::source::etcd::registry::{Registry, Rights};
use flannel_agent::source::etcd::{EtcdOptions, EtcdSource, Login};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::support::{Net, attrs, net, request};

const SUBNET: &str = "10.3.5.0/24";

/// A user who may read all and write nothing, and whoever may do all.
async fn with_a_reader(net: &mut Net) -> (EtcdOptions, Client) {
    let client = &mut net.client;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    let all = Permission::read("/").with_prefix();
    client.role_grant_permission("reader", all).await.unwrap();
    client.user_add("reader", "secret", None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
    client.auth_enable().await.unwrap();
    let login = ConnectOptions::new().with_user("root", "secret");
    let root = Client::connect([net.etcd.url()], Some(login)).await;
    let mut options = net.options();
    options.login = Some(Login {
        username: "reader".to_owned(),
        password: "secret".to_owned(),
    });
    (options, root.unwrap())
}

async fn etcd_leases(root: &Client) -> Vec<i64> {
    let leases = root.clone().leases().await.unwrap();
    leases.leases().iter().map(|lease| lease.id()).collect()
}

/// The etcd leases that are there before.
async fn before(net: &Net, is_held: bool) -> Vec<i64> {
    if !is_held {
        return Vec::new();
    }
    net.acquire(1, Some(SUBNET)).await.unwrap();
    vec![net.get("10.3.5.0-24").await.unwrap().lease()]
}

#[rstest]
#[tokio::test]
async fn a_lease_that_may_not_be_written_leaves_nothing_behind(
    #[values(false, true)] is_held: bool,
) {
    let mut net = Net::new().await;
    let before = before(&net, is_held).await;
    let (options, root) = with_a_reader(&mut net).await;
    let source = EtcdSource::new(&options).unwrap();
    let (request, cancel) = (request(1, Some(SUBNET)), CancellationToken::new());
    for _ in 0..3 {
        let error = source.acquire(&net.config, &request, &cancel).await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("may read and write below"), "{error}");
    }
    assert_eq!(etcd_leases(&root).await, before);
}

#[rstest]
#[tokio::test]
async fn a_server_leaves_nothing_behind_of_what_it_may_not_write(
    #[values(false, true)] is_held: bool,
) {
    let mut net = Net::new().await;
    let before = before(&net, is_held).await;
    let (options, root) = with_a_reader(&mut net).await;
    let registry = Registry::new(&options).unwrap();
    let may = |_: Ipv4Addr| true;
    let rights = Rights {
        may: &may,
        most: None,
    };
    let (subnet, node) = (self::net(SUBNET), attrs(1));
    for _ in 0..3 {
        let acquired = registry.acquire(&node, Some(subnet), rights).await;
        let renewed = registry.renew(subnet, &node, None, rights).await;
        for error in [acquired.unwrap_err(), renewed.unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("may read and write below"), "{error}");
        }
    }
    assert_eq!(etcd_leases(&root).await, before);
}
