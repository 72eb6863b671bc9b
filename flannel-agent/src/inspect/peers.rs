//! `peers`: the other nodes, as the maps hold them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use flannel_common::maps::{PEER_DIRECT, PEER_STACK, PEER_VXLAN, Peer, ROUTED};
use ipnet::Ipv4Net;
use serde::Serialize;

use super::look::asking;
use super::output::{Format, json, table};
use super::{Look, Verdict, sealed};
use crate::base::mac::MacAddr;
use crate::node::net::Netlink;
use crate::reconcile::logbook::Page;

/// `peers …`
#[derive(Debug, Clone, Args)]
pub struct Command {
    #[command(flatten)]
    pub look: Look,
    /// Where the agent writes down which leases it cannot use (its --state-dir)
    #[arg(long, value_name = "DIR", default_value = "/run/flannel")]
    pub state_dir: PathBuf,
}

impl Command {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let verdict = show(&self.look, out)?;
        if self.look.output == Format::Table {
            let page = Page::read(&self.state_dir, self.look.view()?.network());
            let ignored = page.map(|page| page.ignored).unwrap_or_default();
            for (subnet, why) in &ignored.leases {
                writeln!(out, "! the lease of {subnet} is ignored: {why}")?;
            }
            if ignored.more > 0 {
                writeln!(out, "! {} more leases are ignored", ignored.more)?;
            }
        }
        Ok(verdict)
    }
}

/// One peer.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    subnet: Ipv4Net,
    public_ip: Ipv4Addr,
    next_hop: Ipv4Addr,
    vtep_mac: MacAddr,
    via: String,
    /// Leases that name the same node; 0: its packets are dropped as of an unknown sender.
    leases: u32,
}

pub(super) fn show(look: &Look, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let view = look.view()?;
    let links = asking(async || Ok(Netlink::open()?.links().await?))?;
    if let Some(rows) = sealed::rows(&links, view.network()) {
        sealed::print(&rows, look.output, out)?;
        return Ok(Verdict::Fine);
    }
    print(&rows(view.peers()?, &view.vteps()?), look.output, out)?;
    Ok(Verdict::Fine)
}

fn rows(peers: BTreeMap<Ipv4Net, Peer>, vteps: &BTreeMap<Ipv4Addr, u32>) -> Vec<Row> {
    peers
        .into_iter()
        .map(|(subnet, peer)| Row {
            subnet,
            public_ip: peer.public_ip.into(),
            next_hop: peer.next_hop.into(),
            vtep_mac: MacAddr(peer.vtep_mac),
            via: match peer.kind {
                PEER_VXLAN => "vxlan".to_owned(),
                PEER_DIRECT => "direct".to_owned(),
                PEER_STACK => "stack".to_owned(),
                other => format!("kind {other}"),
            },
            leases: vteps.get(&peer.public_ip.into()).copied().unwrap_or(0),
        })
        .collect()
}

fn print(rows: &[Row], format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(json(out, &rows)?);
    }
    let header = ["SUBNET", "NODE", "NEXT HOP", "VTEP MAC", "VIA", "LEASES"];
    let lines = rows.iter().map(|row| {
        [
            row.subnet.to_string(),
            row.public_ip.to_string(),
            next_hop(row.next_hop),
            row.vtep_mac.to_string(),
            row.via.clone(),
            row.leases.to_string(),
        ]
    });
    Ok(table(out, header, &[5], lines)?)
}

fn next_hop(address: Ipv4Addr) -> String {
    match address.octets() {
        ROUTED => "as routed".to_owned(),
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_in_words() {
        let peer = Peer {
            public_ip: [192, 0, 2, 7],
            next_hop: [192, 0, 2, 1],
            vtep_mac: [2, 0, 0, 0, 0, 7],
            kind: PEER_VXLAN,
            narrow: 0,
        };
        let peers = [("10.244.7.0/24".parse().unwrap(), peer)].into();
        let vteps = [(Ipv4Addr::new(192, 0, 2, 7), 1)].into();
        let rows = rows(peers, &vteps);
        let mut out = Vec::new();
        print(&rows, Format::Table, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "SUBNET         NODE       NEXT HOP   VTEP MAC           VIA    LEASES\n\
             10.244.7.0/24  192.0.2.7  192.0.2.1  02:00:00:00:00:07  vxlan       1\n"
        );
        let mut out = Vec::new();
        print(&rows, Format::Json, &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value[0]["public_ip"], "192.0.2.7");
        assert_eq!(value[0]["vtep_mac"], "02:00:00:00:00:07");
    }
}
