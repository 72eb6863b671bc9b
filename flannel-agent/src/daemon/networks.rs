//! Several networks in one daemon. Each is an agent of its own, with threads of its own: one that fails, waits or hangs is nothing to
//! the others. What they share is the process: signals, health endpoints, the word to the service manager.

mod served;

use std::collections::BTreeMap;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::health::{Board, Health};
use super::serve;
use super::systemd::Systemd;
use crate::dataplane;
use crate::node::mark;
use crate::settings::{Config, Networks};
use served::Served;

/// How often the service manager hears who is not ready, at most.
const TELL: std::time::Duration = std::time::Duration::from_secs(1);

/// Serves them until cancelled.
///
/// # Errors
/// The health endpoints' port is taken. What is wrong with a network concerns that network.
pub(super) async fn run(
    config: &Config,
    networks: &Networks,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let board = Board::default();
    if let Some(address) = config.health {
        let health = Health::of_several(address, board.clone()).await?;
        serve(health, cancel.clone());
    }
    let mut systemd = Systemd::from_env();
    let mut supervisor = Supervisor {
        config,
        networks,
        board: board.clone(),
        claims: Claims::default(),
        served: BTreeMap::new(),
        cancel: &cancel,
    };
    // A network may never start, so nobody waits for one.
    systemd.ready();
    supervisor.start_all(networks.names.clone()).await;
    let mut told = interval_at(Instant::now() + TELL, TELL);
    told.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = systemd.due() => systemd.alive(),
            _ = told.tick() => systemd.status(board.summary()),
        }
    }
    systemd.stopping();
    supervisor.end().await;
    Ok(())
}

/// Starts and ends them.
struct Supervisor<'a> {
    config: &'a Config,
    networks: &'a Networks,
    board: Board,
    claims: Claims,
    served: BTreeMap<String, Served>,
    cancel: &'a CancellationToken,
}

impl Supervisor<'_> {
    /// One after the other, and whatever this node forwards for before what it does not: of two that cannot be served side by side,
    /// the first to read its configuration is.
    async fn start_all(&mut self, mut names: Vec<String>) {
        names.sort_by_key(|name| {
            let name = mark::network_name(&format!("{}/{name}", self.config.etcd.prefix));
            !dataplane::has_pins(&self.config.bpffs, &name)
        });
        for name in names {
            if self.cancel.is_cancelled() {
                return;
            }
            self.start(&name).await;
        }
    }

    async fn start(&mut self, name: &str) {
        let config = match self.config.of_network(self.networks, name) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!("the network {name} is not served: {error}");
                return;
            }
        };
        let cancel = self.cancel.child_token();
        let served = Served::start(name, config, &self.board, &self.claims, cancel);
        self.cancel.run_until_cancelled(served.has_settled()).await;
        self.served.insert(name.to_owned(), served);
    }

    async fn end(self) {
        for (_, served) in self.served {
            served.end().await;
        }
    }
}
