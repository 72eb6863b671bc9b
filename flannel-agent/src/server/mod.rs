//! The server of flannel's client–server mode: hands out leases of etcd to nodes that do not ask etcd themselves.
//!
//! It keeps nothing: what it knows is what etcd says, so several may run, and each may be restarted at any time.

mod call;
mod caller;
mod connection;
mod exchange;
mod feed;
mod listen;
mod networks;
mod poll;
mod room;
mod service;
mod stock;
mod tell;
mod together;
mod turn;
mod vigil;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::base::open_files;
use crate::daemon::health::{Health, Ready};
use crate::daemon::signals::Signals;
use crate::daemon::systemd::Systemd;
use crate::settings::Config;
use crate::settings::remote::ServerOptions;
use crate::source::etcd::EtcdOptions;
use crate::source::etcd::registry::Registry;
use connection::Door;
use networks::Networks;
use room::Room;

const WORKERS: usize = 2;
/// After a failure to take a connection, usually for want of file descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until a signal ends it.
///
/// # Errors
/// What makes a start impossible.
pub fn main(config: &Config, options: &ServerOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run(config, options));
    runtime.shutdown_background();
    outcome
}

async fn run(config: &Config, options: &ServerOptions) -> anyhow::Result<()> {
    tracing::info!(
        "flannel-agent v{} starts as a server",
        env!("CARGO_PKG_VERSION")
    );
    let cancel = CancellationToken::new();
    tokio::spawn(Signals::install()?.watch(cancel.clone()));
    let server = Server::bind(&config.etcd, options).await?;
    let ready = Ready::default();
    if let Some(address) = config.health {
        let health = Health::bind(address, ready.clone()).await?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            if let Err(error) = health.serve(cancel).await {
                tracing::error!("{error:#}");
            }
        });
    }
    tracing::info!(
        "serving the networks below {} on {}",
        config.etcd.prefix,
        server.address()?
    );
    let (first, mut answered) = oneshot::channel();
    tokio::spawn(vigil::keep(server.networks.registry(None), ready, first));
    let mut systemd = Systemd::from_env();
    let alive = async {
        let mut waits = true;
        loop {
            tokio::select! {
                () = systemd.due() => systemd.alive(),
                _ = &mut answered, if waits => {
                    waits = false;
                    systemd.ready();
                }
            }
        }
    };
    tokio::select! {
        () = server.serve(cancel) => {}
        () = alive => {}
    }
    systemd.stopping();
    Ok(())
}

/// A server whose port is open.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    door: Door,
    room: Room,
    networks: Arc<Networks>,
}

impl Server {
    /// # Errors
    /// Files or endpoints that cannot be used, or a port that cannot be had.
    pub async fn bind(etcd: &EtcdOptions, options: &ServerOptions) -> anyhow::Result<Self> {
        // Each client is a connection.
        let files = open_files::raise();
        let registry = Registry::new(etcd)?;
        let door = Door::new(options)?;
        Ok(Self {
            listener: listen::listen(&options.listen).await?,
            door,
            room: Room::new(options.connections, files),
            networks: Arc::new(Networks::new(registry)),
        })
    }

    /// # Errors
    /// The kernel does not say it of what systemd passed.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until cancelled; what is open then is cut.
    pub async fn serve(mut self, cancel: CancellationToken) {
        loop {
            let accepted = cancel.run_until_cancelled(self.listener.accept());
            match accepted.await {
                None => return,
                Some(Ok((stream, peer))) => {
                    let Some(guest) = self.room.enter(peer) else {
                        continue;
                    };
                    let networks = Arc::clone(&self.networks);
                    let served = self.door.serve(stream, peer, guest, networks);
                    let cancel = cancel.clone();
                    tokio::spawn(async move {
                        cancel.run_until_cancelled_owned(served).await;
                    });
                }
                Some(Err(error)) => {
                    tracing::warn!("cannot take a connection: {error}");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}
