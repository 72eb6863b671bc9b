//! SIGINT and SIGTERM end the agent and leave forwarding in place; a second one does not wait. SIGUSR1 has it log
//! more, SIGUSR2 less.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::base::logging::{self, Change};

/// The signals the agent answers to.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    more: Signal,
    less: Signal,
}

impl Signals {
    /// Takes over the process's handlers.
    ///
    /// # Errors
    /// The kernel refuses the handlers.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let handler = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            hangup: handler(SignalKind::hangup())?,
            more: handler(SignalKind::user_defined1())?,
            less: handler(SignalKind::user_defined2())?,
        })
    }

    /// Cancels on the first signal and ends the process on the second.
    pub(crate) async fn watch(mut self, cancel: CancellationToken) {
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
                _ = self.more.recv() => log("SIGUSR1", Change::More),
                _ = self.less.recv() => log("SIGUSR2", Change::Less),
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP ignored: restart the agent to read its settings anew");
                }
            }
        }
    }
}

fn log(signal: &str, change: Change) {
    let verbosity = logging::change(change);
    tracing::info!("{signal}: logging as with -v={verbosity} from now on");
}
