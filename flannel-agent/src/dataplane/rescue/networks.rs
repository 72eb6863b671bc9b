//! Which network a tunnel's is, on this node: its pair, and who may send into it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use flannel_common::header::Ip;
use flannel_common::maps::Peer;
use flannel_common::reason::Reason;
use flannel_common::source::{Claim, Leases, SenderKey};
use flannel_common::{Ipv4, Mac, ipip};
use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::too_big::Misfit;
use crate::base::options::SourceCheck;
use crate::dataplane::Sources;
use crate::dataplane::view::{Told, View};
use crate::flannel::backend::Wire;
use crate::node::mark;
use crate::node::net::{Link, NetError, Netlink};

/// How long an answer is used. Pairs come and go rarely, and whoever sends fragments sends many.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Networks {
    net: Netlink,
    bpffs: PathBuf,
    /// Whose agent this is.
    own: String,
    known: BTreeMap<Wire, (Instant, Option<Network>)>,
    /// Tunnels that are on this node at all, and since when that is known.
    wires: Option<(Instant, BTreeSet<Wire>)>,
}

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
    /// `None` if its maps cannot be read: then nobody is known.
    sources: Option<Sources>,
}

impl Networks {
    pub(super) fn new(net: Netlink, bpffs: PathBuf, own: String) -> Self {
        Self {
            net,
            bpffs,
            own,
            known: BTreeMap::new(),
            wires: None,
        }
    }

    fn wires(&self) -> impl Iterator<Item = Wire> {
        self.wires.iter().flat_map(|(_, wires)| wires).copied()
    }

    /// VNIs of this node, as of the last packet.
    pub(super) fn vnis(&self) -> BTreeSet<u32> {
        self.wires().filter_map(Wire::vni).collect()
    }

    async fn list(&self) -> Result<BTreeSet<Wire>, NetError> {
        let links = self.net.links().await?;
        let ours = links.iter().filter(|l| mark::network_of(l).is_some());
        Ok(ours.filter_map(mark::wire_of).collect())
    }

    /// The network of a tunnel, if it is one of an agent of ours on this node.
    pub(super) async fn get(&mut self, wire: Wire) -> Option<&mut Network> {
        let now = Instant::now();
        // Whoever sends VNIs at random must not make us ask the kernel for each.
        if self.wires.as_ref().is_none_or(|(at, _)| now - *at >= FRESH) {
            let wires = self.list().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list the networks of this node");
                BTreeSet::new()
            });
            self.known.retain(|wire, _| wires.contains(wire));
            self.wires = Some((now, wires));
        }
        if !self.wires().any(|known| known == wire) {
            return None;
        }
        self.known.retain(|_, (at, _)| now - *at < FRESH);
        if !self.known.contains_key(&wire) {
            let network = self
                .look_up(wire)
                .await
                .inspect_err(
                    |error| tracing::warn!(?wire, %error, "cannot look up the pair of a tunnel"),
                )
                // Not remembered: the next packet may be luckier.
                .ok()?;
            self.known.insert(wire, (now, network));
        }
        self.known.get_mut(&wire)?.1.as_mut()
    }

    async fn look_up(&self, wire: Wire) -> Result<Option<Network>, NetError> {
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
        let told = View::told_of(&self.bpffs, &self.net, name).await;
        let own = match &told {
            Some(told) => vec![told.subnet],
            // Another build's programs: most networks lease subnets of one length.
            None => {
                let len = sources.as_ref().and_then(Sources::subnet_len);
                own.filter_map(|a| Ipv4Net::new(a.ip(), len?).ok())
                    .collect()
            }
        };
        let gbp = told.as_ref().is_some_and(|told| told.gbp);
        // Somebody else translates a PublicIP that is not ours, to whatever address he likes.
        let is_here = |told: &Told| addresses.iter().any(|a| a.ip() == told.public_ip);
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
            sources,
        }))
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
