//! A datastore and a node made of channels.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::NetworkConfig;
use crate::daemon::node::{Node, Wanted};
use crate::daemon::start::{self, Options};
use crate::health::Ready;
use crate::lease::{LeaseAttrs, Leases, OwnLease};
use crate::mac::MacAddr;
use crate::source::{LeaseRequest, LeaseSource};
use crate::uplink::Uplink;

pub(super) fn subnet(n: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 1, n, 0), 24).unwrap()
}

fn attrs(mac: u8, ip: &str) -> LeaseAttrs {
    LeaseAttrs::vxlan(ip.parse().unwrap(), 1, MacAddr([2, 0, 0, 0, 0, mac]))
}

/// The lease of subnet `n`, with a MAC that ends in `n`.
pub(super) fn lease(n: u8, ip: &str) -> OwnLease {
    OwnLease {
        subnet: subnet(n),
        attrs: attrs(n, ip),
        expires: None,
    }
}

pub(super) fn uplink(ip: &str) -> Uplink {
    let ip = ip.parse().unwrap();
    Uplink {
        name: "eth0".to_owned(),
        index: 2,
        mac: [2, 0, 0, 0, 1, 1],
        address: ip,
        public_ip: ip,
        mtu: 1500,
        why: "it is the only one".to_owned(),
    }
}

#[derive(Debug)]
struct Datastore {
    config: Mutex<Option<NetworkConfig>>,
    published: Mutex<Option<OwnLease>>,
    request: Mutex<Option<LeaseRequest>>,
    own: watch::Sender<Option<OwnLease>>,
    attrs: watch::Sender<Option<LeaseAttrs>>,
    leases: watch::Sender<Option<Leases>>,
    broken: CancellationToken,
}

#[derive(Debug, Clone)]
pub(super) struct FakeSource(Arc<Datastore>);

impl FakeSource {
    fn new() -> Self {
        let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;
        Self(Arc::new(Datastore {
            config: Mutex::new(Some(NetworkConfig::parse(config).unwrap())),
            published: Mutex::default(),
            request: Mutex::default(),
            own: watch::Sender::default(),
            attrs: watch::Sender::default(),
            leases: watch::Sender::default(),
            broken: CancellationToken::new(),
        }))
    }

    pub(super) fn without_config(&self) {
        *self.0.config.lock().unwrap() = None;
    }

    pub(super) fn published(&self, lease: OwnLease) {
        *self.0.published.lock().unwrap() = Some(lease);
    }

    pub(super) fn leases(&self, peers: &[(u8, &str)]) {
        let leases: BTreeMap<_, _> = peers
            .iter()
            .map(|(n, ip)| (subnet(*n), attrs(*n, ip)))
            .collect();
        self.0.leases.send_replace(Some(Arc::new(leases)));
    }

    pub(super) fn own(&self, lease: OwnLease) {
        self.0.own.send_replace(Some(lease));
    }

    pub(super) fn break_down(&self) {
        self.0.broken.cancel();
    }

    pub(super) fn was_asked(&self) -> bool {
        self.0.request.lock().unwrap().is_some()
    }

    pub(super) fn request(&self) -> LeaseRequest {
        self.0.request.lock().unwrap().clone().unwrap()
    }

    pub(super) async fn is_followed(&self) {
        until(|| self.0.leases.receiver_count() > 0).await;
    }

    /// Waits until the lease names `ip`.
    pub(super) async fn publishes(&self, ip: &str) {
        let ip: Ipv4Addr = ip.parse().unwrap();
        let named = |attrs: &Option<LeaseAttrs>| attrs.as_ref().is_some_and(|a| a.public_ip == ip);
        self.0.attrs.subscribe().wait_for(named).await.unwrap();
    }
}

impl LeaseSource for FakeSource {
    async fn network_config(&self, _: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        let config = self.0.config.lock().unwrap().clone();
        match config {
            Some(config) => Ok(config),
            None => pending().await,
        }
    }

    async fn previous_lease(
        &self,
        _: Ipv4Addr,
        _: &CancellationToken,
    ) -> anyhow::Result<Option<OwnLease>> {
        Ok(self.0.published.lock().unwrap().clone())
    }

    async fn acquire(
        &self,
        _: &NetworkConfig,
        request: &LeaseRequest,
        _: &CancellationToken,
    ) -> anyhow::Result<OwnLease> {
        *self.0.request.lock().unwrap() = Some(request.clone());
        Ok(OwnLease {
            attrs: request.attrs.clone(),
            ..lease(1, "192.0.2.1")
        })
    }

    async fn keep(
        &self,
        _: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        mut attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut changed = self.0.own.subscribe();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                Ok(()) = attrs.changed() => {
                    let attrs = attrs.borrow_and_update().clone();
                    own.send_modify(|own| own.attrs = attrs.clone());
                    self.0.attrs.send_replace(Some(attrs));
                }
                Ok(()) = changed.changed() => {
                    if let Some(lease) = changed.borrow_and_update().clone() {
                        own.send_replace(lease);
                    }
                }
            }
        }
    }

    async fn follow(
        &self,
        _: watch::Receiver<OwnLease>,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut changed = self.0.leases.subscribe();
        changed.mark_changed();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = self.0.broken.cancelled() => bail!("etcd is no more"),
                Ok(()) = changed.changed() => {
                    if let Some(snapshot) = changed.borrow_and_update().clone() {
                        leases.send_replace(snapshot);
                    }
                }
            }
        }
    }
}

/// What the run loop did with the node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Reconcile(Wanted),
    Peers(Wanted),
}

impl Call {
    pub(super) fn wanted(&self) -> &Wanted {
        match self {
            Self::Reconcile(wanted) | Self::Peers(wanted) => wanted,
        }
    }
}

#[derive(Debug)]
struct Kernel {
    uplink: Mutex<Option<Uplink>>,
    calls: watch::Sender<Vec<Call>>,
    failures: AtomicUsize,
    slowness: Mutex<Duration>,
    announced: AtomicBool,
    announce: Notify,
}

#[derive(Debug, Clone)]
pub(super) struct FakeNode(Arc<Kernel>);

impl FakeNode {
    fn new() -> Self {
        Self(Arc::new(Kernel {
            uplink: Mutex::new(Some(uplink("192.0.2.1"))),
            calls: watch::Sender::default(),
            failures: AtomicUsize::default(),
            slowness: Mutex::default(),
            announced: AtomicBool::default(),
            announce: Notify::new(),
        }))
    }

    /// Lets the next `n` changes of the kernel fail.
    pub(super) fn fail(&self, n: usize) {
        self.0.failures.store(n, Ordering::Relaxed);
    }

    /// How long a full reconcile takes from now on.
    pub(super) fn takes(&self, slowness: Duration) {
        *self.0.slowness.lock().unwrap() = slowness;
    }

    pub(super) fn lose_uplink(&self) {
        *self.0.uplink.lock().unwrap() = None;
    }

    pub(super) fn set_uplink(&self, uplink: Uplink) {
        *self.0.uplink.lock().unwrap() = Some(uplink);
    }

    pub(super) fn announce_change(&self) {
        self.0.announced.store(true, Ordering::Relaxed);
        self.0.announce.notify_one();
    }

    pub(super) fn so_far(&self) -> Vec<Call> {
        self.0.calls.borrow().clone()
    }

    pub(super) async fn calls(&self, n: usize) -> Vec<Call> {
        self.until(|calls| calls.len() >= n).await
    }

    pub(super) async fn until(&self, done: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| done(calls)).await.unwrap().clone()
    }

    fn act(&self, call: Call) -> anyhow::Result<usize> {
        self.0.calls.send_modify(|calls| calls.push(call));
        let fails = |n: usize| n.checked_sub(1);
        match self
            .0
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails)
        {
            Ok(_) => bail!("kernel says no"),
            Err(_) => Ok(1),
        }
    }
}

impl Node for FakeNode {
    async fn uplink(&mut self) -> anyhow::Result<Uplink> {
        self.0.uplink.lock().unwrap().clone().context("no uplink")
    }

    async fn attrs(
        &mut self,
        _: &NetworkConfig,
        uplink: &Uplink,
        published: Option<&LeaseAttrs>,
    ) -> anyhow::Result<LeaseAttrs> {
        let mut attrs = published.cloned().unwrap_or_else(|| attrs(1, "192.0.2.1"));
        attrs.public_ip = uplink.public_ip;
        Ok(attrs)
    }

    fn mtu(&self, wanted: &Wanted) -> u32 {
        wanted.uplink.mtu - 50
    }

    async fn reconcile(&mut self, wanted: &Wanted) -> anyhow::Result<usize> {
        let slowness = *self.0.slowness.lock().unwrap();
        tokio::time::sleep(slowness).await;
        self.act(Call::Reconcile(wanted.clone()))
    }

    async fn update_peers(&mut self, wanted: &Wanted) -> anyhow::Result<usize> {
        self.act(Call::Peers(wanted.clone()))
    }

    async fn changed(&mut self) {
        while !self.0.announced.swap(false, Ordering::Relaxed) {
            self.0.announce.notified().await;
        }
    }
}

/// An agent between the two.
pub(super) struct Stage {
    pub(super) source: FakeSource,
    pub(super) node: FakeNode,
    pub(super) ready: Ready,
    folder: tempfile::TempDir,
    cancel: CancellationToken,
    agent: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            source: FakeSource::new(),
            node: FakeNode::new(),
            ready: Ready::default(),
            folder: tempfile::tempdir().unwrap(),
            cancel: CancellationToken::new(),
            agent: None,
        }
    }

    pub(super) fn start(&mut self) {
        let options = Options {
            subnet_file: self.subnet_file(),
            cni_conf_dir: Some(self.subnet_file().with_file_name("net.d")),
            ip_masq: true,
        };
        self.agent = Some(tokio::spawn(start::run(
            options,
            self.source.clone(),
            self.node.clone(),
            self.ready.clone(),
            self.cancel.clone(),
        )));
    }

    pub(super) fn subnet_file(&self) -> PathBuf {
        self.folder.path().join("subnet.env")
    }

    pub(super) fn subnet_env(&self) -> String {
        std::fs::read_to_string(self.subnet_file()).unwrap()
    }

    pub(super) async fn subnet_env_has(&self, line: &str) {
        until(|| {
            std::fs::read_to_string(self.subnet_file())
                .is_ok_and(|text| text.lines().any(|have| have == line))
        })
        .await;
    }

    pub(super) async fn is_ready(&self) {
        until(|| self.ready.get()).await;
    }

    /// Lets everything happen that is due without the drift timer.
    pub(super) async fn idle(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }

    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        self.ended().await
    }

    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        let agent = self.agent.take().unwrap();
        let outcome = tokio::time::timeout(Duration::from_mins(10), agent).await;
        outcome.expect("the agent ends").unwrap()
    }
}

/// Waits for `condition` for at most ten minutes of tokio's time.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(10), wait).await;
    waited.expect("the condition comes true");
}
