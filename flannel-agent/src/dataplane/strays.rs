//! Filters of ours where nothing of ours belongs.

use std::collections::BTreeSet;

use flannel_common::program::Program;

use super::hooks;
use super::{DataplaneError, Places};
use crate::dataplane::Stale;
use crate::node::mark;
use crate::node::net::{Direction, Link, Netlink};

/// Filters of ours on hooks that are not wanted, say of an uplink or a VNI of yesterday. A filter has no pin to
/// find it by, so every interface is asked.
pub(super) async fn stray_filters(
    places: &Places<'_>,
    net: &Netlink,
    links: &[Link],
) -> Result<BTreeSet<Stale>, DataplaneError> {
    let alias = mark::alias(places.network);
    let former = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()))
        .filter_map(mark::vni_of);
    let tags: BTreeSet<u32> = former
        .chain([places.tag, mark::tag(places.network)])
        .collect();
    let mut strays = BTreeSet::new();
    for link in links {
        for direction in [Direction::Ingress, Direction::Egress] {
            for filter in net.filters(link.index, direction).await? {
                let is_of = |program, tag| hooks::is_filter_of(&filter, program, tag);
                let wanted = places.attachments.iter().any(|a| {
                    a.device == link.name
                        && a.direction == direction
                        && is_of(a.program, places.tag)
                });
                let ours = tags
                    .iter()
                    .any(|tag| Program::ALL.into_iter().any(|program| is_of(program, *tag)));
                if ours && !wanted {
                    strays.insert(Stale::Filter {
                        device: link.name.clone(),
                        direction,
                        handle: filter.handle,
                    });
                }
            }
        }
    }
    Ok(strays)
}
