//! Our client at the routes of flanneld 0.7, which takes no other path for any of them (`RunServer` in its remote/server.go).

use std::net::SocketAddr;

use flannel_agent::source::{LeaseRequest, LeaseSource as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{Net, Running, attrs, net, pairs, public_ip, settled, source};

fn is_route(method: &str, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    match (method, &parts[..]) {
        ("GET", ["", "v1", ""]) => true,
        ("GET", ["", "v1", network, "config"])
        | ("GET" | "POST", ["", "v1", network, "leases" | "reservations"]) => !network.is_empty(),
        ("GET" | "PUT" | "DELETE", ["", "v1", network, "leases", subnet])
        | ("DELETE", ["", "v1", network, "reservations", subnet]) => {
            !network.is_empty() && !subnet.is_empty()
        }
        _ => false,
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut head).await.is_ok_and(|read| read == 0) {
            return;
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    if !is_route(method, target) {
        let none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n";
        return client.write_all(none).await.unwrap();
    }
    let mut server = TcpStream::connect(server).await.unwrap();
    server.write_all(&head).await.unwrap();
    // Whoever ends it, and how, is the test's affair.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// Where `server` has the old routes alone.
async fn before(server: SocketAddr) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let passing = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, server));
        }
    });
    (address, AbortOnDropHandle::new(passing))
}

#[tokio::test]
async fn a_node_lives_by_the_old_routes() {
    let etcd = Net::new().await;
    let server = etcd.server().await;
    let (address, _passing) = before(server.address).await;
    let source = source(&[address.to_string()]);
    let cancel = CancellationToken::new();
    assert_eq!(source.network_config(&cancel).await.unwrap(), etcd.config);
    for (n, previous) in [(2, None), (1, Some(net("10.3.77.0/24")))] {
        let request = LeaseRequest {
            attrs: attrs(n),
            previous,
        };
        source
            .acquire(&etcd.config, &request, &cancel)
            .await
            .unwrap();
    }
    let own = source.previous_lease(public_ip(1), &cancel).await.unwrap();
    let own = own.unwrap();
    assert_eq!(own.subnet, net("10.3.77.0/24"));
    assert_eq!(pairs(&source.leases(&cancel).await.unwrap()).len(), 2);
    assert!(!source.has_network("blue").await.unwrap());

    let source = std::sync::Arc::new(source);
    let mut node = Running::start(std::sync::Arc::clone(&source), own.clone(), &etcd);
    settled("the other", &mut node.leases, |leases| leases.len() == 1).await;
    etcd.put_lease(9, 9).await;
    settled("a third", &mut node.leases, |leases| leases.len() == 2).await;
    node.attrs.send_replace(attrs(7));
    let renewed = settled("the address is told", &mut node.own, |own| {
        own.attrs == attrs(7)
    })
    .await;
    drop(node);
    source.release(&renewed).await.unwrap();
    assert!(!etcd.leases().await.contains_key("10.3.77.0-24"));
}
