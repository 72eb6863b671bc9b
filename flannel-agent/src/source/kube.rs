//! Leases in the Kubernetes API, as flanneld keeps them with `--kube-subnet-mgr`: a Node's podCIDR is its subnet, and its
//! annotations say how it is reached.

mod access;
mod api;
mod choice;
mod client;
mod error;
mod examine;
mod follow;
mod identity;
mod keep;
mod kubeconfig;
mod lease;
mod lines;
mod names;
mod node;
mod patch;
mod place;
mod plugin;
mod ranked;
mod table;
mod transport;
mod trust;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use super::etcd::patience::Patience;
use super::{Cancelled, LeaseRequest, LeaseSource};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use api::Api;
use client::Client;
pub use error::{AccessError, KubeError};
pub use examine::{Examined, Place};
use follow::{Follower, OwnNode};
use identity::Identity;
pub use identity::KubeOptions;
use keep::Keeper;
use names::Name;
pub use names::Names;
use node::Node;
use table::Scope;

/// A file that is missing or unreadable is asked for once a second, as etcd's key is.
const CONFIG_POLL: Duration = Duration::from_secs(1);
/// However quiet the watch of our Node is, it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

const UNASSIGNED: &str = "this node's Node has no podCIDR yet: kube-controller-manager assigns it (--allocate-node-cidrs=true and \
                          --cluster-cidr), or whoever sets spec.podCIDR in your cluster";

fn outside(subnet: Ipv4Net, config: &NetworkConfig) -> String {
    format!(
        "this node's podCIDR {subnet} is not inside Network {} of net-conf.json: make both the same range (--cluster-cidr of \
         kube-controller-manager)",
        config.network
    )
}

/// The leases of a cluster.
#[derive(Debug)]
pub struct KubeSource {
    api: Api,
    identity: Identity,
    name: OnceCell<String>,
    net_config: PathBuf,
    set_network_available: bool,
    own_node: watch::Sender<OwnNode>,
    forwards: watch::Sender<bool>,
    /// Of the configuration under which we took our lease.
    scope: OnceLock<Scope>,
}

impl KubeSource {
    /// Prepares connections; none is made before the first use.
    ///
    /// # Errors
    /// When flags, files and variables do not say which API server and which Node.
    pub fn new(options: &KubeOptions) -> Result<Self, AccessError> {
        Self::of(options, || Identity::new(|name| std::env::var(name).ok()))
    }

    /// The same for the Node of this name, whatever the variables say.
    ///
    /// # Errors
    /// When flags and files do not say which API server.
    pub fn of_node(options: &KubeOptions, name: &str) -> Result<Self, AccessError> {
        Self::of(options, || Ok(Identity::Node(name.to_owned())))
    }

    /// Which API server comes first: whoever runs outside of a pod has to name that, too.
    fn of(
        options: &KubeOptions,
        identity: impl FnOnce() -> Result<Identity, AccessError>,
    ) -> Result<Self, AccessError> {
        Ok(Self {
            api: Api {
                client: Arc::new(Client::new(
                    options.api_url.clone(),
                    options.kubeconfig.clone(),
                )?),
                names: options.names.clone(),
            },
            identity: identity()?,
            name: OnceCell::new(),
            net_config: options.net_config.clone(),
            set_network_available: options.set_network_available,
            own_node: watch::Sender::new(None),
            forwards: watch::Sender::new(false),
            scope: OnceLock::new(),
        })
    }

    /// Reads net-conf.json, once.
    ///
    /// # Errors
    /// When it cannot be read, or is invalid.
    pub fn read_network_config(&self) -> anyhow::Result<NetworkConfig> {
        let (config, ipv6) = self.read_net_conf()?;
        if ipv6 {
            tracing::warn!(
                "{} enables IPv6, which is not supported yet: pods get IPv4 from this agent, and no IPv6. Nodes with flanneld know \
                 this one only if flanneld was here before (annotation public-ipv6)",
                self.net_config.display()
            );
        }
        Ok(config)
    }

    /// The same, and whether it enables IPv6.
    ///
    /// # Errors
    /// When it cannot be read, or is invalid.
    pub fn read_net_conf(&self) -> anyhow::Result<(NetworkConfig, bool)> {
        let file = self.net_config.display();
        let json = std::fs::read_to_string(&self.net_config).with_context(|| {
            format!("cannot read {file} (--net-config-path): in Kubernetes it is net-conf.json of the ConfigMap kube-flannel-cfg")
        })?;
        NetworkConfig::parse_for_kubernetes(&json).with_context(|| format!("{file} is not usable"))
    }

    /// Our Node's name.
    async fn name(&self) -> Result<&str, KubeError> {
        let name = self.name.get_or_try_init(|| async {
            match &self.identity {
                Identity::Node(name) => Ok(name.clone()),
                Identity::Pod { namespace, name } => {
                    let node = self.api.node_of(namespace, name).await?;
                    node.ok_or_else(|| KubeError::Answer {
                        what: format!("find the node of pod {namespace}/{name}"),
                        reason: "it is scheduled to none".to_owned(),
                    })
                }
            }
        });
        name.await.map(String::as_str)
    }

    /// Our Node as it is now; `None`: there is none.
    async fn node(&self) -> Result<Option<Node>, KubeError> {
        let name = self.name().await?;
        self.api.node(name).await
    }

    /// The lease that our Node's annotations say, if they can be read.
    fn published(node: &Node) -> Option<OwnLease> {
        Some(OwnLease {
            subnet: lease::subnet(node).ok()??,
            attrs: lease::attrs(node).ok()?,
            expires: None,
        })
    }

    /// The same for the MAC's sake, which peers send to, whatever else is damaged or missing.
    fn with_mac(mut node: Node, public_ip: Ipv4Addr) -> Option<OwnLease> {
        if lease::attrs(&node).is_err() {
            node.annotations
                .insert(Name::PublicIp, public_ip.to_string());
        }
        let attrs = lease::attrs(&node).ok()?;
        attrs.backend_data.as_ref()?;
        Some(OwnLease {
            // Nobody looks at it: a Node without a podCIDR has a MAC, too.
            subnet: lease::subnet(&node).ok().flatten().unwrap_or_default(),
            attrs,
            expires: None,
        })
    }

    /// Waits until our Node has a podCIDR of the network, and says what it waits for.
    async fn assigned(
        &self,
        config: &NetworkConfig,
        cancel: &CancellationToken,
    ) -> anyhow::Result<(Node, Ipv4Net)> {
        let mut said = None;
        loop {
            let node = self.patiently("reading this node's Node", cancel, || self.node());
            let node = node.await?;
            let name = self.name().await?;
            let problem = match node.as_ref().map(lease::subnet) {
                None => format!("there is no Node {name}: the kubelet makes it when it registers"),
                Some(Ok(None)) => UNASSIGNED.to_owned(),
                Some(Err(fault)) => format!("Node {name}: {fault}"),
                Some(Ok(Some(subnet))) if !config.network.contains(&subnet) => {
                    outside(subnet, config)
                }
                Some(Ok(Some(subnet))) => match node {
                    Some(node) => return Ok((node, subnet)),
                    None => continue,
                },
            };
            if said.as_ref() != Some(&problem) {
                tracing::warn!("waiting: {problem}");
                said = Some(problem);
            }
            let version = node.as_ref().map(|node| node.version.as_str());
            let changed = self.api.await_change(name, version, LOOK_AGAIN);
            let changed = cancel.run_until_cancelled(changed).await.ok_or(Cancelled)?;
            if let Err(error) = changed {
                tracing::debug!("waiting for a podCIDR: {error}");
            }
            // Whatever came: a Node that changes all the time, or a watch that ends at once, makes no load.
            let wait = CONFIG_POLL.mul_f64(rand::random_range(1.0..1.5));
            let wait = tokio::time::sleep(wait);
            cancel.run_until_cancelled(wait).await.ok_or(Cancelled)?;
        }
    }

    /// Repeats `attempt` until it succeeds. Also refusals pass: rights are given while we wait.
    async fn patiently<T, F>(
        &self,
        what: &str,
        cancel: &CancellationToken,
        attempt: impl Fn() -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, KubeError>>,
    {
        let mut patience = Patience::growing_with("the API server");
        loop {
            match cancel
                .run_until_cancelled(attempt())
                .await
                .ok_or(Cancelled)?
            {
                Ok(value) => {
                    patience.over();
                    return Ok(value);
                }
                Err(error) => {
                    let wait = patience.lost(what, &error);
                    cancel.run_until_cancelled(wait).await.ok_or(Cancelled)?;
                }
            }
        }
    }
}

impl LeaseSource for KubeSource {
    async fn is_silent(&self) -> bool {
        match self.node().await {
            Err(KubeError::Unreachable { .. }) => true,
            // It is about to start, or without its etcd.
            Err(KubeError::Refused { code, .. }) => code >= 500,
            _ => false,
        }
    }

    /// The configuration is a file, which is there whoever answers.
    async fn answers(&self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let node = self.patiently("reading this node's Node", cancel, || self.node());
        node.await.map(drop)
    }

    fn place(&self) -> super::place::Place {
        place::of(self.api.client.access().ok().as_ref(), Some(&self.identity))
    }

    async fn network_config(&self, cancel: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        let mut patience = Patience::every_with("the network configuration", CONFIG_POLL);
        loop {
            match self.read_network_config() {
                Ok(config) => {
                    patience.over();
                    return Ok(config);
                }
                Err(error) => {
                    let error = crate::base::logging::describe(&error);
                    let wait = patience.lost("waiting for the network configuration", &error);
                    cancel.run_until_cancelled(wait).await.ok_or(Cancelled)?;
                }
            }
        }
    }

    fn reconnect(&self) {
        self.api.client.reconnect();
    }

    /// Ours alone: which of the node's addresses is its own, that one says; and all Nodes are read only once.
    async fn leases(&self, cancel: &CancellationToken) -> anyhow::Result<Leases> {
        let node = self.patiently("reading this node's Node", cancel, || self.node());
        let own = node.await?.as_ref().and_then(Self::published);
        let leases = own.map(|own| (own.subnet, own.attrs));
        Ok(Arc::new(leases.into_iter().collect::<BTreeMap<_, _>>()))
    }

    async fn node_public_ip(&self, cancel: &CancellationToken) -> anyhow::Result<Option<Ipv4Addr>> {
        let node = self.patiently("reading this node's Node", cancel, || self.node());
        let node = node.await?;
        let text = node.as_ref().and_then(|node| node.get(Name::NodePublicIp));
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        match lease::address(text) {
            Ok(ip) => Ok(Some(ip)),
            Err(problem) => {
                tracing::warn!(
                    "this node's annotation node-public-ip is {text:?}: {problem}; leaving it out"
                );
                Ok(None)
            }
        }
    }

    async fn previous_lease(
        &self,
        public_ip: Ipv4Addr,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<OwnLease>> {
        let node = self.patiently("reading this node's Node", cancel, || self.node());
        let node = node.await?;
        Ok(node.and_then(|node| Self::with_mac(node, public_ip)))
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        request: &LeaseRequest,
        cancel: &CancellationToken,
    ) -> anyhow::Result<OwnLease> {
        let (node, subnet) = self.assigned(config, cancel).await?;
        self.scope.get_or_init(|| Scope::of(config));
        if node.pod_cidrs.len() > 1 {
            tracing::info!(
                "of the podCIDRs {}, {subnet} is served: IPv6 is not supported yet",
                node.pod_cidrs.join(", ")
            );
        }
        let gone = lease::missing(&node, lease::annotations(&node, &request.attrs));
        if !gone.is_empty() {
            let body = patch::annotations(&self.api.names, &gone);
            self.patiently("writing this node's annotations", cancel, || {
                self.api.patch(&node.name, &body)
            })
            .await?;
        }
        Ok(OwnLease {
            subnet,
            attrs: request.attrs.clone(),
            expires: None,
        })
    }

    async fn keep(
        &self,
        config: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let keeper = Keeper {
            api: &self.api,
            name: self.name().await?,
            config,
            own,
            attrs,
            node: self.own_node.subscribe(),
            forwards: self.forwards.subscribe(),
            conditions: self.set_network_available,
        };
        cancel.run_until_cancelled(keeper.run()).await;
        Ok(())
    }

    async fn follow(
        &self,
        own: watch::Receiver<OwnLease>,
        _known: Leases,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let name = self.name().await?.to_owned();
        let scope = self.scope.get().cloned();
        let scope = scope.context("Nodes are followed only by a node that has a lease")?;
        let follower = Follower::new(&self.api, name, scope, own, &self.own_node, leases);
        cancel.run_until_cancelled(follower.run()).await;
        Ok(())
    }

    fn forwards(&self) {
        self.forwards.send_replace(true);
    }
}
