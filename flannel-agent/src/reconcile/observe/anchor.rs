//! The devices that stand for a VXLAN port.

use crate::dataplane::Bpf;
use crate::node::mark;
use crate::node::mark::is_anchor;
use crate::node::net::{Kind, Link, NetError, Netlink};
use crate::reconcile::actual::{AnchorState, Anchors};
use crate::reconcile::desired::Node;

pub(super) async fn anchors(
    net: &Netlink,
    bpf: &Bpf,
    node: &Node,
    links: &[Link],
) -> Result<Anchors, NetError> {
    let mut anchors = Anchors::default();
    let tags = tags(node, links);
    for link in links.iter().filter(|link| is_anchor(link)) {
        if node.anchor.as_ref().is_some_and(|a| a.name == link.name) {
            anchors.wanted = Some(state(link, links));
        } else if !bpf.is_shared(net, link, &tags).await? {
            anchors.needless.insert(link.name.clone());
        }
    }
    Ok(anchors)
}

fn state(anchor: &Link, links: &[Link]) -> AnchorState {
    let lower = match anchor.kind {
        Kind::Vxlan { lower, .. } => links.iter().find(|link| Some(link.index) == lower),
        _ => None,
    };
    AnchorState {
        is_whole: anchor.alias.is_some(),
        up: anchor.up,
        lower: lower.map(|link| link.name.clone()),
    }
}

/// Of this network's filters, those of an earlier configuration included.
fn tags(node: &Node, links: &[Link]) -> Vec<u32> {
    let alias = mark::alias(&node.network);
    let ours = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias.as_str()));
    let former = ours.filter_map(mark::vni_of);
    former.chain([node.tag, mark::tag(&node.network)]).collect()
}
