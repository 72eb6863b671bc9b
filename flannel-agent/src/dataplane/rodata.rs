//! What a live program was told: its `.rodata`.

use std::io;

use aya::maps::{MapData, MapInfo};

use super::batch::first_value;

/// The constants of a program that uses the maps `ids`, as bytes.
pub(super) fn constants(ids: &[u32]) -> io::Result<Option<Vec<u8>>> {
    for id in ids {
        let info = MapInfo::from_id(*id).map_err(io::Error::other)?;
        if info.name_as_str().is_some_and(|n| n.ends_with(".rodata")) {
            let map = MapData::from_id(*id).map_err(io::Error::other)?;
            return first_value(&map).map(Some);
        }
    }
    Ok(None)
}
