//! The peers behind the kernel's WireGuard device, of which the maps know nothing.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::output::{Format, json, or_dash, table};
use crate::base::key::PublicKey;
use crate::base::wall::Moment;
use crate::node::mark;
use crate::node::net::{Link, wireguard};
use crate::node::wireguard::DEVICE;

/// One peer.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// What it may send, and what is sent to it.
    subnets: Vec<String>,
    /// Where it was last heard, or is said to be.
    endpoint: Option<String>,
    public_key: PublicKey,
    /// Since it last proved its key; `None`: it never did.
    handshake_ago_s: Option<u64>,
    received_bytes: u64,
    sent_bytes: u64,
}

/// `None`: the network has no such device.
pub(super) fn rows(links: &[Link], network: &str) -> Option<Vec<Row>> {
    let link = links.iter().find(|link| link.name == DEVICE)?;
    if mark::network_of(link) != Some(network) {
        return None;
    }
    let device = wireguard::read(DEVICE).ok().flatten()?;
    let now = Moment::now().unix();
    let row = |(public_key, peer): (PublicKey, wireguard::PeerState)| Row {
        subnets: peer.allowed.iter().map(ToString::to_string).collect(),
        endpoint: peer.endpoint.map(|at| at.to_string()),
        public_key,
        handshake_ago_s: peer.handshake.map(|at| now.saturating_sub(at).as_secs()),
        received_bytes: peer.received,
        sent_bytes: peer.sent,
    };
    let mut rows: Vec<Row> = device.peers.into_iter().map(row).collect();
    rows.sort_by(|one, other| one.subnets.cmp(&other.subnets));
    Some(rows)
}

/// Whether it is by WireGuard's `device` that a peer has the address.
pub(super) fn leads_to(device: &str, address: Ipv4Addr) -> bool {
    let state = match device {
        DEVICE => wireguard::read(DEVICE).ok().flatten(),
        _ => None,
    };
    let peers = state.unwrap_or_default().peers;
    let mut allowed = peers.values().flat_map(|peer| &peer.allowed);
    allowed.any(|net| net.contains(&IpAddr::V4(address)))
}

pub(super) fn print(rows: &[Row], format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(json(out, &rows)?);
    }
    let header = [
        "SUBNET",
        "NODE",
        "PUBLIC KEY",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
    ];
    let lines = rows.iter().map(|row| {
        let ago = row.handshake_ago_s.map(|ago| format!("{ago} s ago"));
        [
            row.subnets.join(" "),
            or_dash(row.endpoint.as_ref()),
            row.public_key.to_string(),
            ago.unwrap_or_else(|| "never".to_owned()),
            row.received_bytes.to_string(),
            row.sent_bytes.to_string(),
        ]
    });
    Ok(table(out, header, &[4, 5], lines)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_in_words() {
        let row = |endpoint: Option<&str>, handshake_ago_s| Row {
            subnets: vec!["10.244.2.0/24".to_owned()],
            endpoint: endpoint.map(str::to_owned),
            public_key: PublicKey([0; 32]),
            handshake_ago_s,
            received_bytes: 92,
            sent_bytes: 148,
        };
        let rows = [row(Some("192.0.2.2:51820"), Some(3)), row(None, None)];
        let mut out = Vec::new();
        print(&rows, Format::Table, &mut out).unwrap();
        let key = PublicKey([0; 32]);
        let text = String::from_utf8(out).unwrap();
        let line = format!("10.244.2.0/24  192.0.2.2:51820  {key}  3 s ago          92   148");
        assert!(text.contains(&line), "{text}");
        assert!(text.contains("never"), "{text}");
        let mut out = Vec::new();
        print(&rows, Format::Json, &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value[0]["endpoint"], "192.0.2.2:51820");
        assert_eq!(value[1]["handshake_ago_s"], serde_json::Value::Null);
    }
}
