//! Sizes of the tables of flows.

use super::ConfigError;

/// Every CPU hoards up to 128 free entries of an LRU map (kernels before 6.16, commit d4adf1c9ee77): a
/// small table evicts new flows while most of it is free.
const ENTRIES_MIN: u32 = 8_192;
/// 2^24 flows take about three gigabytes.
const ENTRIES_MAX: u32 = 1 << 24;

/// Size of a table of flows that `flag` gives.
pub(super) fn table_entries(
    flag: &'static str,
    entries: u32,
    fix: &'static str,
) -> Result<u32, ConfigError> {
    if (ENTRIES_MIN..=ENTRIES_MAX).contains(&entries) {
        return Ok(entries);
    }
    Err(ConfigError::new(
        flag,
        entries.to_string(),
        format!("not between {ENTRIES_MIN} and {ENTRIES_MAX}"),
        fix,
    ))
}
