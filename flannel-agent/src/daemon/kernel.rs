//! The real [`Node`]: this host's kernel.

mod look;
mod port;
mod published;
mod urgent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::extension::Extension;
use super::firewall::Firewall;
use super::glance::Glance;
use super::look_ups::are_due;
use super::node::{Change, Done, Node, Wanted};
use super::own_ports::{self, OwnPorts};
use super::pod_ports::PodPorts;
use super::port::Port;
use super::reached;
use crate::base::counters;
use crate::base::options::{FastPath, SourceCheck, UplinkChoice};
use crate::dataplane::Presence;
use crate::dataplane::by_stack::{self, ByStack};
use crate::dataplane::chain;
use crate::dataplane::moves::Moves;
use crate::dataplane::{ports, senders};
use crate::flannel::backend::Wire;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases};
use crate::node::blackhole;
use crate::node::direct::Direct;
use crate::node::net::{Changes, Monitor, sysctl};
use crate::node::pod_bridge::Mismatch;
use crate::node::uplink::{self, Memory, Uplink};
use crate::node::wireguard;
use crate::reconcile::desired::{self, Desired, Facts, Inputs, Sought, SourceNat};
use crate::reconcile::unreached::Unreached;
use crate::reconcile::{Dataplane, ReconcileError, Report};
use crate::settings::Config;
use look::NO_FORWARDING;
pub(crate) use published::attrs;

/// Netlink, and what is loaded and pinned.
#[derive(Debug)]
pub(super) struct Kernel {
    dataplane: Dataplane,
    monitor: Monitor,
    choice: UplinkChoice,
    memory: Memory,
    /// As it was last found.
    uplink: Option<Uplink>,
    network: String,
    source_check: SourceCheck,
    asks_firewall: bool,
    bpffs: PathBuf,
    fast_path: FastPath,
    snat: Option<SourceNat>,
    /// Devices of which it was said that nothing is translated there.
    unserved: BTreeSet<String>,
    unreached: Unreached,
    own_ports: OwnPorts,
    facts: Facts,
    pod_ports: PodPorts,
    /// When next hops were last looked up.
    looked_up: Option<Instant>,
    /// Since then.
    announced: Changes,
    /// Of that, what nobody has judged yet: whether it is urgent.
    unjudged: Changes,
    glance: Glance,
    /// The cluster's Network, as of the last look.
    cluster: Option<Ipv4Net>,
    port: Port,
    /// Of whom it was said that he has the port.
    port_holder: Option<String>,
    senders: senders::Watch,
    bridge: Option<Mismatch>,
    forwards: bool,
    /// Why no flow is fast because of conntrack, as it was said.
    unfit: Option<String>,
    /// Why nothing is translated at the uplink.
    untranslated: Option<String>,
    blackhole: bool,
    /// What the last reconcile made of it.
    blackhole_held: Option<Option<Ipv4Net>>,
    firewall: Firewall,
    ports: Option<ports::Keeper>,
    moves: Option<Moves>,
    by_stack: ByStack,
    chains: chain::Watch,
    extension: Option<Extension>,
    /// What an agent of another network left is still to be looked for.
    inherits: bool,
}

impl Kernel {
    /// Changes nothing yet. `is_alone`: this process serves no other network. `present`: see [`Dataplane::open_for`].
    ///
    /// # Errors
    /// A missing capability, no bpffs, programs that cannot be read.
    pub(super) fn open(
        config: &Config,
        is_alone: bool,
        present: Option<Presence>,
    ) -> anyhow::Result<Self> {
        let options = config.dataplane();
        // Before the first look, or a change right after it would go unnoticed.
        let monitor = Monitor::open()?;
        let dataplane = Dataplane::open_for(&options, present)?;
        monitor.pass_over(dataplane.netlink().port_of_route_changes());
        own_ports::prepare(dataplane.sysctls(), config.snat.as_ref())?;
        Ok(Self {
            dataplane,
            monitor,
            choice: config.uplink.clone(),
            memory: Memory::default(),
            uplink: None,
            network: options.network,
            source_check: config.source_check,
            asks_firewall: config.asks_firewall,
            bpffs: config.bpffs.clone(),
            fast_path: config.fast_path.clone(),
            snat: config.snat.clone(),
            unserved: BTreeSet::new(),
            unreached: Unreached::default(),
            own_ports: OwnPorts::default(),
            facts: Facts::default(),
            pod_ports: PodPorts::default(),
            looked_up: None,
            announced: Changes::default(),
            unjudged: Changes::default(),
            glance: Glance::default(),
            cluster: None,
            port: Port::default(),
            port_holder: None,
            senders: senders::Watch::default(),
            bridge: None,
            forwards: true,
            unfit: None,
            untranslated: None,
            blackhole: config.blackhole,
            blackhole_held: None,
            firewall: Firewall::new(config.forward_rules.then_some(config.iptables_resync)),
            ports: None,
            moves: None,
            by_stack: ByStack::default(),
            chains: chain::Watch::default(),
            extension: None,
            inherits: is_alone,
        })
    }

    /// What cannot be sent that way is not sent at all.
    async fn serve_stack(&mut self, node: &desired::Node, wire: Option<Wire>) {
        let (Some(pair), Some(wire)) = (&node.pair, wire) else {
            return;
        };
        let Ok(Some(device)) = self.dataplane.netlink().link(&pair.gro_name).await else {
            return;
        };
        let options = by_stack::Options {
            device: device.index,
            bpffs: self.bpffs.clone(),
            network: self.network.clone(),
            wire,
            port: node.globals.port,
            from: node.globals.uplink_ip,
            address: node.address.addr(),
            mac: pair.mac,
            mtu: node.globals.overlay_mtu,
            gbp: node.globals.gbp,
            lent: self.port.lend(),
        };
        self.by_stack.keep(&options);
    }

    fn desired(&self, wanted: &Wanted, direct: &Direct) -> anyhow::Result<Desired> {
        // Our own lease says it, so that it never differs from what peers send to.
        let device_mac = wanted.network.backend.device_mac(&wanted.own.attrs);
        let mut desired = Desired::new(&Inputs {
            network: &self.network,
            config: &wanted.network,
            subnet: wanted.own.subnet,
            leases: &wanted.leases,
            uplink: &wanted.uplink,
            direct: &direct.routes,
            vtep_mac: device_mac.context("this node's own lease is damaged")?,
            public_key: wireguard::published(&wanted.network, &wanted.own.attrs)?,
            facts: &self.facts,
            source_check: self.source_check,
            fast_path: &self.fast_path,
            snat: self.snat.as_ref(),
        })?;
        // Those of host-gw, which the tunnel's peers know nothing of.
        desired.peers.ignored.extend(direct.ignored.clone());
        Ok(self.dataplane.fit(desired)?)
    }

    fn sought<'a>(&'a self, wanted: &'a Wanted) -> Sought<'a> {
        Sought {
            config: &wanted.network,
            uplink: &wanted.uplink,
            leases: &wanted.leases,
            fast_path: &self.fast_path,
            sysctls: self.dataplane.sysctls(),
            network: &self.network,
        }
    }

    /// The longest tunnel packet.
    fn longest(&self, wanted: &Wanted) -> Option<u32> {
        let tunnel = wanted.network.backend.tunnel();
        tunnel.map(|tunnel| self.mtu(wanted) + tunnel.wire.overhead())
    }

    /// Looks at what is true of the node, as thoroughly as what was announced since demands.
    async fn look(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let announced = std::mem::take(&mut self.announced);
        self.unjudged = Changes::default();
        self.glance.forget();
        // Until the look succeeds nobody knows what is new.
        self.cluster = None;
        let again = are_due(announced, self.looked_up.map(|at| at.elapsed()));
        let mut facts = std::mem::take(&mut self.facts);
        if again {
            self.looked_up = None;
        }
        if announced.ways || announced.lost {
            facts.new_others_ways();
        }
        let netlink = self.dataplane.netlink();
        let refreshed = facts.refresh(netlink, self.sought(wanted), again).await;
        // Also after a failure: what it has is from the last look, and more than nothing.
        self.facts = facts;
        refreshed?;
        self.check_udp_port(wanted).await?;
        self.cluster = Some(wanted.network.network);
        self.facts.refused = self.by_stack.refused();
        let filters = self.dataplane.attaches_filters();
        self.pod_ports.settle(&mut self.facts, filters);
        self.name_unserved();
        self.look_at_forwarding();
        self.look_at_conntrack();
        self.unreached.tell(&self.facts, self.longest(wanted));
        self.own_ports
            .judge(self.snat.as_ref(), &self.facts, &wanted.network);
        self.name_port_holder();
        self.looked_up.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn direct(&self, wanted: &Wanted) -> Direct {
        Direct::new(
            &wanted.network,
            wanted.own.subnet,
            &wanted.leases,
            &wanted.uplink,
            &self.facts.on_link,
        )
    }

    /// Of either kind of round, for a change of leases may make it a full one.
    fn hear(&mut self, report: &Report, desired: &Desired) -> Done {
        self.untranslated = report.hindrance(&desired.node.uplink, self.untranslated.take());
        words(report)
    }

    fn count_peers(&self, desired: &Desired, direct: &Direct) {
        counters::count_peers(&counters::PeerStates::new(desired, direct, &self.facts));
    }
}

fn words(report: &Report) -> Done {
    report.done.iter().map(ToString::to_string).collect()
}

impl Node for Kernel {
    async fn uplink(&mut self) -> anyhow::Result<Uplink> {
        let net = self.dataplane.netlink();
        let known = self.uplink.as_ref();
        let uplink = uplink::find(net, &self.choice, &self.memory, known).await?;
        self.memory.keep(uplink.address);
        self.uplink = Some(uplink.clone());
        Ok(uplink)
    }

    fn announce(&mut self, public_ip: Ipv4Addr) {
        self.choice.public_ip = Some(public_ip);
    }

    fn remember(&mut self, memory: Memory) {
        self.memory = memory;
    }

    async fn reached(&mut self, network: &NetworkConfig) -> Leases {
        let netlink = self.dataplane.netlink();
        reached::reached(netlink, &self.bpffs, &self.network, network).await
    }

    async fn attrs(
        &mut self,
        network: &NetworkConfig,
        uplink: &Uplink,
        published: Option<&LeaseAttrs>,
    ) -> anyhow::Result<LeaseAttrs> {
        if network.backend.wireguard().is_some() {
            let key = wireguard::obtain(self.dataplane.netlink()).await?;
            self.dataplane.know_key(key);
        }
        let mut attrs = attrs(self.dataplane.netlink(), network, uplink, published).await?;
        if let Some(commands) = network.backend.commands() {
            let extension = self
                .extension
                .get_or_insert_with(|| Extension::new(commands));
            attrs = LeaseAttrs::extension(attrs.public_ip, extension.data().await?);
        }
        Ok(attrs)
    }

    fn mtu(&self, wanted: &Wanted) -> u32 {
        let underlay = self.facts.underlay.mtu(&wanted.uplink);
        wanted.network.backend.mtu(underlay)
    }

    async fn reconcile(&mut self, wanted: &Wanted) -> anyhow::Result<Done> {
        if std::mem::take(&mut self.inherits) {
            self.dataplane.inherit(&wanted.network).await?;
        }
        self.look(wanted).await?;
        let direct = self.direct(wanted);
        let desired = self.desired(wanted, &direct)?;
        let mut done = Done::new();
        let reconciled = self.dataplane.reconcile(&desired).await;
        match &reconciled {
            Err(ReconcileError::TakenOver { .. }) => {
                // Their device cannot come up while we hold its port.
                self.port.release();
                self.by_stack.release();
            }
            // The port is shared with the other: what waits at our socket would be lost with it.
            Err(ReconcileError::Replaced) => self.by_stack.tell(&desired.peers.table),
            _ => {}
        }
        let report = reconciled?;
        done.extend(self.hear(&report, &desired));
        let translates = self.snat.is_some() && report.untranslated().is_empty();
        self.chains.know(
            &desired.node.attachments,
            &desired.node.pod_ports,
            self.dataplane.pins_of_maps(),
        );
        if self.ports.is_none() {
            let options = ports::Options::new(&self.fast_path, &self.bpffs, &self.network);
            let options = options.filter(|_| !desired.node.programs.is_empty());
            let netlink = self.dataplane.netlink();
            self.ports = ports::Keeper::start(netlink, options).await?;
        }
        if self.moves.is_none() && !desired.node.programs.is_empty() {
            self.follow_moves();
        }
        self.hold_port(&wanted.network).await?;
        let elsewhere = self.port.complaint().or_else(|| self.without_anchor());
        self.by_stack
            .hear(self.asks_firewall && elsewhere.is_none());
        let wire = wanted.network.backend.tunnel().map(|tunnel| tunnel.wire);
        self.serve_stack(&desired.node, wire).await;
        let subnet = self.blackhole.then_some(wanted.own.subnet);
        let network = wanted.network.network;
        let held = blackhole::keep(self.dataplane.netlink(), network, subnet).await?;
        if self.blackhole_held.replace(subnet) == Some(subnet) {
            held.iter()
                .for_each(|_| counters::drift_repaired("add_blackhole_route"));
        }
        done.extend(held);
        self.look_at_bridge(wanted).await?;
        self.firewall.accept(network).await;
        if translates {
            done.extend(self.firewall.replace_masquerading(network).await);
        }
        self.by_stack.tell(&desired.peers.table);
        self.count_peers(&desired, &direct);
        self.name_senders();
        if let Some(extension) = &mut self.extension {
            extension.settle(wanted).await?;
        }
        Ok(done)
    }

    fn hindrance(&self) -> Option<String> {
        let untranslated = || self.untranslated.clone();
        self.firewall.hindrance().or_else(untranslated)
    }

    fn ignored(&self) -> BTreeMap<Ipv4Net, String> {
        self.dataplane.ignored().clone()
    }

    fn complaint(&self) -> Option<String> {
        let bridge = || self.bridge.as_ref().map(ToString::to_string);
        let nothing = (!self.forwards).then(|| NO_FORWARDING.to_owned());
        let others = nothing
            .or_else(|| self.firewall.hindrance())
            .or_else(bridge);
        let others = others.or_else(|| self.firewall.complaint());
        let ports = || self.own_ports.complaint();
        let held = || self.port.complaint().or_else(|| self.without_anchor());
        let first = others.or_else(ports).or_else(held);
        let all: Vec<_> = first
            .into_iter()
            .chain(self.by_stack.complaint().map(str::to_owned))
            .chain(self.dataplane.complaint())
            .collect();
        Some(all.join("; ")).filter(|all| !all.is_empty())
    }

    async fn update_peers(&mut self, wanted: &Wanted) -> anyhow::Result<Done> {
        let mut facts = std::mem::take(&mut self.facts);
        facts
            .update(self.dataplane.netlink(), self.sought(wanted))
            .await;
        self.facts = facts;
        self.facts.refused = self.by_stack.refused();
        self.unreached.tell(&self.facts, self.longest(wanted));
        let direct = self.direct(wanted);
        let desired = self.desired(wanted, &direct)?;
        let updated = self.dataplane.update_peers(&desired).await;
        if matches!(updated, Ok(_) | Err(ReconcileError::Replaced)) {
            self.by_stack.tell(&desired.peers.table);
        }
        let done = self.hear(&updated?, &desired);
        self.count_peers(&desired, &direct);
        if let Some(extension) = &self.extension {
            extension.follow(&wanted.network, wanted.own.subnet, &wanted.leases);
        }
        Ok(done)
    }

    async fn changed(&mut self) -> Change {
        if !self.unjudged.any() {
            tokio::select! {
                changes = self.monitor.changed() => {
                    tracing::debug!(?changes, "the kernel announced changes");
                    self.announced.add(changes);
                    self.unjudged = changes;
                }
                () = self.own_ports.moved(sysctl::local_port_range), if self.snat.is_some() => {
                    tracing::info!("the node connects from other ports: looking at everything at once");
                    return Change::Urgent;
                }
                () = self.firewall.changed() => return Change::Any,
                () = self.pod_ports.ripe() => return Change::Any,
                () = self.by_stack.changed() => return Change::Any,
                () = self.chains.changed() => return Change::Any,
            }
        }
        // Whoever stops waiting meanwhile finds it unjudged the next time.
        let change = self.judge().await;
        self.unjudged = Changes::default();
        change
    }
}
