//! The way of a packet from hook to hook, as ARCHITECTURE.md draws it.

use std::net::Ipv4Addr;

use anyhow::bail;
use flannel_common::header::Eth;
use flannel_common::program::Program;
use flannel_common::reason::{Class, Reason};
use flannel_common::vxlan::Outer;

use super::packet::{Described, Wrapping, addressed, describe, forwarded, tunnelled_to, wrapped};
use super::place::{End, Next, Place, behind, dropped, end};
use super::{Hop, Report, Scene};
use crate::dataplane::view::{Hook, Mode, in_order};
use crate::dataplane::{About, Outcome};
use crate::flannel::backend::Wire;
use crate::inspect::sealed;
use crate::node::net::{Direction, Link, Sender};
use crate::reconcile::desired::TUNNEL;

/// TC actions (`linux/pkt_cls.h`).
const SHOT: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

/// A packet meets no more hooks than this; more would be a loop.
const LONGEST: usize = 12;

/// A test run takes the loopback device for the receiving one unless it is told another; its MAC is zero.
const HERE: [u8; 6] = [0; 6];
const ELSEWHERE: [u8; 6] = [2, 0, 0, 0, 0, 9];

impl Scene {
    pub(super) async fn walk(mut self) -> anyhow::Result<Report> {
        let (mut place, mut frame) = self.begin().await?;
        let mut before = place;
        let mut report = Report {
            packet: describe(&frame),
            hops: Vec::new(),
            end: "left",
            why: String::new(),
        };
        for _ in 0..LONGEST {
            let next = match place {
                Place::Stack => self.stack(before, &mut frame, &mut report.hops).await?,
                hook => {
                    let next = self.hook(hook, &mut frame, &mut report.hops)?;
                    self.by_its_way(next, &frame).await
                }
            };
            match next {
                Next::Place(next) => (before, place) = (place, next),
                Next::End(End(end, why)) => {
                    (report.end, report.why) = (end, why);
                    return Ok(report);
                }
            }
        }
        bail!("the packet goes in circles: report it, with the output of `status`");
    }

    fn is_mine(&self, ip: Ipv4Addr) -> bool {
        self.addresses
            .iter()
            .any(|address| address.net.addr() == ip)
    }

    /// Where such a packet is met first.
    async fn begin(&self) -> anyhow::Result<(Place, Vec<u8>)> {
        let (src, dst) = (self.tuple.src, self.tuple.dst);
        let frame = self.tuple.frame(ELSEWHERE, HERE);
        if self.is_mine(src) {
            return Ok((Place::Stack, frame));
        }
        if self.told.subnet.contains(&src) {
            return Ok((Place::FromPod, frame));
        }
        // Where the way back leads is where it comes from.
        let back = self.net.next_hop(src, None).await.map(|hop| hop.index);
        let back = back.unwrap_or(self.told.uplink_index);
        // Inside the Network or not: an address that nobody leases is no pod's.
        let Some(peer) = self.view.peer_of(src)? else {
            return Ok((Place::In(self.entry(back)), frame));
        };
        if !self.told.subnet.contains(&dst) {
            bail!(
                "{src} is a pod of the node {peer}, and {dst} is not on this node: trace it there"
            );
        }
        if back != self.told.flannel_index {
            return Ok((Place::In(self.entry(back)), frame));
        }
        let Some(wire) = self.told.wire else {
            bail!("there is no tunnel to {peer}");
        };
        let wrapping = Wrapping {
            src: peer,
            dst: self.told.uplink_ip,
            port: self.told.port,
            wire,
        };
        let device = self.device_towards(peer).await;
        let place = Place::In(self.entry(device));
        Ok((place, wrapped(&frame, &wrapping, HERE)))
    }

    /// By which device the outer packets to a peer leave: the first of several. The uplink, where nobody knows.
    async fn device_towards(&self, peer: Ipv4Addr) -> u32 {
        let sender = Sender {
            source: Some(self.told.uplink_ip),
            udp_port: Some(self.told.port).filter(|port| *port != 0),
        };
        let way = self.net.way(peer, sender).await;
        let device = way.ok().and_then(|way| way.devices().next());
        device.unwrap_or(self.told.uplink_index)
    }

    /// An encapsulated packet goes where the routing table says, which need not be the uplink.
    async fn by_its_way(&self, next: Next, frame: &[u8]) -> Next {
        let tunnelled = tunnelled_to(frame, self.told.wire, self.told.port);
        match (&next, tunnelled) {
            (Next::Place(Place::Out(index)), Some(peer)) if *index == self.told.uplink_index => {
                let device = self.device_towards(peer).await;
                Next::Place(Place::Out(device))
            }
            _ => next,
        }
    }

    /// The device itself if programs of ours are there, else the uplink.
    fn entry(&self, index: u32) -> u32 {
        let there = |hook: &Hook| at(hook, index, Direction::Ingress);
        match self.hooks.iter().any(there) {
            true => index,
            false => self.told.uplink_index,
        }
    }

    /// The device that a test run has to be told of: programs at the uplink know their own.
    fn besides_the_uplink(&self, place: Place) -> Option<&Link> {
        let (Place::In(index) | Place::Out(index)) = place else {
            return None;
        };
        let links = self.links.iter();
        links
            .filter(|link| link.index != self.told.uplink_index)
            .find(|link| link.index == index)
    }

    /// Our programs at one hook, in order.
    fn hook(
        &mut self,
        place: Place,
        frame: &mut Vec<u8>,
        hops: &mut Vec<Hop>,
    ) -> anyhow::Result<Next> {
        let device = self.besides_the_uplink(place);
        let device = device.map(|link| (link.index, link.mac.unwrap_or_default()));
        if let Some((_, mac)) = device {
            *frame = addressed(frame, ELSEWHERE, mac);
        }
        for hook in self.programs(place, hops) {
            let Some(program) = Program::ALL.into_iter().find(|p| p.name() == hook.program) else {
                continue;
            };
            let mut hop = Hop {
                place: name(&hook),
                program: Some(hook.program.clone()),
                ..Hop::default()
            };
            if hook.mode == Mode::Xdp {
                hop.decision = "not run";
                "the driver takes the outer headers off first; the rest of the way is the same"
                    .clone_into(&mut hop.meaning);
                hops.push(hop);
                continue;
            }
            // A test run is always of a frame.
            if program == Program::FrameRx {
                continue;
            }
            if let Some(live) = hook.live() {
                self.rehearsal.check(program, &live)?;
            }
            let program = program.with_frame();
            if translates(program) {
                self.rehearsal.add_steps()?;
            }
            let about = About {
                device: device.map_or(0, |(index, _)| index),
                came_by: place.came_by(),
                ..About::default()
            };
            let outcome = self.rehearsal.run(program, frame, about)?;
            let reason = outcome.reasons.last().map(|(_, reason)| *reason);
            hop.explain(reason, &outcome, frame);
            if program == Program::BridgeRx {
                hop.large = self.large(frame, about)?;
            }
            hops.push(hop);
            let action = outcome.action;
            *frame = outcome.packet;
            match action {
                SHOT => return Ok(dropped(reason)),
                REDIRECT => return Ok(self.redirected(reason, frame)),
                // The kernel does the same, and `anchor_rx` hands it on.
                _ if reason == Some(Reason::ToAnchor) => {
                    let inner = frame.get(Outer::LEN..).unwrap_or_default();
                    *frame = addressed(inner, ELSEWHERE, HERE);
                    return Ok(Next::Place(Place::FromOverlay));
                }
                _ => {}
            }
        }
        Ok(behind(place, frame))
    }

    /// The hooks at `place`; others' programs there are named.
    fn programs(&self, place: Place, hops: &mut Vec<Hop>) -> Vec<Hook> {
        let fits = |hook: &&Hook| match place {
            Place::FromPod => hook.program == Program::PodTx.name(),
            Place::ToPod => hook.program == Program::PodRx.name(),
            Place::IntoOverlay => at(hook, self.told.flannel_index, Direction::Egress),
            Place::FromOverlay => at(hook, self.told.flannel_index, Direction::Ingress),
            Place::FarEnd => at(hook, self.told.gro_index, Direction::Ingress),
            Place::Out(index) => at(hook, index, Direction::Egress),
            Place::IntoBridge { bridge, .. } => {
                hook.program == Program::BridgeRx.name() && at(hook, bridge, Direction::Egress)
            }
            Place::In(index) => {
                let at_driver = hook.mode == Mode::Xdp && hook.ifindex == index;
                at_driver || at(hook, index, Direction::Ingress)
            }
            Place::Stack => false,
        };
        let mut found: Vec<Hook> = self.hooks.iter().filter(fits).cloned().collect();
        if matches!(place, Place::FromPod | Place::ToPod) {
            // All ports run the same.
            found.truncate(1);
        }
        let Some((device, direction)) = found
            .iter()
            .find_map(|hook| Some((hook.device.clone()?, hook.direction?)))
        else {
            return found;
        };
        let order = in_order(&device, direction);
        let rank = |hook: &Hook| {
            order
                .iter()
                .position(|(id, _)| *id == hook.program_id)
                .map_or(0, |place| place + 1)
        };
        found.sort_by_key(rank);
        let is_ours = |id: &u32| self.hooks.iter().any(|hook| hook.program_id == *id);
        hops.extend(
            order
                .iter()
                .filter(|(id, _)| !is_ours(id))
                .map(|(id, name)| Hop {
                    place: format!("{device} ({direction})"),
                    decision: "not run",
                    meaning: format!(
                        "somebody else's program {name} (id {id}) is on this hook, too"
                    ),
                    ..Hop::default()
                }),
        );
        found
    }

    /// Whether a peer's pod is what it is for, and not somebody outside.
    fn is_tunnelled(&self) -> bool {
        self.told.network.contains(&self.tuple.dst)
    }

    /// Where a redirect leads, which its reason says.
    fn redirected(&self, reason: Option<Reason>, frame: &mut Vec<u8>) -> Next {
        match reason {
            Some(Reason::FastTx) if self.told.wire == Some(Wire::Udp) && self.is_tunnelled() => {
                Next::Place(Place::IntoOverlay)
            }
            Some(Reason::Encap | Reason::FastTx) => Next::Place(Place::Out(self.told.uplink_index)),
            Some(Reason::DecapGro | Reason::DecapDirect) => {
                *frame = addressed(frame, ELSEWHERE, HERE);
                Next::Place(Place::FromOverlay)
            }
            Some(Reason::FastRx | Reason::FastRxGro | Reason::FastRxXdp) => {
                let dst = Described::of(frame, Eth::LEN).map_or(self.tuple.dst, |d| d.dst());
                end("delivered", format!("to the pod {dst}, past the stack"))
            }
            other => {
                let name = other.map_or("no reason", Reason::name);
                end("left", format!("redirected ({name})"))
            }
        }
    }

    /// Routing is asked; what netfilter would do is not known here.
    async fn stack(
        &mut self,
        before: Place,
        frame: &mut Vec<u8>,
        hops: &mut Vec<Hop>,
    ) -> anyhow::Result<Next> {
        let Some(now) = Described::of(frame, Eth::LEN) else {
            bail!("the packet has no IPv4 header any more");
        };
        let dst = now.dst();
        let mut hop = Hop {
            place: "stack".to_owned(),
            decision: "routes",
            ..Hop::default()
        };
        let route = self.net.next_hop(dst, None).await;
        let Ok(route) = route else {
            hop.decision = "drops";
            hop.meaning = format!("there is no route to {dst}");
            hops.push(hop);
            return Ok(end("dropped", format!("no route to {dst}")));
        };
        let device = self.links.iter().find(|link| link.index == route.index);
        let device = device.map_or_else(|| format!("#{}", route.index), |link| link.name.clone());
        let unleased = self.told.network.contains(&dst)
            && !self.told.subnet.contains(&dst)
            && !route.local
            && self.view.peer_of(dst)?.is_none()
            && !sealed::leads_to(device.as_str(), dst);
        let whose = match unleased {
            true => format!(
                "no lease covers {dst} (`peers` lists them), so the node's own routes count: "
            ),
            false => String::new(),
        };
        hop.meaning = format!(
            "{whose}{} (bridge, netfilter and policy are not part of a trace: they may translate or drop it)",
            match route.local {
                true => format!("{dst} is an address of this node"),
                false if [TUNNEL, dst].contains(&route.via) => format!("to {device}"),
                false => format!("to {device} by way of {}", route.via),
            }
        );
        if route.local {
            hops.push(hop);
            return Ok(end("delivered", format!("to this node, {dst}")));
        }
        if !self.is_mine(self.tuple.src) {
            let Some(next) = forwarded(frame) else {
                hop.decision = "drops";
                hops.push(hop);
                return Ok(end("dropped", "its TTL is at its end".to_owned()));
            };
            *frame = next;
        }
        hop.becomes = Some(describe(frame));
        hops.push(hop);
        let mac = self.told.vtep_mac.0;
        Ok(match route.index {
            index if index == self.told.flannel_index => {
                *frame = addressed(frame, mac, mac);
                Next::Place(Place::IntoOverlay)
            }
            index if index == self.told.uplink_index => Next::Place(Place::Out(index)),
            bridge if self.told.subnet.contains(&dst) => {
                Next::Place(before.to_pod(bridge, self.told.flannel_index))
            }
            index if self.hooks.iter().any(|h| at(h, index, Direction::Egress)) => {
                Next::Place(Place::Out(index))
            }
            _ => end(
                "left",
                format!("by {device}, where none of our programs is"),
            ),
        })
    }
}

impl Hop {
    fn explain(&mut self, reason: Option<Reason>, outcome: &Outcome, before: &[u8]) {
        self.reason = reason.map(Reason::name);
        self.decision = match (outcome.action, reason) {
            (SHOT, _) => "drops",
            (REDIRECT, _) => "takes",
            (_, Some(reason)) if reason.class() == Class::Forward => "changes",
            _ => "passes",
        };
        self.meaning = match reason {
            Some(reason) => reason.meaning().to_owned(),
            None => "not its concern".to_owned(),
        };
        self.advice = reason
            .filter(|reason| reason.class() == Class::Drop)
            .map(Reason::advice);
        if outcome.packet != before {
            self.becomes = Some(describe(&outcome.packet));
        }
    }
}

fn at(hook: &Hook, index: u32, direction: Direction) -> bool {
    hook.ifindex == index && hook.direction == Some(direction)
}

fn name(hook: &Hook) -> String {
    let device = hook.device.as_deref().unwrap_or("?");
    match hook.direction {
        Some(direction) => format!("{device} ({direction})"),
        None => format!("{device} (driver)"),
    }
}

const fn translates(program: Program) -> bool {
    matches!(
        program,
        Program::UplinkTx | Program::UplinkSnatRx | Program::OverlaySnatTx | Program::OverlaySnatRx
    )
}
