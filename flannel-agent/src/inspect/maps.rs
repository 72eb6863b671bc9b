//! `maps`: every map of the network, or what is in one.

use std::io::Write;

use clap::Args;
use clap::builder::PossibleValuesParser;
use flannel_common::maps::{EPOCH, FLOWS, PEERS, SNAT, STATS, VTEPS};
use serde::Serialize;

use super::flows::Flows;
use super::nat::Nat;
use super::output::{Format, json, table};
use super::{Look, Verdict, peers, stats};
use crate::dataplane::view::{MAPS, View, ViewError};

/// `maps …`
#[derive(Debug, Clone, Args)]
pub struct Maps {
    /// Show what is in this map
    #[arg(value_parser = PossibleValuesParser::new(MAPS))]
    pub name: Option<String>,
    #[command(flatten)]
    pub look: Look,
}

/// One map.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: String,
    pub(super) id: u32,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) entries: usize,
    pub(super) max_entries: u32,
    /// Full, in percent; arrays have no such thing.
    pub(super) fill_percent: Option<u32>,
}

impl Maps {
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let look = &self.look;
        match self.name.as_deref() {
            Some(PEERS) => return peers::show(look, out),
            Some(STATS) => return stats::show(look, out),
            Some(FLOWS) => {
                let all = Flows {
                    look: look.clone(),
                    pod: None,
                    live: false,
                };
                return all.show(out);
            }
            Some(SNAT) => {
                let all = Nat {
                    look: look.clone(),
                    pod: None,
                };
                return all.show(out);
            }
            Some(VTEPS) => vteps(&look.view()?, look.output, out)?,
            Some(EPOCH) => epoch(&look.view()?, look.output, out)?,
            _ => print(&rows(&look.view()?)?, look.output, out)?,
        }
        Ok(Verdict::Fine)
    }
}

/// The maps that are pinned.
pub(super) fn rows(view: &View) -> Result<Vec<Row>, ViewError> {
    let mut rows = Vec::new();
    for name in MAPS {
        let Some(facts) = view.facts(name)? else {
            continue;
        };
        let entries = view.entries(name)?;
        let is_array = matches!(name, EPOCH | STATS);
        rows.push(Row {
            name,
            kind: facts.kind,
            id: facts.id,
            key_bytes: facts.key_size,
            value_bytes: facts.value_size,
            entries,
            max_entries: facts.max_entries,
            fill_percent: (!is_array).then(|| percent(entries, facts.max_entries)),
        });
    }
    Ok(rows)
}

/// Rounded up: one entry is not "0 % full".
fn percent(entries: usize, max_entries: u32) -> u32 {
    let percent = (entries * 100).div_ceil((max_entries as usize).max(1));
    u32::try_from(percent).unwrap_or(u32::MAX)
}

fn print(rows: &[Row], format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(json(out, &rows)?);
    }
    let header = [
        "MAP", "KIND", "ID", "KEY", "VALUE", "ENTRIES", "ROOM", "FULL",
    ];
    let lines = rows.iter().map(|row| {
        [
            row.name.to_owned(),
            row.kind.clone(),
            row.id.to_string(),
            format!("{} B", row.key_bytes),
            format!("{} B", row.value_bytes),
            row.entries.to_string(),
            row.max_entries.to_string(),
            row.fill_percent
                .map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
        ]
    });
    Ok(table(out, header, &[2, 3, 4, 5, 6, 7], lines)?)
}

fn vteps(view: &View, format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    let vteps = view.vteps()?;
    if format == Format::Json {
        let rows: Vec<_> = vteps
            .iter()
            .map(|(ip, leases)| serde_json::json!({ "public_ip": ip, "leases": leases }))
            .collect();
        return Ok(json(out, &rows)?);
    }
    let lines = vteps
        .iter()
        .map(|(ip, leases)| [ip.to_string(), leases.to_string()]);
    Ok(table(out, ["NODE", "LEASES"], &[1], lines)?)
}

fn epoch(view: &View, format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    let epoch = view.epoch()?;
    match format {
        Format::Json => json(out, &serde_json::json!({ "epoch": epoch }))?,
        Format::Table => writeln!(out, "EPOCH\n{epoch}")?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_is_rounded_up() {
        assert_eq!(percent(0, 65_536), 0);
        assert_eq!(percent(1, 65_536), 1);
        assert_eq!(percent(65_536, 65_536), 100);
        assert_eq!(percent(0, 0), 0);
    }
}
