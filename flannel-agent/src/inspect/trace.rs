//! `trace`: a packet of one's choice through the programs of this node, hook by hook, with each decision.
//!
//! Nothing is sent, counted or entered anywhere: see [`crate::dataplane::Rehearsal`].

mod large;
mod packet;
mod place;
mod walk;

use std::io::Write;
use std::net::Ipv4Addr;

use anyhow::bail;
use clap::Args;
use flannel_common::flow::FlowKey;
use flannel_common::snat::{self, WAY_IN, WAY_OUT, other_half};
use serde::Serialize;

use super::Verdict;
use super::look::{Look, asking};
use super::output::{Format, json};
use crate::dataplane::Rehearsal;
use crate::dataplane::view::{Hook, Told, View};
use crate::node::net::{Address, Link, Netlink};
use large::Large;
pub(super) use packet::describe;
use packet::{Proto, Segment, Tuple};

/// `trace SRC DST …`
#[derive(Debug, Clone, Args)]
pub struct Trace {
    /// Source address: a pod here or on another node, this node, or anybody outside
    pub src: Ipv4Addr,
    /// Destination address
    pub dst: Ipv4Addr,
    /// Protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    pub proto: Proto,
    /// Source port; the id of an ICMP echo
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    pub sport: u16,
    /// Destination port
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub port: u16,
    /// Which TCP segment [default: ack if the connection is known here, else syn]
    #[arg(long, value_name = "SEGMENT")]
    pub tcp: Option<Segment>,
    #[command(flatten)]
    pub look: Look,
}

/// Everything that was found out.
#[derive(Debug, Serialize)]
struct Report {
    packet: String,
    hops: Vec<Hop>,
    /// `sent`, `delivered`, `left` (to somebody whose programs these are not) or `dropped`.
    end: &'static str,
    why: String,
}

/// One place on the way.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Hop {
    /// Hook or part of the kernel.
    place: String,
    /// `None`: not a program of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    decision: &'static str,
    /// Word and meaning of what would be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    meaning: String,
    /// What an operator does about a drop.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
    /// What the packet is from here on, where that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    becomes: Option<String>,
    /// At `bridge_rx`, which is for no others: what becomes of large packets of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    large: Option<Large>,
}

/// What is known of the node.
struct Scene {
    view: View,
    told: Told,
    hooks: Vec<Hook>,
    links: Vec<Link>,
    addresses: Vec<Address>,
    net: Netlink,
    rehearsal: Rehearsal,
    tuple: Tuple,
}

impl Trace {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let view = self.look.view()?;
        let report = asking(async || self.run(view).await)?;
        match self.look.output {
            Format::Json => json(out, &report)?,
            Format::Table => report.print(out)?,
        }
        Ok(match report.end {
            "dropped" => Verdict::Attention,
            _ => Verdict::Fine,
        })
    }

    async fn run(&self, view: View) -> anyhow::Result<Report> {
        let net = Netlink::open()?;
        let links = net.links().await?;
        let addresses = net.addresses().await?;
        let hooks: Vec<Hook> = view.hooks(&net, &links).await?;
        let hooks: Vec<Hook> = hooks.into_iter().filter(|hook| hook.attached).collect();
        let Some(first) = hooks.first() else {
            bail!("no program of ours is attached: there is nothing to trace (see `status`)");
        };
        let (Some(constants), Some(told)) = (first.constants()?, view.told(first)?) else {
            bail!(
                "the programs come from another build: use the flannel-agent that runs on this node"
            );
        };
        let rehearsal = Rehearsal::new(&view, &constants)?;
        let mut scene = Scene {
            tuple: self.tuple(&view)?,
            view,
            told,
            hooks,
            links,
            addresses,
            net,
            rehearsal,
        };
        scene.copy_state()?;
        scene.walk().await
    }

    fn tuple(&self, view: &View) -> anyhow::Result<Tuple> {
        let mut tuple = Tuple {
            src: self.src,
            dst: self.dst,
            proto: self.proto,
            sport: self.sport,
            port: self.port,
            segment: self.tcp.unwrap_or(Segment::Syn),
        };
        if self.tcp.is_none() && is_known(&tuple, view)? {
            tuple.segment = Segment::Ack;
        }
        Ok(tuple)
    }
}

/// Whether a table has an entry of the packet's connection.
fn is_known(tuple: &Tuple, view: &View) -> anyhow::Result<bool> {
    for key in flow_keys(tuple) {
        // A pod's entry tells nothing of its connections.
        if !key.is_pod() && view.flow(&key)?.is_some() {
            return Ok(true);
        }
    }
    for key in snat_keys(tuple) {
        if view.snat_entry(&key)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Index of the device that a test run takes for the one at hand.
const LOOPBACK: u32 = 1;

fn flow_keys(tuple: &Tuple) -> [FlowKey; 3] {
    let (ip, l4) = (tuple.ip(), tuple.l4());
    [
        FlowKey::outbound(&ip, &l4),
        FlowKey::inbound(&ip, &l4),
        FlowKey::pod(ip.dst),
    ]
}

fn snat_keys(tuple: &Tuple) -> Vec<snat::Key> {
    [WAY_OUT, WAY_IN]
        .into_iter()
        .filter_map(|way| {
            let flags = tuple.segment.flags();
            snat::Packet::new(&tuple.ip(), way, &tuple.head(), flags).map(|packet| packet.key)
        })
        .collect()
}

impl Scene {
    /// What the tables hold of the packet's connection.
    fn copy_state(&mut self) -> anyhow::Result<()> {
        for key in flow_keys(&self.tuple) {
            if let Some(mut flow) = self.view.flow(&key)? {
                // The packet is the pod's own, from its own port.
                flow.tx.port = LOOPBACK;
                self.rehearsal.enter_flow(&key, &flow)?;
            }
        }
        for key in snat_keys(&self.tuple) {
            let Some(entry) = self.view.snat_entry(&key)? else {
                continue;
            };
            self.rehearsal.enter_snat(&key, &entry)?;
            if let Some(other) = other_half(&key, &entry)
                && let Some(entry) = self.view.snat_entry(&other)?
            {
                self.rehearsal.enter_snat(&other, &entry)?;
            }
        }
        Ok(())
    }
}

impl Report {
    fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        writeln!(out, "{}", self.packet)?;
        for hop in &self.hops {
            let program = hop
                .program
                .as_ref()
                .map_or_else(String::new, |program| format!(" {program}"));
            writeln!(out, "\n{}{program}: {}", hop.place, hop.decision)?;
            match hop.reason {
                Some(reason) => writeln!(out, "  {reason}: {}", hop.meaning)?,
                None => writeln!(out, "  {}", hop.meaning)?,
            }
            if let Some(advice) = hop.advice {
                writeln!(out, "  → {advice}")?;
            }
            if let Some(becomes) = &hop.becomes {
                writeln!(out, "  = {becomes}")?;
            }
            if let Some(large) = &hop.large {
                writeln!(out, "  large packets of it: {}", large.decision)?;
                let reason = large.reason.map_or_else(String::new, |r| format!("{r}: "));
                writeln!(out, "    {reason}{}", large.meaning)?;
            }
        }
        writeln!(out, "\n{}: {}", self.end, self.why)?;
        Ok(())
    }
}
