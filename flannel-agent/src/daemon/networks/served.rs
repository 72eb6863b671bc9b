//! One network among several, started again whenever it ends with an error.

use std::io;
use std::time::Duration;

use anyhow::anyhow;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::counters::Counters;
use crate::base::logging::{self, describe};
use crate::cleanup;
use crate::daemon::claims::Claims;
use crate::daemon::health::{Board, Ready};
use crate::daemon::metrics::Exporter;
use crate::daemon::networks::datastore;
use crate::daemon::start;
use crate::daemon::start::Published;
use crate::daemon::systemd::Spokesman;
use crate::daemon::{STACK, WORKERS, note, serve_network};
use crate::dataplane::{self, Presence};
use crate::node::mark;
use crate::settings::Config;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What ran for so long has worked: the next failure is a new one.
const WORKED: Duration = Duration::from_mins(5);
/// How long the next network waits for what this one makes of its configuration: a datastore that is silent holds nobody up.
const SETTLE: Duration = Duration::from_secs(2);
/// How long what a network has under way gets to end.
const FAREWELL: Duration = Duration::from_secs(3);
/// Whoever writes a configuration anew may delete the old one first.
const GRACE: Duration = Duration::from_secs(5);
/// etcd is asked again after that long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A network that is served until this ends it.
#[derive(Debug)]
pub(super) struct Served {
    cancel: CancellationToken,
    settled: watch::Receiver<bool>,
    wanted: watch::Sender<bool>,
    life: JoinHandle<()>,
}

impl Served {
    pub(super) fn start(
        name: &str,
        config: Config,
        board: &Board,
        claims: &Claims,
        cancel: CancellationToken,
    ) -> Self {
        let (sender, settled) = watch::channel(false);
        let (ready, counters) = (Ready::default(), Counters::default());
        let (wanted, receiver) = watch::channel(true);
        let life = Life {
            name: name.to_owned(),
            config,
            board: board.clone(),
            claims: claims.clone(),
            settled: sender,
            wanted: receiver,
            ready,
            counters,
            published: Published::default(),
            cancel: cancel.clone(),
        };
        Self {
            cancel,
            settled,
            wanted,
            life: tokio::spawn(life.live()),
        }
    }

    /// Waits until it is known whether it gets what it wants of the node, but not for long.
    pub(super) async fn has_settled(&self) {
        let mut settled = self.settled.clone();
        // Nobody there to tell: it has ended.
        let _ = timeout(SETTLE, settled.wait_for(|settled| *settled)).await;
    }

    /// Whether the datastore has a network of this name. One that was deleted is taken off the node; it may come again.
    pub(super) fn is_wanted(&self, wanted: bool) {
        self.wanted.send_if_modified(|known| {
            let changed = *known != wanted;
            *known = wanted;
            changed
        });
    }

    /// Ends it, and leaves in place what forwards.
    pub(super) async fn end(self) {
        self.cancel.cancel();
        if let Err(error) = self.life.await {
            tracing::error!("a network's end failed: {error}");
        }
    }
}

struct Life {
    name: String,
    config: Config,
    board: Board,
    claims: Claims,
    settled: watch::Sender<bool>,
    wanted: watch::Receiver<bool>,
    ready: Ready,
    counters: Counters,
    /// The lease that it has, or had when it ended.
    published: Published,
    cancel: CancellationToken,
}

impl Life {
    async fn live(self) {
        loop {
            let exporter = Exporter::new(&self.config, self.counters.clone());
            self.board.put(&self.name, self.ready.clone(), exporter);
            self.serve().await;
            if self.cancel.is_cancelled() || !self.go().await {
                return;
            }
        }
    }

    /// Until nobody wants it any more.
    async fn serve(&self) {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times();
        let mut pause = pauses.build();
        let mut said = None;
        let mut present = None;
        let ends = self.cancel.child_token();
        let deleted = async {
            self.becomes(false).await;
            ends.cancel();
            std::future::pending::<()>().await;
        };
        let serve = async {
            loop {
                let begun = Instant::now();
                // Anew each time: the folder may be another one by now. The pause is not without an agent.
                let next = self.be_present();
                drop(std::mem::replace(&mut present, next));
                let outcome = self.run(present.clone(), &ends).await;
                if ends.is_cancelled() {
                    return;
                }
                let error = match outcome {
                    Ok(()) => anyhow!("it ended without a reason"),
                    Err(error) => error,
                };
                note(&self.config, &error);
                let why = describe(&error);
                if begun.elapsed() >= WORKED {
                    pause = pauses.build();
                    said = None;
                }
                let wait = pause.next().unwrap_or(LONGEST_PAUSE);
                if said.as_ref() == Some(&why) {
                    tracing::debug!("the network {} still: {why}", self.name);
                } else {
                    tracing::error!(
                        "the network {} is not looked after, and is tried again: {why}",
                        self.name
                    );
                }
                self.ready.hinder(why.clone());
                said = Some(why);
                let slept = tokio::time::sleep(wait);
                if ends.run_until_cancelled(slept).await.is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = deleted => {}
        }
    }

    fn be_present(&self) -> Option<Presence> {
        let name = mark::network_name(&self.config.etcd.prefix);
        dataplane::be_present(&self.config.bpffs, &name)
    }

    /// Its configuration was deleted. Returns once there is one again; `false`: the daemon ends.
    async fn go(&self) -> bool {
        tracing::info!(
            "the configuration of the network {} was deleted: its agent has ended",
            self.name
        );
        self.ready
            .hinder("its configuration was deleted".to_owned());
        let gone = async {
            tokio::time::sleep(GRACE).await;
            self.is_gone().await;
        };
        tokio::select! {
            () = self.cancel.cancelled() => return false,
            () = self.becomes(true) => return true,
            () = gone => {}
        }
        self.release().await;
        match self.take_down().await {
            Ok(()) => tracing::info!("the network {} is off this node", self.name),
            Err(error) => tracing::error!(
                "the network {} is not quite off this node: {}; `cleanup --networks={}` tries it again",
                self.name,
                describe(&error),
                self.name
            ),
        }
        self.board.take(&self.name);
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = self.becomes(true) => true,
        }
    }

    /// Returns once the datastore has said that there is no configuration: nothing is taken down because nobody answers.
    async fn is_gone(&self) {
        loop {
            if let Ok(false) = datastore::has_network(&self.config, &self.name).await {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Others may have the subnet. What is not given back ends by itself.
    async fn release(&self) {
        let Some(own) = self.published.last() else {
            return;
        };
        match datastore::release(&self.config, &own).await {
            Ok(()) => tracing::info!("the lease of {} is given back", own.subnet),
            Err(error) => tracing::warn!(
                "the lease of {} is not given back, and ends in a day: {}",
                own.subnet,
                describe(&error)
            ),
        }
    }

    async fn take_down(&self) -> anyhow::Result<()> {
        cleanup::take_down(&self.config).await?;
        // Or pods would get addresses of a network that is gone.
        match std::fs::remove_file(&self.config.subnet_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn becomes(&self, wanted: bool) {
        let mut receiver = self.wanted.clone();
        if receiver.wait_for(|now| *now == wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// From start to end, in threads of its own.
    async fn run(&self, present: Option<Presence>, ends: &CancellationToken) -> anyhow::Result<()> {
        let runtime = self.runtime()?;
        let claim = self.claims.of(&self.name, self.settled.clone());
        let options = start::Options {
            spokesman: Spokesman::Supervisor,
            claim: Some(claim),
            published: self.published.clone(),
            present,
            ..(&self.config).into()
        };
        let (config, ready, cancel) = (self.config.clone(), self.ready.clone(), ends.child_token());
        let over = cancel.clone();
        let life = async move { serve_network(&config, options, ready, cancel).await };
        let outcome = runtime.spawn(life).await;
        over.cancel();
        // Whoever comes next finds nothing of this one running.
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(FAREWELL));
        let _ = ended.await;
        match outcome {
            Ok(outcome) => outcome,
            Err(broken) => Err(broken.into()),
        }
    }

    fn runtime(&self) -> anyhow::Result<Runtime> {
        let (counters, name) = (self.counters.clone(), self.name.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name(&self.name)
            .thread_stack_size(STACK)
            .enable_all()
            .on_thread_start(move || {
                counters.count_in_this_thread();
                logging::enter_network(&name);
            })
            .on_thread_stop(logging::leave_network)
            .build()?;
        Ok(runtime)
    }
}
