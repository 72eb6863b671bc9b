//! Filters of ours where nothing of ours belongs.

use std::collections::BTreeSet;

use flannel_common::program::Program;

use super::DataplaneError;
use super::hooks;
use crate::actual::Stale;
use crate::desired::Node;
use crate::mark;
use crate::net::{Direction, Link, Netlink};

/// Filters of ours on hooks that are not wanted, say of an uplink or a VNI of yesterday. A filter has no pin to
/// find it by, so every interface is asked.
pub(super) async fn stray_filters(
    node: &Node,
    net: &Netlink,
    links: &[Link],
) -> Result<BTreeSet<Stale>, DataplaneError> {
    let alias = mark::alias(&node.network);
    let former = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()))
        .filter_map(mark::vni_of);
    let tags: BTreeSet<u32> = former.chain([node.tag, mark::tag(&node.network)]).collect();
    let mut strays = BTreeSet::new();
    for link in links {
        for direction in [Direction::Ingress, Direction::Egress] {
            for filter in net.filters(link.index, direction).await? {
                let is_of = |program, tag| hooks::is_filter_of(&filter, program, tag);
                let wanted = node.attachments.iter().any(|a| {
                    a.device == link.name && a.direction == direction && is_of(a.program, node.tag)
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
