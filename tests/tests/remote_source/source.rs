//! Our own lease source at one server, or two.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_agent::flannel::lease::LeaseAttrs;
use flannel_agent::source::etcd::EtcdSource;
use flannel_agent::source::remote::{RemoteOptions, RemoteSource};
use flannel_agent::source::{LeaseRequest, LeaseSource};
use flannel_tests::gate::Gate;
use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Net, Running, Served, attrs, net, options, pairs, public_ip, settled, source,
};

fn request(n: u8, previous: Option<&str>) -> LeaseRequest {
    LeaseRequest {
        attrs: attrs(n),
        previous: previous.map(net),
    }
}

async fn acquire(source: &impl LeaseSource, etcd: &Net, n: u8) -> Ipv4Net {
    let cancel = CancellationToken::new();
    let request = request(n, None);
    let own = source
        .acquire(&etcd.config, &request, &cancel)
        .await
        .unwrap();
    own.subnet
}

#[tokio::test]
async fn a_lease_is_taken_found_again_and_the_subnet_of_before_is_kept() {
    let etcd = Net::new().await;
    let server = etcd.server().await;
    let source = server.source();
    let cancel = CancellationToken::new();
    assert_eq!(source.network_config(&cancel).await.unwrap(), etcd.config);
    assert!(!source.is_silent().await);
    let before = request(1, Some("10.3.77.0/24"));
    let own = source
        .acquire(&etcd.config, &before, &cancel)
        .await
        .unwrap();
    assert_eq!(own.subnet.to_string(), "10.3.77.0/24");
    assert!(own.expires.is_some());
    let found = source.previous_lease(public_ip(1), &cancel).await.unwrap();
    let found = found.unwrap();
    assert_eq!((found.subnet, found.attrs), (own.subnet, attrs(1)));
    assert!(
        source
            .previous_lease(public_ip(2), &cancel)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(pairs(&source.leases(&cancel).await.unwrap()), [(77, 1)]);
}

#[tokio::test]
async fn others_come_and_go_and_the_own_lease_is_none_of_them() {
    let etcd = Net::new().await;
    let server = etcd.server().await;
    let source = server.source();
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[]).await;
    etcd.put_lease(2, 2).await;
    node.others(&[(2, 2)]).await;
    etcd.put_lease(2, 7).await;
    node.others(&[(2, 7)]).await;
    etcd.delete("subnets/10.3.2.0-24").await;
    node.others(&[]).await;
}

/// JSON is read to 127 levels, and a list of leases has some of its own.
#[tokio::test]
async fn a_lease_that_is_nested_too_deep_keeps_no_other_from_anybody() {
    let etcd = Net::new().await;
    let data = format!("{}{}", "[".repeat(125), "]".repeat(125));
    let deep = format!(r#"{{"PublicIP":"192.0.2.2","BackendData":{data}}}"#);
    etcd.put("subnets/10.3.2.0-24", &deep).await;
    etcd.put_lease(3, 3).await;
    let server = etcd.server().await;
    let source = server.source();
    let cancel = CancellationToken::new();
    let own = source
        .acquire(&etcd.config, &request(1, None), &cancel)
        .await
        .unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[(3, 3)]).await;
    etcd.put("subnets/10.3.5.0-24", &deep).await;
    etcd.put_lease(4, 4).await;
    node.others(&[(3, 3), (4, 4)]).await;

    let before = etcd.leases().await;
    let lease = format!(r#"{{"Subnet":"10.3.9.0/24","Attrs":{deep}}}"#);
    for (method, target, body) in [
        ("POST", "/v1/_/leases", &deep),
        ("PUT", "/v1/_/leases/10.3.9.0-24", &lease),
    ] {
        let (status, said) = server.call(method, target, body).await;
        assert_eq!(status, 400, "{said}");
        assert!(said.contains("at most 16 levels"), "{said}");
    }
    assert_eq!(etcd.leases().await, before);
}

#[tokio::test]
async fn a_lease_that_was_deleted_is_taken_again_and_one_that_changed_is_rewritten() {
    let etcd = Net::new().await;
    let server = etcd.server().await;
    let source = server.source();
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[]).await;
    etcd.delete("subnets/10.3.1.0-24").await;
    let written = |n: u8| {
        let etcd = &etcd;
        async move {
            let leases = etcd.leases().await;
            let (value, _) = leases.get("10.3.1.0-24")?;
            (*value == attrs(n).to_json().unwrap()).then_some(())
        }
    };
    crate::support::eventually("it is there again", || written(1)).await;
    node.attrs.send_replace(attrs(9));
    crate::support::eventually("it names the new address", || written(9)).await;
    settled("the new one is published", &mut node.own, |own| {
        own.attrs == attrs(9)
    })
    .await;
    // Somebody else writes it.
    let other = LeaseAttrs::host_gw(public_ip(9)).to_json().unwrap();
    etcd.put("subnets/10.3.1.0-24", &other).await;
    crate::support::eventually("it is right still", || written(9)).await;
}

#[tokio::test]
async fn a_subnet_that_another_node_took_is_given_up() {
    let etcd = Net::new().await;
    let server = etcd.server().await;
    let source = server.source();
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[]).await;
    etcd.put_lease(1, 2).await;
    let own = settled("another subnet", &mut node.own, |own| {
        own.subnet != net("10.3.1.0/24")
    });
    assert_eq!(own.await.attrs, attrs(1));
    node.others(&[(1, 2)]).await;
}

#[tokio::test]
async fn two_servers_and_nodes_that_ask_etcd_never_give_one_subnet_twice() {
    const CONFIG: &str = r#"{"Network":"10.3.0.0/22","SubnetLen":27,"Backend":{"Type":"vxlan"}}"#;
    let etcd = Net::with(CONFIG).await;
    let (one, other) = (etcd.server().await, etcd.server().await);
    let (one, other) = (one.source(), other.source());
    let direct = EtcdSource::new(&etcd.options()).unwrap();
    let all = futures_util::future::join_all((1..=30).map(|n| {
        let (etcd, one, other, direct) = (&etcd, &one, &other, &direct);
        async move {
            match n % 3 {
                0 => acquire(one, etcd, n).await,
                1 => acquire(other, etcd, n).await,
                _ => acquire(direct, etcd, n).await,
            }
        }
    }));
    let subnets: BTreeSet<Ipv4Net> = all.await.into_iter().collect();
    assert_eq!(subnets.len(), 30);
    assert_eq!(etcd.leases().await.len(), 30);
    // One is left, and then none.
    acquire(&one, &etcd, 31).await;
    let cancel = CancellationToken::new();
    let refused = other
        .acquire(&etcd.config, &request(32, None), &cancel)
        .await;
    let error = format!("{:#}", refused.unwrap_err());
    assert!(error.contains("no free subnet"), "{error}");
}

#[tokio::test]
async fn a_server_that_ends_is_ridden_out_and_its_successor_tells_what_was_missed() {
    let etcd = Net::new().await;
    let server = etcd.server().await;
    let source = server.source();
    etcd.put_lease(2, 2).await;
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[(2, 2)]).await;
    let address = server.stop().await;
    assert!(
        crate::support::source(&[address.to_string()])
            .is_silent()
            .await
    );
    etcd.put_lease(3, 3).await;
    etcd.delete("subnets/10.3.2.0-24").await;
    assert_eq!(
        pairs(&node.leases.borrow()),
        [(2, 2)],
        "nothing is forgotten"
    );
    let _server = Served::start(&etcd.options(), options(&address.to_string())).await;
    node.others(&[(3, 3)]).await;
}

#[tokio::test]
async fn with_two_servers_one_may_end() {
    let etcd = Net::new().await;
    let (one, other) = (etcd.server().await, etcd.server().await);
    let source = source(&[one.name(), other.name()]);
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[]).await;
    one.stop().await;
    etcd.put_lease(2, 2).await;
    node.others(&[(2, 2)]).await;
    node.attrs.send_replace(attrs(9));
    settled("the lease is kept", &mut node.own, |own| {
        own.attrs == attrs(9)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_for_the_next() {
    let etcd = Net::new().await;
    let (one, other) = (etcd.server().await, etcd.server().await);
    let gate = Gate::to(([127, 0, 0, 1].into(), one.address.port())).await;
    let servers = vec![gate.url(), other.name()];
    let source = RemoteSource::new(&RemoteOptions {
        silence: Duration::from_secs(2),
        ..RemoteOptions::new(servers)
    });
    let source = source.unwrap();
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[]).await;
    gate.freeze();
    etcd.put_lease(2, 2).await;
    node.others(&[(2, 2)]).await;
}

#[tokio::test]
async fn an_etcd_that_was_wiped_takes_nobody_away_at_once() {
    let mut etcd = Net::new().await;
    for n in 2..5 {
        etcd.put_lease(n, n).await;
    }
    let server = etcd.server().await;
    let source = server.source();
    let cancel = CancellationToken::new();
    let own = request(1, Some("10.3.1.0/24"));
    let own = source.acquire(&etcd.config, &own, &cancel).await.unwrap();
    let mut node = Running::start(source, own, &etcd);
    node.others(&[(2, 2), (3, 3), (4, 4)]).await;
    etcd.etcd.restart_empty();
    etcd.client = crate::support::reconnected(&etcd).await;
    etcd.put("config", crate::support::CONFIG).await;
    // Who lives takes the own lease again, and who is not there yet counts still.
    crate::support::eventually("our lease is there again", || async {
        etcd.leases()
            .await
            .contains_key("10.3.1.0-24")
            .then_some(())
    })
    .await;
    etcd.put_lease(5, 5).await;
    node.others(&[(2, 2), (3, 3), (4, 4), (5, 5)]).await;
}

#[tokio::test]
async fn a_lease_whose_end_has_no_answer_is_given_back_all_the_same() {
    let etcd = Net::new().await;
    let (one, other) = (etcd.server().await, etcd.server().await);
    let gate = Gate::to((Ipv4Addr::LOCALHOST, one.address.port())).await;
    let source = source(&[gate.url(), other.name()]);
    let (cancel, request) = (CancellationToken::new(), request(1, Some("10.3.5.0/24")));
    let own = source.acquire(&etcd.config, &request, &cancel).await;
    let own = own.unwrap();
    gate.lose_the_answer_to("DELETE");
    let ended = async {
        gate.asked().await;
        let gone = || async { etcd.leases().await.is_empty().then_some(()) };
        crate::support::eventually("the server has ended it", gone).await;
        gate.close();
    };
    let (released, ()) = tokio::join!(source.release(&own), ended);
    released.unwrap();
    // Nor is it ended twice, if somebody else has the subnet by then.
    etcd.put_lease_for(5, 2, 600).await;
    source.release(&own).await.unwrap();
    assert_eq!(etcd.leases().await.len(), 1);
}

/// What a node gives back when a network is taken off it.
#[tokio::test]
async fn only_the_own_lease_is_given_back() {
    let net = Net::new().await;
    let server = net.server().await;
    let cancel = CancellationToken::new();
    let source = server.source();
    let own = async |n: u8, subnet: &str| {
        let request = request(n, Some(subnet));
        source
            .acquire(&net.config, &request, &cancel)
            .await
            .unwrap()
    };
    let [mine, lost, kept, gone] = [
        own(1, "10.3.1.0/24").await,
        own(2, "10.3.2.0/24").await,
        own(3, "10.3.3.0/24").await,
        own(4, "10.3.4.0/24").await,
    ];
    assert_eq!(net.leases().await.len(), 4);
    net.put_lease_for(2, 9, 3600).await;
    // An operator has made a reservation of it, which nothing ends.
    net.put_lease(3, 3).await;
    net.delete("subnets/10.3.4.0-24").await;
    for own in [&mine, &lost, &kept, &gone] {
        source.release(own).await.unwrap();
    }
    let left: Vec<String> = net.leases().await.into_keys().collect();
    assert_eq!(left, ["10.3.2.0-24", "10.3.3.0-24"]);

    // Nor does the server end another node's that has it since its holder looked.
    let path = "/v1/_/leases/10.3.2.0-24";
    let (status, said) = server
        .call("DELETE", &format!("{path}?was=192.0.2.2"), "")
        .await;
    assert_eq!(status, 409, "{said}");
    assert!(said.contains("the lease of 192.0.2.9"), "{said}");
    assert_eq!(net.leases().await.len(), 2);
    let (status, said) = server
        .call("DELETE", &format!("{path}?was=192.0.2.9"), "")
        .await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(net.leases().await.len(), 1);
}
