//! `routes`: every route of the main table into the network, and whose it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::look::asking;
use super::output::{Format, json, or_dash, table};
use super::{Look, Verdict};
use crate::dataplane::view::{Hook, Told, View};
use crate::node::net::{Link, Netlink, PROTOCOL, Path, Route};
use crate::reconcile::desired::TUNNEL;

/// One path of a route.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    destination: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    device: String,
    source: Option<Ipv4Addr>,
    metric: u32,
    ours: bool,
    dead: bool,
    note: &'static str,
}

pub(super) fn show(look: &Look, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let view = look.view()?;
    let rows = asking(async || {
        let net = Netlink::open()?;
        let links = net.links().await?;
        let told = told(&view, &view.hooks(&net, &links).await?)?;
        Ok(rows(&net.routes().await?, &links, told.as_ref()))
    })?;
    print(&rows, look.output, out)?;
    Ok(Verdict::Fine)
}

/// What the live programs of the network were told, whichever of them answers.
pub(super) fn told(view: &View, hooks: &[Hook]) -> anyhow::Result<Option<Told>> {
    for hook in hooks {
        if hook.attached
            && let Some(told) = view.told(hook)?
        {
            return Ok(Some(told));
        }
    }
    Ok(None)
}

fn rows(routes: &[Route], links: &[Link], told: Option<&Told>) -> Vec<Row> {
    let names: BTreeMap<u32, &str> = links
        .iter()
        .map(|link| (link.index, link.name.as_str()))
        .collect();
    // Without a tunnel nobody says what the network is: then all of ours are shown.
    let concerns = |route: &Route| match told {
        Some(told) => told.network.contains(&route.destination),
        None => route.protocol == PROTOCOL,
    };
    let mut rows = Vec::new();
    for route in routes.iter().filter(|route| concerns(route)) {
        for path in &route.paths {
            rows.push(Row {
                destination: route.destination,
                gateway: path.gateway,
                device: names
                    .get(&path.index)
                    .map_or_else(|| format!("#{}", path.index), |name| (*name).to_owned()),
                source: route.source,
                metric: route.metric,
                ours: route.protocol == PROTOCOL,
                dead: path.dead,
                note: note(route, path, told),
            });
        }
    }
    rows.sort_by_key(|row| (row.destination, row.metric));
    rows
}

fn note(route: &Route, path: &Path, told: Option<&Told>) -> &'static str {
    if route.protocol == PROTOCOL {
        match path.gateway {
            Some(TUNNEL) | None => "a peer by the tunnel",
            Some(_) => "a peer on the same link",
        }
    } else if told.is_some_and(|told| told.subnet.contains(&route.destination)) {
        "pods of this node"
    } else {
        "not ours: takes these packets away from the overlay"
    }
}

fn print(rows: &[Row], format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(json(out, &rows)?);
    }
    let header = [
        "DESTINATION",
        "VIA",
        "DEVICE",
        "SOURCE",
        "METRIC",
        "STATE",
        "NOTE",
    ];
    let lines = rows.iter().map(|row| {
        [
            row.destination.to_string(),
            or_dash(row.gateway),
            row.device.clone(),
            or_dash(row.source),
            row.metric.to_string(),
            if row.dead { "dead" } else { "up" }.to_owned(),
            row.note.to_owned(),
        ]
    });
    Ok(table(out, header, &[4], lines)?)
}
