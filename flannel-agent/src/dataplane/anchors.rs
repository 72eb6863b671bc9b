//! Whose programs are at the device that stands for a VXLAN port: networks with one port share it.

use aya::programs::{SchedClassifier, TcAttachType};
use flannel_common::program::Program;

use super::bpffs::Pins;
use super::chain::{self, Chain};
use super::hooks;
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
    let is_others = |id: u32| Some(id) != ours;
    let others = match SchedClassifier::query_tcx(&anchor.name, TcAttachType::Ingress) {
        Ok((_, on_hook)) => on_hook
            .iter()
            .any(|info| info.name_as_str() == Some(name) && is_others(info.id())),
        // The kernel has no tcx, and lists nothing; or it does not say whose a program is: then it may be a network's.
        Err(_) => Chain::of(&anchor.name, Direction::Ingress)
            .programs
            .into_iter()
            .any(is_others),
    };
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
