//! `stats`: what the programs counted, in the words of docs/reasons.md.

use std::io::Write;

use flannel_common::reason::Class;
use serde::Serialize;

use super::output::{Format, json, table};
use super::{Look, Verdict};
use crate::dataplane::view::Sums;

/// One counter.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    program: &'static str,
    reason: &'static str,
    class: &'static str,
    packets: u64,
    bytes: u64,
    meaning: &'static str,
    /// What to do about it.
    advice: &'static str,
}

pub(super) fn show(look: &Look, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    print(&rows(&look.view()?.stats()?), look.output, out)?;
    Ok(Verdict::Fine)
}

fn rows(sums: &Sums) -> Vec<Row> {
    let mut rows = Vec::new();
    for (program, reasons) in sums {
        for (reason, count) in reasons {
            rows.push(Row {
                program: program.name(),
                reason: reason.name(),
                class: class(reason.class()),
                packets: count.packets,
                bytes: count.bytes,
                meaning: reason.meaning(),
                advice: reason.advice(),
            });
        }
    }
    rows
}

pub(super) const fn class(class: Class) -> &'static str {
    match class {
        Class::Forward => "forward",
        Class::Pass => "pass",
        Class::Drop => "drop",
    }
}

fn print(rows: &[Row], format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(json(out, &rows)?);
    }
    let header = ["PROGRAM", "CLASS", "REASON", "PACKETS", "BYTES", "MEANING"];
    let lines = rows.iter().map(|row| {
        // Only for drops is it worth the width.
        let advice = match row.class {
            "drop" => format!("; {}", row.advice),
            _ => String::new(),
        };
        [
            row.program.to_owned(),
            row.class.to_owned(),
            row.reason.to_owned(),
            row.packets.to_string(),
            row.bytes.to_string(),
            format!("{}{advice}", row.meaning),
        ]
    });
    Ok(table(out, header, &[3, 4], lines)?)
}

#[cfg(test)]
mod tests {
    use flannel_common::program::Program;
    use flannel_common::reason::Reason;
    use flannel_common::stats::Count;

    use super::*;

    #[test]
    fn a_drop_says_what_to_do() {
        let count = Count {
            packets: 3,
            bytes: 180,
        };
        let reasons = [(Reason::Encap, count), (Reason::NoPeer, count)];
        let sums = [(Program::OverlayTx, reasons.into())].into();
        let mut out = Vec::new();
        print(&rows(&sums), Format::Table, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("overlay_tx  forward  encap"), "{text}");
        assert!(!lines[1].contains(Reason::Encap.advice()), "{text}");
        assert!(
            lines[2].contains("drop") && lines[2].contains(" 3 "),
            "{text}"
        );
        assert!(lines[2].ends_with(Reason::NoPeer.advice()), "{text}");
    }
}
