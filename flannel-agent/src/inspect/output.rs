//! Tables for people, JSON for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Writes a value as one line of JSON, so that repeated output stays readable line by line.
pub(super) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Rows that are written as they come, for tables that nobody wants to hold in memory.
pub(super) struct Rows<'a> {
    out: &'a mut dyn Write,
    format: Format,
}

impl<'a> Rows<'a> {
    /// Writes the heading, where there is one.
    pub(super) fn begin(out: &'a mut dyn Write, format: Format, heading: &str) -> io::Result<Self> {
        if format == Format::Table {
            writeln!(out, "{heading}")?;
        }
        Ok(Self { out, format })
    }

    pub(super) fn row<T: Serialize>(
        &mut self,
        row: &T,
        line: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(self.out, "{}", line(row)),
            Format::Json => json(self.out, row),
        }
    }
}

/// Aligned columns without lines; columns in `right` hold numbers.
pub(super) fn table<const N: usize>(
    out: &mut dyn Write,
    header: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A dash for what is not there.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines_below_a_heading_or_json_without() {
        for (format, want) in [(Format::Table, "NAME\n<a>\n"), (Format::Json, "\"a\"\n")] {
            let mut out = Vec::new();
            let mut rows = Rows::begin(&mut out, format, "NAME").unwrap();
            rows.row(&"a", |name| format!("<{name}>")).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut out = Vec::new();
        let rows = [
            ["a".to_owned(), "7".to_owned()],
            ["long".to_owned(), "1234".to_owned()],
        ];
        table(&mut out, ["NAME", "COUNT"], &[1], rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NAME  COUNT\na         7\nlong   1234\n");
    }
}
