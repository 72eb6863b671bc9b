//! One etcd, one network in it, and the nodes that want leases of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, KeyValue, PutOptions};
use flannel_agent::base::mac::MacAddr;
use flannel_agent::flannel::config::NetworkConfig;
use flannel_agent::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use flannel_agent::source::etcd::{EtcdOptions, EtcdSource};
use flannel_agent::source::{LeaseRequest, LeaseSource};
use flannel_tests::etcd::Etcd;
use flannel_tests::gate::Gate;
use flannel_tests::wait::SOON;
use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const PREFIX: &str = "/coreos.com/network";

/// An etcd with a network, and a client to look at it and meddle with it.
pub(crate) struct Net {
    pub(crate) etcd: Etcd,
    pub(crate) client: Client,
    pub(crate) config: NetworkConfig,
}

impl Net {
    pub(crate) async fn new() -> Self {
        Self::with(r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#).await
    }

    pub(crate) async fn with(config: &str) -> Self {
        Self::of(Etcd::start(), config).await
    }

    pub(crate) async fn of(etcd: Etcd, config: &str) -> Self {
        let mut client = connect(&etcd).await;
        client
            .put(format!("{PREFIX}/config"), config, None)
            .await
            .unwrap();
        Self {
            config: NetworkConfig::parse(config).unwrap(),
            client,
            etcd,
        }
    }

    /// `kill -9`, then starts again with the data it had.
    pub(crate) async fn restart(&mut self) {
        self.etcd.restart();
        self.client = connect(&self.etcd).await;
    }

    /// The same, without any data.
    pub(crate) async fn restart_empty(&mut self) {
        self.etcd.restart_empty();
        self.client = connect(&self.etcd).await;
    }

    /// The same as another cluster, which has counted further.
    pub(crate) async fn restart_as_another(&mut self) {
        let before = self.revision().await;
        self.etcd.restart_as_another();
        self.count_beyond(before).await;
    }

    /// The same with the names of before.
    pub(crate) async fn restart_empty_further(&mut self) {
        let before = self.revision().await;
        self.etcd.restart_empty();
        self.count_beyond(before).await;
    }

    async fn count_beyond(&mut self, before: i64) {
        self.client = connect(&self.etcd).await;
        while self.revision().await <= before {
            self.client.put("/elsewhere", "x", None).await.unwrap();
        }
    }

    async fn revision(&self) -> i64 {
        let answer = self.client.clone().get("x", None).await.unwrap();
        answer.header().unwrap().revision()
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions::new(vec![self.etcd.url()], PREFIX)
    }

    pub(crate) fn source(&self) -> EtcdSource {
        EtcdSource::new(&self.options()).unwrap()
    }

    /// A gate before this etcd, and a source that comes through it.
    pub(crate) async fn gated(&self) -> (Gate, EtcdSource) {
        let gate = Gate::to(self.etcd.address()).await;
        let options = EtcdOptions::new(vec![gate.url()], PREFIX);
        (gate, EtcdSource::new(&options).unwrap())
    }

    /// What node `n` gets when it asks for a lease.
    pub(crate) async fn acquire(&self, n: u8, previous: Option<&str>) -> anyhow::Result<OwnLease> {
        let request = request(n, previous);
        let cancel = CancellationToken::new();
        self.source().acquire(&self.config, &request, &cancel).await
    }

    /// Puts a key under `<prefix>/subnets/` that nothing ends.
    pub(crate) async fn put(&self, key: &str, value: &str) {
        self.put_with(key, value, None).await;
    }

    pub(crate) async fn put_with(&self, key: &str, value: &str, options: Option<PutOptions>) {
        let key = format!("{PREFIX}/subnets/{key}");
        self.client.clone().put(key, value, options).await.unwrap();
    }

    /// Puts the lease of node `n`.
    pub(crate) async fn put_lease(&self, key: &str, n: u8) {
        self.put(key, &attrs(n).to_json().unwrap()).await;
    }

    /// Has node `n` take a lease that its owner, behind `gate`, has lost without seeing it.
    pub(crate) async fn hand_over(&self, gate: &Gate, key: &str, n: u8) {
        gate.close();
        self.delete(key).await;
        self.put_lease(key, n).await;
        gate.open();
    }

    pub(crate) async fn delete(&self, key: &str) {
        let key = format!("{PREFIX}/subnets/{key}");
        self.client.clone().delete(key, None).await.unwrap();
    }

    /// The key under `<prefix>/subnets/` as it is now.
    pub(crate) async fn get(&self, key: &str) -> Option<KeyValue> {
        let key = format!("{PREFIX}/subnets/{key}");
        let mut answer = self.client.clone().get(key, None).await.unwrap();
        answer.take_kvs().pop()
    }

    pub(crate) async fn value(&self, key: &str) -> Option<String> {
        let kv = self.get(key).await?;
        Some(kv.value_str().unwrap().to_owned())
    }

    /// All keys under `<prefix>/subnets`, without that part.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let folder = format!("{PREFIX}/subnets");
        let answer = self
            .client
            .clone()
            .get(folder.as_str(), Some(options))
            .await
            .unwrap();
        let name = |kv: &KeyValue| kv.key_str().unwrap()[folder.len() + 1..].to_owned();
        answer.kvs().iter().map(name).collect()
    }

    /// Throws away all history.
    pub(crate) async fn compact(&self) {
        let mut client = self.client.clone();
        let now = client.get("x", None).await.unwrap();
        let revision = now.header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    }

    /// An etcd lease of `seconds`.
    pub(crate) async fn grant(&self, seconds: i64) -> i64 {
        let granted = self.client.clone().lease_grant(seconds, None).await;
        granted.unwrap().id()
    }
}

/// A client, once etcd answers it.
async fn connect(etcd: &Etcd) -> Client {
    eventually("etcd answers", || async {
        let mut client = Client::connect([etcd.url()], None).await.ok()?;
        client.get("x", None).await.ok()?;
        Some(client)
    })
    .await
}

pub(crate) fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub(crate) fn public_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

/// What node `n` publishes.
pub(crate) fn attrs(n: u8) -> LeaseAttrs {
    LeaseAttrs::vxlan(public_ip(n), 1, MacAddr([2, 0, 0, 0, 0, n]))
}

pub(crate) fn request(n: u8, previous: Option<&str>) -> LeaseRequest {
    LeaseRequest {
        attrs: attrs(n),
        previous: previous.map(net),
    }
}

/// Key of a /24 lease.
pub(crate) fn key(subnet: Ipv4Net) -> String {
    format!("{}-{}", subnet.network(), subnet.prefix_len())
}

/// Waits until the newest value on the channel is as wanted.
pub(crate) async fn settled<T: Clone + std::fmt::Debug>(
    what: &str,
    receiver: &mut watch::Receiver<T>,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    settled_within(SOON, what, receiver, wanted).await
}

async fn settled_within<T: Clone + std::fmt::Debug>(
    deadline: Duration,
    what: &str,
    receiver: &mut watch::Receiver<T>,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(deadline, receiver.wait_for(wanted)).await;
    let value = waited.map(|value| value.expect("the sender lives").clone());
    value.unwrap_or_else(|_| {
        panic!(
            "not within {deadline:?}: {what}; now {:?}",
            *receiver.borrow()
        )
    })
}

/// Waits for the next notification on the channel.
pub(crate) async fn notified<T: Clone>(what: &str, receiver: &mut watch::Receiver<T>) -> T {
    let waited = tokio::time::timeout(SOON, receiver.changed()).await;
    match waited {
        Ok(changed) => changed.expect("the sender lives"),
        Err(_) => panic!("not within {SOON:?}: {what}"),
    }
    receiver.borrow_and_update().clone()
}

/// Polls etcd until `check` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    check: impl Fn() -> F,
) -> T {
    let poll = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(SOON, poll).await {
        Ok(value) => value,
        Err(_) => panic!("not within {SOON:?}: {what}"),
    }
}

/// A running `follow`.
pub(crate) struct Following {
    pub(crate) leases: watch::Receiver<Leases>,
    pub(crate) own: watch::Sender<OwnLease>,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
    pub(crate) cancel: CancellationToken,
    _guard: DropGuard,
}

/// Follows as the node whose lease is `own`.
pub(crate) fn follow(source: impl Into<Arc<EtcdSource>>, own: &str) -> Following {
    follow_knowing(source, own, &[])
}

/// The same after a restart: the node reaches these [`pairs`] already.
pub(crate) fn follow_knowing(
    source: impl Into<Arc<EtcdSource>>,
    own: &str,
    known: &[(u8, u8)],
) -> Following {
    let source = source.into();
    let known: BTreeMap<_, _> = known
        .iter()
        .map(|(third, host)| (net(&format!("10.3.{third}.0/24")), attrs(*host)))
        .collect();
    let own = OwnLease {
        subnet: net(own),
        attrs: attrs(1),
        expires: None,
    };
    let (own, own_receiver) = watch::channel(own);
    let (sender, leases) = watch::channel(Leases::default());
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let task = tokio::spawn(async move {
        source
            .follow(own_receiver, known.into(), &sender, &token)
            .await
    });
    Following {
        leases,
        own,
        task,
        _guard: cancel.clone().drop_guard(),
        cancel,
    }
}

/// Third byte of the subnet and last byte of the PublicIP of each lease.
pub(crate) fn pairs(leases: &Leases) -> Vec<(u8, u8)> {
    leases
        .iter()
        .map(|(subnet, attrs)| (subnet.network().octets()[2], attrs.public_ip.octets()[3]))
        .collect()
}

impl Following {
    /// Waits until the others' leases are these [`pairs`].
    pub(crate) async fn others(&mut self, expected: &[(u8, u8)]) {
        self.others_within(SOON, expected).await;
    }

    pub(crate) async fn others_within(&mut self, deadline: Duration, expected: &[(u8, u8)]) {
        let what = format!("leases {expected:?}");
        settled_within(deadline, &what, &mut self.leases, |leases| {
            pairs(leases) == expected
        })
        .await;
    }
}

/// A running `keep`.
pub(crate) struct Keeping {
    pub(crate) own: watch::Receiver<OwnLease>,
    pub(crate) attrs: watch::Sender<LeaseAttrs>,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
    pub(crate) cancel: CancellationToken,
    _guard: DropGuard,
}

/// Keeps `own`.
pub(crate) fn keep(source: EtcdSource, config: &NetworkConfig, own: OwnLease) -> Keeping {
    let (attrs, attrs_receiver) = watch::channel(own.attrs.clone());
    let (sender, own) = watch::channel(own);
    let cancel = CancellationToken::new();
    let (token, config) = (cancel.clone(), config.clone());
    let sender = Arc::new(sender);
    let task =
        tokio::spawn(async move { source.keep(&config, &sender, attrs_receiver, &token).await });
    Keeping {
        own,
        attrs,
        task,
        _guard: cancel.clone().drop_guard(),
        cancel,
    }
}
