//! The node: writes down what it is told, and fails when it shall.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{Notify, watch};

use super::{attrs, uplink};
use crate::daemon::node::{Change, Done, Node, Wanted};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases};
use crate::node::uplink::{Memory, Uplink};
use crate::reconcile::ReconcileError;

/// What the MAC of flanneld's device ends in.
pub(in crate::daemon::tests) const FLANNELDS: u8 = 99;

/// What the run loop did with the node.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::daemon::tests) enum Call {
    Reconcile(Wanted),
    Peers(Wanted),
}

impl Call {
    pub(in crate::daemon::tests) fn wanted(&self) -> &Wanted {
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
    slowness_of_peers: Mutex<Duration>,
    taken_over: AtomicBool,
    reached: Mutex<Leases>,
    announced: AtomicBool,
    urgent: AtomicBool,
    announce: Notify,
}

#[derive(Debug, Clone)]
pub(in crate::daemon::tests) struct FakeNode(Arc<Kernel>);

impl FakeNode {
    pub(super) fn new() -> Self {
        Self(Arc::new(Kernel {
            uplink: Mutex::new(Some(uplink("192.0.2.1"))),
            calls: watch::Sender::default(),
            failures: AtomicUsize::default(),
            slowness: Mutex::default(),
            slowness_of_peers: Mutex::default(),
            taken_over: AtomicBool::default(),
            reached: Mutex::default(),
            announced: AtomicBool::default(),
            urgent: AtomicBool::default(),
            announce: Notify::new(),
        }))
    }

    /// Lets the next `n` changes of the kernel fail.
    pub(in crate::daemon::tests) fn fail(&self, n: usize) {
        self.0.failures.store(n, Ordering::Relaxed);
    }

    /// How long a full reconcile takes from now on.
    pub(in crate::daemon::tests) fn takes(&self, slowness: Duration) {
        *self.0.slowness.lock().unwrap() = slowness;
    }

    /// How long an update of the peers takes from now on.
    pub(in crate::daemon::tests) fn takes_for_peers(&self, slowness: Duration) {
        *self.0.slowness_of_peers.lock().unwrap() = slowness;
    }

    /// Whether flanneld is there, with a device of the kernel's.
    pub(in crate::daemon::tests) fn is_flannelds(&self, taken_over: bool) {
        self.0.taken_over.store(taken_over, Ordering::Relaxed);
    }

    /// What an earlier agent left.
    pub(in crate::daemon::tests) fn reaches(&self, leases: Leases) {
        *self.0.reached.lock().unwrap() = leases;
    }

    pub(in crate::daemon::tests) fn lose_uplink(&self) {
        *self.0.uplink.lock().unwrap() = None;
    }

    pub(in crate::daemon::tests) fn set_uplink(&self, uplink: Uplink) {
        *self.0.uplink.lock().unwrap() = Some(uplink);
    }

    pub(in crate::daemon::tests) fn announce_change(&self) {
        self.0.announced.store(true, Ordering::Relaxed);
        self.0.announce.notify_one();
    }

    /// Of the uplink's MTU, or of a device to leave by.
    pub(in crate::daemon::tests) fn announce_urgent_change(&self) {
        self.0.urgent.store(true, Ordering::Relaxed);
        self.announce_change();
    }

    pub(in crate::daemon::tests) fn so_far(&self) -> Vec<Call> {
        self.0.calls.borrow().clone()
    }

    pub(in crate::daemon::tests) async fn calls(&self, n: usize) -> Vec<Call> {
        self.until(|calls| calls.len() >= n).await
    }

    pub(in crate::daemon::tests) async fn until(
        &self,
        done: impl Fn(&[Call]) -> bool,
    ) -> Vec<Call> {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| done(calls)).await.unwrap().clone()
    }

    fn act(&self, call: Call) -> anyhow::Result<Done> {
        self.0.calls.send_modify(|calls| calls.push(call));
        let fails = |n: usize| n.checked_sub(1);
        match self
            .0
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails)
        {
            Ok(_) => bail!("kernel says no"),
            Err(_) => Ok(vec!["play".to_owned()]),
        }
    }
}

impl Node for FakeNode {
    async fn uplink(&mut self) -> anyhow::Result<Uplink> {
        self.0.uplink.lock().unwrap().clone().context("no uplink")
    }

    fn remember(&mut self, _: Memory) {}

    async fn reached(&mut self, _: &NetworkConfig) -> Leases {
        self.0.reached.lock().unwrap().clone()
    }

    async fn attrs(
        &mut self,
        _: &NetworkConfig,
        uplink: &Uplink,
        published: Option<&LeaseAttrs>,
    ) -> anyhow::Result<LeaseAttrs> {
        let mut attrs = match (published, self.0.taken_over.load(Ordering::Relaxed)) {
            (_, true) => attrs(FLANNELDS, "192.0.2.1"),
            (Some(published), false) => published.clone(),
            (None, false) => attrs(1, "192.0.2.1"),
        };
        attrs.public_ip = uplink.public_ip;
        Ok(attrs)
    }

    fn mtu(&self, wanted: &Wanted) -> u32 {
        wanted.uplink.mtu - 50
    }

    async fn reconcile(&mut self, wanted: &Wanted) -> anyhow::Result<Done> {
        let slowness = *self.0.slowness.lock().unwrap();
        tokio::time::sleep(slowness).await;
        let done = self.act(Call::Reconcile(wanted.clone()));
        if self.0.taken_over.load(Ordering::Relaxed) {
            let device = "flannel.1".to_owned();
            return Err(ReconcileError::TakenOver { device }.into());
        }
        done
    }

    async fn update_peers(&mut self, wanted: &Wanted) -> anyhow::Result<Done> {
        let slowness = *self.0.slowness_of_peers.lock().unwrap();
        tokio::time::sleep(slowness).await;
        self.act(Call::Peers(wanted.clone()))
    }

    async fn changed(&mut self) -> Change {
        while !self.0.announced.swap(false, Ordering::Relaxed) {
            self.0.announce.notified().await;
        }
        match self.0.urgent.swap(false, Ordering::Relaxed) {
            true => Change::Urgent,
            false => Change::Any,
        }
    }
}
