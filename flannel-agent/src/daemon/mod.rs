//! The agent's life: start in flanneld's order, follow changes, end without taking anything down.

mod agent;
mod claims;
mod extension;
mod firewall;
mod glance;
pub mod health;
mod kernel;
mod look_ups;
pub mod metrics;
mod networks;
pub mod node;
mod own_ports;
mod pod_ports;
mod port;
mod reached;
mod retry;
pub(crate) mod signals;
mod start;
mod subnet_file;
pub(crate) mod systemd;
#[cfg(test)]
mod tests;

use std::pin::Pin;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::base::counters::Counters;
use crate::base::logging::describe;
use crate::base::open_files;
use crate::daemon::health::{Health, Ready};
use crate::daemon::metrics::Exporter;
use crate::dataplane::sweep::Sweeper;
use crate::dataplane::{WITHOUT_SYS_ADMIN, lacks_sys_admin};
use crate::node::mark;
use crate::settings::Config;
use crate::source::etcd::EtcdSource;
use crate::source::kube::KubeSource;
use crate::source::remembered::Remembered;
use crate::source::remote::RemoteSource;
use kernel::Kernel;
pub(crate) use kernel::attrs as node_attrs;
use signals::Signals;

/// Netlink, etcd and health together need little; each worker costs stack and heap on every node.
const WORKERS: usize = 2;
/// Of each worker, bytes: futures of a debug build are megabytes. What is not used of it is not taken.
const STACK: usize = 8 << 20;

/// Runs until a signal ends it.
///
/// # Errors
/// What makes a start impossible, or the end of something the agent cannot do without.
pub fn main(config: &Config) -> anyhow::Result<()> {
    open_files::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run(config));
    // A blocking call that hangs (a dead file system, say) must not hold up the end.
    runtime.shutdown_background();
    outcome
}

async fn run(config: &Config) -> anyhow::Result<()> {
    tracing::info!("flannel-agent v{} starts", env!("CARGO_PKG_VERSION"));
    if lacks_sys_admin("self") {
        tracing::warn!("the agent lacks CAP_SYS_ADMIN, and goes on without: {WITHOUT_SYS_ADMIN}");
    }
    let cancel = CancellationToken::new();
    tokio::spawn(Signals::install()?.watch(cancel.clone()));
    if let Some(networks) = &config.networks {
        return networks::run(config, networks, cancel).await;
    }
    let ready = Ready::default();
    if let Some(address) = config.health {
        let exporter = Exporter::new(config, Counters::of_the_process());
        let health = Health::bind(address, ready.clone())
            .await?
            .with_metrics(exporter);
        serve(health, cancel.clone());
    }
    let outcome = serve_network(config, config.into(), ready, cancel).await;
    if let Err(error) = &outcome {
        note(config, error);
    }
    outcome
}

/// For `status`: what kept it from the first look at the node, or ended it.
fn note(config: &Config, why: &anyhow::Error) {
    let start::Options { mut logbook, .. } = config.into();
    logbook.failed(describe(why));
}

fn serve(health: Health, cancel: CancellationToken) {
    tokio::spawn(async move {
        if let Err(error) = health.serve(cancel).await {
            tracing::error!("{error:#}");
        }
    });
}

/// Starts one network, and follows it until cancelled.
async fn serve_network(
    config: &Config,
    mut options: start::Options,
    ready: Ready,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    if config.snat.is_some() {
        let sweeper = Sweeper {
            bpffs: config.bpffs.clone(),
            network: mark::network_name(&config.etcd.prefix),
        };
        tokio::spawn(sweeper.run(cancel.clone()));
    }
    let is_alone = options.claim.is_none();
    let present = options.present.take();
    // Boxed, or the type of what waits for it is deeper than the compiler looks.
    let life: Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>> =
        match (&config.kube, &config.remote) {
            (Some(kube), _) => {
                let (source, node) = (
                    KubeSource::new(kube)?,
                    Kernel::open(config, is_alone, present)?,
                );
                let source = Remembered::new(source, config.snapshot());
                Box::pin(start::run(options, source, node, ready, cancel))
            }
            (None, Some(remote)) => {
                let (source, node) = (
                    RemoteSource::new(remote)?,
                    Kernel::open(config, is_alone, present)?,
                );
                let source = Remembered::new(source, config.snapshot());
                Box::pin(start::run(options, source, node, ready, cancel))
            }
            (None, None) => {
                let (source, node) = (
                    EtcdSource::new(&config.etcd)?,
                    Kernel::open(config, is_alone, present)?,
                );
                let source = Remembered::new(source, config.snapshot());
                Box::pin(start::run(options, source, node, ready, cancel))
            }
        };
    life.await
}
