//! Which network a tunnel's is, on this node: its pair, and who may send into it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use flannel_common::header::Ip;
use flannel_common::maps::Peer;
use flannel_common::reason::Reason;
use flannel_common::source::{Claim, Leases, SenderKey};
use flannel_common::{Ipv4, Mac, ipip};
use ipnet::Ipv4Net;

use super::answer::Answer;
use super::too_big::Misfit;
use crate::base::options::SourceCheck;
use crate::dataplane::Sources;
use crate::dataplane::view::{Told, View, here};
use crate::flannel::backend::Wire;
use crate::node::mark;
use crate::node::net::{Link, NetError, Netlink};

#[derive(Debug)]
pub(super) struct Networks {
    looker: Looker,
    here: Answer<Here>,
    /// VNIs of this node, as of the last packet.
    vnis: BTreeSet<u32>,
}

/// What is on this node.
#[derive(Debug, Default)]
struct Here {
    /// Tunnels.
    wires: BTreeSet<Wire>,
    /// Those of them that packets came for.
    known: BTreeMap<Wire, Option<Network>>,
}

/// Who asks the kernel.
#[derive(Debug, Clone)]
struct Looker {
    net: Netlink,
    bpffs: PathBuf,
    /// Whose agent this is.
    own: String,
}

/// What a program was told, and its id: it is never told anything else.
type ToldOnce = (u32, Told);

/// No program has this id: an agent of this process has said it.
const NOBODY: u32 = 0;

/// One network of this node.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) gro_index: u32,
    /// MAC of `flannel.<VNI>`.
    pub(super) mac: Mac,
    /// MTU of `flannel.<VNI>`.
    pub(super) mtu: u32,
    /// Whether its tunnel carries marks.
    pub(super) gbp: bool,
    /// This node's subnet.
    own: Vec<Ipv4Net>,
    /// Where peers send to; `None` if any address of this node may be meant.
    at: Option<[Ipv4Addr; 2]>,
    told: Option<ToldOnce>,
    /// `None` if its maps cannot be read: then nobody is known.
    sources: Option<Sources>,
}

impl Networks {
    pub(super) fn new(net: Netlink, bpffs: PathBuf, own: String) -> Self {
        Self {
            looker: Looker { net, bpffs, own },
            here: Answer::default(),
            vnis: BTreeSet::new(),
        }
    }

    /// VNIs of this node, as of the last packet.
    pub(super) fn vnis(&self) -> BTreeSet<u32> {
        self.vnis.clone()
    }

    /// The peers' outer addresses, of networks that packets came for.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let known = self.here.known().into_iter();
        let networks = known.flat_map(|here| here.known.values()).flatten();
        let sources = networks.filter_map(|network| network.sources.as_ref());
        sources.flat_map(Sources::addresses)
    }

    /// The network of a tunnel, if it is one of an agent of ours on this node.
    pub(super) async fn get(&mut self, wire: Wire) -> Option<&mut Network> {
        let Self { looker, here, vnis } = self;
        let ask = |before: Option<&Here>| looker.clone().look(asked_for(before));
        // Whoever sends VNIs at random must not make us ask the kernel for each.
        let here = here.get(ask).await?;
        *vnis = here.wires.iter().copied().filter_map(Wire::vni).collect();
        if !here.wires.contains(&wire) {
            return None;
        }
        let known = match here.known.entry(wire) {
            Entry::Occupied(known) => known.into_mut(),
            // Not remembered, if it fails: the next packet may be luckier.
            Entry::Vacant(unknown) => unknown.insert(looker.network(wire, None).await?),
        };
        known.as_mut()
    }
}

/// The tunnels to look up again, with what their programs were told.
fn asked_for(before: Option<&Here>) -> BTreeMap<Wire, Option<ToldOnce>> {
    let known = before.iter().flat_map(|here| &here.known);
    let told = |network: &Option<Network>| network.as_ref()?.told.clone();
    known
        .map(|(wire, network)| (*wire, told(network)))
        .collect()
}

impl Looker {
    async fn look(self, before: BTreeMap<Wire, Option<ToldOnce>>) -> Here {
        let mut here = Here::default();
        match self.list().await {
            Ok(wires) => here.wires = wires,
            Err(error) => tracing::warn!(%error, "cannot list the networks of this node"),
        }
        for (wire, told) in before {
            if here.wires.contains(&wire)
                && let Some(network) = self.network(wire, told).await
            {
                here.known.insert(wire, network);
            }
        }
        here
    }

    async fn list(&self) -> Result<BTreeSet<Wire>, NetError> {
        let links = self.net.links().await?;
        let ours = links.iter().filter(|l| mark::network_of(l).is_some());
        Ok(ours.filter_map(mark::wire_of).collect())
    }

    /// `None`: nobody knows, which is said.
    async fn network(&self, wire: Wire, before: Option<ToldOnce>) -> Option<Option<Network>> {
        let found = self.look_up(wire, before).await;
        found
            .inspect_err(
                |error| tracing::warn!(?wire, %error, "cannot look up the pair of a tunnel"),
            )
            .ok()
    }

    async fn look_up(
        &self,
        wire: Wire,
        before: Option<ToldOnce>,
    ) -> Result<Option<Network>, NetError> {
        let links = self.net.links().await?;
        let near = links.iter().find(|link| match wire {
            // Each has a port of its own, and so a socket.
            Wire::Udp => mark::is_udp(&link.name) && mark::network_of(link) == Some(&self.own),
            _ => link.name == mark::device(wire),
        });
        let is_far = |near: &Link, far: &Link| near.peer == Some(far.index);
        let far = near.and_then(|near| links.iter().find(|far| is_far(near, far)));
        let (Some(near), Some(far)) = (near, far) else {
            return Ok(None);
        };
        let (Some(name), Some(mac)) = (mark::network_of(near), near.mac) else {
            return Ok(None);
        };
        let sources = Sources::open(&self.bpffs, name).ok();
        let addresses = self.net.addresses().await?;
        let own = addresses.iter().filter(|a| a.index == near.index);
        let told_once = self.told(name, &links, before).await;
        let told = told_once.as_ref().map(|(_, told)| told);
        let own = match told {
            Some(told) => vec![told.subnet],
            // Another build's programs: most networks lease subnets of one length.
            None => {
                let len = sources.as_ref().and_then(Sources::subnet_len);
                own.filter_map(|a| Ipv4Net::new(a.ip(), len?).ok())
                    .collect()
            }
        };
        let gbp = told.is_some_and(|told| told.gbp);
        // Somebody else translates a PublicIP that is not ours, to whatever address he likes.
        let is_here = |told: &&Told| addresses.iter().any(|a| a.ip() == told.public_ip);
        let at = told
            .filter(is_here)
            .map(|told| [told.uplink_ip, told.public_ip]);
        Ok(Some(Network {
            gro_index: far.index,
            mac,
            mtu: near.mtu,
            gbp,
            own,
            at,
            told: told_once,
            sources,
        }))
    }

    /// What the programs of a network were told; those that are in their place are asked.
    async fn told(&self, name: &str, links: &[Link], before: Option<ToldOnce>) -> Option<ToldOnce> {
        if let Some(told) = here::told(&self.bpffs, name) {
            return Some((NOBODY, told));
        }
        let view = View::open(&self.bpffs, Some(name)).ok()?;
        let hook = view.any_hook(&self.net, links).await.ok()??;
        let id = hook.program_id;
        if let Some(before) = before.filter(|(of, _)| *of == id) {
            return Some(before);
        }
        Some((id, view.told(&hook).ok()??))
    }
}

impl Network {
    /// Refuses what was sent to another address of this node than peers use: they do not, and a pod may, past the check at its
    /// own node, which knows no others.
    pub(super) fn is_at(&self, destination: Ipv4Addr) -> Result<(), Reason> {
        match self.at {
            Some(at) if !at.contains(&destination) => Err(Reason::PodTunnel),
            _ => Ok(()),
        }
    }

    /// Whether a packet in IPv4 is the network's; see [`ipip::is_ours`].
    pub(super) fn is_ours(&self, claim: &Claim, destination: Ipv4, mode: SourceCheck) -> bool {
        let Some(sources) = &self.sources else {
            return false;
        };
        let leases = Known {
            own: &self.own,
            sources,
        };
        let is_its_own = || {
            let owner = leases.owner(claim.inner);
            owner.is_some_and(|peer| peer.public_ip == claim.outer)
        };
        ipip::is_ours(
            leases.has_address(claim.outer),
            leases.is_ours(destination),
            mode.value(),
            is_its_own,
        )
    }

    /// Whether a packet that is said not to fit can be one of our pods', sent to the peer that its destination is at.
    pub(super) fn may_be_told(&self, misfit: &Misfit<'_>) -> bool {
        let inner: Ip = bytemuck::pod_read_unaligned(&misfit.packet[..Ip::LEN]);
        let source = Ipv4Addr::from(inner.src);
        let is_pods = self.own.iter().any(|subnet| subnet.contains(&source));
        let owner = self.sources.as_ref().and_then(|s| s.owner(inner.dst));
        is_pods
            && owner.is_some_and(|peer| peer.public_ip == misfit.outer.dst)
            && misfit.mtu < self.mtu
    }

    /// A packet of the network, from there, has come by INPUT.
    pub(super) fn heard(&mut self, outer: Ipv4) {
        if let Some(sources) = &mut self.sources {
            sources.heard(outer);
        }
    }

    /// As `uplink_rx` decides, and notes.
    pub(super) fn check(&mut self, claim: &Claim, mode: SourceCheck) -> Result<(), Reason> {
        if mode == SourceCheck::Off {
            return Ok(());
        }
        let sources = self.sources.as_mut().ok_or(Reason::UnknownVtep)?;
        let leases = Known {
            own: &self.own,
            sources,
        };
        let outcome = claim.check(&leases, mode.value());
        if let Some(key) = SenderKey::of(claim, outcome) {
            sources.note(&key, claim);
        }
        outcome.map(|_| ())
    }
}

struct Known<'a> {
    own: &'a [Ipv4Net],
    sources: &'a Sources,
}

impl Leases for Known<'_> {
    fn owner(&self, inner: Ipv4) -> Option<Peer> {
        self.sources.owner(inner)
    }

    fn is_ours(&self, inner: Ipv4) -> bool {
        let inner = Ipv4Addr::from(inner);
        self.own.iter().any(|subnet| subnet.contains(&inner))
    }

    fn has_address(&self, outer: Ipv4) -> bool {
        self.sources.has_address(outer)
    }

    fn has_mac(&self, mac: Mac) -> bool {
        self.sources.has_mac(mac)
    }
}
