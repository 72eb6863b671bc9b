//! SIGINT and SIGTERM end the agent and leave forwarding in place; a second one does not wait.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signals the agent answers to.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes over the process's handlers.
    ///
    /// # Errors
    /// The kernel refuses the handlers.
    pub(super) fn install() -> anyhow::Result<Self> {
        let handler = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            hangup: handler(SignalKind::hangup())?,
        })
    }

    /// Cancels on the first signal and ends the process on the second.
    pub(super) async fn watch(mut self, cancel: CancellationToken) {
        let first = self.next().await;
        tracing::info!("{first}: ending; what forwards stays in place");
        cancel.cancel();
        let second = self.next().await;
        tracing::warn!("{second} again: ending at once");
        std::process::exit(0);
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP ignored: restart the agent to read its settings anew");
                }
            }
        }
    }
}
