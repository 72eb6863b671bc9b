//! Whose programs are at the device that stands for a VXLAN port: networks with one port share it.

use aya::programs::{SchedClassifier, TcAttachType};
use flannel_common::program::Program;

use super::bpffs::Pins;
use super::{chain, hooks};
use crate::node::net::{Direction, Link, NetError, Netlink};

/// Whether another network than the one with these pins and tags has a program there.
///
/// # Errors
/// If the kernel does not list filters.
pub(super) async fn is_shared(
    net: &Netlink,
    anchor: &Link,
    pins: &Pins,
    tags: &[u32],
) -> Result<bool, NetError> {
    let name = Program::AnchorRx.name();
    let pin = pins.link(&format!("{name}-{}", anchor.index));
    let ours = chain::tcx_program(&pin);
    // No answer: the kernel has no tcx.
    let on_hook = SchedClassifier::query_tcx(&anchor.name, TcAttachType::Ingress);
    let on_hook = on_hook.map(|(_, programs)| programs).unwrap_or_default();
    let others = on_hook
        .iter()
        .any(|info| info.name_as_str() == Some(name) && Some(info.id()) != ours);
    let filters = net.filters(anchor.index, Direction::Ingress).await?;
    let is_ours = |filter| {
        let is_of = |tag: &u32| hooks::is_filter_of(filter, Program::AnchorRx, *tag);
        tags.iter().any(is_of)
    };
    let mut filters = filters
        .iter()
        .filter(|f| hooks::is_of_any(f, Program::AnchorRx));
    Ok(others || filters.any(|filter| !is_ours(filter)))
}
