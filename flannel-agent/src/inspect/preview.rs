//! `plan`: what the agent would do on this node, as the daemon finds it out, without doing any of it.

mod doer;
mod node;
mod step;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::time::timeout;

use super::Verdict;
use super::look::asking;
use super::output::{Format, json};
use crate::daemon;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::LeaseAttrs;
use crate::flannel::subnet_env;
use crate::node::net::Netlink;
use crate::node::uplink::{Memory, Uplink};
use crate::node::{mark, uplink};
use crate::settings::Config;
use crate::settings::flags::Flags;
use crate::source::LeaseRequest;
use crate::source::etcd::{EtcdSource, LeasePreview};
use crate::source::kube::{KubeOptions, KubeSource};
use crate::source::remembered::look;
use crate::source::remote::{RemoteOptions, RemoteSource};
use doer::Doer;
use step::Step;

/// Long enough for a cluster that elects a leader.
const ANSWER: Duration = Duration::from_secs(10);

/// `plan …`
#[derive(Debug, Args)]
pub struct Plan {
    /// For people or for programs
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub flags: Flags,
}

/// What was found out.
#[derive(Debug, Serialize)]
struct Preview {
    network: String,
    #[serde(flatten)]
    doer: Doer,
    uplink: String,
    subnet: Ipv4Net,
    steps: Vec<Step>,
    /// Leases that lead nowhere, and why.
    ignored: BTreeMap<Ipv4Net, String>,
}

impl Plan {
    pub(super) fn show(&self, config: &Config, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let preview = asking(async || Preview::make(config).await)?;
        match self.output {
            Format::Json => json(out, &preview)?,
            Format::Table => preview.print(out)?,
        }
        Ok(match preview.steps.as_slice() {
            [] => Verdict::Fine,
            _ => Verdict::Attention,
        })
    }
}

impl Preview {
    async fn make(config: &Config) -> anyhow::Result<Self> {
        let net = Netlink::open()?;
        // What is wrong with it says nothing of etcd.
        uplink::find(&net, &config.uplink, &Memory::default(), None).await?;
        let asked = timeout(ANSWER, Leased::ask(config, &net)).await;
        let leased = asked
            .map_err(|_| anyhow::anyhow!("{} gave no answer in {} s", config.source(), ANSWER.as_secs()))
            .flatten()
            .with_context(|| {
                format!(
                    "cannot tell what this node should be, which {} says; what is pinned forwards on{}",
                    config.source(),
                    without_answer(config)
                )
            })?;
        let mut preview = Self {
            network: mark::network_name(&config.etcd.prefix),
            doer: Doer::default(),
            uplink: leased.uplink.to_string(),
            subnet: leased.lease.subnet,
            steps: Step::of_lease(config.source(), &leased.lease, &leased.attrs),
            ignored: BTreeMap::new(),
        };
        preview
            .add_node(config, &net, &leased.uplink, &leased)
            .await?;
        Ok(preview)
    }

    fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Self {
            network, subnet, ..
        } = self;
        writeln!(out, "{network}: {subnet} over {}", self.uplink)?;
        for (subnet, why) in &self.ignored {
            writeln!(out, "  ! the lease of {subnet} is ignored: {why}")?;
        }
        for step in &self.steps {
            writeln!(out, "  • {}", step.what)?;
        }
        writeln!(out, "{}", self.doer.end(self.steps.len()))?;
        Ok(())
    }
}

/// What a start would do if the datastore does not answer it either.
fn without_answer(config: &Config) -> String {
    let Some(file) = config.snapshot() else {
        return String::new();
    };
    let shown = file.display();
    match look(&file, &config.place()) {
        Ok(Some(memory)) => format!(". {shown}: without an answer {}", memory.start()),
        Ok(None) => format!(". A start would wait for an answer: there is no {shown}"),
        Err(error) => {
            format!(". A start would wait for an answer, and leave {shown} out: {error:#}")
        }
    }
}

/// What the datastore says of the network and of this node's place in it.
struct Leased {
    uplink: Uplink,
    network: NetworkConfig,
    attrs: LeaseAttrs,
    lease: LeasePreview,
}

impl Leased {
    /// The daemon's start, up to the lease.
    async fn ask(config: &Config, net: &Netlink) -> anyhow::Result<Self> {
        match (&config.kube, &config.remote) {
            (Some(kube), _) => Self::ask_kubernetes(config, kube, net).await,
            (None, Some(remote)) => Self::ask_server(config, remote, net).await,
            (None, None) => Self::ask_etcd(config, net).await,
        }
    }

    async fn ask_server(
        config: &Config,
        remote: &RemoteOptions,
        net: &Netlink,
    ) -> anyhow::Result<Self> {
        let source = RemoteSource::new(remote)?;
        let network = source.read_network_config().await?;
        let previous = subnet_env::read(&config.subnet_file)?.subnet;
        let leases = source.read_leases().await?;
        let memory = Memory::of_leases(leases.iter(), previous);
        let uplink = uplink::find(net, &config.uplink, &memory, None).await?;
        let published = source.find_lease(uplink.public_ip).await?;
        let published = published.as_ref().map(|lease| &lease.attrs);
        let attrs = daemon::node_attrs(net, &network, &uplink, published).await?;
        let request = LeaseRequest {
            attrs: attrs.clone(),
            previous,
        };
        let lease = source.preview(&network, &request).await?;
        Ok(Self {
            uplink,
            network,
            attrs,
            lease,
        })
    }

    async fn ask_kubernetes(
        config: &Config,
        kube: &KubeOptions,
        net: &Netlink,
    ) -> anyhow::Result<Self> {
        let source = KubeSource::new(kube)?;
        let network = source.read_network_config()?;
        let previous = subnet_env::read(&config.subnet_file)?.subnet;
        let place = source.find_place().await?;
        let published = place.lease.as_ref();
        let own = published.map(|lease| (&lease.subnet, &lease.attrs));
        let mut choice = config.uplink.clone();
        choice.public_ip = place.public_ip.or(choice.public_ip);
        let memory = Memory::of_leases(own, previous);
        let uplink = uplink::find(net, &choice, &memory, None).await?;
        let published = published.map(|lease| &lease.attrs);
        let attrs = daemon::node_attrs(net, &network, &uplink, published).await?;
        let lease = source.preview(&network, &attrs).await?;
        Ok(Self {
            uplink,
            network,
            attrs,
            lease,
        })
    }

    async fn ask_etcd(config: &Config, net: &Netlink) -> anyhow::Result<Self> {
        let source = EtcdSource::new(&config.etcd)?;
        let network = source.read_network_config().await?;
        let previous = subnet_env::read(&config.subnet_file)?.subnet;
        let leases = source.read_leases().await?;
        let memory = Memory::of_leases(leases.iter(), previous);
        let uplink = uplink::find(net, &config.uplink, &memory, None).await?;
        let published = source.find_lease(uplink.public_ip).await?;
        let published = published.as_ref().map(|lease| &lease.attrs);
        let attrs = daemon::node_attrs(net, &network, &uplink, published).await?;
        let request = LeaseRequest {
            attrs: attrs.clone(),
            previous,
        };
        let lease = source.preview(&network, &request).await?;
        Ok(Self {
            uplink,
            network,
            attrs,
            lease,
        })
    }
}
