//! What would be done on the node itself, in the daemon's order.

use super::doer::Doer;
use super::step::Step;
use super::{Leased, Preview};
use crate::dataplane::has_pins;
use crate::flannel::cni;
use crate::flannel::subnet_env::{self, SubnetEnv};
use crate::node::direct::Direct;
use crate::node::net::Netlink;
use crate::node::node_sysctls::NodeSysctls;
use crate::node::uplink::Uplink;
use crate::node::{blackhole, flanneld_masq, forward_rules, wireguard};
use crate::reconcile;
use crate::reconcile::desired::{Desired, Facts, Inputs, Sought};
use crate::reconcile::inherit::{self, Heir};
use crate::reconcile::logbook::Page;
use crate::reconcile::plan;
use crate::reconcile::plan::Action;
use crate::settings::Config;

/// What was found out before.
#[derive(Clone, Copy)]
struct Known<'a> {
    uplink: &'a Uplink,
    facts: &'a Facts,
    direct: &'a Direct,
}

impl Preview {
    pub(super) async fn add_node(
        &mut self,
        config: &Config,
        net: &Netlink,
        uplink: &Uplink,
        leased: &Leased,
    ) -> anyhow::Result<()> {
        let (network, lease) = (&leased.network, &leased.lease);
        let sought = Sought {
            config: network,
            uplink,
            leases: &lease.others,
            fast_path: &config.fast_path,
            sysctls: &NodeSysctls::new(&config.state_dir, &self.network),
            network: &self.network,
        };
        let facts = Facts::gather(net, sought).await?;
        let direct = Direct::new(network, lease.subnet, &lease.others, uplink, &facts.on_link);
        let known = Known {
            uplink,
            facts: &facts,
            direct: &direct,
        };
        self.add_dataplane(config, net, known, leased).await?;
        let network = network.network;
        self.add_blackhole(config, net, leased).await?;
        if config.forward_rules && forward_rules::are_missing(network).await? {
            let what =
                format!("accept {network} in FORWARD by iptables rules, since its policy is DROP");
            self.steps
                .push(Step::new("kernel", "add_forward_rules", what));
        }
        if config.snat.is_some() {
            let found = flanneld_masq::find(network).await?;
            self.steps.extend(found.into_iter().map(|tool| {
                let what = format!(
                    "remove flanneld's masquerade rules of {network} ({tool}): programs translate"
                );
                Step::new("kernel", "remove_flanneld_masquerade", what)
            }));
        }
        self.add_files(config, facts.underlay.mtu(uplink), leased)
    }

    async fn add_dataplane(
        &mut self,
        config: &Config,
        net: &Netlink,
        known: Known<'_>,
        leased: &Leased,
    ) -> anyhow::Result<()> {
        let mut options = config.dataplane();
        let mut dataplane = reconcile::Preview::open(&options)?;
        let page = Page::read(&config.state_dir, &self.network);
        self.doer = Doer::new(dataplane.agent_runs(), page.as_ref(), config);
        let heir = Heir {
            network: &self.network,
            config: &leased.network,
            bpffs: &config.bpffs,
            by_filters: dataplane.attaches_filters(),
        };
        let former = inherit::former(net, heir).await?;
        if let Some(former) = former.filter(|_| !has_pins(&config.bpffs, &self.network)) {
            let what = format!(
                "take over what a stopped agent of another network ({former}) left, and go on from there"
            );
            self.steps.push(Step::new("kernel", "inherit", what));
            options.network = former;
            dataplane = reconcile::Preview::open(&options)?;
        }
        if !dataplane.is_mounted() {
            let what = format!("mount a BPF file system on {}", config.bpffs.display());
            self.steps.push(Step::new("kernel", "mount_bpffs", what));
        }
        let vtep_mac = leased.network.backend.device_mac(&leased.attrs)?;
        let desired = Desired::new(&Inputs {
            network: &options.network,
            config: &leased.network,
            subnet: leased.lease.subnet,
            leases: &leased.lease.others,
            uplink: known.uplink,
            direct: &known.direct.routes,
            vtep_mac,
            // None yet before the first start.
            public_key: wireguard::published(&leased.network, &leased.attrs).unwrap_or_default(),
            facts: known.facts,
            source_check: config.source_check,
            fast_path: &config.fast_path,
            snat: config.snat.as_ref(),
        })?;
        let actual = dataplane.actual(&desired).await?;
        let actions = plan::plan(&desired, &actual)?;
        for action in &actions {
            if matches!(action, Action::Load { .. }) {
                self.steps
                    .extend(dataplane.replaced_maps()?.iter().map(Step::from));
            }
            self.steps.push(Step::from(action));
        }
        self.ignored.extend(desired.peers.ignored);
        self.ignored.extend(known.direct.ignored.clone());
        Ok(())
    }

    async fn add_blackhole(
        &mut self,
        config: &Config,
        net: &Netlink,
        leased: &Leased,
    ) -> anyhow::Result<()> {
        let wanted = config.blackhole.then_some(leased.lease.subnet);
        let held = net.blackholes().await?;
        let (add, remove) = blackhole::plan(&held, leased.network.network, wanted);
        let add = add.map(|subnet| ("add_blackhole_route", "add", subnet));
        let remove = remove
            .into_iter()
            .map(|subnet| ("remove_blackhole_route", "remove", subnet));
        self.steps
            .extend(add.into_iter().chain(remove).map(|(name, verb, subnet)| {
                Step::new(
                    "kernel",
                    name,
                    format!("{verb} the blackhole route {subnet}"),
                )
            }));
        Ok(())
    }

    fn add_files(
        &mut self,
        config: &Config,
        underlay_mtu: u32,
        leased: &Leased,
    ) -> anyhow::Result<()> {
        let env = SubnetEnv {
            network: leased.network.network,
            subnet: leased.lease.subnet,
            mtu: leased.network.backend.mtu(underlay_mtu),
            ip_masq: config.snat.is_some(),
        };
        let file = &config.subnet_file;
        if subnet_env::text(file)? != Some(env.to_string()) {
            let what = format!(
                "write {}: subnet {}, MTU {}",
                file.display(),
                env.subnet,
                env.mtu
            );
            self.steps
                .push(Step::new("files", "write_subnet_file", what));
        }
        if let Some(folder) = &config.cni_conf_dir
            && !cni::is_written(folder, &config.fast_path.bridge, &env)
        {
            let what = format!("write {}", cni::path(folder).display());
            self.steps
                .push(Step::new("files", "write_cni_network", what));
        }
        Ok(())
    }
}
