//! A write that etcd did, and whose answer is lost: the next endpoint is asked for the same once more.

use std::net::Ipv4Addr;

use etcd_client::KeyValue;
use flannel_agent::flannel::lease::{self, OwnLease};
use flannel_agent::flannel::remote::Reservation;
use flannel_agent::source::LeaseSource;
use flannel_agent::source::etcd::registry::{Registry, Rights};
use flannel_agent::source::etcd::{EtcdOptions, EtcdSource};
use flannel_tests::gate::Gate;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Net, PREFIX, attrs, eventually, follow, keep, net, public_ip, request, settled,
};

const KEY: &str = "10.3.5.0-24";
const SUBNET: &str = "10.3.5.0/24";
/// How a comparison of a key's revision begins (`target: MOD`, then the key): what is deleted is named behind one.
const DELETION: &str = "\x10\x02\x1a";
/// The value of a lease, and nothing else that a client says.
const WRITE: &str = "\"PublicIP\"";

/// Two endpoints of one etcd; the answer of the first to the next write is lost.
async fn forgetful(net: &Net) -> (Gate, EtcdOptions) {
    let gate = Gate::to(net.etcd.address()).await;
    let options = EtcdOptions::new(vec![gate.url(), net.etcd.url()], PREFIX);
    gate.lose_the_answer_to(WRITE);
    (gate, options)
}

/// Ends the connection on which the key was written, other than it is in `before`, and gives it as it is then.
async fn written(net: &Net, gate: &Gate, before: Option<&KeyValue>) -> KeyValue {
    gate.asked().await;
    let revision = before.map(KeyValue::mod_revision);
    let kv = eventually("etcd has written it", || async {
        let kv = net.get(KEY).await?;
        (Some(kv.mod_revision()) != revision).then_some(kv)
    })
    .await;
    gate.close();
    kv
}

/// Whether nobody has touched the key since, and each etcd lease is that of a key.
async fn stays(net: &Net, kv: &KeyValue) {
    let now = net.get(KEY).await.expect("the lease is there still");
    let [then, now] = [kv, &now].map(|kv| (kv.create_revision(), kv.mod_revision(), kv.lease()));
    assert_eq!(then, now, "created, written, etcd lease");
    let leases = net.client.clone().leases().await.unwrap();
    let granted = leases.leases().iter().filter(|it| it.id() == kv.lease());
    assert_eq!(granted.count(), usize::from(kv.lease() != 0));
}

/// A lease of node 1, and how it is in etcd.
async fn held(net: &Net) -> (OwnLease, KeyValue) {
    let own = net.acquire(1, Some(SUBNET)).await.unwrap();
    assert_eq!(own.subnet, self::net(SUBNET));
    (own, net.get(KEY).await.unwrap())
}

#[tokio::test]
async fn a_new_lease_is_taken_once() {
    let net = Net::new().await;
    let (gate, options) = forgetful(&net).await;
    let source = EtcdSource::new(&options).unwrap();
    let (cancel, request) = (CancellationToken::new(), request(1, Some(SUBNET)));
    let (own, kv) = tokio::join!(
        source.acquire(&net.config, &request, &cancel),
        written(&net, &gate, None)
    );
    assert_eq!(own.unwrap().subnet, self::net(SUBNET));
    stays(&net, &kv).await;
}

#[tokio::test]
async fn a_renewed_lease_is_not_deleted() {
    let net = Net::new().await;
    let (own, before) = held(&net).await;
    let mut others = follow(net.source(), "10.3.9.0/24");
    others.others(&[(5, 1)]).await;
    let (gate, mut options) = forgetful(&net).await;
    // At once, and each second again.
    options.renew_margin = lease::TTL;
    let source = EtcdSource::new(&options).unwrap();
    let mut node = keep(source, &net.config, own.clone());
    written(&net, &gate, Some(&before)).await;
    settled("the renewal", &mut node.own, |now| {
        now.expires != own.expires
    })
    .await;
    node.cancel.cancel();
    node.task.await.unwrap().unwrap();
    let now = net.get(KEY).await.unwrap();
    assert_eq!(
        now.create_revision(),
        before.create_revision(),
        "it was never gone"
    );
    assert!(!others.leases.has_changed().unwrap(), "peers heard nothing");
}

#[tokio::test]
async fn new_attributes_are_written_once() {
    let net = Net::new().await;
    let (own, before) = held(&net).await;
    let (gate, options) = forgetful(&net).await;
    let source = EtcdSource::new(&options).unwrap();
    let mut node = keep(source, &net.config, own);
    node.attrs.send_replace(attrs(11));
    let kv = written(&net, &gate, Some(&before)).await;
    settled("the new address", &mut node.own, |own| {
        own.attrs.public_ip == public_ip(11)
    })
    .await;
    stays(&net, &kv).await;
}

/// What a server for other nodes writes.
#[derive(Debug, Clone, Copy)]
enum Call {
    Acquire,
    AcquireAgain,
    Renew,
    RenewGone,
    Reserve,
    ReserveHeld,
    Unreserve,
}

impl Call {
    /// What is there before.
    async fn prepare(self, net: &Net) {
        match self {
            Self::Acquire | Self::RenewGone | Self::Reserve => {}
            Self::AcquireAgain | Self::Renew | Self::ReserveHeld => {
                net.acquire(1, Some(SUBNET)).await.unwrap();
            }
            Self::Unreserve => net.put_lease(KEY, 1).await,
        }
    }

    async fn run(self, registry: &Registry) {
        let may = |_: Ipv4Addr| true;
        let rights = Rights {
            may: &may,
            most: None,
        };
        let subnet = net(SUBNET);
        let reservation = Reservation {
            subnet,
            public_ip: public_ip(1),
        };
        let node = attrs(1);
        match self {
            Self::Acquire | Self::AcquireAgain => {
                let own = registry.acquire(&node, Some(subnet), rights).await;
                assert_eq!(own.unwrap().subnet, subnet);
            }
            Self::Renew | Self::RenewGone => {
                let own = registry.renew(subnet, &node, None, rights).await;
                assert_eq!(own.unwrap().attrs, node);
            }
            Self::Reserve | Self::ReserveHeld => {
                registry.reserve(reservation, rights).await.unwrap();
            }
            Self::Unreserve => registry.unreserve(subnet, rights).await.unwrap(),
        }
    }
}

#[rstest]
#[tokio::test]
async fn what_a_server_writes_for_its_clients_is_written_once(
    #[values(
        Call::Acquire,
        Call::AcquireAgain,
        Call::Renew,
        Call::RenewGone,
        Call::Reserve,
        Call::ReserveHeld,
        Call::Unreserve
    )]
    call: Call,
) {
    let net = Net::new().await;
    call.prepare(&net).await;
    let before = net.get(KEY).await;
    let (gate, options) = forgetful(&net).await;
    let registry = Registry::new(&options).unwrap();
    let ((), kv) = tokio::join!(call.run(&registry), written(&net, &gate, before.as_ref()));
    stays(&net, &kv).await;
}

/// The next endpoint finds no key, or one that another node wrote meanwhile and that stays.
#[rstest]
#[tokio::test]
async fn a_lease_that_a_server_ends_is_that_of_whoever_had_it(
    #[values(false, true)] another_was_quicker: bool,
) {
    let net = Net::new().await;
    held(&net).await;
    let gate = Gate::to(net.etcd.address()).await;
    let options = EtcdOptions::new(vec![gate.url(), net.etcd.url()], PREFIX);
    gate.lose_the_answer_to(DELETION);
    let registry = Registry::new(&options).unwrap();
    let rights = Rights {
        may: &|_: Ipv4Addr| true,
        most: None,
    };
    let ended = registry.revoke(self::net(SUBNET), Some(public_ip(1)), rights);
    let meanwhile = async {
        gate.asked().await;
        eventually("etcd has deleted it", || async {
            net.get(KEY).await.is_none().then_some(())
        })
        .await;
        if another_was_quicker {
            net.put_lease(KEY, 2).await;
        }
        gate.close();
    };
    let (ended, ()) = tokio::join!(ended, meanwhile);
    assert_eq!(ended.is_ok(), !another_was_quicker, "{ended:?}");
    assert_eq!(net.get(KEY).await.is_some(), another_was_quicker);
}
