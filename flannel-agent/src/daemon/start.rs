//! The start, in flanneld's order: each step needs what the ones before it found out, and whoever
//! waits for the subnet file or readiness can rely on all of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::node::{Node, Wanted};
use super::subnet_file::{CniNetwork, SubnetFile};
use super::systemd::{Spokesman, Systemd};
use crate::base::heap;
use crate::daemon::claims::Claim;
use crate::daemon::health::Ready;
use crate::dataplane::Presence;
use crate::flannel::lease::{self, Leases, OwnLease};
use crate::node::mark;
use crate::node::uplink::Memory;
use crate::reconcile::logbook::Logbook;
use crate::settings::Config;
use crate::source::{LeaseRequest, LeaseSource};

/// How long the tasks get to notice the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// What of the settings concerns the run loop itself.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) subnet_file: PathBuf,
    pub(super) cni: Option<CniNetwork>,
    pub(super) ip_masq: bool,
    pub(super) logbook: Logbook,
    pub(super) spokesman: Spokesman,
    /// Told of our lease.
    pub(super) published: Published,
    /// Where several networks of this process see what the others have; `None`: it has only this one.
    pub(super) claim: Option<Claim>,
    /// Who holds the network's place before and after this life of its agent.
    pub(super) present: Option<Presence>,
}

/// This node's lease, also when whoever kept it has ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Published(Arc<Mutex<Option<watch::Receiver<OwnLease>>>>);

impl Published {
    fn by(&self, own: watch::Receiver<OwnLease>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
    }

    pub(super) fn last(&self) -> Option<OwnLease> {
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.as_ref().map(|own| own.borrow().clone())
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            subnet_file: config.subnet_file.clone(),
            cni: config.cni_conf_dir.clone().map(|folder| CniNetwork {
                folder,
                bridge: config.fast_path.bridge.clone(),
            }),
            ip_masq: config.snat.is_some(),
            logbook: Logbook::new(
                &config.state_dir,
                &mark::network_name(&config.etcd.prefix),
                lease::usable_margin(config.etcd.renew_margin),
            )
            .of(config.source())
            .with_settings(config.shown()),
            spokesman: Spokesman::Network,
            published: Published::default(),
            claim: None,
            present: None,
        }
    }
}

/// Starts, then follows changes until cancelled.
///
/// # Errors
/// A start that is impossible, or the end of a task that should never end.
pub(super) async fn run<S: LeaseSource, N: Node>(
    options: Options,
    source: S,
    node: N,
    ready: Ready,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let systemd = Systemd::of_network(options.spokesman);
    let outcome = live(options, Arc::new(source), node, ready, &cancel, &mut tasks).await;
    systemd.stopping();
    cancel.cancel();
    let farewell = async { while tasks.join_next().await.is_some() {} };
    // What does not end in time is dropped with the set.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
    outcome
}

async fn live<S: LeaseSource, N: Node>(
    options: Options,
    source: Arc<S>,
    node: N,
    ready: Ready,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    // Cut short at any point, a start leaves nothing that the next one does not adopt.
    let started = cancel.run_until_cancelled(start(options, source, node, ready, cancel, tasks));
    let Some(agent) = started.await else {
        return Ok(());
    };
    let mut agent = match agent {
        Ok(agent) => agent,
        // The datastore saw the signal first.
        Err(_) if cancel.is_cancelled() => return Ok(()),
        Err(error) => return Err(error),
    };
    tokio::select! {
        () = agent.follow(cancel) => Ok(()),
        ended = tasks.join_next() => match ended {
            // The tasks see the signal as well, and may be faster.
            _ if cancel.is_cancelled() => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => Err(panic).context("a task of the agent broke"),
            _ => bail!("the datastore's watch ended without a reason"),
        },
    }
}

/// The list is gone behind it: thousands of leases are not to be held twice.
async fn memory<S: LeaseSource>(
    source: &S,
    previous: Option<Ipv4Net>,
    cancel: &CancellationToken,
) -> anyhow::Result<Memory> {
    let leases = source.leases(cancel).await?;
    Ok(Memory::of_leases(leases.iter(), previous))
}

async fn start<S: LeaseSource, N: Node>(
    mut options: Options,
    source: Arc<S>,
    mut node: N,
    ready: Ready,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<Agent<N>> {
    options.logbook.begin();
    let network = options
        .logbook
        .through(source.network_config(cancel))
        .await?;
    tracing::info!(network = %network.network, backend = network.backend.name(), "network configuration read");
    if let Some(claim) = &options.claim {
        claim.stake(&network)?;
    }
    let subnet_file = SubnetFile::new(options.subnet_file, options.cni, options.ip_masq);
    let previous = subnet_file.previous_subnet();
    let memory = memory(&*source, previous, cancel);
    node.remember(options.logbook.through(memory).await?);
    if let Some(public_ip) = options
        .logbook
        .through(source.node_public_ip(cancel))
        .await?
    {
        tracing::info!("the datastore has {public_ip} as this node's public address");
        node.announce(public_ip);
    }
    let uplink = node.uplink().await?;
    tracing::info!("the uplink is {uplink}");
    let published = options
        .logbook
        .through(source.previous_lease(uplink.public_ip, cancel))
        .await?;
    let attrs = node
        .attrs(
            &network,
            &uplink,
            published.as_ref().map(|lease| &lease.attrs),
        )
        .await?;
    let request = LeaseRequest {
        attrs: attrs.clone(),
        previous,
    };
    let own = options
        .logbook
        .through(source.acquire(&network, &request, cancel))
        .await?;
    let (address, mut addresses) = watch::channel(uplink.address);
    {
        let (source, cancel) = (source.clone(), cancel.clone());
        tasks.spawn(async move {
            while let Some(Ok(())) = cancel.run_until_cancelled(addresses.changed()).await {
                source.reconnect();
            }
            // Whoever would tell has ended, and says why.
            cancel.cancelled().await;
            Ok(())
        });
    }
    let known = node.reached(&network).await;
    let (own_sender, own_receiver) = watch::channel(own.clone());
    options.published.by(own_receiver.clone());
    let (attrs, attrs_receiver) = watch::channel(attrs);
    let (leases_sender, mut leases) = watch::channel(Leases::default());
    {
        let (source, network, cancel) = (source.clone(), network.clone(), cancel.clone());
        tasks.spawn(async move {
            source
                .keep(&network, &own_sender, attrs_receiver, &cancel)
                .await
                .context("cannot keep this node's lease")
        });
    }
    {
        let (source, own, cancel) = (source.clone(), own_receiver.clone(), cancel.clone());
        tasks.spawn(async move {
            source
                .follow(own, known, &leases_sender, &cancel)
                .await
                .context("cannot follow the leases of other nodes")
        });
    }
    // An adopted dataplane knows its peers already: without the first snapshot they would all be
    // taken for gone.
    if options.logbook.through(leases.changed()).await.is_err() {
        let reason = tasks.join_next().await;
        return match reason {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => Err(panic).context("a task of the agent broke"),
            _ => bail!("the datastore gave no leases"),
        };
    }
    let wanted = Wanted {
        network,
        own,
        leases: leases.borrow_and_update().clone(),
        uplink,
    };
    let mut agent = Agent {
        node,
        wanted,
        own: own_receiver,
        leases,
        attrs,
        address,
        subnet_file,
        ready,
        systemd: Systemd::of_network(options.spokesman),
        logbook: options.logbook.resting_on(source.rests_on()),
        fails: false,
        _claim: options.claim,
    };
    agent.bring_up().await?;
    // A start reads every lease more than once, and loads programs: as much is not needed again.
    heap::give_back();
    source.forwards();
    Ok(agent)
}
