//! Reaching etcd: several endpoints, dead ones, a login.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use flannel_agent::source::LeaseSource;
use flannel_agent::source::etcd::{EtcdOptions, EtcdSource, Login};
use flannel_tests::etcd::Etcd;
use flannel_tests::gate::Gate;
use tokio_util::sync::CancellationToken;

use crate::support::{Following, Net, PREFIX, attrs, eventually, follow, keep, public_ip, request};

/// A port on which nobody listens, and which nobody else gets meanwhile.
fn dead_endpoint() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn config_through(endpoints: Vec<String>) -> anyhow::Result<()> {
    let source = EtcdSource::new(&EtcdOptions::new(endpoints, PREFIX)).unwrap();
    // Several calls: each would meet the dead endpoint if it were asked again.
    for _ in 0..4 {
        source.read_network_config().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let net = Net::new().await;
    let (listener, dead) = dead_endpoint();
    drop(listener);
    for endpoints in [[dead.clone(), net.etcd.url()], [net.etcd.url(), dead]] {
        config_through(endpoints.into()).await.unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_passed_over() {
    let net = Net::new().await;
    // The kernel completes the connection; nobody ever reads from it.
    let (_listener, silent) = dead_endpoint();
    config_through(vec![silent, net.etcd.url()]).await.unwrap();
}

#[tokio::test]
async fn without_any_endpoint_the_error_names_them_all() {
    let (listener, one) = dead_endpoint();
    let (other_listener, other) = dead_endpoint();
    drop((listener, other_listener));
    let error = config_through(vec![one.clone(), other.clone()])
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    for part in [
        one.as_str(),
        &other,
        "onnection refused",
        "--etcd-endpoints",
    ] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// Of two endpoints the first is behind the gate, and followed.
async fn follow_through_a_gate(net: &Net) -> (Gate, Following) {
    let gate = Gate::to(net.etcd.address()).await;
    let options = EtcdOptions::new(vec![gate.url(), net.etcd.url()], PREFIX);
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    (gate, node)
}

#[tokio::test]
async fn a_watch_moves_on_to_the_next_endpoint() {
    let net = Net::new().await;
    let (gate, mut node) = follow_through_a_gate(&net).await;
    gate.close();
    net.put_lease("10.3.3.0-24", 3).await;
    node.others(&[(2, 2), (3, 3)]).await;
}

#[tokio::test]
async fn a_watch_at_an_endpoint_that_fell_silent_moves_on() {
    let net = Net::new().await;
    let (gate, mut node) = follow_through_a_gate(&net).await;
    gate.freeze();
    net.put_lease("10.3.3.0-24", 3).await;
    // Only missing keep-alives and calls without an answer tell: both have time limits.
    let limits = Duration::from_secs(60);
    node.others_within(limits, &[(2, 2), (3, 3)]).await;
}

#[tokio::test]
async fn a_login_that_ran_out_is_renewed_by_a_node_that_only_follows() {
    let mut net = Net::new().await;
    net.client.user_add("root", "secret", None).await.unwrap();
    net.client.user_grant_role("root", "root").await.unwrap();
    net.client.auth_enable().await.unwrap();
    let mut options = net.options();
    login(&mut options, "root", "secret");
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    node.others(&[]).await;
    // etcd keeps simple tokens in memory only.
    net.etcd.restart();
    let source = EtcdSource::new(&options).unwrap();
    let cancel = CancellationToken::new();
    let request = request(2, Some("10.3.2.0/24"));
    source
        .acquire(&net.config, &request, &cancel)
        .await
        .unwrap();
    node.others(&[(2, 2)]).await;
}

#[tokio::test]
async fn bare_host_and_port_and_an_untidy_prefix() {
    let net = Net::new().await;
    let (host, port) = net.etcd.address();
    let options = EtcdOptions::new(vec![format!("{host}:{port}")], "//coreos.com/network//");
    let source = EtcdSource::new(&options).unwrap();
    assert_eq!(source.read_network_config().await.unwrap(), net.config);
}

fn login(options: &mut EtcdOptions, username: &str, password: &str) {
    options.login = Some(Login {
        username: username.to_owned(),
        password: password.to_owned(),
    });
}

#[tokio::test]
async fn a_login_is_used_and_a_wrong_one_is_named() {
    let mut net = Net::new().await;
    let mut options = net.options();
    login(&mut options, "root", "secret");
    // Before etcd asks for one, a login does no harm.
    let source = EtcdSource::new(&options).unwrap();
    source.read_network_config().await.unwrap();

    net.client.user_add("root", "secret", None).await.unwrap();
    net.client.user_grant_role("root", "root").await.unwrap();
    net.client.auth_enable().await.unwrap();

    let source = EtcdSource::new(&options).unwrap();
    let cancel = CancellationToken::new();
    let own = source
        .acquire(&net.config, &request(1, Some("10.3.5.0/24")), &cancel)
        .await
        .unwrap();
    assert_eq!(own.subnet.to_string(), "10.3.5.0/24");
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    node.others(&[(5, 1)]).await;

    login(&mut options, "root", "wrong");
    let wrong = EtcdSource::new(&options).unwrap();
    let error = wrong.read_network_config().await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("--etcd-password"), "{error}");

    let without = net.source();
    let error = without
        .acquire(&net.config, &request(2, None), &cancel)
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("--etcd-username"), "{error}");
}

async fn enable_auth(net: &mut Net) {
    net.client.user_add("root", "secret", None).await.unwrap();
    net.client.user_grant_role("root", "root").await.unwrap();
    net.client.auth_enable().await.unwrap();
    log_in(net).await;
}

/// What looks and meddles needs a login, too.
async fn log_in(net: &mut Net) {
    let user = etcd_client::ConnectOptions::new().with_user("root", "secret");
    let client = etcd_client::Client::connect([net.etcd.url()], Some(user)).await;
    net.client = client.unwrap();
}

/// A node that has a login keeps its lease and follows the others', through what happens to etcd.
async fn keeps_and_follows_through(net: &mut Net, happens: impl AsyncFnOnce(&mut Net)) {
    let mut options = net.options();
    login(&mut options, "root", "secret");
    let source = EtcdSource::new(&options).unwrap();
    let cancel = CancellationToken::new();
    let own = source
        .acquire(&net.config, &request(1, Some("10.3.1.0/24")), &cancel)
        .await
        .unwrap();
    let gate = Gate::to(net.etcd.address()).await;
    options.endpoints = vec![gate.url()];
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    node.others(&[]).await;
    let keeping = keep(source, &net.config, own);

    happens(net).await;

    // What was open before goes on in any case.
    gate.close();
    gate.open();
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    keeping.attrs.send_replace(attrs(9));
    let written = attrs(9).to_json().unwrap();
    eventually("the lease is written", || async {
        (net.value("10.3.1.0-24").await? == written).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_login_is_used_from_when_etcd_asks_for_one() {
    let mut net = Net::new().await;
    keeps_and_follows_through(&mut net, enable_auth).await;
}

#[tokio::test]
async fn a_login_of_before_users_or_roles_changed_is_made_anew() {
    let config = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#;
    let mut net = Net::of(Etcd::start_signing_tokens(), config).await;
    enable_auth(&mut net).await;
    keeps_and_follows_through(&mut net, async |net| {
        let added = net.client.user_add("somebody", "else", None).await;
        added.unwrap();
        log_in(net).await;
    })
    .await;
}

/// As when the address goes from which the connection was made: nobody answers, and nobody refuses.
#[tokio::test]
async fn what_hangs_on_a_dead_connection_is_given_up_when_the_node_s_address_changes() {
    let net = Net::new().await;
    let (gate, source) = net.gated().await;
    let source = Arc::new(source);
    let mut node = follow(source.clone(), "10.3.1.0/24");
    node.others(&[]).await;
    gate.freeze();
    let mut asking = Box::pin(source.find_lease(public_ip(2)));
    tokio::select! {
        biased;
        answer = &mut asking => panic!("{answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    source.reconnect();
    let error = asking.await.unwrap_err().to_string();
    assert!(error.contains("address has changed"), "{error}");
    // What comes from now on passes.
    gate.open();
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    assert!(source.find_lease(public_ip(2)).await.unwrap().is_some());
}
