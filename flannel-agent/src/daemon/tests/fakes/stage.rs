//! An agent that runs between datastore and node.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{FakeNode, FakeSource, until};
use crate::daemon::health::Ready;
use crate::daemon::start::{self, Options};
use crate::daemon::subnet_file::CniNetwork;
use crate::daemon::systemd::Spokesman;
use crate::reconcile::logbook::{Logbook, Page};

/// An agent between the two.
pub(in crate::daemon::tests) struct Stage {
    pub(in crate::daemon::tests) source: FakeSource,
    pub(in crate::daemon::tests) node: FakeNode,
    pub(in crate::daemon::tests) ready: Ready,
    folder: tempfile::TempDir,
    cancel: CancellationToken,
    agent: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Stage {
    pub(in crate::daemon::tests) fn new() -> Self {
        Self {
            source: FakeSource::new(),
            node: FakeNode::new(),
            ready: Ready::default(),
            folder: tempfile::tempdir().unwrap(),
            cancel: CancellationToken::new(),
            agent: None,
        }
    }

    pub(in crate::daemon::tests) fn start(&mut self) {
        let options = Options {
            subnet_file: self.subnet_file(),
            cni: Some(CniNetwork {
                folder: self.subnet_file().with_file_name("net.d"),
                bridge: "cni0".to_owned(),
            }),
            ip_masq: true,
            logbook: Logbook::new(self.folder.path(), "played", Duration::from_hours(1)),
            spokesman: Spokesman::Network,
            published: start::Published::default(),
            claim: None,
            present: None,
        };
        self.agent = Some(tokio::spawn(start::run(
            options,
            self.source.clone(),
            self.node.clone(),
            self.ready.clone(),
            self.cancel.clone(),
        )));
    }

    pub(in crate::daemon::tests) fn subnet_file(&self) -> PathBuf {
        self.folder.path().join("subnet.env")
    }

    /// What `status` would read.
    pub(in crate::daemon::tests) fn page(&self) -> Page {
        Page::read(self.folder.path(), "played").unwrap()
    }

    pub(in crate::daemon::tests) fn subnet_env(&self) -> String {
        std::fs::read_to_string(self.subnet_file()).unwrap()
    }

    pub(in crate::daemon::tests) async fn subnet_env_has(&self, line: &str) {
        until(|| {
            std::fs::read_to_string(self.subnet_file())
                .is_ok_and(|text| text.lines().any(|have| have == line))
        })
        .await;
    }

    pub(in crate::daemon::tests) async fn is_ready(&self) {
        until(|| self.ready.get()).await;
    }

    /// Lets everything happen that is due without the drift timer.
    pub(in crate::daemon::tests) async fn idle(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }

    pub(in crate::daemon::tests) async fn end(&mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        self.ended().await
    }

    pub(in crate::daemon::tests) async fn ended(&mut self) -> anyhow::Result<()> {
        let agent = self.agent.take().unwrap();
        let outcome = tokio::time::timeout(Duration::from_mins(10), agent).await;
        outcome.expect("the agent ends").unwrap()
    }
}
