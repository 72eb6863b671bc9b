//! The table of floors, as ARCHITECTURE.md has it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// The heading above it.
const HEADING: &str = "## Floors";

/// Folder → floor.
#[derive(Debug, PartialEq)]
pub(super) struct Floors(BTreeMap<String, u32>);

impl Floors {
    /// A row is `| number | folders in backticks, with or without a slash | … |`.
    pub(super) fn parse(page: &str) -> Result<Self> {
        let section = page
            .split_once(HEADING)
            .with_context(|| format!("ARCHITECTURE.md has no heading {HEADING:?}"))?
            .1;
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'));
        let mut floors = BTreeMap::new();
        for row in rows {
            let mut cells = row.trim_matches('|').split('|').map(str::trim);
            let (Some(number), Some(folders)) = (cells.next(), cells.next()) else {
                continue;
            };
            let Ok(number) = number.parse() else {
                continue;
            };
            for folder in folders.split('`').skip(1).step_by(2) {
                let folder = folder.trim_end_matches('/').to_owned();
                let twice = floors.insert(folder.clone(), number).is_some();
                ensure!(
                    !twice,
                    "ARCHITECTURE.md: {folder} is on two floors: leave it on one"
                );
            }
        }
        ensure!(
            !floors.is_empty(),
            "ARCHITECTURE.md: no table of floors below {HEADING:?}"
        );
        Ok(Self(floors))
    }

    pub(super) fn of(&self, folder: &str) -> Option<u32> {
        self.0.get(folder).copied()
    }

    /// Folders that are not in the table, and rows without a folder.
    pub(super) fn unlike(&self, folders: &BTreeSet<String>) -> Vec<String> {
        let named: BTreeSet<_> = self.0.keys().cloned().collect();
        let missing = folders.difference(&named).map(|folder| {
            format!("{folder} is on no floor: give it a row in ARCHITECTURE.md's table")
        });
        let empty = named.difference(folders).map(|folder| {
            format!("ARCHITECTURE.md's floor {folder} does not exist: take it out of the table")
        });
        missing.chain(empty).collect()
    }
}
