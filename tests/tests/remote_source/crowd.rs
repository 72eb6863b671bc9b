//! Many clients at one server.

use std::net::SocketAddr;
use std::time::Duration;

use flannel_agent::flannel::lease::{Leases, OwnLease};
use flannel_agent::flannel::remote::Watched;
use flannel_agent::settings::remote::ServerOptions;
use flannel_agent::source::LeaseSource as _;
use flannel_tests::free_port::free_port;
use flannel_tests::wait::SOON;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Net, Served, attrs, eventually, options, pairs, settled};

const CLIENTS: usize = 300;

/// An answer to a long poll, or nothing if the connection broke.
async fn poll(address: SocketAddr, cursor: &str) -> Option<Watched> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = format!("GET /v1/_/leases?next={cursor} HTTP/1.0\r\nHost: server\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Watched::from_json(body.as_bytes()).ok()
}

/// What a client does that lives through everything: the subnets it knows when it knows `last`.
async fn follow(address: SocketAddr, mut cursor: String, last: &str) {
    loop {
        let Some(watched) = poll(address, &cursor).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        cursor = watched.cursor.clone();
        if format!("{watched:?}").contains(last) {
            return;
        }
    }
}

#[tokio::test]
async fn one_change_is_told_to_all_over_one_watch_of_etcd() {
    let net = Net::new().await;
    let server = net.server().await;
    let cursor = server.snapshot().await.cursor;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (address, cursor) = (server.address, cursor.clone());
        clients.spawn(async move { follow(address, cursor, "10.3.9.0/24").await });
    }
    eventually("one watch", || async {
        let watchers = net.watchers().await;
        assert!(watchers <= 1, "{watchers}");
        (watchers == 1).then_some(())
    })
    .await;
    net.put_lease(9, 9).await;
    let all = async { while clients.join_next().await.is_some() {} };
    tokio::time::timeout(SOON, all)
        .await
        .expect("everybody hears of it");
    assert_eq!(net.watchers().await, 1);
}

/// A thousand nodes as the daemon has them. Whether they come back in step, `source/etcd/patience.rs` tests.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_restarted_under_a_thousand_nodes_serves_them_again() {
    const NODES: usize = 1000;
    let net = Net::new().await;
    let room = |address: &str| ServerOptions {
        connections: NODES + 100,
        ..options(address)
    };
    let address = format!("127.0.0.1:{}", free_port());
    let server = Served::start(&net.options(), room(&address)).await;
    let own = OwnLease {
        subnet: crate::support::net("10.3.255.0/24"),
        attrs: attrs(255),
        expires: None,
    };
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let nodes: Vec<watch::Receiver<Leases>> = (0..NODES)
        .map(|_| {
            let source = server.source();
            let (sender, receiver) = watch::channel(Leases::default());
            let (own, cancel) = (watch::channel(own.clone()).1, cancel.clone());
            tokio::spawn(async move {
                source
                    .follow(own, Leases::default(), &sender, &cancel)
                    .await
            });
            receiver
        })
        .collect();
    let all_know = async |expected: &[(u8, u8)]| {
        for node in &nodes {
            let what = format!("leases {expected:?}");
            settled(&what, &mut node.clone(), |leases| pairs(leases) == expected).await;
        }
    };
    net.put_lease(8, 8).await;
    all_know(&[(8, 8)]).await;
    assert_eq!(net.watchers().await, 1);

    server.stop().await;
    // What they know they keep, and what happens meanwhile they hear of.
    net.delete("subnets/10.3.8.0-24").await;
    net.put_lease(9, 9).await;
    assert!(nodes.iter().all(|node| pairs(&node.borrow()) == [(8, 8)]));
    let reads = net.reads().await;
    let _server = Served::start(&net.options(), room(&address)).await;
    all_know(&[(9, 9)]).await;
    net.put_lease(10, 10).await;
    all_know(&[(9, 9), (10, 10)]).await;
    assert_eq!(net.watchers().await, 1);
    // The herd ends at the server: neither a list nor a look at the configuration for each.
    let reads = net.reads().await - reads;
    assert!(reads < 20, "{reads}");
}

#[tokio::test]
async fn who_reads_nothing_holds_up_nobody() {
    let net = Net::new().await;
    // An answer that no buffer of the kernel takes whole.
    let padding = "x".repeat(4000);
    for third in 1..=200u8 {
        let value = format!(r#"{{"PublicIP":"192.0.2.9","BackendData":{{"x":"{padding}"}}}}"#);
        for half in [0, 128] {
            net.put(&format!("subnets/10.3.{third}.{half}-25"), &value)
                .await;
        }
    }
    let server = net.server().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = b"GET /v1/_/leases HTTP/1.1\r\nHost: server\r\n\r\n";
        stream.write_all(head).await.unwrap();
        // Nor do those who never end their question.
        let mut half = TcpStream::connect(server.address).await.unwrap();
        half.write_all(b"GET /v1/_/leases HT").await.unwrap();
        slow.push((stream, half));
    }
    assert_eq!(server.snapshot().await.snapshot.len(), 400);
    assert_eq!(server.get("/v1/_/config").await.0, 200);
}
