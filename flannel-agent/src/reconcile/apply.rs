//! The one executor: how each action is done. Every action may be repeated.

mod anchor;
mod wireguard;

use std::io;

use nix::errno::Errno;

use crate::base::key::PrivateKey;
use crate::dataplane::{Bpf, DataplaneError, Loaded, Target};
use crate::node::mark;
use crate::node::net::{
    Direction, Features, Leg, Link, NetError, Netlink, Outcome, Refusals, RouteChange, VethPair,
    sysctl,
};
use crate::node::node_sysctls::NodeSysctls;
use crate::reconcile::desired::{Node, Pair, TUNNEL, Way};
use crate::reconcile::plan::{Action, How, RouteChanges, Set};

pub(crate) struct Executor<'a> {
    pub(crate) net: &'a Netlink,
    pub(crate) bpf: &'a mut Bpf,
    pub(crate) shared: &'a NodeSysctls,
    pub(crate) node: &'a Node,
    /// This node's own.
    pub(crate) private_key: Option<&'a PrivateKey>,
}

impl Executor<'_> {
    pub(crate) async fn apply(&mut self, action: &Action) -> Result<(), DataplaneError> {
        let net = self.net;
        match action {
            Action::SetAside { device, to } => self.set_aside(device, to).await?,
            Action::Retire { device } => {
                if let Some(link) = net.link(device).await? {
                    self.retire(link.index).await?;
                }
            }
            Action::DeleteDevice { device } => {
                if let Some(link) = net.link(device).await? {
                    net.delete_link(link.index).await?;
                }
            }
            Action::CreatePair(pair) => self.create_pair(pair).await?,
            Action::CreateWireGuard(device) => wireguard::create(net, device).await?,
            Action::ConfigureWireGuard(changes) => {
                wireguard::configure(changes, self.private_key)?;
            }
            Action::CreateAnchor(anchor) => anchor::create(net, anchor).await?,
            Action::SetAlias { device, alias } => {
                let index = self.index(device).await?;
                found(device, net.set_alias(index, alias).await?)?;
            }
            Action::SetMac { device, mac } => {
                let index = self.index(device).await?;
                found(device, net.set_mac(index, mac.0).await?)?;
            }
            Action::SetMtu { device, mtu } => {
                let index = self.index(device).await?;
                found(device, net.set_mtu(index, *mtu).await?)?;
            }
            Action::SetGsoMax { device, max } => {
                let index = self.index(device).await?;
                found(device, net.set_gso_max(index, *max).await?)?;
            }
            Action::SetSysctl { key, value } => {
                sysctl::set(key, value)?;
            }
            Action::ClaimSysctl { key, wish } => {
                let (shared, key, wish) = (self.shared.clone(), key.clone(), wish.clone());
                aside(move || shared.claim(&key, &wish)).await?;
            }
            Action::ReleaseSysctl { key } => {
                let (shared, key) = (self.shared.clone(), key.clone());
                aside(move || shared.release(&key)).await?;
            }
            Action::SetFeatures { device, features } => Features::set(device, features)?,
            Action::Load { globals } => {
                let (mut index, mut gro_index) = (0, 0);
                if let Some(pair) = &self.node.pair {
                    index = self.index(&pair.name).await?;
                    gro_index = self.index(&pair.gro_name).await?;
                }
                let told = Loaded {
                    globals: globals.clone(),
                    index,
                    gro_index,
                };
                self.bpf.load(&told, &self.node.programs)?;
            }
            Action::UpdatePeers(changes) => self.bpf.update_peers(changes)?,
            Action::SetSteps => self.bpf.set_steps()?,
            Action::SetTimes(times) => self.bpf.set_times(times)?,
            Action::UpdateExempt { put, remove } => self.bpf.update_exempt(put, remove)?,
            Action::UpdateOutlets { put, remove } => self.bpf.update_outlets(put, remove)?,
            Action::ClearSteps => self.bpf.clear_steps()?,
            Action::BumpEpoch => self.bpf.bump_epoch()?,
            Action::SetUp { device } => {
                let index = self.index(device).await?;
                match (net.set_up_noarp(index).await, &self.node.anchor) {
                    (Err(error), Some(wanted)) if wanted.name == *device => {
                        return Err(anchor::refused(net, wanted, error).await);
                    }
                    (outcome, _) => found(device, outcome?)?,
                }
            }
            Action::Attach(attachment) => {
                let link = self.link(&attachment.device).await?;
                if attachment.direction == Direction::Egress
                    && self.bpf.attaches_filters()
                    && net.ingress_qdiscs().await?.contains(&link.index)
                {
                    return Err(DataplaneError::NoRoom {
                        attachment: attachment.to_string(),
                        device: link.name,
                    });
                }
                let tag = self.node.tag;
                self.bpf
                    .attach(&Target::new(attachment, link.index, tag), &link)?;
            }
            Action::AddAddress { device, address } => {
                let index = self.index(device).await?;
                found(device, net.add_address(index, *address).await?)?;
            }
            Action::RemoveAddress { device, address } => {
                let index = self.index(device).await?;
                net.remove_address(index, *address).await?;
            }
            Action::UpdateRoutes(changes) => self.update_routes(changes).await?,
            Action::Detach(stale) => self.bpf.detach(stale)?,
            Action::CarryNat { folder } => self.bpf.carry_nat(folder)?,
            Action::RemoveMaps => self.bpf.remove_maps()?,
            Action::RemoveLayout { folder } => self.bpf.remove_layout(folder)?,
        }
        Ok(())
    }

    async fn update_routes(&self, changes: &RouteChanges) -> Result<(), DataplaneError> {
        let mut tunnel = 0;
        let pair = self.node.pair.as_ref().map(|pair| &pair.name);
        let wireguard = self.node.wireguard.as_ref().map(|wanted| &wanted.name);
        if let Some(device) = pair.or(wireguard)
            && changes.set.values().any(|set| set.way.is_tunnel())
        {
            tunnel = self.index(device).await?;
        }
        let leg = |set: &Set| {
            let (gateway, index) = match set.way {
                Way::Tunnel | Way::Narrow(_) => (TUNNEL, tunnel),
                Way::Direct(hop) => (hop.via, hop.index),
            };
            Leg {
                index,
                gateway,
                source: set.source,
                onlink: set.way.is_tunnel(),
                mtu: set.way.mtu(),
            }
        };
        let removed = changes.remove.iter().copied().map(RouteChange::Remove);
        let set = changes.set.iter().map(|(to, set)| match set.how {
            How::Add => RouteChange::Add(*to, leg(set)),
            How::Replace => RouteChange::Replace(*to, leg(set)),
            How::InFront { .. } => RouteChange::InFront(*to, leg(set)),
        });
        let requests: Vec<_> = removed.chain(set).collect();
        let refused = self.net.change_routes(&requests).await?;
        match Refusals::of(&requests, &refused) {
            none if none.is_empty() => Ok(()),
            refusals => Err(DataplaneError::Routes(refusals)),
        }
    }

    async fn link(&self, device: &str) -> Result<Link, NetError> {
        let link = self.net.link(device).await?;
        link.ok_or_else(|| NetError::NoInterface(device.to_owned()))
    }

    async fn index(&self, device: &str) -> Result<u32, NetError> {
        Ok(self.link(device).await?.index)
    }

    async fn create_pair(&self, pair: &Pair) -> Result<(), NetError> {
        let created = self
            .net
            .create_pair(&VethPair {
                name: &pair.name,
                mac: pair.mac.0,
                mtu: pair.mtu,
                peer_name: &pair.gro_name,
                peer_mac: pair.gro_mac.0,
                peer_mtu: pair.gro_mtu,
                queues: pair.queues,
            })
            .await?;
        match created {
            Outcome::Exists => Err(NetError::refused(
                format!("create {} and {}", pair.name, pair.gro_name),
                Errno::EEXIST,
            )),
            _ => Ok(()),
        }
    }

    async fn retire(&self, index: u32) -> Result<(), NetError> {
        let mut addresses = self.net.addresses().await?;
        addresses.retain(|address| address.index == index);
        // With its last address a device loses all its routes at once (`fib_disable_ip`). One by one, those to thousands
        // of peers would lead nowhere for as long as it takes to ask for each.
        if addresses.is_empty() {
            return self.net.flush_routes(index).await;
        }
        for address in addresses {
            self.net.remove_address(index, address.net).await?;
        }
        Ok(())
    }

    async fn set_aside(&self, device: &str, to: &str) -> Result<(), NetError> {
        let Some(link) = self.net.link(device).await? else {
            return Ok(());
        };
        // Left by an agent that did not live to delete it.
        let rest = self.net.link(to).await?;
        if let Some(rest) = rest.filter(Link::is_kernel_tunnel) {
            self.net.delete_link(rest.index).await?;
        }
        match self.net.rename(link.index, to).await {
            // The mark says that it is ours to delete.
            Ok(_) => {
                let alias = mark::alias(&self.node.network);
                self.net.set_alias(link.index, &alias).await.map(|_| ())
            }
            Err(error) if error.errno() == Some(Errno::EBUSY) => {
                tracing::info!(
                    "the kernel does not rename {device} while it is up: deleting it instead"
                );
                self.net.delete_link(link.index).await.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }
}

/// A device that vanished between look-up and change.
fn found(device: &str, outcome: Outcome) -> Result<(), NetError> {
    match outcome {
        Outcome::Missing => Err(NetError::io(
            format!("change {device}"),
            &io::Error::from(Errno::ENODEV),
        )),
        Outcome::Done | Outcome::Exists => Ok(()),
    }
}

/// Work that may wait for another process, on a thread where nothing else waits for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(NetError::Failed {
            action: "change a sysctl".to_owned(),
            reason: error.to_string(),
        })
    })
}
