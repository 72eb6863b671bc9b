//! One network among several, started again whenever it ends with an error.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::counters::Counters;
use crate::base::logging::{self, describe};
use crate::daemon::claims::Claims;
use crate::daemon::health::{Board, Ready};
use crate::daemon::metrics::Exporter;
use crate::daemon::start;
use crate::daemon::systemd::Spokesman;
use crate::daemon::{WORKERS, serve_network};
use crate::settings::Config;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What ran for so long has worked: the next failure is a new one.
const WORKED: Duration = Duration::from_mins(5);
/// How long the next network waits for what this one makes of its configuration: a datastore that is silent holds nobody up.
const SETTLE: Duration = Duration::from_secs(2);
/// How long what a network has under way gets to end.
const FAREWELL: Duration = Duration::from_secs(3);

/// A network that is served until this ends it.
#[derive(Debug)]
pub(super) struct Served {
    cancel: CancellationToken,
    settled: watch::Receiver<bool>,
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
        let exporter = Exporter::new(&config, counters.clone());
        board.put(name, ready.clone(), exporter);
        let life = Life {
            name: name.to_owned(),
            config,
            claims: claims.clone(),
            settled: sender,
            ready,
            counters,
            cancel: cancel.clone(),
        };
        Self {
            cancel,
            settled,
            life: tokio::spawn(life.live()),
        }
    }

    /// Waits until it is known whether it gets what it wants of the node, but not for long.
    pub(super) async fn has_settled(&self) {
        let mut settled = self.settled.clone();
        // Nobody there to tell: it has ended.
        let _ = timeout(SETTLE, settled.wait_for(|settled| *settled)).await;
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
    claims: Claims,
    settled: watch::Sender<bool>,
    ready: Ready,
    counters: Counters,
    cancel: CancellationToken,
}

impl Life {
    async fn live(self) {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times();
        let mut pause = pauses.build();
        let mut said = None;
        loop {
            let begun = Instant::now();
            let outcome = self.run().await;
            if self.cancel.is_cancelled() {
                return;
            }
            let why = match outcome {
                Ok(()) => "it ended without a reason".to_owned(),
                Err(error) => describe(&error),
            };
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
            if self.cancel.run_until_cancelled(slept).await.is_none() {
                return;
            }
        }
    }

    /// From start to end, in threads of its own.
    async fn run(&self) -> anyhow::Result<()> {
        let runtime = self.runtime()?;
        let claim = self.claims.of(&self.name, self.settled.clone());
        let options = start::Options {
            spokesman: Spokesman::Supervisor,
            claim: Some(claim),
            ..(&self.config).into()
        };
        let (config, ready, cancel) = (
            self.config.clone(),
            self.ready.clone(),
            self.cancel.child_token(),
        );
        let ends = cancel.clone();
        let life = async move { serve_network(&config, options, ready, cancel).await };
        let outcome = runtime.spawn(life).await;
        ends.cancel();
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
