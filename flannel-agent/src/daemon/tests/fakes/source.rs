//! The datastore: what tests put in is what the agent sees.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::bail;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{attrs, lease, subnet, until};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use crate::source::{LeaseRequest, LeaseSource};

#[derive(Debug)]
struct Datastore {
    config: Mutex<Option<NetworkConfig>>,
    published: Mutex<Option<OwnLease>>,
    request: Mutex<Option<LeaseRequest>>,
    own: watch::Sender<Option<OwnLease>>,
    attrs: watch::Sender<Option<LeaseAttrs>>,
    leases: watch::Sender<Option<Leases>>,
    known: Mutex<Option<Leases>>,
    reconnects: AtomicUsize,
    broken: CancellationToken,
}

#[derive(Debug, Clone)]
pub(in crate::daemon::tests) struct FakeSource(Arc<Datastore>);

impl FakeSource {
    pub(super) fn new() -> Self {
        let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;
        Self(Arc::new(Datastore {
            config: Mutex::new(Some(NetworkConfig::parse(config).unwrap())),
            published: Mutex::default(),
            request: Mutex::default(),
            own: watch::Sender::default(),
            attrs: watch::Sender::default(),
            leases: watch::Sender::default(),
            known: Mutex::default(),
            reconnects: AtomicUsize::new(0),
            broken: CancellationToken::new(),
        }))
    }

    pub(in crate::daemon::tests) fn without_config(&self) {
        *self.0.config.lock().unwrap() = None;
    }

    pub(in crate::daemon::tests) fn published(&self, lease: OwnLease) {
        *self.0.published.lock().unwrap() = Some(lease);
    }

    pub(in crate::daemon::tests) fn leases(&self, peers: &[(u8, &str)]) {
        let leases: BTreeMap<_, _> = peers
            .iter()
            .map(|(n, ip)| (subnet(*n), attrs(*n, ip)))
            .collect();
        self.0.leases.send_replace(Some(Arc::new(leases)));
    }

    pub(in crate::daemon::tests) fn own(&self, lease: OwnLease) {
        self.0.own.send_replace(Some(lease));
    }

    pub(in crate::daemon::tests) fn break_down(&self) {
        self.0.broken.cancel();
    }

    pub(in crate::daemon::tests) fn was_asked(&self) -> bool {
        self.0.request.lock().unwrap().is_some()
    }

    pub(in crate::daemon::tests) fn request(&self) -> LeaseRequest {
        self.0.request.lock().unwrap().clone().unwrap()
    }

    /// What the agent said that the node reaches already.
    pub(in crate::daemon::tests) fn known(&self) -> Leases {
        self.0.known.lock().unwrap().clone().unwrap()
    }

    pub(in crate::daemon::tests) fn reconnects(&self) -> usize {
        self.0.reconnects.load(Ordering::Relaxed)
    }

    pub(in crate::daemon::tests) async fn is_followed(&self) {
        until(|| self.0.leases.receiver_count() > 0).await;
    }

    /// Waits until the lease names `ip`.
    pub(in crate::daemon::tests) async fn publishes(&self, ip: &str) {
        let ip: Ipv4Addr = ip.parse().unwrap();
        self.publishes_what(|attrs| attrs.public_ip == ip).await;
    }

    /// Waits until the lease says what is wanted.
    pub(in crate::daemon::tests) async fn publishes_what(
        &self,
        wanted: impl Fn(&LeaseAttrs) -> bool,
    ) {
        let wanted = |attrs: &Option<LeaseAttrs>| attrs.as_ref().is_some_and(&wanted);
        self.0.attrs.subscribe().wait_for(wanted).await.unwrap();
    }
}

impl LeaseSource for FakeSource {
    async fn is_silent(&self) -> bool {
        false
    }

    async fn network_config(&self, _: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        let config = self.0.config.lock().unwrap().clone();
        match config {
            Some(config) => Ok(config),
            None => pending().await,
        }
    }

    fn reconnect(&self) {
        self.0.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    async fn leases(&self, _: &CancellationToken) -> anyhow::Result<Leases> {
        Ok(Leases::default())
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
        known: Leases,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        *self.0.known.lock().unwrap() = Some(known);
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
