//! What stands between packets and ours on a hook of tcx.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Attachment;
use super::bpffs::Pins;
use super::chain::{Chain, tcx_program};
use super::strangers::Stranger;

/// The first program of somebody else's, ahead of `ours` or of what is put last, that may keep packets from what is behind
/// it. `index`: of the attachment's device.
pub(super) fn find(
    at: &Attachment,
    index: u32,
    ours: Option<u32>,
    pins: &Pins,
) -> Option<Stranger> {
    let chain = Chain::of(&at.device, at.direction);
    let pinned = OnceCell::new();
    // Not those of all devices: whoever looks at all hooks would open each pin for each of them.
    let is_ours = |id| {
        let pinned = pinned.get_or_init(|| programs(pins.links_of_all_at(index)));
        pinned.contains(&id)
    };
    let strangers = chain.ahead_of(ours).iter().copied();
    strangers
        .filter_map(|id| Stranger::of(id, is_ours))
        .find(Stranger::ends_chain)
}

/// The programs of all networks' pinned tcx links.
pub(super) fn pinned_programs(pins: &Pins) -> BTreeSet<u32> {
    programs(pins.links_of_all())
}

fn programs(links: Vec<PathBuf>) -> BTreeSet<u32> {
    let links = links.into_iter();
    links.filter_map(|path| tcx_program(&path)).collect()
}

/// Whoever put it there is to hear of it.
pub(super) fn name(stranger: &Stranger, at: &Attachment) {
    tracing::warn!(
        "the program {} at {} of {} ends the hook's chain (it may answer {}), and would hide packets from {}: ours goes \
         before it, and it sees what ours lets pass",
        stranger.with_owner(),
        at.direction,
        at.device,
        stranger.answer(),
        at.program.name(),
    );
}
