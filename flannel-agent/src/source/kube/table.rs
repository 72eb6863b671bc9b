//! What is known of all Nodes, as a pure state: Nodes in, the other nodes' leases out.
//!
//! A kubelet may write its own Node's annotations, and whoever may write Nodes makes what he likes. So nobody takes anything from a
//! Node that was there before: of two that claim the same addresses the one counts that claimed them first as far as we saw it, and of
//! those in the first list that of the older Node. Claims that nobody can be reached by take part in nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::lease::{attrs, is_managed, subnet};
use super::node::Node;
use super::ranked::{Rank, Ranked};
use crate::base::excerpt::excerpt;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::LeaseAttrs;

/// What a claim must fit to count.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) network: Ipv4Net,
    /// As in annotations.
    pub(super) backend: &'static str,
}

impl Scope {
    pub(super) fn of(config: &NetworkConfig) -> Self {
        Self {
            network: config.network,
            backend: config.backend.lease_type(),
        }
    }
}

/// This node's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) subnet: Ipv4Net,
    pub(super) public_ip: Ipv4Addr,
}

/// All Nodes that flannel manages, but for our own.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    own: Own,
    scope: Scope,
    /// Of the next claim.
    turn: u64,
    nodes: BTreeMap<String, Known>,
    claims: BTreeMap<Ipv4Net, Ranked<LeaseAttrs>>,
    addresses: BTreeMap<Ipv4Addr, Ranked<()>>,
    /// What was last said of a Node, so that it is said once.
    blamed: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Known {
    uid: String,
    rank: Rank,
    claim: Option<(Ipv4Net, Ipv4Addr)>,
}

/// Subnets whose answer may have changed.
pub(super) type Touched = BTreeSet<Ipv4Net>;

impl Table {
    /// `name`: our Node's.
    pub(super) fn new(name: String, own: Own, scope: Scope) -> Self {
        Self {
            name,
            own,
            scope,
            turn: 0,
            nodes: BTreeMap::new(),
            claims: BTreeMap::new(),
            addresses: BTreeMap::new(),
            blamed: BTreeMap::new(),
        }
    }

    /// A Node is there, or says something else. What became unreadable keeps what it said before.
    pub(super) fn put(&mut self, node: &Node) -> Touched {
        if node.name == self.name {
            return Touched::new();
        }
        let mut touched = Touched::new();
        let known = self.nodes.get(&node.name);
        if known.is_some_and(|known| known.uid != node.uid) {
            touched.extend(self.delete(&node.name));
        }
        match self.read(node) {
            Ok(None) => {}
            Ok(Some((subnet, attrs))) => {
                self.blamed.remove(&node.name);
                touched.extend(self.claim(node, subnet, attrs));
            }
            Err(fault) => {
                let instead = match self.nodes.contains_key(&node.name) {
                    true => "keeping what it said before",
                    false => "skipping it",
                };
                self.blame(&node.name, format!("{fault}; {instead}"));
            }
        }
        touched
    }

    fn read(&self, node: &Node) -> Result<Option<(Ipv4Net, LeaseAttrs)>, String> {
        if !is_managed(node) {
            // One that never was is nobody's business; a kubelet joins without annotations.
            return match self.nodes.contains_key(&node.name) {
                true => Err("it no longer says that flannel manages it".to_owned()),
                false => Ok(None),
            };
        }
        let subnet = subnet(node).map_err(|fault| fault.to_string())?;
        let Some(subnet) = subnet else {
            return Ok(None);
        };
        let network = self.scope.network;
        if !network.contains(&subnet) {
            return Err(format!(
                "its podCIDR {subnet} is not inside Network {network}"
            ));
        }
        let attrs = attrs(node).map_err(|fault| fault.to_string())?;
        self.check(subnet, &attrs)?;
        Ok(Some((subnet, attrs)))
    }

    /// Whether anybody can be reached there. Elsewhere in Network the address may well be: only podCIDRs have routes into the tunnel.
    fn check(&self, subnet: Ipv4Net, attrs: &LeaseAttrs) -> Result<(), String> {
        let ip = attrs.public_ip;
        if subnet.contains(&ip) {
            // Tunnel packets to it would be tunnelled to it.
            return Err(format!(
                "its annotation public-ip {ip} is inside its own podCIDR {subnet}"
            ));
        }
        let (theirs, ours) = (&attrs.backend_type, self.scope.backend);
        if theirs != ours {
            return Err(format!(
                "its annotation backend-type is {:?}, and this network's is {ours}",
                excerpt(theirs)
            ));
        }
        if ours == "vxlan" {
            let vtep = attrs.vxlan_data();
            vtep.map_err(|error| format!("its annotation backend-data: {error}"))?;
        }
        Ok(())
    }

    fn claim(&mut self, node: &Node, subnet: Ipv4Net, attrs: LeaseAttrs) -> Touched {
        let known = self.nodes.get(&node.name);
        let same = known.filter(|known| known.claim.is_some_and(|(net, _)| net == subnet));
        let rank = match same {
            Some(known) => known.rank.clone(),
            None => Rank::from((self.next_turn(), node.created.clone(), node.name.clone())),
        };
        let there = self
            .claims
            .get(&subnet)
            .and_then(|claims| claims.get(&rank));
        if there == Some(&attrs) {
            return Touched::new();
        }
        let mut touched = self.release(&node.name);
        let claim = Some((subnet, attrs.public_ip));
        let known = Known {
            uid: node.uid.clone(),
            rank: rank.clone(),
            claim,
        };
        self.nodes.insert(node.name.clone(), known);
        let addresses = self.addresses.entry(attrs.public_ip).or_default();
        addresses.insert(rank.clone(), ());
        self.claims
            .entry(subnet)
            .or_default()
            .insert(rank.clone(), attrs);
        touched.extend(self.around(subnet));
        self.name_conflict(&rank, subnet);
        touched
    }

    fn next_turn(&mut self) -> u64 {
        let turn = self.turn;
        self.turn += u64::from(turn > 0);
        turn
    }

    /// Says once that a claim takes what is another's.
    fn name_conflict(&mut self, rank: &Rank, subnet: Ipv4Net) {
        let name = &rank.2;
        if overlap(subnet, self.own.subnet) {
            let own = self.own.subnet;
            let text = format!("its podCIDR {subnet} overlaps this node's {own}; skipping it");
            self.blame(name, text);
            return;
        }
        let older = self.around(subnet).into_iter().find_map(|net| {
            let (older, _) = self.first(net)?;
            (older < rank).then(|| (net, older.2.clone()))
        });
        if let Some((net, older)) = older {
            let text = format!(
                "its podCIDR {subnet} overlaps {net} of Node {older}, which was there before and counts; skipping it"
            );
            self.blame(name, text);
            return;
        }
        let address = self.nodes.get(name).and_then(|known| known.claim);
        let Some((_, address)) = address else { return };
        if address == self.own.public_ip {
            let text =
                format!("its annotation public-ip {address} is this node's own; skipping it");
            self.blame(name, text);
            return;
        }
        if let Some(text) = self.hidden(rank, subnet, address) {
            self.blame(name, text);
            return;
        }
        let first = self.addresses.get(&address).and_then(Ranked::first);
        if let Some(other) = first.filter(|first| *first != rank) {
            let other = &other.2;
            let text = format!(
                "its public-ip {address} is that of Node {other}, too: packets to both go there"
            );
            self.blame(name, text);
        }
    }

    /// What says that a podCIDR takes a node's address away: the route to it is narrower than others.
    fn hidden(&self, rank: &Rank, subnet: Ipv4Net, address: Ipv4Addr) -> Option<String> {
        let own = self.own;
        if own.subnet.contains(&address) {
            let own = own.subnet;
            return Some(format!(
                "its public-ip {address} is inside this node's podCIDR {own}: packets to it stay here"
            ));
        }
        // All of them contain it.
        let mut covers = self.around(Ipv4Net::from(address)).into_iter();
        if let Some((net, other)) = covers.find_map(|net| Some((net, self.first(net)?.0))) {
            let other = &other.2;
            return Some(format!(
                "its public-ip {address} is inside the podCIDR {net} of Node {other}: packets to it go there"
            ));
        }
        if subnet.contains(&own.public_ip) {
            let ip = own.public_ip;
            return Some(format!(
                "its podCIDR {subnet} covers this node's public-ip {ip}"
            ));
        }
        let inside = self.addresses.range(subnet.network()..=subnet.broadcast());
        let mut others = inside.filter_map(|(ip, ranks)| Some((ip, ranks.first()?)));
        let (ip, other) = others.find(|(_, other)| *other != rank)?;
        let other = &other.2;
        Some(format!(
            "its podCIDR {subnet} covers the public-ip {ip} of Node {other}: packets to that go there"
        ))
    }

    pub(super) fn delete(&mut self, name: &str) -> Touched {
        self.blamed.remove(name);
        let touched = self.release(name);
        self.nodes.remove(name);
        touched
    }

    /// After a list: who is not among `present` is gone.
    pub(super) fn retain(&mut self, present: &BTreeSet<String>) -> Touched {
        let gone: Vec<String> = self
            .nodes
            .keys()
            .filter(|name| !present.contains(*name))
            .cloned()
            .collect();
        self.blamed.retain(|name, _| present.contains(name));
        // Whatever is claimed from now on is behind what this list has.
        self.turn = self.turn.max(1);
        gone.iter().flat_map(|name| self.delete(name)).collect()
    }

    fn release(&mut self, name: &str) -> Touched {
        let Some(known) = self.nodes.get_mut(name) else {
            return Touched::new();
        };
        let Some((subnet, address)) = known.claim.take() else {
            return Touched::new();
        };
        let rank = known.rank.clone();
        if let Some(claims) = self.claims.get_mut(&subnet) {
            claims.remove(&rank);
            if claims.is_empty() {
                self.claims.remove(&subnet);
            }
        }
        if let Some(ranks) = self.addresses.get_mut(&address) {
            ranks.remove(&rank);
            if ranks.is_empty() {
                self.addresses.remove(&address);
            }
        }
        let mut touched = self.around(subnet);
        touched.insert(subnet);
        touched
    }

    /// `subnet` and the claimed ones that overlap it.
    fn around(&self, subnet: Ipv4Net) -> Touched {
        let above = std::iter::successors(subnet.supernet(), Ipv4Net::supernet);
        let above = above.filter(|net| self.claims.contains_key(net));
        let inside = self.claims.range(subnet..).map(|(net, _)| *net);
        let inside = inside.take_while(|net| subnet.contains(net));
        above.chain(inside).collect()
    }

    /// We are now `own`. Gives the subnets whose answer may have changed: any, as what does not count hides nothing.
    pub(super) fn set_own(&mut self, own: Own) -> Touched {
        match std::mem::replace(&mut self.own, own) == own {
            true => Touched::new(),
            false => self.claims.keys().copied().collect(),
        }
    }

    /// The first of those that claim `subnet` and count.
    fn first(&self, subnet: Ipv4Net) -> Option<(&Rank, &LeaseAttrs)> {
        if overlap(subnet, self.own.subnet) {
            return None;
        }
        let mut claims = self.claims.get(&subnet)?.iter();
        claims.find(|(_, attrs)| attrs.public_ip != self.own.public_ip)
    }

    /// Another node's lease of `subnet`.
    pub(super) fn other(&self, subnet: Ipv4Net) -> Option<&LeaseAttrs> {
        let (rank, attrs) = self.first(subnet)?;
        let mut around = self.around(subnet).into_iter();
        let older = around.any(|net| self.first(net).is_some_and(|(other, _)| other < rank));
        (!older).then_some(attrs)
    }

    /// All leases of other nodes.
    pub(super) fn others(&self) -> BTreeMap<Ipv4Net, LeaseAttrs> {
        let subnets = self.claims.keys();
        subnets
            .filter_map(|subnet| Some((*subnet, self.other(*subnet)?.clone())))
            .collect()
    }

    fn blame(&mut self, name: &str, text: String) {
        if self.blamed.get(name) != Some(&text) {
            tracing::warn!("Node {name}: {text}");
            self.blamed.insert(name.to_owned(), text);
        }
    }
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
